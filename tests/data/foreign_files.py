"""Checkpoints as other programs write them, made without those programs."""

import sys
import typing
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor


class _Module(ModuleType):
    """A stand-in for one of OmegaConf's modules, for as long as a file is written."""

    def __init__(self, name: str, *classes: str) -> None:
        super().__init__(name)
        for kind in classes:
            setattr(self, kind, type(kind, (), {"__module__": name}))


@contextmanager
def omegaconf() -> Iterator[Any]:
    """Modules under the names of OmegaConf's, whose classes pickle under the same names with the same attributes."""
    modules = {
        "omegaconf": _Module("omegaconf"),
        "omegaconf.base": _Module("omegaconf.base", "ContainerMetadata", "Metadata"),
        "omegaconf.dictconfig": _Module("omegaconf.dictconfig", "DictConfig"),
        "omegaconf.listconfig": _Module("omegaconf.listconfig", "ListConfig"),
        "omegaconf.nodes": _Module("omegaconf.nodes", "AnyNode"),
    }
    with mock.patch.dict(sys.modules, modules):
        yield modules


def tree(modules: Any, value: Any, key: Any = None, parent: Any = None) -> Any:
    """`value` as OmegaConf's objects: attributes as its version 2.3 pickles them."""
    if isinstance(value, dict | list):
        kind = "Dict" if isinstance(value, dict) else "List"
        made = getattr(modules[f"omegaconf.{kind.lower()}config"], f"{kind}Config")()
        metadata = modules["omegaconf.base"].ContainerMetadata()
        vars(metadata).update(object_type=dict if kind == "Dict" else list, key_type=typing.Any)
        vars(metadata).update(resolver_cache=defaultdict(dict), element_type=typing.Any)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = {name: tree(modules, part, name, made) for name, part in items}
        content = {"_content": inner if kind == "Dict" else list(inner.values())}
    else:
        made = modules["omegaconf.nodes"].AnyNode()
        metadata = modules["omegaconf.base"].Metadata()
        vars(metadata)["object_type"] = None
        content = {"_val": value}
    vars(metadata).update(ref_type=typing.Any, optional=True, key=key, flags={}, flags_root=False)
    vars(made).update(_metadata=metadata, _parent=parent, **content)
    return made


def save_lightning(path: Path, state: Mapping[str, Tensor], config: dict[str, Any]) -> Path:
    """A checkpoint as Lightning writes one: weights with the prefix `model.`, optimiser, callbacks, OmegaConf tree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    network = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(3)).sum().backward()
    optimizer.step()
    with omegaconf() as modules:
        content = {
            "epoch": 5,
            "global_step": 100,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": {f"model.{name}": tensor for name, tensor in state.items()},
            "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 1}}}},
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0), "best_k_models": {}}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {"cfg": tree(modules, config), "folding_cfg": None},
        }
        torch.save(content, path)
    return path


def write_archive(path: Path, content: bytes, storages: Mapping[str, bytes] | None = None, **more: bytes) -> Path:
    """A checkpoint archive of a pickle's bytes and the raw numbers that it points at."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for key, numbers in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", numbers)
        for name, extra in more.items():
            archive.writestr(f"archive/{name}", extra)
    return path


def pickle_of(path: Path) -> bytes:
    """The pickle inside a file of torch.save."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
