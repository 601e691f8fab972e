"""The loader: what wins over what, and that every mistake is named with its place and its cure."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from configs import load
from data.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Network:
    width: int = 64
    heads: int = 8
    norm: Literal["rms", "layer"] = "rms"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got width={self.width} and heads={self.heads}.")


@dataclass(frozen=True, kw_only=True)
class Uniform:
    low: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    mean: float = 0.0
    spread: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Root:
    seed: int = 0
    rate: float = 1e-3
    data: str | None = None
    fast: bool = False
    sizes: tuple[int, ...] = (1, 2)
    # A section whose defaults differ from its class's own: they must survive a partial override.
    network: Network = field(default_factory=lambda: Network(width=32))
    second: Network | None = None
    times: Uniform | LogitNormal = Uniform()


def resolve(tmp_path: Path, text: str = "", **overrides: str) -> Root:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    layer = load.override_layer({key.replace("__", "."): value for key, value in overrides.items()})
    return load.resolve(Root, [load.file_layer(path), layer])


def test_defaults_then_file_then_command_line(tmp_path: Path) -> None:
    assert resolve(tmp_path) == Root()
    config = resolve(tmp_path, "rate: 1e-2\nnetwork:\n  heads: 4\n", network__heads="2", sizes="3,4,5", fast="true")
    assert config == Root(rate=0.01, fast=True, sizes=(3, 4, 5), network=Network(width=32, heads=2))


def test_optional_and_alternative_sections(tmp_path: Path) -> None:
    assert resolve(tmp_path, "second: {width: 16}").second == Network(width=16)
    assert resolve(tmp_path, "second: {width: 16}", second="null").second is None
    assert resolve(tmp_path, "times: {class: LogitNormal, spread: 2}").times == LogitNormal(spread=2.0)
    assert resolve(tmp_path, "times.low: 0.5").times == Uniform(low=0.5)


def test_on_and_off_are_words(tmp_path: Path) -> None:
    assert resolve(tmp_path, "data: off\nfast: true\nrate: 1e-4") == Root(data="off", fast=True, rate=1e-4)


def test_saved_config_is_read_back_equal(tmp_path: Path) -> None:
    config = Root(data="x", second=Network(norm="layer"), times=LogitNormal(mean=1.0), rate=3e-7)
    (tmp_path / "config.yaml").write_text(load.to_yaml(config))
    assert load.read_saved(Root, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("network:\n  widht: 3", ["mine.yaml", "'network.widht'", "Did you mean 'network.width' (int)?", "heads"]),
        ("width: 3", ["mine.yaml", "unknown key 'width'", "'network.width'"]),
        ("network:\n  width: wide", ["mine.yaml", "'network.width' expects int", "'wide' (text)"]),
        ("network:\n  width: 3.5", ["expects int", "3.5"]),
        ("network:\n  norm: rsm", ["expects one of: rms, layer", "Did you mean 'rms'?"]),
        ("network: 3", ["'network' is a section with the keys width, heads, norm", "3 (int)"]),
        ("network: null", ["cannot be null"]),
        ("seed: {a: 1}", ["'seed' is one value (int)"]),
        ("fast: 1", ["'fast' expects true or false"]),
        ("sizes: [1, x]", ["'sizes' expects list of int"]),
        ("network: {width: 30}", ["mine.yaml: network: width must be a multiple of heads, got width=30"]),
        ("times: {class: Uniformm}", ["expects one of: Uniform, LogitNormal", "Did you mean 'Uniform'?"]),
        ("seed: 1\nseed: 2", ["mine.yaml, line 2", "'seed' stands twice"]),
        ("seed: [", ["mine.yaml, line", "not valid YAML"]),
        ("- 1", ["expected keys with values"]),
        ("seed: !!python/object/apply:os.getcwd []", ["mine.yaml", "not valid YAML"]),
    ],
)
def test_a_mistake_is_named_with_its_place_and_cure(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(tmp_path, text)
    for part in parts:
        assert part in str(caught.value)


def test_a_mistake_on_the_command_line_is_said_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"command line: 'network.width' expects int; got 'wide'"):
        resolve(tmp_path, network__width="wide")
    with pytest.raises(ConfigError, match=r"command line: unknown key 'network.widht'. Did you mean 'network.width'"):
        resolve(tmp_path, network__widht="3")


def test_overrides_are_read_in_both_spellings() -> None:
    assert load.parse_overrides(["--a.b", "-1", "--c=d=e"]) == {"a.b": "-1", "c": "d=e"}
    for words, message in [(["x"], "not understood"), (["--a"], "needs a value"), (["--a=1", "--a=2"], "twice")]:
        with pytest.raises(ConfigError, match=message):
            load.parse_overrides(words)


def test_presets_are_laid_over_their_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "thing"
    folder.mkdir()
    (folder / "demo.yaml").write_text("seed: 1\nnetwork: {heads: 4}")
    (folder / "large.yaml").write_text("base: demo\nnetwork: {width: 128}")
    (folder / "loop.yaml").write_text("base: loop")
    (folder / "lost.yaml").write_text("base: dmeo")
    monkeypatch.setattr(load.configs, "__path__", [str(tmp_path)])
    assert load.domain_names() == ["thing"]
    assert load.default_preset("thing") == "demo"
    assert load.load(Root, "thing", "large") == Root(seed=1, network=Network(width=128, heads=4))
    for preset, message in [
        ("larg", "Did you mean 'large'"),
        ("loop", "circle"),
        ("lost", "lost.yaml: base: .*'demo'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load.load(Root, "thing", preset)
    with pytest.raises(ConfigError, match=r"unknown domain 'thng'. Did you mean 'thing'"):
        load.preset_layers("thng", "demo")
