"""Engines in actors of a Ray cluster. The server itself imports no Ray: a process of its own is connected to it."""
