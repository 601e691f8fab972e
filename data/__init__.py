"""Everything that touches a disk: schema, store, typed batches, data module, checkpoints, readers and writers."""

from pkgutil import extend_path

# A domain may live outside this repository: a folder laid out like this one (data/, modules/, configs/,
# flows/), anywhere on the import path, adds its files to these packages (docs/new-domain.md).
__path__ = extend_path(__path__, __name__)
