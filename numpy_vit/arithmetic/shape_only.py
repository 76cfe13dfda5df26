"""Shape-only arrays: the forward pass runs on them and nothing is computed.

A `ShapeOnly` takes part in NumPy's own override protocols (`__array_ufunc__`, NEP 13, and `__array_function__`, NEP 18), so
that the very functions of model.py and ops.py run unchanged. Every operation goes into a `Ledger`: what went in, what came
out, how many multiply-accumulates; and, because Python frees it when it would free the array, how much memory was
in use at the worst moment.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .. import ops, positions, rotary
from ..config import LADDERS


class Operation(NamedTuple):
    """What was done. It holds on to arrays that have a name alone, so that the others are freed when a real run frees them."""

    kind: str  # "matmul", "add", "exp", ...
    named: tuple[tuple[str, "ShapeOnly"], ...]  # of the inputs, the steps and weights, with their names
    shapes: tuple[tuple[int, ...], ...]  # of all inputs
    macs: int


class Ledger:
    """What a traced run did: its operations in order, and its memory in bytes (weights not counted)."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.in_use = 0
        self.peak = 0

    def allocate(self, size: int) -> None:
        self.in_use += size
        self.peak = max(self.peak, self.in_use)

    def note(self, kind: str, inputs: tuple["ShapeOnly", ...], macs: int = 0) -> None:
        """Put an operation down."""
        named = tuple((x.name, x if x.owner is None else x.owner) for x in inputs if x.name is not None)
        self.operations.append(Operation(kind, named, tuple(x.shape for x in inputs), macs))


class ShapeOnly(NDArrayOperatorsMixin):
    """An array that has a shape and a dtype, and no values.

    name    what it is called, once a step or the model's weights have named it
    owner   the array whose memory this is a view of, or None
    dense   whether the numbers would lie in C order: a reshape of others copies
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        ledger: Ledger,
        *,
        name: str | None = None,
        weight: bool = False,
        owner: "ShapeOnly | None" = None,
        dense: bool = True,
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.ledger = ledger
        self.name = name
        self.weight = weight
        self.owner = owner
        self.dense = dense
        self._held = 0 if weight or owner is not None else self.nbytes
        ledger.allocate(self._held)

    def __del__(self) -> None:
        self.ledger.in_use -= self._held

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"ShapeOnly({self.shape}, {self.dtype})"

    # Views

    def _view(self, shape: tuple[int, ...], dense: bool) -> "ShapeOnly":
        owner = self if self.owner is None else self.owner
        return ShapeOnly(shape, self.dtype, self.ledger, owner=owner, dense=dense, name=self.name, weight=self.weight)

    def reshape(self, *shape: Any) -> "ShapeOnly":
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        if -1 in shape:
            rest = math.prod(n for n in shape if n != -1)
            shape = tuple(self.size // rest if n == -1 else n for n in shape)
        if math.prod(shape) != self.size:
            raise ValueError(f"cannot reshape array of size {self.size} into shape {shape}")
        return self._view(shape, True) if self.dense else self._new("copy", (self,), shape, self.dtype)

    def transpose(self, *axes: int) -> "ShapeOnly":
        if sorted(axes) != list(range(self.ndim)):
            raise ValueError("axes don't match array")
        return self._view(tuple(self.shape[axis] for axis in axes), False)

    def swapaxes(self, a: int, b: int) -> "ShapeOnly":
        shape = list(self.shape)
        shape[a], shape[b] = shape[b], shape[a]
        return self._view(tuple(shape), False)

    def __getitem__(self, key: Any) -> "ShapeOnly":
        # NumPy itself says what shape the indexing gives, on an array of no size in memory.
        index = np.broadcast_to(np.empty((), np.int8), self.shape)[key]
        if isinstance(key, np.ndarray):
            return self._new("take", (self,), index.shape, self.dtype)
        return self._view(index.shape, False)

    # Arithmetic

    def _new(
        self, kind: str, inputs: tuple["ShapeOnly", ...], shape: tuple[int, ...], dtype: Any, macs: int = 0
    ) -> "ShapeOnly":
        output = ShapeOnly(shape, dtype, self.ledger)
        self.ledger.note(kind, inputs, macs)
        return output

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", (None,))[0]
        if method != "__call__" or kwargs:
            return NotImplemented
        dtype = result_dtype(ufunc, *(x.dtype if isinstance(x, ShapeOnly) else x for x in inputs))
        arrays = tuple(x for x in inputs if isinstance(x, ShapeOnly))
        if ufunc is np.matmul:
            a, b = inputs
            if a.shape[-1] != b.shape[-2]:
                raise ValueError(f"matmul: {a.shape} and {b.shape} do not fit")
            shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
            return self._new("matmul", arrays, shape, dtype, math.prod(shape) * a.shape[-1])
        shapes = {x.shape if isinstance(x, ShapeOnly) else np.shape(x) for x in inputs} - {()}
        shape = shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*shapes)
        if out is None:
            return self._new(ufunc.__name__, arrays, shape, dtype)
        if out.shape != shape or not np.can_cast(dtype, out.dtype, "same_kind"):
            raise ValueError(f"{ufunc.__name__}: {shape} {dtype} does not fit into {out.shape} {out.dtype}")
        self.ledger.note(ufunc.__name__, arrays)
        return out

    def _reduced(self, kind: str, axis: int, keepdims: bool) -> "ShapeOnly":
        axis %= self.ndim
        shape = (*self.shape[:axis], *((1,) if keepdims else ()), *self.shape[axis + 1 :])
        return self._new(kind, (self,), shape, self.dtype)

    def mean(self, axis: int, keepdims: bool = False) -> "ShapeOnly":
        return self._reduced("mean", axis, keepdims)

    def sum(self, axis: int, keepdims: bool = False) -> "ShapeOnly":
        return self._reduced("sum", axis, keepdims)

    def max(self, axis: int, keepdims: bool = False) -> "ShapeOnly":
        return self._reduced("max", axis, keepdims)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function not in FUNCTIONS:
            return NotImplemented
        return FUNCTIONS[function](*args, **kwargs)


@functools.lru_cache(maxsize=None, typed=True)  # 2.0 and np.float64(2.0) are equal, and are not the same
def result_dtype(ufunc: Any, *inputs: Any) -> Any:
    """The dtype that comes out for dtypes and scalars that go in.

    NumPy itself says so, on arrays of one number: its rules for scalars changed in version 2.
    """
    return ufunc(*(np.ones((1, 1), x) if isinstance(x, np.dtype) else x for x in inputs)).dtype


def _concatenate(parts: list[Any], axis: int = 0) -> ShapeOnly:
    first = next(part for part in parts if isinstance(part, ShapeOnly))
    shape = list(first.shape)
    axis %= len(shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    for part in parts:
        if part.shape[:axis] + part.shape[axis + 1 :] != first.shape[:axis] + first.shape[axis + 1 :]:
            raise ValueError("all the input array dimensions except for the concatenation axis must match exactly")
    arrays = tuple(part for part in parts if isinstance(part, ShapeOnly))
    return first._new("concatenate", arrays, tuple(shape), np.result_type(*(part.dtype for part in parts)))


def _broadcast_to(x: ShapeOnly, shape: tuple[int, ...]) -> ShapeOnly:
    np.broadcast_to(np.broadcast_to(np.empty((), np.int8), x.shape), shape)  # raises where NumPy would
    return x._view(shape, False)


def _elementwise(function: Any) -> Callable[[ShapeOnly], ShapeOnly]:
    return lambda x: x._new(function.__name__, (x,), x.shape, x.dtype)


def _resize_positions(table: ShapeOnly, old: tuple[int, int], new: tuple[int, int], rule: str) -> ShapeOnly:
    special = len(table) - old[0] * old[1]
    return table._new(f"resize ({rule})", (table,), (special + new[0] * new[1], table.shape[1]), table.dtype)


def _resize_axis(table: ShapeOnly, size: int) -> ShapeOnly:
    if len(table) == 2 * size - 1:
        return table
    return table._new("resize (linear)", (table,), (2 * size - 1, table.shape[1]), table.dtype)


def _rotation_tables(frequencies: ShapeOnly, grid: tuple[int, int], rope: str, *rest: Any) -> ShapeOnly:
    shape = 2, grid[0] * grid[1], len(frequencies) * (2 if rope in LADDERS else 4)
    return frequencies._new("cos and sin", (frequencies,), shape, frequencies.dtype)


def _class_rotation(angles: ShapeOnly, rope: str) -> ShapeOnly:
    return angles._new("cos and sin", (angles,), (2, 1, 2 * len(angles)), angles.dtype)


def _sincos_positions(frequencies: ShapeOnly, grid: tuple[int, int]) -> ShapeOnly:
    return frequencies._new("sin and cos", (frequencies,), (grid[0] * grid[1], 4 * len(frequencies)), frequencies.dtype)


# In place where float32 arrays are (numpy_vit.arithmetic.fast), so that the memory is counted that a run takes


def _linear(x: ShapeOnly, weight: ShapeOnly, bias: ShapeOnly | None = None) -> ShapeOnly:
    y = x @ weight
    if bias is not None:
        y += bias
    return y


def _layer_norm(x: ShapeOnly, weight: ShapeOnly, bias: ShapeOnly, eps: float) -> ShapeOnly:
    y = x - x.mean(axis=-1, keepdims=True)
    y /= np.sqrt((y * y).mean(axis=-1, keepdims=True) + eps)
    y *= weight
    y += bias
    return y


def _rms_norm(x: ShapeOnly, weight: ShapeOnly | float, eps: float) -> ShapeOnly:
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    y *= weight
    return y


def _softmax(x: ShapeOnly) -> ShapeOnly:
    e = x - x.max(axis=-1, keepdims=True)
    np.exp(e, out=e)
    e /= e.sum(axis=-1, keepdims=True)
    return e


FUNCTIONS: dict[Any, Callable[..., Any]] = {np.concatenate: _concatenate, np.broadcast_to: _broadcast_to}
"""What NumPy hands over to the array (`__array_function__`)."""
ops.WAYS[ShapeOnly] = {
    ops.linear: _linear,
    ops.layer_norm: _layer_norm,
    ops.rms_norm: _rms_norm,
    ops.softmax: _softmax,
    **{each: _elementwise(each) for each in (ops.erf, ops.gelu, ops.gelu_tanh, ops.quick_gelu, ops.silu)},
    positions.resize_positions: _resize_positions,
    positions.resize_axis: _resize_axis,
    positions.sincos_positions: _sincos_positions,
    rotary.rotation_tables: _rotation_tables,
    rotary.class_rotation: _class_rotation,
}
