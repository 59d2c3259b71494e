"""The ledger on PostgreSQL, which any number of servers share."""
