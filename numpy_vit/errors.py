"""The errors a user can cause. Each message is one line: which file or value, what is wrong, what to do."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class NumpyVitError(ValueError):
    """What all errors below are: `except NumpyVitError` catches whatever this package says on purpose.

    The command line ends with status 2 for them. Anything else that comes out of this package is a mistake of its own.
    """


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
        raise InputError(f"{what} {value!r} is not one of {', '.join(known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the closest known name, or nothing where none is close."""
    known = list(known)
    match = [k for k in known if k.lower() == name.lower()] or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{match[0]}'?" if match else ""
