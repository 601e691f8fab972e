"""The jobs of a Ray cluster, asked for over its dashboard."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.clusters import local
from cluster.on_ray.connection import ray
from data.errors import PenstockError

ADDRESS = "RAY_API_SERVER_ADDRESS"
COMMAND = "penstock"
"""Under this name the command is kept with the job."""
REACH_SECONDS = 5.0
CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Job:
    """What is known of a job."""

    name: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    command: str
    started: float | None
    """Seconds since 1970."""
    ended_at: float | None
    exit_code: int | None
    message: str

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def code(self) -> int:
        """The exit code of the command, 130 where it was stopped, 1 where it never ran."""
        if self.status == "STOPPED":
            return 130
        if self.exit_code is None:
            return 0 if self.status == "SUCCEEDED" else 1
        return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code


def dashboard(address: str | None, token_file: Path | None) -> tuple[str, Path | None]:
    """URL of the cluster's dashboard, and the file with its token: as asked for, else RAY_API_SERVER_ADDRESS, else the
    cluster of this machine.

    Raises:
        PenstockError: there is no such cluster, or no such file.
    """
    there = local.find()
    url = address or os.environ.get(ADDRESS) or (there.dashboard if there is not None else None)
    if not url:
        raise PenstockError(
            f"which cluster? Give --address http://HOST:8265 (or set {ADDRESS}), or start one on this machine: "
            "`penstock cluster up`."
        )
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    if token_file is None and os.environ.get("RAY_AUTH_TOKEN_PATH"):
        token_file = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    if token_file is None and there is not None and there.token_file and url == there.dashboard:
        token_file = Path(there.token_file)
    if token_file is not None and not token_file.is_file():
        raise PenstockError(f"there is no token file {token_file}: copy the cluster's token there, or name another.")
    return url, token_file


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, client: Any, url: str) -> None:
        self._client, self.url = client, url

    @classmethod
    def at(cls, url: str, token_file: Path | None) -> "Jobs":
        """Of the cluster with its dashboard at `url`.

        Raises:
            PenstockError: nobody answers there, or the token is missing or wrong.
        """
        ray()
        from ray.job_submission import JobSubmissionClient

        for part in CHATTY:
            logging.getLogger(part).setLevel(logging.WARNING)
        _check_reach(url)
        headers = {"Authorization": f"Bearer {token_file.read_text().strip()}"} if token_file is not None else None
        with _said(url), _without(ADDRESS, "RAY_ADDRESS"):  # these would go over what was asked for
            return cls(JobSubmissionClient(url, headers=headers), url)

    def submit(self, **what: Any) -> str:
        """Submit a job (`JobSubmissionClient.submit_job`); its name."""
        with _said(self.url):
            return str(self._client.submit_job(**what))

    def all(self) -> list[Job]:
        """Every job that was submitted, the oldest first. What merely connected to the cluster is none."""
        with _said(self.url):
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or time.time())

    def get(self, name: str) -> Job:
        """The job of that name. Raises PenstockError where there is none."""
        with _said(self.url, name):
            return _job(self._client.get_job_info(name))

    def stop(self, name: str) -> None:
        """Ask a job to end; it has some time to save what it is at."""
        with _said(self.url, name):
            self._client.stop_job(name)

    def log(self, name: str) -> str:
        """What a job has printed."""
        with _said(self.url, name):
            return str(self._client.get_job_logs(name))

    def followed(self, name: str) -> Iterator[str]:
        """What a job prints, from its beginning, as it comes, until it ends; a lost connection is taken up again."""
        seen = 0
        while True:
            skip = seen
            try:
                for text in _each(self._client.tail_job_logs(name)):
                    new = text[skip:] if skip < len(text) else ""
                    skip = max(0, skip - len(text))
                    seen += len(new)
                    if new:
                        yield new
            except (RuntimeError, OSError):
                self.get(name)  # raises where the cluster is gone
            if self.get(name).ended:
                rest = self.log(name)[seen:]
                if rest:
                    yield rest
                return
            time.sleep(0.5)

    def alive_nodes(self) -> int:
        """How many nodes the cluster has now."""
        with _said(self.url):
            answer = self._client._do_request("GET", "/api/v0/nodes?limit=10000")
            answer.raise_for_status()
            nodes = answer.json()["data"]["result"]["result"]
        return sum(node["state"] == "ALIVE" for node in nodes)


def _job(details: Any) -> Job:
    return Job(
        name=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        command=(details.metadata or {}).get(COMMAND) or details.entrypoint,
        started=details.start_time / 1000 if details.start_time else None,
        ended_at=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        message=details.message or "",
    )


def _each(stream: Any) -> Iterator[str]:
    """An asynchronous stream as an ordinary one."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(stream))
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(stream.aclose())
        loop.close()


def _check_reach(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PenstockError(f"--address expects the URL of a dashboard like http://127.0.0.1:8265, got '{url}'.")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise PenstockError(
            f"nobody answers at {url} ({error}). Is the cluster up? Its dashboard mostly listens on the head's own "
            f"127.0.0.1:8265: from elsewhere `ssh -N -L 8265:127.0.0.1:8265 HEAD`, then --address "
            "http://127.0.0.1:8265."
        ) from None


@contextmanager
def _said(url: str, job: str | None = None) -> Iterator[None]:
    """What goes wrong between us and the cluster, as one message."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    try:
        yield
    except AuthenticationError:
        raise PenstockError(
            f"the cluster at {url} asks for a token, and ours is missing or another one. Copy the head's token to a "
            "file that only you can read, and name it by --token-file FILE (or RAY_AUTH_TOKEN_PATH)."
        ) from None
    except (RequestException, ConnectionError) as error:
        raise PenstockError(f"the cluster at {url} does not answer: {error}") from None
    except RuntimeError as error:
        if job is not None and ("404" in str(error) or "does not exist" in str(error)):
            raise PenstockError(f"there is no job '{job}' at {url}. `penstock jobs list` shows them.") from None
        raise PenstockError(f"the cluster at {url} refused: {_last_line(str(error))}") from None


def _last_line(text: str) -> str:
    """Of a server's traceback, the sentence that matters."""
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines() if line.strip(" \"'}.")]
    return lines[-1][:500] if lines else "no word of why"


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """The environment without some variables."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        with suppress(KeyError):
            os.environ.update(before)
