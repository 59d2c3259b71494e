"""Random histories of servers and networks, played against the client's flows in simulated time."""
