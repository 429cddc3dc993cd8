"""The privacy budget: the ledger of an institution, and its accounts in the log."""
