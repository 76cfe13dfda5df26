"""The errors a user can cause. Each message is one line: which file or value, what is wrong, what to do."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator

LONGEST = 1000  # characters of a message
LONGEST_NAME, MANY_NAMES = 200, 20_000  # beyond which no nearest name is looked for


class NumpyVitError(ValueError):
    """What all errors below are: `except NumpyVitError` catches whatever this package says on purpose.

    The command line ends with status 2 for them. Anything else that comes out of this package is a mistake of its own.
    """


class InputError(NumpyVitError):
    """A file, picture, name or number that cannot be used.

    Names and values from files stand in the message: it is made printable, and of a very long one the middle is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shortened(printable(" ".join(message.splitlines()))))


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


def printable(text: str) -> str:
    """Text from outside, safe to show: control characters, and those that turn the direction of writing, are spelled out."""
    return text if text.isprintable() else "".join(map(_spelled, text))


def _spelled(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text without its middle where it is too long: its beginning says what it is about, its end what to do."""
    return text if len(text) <= longest else f"{text[: longest * 2 // 3]} [...] {text[-longest // 4 :]}"


def check_known(what: str, value: object, known: Iterable[str]) -> None:
    """Raise InputError for a value that is not one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{what} {value!r} is not one of {', '.join(known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the closest known name, or nothing where none is close."""
    known = list(known)
    if len(name) > LONGEST_NAME or len(known) > MANY_NAMES:  # to compare them all would take minutes, and help nobody
        return ""
    match = [k for k in known if k.lower() == name.lower()] or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{match[0]}'?" if match else ""
