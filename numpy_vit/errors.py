"""The errors a user can cause. Each message is one line: which file or value, what is wrong, what to do."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

LONGEST = 1000  # characters of a message
LONGEST_NAME, MANY_NAMES = 200, 20_000  # beyond which no nearest name is looked for


class NumpyVitError(ValueError):
    """What all errors below are: `except NumpyVitError` catches whatever this package says on purpose.

    The command line ends with status 2 for them. Anything else that comes out of this package is a mistake of its own.
    Names and values from files stand in the message: it is made one line, printable, and not too long.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InputError(NumpyVitError):
    """A file, picture, name or number that cannot be used."""


class ShapeError(NumpyVitError):
    """A step whose array is not of the shape or dtype it declares."""


class InvariantError(NumpyVitError):
    """A step of the right shape that breaks a property it must have (checked with `strict=True`)."""


@contextlib.contextmanager
def about(what: object) -> Iterator[None]:
    """Whatever InputError the block raises says first which file, or model, it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def check_known(what: str, value: object, known: Iterable[str]) -> None:
    """Raise InputError for a value that is not one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{what} {in_words(value)} is not one of {', '.join(known)}")


def check_kind(what: str, value: object, kind: Any, instead: str) -> None:
    """Raise InputError for a value that is not of this type: it says what was given, and what to give instead."""
    if not isinstance(value, kind):
        raise InputError(f"{what} is {in_words(value)}: give {instead}")


def in_words(value: object) -> str:
    """What somebody gave, in a few words: text and numbers as they are, arrays by shape, whatever else by its type."""
    if value is None or isinstance(value, str | bytes | float | bool):
        return shortened(repr(value), 60)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a number of many digits"
    if isinstance(value, tuple | list) and len(value) <= 4 and all(isinstance(item, str | int | float) for item in value):
        return shortened(repr(value), 60)
    module = type(value).__module__.split(".")[0]
    name = type(value).__name__ if module == "builtins" else f"{module}.{type(value).__name__}"
    shape = getattr(value, "shape", None)
    array = f" {tuple(shape)} of {getattr(value, 'dtype', '?')}" if isinstance(shape, tuple) else ""
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}{array}"


def one_line(text: str) -> str:
    """A message as it is shown: on one line, without control characters, not too long."""
    return shortened(printable(" ".join(text.splitlines())))


def printable(text: str) -> str:
    """Text from outside, safe to show: control characters, and those that turn the direction of writing, are spelled out."""
    return text if text.isprintable() else "".join(map(_spelled, text))


def _spelled(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text without its middle where it is too long: its beginning says what it is about, its end what to do."""
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]} [...] {text[-longest // 4 :]}"


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """ "; did you mean 'x'?" for the closest known name, or nothing where none is as much `alike` (of 1)."""
    known = list(known)
    if len(name) > LONGEST_NAME or len(known) > MANY_NAMES:  # to compare them all would take minutes, and help nobody
        return ""
    match = [k for k in known if k.lower() == name.lower()] or difflib.get_close_matches(name, known, n=1, cutoff=alike)
    return f"; did you mean '{match[0]}'?" if match else ""
