"""Values only: one YAML per experiment and preset, and the typed schema that checks them."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # see data/__init__.py
