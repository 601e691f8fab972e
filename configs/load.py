"""From YAML files and dotted overrides to one frozen, fully typed configuration.

Layers are laid over one another: the defaults beside the classes, a preset (`configs/<domain>/<preset>.yaml`, which may
name another as its `base`), a file of the user's, the command line. Every value remembers where it came from, so that
an error can name the file, the key, the nearest valid name and what is allowed there.
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

import configs
from data.errors import ConfigError

COMMAND_LINE = "command line"
SWEEPS = "sweeps"  # configs/sweeps/ holds search spaces, no presets
KIND = "class"  # never a field: a reserved word. Names the class where a section may be one of several

Config = TypeVar("Config")


@dataclass(frozen=True)
class Given:
    """One value as it was written, and where."""

    value: Any
    source: str
    is_text: bool = False
    """True for a word of the command line, which has no type of its own yet."""


Layer = dict[str, Any]
"""A tree of keys whose leaves are `Given`."""


# ---------------------------------------------------------------------------------------------- files and presets


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice and reads 1e-3 as a number (YAML 1.1 would give text)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_BOOL = "tag:yaml.org,2002:bool"
# As in YAML 1.2: a key `on` and a value `off` are text; only true and false are truth values.
_StrictLoader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != _BOOL]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError, saying where, for anything else."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys with values, got {_describe(values)}.")
    return values


def domain_names() -> list[str]:
    """Every domain that has presets, sorted; found by listing folders, without importing anything."""
    found = {
        folder.name
        for root in configs.__path__
        for folder in (Path(root).iterdir() if Path(root).is_dir() else ())
        if folder.is_dir() and folder.name != SWEEPS and any(folder.glob("*.yaml"))
    }
    return sorted(found)


def check_domain(name: str) -> str:
    """`name` itself if it is a domain. Raises ConfigError with the nearest name otherwise."""
    names = domain_names()
    if name not in names:
        raise ConfigError(f"unknown domain '{name}'.{nearest(name, names)} Available: {', '.join(names)}.")
    return name


def preset_files(domain: str) -> dict[str, Path]:
    """The presets of a domain by name."""
    folders = [Path(root) / domain for root in configs.__path__]
    return {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))}


def default_preset(domain: str) -> str:
    """`demo` where there is one, else `debug`, else the first."""
    names = sorted(preset_files(check_domain(domain)))
    return next((name for name in ("demo", "debug") if name in names), names[0])


def preset_layers(domain: str, preset: str) -> list[Layer]:
    """The preset's values, those of its bases below them."""
    available = preset_files(check_domain(domain))
    layers: list[Layer] = []
    seen: list[str] = []
    name: str | None = preset
    while name is not None:
        if name not in available:
            where = f"{available[seen[-1]]}: base: " if seen else ""
            raise ConfigError(
                f"{where}unknown preset '{name}' of {domain}.{nearest(name, available)} "
                f"Available: {', '.join(sorted(available))}."
            )
        if name in seen:
            raise ConfigError(f"{available[name]}: the bases of preset '{preset}' form a circle: {' → '.join(seen)}.")
        seen.append(name)
        values = read_yaml(available[name])
        base = values.pop("base", None)
        layers.insert(0, tagged(values, str(available[name])))
        name = None if base is None else str(base)
    return layers


def file_layer(path: Path) -> Layer:
    """The values of a user's file."""
    return tagged(read_yaml(path), str(path))


def tagged(values: Mapping[str, Any], source: str) -> Layer:
    """A layer whose every leaf remembers `source`; dotted keys become nested ones."""
    layer: Layer = {}
    for key, value in values.items():
        leaf = tagged(value, source) if isinstance(value, dict) else Given(value, source)
        _merge(layer, _nest(key, leaf))
    return layer


def parse_overrides(words: Sequence[str]) -> dict[str, str]:
    """Dotted key → text, from `--vae.network.width 256` and `--vae.network.width=256`."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigError(
                f"{COMMAND_LINE}: '{word}' is not understood. A setting is given as --section.key VALUE "
                "or --section.key=VALUE."
            )
        key, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{COMMAND_LINE}: --{key} needs a value: --{key} VALUE.")
            value = rest.pop(0)
        if key in found:
            raise ConfigError(f"{COMMAND_LINE}: --{key} is given twice ({found[key]!r} and {value!r}).")
        found[key] = value
    return found


def override_layer(overrides: Mapping[str, str], source: str = COMMAND_LINE) -> Layer:
    """Dotted keys with words of the command line as a layer."""
    layer: Layer = {}
    for key, text in overrides.items():
        _merge(layer, _nest(key, Given(text, source, is_text=True)))
    return layer


def _nest(key: str, leaf: Any) -> Layer:
    for part in reversed(key.split(".")):
        leaf = {part: leaf}
    return leaf


def _merge(below: Layer, above: Layer) -> None:
    """Lay `above` over `below`, in place."""
    for key, value in above.items():
        old = below.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not _other_kind(old, value):
            _merge(old, value)
        else:
            below[key] = dict(value) if isinstance(value, dict) else value


def _other_kind(old: Layer, new: Layer) -> bool:
    return isinstance(new.get(KIND), Given) and (KIND not in old or old[KIND].value != new[KIND].value)


# ------------------------------------------------------------------------------------------------ typed construction


def resolve(schema: type[Config], layers: Iterable[Layer], default: Config | None = None) -> Config:
    """The configuration that `layers`, the later over the earlier, give on top of `default` (or the class's defaults).

    Raises:
        ConfigError: an unknown key, a value of another type, a missing value, or one that the class refuses.
    """
    tree: Layer = {}
    for layer in layers:
        _merge(tree, layer)
    return _build(schema, tree, default, prefix="", root=schema)


def load(
    schema: type[Config],
    domain: str,
    preset: str,
    file: Path | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Config:
    """Defaults < preset < file < command line."""
    layers = preset_layers(domain, preset)
    if file is not None:
        layers.append(file_layer(file))
    layers.append(override_layer(overrides or {}))
    return resolve(schema, layers)


def read_saved(schema: type[Config], path: Path) -> Config:
    """The configuration that `to_yaml` wrote."""
    return resolve(schema, [file_layer(path)])


def to_plain(config: Any) -> Any:
    """Nested dicts and lists of plain values: what YAML, W&B and a checkpoint can hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: _plain_field(config, f.name) for f in dataclasses.fields(config) if f.init}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    if isinstance(config, Enum):
        return config.name
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """The configuration as YAML, in the order in which the classes declare it."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120)


def _plain_field(config: Any, name: str) -> Any:
    value = getattr(config, name)
    plain = to_plain(value)
    if len(_sections(get_type_hints(type(config))[name])) > 1 and dataclasses.is_dataclass(value):
        plain = {KIND: type(value).__name__, **plain}
    return plain


def _build(schema: type[Config], tree: Layer, default: Config | None, prefix: str, root: type) -> Config:
    fields = {f.name: f for f in dataclasses.fields(schema) if f.init}  # type: ignore[arg-type]
    hints = get_type_hints(schema)
    values: dict[str, Any] = {}
    for key, node in tree.items():
        if key not in fields:
            raise _unknown_key(prefix + key, node, fields, prefix, root)
        below = getattr(default, key) if default is not None else _field_default(fields[key])
        values[key] = _value(hints[key], node, below, prefix + key, root)
    missing = [name for name, f in fields.items() if default is None and name not in values and _required(f)]
    if missing:
        where = _sources(tree) or "configuration"
        raise ConfigError(f"{where}: '{prefix}{missing[0]}' has no value; expected {type_name(hints[missing[0]])}.")
    try:
        return schema(**values) if default is None else dataclasses.replace(default, **values)  # type: ignore[type-var]
    except ConfigError:
        raise
    except ValueError as error:
        name = prefix.rstrip(".") or "the configuration"
        raise ConfigError(f"{_sources(tree) or 'defaults'}: {name}: {error}") from None


def _value(hint: Any, node: Any, default: Any, key: str, root: type) -> Any:
    sections = _sections(hint)
    if isinstance(node, dict) and sections:
        default = None if not dataclasses.is_dataclass(default) else default
        schema = _chosen(sections, node, default, key)
        body = {name: value for name, value in node.items() if name != KIND or len(sections) == 1}
        return _build(schema, body, default if type(default) is schema else None, key + ".", root)
    if isinstance(node, dict):
        if get_origin(hint) in (dict, Mapping) or hint is dict or _allows(hint, dict):
            return _leaf(hint, Given(_untagged(node), _sources(node)), key)
        raise ConfigError(
            f"{_sources(node)}: '{key}' is one value ({type_name(hint)}), not a section with keys "
            f"({', '.join(sorted(node))})."
        )
    if sections and not (node.value is None or (node.is_text and node.value == "null")):
        keys = ", ".join(f.name for section in sections for f in dataclasses.fields(section))
        raise ConfigError(f"{node.source}: '{key}' is a section with the keys {keys}; got {_describe(node.value)}.")
    if sections:
        if type(None) not in get_args(hint):
            raise ConfigError(f"{node.source}: '{key}' is a section and cannot be null.")
        return None
    return _leaf(hint, node, key)


def _chosen(sections: list[type], node: Layer, default: Any, key: str) -> type:
    """Which of several section classes is meant: by the key `class`, else the default's."""
    if len(sections) == 1:
        return sections[0]
    names = {section.__name__: section for section in sections}
    kind = node.get(KIND)
    if kind is None:
        if default is None:
            raise ConfigError(f"{_sources(node)}: '{key}.{KIND}' has no value; expected one of: {', '.join(names)}.")
        return type(default)
    if kind.value not in names:
        raise ConfigError(
            f"{kind.source}: '{key}.{KIND}' expects one of: {', '.join(names)}; got {_describe(kind.value)}."
            f"{nearest(str(kind.value), names)}"
        )
    return names[kind.value]


def _leaf(hint: Any, given: Given, key: str) -> Any:
    """The value in the type of the field, checked by jsonargparse."""
    from jsonargparse import ArgumentParser  # late: 0.1 s

    value = given.value
    if given.is_text and _is_sequence(hint) and value != "null":
        parsed = yaml.safe_load(value) if value.strip().startswith("[") else value.split(",")
        value = [str(item).strip() for item in parsed] if isinstance(parsed, list) else parsed
    if given.is_text and hint is str:
        return value
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": value}).value
    except Exception:
        allowed = [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []
        raise ConfigError(
            f"{given.source}: '{key}' expects {type_name(hint)}; got {_describe(given.value, given.is_text)}."
            f"{nearest(str(given.value), allowed)}"
        ) from None


def _unknown_key(key: str, node: Any, fields: Mapping[str, Any], prefix: str, root: type) -> ConfigError:
    source = node.source if isinstance(node, Given) else _sources(node)
    every = known_keys(root)
    name = key.rsplit(".", 1)[-1]
    near = [prefix + match for match in difflib.get_close_matches(name, fields, n=1, cutoff=0.6)]
    near = near or [k for k in every if k.rsplit(".", 1)[-1] == name][:1] or difflib.get_close_matches(key, every, n=1)
    hint = f" Did you mean '{near[0]}' ({type_name(every[near[0]])})?" if near and near[0] in every else ""
    where = f"Keys of '{prefix.rstrip('.')}'" if prefix else "Keys"
    return ConfigError(f"{source}: unknown key '{key}'.{hint} {where}: {', '.join(sorted(fields))}.")


def known_keys(schema: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a configuration class with its type, sections included."""
    keys: dict[str, Any] = {}
    for f in dataclasses.fields(schema):
        hint = get_type_hints(schema)[f.name]
        keys[prefix + f.name] = hint
        for section in _sections(hint):
            keys.update(known_keys(section, f"{prefix}{f.name}."))
    return keys


# ------------------------------------------------------------------------------------------------ types and wording


def type_name(hint: Any) -> str:
    """A type in words: 'int', 'number', 'one of: a, b', 'list of int', 'int or null'."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of: " + ", ".join(str(choice) for choice in arguments)
    if origin in (Union, types.UnionType):
        words = [type_name(a) for a in arguments if a is not type(None)]
        return " or ".join(words + (["null"] if type(None) in arguments else []))
    if origin in (list, tuple, Sequence):
        items = [a for a in arguments if a is not Ellipsis]
        count = f"{len(items)} times " if origin is tuple and Ellipsis not in arguments and items else ""
        return f"list of {count}{type_name(items[0])}" if items else "list"
    if origin in (dict, Mapping) or hint is dict:
        return "keys with values"
    if dataclasses.is_dataclass(hint):
        return "a section"
    return {int: "int", float: "number", str: "text", bool: "true or false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def _describe(value: Any, is_text: bool = False) -> str:
    if is_text:
        return f"'{value}'"
    kinds = {str: "text", bool: "true/false", int: "int", float: "number", list: "list", dict: "section"}
    kind = kinds.get(type(value))
    return "null" if value is None else f"{value!r} ({kind})" if kind else repr(value)


def nearest(name: str, names: Iterable[str]) -> str:
    """The hint ' Did you mean x?' for the closest of `names`, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def _sections(hint: Any) -> list[type]:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]


def _allows(hint: Any, kind: type) -> bool:
    return any(get_origin(option) is kind or option is kind for option in get_args(hint))


def _is_sequence(hint: Any) -> bool:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return any(option in (list, tuple) or get_origin(option) in (list, tuple) for option in options)


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _field_default(f: dataclasses.Field[Any]) -> Any:
    if f.default is not dataclasses.MISSING:
        return f.default
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else None


def _untagged(node: Any) -> Any:
    return {key: _untagged(value) for key, value in node.items()} if isinstance(node, dict) else node.value


def _sources(tree: Layer) -> str:
    found: dict[str, None] = {}
    for node in tree.values():
        found[_sources(node) if isinstance(node, dict) else node.source] = None
    return " and ".join(source for source in found if source)
