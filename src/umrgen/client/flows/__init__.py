"""The waiting rules, each a generator without a clock or a socket (see `umrgen.client.flow`)."""
