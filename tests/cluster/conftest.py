"""The same runs and commands as the tests of the workflows."""

from importlib import util
from pathlib import Path

_spec = util.spec_from_file_location("flows_conftest", Path(__file__).parent.parent / "flows" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

penstock, runs, toy_on_path = _module.penstock, _module.runs, _module.toy_on_path
