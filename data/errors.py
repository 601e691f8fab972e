"""What the command line turns into one clear message and exit code 2."""


class PenstockError(ValueError):
    """A mistake in what the user handed in: says what was expected, what came, and what to do."""


class SchemaError(PenstockError):
    """A stored file that does not follow its schema."""


class ConfigError(PenstockError):
    """A configuration key or value that is not understood."""


class MeshError(PenstockError):
    """A mesh that cannot be used; the message is the reason listed with the refused object."""


class CheckpointError(PenstockError):
    """A checkpoint or an exported model that is broken, missing, or not of the expected form."""


class StructureError(PenstockError):
    """A protein structure that cannot be used; the message is the reason listed with the refused file or chain."""
