"""The workflow of the turbulence domain."""
