"""What is learnt: tables, charts and the report, from the ledger alone."""
