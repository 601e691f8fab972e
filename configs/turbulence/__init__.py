"""The configuration of the turbulence domain."""
