"""What a job brings along: the code, whatever lies beside it."""

import subprocess
from pathlib import Path

import pytest

from cluster.jobs import packing
from data.errors import PenstockError

REPOSITORY = Path(__file__).resolve().parents[2]


def write(root: Path, *names: str, size: int = 4) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with the packages, and with what lies around in one."""
    root = tmp_path / "checkout"
    write(root, "cluster/cli.py", "flows/run.py", "configs/load.py", "modules/__init__.py", "data/store.py", "gone.py")
    (root / ".gitignore").write_text(".venv/\nresults/\n*.h5\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    (root / "gone.py").unlink()
    write(
        root, "new/domain.py", "data/train.h5", ".venv/lib/torch.py", "results/a/status.json", "my runs/a/status.json"
    )
    (root / "link.py").symlink_to(root / "new" / "domain.py")
    return root


def test_what_git_knows_or_would_take_and_nothing_else(checkout: Path) -> None:
    found = packing.gathered(checkout, checkout / "my runs")
    code = ["cluster/cli.py", "configs/load.py", "data/store.py", "flows/run.py", "modules/__init__.py"]
    assert [str(name) for name in found] == sorted([*code, "link.py", "new/domain.py"])


def test_a_copy_that_ray_will_not_thin_out(checkout: Path) -> None:
    write(checkout, "large/notes.txt")
    (checkout / ".rayignore").write_text("large/\n")
    with packing.packed(checkout, checkout / "my runs", most=1) as folder:
        assert not [name for name in packing.IGNORED_BY_RAY if list(folder.rglob(name))]
        assert not (folder / "large").exists()
        assert (folder / "link.py").read_bytes() == b"xxxx"
        assert not (folder / "link.py").is_symlink()
        assert not (folder / ".git").exists()
    assert not folder.exists()


def test_too_large_names_the_largest_and_what_to_do(checkout: Path) -> None:
    write(checkout, "films/big.avi", size=3 * 2**20)
    write(checkout, "films/small.avi", size=2**20)
    with pytest.raises(PenstockError) as raised, packing.packed(checkout, checkout / "my runs", most=2):
        raise AssertionError("nothing is packed")
    message = str(raised.value)
    assert message.index("films/big.avi (3.0 MiB)") < message.index("films/small.avi (1.0 MiB)")
    for part in ("has 4 MiB, more than 2", ".gitignore", "--max-size", "--data /shared"):
        assert part in message


def test_a_folder_without_our_code_gets_it(tmp_path: Path) -> None:
    write(tmp_path, "mine/settings.yaml", "mine/.hidden/key", "mine/env/lib.py", "mine/runs/a/status.json")
    write(tmp_path, "mine/env/pyvenv.cfg")
    found = packing.gathered(tmp_path / "mine", tmp_path / "elsewhere")
    assert Path("cluster/cli.py") in found
    assert [str(name) for name in found if name.parts[0] not in packing.CODE] == ["settings.yaml"]
    assert not [name for name in found if "__pycache__" in name.parts]
    write(tmp_path, "mine/data/table.csv")
    with pytest.raises(PenstockError, match="'data' of its own"):
        packing.gathered(tmp_path / "mine", tmp_path / "elsewhere")


def test_this_checkout_is_small_and_whole(tmp_path: Path) -> None:
    found = packing.gathered(None, tmp_path)
    assert {Path("cluster/cli.py"), Path("pyproject.toml"), Path("configs/shape/demo.yaml")} <= set(found)
    assert not [name for name in found if name.parts[0] in (".git", ".venv", "runs")]
    assert sum(file.stat().st_size for file in found.values()) < 20 * 2**20


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match="there is no folder"):
        packing.gathered(tmp_path / "nowhere", tmp_path)


def test_modes_are_kept(tmp_path: Path) -> None:
    write(tmp_path, "mine/tool.sh")
    (tmp_path / "mine" / "tool.sh").chmod(0o750)
    with packing.packed(tmp_path / "mine", tmp_path / "elsewhere", most=100) as folder:
        assert (folder / "tool.sh").stat().st_mode & 0o777 == 0o750
