"""The client's waiting rules, as generators that do no I/O (see `umrgen.client.flow`)."""
