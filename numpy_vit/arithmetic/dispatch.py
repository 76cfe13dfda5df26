"""Let an array that brings its own arithmetic answer for one of our leaf functions."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np


def dispatched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function` overridable by its first argument, through NumPy's own protocol (`__array_function__`, NEP 18).

    For leaf functions that work in tiles or by index, which a shape-only array cannot run, or that an array
    with its own arithmetic computes otherwise.
    """

    @functools.wraps(function)
    def call(x: Any, *rest: Any, **memory: Any) -> Any:
        if type(x) is np.ndarray or not hasattr(x, "__array_function__"):
            return function(x, *rest, **memory)
        return x.__array_function__(call, (type(x),), (x, *rest), {})

    return call
