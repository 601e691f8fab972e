"""The house stands: layers, style and start-up are kept by tests, not by good intentions."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "lightning", "wandb", "metaflow", "trimesh", "h5py", "numpy", "jsonargparse"}
PACKAGES = ("cluster", "flows", "configs", "modules", "data")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def tool(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed beside this Python; `pip install 'penstock[dev]'`")
    return str(path)


def test_layer_contracts_hold():
    result = run(tool("lint-imports"))
    assert result.returncode == 0, result.stdout


def test_a_forbidden_import_is_refused(tmp_path):
    """The contract can fail: a module of data/ that reaches up into modules/ breaks it."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "data" / "intruder.py").write_text("import modules.layers.random\n")
    result = subprocess.run([tool("lint-imports")], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode != 0
    assert "data.intruder" in result.stdout


@pytest.mark.parametrize("package", ["wandb", "h5py", "trimesh", "metaflow", "ray", "optuna", "pickle"])
def test_third_party_placement_is_told_with_a_sentence(package):
    """ruff refuses each of them in modules/, and says what to do instead."""
    result = subprocess.run(
        [tool("ruff"), "check", "--stdin-filename", "modules/intruder.py", "-"],
        input=f"import {package}\n\nprint({package})\n", cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert "TID251" in result.stdout
    assert result.returncode == 1


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["doctor", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    """`penstock --help` answers at once because torch and its kin are imported late."""
    probe = (
        "import sys\nfrom cluster.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = run(sys.executable, "-c", probe)
    assert result.returncode == 0, result.stderr
    assert "usage: penstock" in result.stdout


def test_nothing_loads_pickles():
    """No `torch.load` without `weights_only=True`, no unsafe YAML, no pickled arrays, anywhere in the packages."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            for call in re.finditer(r"(?<!\.)torch\.load\(([^()]|\([^()]*\))*\)", text):
                assert "weights_only=True" in call.group(), f"{path}: {call.group()}"
            assert "yaml.load(" not in text or "SafeLoader" in text, path
            assert "allow_pickle=True" not in text, path


@pytest.mark.slow
def test_wheel_installs_and_answers(tmp_path):
    """A wheel holds all packages and presets, and its console script answers from another folder."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("penstock-*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    # The dependencies come from the environment that runs the tests; the packages must come from the wheel.
    site = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (pth,) = [next((venv / "lib").glob("python*/site-packages")) / "dependencies.pth"]
    pth.write_text(f"{site}\n")
    help_text = subprocess.run([venv / "bin" / "penstock", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert help_text.returncode == 0, help_text.stderr
    assert "resume" in help_text.stdout
    where = "import configs, cluster.cli as c; print(c.__file__); print(sorted(configs.__path__)[0])"
    origin = subprocess.run([venv / "bin" / "python", "-c", where], cwd=tmp_path, capture_output=True, text=True).stdout
    assert str(venv) in origin
    shown = subprocess.run(
        [venv / "bin" / "penstock", "run", "shape", "--preset", "demo", "--print-config"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
