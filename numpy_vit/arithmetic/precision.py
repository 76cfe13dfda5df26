"""The three precisions a model runs in: "float32" (fast), "float64" (accurate), "portable" (the same bits everywhere)."""

from typing import Any

import numpy as np

from ..config import PRECISIONS
from ..errors import InputError


def precision(name: Any) -> tuple[Any, type]:
    """A precision's name, or a float dtype -> (dtype, kind of array). Raises InputError for another."""
    if name == "portable":
        from .portable import PortableArray

        return np.dtype("float64"), PortableArray
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = np.dtype("O")
    if dtype not in (np.float32, np.float64):
        raise InputError(f"dtype {name!r}: a model runs in {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}")
    return dtype, np.ndarray
