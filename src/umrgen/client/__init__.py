"""The client: the flows' rules, the drivers that run them, and the public `Client` and `AsyncClient`."""
