"""The configuration of the shape domain."""
