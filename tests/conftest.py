"""What all tests share: the folder of golden numbers, and shape checks on every annotated call."""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Annotated shapes and types are checked in tests only; in production a check would cost more than a small call itself.
install_import_hook(
    [
        "modules.forecast",
        "modules.geometry",
        "modules.layers",
        "modules.protein",
        "modules.shape",
        "modules.transport",
        "modules.turbulence",
    ],
    "beartype.beartype",
)

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        type=Path,
        default=REPOSITORY.parent / "shared" / "golden",
        metavar="DIR",
        help="numbers of the published implementations, one folder per domain (default: ../shared/golden)",
    )


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights that a test does not seed itself are the same in every run of it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def datasets(request: pytest.FixtureRequest) -> Path:
    """The folder of real data: beside the golden numbers, or beside this repository; tests skip what it lacks."""
    beside: Path = request.config.getoption("--golden").resolve().parent / "datasets"
    return beside if beside.is_dir() else REPOSITORY.parent / "shared" / "datasets"


@pytest.fixture(scope="session")
def golden(request: pytest.FixtureRequest) -> Path:
    """The folder of golden numbers, one folder per domain; its absence skips the test."""
    folder: Path = request.config.getoption("--golden")
    if not folder.is_dir():
        pytest.skip(f"no golden numbers at {folder}; hand over their folder with --golden DIR")
    return folder
