"""Running a whole workflow: one Metaflow process, one process per step, one log that is shown as it grows.

The step processes write to the run's own log and not through Metaflow's pipes, so they neither need the process
that started them nor die with it: whoever resumes the run finds out from the lock who is at work, and can follow.
"""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.errors import PenstockError
from flows import step_server
from flows.lock import BusyError, Holder, held, holder
from flows.progress import MARK
from flows.run import DONE, FAILED, Interrupted, Run
from flows.stopping import passed_on

RUN_VARIABLE = "PENSTOCK_RUN"


def run_step(*steps: str) -> None:
    """What each step of a FlowSpec calls: do that step (or those) of the run that the environment names."""
    if RUN_VARIABLE not in os.environ:
        raise PenstockError(f"{RUN_VARIABLE} is not set. Start a workflow by `penstock run DOMAIN`.")
    step_server.asked(steps, do_steps)


def do_steps(steps: Sequence[str]) -> None:
    """Do steps of the run that the environment names, in this process; what they print goes to the run's log."""
    run = Run(Path(os.environ[RUN_VARIABLE]))
    with output_to(run.log_file):
        for step in steps:
            if step not in run.left_out():
                run.execute(step, waiting_message)


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Standard output and error of this process, C libraries and children included, go to the end of a file."""
    before = (os.dup(1), os.dup(2))
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(before, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(log)


def drive(run: Run, wait: bool = True) -> None:
    """Run all unfinished steps of a run as a workflow, showing its log.

    Raises:
        BusyError: somebody works on this run, and `wait` is False.
        PenstockError: a step failed for a reason that the user can mend.
        StepFailed: a step failed otherwise.
        Interrupted: SIGTERM came; it was passed on to the step at work, which has saved what it had.
    """
    with shown_log(run):
        _wait_for_others(run, wait)
        with held(run.path / "workflow.lock", "workflow") as lock, passed_on(run.path / "lock") as asked:
            if run.state() == DONE:
                return
            before = {name: record.attempts for name, record in run.steps().items()}
            code = _start_metaflow(run, lock)
            untouched = before == {name: record.attempts for name, record in run.steps().items()}
            if code and untouched and _origin(run) is not None and not asked.is_set():
                # Metaflow could not resume its own run (killed before its first record, or its store was
                # removed). Our records decide what is left to do, so a fresh one does as well.
                _id_file(run).unlink()
                code = _start_metaflow(run, lock)
    if asked.is_set() and run.state() != DONE:
        raise Interrupted(f"stopped by SIGTERM. `penstock resume {run.name}` goes on from there.")
    _report_failure(run, code)


class StepFailed(Exception):
    """A step ended by a fault of ours, or was killed."""


def _report_failure(run: Run, code: int) -> None:
    for step, record in run.steps().items():
        if record.state == FAILED:
            if record.user_error:
                raise PenstockError(f"{step}: {record.error}")
            raise StepFailed(f"{step} failed: {record.error}. The traceback is in {run.log_file}.")
    left = [name for name, record in run.steps().items() if record.state != DONE]
    if left:
        raise StepFailed(
            f"{left[0]} was cut off (workflow exit code {code}). `penstock resume {run.name}` goes on from there. "
            f"Logs: {run.log_file}, {run.path / 'metaflow.log'}."
        )


def _wait_for_others(run: Run, wait: bool) -> None:
    for name in ("workflow.lock", "lock"):
        other = holder(run.path / name)
        if other is not None and not wait:
            raise BusyError(f"{run.name} is being worked on by {other}. Without --no-wait, resume waits for its end.")
        if other is not None:
            print(f"{run.name} is being worked on by {other}; waiting for its end (Ctrl-C leaves it alone)", flush=True)
        while holder(run.path / name) is not None:
            time.sleep(0.2)


def _start_metaflow(run: Run, lock: int) -> int:
    origin = _origin(run)
    arguments = ["resume", "--origin-run-id", origin] if origin else ["run"]
    command = [sys.executable, str(_flow_file(run.domain_name)), "--no-pylint", "--quiet", *arguments]
    command += ["--run-id-file", str(_id_file(run))]
    with (
        step_server.served(environment(run), run.domain_name) as found,
        (run.path / "metaflow.log").open("a") as log,
    ):
        # The lock goes along: while Metaflow's process lives, with or without us, the workflow is driven.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=found, pass_fds=[lock]
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has sent Ctrl-C to all of us; a training step now saves its state.
            _wait_briefly(process, run)
            raise


def _wait_briefly(process: subprocess.Popen[bytes], run: Run, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and (process.poll() is None or holder(run.path / "lock") is not None):
        time.sleep(0.1)


def _flow_file(domain: str) -> Path:
    spec = importlib.util.find_spec(f"flows.{domain}")
    if spec is None or spec.origin is None:
        raise PenstockError(f"the domain '{domain}' has no workflow: flows/{domain}.py is missing.")
    return Path(spec.origin)


def _id_file(run: Run) -> Path:
    return run.path / ".metaflow-run-id"


def _origin(run: Run) -> str | None:
    """Metaflow's id of this run's last workflow, if its store still knows it."""
    if not _id_file(run).is_file():
        return None
    found = _id_file(run).read_text().strip()
    flows = (run.runs_dir / ".metaflow").glob(f"*/{found}") if found else iter(())
    return found if any(flows) else None


def environment(run: Run) -> dict[str, str]:
    """What the workflow's processes see: this run, these packages, no telemetry, no service, no user profile."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    store = run.runs_dir / ".metaflow"
    store.mkdir(parents=True, exist_ok=True)
    return os.environ | {
        RUN_VARIABLE: str(run.path),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path)),
        "PYTHONSAFEPATH": "1",  # else flows/ itself would come first on sys.path, and `run`, `lock` be modules there
        "METAFLOW_USER": "penstock",
        "METAFLOW_HOME": str(store),
        "METAFLOW_PROFILE": "",
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(run.runs_dir),
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
        "METAFLOW_DEFAULT_MONITOR": "nullSidecarMonitor",
        "METAFLOW_DEFAULT_EVENT_LOGGER": "nullSidecarLogger",
    }


@contextmanager
def shown_log(run: Run) -> Iterator[None]:
    """Show what the run's log gains while the block runs."""
    run.log_file.touch()
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(run.log_file, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _follow(path: Path, stop: threading.Event) -> None:
    with path.open("r", encoding="utf-8", errors="replace") as log:
        log.seek(0, os.SEEK_END)
        rest, in_place = "", False
        while True:
            last = stop.is_set()
            *lines, rest = (rest + log.read()).split("\n")
            in_place = _show(lines, in_place)
            if last:
                break
            stop.wait(0.2)
    if in_place:
        print(flush=True)


def _show(lines: Sequence[str], in_place: bool) -> bool:
    """Print lines; on a terminal a line of progress replaces the one before it. True if the cursor is left in one."""
    terminal = sys.stdout.isatty()
    for line in lines:
        if terminal and line.startswith(MARK):
            print(f"\r\x1b[K{line}", end="", flush=True)
            in_place = True
        else:
            print(("\n" if in_place else "") + line, flush=True)
            in_place = False
    return in_place


def waiting_message(other: Holder) -> None:
    """Says who is waited for."""
    print(f"waiting for {other}", flush=True)
