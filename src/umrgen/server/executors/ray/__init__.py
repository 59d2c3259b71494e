"""Engines in actors of a Ray cluster. The server itself imports no Ray: a separate process is connected to it."""
