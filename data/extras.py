"""Packages that only one domain needs: imported where they are used, with an error that names the extra."""

import importlib
from types import ModuleType

from data.errors import PenstockError


def require(module: str, extra: str) -> ModuleType:
    """The module `module`, which the optional dependencies `penstock[extra]` bring.

    Raises:
        PenstockError: its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is there, but something that it needs is not: its own message says more
        raise PenstockError(
            f"expected the package '{module.split('.')[0]}', which is not installed. "
            f"Install what this domain needs: pip install 'penstock[{extra}]'"
        ) from error
