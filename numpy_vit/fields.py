"""Dataclasses made of plain data, as JSON has it, and back; and what their fields are held to."""

import dataclasses
import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypeVar

from .errors import InputError, nearest

Kind = TypeVar("Kind")


def from_plain(kind: type[Kind], values: Any, what: str) -> Kind:
    """A dataclass from plain data (`what` is for the errors).

    Raises InputError for a field that is unknown, or missing and without a default.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{what} must be a JSON object, not {values!r:.40}")
    required = {
        f.name: f.default is f.default_factory is dataclasses.MISSING
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    for name in values:
        if name not in required:
            raise InputError(f"{what}: unknown field '{name}'{nearest(name, required)}")
    missing = [name for name in required if required[name] and name not in values]
    if missing:
        raise InputError(f"{what}: missing {', '.join(missing)}")
    return kind(**values)


def to_plain(value: Any) -> dict[str, Any]:
    """A dataclass as plain data, without the fields that have their default: the inverse of from_plain."""
    plain: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        field = getattr(value, f.name)
        if field != f.default:
            plain[f.name] = to_plain(field) if dataclasses.is_dataclass(field) else field
    return plain


def is_number(value: Any) -> bool:
    """Whether value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def whole_number(what: str, value: Any, minimum: int, maximum: int) -> None:
    """Raise InputError unless value is a whole number from minimum to maximum."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not minimum <= int(value) <= maximum:
        raise InputError(f"{what} is {value!r}: it must be a whole number, {minimum} to {maximum:,}")
