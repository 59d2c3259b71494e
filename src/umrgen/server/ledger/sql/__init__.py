"""What every SQL database shares: the stores' rules, their statements, and the writer with group commit."""
