"""The ledger on SQLite: in one file, or in memory."""
