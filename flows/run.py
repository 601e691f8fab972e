"""A run: one directory that holds all that was made, what made it, and how far it is."""

import json
import secrets
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from configs import load
from data.atomic import SUFFIX, is_disk_full, written_file
from data.errors import PenstockError
from flows import provenance
from flows.domain import Domain, load_domain
from flows.executor import executor_for
from flows.lock import Holder, held, holder
from flows.stopping import like_ctrl_c

DONE, RUNNING, FAILED, PENDING = "done", "running", "failed", "pending"
SWEEP = "sweep.yaml"
"""What a folder of trials is known by: RUNS/SWEEP/sweep.yaml, the trials in RUNS/SWEEP/trials/."""


class Interrupted(Exception):
    """The process was asked to end (SIGTERM, Ctrl-C) and has saved what it had."""


@dataclass(frozen=True)
class StepRecord:
    """How far one step is."""

    state: str = PENDING
    attempts: int = 0
    started: float | None = None
    """Start of the last attempt, seconds since 1970."""
    seconds: float = 0.0
    """Time spent, all attempts that ended in an orderly way together."""
    error: str | None = None
    user_error: bool = False
    """True where the error is the user's to mend (a message), False for a fault of ours (a traceback in the log)."""
    origin: str | None = None
    """Where the result comes from if the step did not make it (an import)."""


class Run:
    """A run directory. Opening one reads nothing but the file `status.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        if not (self.path / "status.json").is_file():
            state = "there is no such directory" if not path.exists() else "it has no status.json"
            raise PenstockError(
                f"{path} is not a run directory: {state}. `penstock runs list` shows the runs; "
                "`penstock run DOMAIN` starts one."
            )

    def __reduce__(self) -> tuple[type["Run"], tuple[Path]]:
        return Run, (self.path,)

    # ------------------------------------------------------------------------------------------ where things are

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def sweep(self) -> Path | None:
        """The folder of the sweep of which this run is a trial."""
        folder = self.path.parent.parent
        return folder if (folder / SWEEP).is_file() else None

    @property
    def runs_dir(self) -> Path:
        """Where runs live, prepared data beside them; the trials of a sweep share those of the runs around it."""
        return self.path.parent if self.sweep is None else self.sweep.parent

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.csv"

    def checkpoints(self, stage: str) -> Path:
        return self.path / "checkpoints" / stage

    def model(self, stage: str) -> Path:
        """Folder of the exported form of a trained network."""
        return self.path / "models" / stage

    @property
    def samples(self) -> Path:
        """The folder of what was drawn, made on first use."""
        return self._folder("samples")

    @property
    def exports(self) -> Path:
        """The folder of files for other programs, made on first use."""
        return self._folder("exports")

    def _folder(self, name: str) -> Path:
        (self.path / name).mkdir(exist_ok=True)
        return self.path / name

    @contextmanager
    def prepared(self, key: str) -> Iterator[Path]:
        """The folder `<runs>/prepared/<domain>-<key>` that runs with the same inputs share, locked meanwhile."""
        folder = self.runs_dir / "prepared" / f"{self.domain_name}-{key}"
        folder.mkdir(parents=True, exist_ok=True)

        def say(other: Holder) -> None:
            print(f"waiting for {other}, which prepares the same data", flush=True)

        with held(folder / "lock", f"prepare for {self.name}", say):
            yield folder

    # ---------------------------------------------------------------------------------------------- what it is

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return self.status()

    @property
    def domain_name(self) -> str:
        return str(self._identity["domain"])

    @property
    def preset(self) -> str:
        return str(self._identity["preset"])

    @property
    def created(self) -> float:
        return float(self._identity["created"])

    @cached_property
    def domain(self) -> Domain:
        return load_domain(self.domain_name)

    @cached_property
    def config(self) -> Any:
        return load.read_saved(self.domain.config, self.path / "config.yaml")

    def provenance(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "provenance.json").read_text())
        return found

    def add_provenance(self, **facts: Any) -> None:
        """Record what became known on the way, the data's fingerprint above all."""
        write_json(self.path / "provenance.json", self.provenance() | facts)

    def record_data(self, file: Path, fingerprint: str, **facts: Any) -> None:
        """Record what this run works on: a file of prepared data beside the runs, and its content's fingerprint."""
        place = str(file.resolve().relative_to(self.runs_dir))
        self.add_provenance(data={"file": place, "fingerprint": fingerprint, **facts})

    @property
    def data_file(self) -> Path:
        """The prepared data of this run. Raises PenstockError before it is prepared, or when it was removed."""
        place = self.provenance().get("data", {}).get("file")
        if place is None or not (self.runs_dir / place).is_file():
            missing = "nothing is prepared yet" if place is None else f"{self.runs_dir / place} is gone"
            raise PenstockError(f"{self.name} has no data: {missing}. `penstock prepare` makes it.")
        return self.runs_dir / str(place)

    def configure(self, overrides: Mapping[str, str]) -> None:
        """Change settings of an existing run, by dotted keys, and save them."""
        config = load.resolve(self.domain.config, [load.override_layer(overrides)], default=self.config)
        with written_file(self.path / "config.yaml") as temporary:
            temporary.write_text(load.to_yaml(config))
        self.config = config

    # ------------------------------------------------------------------------------------------------ how far it is

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.path / "status.json").read_text())
        except (OSError, ValueError) as error:
            raise PenstockError(
                f"{self.path / 'status.json'} cannot be read ({error}); is this a run directory?"
            ) from None
        if not isinstance(found, dict) or not {"domain", "preset", "created", "steps"} <= set(found):
            raise PenstockError(f"{self.path / 'status.json'} is not the status of a run: keys are missing.")
        return found

    def steps(self) -> dict[str, StepRecord]:
        """Every step's record, in the order of the workflow."""
        return {name: StepRecord(**record) for name, record in self.status()["steps"].items()}

    def finished(self) -> list[str]:
        return [name for name, record in self.steps().items() if record.state == DONE]

    def left_out(self) -> list[str]:
        """The domain's steps that this run's configuration does not ask for, and that were not done all the same."""
        return [name for name in self.domain.left_out(self.config) if name not in self.steps()]

    def missing(self, step: str) -> list[str]:
        """The unfinished steps that `step` needs, in the order of the workflow, itself not included."""
        return self.domain.missing(step, [*self.finished(), *self.left_out()])

    def record(self, step: str, **changes: Any) -> None:
        """Change a step's record; only the holder of the run's lock may."""
        status = self.status()
        status["steps"][step] = vars(replace(StepRecord(**status["steps"].get(step, {})), **changes))
        write_json(self.path / "status.json", status)

    def holder(self) -> Holder | None:
        """The process that works on a step of this run now, or that drives its workflow."""
        return holder(self.path / "lock") or holder(self.path / "workflow.lock")

    def state(self) -> str:
        """'done', 'running', 'failed' or 'unfinished' (killed, interrupted, or never begun)."""
        records = self.steps().values()
        if all(record.state == DONE for record in records):
            return DONE
        if self.holder() is not None:
            return RUNNING
        return FAILED if any(record.state == FAILED for record in records) else "unfinished"

    # ----------------------------------------------------------------------------------------------- doing the work

    def execute(self, step: str, waiting: Callable[[Holder], None] | None = None, again: bool = False) -> None:
        """Do one step unless it is finished (`again`: even then, and what rests on it becomes unfinished).

        Raises:
            PenstockError: the step needs others that are not finished, or fails for a reason the user can mend.
            BusyError: another process works on this run and no `waiting` is given.
        """
        if step in self.left_out():
            raise PenstockError(f"the configuration of {self.name} leaves out {step}; give it settings of its own.")
        with held(self.path / "lock", step, waiting):
            record = self.steps().get(step, StepRecord())
            if record.state == DONE and not again:
                print(f"{step}: finished before, kept", flush=True)
                return
            missing = self.missing(step)
            if missing:
                raise PenstockError(f"{step} needs {', '.join(missing)} to be finished: `penstock resume {self.name}`.")
            for later in self.domain.after(step) if record.state == DONE else ():
                if later in self.steps():
                    self.record(later, state=PENDING)
            self._do(step, record)

    def _sweep(self) -> None:
        """Remove what a killed step had begun to write; nobody else writes while we hold the lock."""
        for left in list(self.path.rglob(f".*{SUFFIX}")):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def _do(self, step: str, record: StepRecord) -> None:
        self._sweep()
        names = [name for name in self.domain.steps if name not in self.left_out()]
        resumed = " (again)" if record.attempts else ""
        print(f"── {step} ({names.index(step) + 1} of {len(names)}){resumed}  {self.path}", flush=True)
        started = time.time()
        self.record(step, state=RUNNING, attempts=record.attempts + 1, started=started, error=None, user_error=False)

        def ended(**changes: Any) -> None:
            self.record(step, seconds=record.seconds + time.time() - started, **changes)

        try:
            _use_threads(self.config.threads)
            with like_ctrl_c(), executor_for(self).spreading():
                self.domain.steps[step](self)
        except (KeyboardInterrupt, Interrupted):
            ended(state=PENDING, error="interrupted")
            raise
        except Exception as error:
            mine = user_message(error)
            # On a full disk even the status cannot be written; the message matters more than the record.
            try:
                ended(state=FAILED, error=mine or f"{type(error).__name__}: {error}", user_error=mine is not None)
            except PenstockError:
                if mine is None:
                    raise
            if mine is None:
                traceback.print_exc()
            raise
        ended(state=DONE)


def _use_threads(count: int | None) -> None:
    if count is not None:
        import torch  # late: listing runs needs none of it

        torch.set_num_threads(count)


def user_message(error: BaseException) -> str | None:
    """The one message for an error that the user can mend; None for a fault of ours."""
    if isinstance(error, PenstockError):
        return str(error)
    if is_disk_full(error):
        return f"disk full: {error}. Free some space (or choose another --runs-dir) and run the same command again."
    return None


def new_folder(runs_dir: Path, name: str | None, stem: str) -> Path:
    """A new folder under `runs_dir`, of that name, or named by `stem` and the time."""
    name = name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    if "/" in name or name.startswith(".") or name == "prepared":
        raise PenstockError(f"'{name}' cannot be a name here: expected a plain one like '{stem}-first'.")
    path = runs_dir / name
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise PenstockError(
            f"{path} exists already. Choose another --name, or go on with `penstock resume {name}`."
        ) from None
    except OSError as error:
        raise PenstockError(f"cannot make the folder {path}: {error.strerror}. Choose another --runs-dir.") from None
    return path


def create(
    runs_dir: Path, domain: Domain, config: Any, preset: str, name: str | None = None, command: str | None = None
) -> Run:
    """A new run directory with config.yaml, provenance.json and status.json, which is written last."""
    path = new_folder(runs_dir, name, domain.name)
    with written_file(path / "config.yaml") as temporary:
        temporary.write_text(load.to_yaml(config))
    write_json(path / "provenance.json", provenance.collect(command or command_line(), config.seed))
    status = {
        "domain": domain.name,
        "preset": preset,
        "created": time.time(),
        "steps": {step: vars(StepRecord()) for step in domain.steps if step not in domain.left_out(config)},
    }
    write_json(path / "status.json", status)
    return Run(path)


def command_line() -> str:
    """The command that the user typed, as it can be typed again."""
    return shlex.join(["penstock", *sys.argv[1:]])


def all_runs(runs_dir: Path) -> list[Run]:
    """Every run under a folder, the oldest first."""
    folders = sorted(runs_dir.iterdir()) if runs_dir.is_dir() else []
    return sorted((Run(p) for p in folders if (p / "status.json").is_file()), key=lambda run: run.created)


def find(text: str, runs_dir: Path) -> Run:
    """The run of that name under `runs_dir`, or at that path."""
    for path in (runs_dir / text, Path(text)):
        if (path / "status.json").is_file():
            return Run(path)
    if Path(text).exists():
        return Run(Path(text))  # raises, saying why
    names = [run.name for run in all_runs(runs_dir)]
    hint = load.nearest(text, names)
    raise PenstockError(
        f"'{text}' is not a run directory, nor the name of a run in {runs_dir}.{hint} `penstock runs list` shows them."
    )


def write_json(path: Path, value: Any) -> None:
    """A JSON file that appears whole or not at all."""
    with written_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
