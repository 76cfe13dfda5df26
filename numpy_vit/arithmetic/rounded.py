"""The noise floor: what float32, float16 and bfloat16 arithmetic does to a ViT, simulated.

The forward pass runs on arrays whose every operation is rounded to the format, as a plain port's would be. A float32 matrix
product adds its terms one after another, the worst order; that of a narrower format is rounded once at the end, as where
the accumulator is float32. Only IEEE operations are used, so the measured floor is the same on every machine.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import ops
from .parallel import parallel_for
from .portable import PortableArray, erf, in_tiles, matmul, of_every_number

Array = Any
EPS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Format -> the largest relative error of one rounding."""


def round_to(name: str, x: Array) -> Array:
    """x rounded to the nearest number of a format, ties to even; too large becomes infinite.

    float32 or float64, any shape -> float32, the same shape (float64 for "float64").
    """
    if name == "float64":
        return np.asarray(x, np.float64)
    with np.errstate(over="ignore"):
        if name == "float16":
            return np.asarray(x).astype(np.float16).astype(np.float32)
        x = np.asarray(x, np.float32)
    if name == "bfloat16":
        # A float32 without its lower 16 bits; the added half, less one where the last kept bit is 0, rounds to even.
        bits = np.ascontiguousarray(x).view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(x), x, rounded.view(np.float32)).reshape(x.shape)
    return x


class Float32Array(PortableArray):
    """A float32 array whose matrix products add up term by term."""

    format = "float32"

    @classmethod
    def product(cls, a: Array, b: Array) -> Array:
        return cls.rounded(product_term_by_term(a.astype(np.float32, copy=False), b.astype(np.float32, copy=False)))

    @classmethod
    def elementwise(cls, function: Callable[[Array], Array], x: Array) -> Array:
        return round_to(cls.format, in_tiles(function, x.astype(np.float64)))

    @classmethod
    def rounded(cls, result: Array) -> Array:
        return round_to(cls.format, result) if getattr(result, "dtype", None) == np.float32 else result


class Float16Array(Float32Array):
    """Holds float16 numbers, as float32."""

    format = "float16"

    @classmethod
    def product(cls, a: Array, b: Array) -> Array:
        """One slice has more bits than the format; what a float32 accumulator adds is far below the final rounding."""
        return cls.rounded(matmul(a.astype(np.float64), b.astype(np.float64), count=1).astype(np.float32))

    @classmethod
    def elementwise(cls, function: Callable[[Array], Array], x: Array) -> Array:
        """There are 65,536 numbers of 16 bits: each function is computed of all of them, once."""
        bits = x.astype(np.float16).view(np.uint16) if cls.format == "float16" else (x.view(np.uint32) >> 16).astype(np.uint16)
        return table(function, cls.format)[bits]


class BFloat16Array(Float16Array):
    """Holds bfloat16 numbers, as float32."""

    format = "bfloat16"


@functools.cache
def table(function: Callable[[Array], Array], format: str) -> Array:
    """A function of every number of float16 or bfloat16, rounded to it: at its bits."""
    bits = np.arange(2**16, dtype=np.uint16)
    every = bits.view(np.float16) if format == "float16" else (bits.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        return round_to(format, in_tiles(function, every.astype(np.float64)))


KINDS = {kind.format: kind for kind in (Float32Array, Float16Array, BFloat16Array)}
FORMATS = tuple(KINDS)
for kind in KINDS.values():  # GELU as most ports write it, by its formula: each of its operations is rounded
    ops.WAYS[kind] = {ops.erf: of_every_number(erf)}


# A sample of rows

ALL_UP_TO = 96  # rows; of more, as many as SAMPLE are computed
SAMPLE = 48


def sample(count: int) -> Array:
    """Which of so many rows (tokens) stand for all, where only the size of their errors is asked: evenly spread, the first and
    the last among them."""
    if count <= ALL_UP_TO:
        return np.arange(count)
    return np.arange(SAMPLE) * (count - 1) // (SAMPLE - 1)


def sampled(array: Array) -> Array:
    """The rows of an array (..., N, D) that are computed on arrays of `of_sampled_rows`; all, where it has no tokens."""
    return array[..., sample(array.shape[-2]), :] if array.ndim in (3, 4) else array


@functools.cache
def of_sampled_rows(kind: type[PortableArray]) -> type[PortableArray]:
    """A kind of array that computes matrix products and functions of a sample of rows alone; other rows come out as zeros."""

    class SampledRows(kind):  # type: ignore[misc, valid-type]
        @classmethod
        def product(cls, a: Array, b: Array) -> Array:
            if kind is PortableArray:  # 40 bits, of all numbers, are more than any noise that is measured against it
                return spread_out(lambda some: matmul(some, b, count=2 if len(sample(a.shape[-2])) < a.shape[-2] else 3), a)
            return spread_out(lambda some: super(SampledRows, cls).product(some, b), a)

        @classmethod
        def elementwise(cls, function: Callable[[Array], Array], x: Array) -> Array:
            return spread_out(lambda some: super(SampledRows, cls).elementwise(function, some), x)

    ops.WAYS[SampledRows] = ops.WAYS[kind]
    return SampledRows


def spread_out(compute: Callable[[Array], Array], x: Array) -> Array:
    """compute(x) where only the sampled rows of x are computed."""
    if x.ndim not in (3, 4) or x.shape[-2] <= ALL_UP_TO:
        return compute(x)
    some = compute(sampled(x))
    whole = np.zeros((*some.shape[:-2], x.shape[-2], some.shape[-1]), some.dtype)
    whole[..., sample(x.shape[-2]), :] = some
    return whole


def product_term_by_term(a: Array, b: Array, columns: int = 4096, tile_size: int = 49152) -> Array:
    """a (..., m, k) @ b (..., k, n) in float32: term 0, plus term 1, plus term 2, ..., each sum rounded.

    Done in tiles that stay in the cache, with as long rows as there are: 2.4 times as fast as square ones.
    """
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, leading + a.shape[-2:]), np.broadcast_to(b, leading + b.shape[-2:])
    out = np.zeros((*leading, a.shape[-2], b.shape[-1]), np.float32)
    rows = max(1, tile_size // min(columns, out.shape[-1]))

    def work(tile: tuple[Any, int, int]) -> None:
        index, row, column = tile
        a_terms = a[index][row : row + rows].T[:, :, None]  # (k, rows, 1)
        b_terms = b[index][:, None, column : column + columns]  # (k, 1, columns)
        place = out[index][row : row + rows, column : column + columns]
        total, term = np.zeros_like(place), np.empty_like(place)
        for x, y in zip(a_terms, b_terms, strict=True):
            total += np.multiply(x, y, out=term)
        place[...] = total

    starts = itertools.product(np.ndindex(leading), range(0, out.shape[-2], rows), range(0, out.shape[-1], columns))
    with np.errstate(over="ignore", invalid="ignore"):
        parallel_for(work, starts, products=False)
    return out


def rounded_tensors(name: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Weights rounded to a format, as arrays of that format's arithmetic."""
    return {key: round_to(name, np.asarray(tensor)).view(KINDS[name]) for key, tensor in tensors.items()}
