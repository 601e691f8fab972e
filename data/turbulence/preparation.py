"""Fields from files, or simulated, made into a folder in The Well's layout with the account of how they came there."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.atomic import written_file
from data.errors import PenstockError, SchemaError
from data.preparing import Progress, Show, content_hash, visible_files
from data.synthetic.turbulence.generate import SyntheticTurbulenceConfig, generate
from data.turbulence.importing import READABLE, import_fields
from data.turbulence.source import ImportConfig
from data.turbulence.well_folder import INDEX, SPLITS, STATS, WellFolder, folder_fingerprint, write_stats

VERSION = 1
"""Raised when the same inputs and configuration would give other fields."""
WORDS = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Prepared:
    """What a preparation gave."""

    path: Path
    """fields.json; the fields lie in its folder, for `WellFolder(path.parent)`."""
    account: Mapping[str, Any]
    """What fields.json holds: key, fingerprint, source, name, components, points, spacing, parts, notes."""
    reused: bool
    """True where the finished preparation was found and nothing was read."""

    @property
    def key(self) -> str:
        return str(self.account["key"])

    @property
    def fingerprint(self) -> str:
        return str(self.account["fingerprint"])

    def summary(self) -> list[str]:
        """Short sentences for the user."""
        found = self.account
        parts = [
            f"{WORDS[split]} {part['frames']} frames of {part['trajectories']} trajectories"
            for split, part in found["parts"].items()
        ]
        points, names = " x ".join(str(n) for n in found["points"]), ", ".join(found["components"])
        return [
            f"{found['name']}: {names} at {points} points, frames {found['spacing']:.6g} apart.",
            f"{'; '.join(parts)}.".capitalize(),
            *found["notes"],
            *(["Found prepared."] if self.reused else []),
        ]


def prepare(
    source: Path | SyntheticTurbulenceConfig,
    importing: ImportConfig,
    folder: Path,
    show: Show | None = None,
    processes: int = 0,
    device: str = "cpu",
) -> Prepared:
    """Bring the fields of `source` (see `import_fields`, or a simulation) into `folder`, in The Well's layout, with
    `stats.yaml` and `fields.json`, which is written last.

    The source is never changed, and not needed afterwards. A finished preparation with the same key is returned as it
    is; a simulation that was broken off goes on (`processes` and `device` as in `generate`).

    Raises:
        PenstockError: nothing there to read, or a rule broken; the message says which. Nothing of it is kept.
    """
    key = preparation_key(source, importing)
    path = folder / INDEX
    found = _finished(path, key)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    fingerprints: Mapping[str, list[str]] | None = None
    if isinstance(source, SyntheticTurbulenceConfig):
        generate(source, folder, show, processes, device)
    else:
        _clear(folder)
        try:
            imported = import_fields(source, folder, importing, _progress(show))
            if not (folder / STATS).exists():
                write_stats(folder)
        except BaseException:
            _clear(folder)
            raise
        notes, fingerprints = imported.notes, imported.fingerprints
    fields = WellFolder(folder)
    if fingerprints is None:
        fingerprints = {split: [file.fingerprint for file in fields.files(split)] for split in SPLITS}
    account = {
        "key": key,
        "fingerprint": folder_fingerprint(fingerprints),
        "source": "simulated" if isinstance(source, SyntheticTurbulenceConfig) else Path(source).name,
        "name": fields.name,
        "components": list(fields.components),
        "points": list(fields.grid.shape),
        "spacing": fields.spacing,
        "parts": {split: _part(fields, split) for split in SPLITS},
        "notes": notes,
    }
    with written_file(path) as temporary:
        temporary.write_text(json.dumps(account, indent=1) + "\n")
    return Prepared(path, account, reused=False)


def preparation_key(source: Path | SyntheticTurbulenceConfig, importing: ImportConfig) -> str:
    """SHA-256 (hex) over the content of all inputs, the configuration, and the version of the method.

    Raises:
        PenstockError: nothing there to read.
    """
    if isinstance(source, SyntheticTurbulenceConfig):
        # The settings of the flows that are not chosen make no difference.
        inputs: Any = {k: v for k, v in asdict(source).items() if k not in ("kolmogorov", "channel", "isotropic")}
        inputs["settings"] = asdict(source.simulated)
        words = [VERSION, inputs]
    else:
        files = {source.name: source} if source.is_file() else {}
        if source.is_dir():
            files = visible_files(source, lambda path: path.suffix in READABLE or path.name == STATS)
        if not files:
            raise PenstockError(f"expected fields in {source}, but there are none ({', '.join(READABLE)}).")
        words = [VERSION, asdict(importing), [[name, content_hash(path)] for name, path in files.items()]]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def _part(fields: WellFolder, split: str) -> dict[str, int]:
    lengths = [length for file in fields.files(split) for length in file.lengths]
    return {"files": len(fields.files(split)), "trajectories": len(lengths), "frames": sum(lengths)}


def _progress(show: Show | None) -> Any:
    if show is None:
        return None
    return lambda done, total: show(Progress(done, total, 0, 0, ""))


def _clear(folder: Path) -> None:
    """Remove what a broken-off import left; never what others put into the folder."""
    shutil.rmtree(folder / "data", ignore_errors=True)
    for name in (STATS, INDEX):
        (folder / name).unlink(missing_ok=True)


def _finished(path: Path, key: str) -> Prepared | None:
    """The preparation that `path` tells of, if it has this key and its files are there and follow the rules."""
    try:
        account = json.loads(path.read_text())
        if account["key"] != key:
            return None
        fields = WellFolder(path.parent)
        if any(account["parts"][split] != _part(fields, split) for split in SPLITS):
            return None
        found = Prepared(path, account, reused=True)
        found.summary()
    except (OSError, SchemaError, KeyError, TypeError, ValueError):
        return None  # damaged or of an older version: prepared anew
    return found
