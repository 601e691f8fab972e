"""The published network's fixtures of one configuration, for all tests that need its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from modules.protein.import_weights import import_reqflow
from modules.protein.network import ProteinNetwork


@dataclass(frozen=True)
class Fixture:
    """The files of one network."""

    folder: Path
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return json.loads((self.folder / f"network_{self.name}.json").read_text())

    def tensors(self, kind: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{kind}_{self.name}.safetensors")

    def forward(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"network_{self.name}_forward.safetensors")

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"network_{self.name}_state_dict.safetensors")

    def network(self) -> ProteinNetwork:
        config, state = import_reqflow(self.weights(), {"model": self.settings["model_config"]})
        network = config.build()
        network.load_state_dict(state)
        return network.eval()
