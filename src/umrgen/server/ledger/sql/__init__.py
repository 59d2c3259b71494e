"""The parts that all SQL databases share: the stores' rules, their statements, and the writer with group commit."""
