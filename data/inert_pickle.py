"""Reads pickles as data: the names in them are never looked up and nothing in them is called.

Python's own unpickler imports what a file names and calls it, which is how a hostile file runs code. Here a small stack
machine goes through the opcodes (decoded by `pickletools`, which only decodes) and builds numbers, text, lists and
dictionaries. A class or function of the file stays a `Name`; an object of one is an `Inert`, or what the caller's own
functions make of its arguments. A name that the caller does not expect ends the reading.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from data.errors import CheckpointError

MAX_BYTES = 16 << 20
"""A pickle of a few thousand tensors' descriptions is below a megabyte; one opcode can make 64 bytes of memory."""
MAX_OPCODES = 5_000_000
OLD_NAMES = {"__builtin__.long": "builtins.int", "__builtin__.unicode": "builtins.str"}
"""What Python 2, and so pickles of protocol 2, call them; of all others only the module `__builtin__` differs."""


@dataclass(frozen=True)
class Name:
    """A class or function that the pickle names, as text."""

    text: str
    """With its module: "collections.OrderedDict"."""


@dataclass(eq=False)
class Inert:
    """An object of the pickle: its class as text, and what its making was given."""

    kind: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


Maker = Callable[[tuple[Any, ...]], Any]


def read_pickle(
    content: bytes,
    *,
    makers: Mapping[str, Maker],
    inert: frozenset[str],
    stored: Callable[[Any], Any] | None = None,
) -> Any:
    """The value that a pickle describes.

    Args:
        content: the pickle's bytes.
        makers: name → function of ours that is given the arguments in place of what the pickle names.
        inert: names that may stand as values, and whose objects become `Inert`.
        stored: what a persistent id stands for; without it such ids are refused.

    Raises:
        CheckpointError: a name that is in neither, a broken pickle, or one too large to be what it should be.
    """
    if len(content) > MAX_BYTES:
        raise CheckpointError(f"its pickle has {len(content)} bytes, more than the {MAX_BYTES} that are read.")
    machine = _Machine(makers, inert, stored)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count > MAX_OPCODES:
                raise CheckpointError(f"its pickle has more than {MAX_OPCODES} steps.")
            machine.run(opcode.name, argument)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"its pickle is broken ({type(error).__name__}: {str(error)[:200]}).") from None
    return machine.result()


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_LITERALS = frozenset([*_NUMBERS, *_TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"])
_SKIPPED = frozenset(["PROTO", "FRAME", "STOP"])
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
Key = str | int | float | bytes | None
"""Of dictionaries and sets: hashing a deeply nested tuple could exhaust the stack."""


class _Machine:
    """The stack and memo of one reading; each opcode is a method of its name in small letters."""

    def __init__(self, makers: Mapping[str, Maker], inert: frozenset[str], stored: Callable[[Any], Any] | None) -> None:
        self.makers, self.inert, self.stored = makers, inert, stored
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise CheckpointError(f"its pickle is broken ({len(self.stack)} values at its end instead of one).")
        return self.stack[0]

    def run(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _EMPTY:
            self.stack.append(_EMPTY[opcode]())
        elif opcode in _TUPLES:
            self.stack.append(tuple(self._several(_TUPLES[opcode])))
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self._top()
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif opcode not in _SKIPPED:
            step = getattr(self, f"op_{opcode.lower()}", None)
            if step is None:
                raise CheckpointError(f"its pickle uses {opcode}, which no weights need.")
            step(argument)

    # -- the stack

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def _top(self) -> Any:
        if self.stack[-1] is _MARK:
            raise ValueError("a mark where a value should be")
        return self.stack[-1]

    def _several(self, count: int) -> list[Any]:
        return [self._pop() for _ in range(count)][::-1]

    def _marked(self) -> list[Any]:
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def op_pop(self, _: Any) -> None:
        self.stack.pop()

    def op_pop_mark(self, _: Any) -> None:
        self._marked()

    def op_dup(self, _: Any) -> None:
        self.stack.append(self._top())

    def op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self._top()

    # -- containers

    def op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def op_list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def op_dict(self, _: Any) -> None:
        values = self._marked()
        self.stack.append({})
        self._set_items(values)

    def op_frozenset(self, _: Any) -> None:
        self.stack.append({_key(value) for value in self._marked()})

    def op_append(self, _: Any) -> None:
        self._extend([self._pop()])

    def op_appends(self, _: Any) -> None:
        self._extend(self._marked())

    def op_setitem(self, _: Any) -> None:
        self._set_items(self._several(2))

    def op_setitems(self, _: Any) -> None:
        self._set_items(self._marked())

    def op_additems(self, _: Any) -> None:
        values, target = self._marked(), self._top()
        if not isinstance(target, set):
            raise ValueError("members of what is no set")
        target.update(_key(value) for value in values)

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Inert):
            target.elements.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise ValueError("elements of what is no list")

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        items = target.items if isinstance(target, Inert) else target
        if not isinstance(items, dict) or len(values) % 2:
            raise ValueError("items of what is no dictionary")
        items.update((_key(key), value) for key, value in zip(values[::2], values[1::2], strict=True))

    # -- names and objects

    def op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push_name(module, name)

    def op_stack_global(self, _: Any) -> None:
        module, name = self._several(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        text = f"{module}.{name}"
        text = OLD_NAMES.get(text, f"builtins.{name}" if module == "__builtin__" else text)
        if text not in self.makers and text not in self.inert:
            raise CheckpointError(
                f"it asks for {text[:200]!r}, which weights and their configuration do not need: "
                "a file that could run code is not read. Nothing of it was run."
            )
        self.stack.append(Name(text))

    def op_reduce(self, _: Any) -> None:
        self._make(*self._several(2))

    def op_newobj(self, _: Any) -> None:
        self._make(*self._several(2))

    def _make(self, kind: Any, args: Any) -> None:
        if not isinstance(kind, Name) or not isinstance(args, tuple):
            raise ValueError("an object of what is no class")
        maker = self.makers.get(kind.text)
        self.stack.append(Inert(kind.text, args) if maker is None else maker(args))

    def op_build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):  # the attributes of an ordered dictionary say nothing that is needed
            raise ValueError("attributes of a plain value")

    def op_binpersid(self, _: Any) -> None:
        identity = self._pop()
        if self.stored is None:
            self._refuse_storage()
        self.stack.append(self.stored(identity))

    def _refuse_storage(self) -> NoReturn:
        raise CheckpointError("its pickle points outside itself, where nothing was expected.")


def _key(value: Any) -> Key:
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    raise ValueError(f"a key that is a {type(value).__name__}")
