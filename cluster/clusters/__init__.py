"""Ray clusters: one on this machine, and ready files for others."""
