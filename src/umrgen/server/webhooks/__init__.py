"""Webhooks: what is sent, to whom it may go, and how it is signed and retried."""
