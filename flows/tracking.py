"""What is recorded while a run works: metrics.csv always, Weights & Biases beside it (offline unless asked)."""

import csv
import json
import math
import netrc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

from configs.load import to_plain
from data.atomic import written_file
from data.errors import PenstockError

if TYPE_CHECKING:
    from flows.run import Run

COLUMNS = ("stage", "step", "epoch", "seconds", "name", "value")
MODES = {"online": "online", "offline": "offline", "off": "off", "disabled": "off", "dryrun": "offline"}
"""What WANDB_MODE and --wandb may say, and what it means here."""
TRIALS = "trials.json"
"""In the folder of a sweep: what its trials are and how far they are."""
SERVICE = "WANDB_SERVICE"
"""Where W&B leaves the address of its service process for child processes."""
FLUSH_SECONDS = 1.0
BYTES_PER_ROW = 64
"""In W&B's file; no row of numbers takes so few."""


@dataclass(frozen=True)
class Metric:
    """One row of metrics.csv."""

    stage: str
    step: int
    epoch: int
    seconds: float
    """Training time of the stage so far."""
    name: str
    value: float


def read_metrics(path: Path) -> list[Metric]:
    """The rows of a metrics.csv; a last row that a kill cut short is left out."""
    if not path.is_file():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                rows.append(
                    Metric(
                        row["stage"],
                        int(row["step"]),
                        int(row["epoch"]),
                        float(row["seconds"]),
                        row["name"],
                        float(row["value"]),
                    )
                )
            except (TypeError, ValueError, KeyError):
                continue
    return rows


class Metrics:
    """Appends to the metrics.csv of a run for one stage."""

    def __init__(self, path: Path, stage: str, resumed_at: int = 0) -> None:
        """Rows of this stage later than step `resumed_at` are dropped: that part is done again."""
        self.path, self.stage = path, stage
        kept = [row for row in read_metrics(path) if row.stage != stage or row.step <= resumed_at]
        with written_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(_cells(row) for row in kept)
        before = max((row.seconds for row in kept if row.stage == stage), default=0.0)
        self._begun = time.monotonic() - before

    def log(self, values: Mapping[str, float], step: int, epoch: int) -> None:
        """One row per value."""
        seconds = time.monotonic() - self._begun
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                _cells(Metric(self.stage, step, epoch, seconds, name, float(value))) for name, value in values.items()
            )


def _cells(row: Metric) -> list[Any]:
    value = f"{row.value:.9g}" if math.isfinite(row.value) else str(row.value)
    return [row.stage, row.step, row.epoch, f"{row.seconds:.3f}", row.name, value]


def requested_mode(asked: str | None) -> str | None:
    """The W&B mode that --wandb, else WANDB_MODE, asks for; None where neither does."""
    for source, value in (("--wandb", asked), ("WANDB_MODE", os.environ.get("WANDB_MODE"))):
        if value:
            if value not in MODES:
                raise PenstockError(f"{source} expects one of: online, offline, off; got '{value}'.")
            return MODES[value]
    return None


class Tracker:
    """One W&B run for one step, grouped by the run's name. Every method does nothing when W&B is off.

    A trial of a sweep is one W&B run over all its steps and attempts, grouped by the sweep's name: each of them adds a
    file to SWEEP/wandb, and `wandb sync` joins the files of a run in the order of their time.

    W&B must never stop a training: what fails in it is said once and recorded no further.
    """

    def __init__(self, run: "Run", step: str) -> None:
        # Whatever the run was made with, WANDB_MODE=off silences a later step of it.
        silenced = MODES.get(os.environ.get("WANDB_MODE", "")) == "off"
        self.mode: Literal["online", "offline", "off"] = "off" if silenced else run.config.wandb
        self._sweep = run.sweep
        self._place = step.removeprefix("train_") if self._sweep is not None else ""
        self._axes: set[str] = set()
        self._row: int | None = None
        self._run: Any = None
        if self.mode != "off":
            self._guard(lambda: self._start(run, step))

    def _start(self, run: "Run", step: str) -> None:
        assert self.mode != "off"
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # late: 1.5 s

        if self.mode == "online" and not has_key():
            print("W&B: no API key found, recording offline (`wandb login`, then `wandb sync` uploads it)", flush=True)
            self.mode = "offline"
        shared = os.environ.get(SERVICE)
        self._run = wandb.init(
            mode=self.mode,
            project=f"penstock-{run.domain_name}",
            **(_of_step(run, step) if self._sweep is None else _of_trial(run, self._sweep)),
            resume="allow",
            config=_config(run),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                init_timeout=20,
                # A link to the newest run is nobody's when trials run side by side.
                symlink=self._sweep is None,
                # So much, and no more, is missing in the file of a process that was killed.
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )
        # Child processes are to have a W&B service of their own: in a shared one, the run of a child that was killed
        # stays open, and nobody can go on with it.
        if shared is None:
            os.environ.pop(SERVICE, None)
        if self._sweep is not None:
            self._go_on(run, self._sweep)

    def _go_on(self, run: "Run", sweep: Path) -> None:
        """Begin where the earlier steps and attempts of a trial ended: their files become one run in W&B.

        Rows are numbered on, and the summary, which W&B takes from the last file alone, starts with theirs.
        """
        # No row takes fewer bytes, so no number comes twice, also where a process was killed.
        written = sum(file.stat().st_size for file in (sweep / "wandb").glob(f"*/run-{self._run.id}.wandb"))
        self._row = max(int(self._run.step), written // BYTES_PER_ROW)
        self._kept = sweep / "wandb" / f"{self._run.id}.summary.json"
        try:
            earlier = dict(json.loads(self._kept.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            earlier = {}
        # Of a training that was killed, which kept nothing.
        earlier |= {f"{row.stage}/{row.name}": row.value for row in read_metrics(run.metrics_file)}
        if earlier:
            self._run.summary.update(earlier)

    def _send(self, values: Mapping[str, Any], step: int | None = None) -> None:
        if self._row is None:
            self._run.log(dict(values), step=step)
        else:
            self._run.log(dict(values), step=self._row, commit=True)
            self._row += 1

    @property
    def on(self) -> bool:
        """Whether anything is recorded."""
        return self._run is not None

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers at an optimizer step.

        W&B counts the rows of a run upwards, and a trial has several trainings, perhaps resumed from before their
        last row; so there each training has an axis of its own: `flow/val/loss` over `flow/step`.
        """

        def send() -> None:
            if self._sweep is None or step is None:
                self._send(values, step)
                return
            axis = f"{self._place}/step"
            if axis not in self._axes:
                self._run.define_metric(f"{self._place}/*", step_metric=axis)
                self._axes.add(axis)
            self._send({f"{self._place}/{name}": value for name, value in values.items()} | {axis: step})

        if self._run is not None:
            self._guard(send)

    def log_meshes(self, meshes: Mapping[str, Path]) -> None:
        """Mesh files (GLB, OBJ or STL) as 3D objects to turn in the browser."""
        self._log_media("Object3D", meshes)

    def log_molecules(self, molecules: Mapping[str, Path]) -> None:
        """Structure files (PDB, mmCIF) as molecules to turn in the browser."""
        self._log_media("Molecule", molecules)

    def _log_media(self, kind: str, files: Mapping[str, Path]) -> None:
        def send() -> None:
            import wandb

            media = getattr(wandb, kind)
            self._send({name: media(str(path)) for name, path in files.items()})

        if self._run is not None and files:
            self._guard(send)

    def log_pictures(self, pictures: Mapping[str, Callable[[], str | bytes]]) -> None:
        """What each function draws: the bytes of a PNG, or SVG or HTML source. Nothing is drawn when W&B is off."""

        def send() -> None:
            import wandb

            drawn = {name: draw() for name, draw in pictures.items()}
            with TemporaryDirectory(prefix="penstock-") as folder:
                images = []
                for number, (name, picture) in enumerate(drawn.items()):
                    if isinstance(picture, bytes):
                        file = Path(folder) / f"{number}.png"
                        file.write_bytes(picture)
                        images.append(wandb.Image(str(file), caption=name))
                pages = {name: wandb.Html(text, inject=False) for name, text in drawn.items() if isinstance(text, str)}
                self._send(pages | ({"pictures": images} if images else {}))

        if self._run is not None and pictures:
            self._guard(send)

    def summarize(self, **facts: Any) -> None:
        """What the run came to, beside the last value of each number."""
        self._guard(lambda: self._run and self._run.summary.update(facts))

    def log_files(self, name: str, kind: str, folder: Path) -> None:
        """A folder as an artifact; online only (offline W&B would copy it for nothing)."""

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(name if self._sweep is None else f"{self._sweep.name}-{name}", type=kind)
            artifact.add_dir(str(folder))
            self._run.log_artifact(artifact)

        if self._run is not None and self.mode == "online":
            self._guard(send)

    def finish(self, exit_code: int = 0) -> None:
        def end() -> None:
            if self._row is not None:
                summary = {name: value for name, value in self._run.summary._as_dict().items() if name[0] != "_"}
                with written_file(self._kept) as temporary:
                    temporary.write_text(json.dumps(summary, default=dict), encoding="utf-8")
            self._run.finish(exit_code=exit_code)

        if self._run is not None:
            self._guard(end)
        self._run = None

    def _guard(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            print(f"W&B: {type(error).__name__}: {error}; going on without it", flush=True)
            left, self._run = self._run, None
            if left is not None:
                with suppress(Exception):
                    left.finish(exit_code=1)  # what it has is kept, and its name is free for the next step


def _of_step(run: "Run", step: str) -> dict[str, Any]:
    return {
        "group": run.name,
        "name": f"{run.name}/{step}",
        "job_type": step,
        "id": f"{run.name}-{step}",
        "dir": str(run.path),
    }


def _of_trial(run: "Run", sweep: Path) -> dict[str, Any]:
    return {
        "group": sweep.name,
        "name": run.name,
        "job_type": "trial",
        "id": f"{sweep.name}-{run.name}",  # trials of different sweeps have the same names
        "dir": str(sweep),
    }


def _config(run: "Run") -> dict[str, Any]:
    """The whole configuration; before it what a sweep varies, by dotted keys, which is what W&B plots runs by."""
    provenance = run.provenance()
    whole = {"config": to_plain(run.config), "data": provenance.get("data"), "code": provenance.get("code")}
    return whole if run.sweep is None else _varied(run.sweep, run.name) | whole


def _varied(sweep: Path, name: str) -> dict[str, Any]:
    """The values of a trial as SWEEP/trials.json has them; none where it does not know the trial."""
    try:
        trials = json.loads((sweep / TRIALS).read_text(encoding="utf-8"))["trials"]
        return next((dict(trial["config"]) for trial in trials if trial["name"] == name), {})
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@contextmanager
def tracked(run: "Run", step: str) -> Iterator[Tracker]:
    """A tracker for one step, closed at its end; W&B calls a step that an exception ended failed."""
    tracker = Tracker(run, step)
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish()


def record_end(run: "Run", state: str, *, failed: bool, **facts: Any) -> bool:
    """How a trial ended, in its W&B run; said from outside, as a process that was killed cannot say it itself.

    Gives whether it was recorded: not where W&B is off.
    """
    tracker = Tracker(run, "end")
    tracker.summarize(state=state, **facts)
    recorded = tracker.on
    tracker.finish(exit_code=int(failed))
    return recorded


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
