"""Services: the use cases of the server, on values. They know neither HTTP nor SQL."""
