"""The errors a user can cause. Each message is one line: which file or value, what is wrong, what to do."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    """A file, picture, name or number that cannot be used. The command line turns it into exit status 2."""


class ShapeError(ValueError):
    """A step whose array is not of the shape or dtype it declares."""


class InvariantError(ValueError):
    """A step of the right shape that breaks a property it must have (checked with `strict=True`)."""


@contextlib.contextmanager
def about(what: object) -> Iterator[None]:
    """Whatever InputError the block raises says first which file, or model, it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the closest known name, or nothing where none is close."""
    known = list(known)
    match = [k for k in known if k.lower() == name.lower()] or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{match[0]}'?" if match else ""
