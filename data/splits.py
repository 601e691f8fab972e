"""Which items are held out, and the seed of each sample: functions of ids and seeds, never of positions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Shares of the items kept from training. An item's place follows from its id and `salt`, never from its position.

    With both shares at 0 everything is trained on and nothing is held out (to overfit a few items).
    """

    validation: float = 0.1
    test: float = 0.1
    salt: str = ""
    """Another word gives another split."""

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ConfigError(
                f"split: shares are at least 0 and leave some for training, got validation={self.validation} and "
                f"test={self.test}; lower one of them."
            )


def stable_hash(*words: str | int) -> int:
    """A 63-bit integer from words, the same in every process and on every machine (`hash` of a str is not)."""
    text = "\0".join(str(word) for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _place(item_id: str, config: SplitConfig) -> float:
    return stable_hash("split", config.salt, item_id) / 2**63


def split_of(item_id: str, config: SplitConfig) -> str:
    """`train`, `validation` or `test`: where the hash of the id falls in [0, 1)."""
    place = _place(item_id, config)
    if place < config.test:
        return "test"
    return "validation" if place < config.test + config.validation else "train"


def split_items(
    ids: Sequence[str],
    config: SplitConfig,
    groups: Sequence[str] | None = None,
    *,
    test: Sequence[bool] | None = None,
) -> dict[str, list[int]]:
    """Positions of the items of each split, in the order of `ids`.

    `groups` names the group of each item, such as a cluster of near-copies: a group goes into one split as a whole,
    by the hash of its name, so that nothing held out has a relative that is trained on. The shares are then shares of
    the groups. Names must stay when items are added, or the split moves. Without groups each item is its own.

    In a small set a split may come out empty. Then the group whose hash lies nearest to the split's band is moved into
    it: to `train` from wherever there is one, then to `validation` and to `test` (where their shares are not 0) as
    long as `train` and `validation` keep a group. In such a set adding an item may move another; where every split has
    groups of its own, it never does.

    `test` is True for the items that their source itself sets apart: they are the test items, all of them and no
    others, and the rest is split into training and validation.

    Raises:
        ConfigError: not as many group names, or marks of test items, as ids.
    """
    if test is not None:
        if len(test) != len(ids):
            raise ConfigError(f"split: expected one mark for each of {len(ids)} items, got {len(test)}.")
        rest = [position for position, held in enumerate(test) if not held]
        rest_groups = None if groups is None else [groups[k] for k in rest]
        inner = split_items([ids[k] for k in rest], replace(config, test=0.0), rest_groups)
        splits: dict[str, list[int]] = {split: [rest[k] for k in members] for split, members in inner.items()}
        return splits | {"test": [position for position, held in enumerate(test) if held]}
    if groups is not None and len(groups) != len(ids):
        raise ConfigError(f"split: expected one group name for each of {len(ids)} items, got {len(groups)}.")
    names = ids if groups is None else groups
    split_by_name = {
        name: split for split, members in _split(list(dict.fromkeys(names)), config).items() for name in members
    }
    splits = {"train": [], "validation": [], "test": []}
    for position, name in enumerate(names):
        splits[split_by_name[name]].append(position)
    return splits


def _split(names: Sequence[str], config: SplitConfig) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for name in names:
        splits[split_of(name, config)].append(name)
    held = config.test + config.validation
    for split, centre, lenders in (
        ("train", (1 + held) / 2, ("validation", "test")),
        ("validation", config.test + config.validation / 2, ("train", "test")),
        ("test", config.test / 2, ("train", "validation")),
    ):
        if splits[split] or (split != "train" and not getattr(config, split)):
            continue
        least = 0 if split == "train" else 1
        lender = next((other for other in lenders if len(splits[other]) > (least if other != "test" else 0)), None)
        if lender is not None:
            nearest = min(splits[lender], key=lambda name: abs(_place(name, config) - centre))
            splits[lender].remove(nearest)
            splits[split].append(nearest)
    return splits


def sample_seed(seed: int, epoch: int, item_id: str, repeat: int = 0) -> int:
    """The 63-bit seed of one sample; `repeat` counts the times that the item came up in this epoch before."""
    return stable_hash("sample", seed, epoch, item_id, repeat)
