"""Which job runs when, and one attempt to run it."""
