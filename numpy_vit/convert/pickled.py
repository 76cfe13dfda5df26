"""A pickle read by a machine of our own, which can build plain data and nothing else.

A pickle is a program for a small stack machine: its opcodes build numbers, texts and containers, name functions, and call them
(Lib/pickletools.py lists them all). Python's own machine believes it: one opcode of nine bytes asks for gigabytes, a dict whose
key is a tuple of tuples of tuples takes for ever to hash, and attributes of any function can be set. The machine here knows the
opcodes that checkpoints need, looks at each before it is done, and is handed a table of the few names that may be named: what
stands there is ours and harmless.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import InputError

MOST_OPCODES = 2_000_000  # a training checkpoint of a thousand tensors with its optimizer has some 200,000
LONGEST_LINE = 1000  # of names and numbers in text
LONGEST_NUMBER = 16  # bytes of a whole number
DONE = object()


class Function(NamedTuple):
    """What a name in a pickle stands for: it is called with what the pickle's arguments are."""

    name: str
    call: Callable[..., Any]


class Inert:
    """What is not needed: it takes whatever is done to it."""


INERT = Inert()


class Scripted(dict[str, Any]):
    """An object whose attributes count: a module of a TorchScript archive."""


Names = Callable[[str, str], Any]  # module, name -> what stands for it; raises InputError
Storages = Callable[[Any], Any]  # persistent id -> what stands for it


class Machine:
    """One pickle in `data`, from `at` on. `run` gives what it builds; `at` is then where it ends.

    Raises InputError for what is cut, damaged, or asks for what no checkpoint needs.
    """

    def __init__(self, data: memoryview, names: Names, storages: Storages, at: int = 0) -> None:
        self.data, self.names, self.storages, self.at = data, names, storages, at
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MOST_OPCODES):
            code = self.take(1)
            done = OPCODES.get(code)
            if done is None:
                raise InputError(f"its pickle has the opcode {code!r} at byte {self.at - 1}, which no checkpoint needs")
            if done(self) is DONE:
                return self.pop()
        raise InputError(f"its pickle has more than {MOST_OPCODES:,} opcodes: no checkpoint's")

    # what is read

    def take(self, count: int) -> bytes:
        piece = bytes(self.data[self.at : self.at + count])
        if count < 0 or len(piece) != count:
            raise InputError("its pickle is cut")
        self.at += count
        return piece

    def line(self) -> str:
        text, newline, _ = bytes(self.data[self.at : self.at + LONGEST_LINE]).partition(b"\n")
        if not newline:
            raise InputError("its pickle is cut")
        self.at += len(text) + 1
        return text.decode()

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def whole(self, length: int) -> int:
        if not 0 <= length <= LONGEST_NUMBER:
            raise InputError(f"its pickle has a whole number of {length} bytes")
        return int.from_bytes(self.take(length), "little", signed=True)

    # what is done

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise InputError("its pickle takes what is not there")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise InputError("its pickle takes what is not there")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_tuple(self, count: int) -> None:
        items = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def top(self) -> Any:
        self.push(value := self.pop())
        return value

    def put(self, place: int) -> None:
        self.memo[place] = self.top()

    def get(self, place: int) -> None:
        if place not in self.memo:
            raise InputError("its pickle takes what is not there")
        self.push(self.memo[place])

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(items)
        elif target is not INERT:
            raise InputError("its pickle appends to what is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if target is INERT:
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise InputError("its pickle sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def dict_of(self, items: list[Any]) -> None:
        self.push({})
        self.set_items(items)

    def frozen_set(self) -> None:
        self.pop_mark()
        self.push(INERT)

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise InputError("its pickle names what is no name")
        self.push(self.names(module, name))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, Function):
            raise InputError("its pickle calls what is no function")
        try:
            self.push(function.call(*arguments))
        except TypeError as error:
            raise InputError(f"its pickle calls {function.name} with other arguments than it has") from error

    def build(self) -> None:
        """The state of an object. That of containers and tensors is of no use here; to give a function one is an attack."""
        state, target = self.pop(), self.top()
        if isinstance(target, Function):
            raise InputError(f"its pickle changes {target.name}, which is no data")
        if isinstance(target, Scripted) and isinstance(state, dict):
            target.update(state)

    def text_number(self) -> None:
        text = self.line().removesuffix("L")
        self.push(text == "01" if text in ("00", "01") else written_number(text))

    def place(self) -> int:
        return written_number(self.line())


def written_number(text: str) -> int:
    if len(text) > 40 or not text.removeprefix("-").isdecimal():
        raise InputError("its pickle has a number that is none")
    return int(text)


def checked_key(key: Any) -> Any:
    """A dict's key: a number, a text, or a few of them. Others can take for ever to hash, and name no tensor."""
    simple = str | bytes | int | float | None
    if isinstance(key, simple) or (type(key) is tuple and len(key) <= 8 and all(isinstance(part, simple) for part in key)):
        return key
    raise InputError("its pickle has a dict with keys that are neither texts nor numbers: save the state dict alone")


def counted(kind: Callable[[bytes], Any], form: str) -> Callable[[Machine], Any]:
    """An opcode that pushes as many bytes as the number before them says."""
    return lambda m: m.push(kind(m.take(m.number(form))))


OPCODES: Mapping[bytes, Callable[[Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b".": lambda m: DONE,
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": lambda m: m.pop() if len(m.stack) > (m.marks[-1] if m.marks else 0) else m.pop_mark(),
    b"1": lambda m: m.pop_mark(),
    b"2": lambda m: m.push(m.top()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": lambda m: m.text_number(),
    b"L": lambda m: m.text_number(),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(m.whole(m.number("<B"))),
    b"\x8b": lambda m: m.push(m.whole(m.number("<i"))),
    b"F": lambda m: m.push(float(m.line())),
    b"G": lambda m: m.push(m.number(">d")),
    b"V": lambda m: m.push(m.line()),
    b"S": lambda m: m.push(m.line()[1:-1]),
    b"X": counted(bytes.decode, "<I"),
    b"\x8c": counted(bytes.decode, "<B"),
    b"\x8d": counted(bytes.decode, "<Q"),
    b"T": counted(lambda data: data.decode("latin-1"), "<i"),
    b"U": counted(lambda data: data.decode("latin-1"), "<B"),
    b"B": counted(bytes, "<I"),
    b"C": counted(bytes, "<B"),
    b"\x8e": counted(bytes, "<Q"),
    b"\x96": counted(bytes, "<Q"),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": lambda m: m.pop_tuple(1),
    b"\x86": lambda m: m.pop_tuple(2),
    b"\x87": lambda m: m.pop_tuple(3),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.pop_mark()),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_mark()),
    b"}": lambda m: m.push({}),
    b"d": lambda m: m.dict_of(m.pop_mark()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x8f": lambda m: m.push(INERT),  # a set: it holds no tensors
    b"\x90": lambda m: m.append(m.pop_mark()),
    b"\x91": lambda m: m.frozen_set(),
    b"c": lambda m: m.named(m.line(), m.line()),
    b"\x93": lambda m: m.named(*[m.pop(), m.pop()][::-1]),
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.call(),  # NEWOBJ
    b"b": lambda m: m.build(),
    b"p": lambda m: m.put(m.place()),
    b"q": lambda m: m.put(m.number("<B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"g": lambda m: m.get(m.place()),
    b"h": lambda m: m.get(m.number("<B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"Q": lambda m: m.push(m.storages(m.pop())),
}
