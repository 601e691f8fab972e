"""Writers of the files that other programs read: meshes, backbones, fields, forecasts."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # see data/__init__.py
