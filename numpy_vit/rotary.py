"""Rotary positions (RoPE, arXiv 2104.09864), for pictures as in DINOv3 (arXiv 2508.10104) and EVA-02 (arXiv 2303.11331).

Nothing is added to the tokens. Query and key are turned, pair of numbers by pair, by an angle that grows with the place;
so their product depends on how far two patches are apart. Half of the pairs turn with the row, half with the column, each at
its own frequency (radians for one step, K/4 of them, the same in every block). Tokens without a place are not turned.

Two families, two conventions (ViTConfig.rope):

    centred_halves   DINOv3: a patch's place is its centre, -1 to 1 across the picture; number i is paired with number i + K/2
    index_pairs      EVA-02: its place is its row and column, scaled to the grid the model was trained with (rope_grid);
                     neighbouring numbers are paired
"""

import decimal
import functools
from typing import Any

import numpy as np

from .ops import operation

Array = Any
PI = decimal.Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798")


@operation
def rotation_tables(frequencies: Array, grid: tuple[int, int], rope: str, rope_grid: tuple[int, int] | None) -> Array:
    """The cosines and sines of every patch's angles. frequencies (K/4,), grid (rows, columns) -> (2, G, K)."""
    places = [coordinates(size, rope, rope_grid[axis] if rope_grid else 0) for axis, size in enumerate(grid)]
    rows, columns = (cos_sin(tuple(axis), tuple(frequencies.tolist())) for axis in places)  # (2, rows, K/4), (2, columns, K/4)
    shape = 2, *grid, len(frequencies)
    by_row, by_column = np.broadcast_to(rows[:, :, None], shape), np.broadcast_to(columns[:, None], shape)
    tables = np.concatenate([by_row, by_column], axis=-1).reshape(2, grid[0] * grid[1], -1)  # (2, G, K/2)
    both = np.repeat(tables, 2, axis=-1) if rope == "index_pairs" else np.tile(tables, 2)
    return both.astype(frequencies.dtype)


def coordinates(size: int, rope: str, trained: int) -> list[float]:
    """Where each of `size` patches lies along one axis."""
    if rope == "index_pairs":
        return [i / size * trained for i in range(size)]
    return [2 * ((i + 0.5) / size) - 1 for i in range(size)]


@functools.lru_cache(maxsize=16)
def cos_sin(places: tuple[float, ...], frequencies: tuple[float, ...]) -> Array:
    """cos and sin of place * frequency: (2, places, frequencies).

    In decimal arithmetic, to the last bit: NumPy's own differ between machines, and a few thousand angles take no time.
    """
    with decimal.localcontext(decimal.Context(prec=50)):
        angles = [decimal.Decimal(place * frequency) for place in places for frequency in frequencies]
        pairs = [(float(series(angle, 0)), float(series(angle, 1))) for angle in angles]
    return np.array(pairs).T.reshape(2, len(places), len(frequencies))


def series(angle: decimal.Decimal, first: int) -> decimal.Decimal:
    """The Taylor series of the cosine (first = 0) or sine (first = 1)."""
    angle = angle.remainder_near(2 * PI)
    term = angle if first else decimal.Decimal(1)
    total, n = term, first
    while abs(term) > decimal.Decimal("1e-40"):
        n += 2
        term *= -angle * angle / (n * (n - 1))
        total += term
    return total


def rotate(x: Array, cos: Array, sin: Array, rope: str) -> Array:
    """Rotate the patches' queries or keys by their positions. x (B, H, N, K), cos and sin (G, K) -> (B, H, N, K)."""
    special = x.shape[2] - len(cos)
    patches = x[:, :, special:]
    quarter_turn = pairs_turned(patches) if rope == "index_pairs" else halves_turned(patches)
    return np.concatenate([x[:, :, :special], patches * cos + quarter_turn * sin], axis=2)


def halves_turned(x: Array) -> Array:
    """(a, b) -> (-b, a), a and b being the two halves of the last axis."""
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)


def pairs_turned(x: Array) -> Array:
    """(a, b) -> (-b, a), a and b being neighbours on the last axis."""
    pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    return np.concatenate([-pairs[..., 1:], pairs[..., :1]], axis=-1).reshape(x.shape)
