"""The steps of the turbulence domain."""
