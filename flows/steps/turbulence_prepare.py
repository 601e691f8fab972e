"""Simulated or given fields, filtered and stored in The Well's layout."""

from pathlib import Path

from configs.turbulence import TurbulenceConfig
from data.turbulence.preparation import preparation_key, prepare
from data.turbulence.well_folder import WellFolder
from flows.progress import shown
from flows.run import Run


def prepare_fields(run: Run) -> None:
    """Simulate, or read the user's files; reused where another run did it before."""
    config: TurbulenceConfig = run.config
    source = config.synthetic if config.data is None else Path(config.data)
    with run.prepared(preparation_key(source, config.importing)[:16]) as folder:
        found = prepare(source, config.importing, folder, shown("prepare", "frames"))
    for sentence in found.summary():
        print(f"  {sentence}", flush=True)
    fields = WellFolder(found.path.parent)
    run.record_data(
        found.path,
        fields.fingerprint,
        source="simulated" if config.data is None else config.data,
        frames=sum(sum(file.lengths) for split in ("train", "valid", "test") for file in fields.files(split)),
    )
