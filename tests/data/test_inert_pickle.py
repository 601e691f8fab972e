"""Pickles read as data agree with Python's own reading, and what would run code is refused by its name."""

import pickle
import pickletools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import CheckpointError
from data.inert_pickle import Inert, Name, read_pickle

KEYS = st.one_of(st.text(max_size=8), st.integers(), st.floats(allow_nan=False), st.none(), st.booleans())
VALUES = st.recursive(
    st.one_of(KEYS, st.integers(-(1 << 70), 1 << 70)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_of_every_protocol_come_back(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol), makers={}, inert=frozenset()) == value


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.frozensets(st.integers(), max_size=5)), st.sampled_from([4, 5]))
def test_bytes_and_sets_come_back(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol), makers={}, inert=frozenset()) == value


def test_a_value_used_twice_is_one_value():
    inner = ["shared"]
    first, second = read_pickle(pickle.dumps([inner, inner]), makers={}, inert=frozenset())
    assert first is second


class Settings(dict):
    """Stands for a class that whoever reads the file does not have."""


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_expected_class_becomes_an_inert_object(protocol):
    made = Settings(width=3)
    made.frozen = True
    name = f"{Settings.__module__}.{Settings.__qualname__}"
    found = read_pickle(pickle.dumps({"s": made, "kind": Settings}, protocol), makers={}, inert=frozenset([name]))
    assert found["kind"] == Name(name)
    assert isinstance(found["s"], Inert)
    assert (found["s"].kind, found["s"].items, found["s"].state) == (name, {"width": 3}, {"frozen": True})


def test_a_maker_is_given_the_arguments_in_place_of_what_is_named():
    content = pickle.dumps(complex(1, 2), 2)
    assert read_pickle(content, makers={"builtins.complex": lambda args: args}, inert=frozenset()) == (1.0, 2.0)


def test_what_two_protocols_call_by_other_names_is_the_same():
    content = pickle.dumps([int, dict, str, OSError], 2)
    names = frozenset(["builtins.int", "builtins.dict", "builtins.str", "builtins.OSError", "exceptions.OSError"])
    found = read_pickle(content, makers={}, inert=names)
    assert [name.text for name in found[:3]] == ["builtins.int", "builtins.dict", "builtins.str"]


BROKEN = {
    "nothing": b"",
    "no pickle": b"hello there",
    "no end": pickle.dumps([1, 2, 3])[:-1],
    "nothing on the stack": b".",
    "two values": b"K\x01K\x02.",
    "a mark as value": b"(.",
    "an unknown memo": b"j\x07\x00\x00\x00.",
    "items of a number": b"K\x01(K\x02K\x03u.",
    "half an item": b"}(K\x01u.",
    "elements of a dictionary": b"}K\x01a.",
    "a text longer than the file": b"X\xff\xff\xff\x7fabc.",
    "a call of a number": b"K\x01)R.",
    "a list as key": b"}]K\x01s.",
    "a tuple as key": b"}K\x01\x85K\x01s.",
    "attributes of a number": b"K\x01}b.",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pickle_is_said_to_be_broken(content):
    with pytest.raises(CheckpointError, match="pickle is broken"):
        read_pickle(content, makers={}, inert=frozenset())


UNUSED = {
    "INST": b"(S'echo'\nios\nsystem\n.",
    "OBJ": b"(NS'echo'\no.",
    "EXT1": b"\x82\x01.",
    "PERSID": b"Pabc\n.",
    "NEWOBJ_EX": b"\x8c\x01aK\x01}\x92.",
    "BYTEARRAY8": b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a.",
    "NEXT_BUFFER": b"\x97.",
}


@pytest.mark.parametrize("opcode", UNUSED)
def test_an_opcode_that_weights_do_not_need_is_refused(opcode):
    content = UNUSED[opcode]
    assert opcode in [found.name for found, _, _ in pickletools.genops(content)]
    with pytest.raises(CheckpointError, match=opcode):
        read_pickle(content, makers={}, inert=frozenset())


def test_too_deep_is_no_crash():
    deep = b"]" * 200_000 + b"a" * 199_999 + b"."
    assert isinstance(read_pickle(deep, makers={}, inert=frozenset()), list)


def test_size_is_bounded(monkeypatch):
    with pytest.raises(CheckpointError, match="more than"):
        read_pickle(b"N" * (17 << 20), makers={}, inert=frozenset())
    monkeypatch.setattr("data.inert_pickle.MAX_OPCODES", 1000)
    with pytest.raises(CheckpointError, match="steps"):
        read_pickle(b"N0" * 600 + b"N.", makers={}, inert=frozenset())


def test_outside_values_are_refused_unless_asked_for():
    content = b"K\x07Q."
    assert read_pickle(content, makers={}, inert=frozenset(), stored=lambda identity: -identity) == -7
    with pytest.raises(CheckpointError, match="outside itself"):
        read_pickle(content, makers={}, inert=frozenset())
