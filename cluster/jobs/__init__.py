"""Any command as a job of a Ray cluster (Ray Jobs)."""
