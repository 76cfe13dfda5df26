"""How float32 and float64 arrays compute the operations of numpy_vit.ops: in place, in blocks, by several threads.

Each gives what its formula gives, but for rounding; measured in docs/performance.md. An argument is never written to.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from . import special
from .parallel import LEAST, THREADS, even_slices, in_blocks, is_plain, parallel_for
from .primitives import exp, row_products, row_sum

Array = Any


# The operations. What is given as `out` is memory to write the result into.


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x W + b, every thread its own columns of W."""
    rows, columns = x.reshape(-1, x.shape[-1]), weight.shape[-1]
    y = np.empty((len(rows), columns), x.dtype)

    def work(part: slice) -> None:
        product = np.matmul(rows, weight[:, part], out=y[:, part])
        if bias is not None:
            product += bias[part]  # in place: a fresh array of this size costs more than the addition

    pieces = 1 if y.size < LEAST else THREADS.free(products=True)
    if pieces == 1:
        work(slice(0, columns))
    else:
        parallel_for(work, even_slices(columns, columns, pieces))
    return y.reshape(*x.shape[:-1], columns)


def layer_norm(x: Array, weight: Array, bias: Array, eps: float, out: Array) -> Array:
    y = np.subtract(x, row_sum(x) / x.shape[-1], out=out)
    y /= np.sqrt(row_products(y, y) / x.shape[-1] + eps)  # without the array of the squares
    y *= weight
    y += bias
    return y


def rms_norm(x: Array, weight: Array | float, eps: float, out: Array) -> Array:
    y = np.divide(x, np.sqrt(row_products(x, x) / x.shape[-1] + eps), out=out)
    y *= weight
    return y


def softmax(x: Array, out: Array) -> Array:
    """The row's maximum is subtracted only where numbers are large, so that exp could overflow or a row vanish."""
    if not (x.min() >= -20 and x.max() <= 20):
        x = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    e = exp(x, out)
    e /= row_sum(e)
    return e


def elementwise(formula: Callable[[Array], Array]) -> Callable[..., Array]:
    """A formula of one number, as a function that has `out`."""
    return lambda x, out: formula(x)


def in_blocks_of(operation: Any, compute: Callable[..., Array], by_rows: bool = False) -> Callable[..., Array]:
    """How an array of float32 or float64 computes an operation: `compute`, a block at a time."""

    def way(x: Array, *rest: Any, **named: Any) -> Array:
        if not suitable(x, *rest, *named.values()):
            return operation.formula(x, *rest, **named)
        return in_blocks(compute, x, *rest, by_rows=by_rows, **named)

    return way


def suitable(x: Array, *rest: Any) -> bool:
    """Whether these are numbers of one kind, float32 or float64, and some: for others the formula says what comes of them."""
    return is_plain(x) and x.size > 0 and x.ndim > 0 and all(type(a) is not np.ndarray or a.dtype == x.dtype for a in rest)


def linear_of_any(x: Array, weight: Array, bias: Array | None = None) -> Array:
    there = suitable(x, weight, bias) and type(weight) is np.ndarray and weight.ndim == 2 and x.ndim > 1
    return linear(x, weight, bias) if there else ops.linear.formula(x, weight, bias)


BY_NUMBER: dict[Any, Callable[..., Array]] = {
    ops.erf: special.erf,
    ops.gelu: special.gelu,
    ops.relu: lambda x, out: np.maximum(x, 0, out=out),
    **{each: elementwise(each.formula) for each in (ops.gelu_tanh, ops.quick_gelu, ops.silu)},
}
BY_ROW: dict[Any, Callable[..., Array]] = {ops.layer_norm: layer_norm, ops.rms_norm: rms_norm, ops.softmax: softmax}
ops.WAYS[np.ndarray] = {
    ops.linear: linear_of_any,
    **{each: in_blocks_of(each, compute) for each, compute in BY_NUMBER.items()},
    **{each: in_blocks_of(each, compute, by_rows=True) for each, compute in BY_ROW.items()},
}
