"""Contigs: what a scaffold is made of, in the words of RFdiffusion.

"10-40/A163-181/10-40" is 10 to 40 new residues, residues 163 to 181 of chain A, and 10 to 40 new ones. A space, or
"/0 ", ends a chain and begins the next. "A163" is one residue, "A" a whole chain; insertion codes ("A100A-102"),
negative numbers ("A-3-5") and chain names with digits ("A1:10-20") are understood.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from data.batch import Backbone
from data.errors import ConfigError
from modules.layers.random import mix

LENGTH_STREAM = 41
"""Separates the draw of lengths from the other draws of a sample's seed."""
LONGEST = 10_000
"""Residues; a longer stretch is taken for a slip of the pen."""

_NUMBER = r"-?\d+[A-Za-z]?"
_FREE = re.compile(r"(\d+)(?:-(\d+))?")
_KEPT = re.compile(rf"(?:([^\s:/]+):|([A-Za-z_]+))(?:({_NUMBER})(?:-({_NUMBER}))?)?")


@runtime_checkable
class GivenChain(Protocol):
    """A chain that a contig can take residues from."""

    @property
    def name(self) -> str: ...

    @property
    def backbone(self) -> Backbone: ...

    @property
    def numbers(self) -> Sequence[str]:
        """The author's residue numbers with insertion code, one per residue of `backbone`."""
        ...


@dataclass(frozen=True)
class Free:
    """A stretch to generate, of `least` to `most` residues."""

    least: int
    most: int


@dataclass(frozen=True)
class Kept:
    """Residues `first` to `last` of a given chain, as its author numbers them; None for the chain's end."""

    chain: str
    first: str | None
    last: str | None
    position: int
    """Where it stands in the contig's text, from 0."""

    def __str__(self) -> str:
        colon = ":" if re.search(r"\d", self.chain) else ""
        numbers = [n for n in (self.first, self.last) if n is not None]
        return self.chain + colon + "-".join(numbers[:1] if self.first == self.last else numbers)


@dataclass(frozen=True)
class Layout:
    """A contig with its lengths drawn: where each residue of the design comes from."""

    given: Int[np.ndarray, " residue"]
    """Position of the given chain in the list; -1 where the residue is to be generated."""
    place: Int[np.ndarray, " residue"]
    """Position of the residue in that chain; -1 where it is to be generated."""
    chain: Int[np.ndarray, " residue"]
    """Chain of the design, from 0."""
    residue_index: Int[np.ndarray, " residue"]
    """From 1 in each chain of the design."""

    def __len__(self) -> int:
        return len(self.given)

    @property
    def fixed(self) -> Bool[np.ndarray, " residue"]:
        """True where the residue is given."""
        return self.given >= 0


@dataclass(frozen=True)
class Contig:
    """A parsed contig: the stretches of each chain of the design."""

    text: str
    chains: tuple[tuple[Free | Kept, ...], ...]

    def layout(self, given: Sequence[GivenChain], *, seed: int = 0, total: tuple[int, int] | None = None) -> Layout:
        """The contig on `given` chains, with lengths drawn from `seed`.

        Every choice of lengths within the ranges (and with `total` residues in all, from the least to the most) is as
        likely as any other.

        Raises:
            ConfigError: a chain or residue that is not given, has gaps, or lacks N, CA or C; a residue used twice;
                no lengths that make `total`.
        """
        picked = [[_pick(self, part, given) if isinstance(part, Kept) else part for part in c] for c in self.chains]
        _refuse_reuse(self, [part for chain in picked for part in chain if not isinstance(part, Free)], given)
        free = [part for chain in picked for part in chain if isinstance(part, Free)]
        kept = sum(len(part.places) for chain in picked for part in chain if not isinstance(part, Free))
        lengths = iter(self._lengths(free, kept, seed, total))
        columns: list[tuple[int, int, int, int]] = []
        for c, chain in enumerate(picked):
            index = 1
            for part in chain:
                source = (
                    [(-1, -1)] * next(lengths) if isinstance(part, Free) else [(part.given, p) for p in part.places]
                )
                columns += [(g, p, c, index + k) for k, (g, p) in enumerate(source)]
                index += len(source)
        if not columns:
            raise ConfigError(f"contig '{self.text}' makes no residue; ask for at least one.")
        given_at, place, chain_at, residue_index = np.array(columns, dtype=np.int64).T.copy()
        return Layout(given_at, place, chain_at, residue_index)

    def _lengths(self, free: list[Free], kept: int, seed: int, total: tuple[int, int] | None) -> list[int]:
        least, most = sum(part.least for part in free), sum(part.most for part in free)
        low, high = (least, most) if total is None else (max(least, total[0] - kept), min(most, total[1] - kept))
        if low > high:
            raise ConfigError(
                f"contig '{self.text}' makes {least + kept} to {most + kept} residues, and {total} in all were asked "
                "for; widen the lengths of the contig or the total."
            )
        return draw_lengths(free, low, high, seed=seed)


def draw_lengths(free: Sequence[Free], low: int, high: int, *, seed: int) -> list[int]:
    """One length for each stretch, `low` to `high` residues together; every such choice is as likely as any other."""
    # ways[k][n]: choices for the stretches from the k-th on that have n residues together; exact integers.
    ways = [[1] + [0] * high]
    for part in reversed(free):
        sums = [0, *accumulate(ways[-1])]
        ways.append([sums[max(0, n - part.least + 1)] - sums[max(0, n - part.most)] for n in range(high + 1)])
    ways.reverse()
    # One integer numbers all choices; it is unfolded from the total to the last stretch.
    rank = Random(mix(seed, LENGTH_STREAM)).randrange(sum(ways[0][low:]))
    left, rank = _unfold(rank, ((n, ways[0][n]) for n in range(low, high + 1)))
    lengths = []
    for k, part in enumerate(free):
        options = ((n, ways[k + 1][left - n]) for n in range(part.least, min(part.most, left) + 1))
        length, rank = _unfold(rank, options)
        lengths.append(length)
        left -= length
    return lengths


def _unfold(rank: int, options: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """The option that holds number `rank` when each takes as many numbers as it has ways, and the rank within it."""
    for option, ways in options:
        if rank < ways:
            return option, rank
        rank -= ways
    raise AssertionError("a rank beyond the number of ways")


def parse_contig(text: str) -> Contig:
    """The contig that `text` spells; see the head of this module.

    Raises:
        ConfigError: where it cannot be read, with the place and what was expected there.
    """
    body = re.sub(r"[\[\]'\"]", " ", text)  # as RFdiffusion's command line has them; places stay the same
    chains: list[tuple[Free | Kept, ...]] = []
    for word in re.finditer(r"\S+", body):
        parts: list[Free | Kept] = []
        position = word.start()
        pieces = word.group().split("/")
        for k, piece in enumerate(pieces):
            if piece == "0" and k == len(pieces) - 1 and parts:
                break  # RFdiffusion's mark of a chain's end
            parts.append(_part(text, piece, position))
            position += len(piece) + 1
        chains.append(tuple(parts))
    if not chains:
        raise ConfigError(f"the contig '{text}' is empty; write for example 10-40/A163-181/10-40.")
    return Contig(text, tuple(chains))


def _part(text: str, piece: str, position: int) -> Free | Kept:
    def refuse(why: str) -> ConfigError:
        return ConfigError(f"contig '{text}', at character {position + 1}, '{piece}': {why}")

    if free := _FREE.fullmatch(piece):
        least, most = int(free[1]), int(free[2] or free[1])
        if piece == "0":
            raise refuse("0 ends a chain and stands last, before a space, as in A1-50/0 60.")
        if least > most:
            raise refuse(f"the range runs backwards; write {most}-{least}.")
        if most > LONGEST:
            raise refuse(f"at most {LONGEST} residues fit in one stretch.")
        return Free(least, most)
    if kept := _KEPT.fullmatch(piece):
        named, letters, first, last = kept.groups()
        return Kept(named or letters, first, last or first, position)
    if not piece:
        raise refuse("there is nothing between two slashes; drop one of them.")
    raise refuse("expected a length (20), a range of lengths (10-40), or residues of the given file (A163-181).")


@dataclass(frozen=True)
class _Picked:
    """Residues found in a given chain."""

    part: Kept
    given: int
    places: range


def _pick(contig: Contig, part: Kept, given: Sequence[GivenChain]) -> _Picked:
    """The residues that `part` names, all of them there, in one piece, with N, CA and C."""

    def refuse(why: str) -> ConfigError:
        return ConfigError(f"contig '{contig.text}', at character {part.position + 1}, '{part}': {why}")

    names = [chain.name for chain in given]
    if names.count(part.chain) != 1:
        listed = ", ".join(names) or "none"
        if part.chain in names:
            raise refuse(f"the file has several chains called '{part.chain}' ({listed}); give a file with one of them.")
        raise refuse(f"the file has no chain '{part.chain}'; its chains are {listed}. Case matters.")
    which = names.index(part.chain)
    chain = given[which]
    numbers = list(chain.numbers)

    def find(number: str) -> int:
        if number not in numbers:
            raise refuse(f"chain {chain.name} has no residue {number}; it has {_runs(chain)}.")
        return numbers.index(number)

    begin = 0 if part.first is None else find(part.first)
    end = len(numbers) - 1 if part.last is None else find(part.last)
    if begin > end:
        raise refuse(f"residue {part.first} comes after {part.last} in chain {chain.name}; turn the range around.")
    index = chain.backbone.residue_index[begin : end + 1]
    if breaks := np.flatnonzero(np.diff(index) != 1).tolist():
        after, before = numbers[begin + breaks[0]], numbers[begin + breaks[0] + 1]
        absent = int(index[breaks[0] + 1] - index[breaks[0]]) - 1
        name = _prefix(chain.name)
        raise refuse(
            f"the chain is broken between residues {after} and {before}; bridge the gap by new residues, as in "
            f"{name}{numbers[begin]}-{after}/{absent}-{absent + 4}/{name}{before}-{numbers[end]}."
        )
    resolved = chain.backbone.resolved[begin : end + 1]
    if not resolved.all():
        lacking = ", ".join(numbers[begin + int(k)] for k in np.flatnonzero(~resolved)[:5])
        raise refuse(f"N, CA or C is missing in residue {lacking}; leave it out of the contig.")
    return _Picked(part, which, range(begin, end + 1))


def _refuse_reuse(contig: Contig, picked: list[_Picked], given: Sequence[GivenChain]) -> None:
    seen: dict[tuple[int, int], Kept] = {}
    for pick in picked:
        for place in pick.places:
            if (before := seen.setdefault((pick.given, place), pick.part)) is not pick.part:
                number = given[pick.given].numbers[place]
                raise ConfigError(
                    f"contig '{contig.text}', at character {pick.part.position + 1}, '{pick.part}': residue {number} "
                    f"of chain {pick.part.chain} is already in '{before}'; use each once."
                )


def _prefix(name: str) -> str:
    return f"{name}:" if re.search(r"\d", name) else name


def _runs(chain: GivenChain) -> str:
    """The chain's residues in words: "2-45, 51-106"."""
    index, numbers = chain.backbone.residue_index, chain.numbers
    if not len(index):
        return "none"
    cuts = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
    runs = [f"{numbers[a]}-{numbers[b - 1]}" if b - a > 1 else numbers[a] for a, b in pairwise(cuts)]
    return ", ".join([*runs[:6], "…"] if len(runs) > 6 else runs)
