"""The dispatcher, which claims jobs, and the attempts that run them."""
