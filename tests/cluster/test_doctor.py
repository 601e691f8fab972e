"""What `penstock doctor` says of Ray: settings and ports as they are, without starting Ray."""

import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import doctor
from cluster.clusters import local


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a cluster, a token, or settings of Ray."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TRAIN_V2_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def _found(what: str) -> doctor.Finding:
    (finding,) = [finding for finding in doctor._ray() if finding.what == what]
    return finding


def test_nothing_set_is_nothing_wrong() -> None:
    assert {finding.state for finding in doctor._ray() if finding.what != "/dev/shm"} == {"ok"}
    assert "none set" in _found("Ray cluster").found


def test_a_cluster_that_answers_and_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert _found("Ray cluster") == doctor.Finding("Ray cluster", "ok", f"{address} (of RAY_ADDRESS) answers")
    assert _found("Ray cluster").state == "missing"
    assert f"nobody answers at {address}" in _found("Ray cluster").found
    monkeypatch.setenv("RAY_ADDRESS", "http://head:dashboard")
    assert "is not HOST:PORT" in _found("Ray cluster").found


def test_the_token_is_looked_for_where_ray_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert (_found("Ray token").state, "there is no file" in _found("Ray token").found) == ("missing", True)
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("secret")
    file.chmod(0o644)  # as `ray get-auth-token --generate` leaves it
    assert (_found("Ray token").state, f"chmod 600 {file}" in _found("Ray token").found) == ("note", True)
    file.chmod(0o600)
    assert _found("Ray token").state == "ok"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "elsewhere"))
    assert "elsewhere" in _found("Ray token").found
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert _found("Ray token").state == "ok"
    assert all("secret" not in finding.found for finding in doctor._ray())


def test_shared_memory_too_small_for_rays_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/tmp")._replace(total=64 * 2**20)  # what docker gives where nothing else is said
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert (_found("/dev/shm").state, "--shm-size" in _found("/dev/shm").found) == ("note", True)


def test_the_old_interface_of_ray_train_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "0")
    assert _found("Ray Train").state == "missing"


def test_the_cluster_of_this_machine_and_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = local.LocalCluster(
            name="c",
            address=f"127.0.0.1:{server.getsockname()[1]}",
            dashboard="http://127.0.0.1:8265",
            nodes=1,
            cpus=1,
            gpus=0,
            token_file="/somewhere/token",
            runs="runs",
            temporary="/tmp/x",
            started=time.time(),
        )
        monkeypatch.setattr(doctor, "find", lambda: here)
        assert "of `penstock cluster up`) answers" in _found("Ray cluster").found
        assert _found("Ray token") == doctor.Finding("Ray token", "ok", "in /somewhere/token")
        monkeypatch.setattr(doctor, "find", lambda: replace(here, token_file=None))
        assert "runs code" in _found("Ray token").found


def test_ray_is_not_imported_for_it() -> None:
    code = "import sys; from cluster import doctor; doctor._ray(); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
