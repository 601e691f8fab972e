"""Contigs: what they say, what is drawn from them, and what a user who mistypes one is told."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from data.batch import Backbone
from data.errors import ConfigError
from modules.protein.contig import Free, Kept, draw_lengths, parse_contig


@dataclass(frozen=True)
class Given:
    name: str
    backbone: Backbone
    numbers: tuple[str, ...]


def given(name: str, numbers: list[str], index: list[int] | None = None, unresolved: tuple[int, ...] = ()) -> Given:
    length = len(numbers)
    present = np.ones((length, 4), dtype=bool)
    present[list(unresolved), 0] = False
    backbone = Backbone(
        atoms=np.random.default_rng(0).normal(size=(length, 4, 3)).astype(np.float32),
        present=present,
        chain=np.zeros(length, dtype=np.int64),
        residue_index=np.array(index or range(1, length + 1)),
        residue_type=np.arange(length) % 20,
    )
    return Given(name, backbone, tuple(numbers))


A = given("A", [str(n) for n in range(100, 150)])
SMALL = given("a", ["-2", "-1", "0", "1", "1A", "1B", "2"])
BROKEN = given("B", ["5", "6", "7", "12", "13", "14"], [1, 2, 3, 8, 9, 10], unresolved=(4,))
MANY = [A, SMALL, BROKEN]


def test_a_contig_says_what_it_says():
    contig = parse_contig("10-40/A163-181/10")
    assert contig.chains == ((Free(10, 40), Kept("A", "163", "181", 6), Free(10, 10)),)


@pytest.mark.parametrize(
    "text",
    ["5/A100-102 A110-111/3", "5/A100-102/0 A110-111/3", "['5/A100-102/0 A110-111/3']", "5/A100-102/0 A110-111/3/0"],
)
def test_a_space_begins_a_chain(text: str):
    layout = parse_contig(text).layout([A])
    assert layout.chain.tolist() == [0] * 8 + [1] * 5
    assert layout.residue_index.tolist() == [*range(1, 9), *range(1, 6)]
    assert layout.place.tolist() == [-1] * 5 + [0, 1, 2, 10, 11] + [-1] * 3


def test_residues_are_found_by_their_author_numbers():
    def numbers(text: str) -> list[str]:
        layout = parse_contig(text).layout(MANY)
        return [MANY[g].numbers[p] for g, p in zip(layout.given, layout.place, strict=True)]

    assert numbers("a-2-1A") == ["-2", "-1", "0", "1", "1A"]
    assert numbers("a1A-1B/A149") == ["1A", "1B", "149"]
    assert numbers("a:-1-0") == ["-1", "0"]
    assert numbers("a") == list(SMALL.numbers)
    assert parse_contig("A1:3-4").layout([given("A1", ["3", "4"])]).place.tolist() == [0, 1]


def test_a_length_belongs_to_its_seed():
    contig = parse_contig("10-40/A100-119/10-40")
    lengths = [len(contig.layout([A], seed=seed)) for seed in range(40)]
    assert lengths == [len(contig.layout([A], seed=seed)) for seed in range(40)]
    assert len(set(lengths)) > 10
    assert all(40 <= n <= 100 for n in lengths)


@pytest.mark.parametrize(("low", "high"), [(3, 11), (7, 8), (10, 10)])
def test_every_choice_of_lengths_is_as_likely(low: int, high: int):
    """Against enumeration of all choices; Pearson's test."""
    stretches, count = [Free(1, 3), Free(0, 4), Free(2, 4)], 4000
    drawn = Counter(tuple(draw_lengths(stretches, low, high, seed=seed)) for seed in range(count))
    options = [(a, b, c) for a in (1, 2, 3) for b in range(5) for c in (2, 3, 4) if low <= a + b + c <= high]
    assert set(drawn) == set(options)
    assert stats.chisquare([drawn[option] for option in options]).pvalue > 1e-3


def test_a_total_is_kept():
    contig = parse_contig("5-30/A100-109/5-30")
    lengths = {len(contig.layout([A], seed=seed, total=(35, 37))) for seed in range(30)}
    assert lengths == {35, 36, 37}


def test_long_contigs_are_drawn_too():
    """Forty stretches of up to a hundred residues: more choices than an integer of the machine holds."""
    text = "/".join(["0-100"] * 40)
    lengths = [len(parse_contig(text).layout([], seed=seed)) for seed in range(20)]
    assert 1700 < np.mean(lengths) < 2300
    assert len(parse_contig(text).layout([], seed=1, total=(4000, 4000))) == 4000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("10-40//5", r"at character 7, ''.*between two slashes"),
        ("10-40/A163-18x1/5", r"at character 7, 'A163-18x1': expected a length"),
        ("40-10", r"at character 1.*backwards; write 10-40"),
        ("0/A100", r"at character 1, '0'"),
        ("5,A100", "expected a length"),
        ("5-99999", "at most"),
        ("0-0", "no residue"),
        ("5/C1-4", r"at character 3, 'C1-4': the file has no chain 'C'; its chains are A, a, B. Case matters"),
        ("A99-101", "no residue 99; it has 100-149"),
        ("B5-8", "no residue 8; it has 5-7, 12-14"),
        ("A120-110", "turn the range around"),
        ("B5-12", r"broken between residues 7 and 12.*B5-7/4-8/B12-12"),
        ("B12-14", "N, CA or C is missing in residue 13"),
        ("A100-110/5/A110-112", r"at character 12, 'A110-112': residue 110 of chain A is already in 'A100-110'"),
    ],
)
def test_mistakes_are_named_with_their_place(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_contig(text).layout(MANY)


def test_lengths_that_cannot_be_made_are_refused():
    with pytest.raises(ConfigError, match="makes 15 to 30 residues, and"):
        parse_contig("5-20/A100-109").layout([A], total=(40, 50))


def test_two_chains_of_one_name_cannot_be_told_apart():
    with pytest.raises(ConfigError, match="several chains called 'A'"):
        parse_contig("A100").layout([A, A])
