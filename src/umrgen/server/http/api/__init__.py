"""The UMRGEN API, version 1."""
