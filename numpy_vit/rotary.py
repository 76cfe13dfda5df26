"""Rotary positions (RoPE, arXiv 2104.09864), for pictures as in DINOv3 (arXiv 2508.10104) and EVA-02 (arXiv 2303.11331).

Nothing is added to the tokens. Query and key are turned, pair of numbers by pair, by an angle that grows with the place;
so their product depends on how far two patches are apart. Half of the pairs turn with the row, half with the column, each at
its own frequency (radians for one step, K/4 of them, the same in every block). Tokens without a place are not turned.

Families differ in three things (ViTConfig.rope): which two of a head's K numbers make a pair, which pairs turn with the row
and which with the column, and what a patch's place is.

    centred_halves      DINOv3: number i and number i + K/2; row, then column; its centre, -1 to 1 across the picture
    index_pairs         EVA-02: neighbours; row, then column; counted
    index_halves        Qwen2-VL: i and i + K/2; row, then column; counted
    column_pairs        Llama 4, Perception Encoder: neighbours; column, then row; counted
    alternating_pairs   MoonViT: neighbours; column and row in turn; counted
    alternating_halves  the same as transformers has it in memory: i and i + K/2
    ladder_halves       Pixtral: i and i + K/2; row, then column; counted. The rows turn with every other frequency, the columns
                        with those between
    ladder_pairs        the same in Mistral's own files: neighbours
    axis_halves         Gemma 4: the head is cut in two, for the column and for the row, and each is paired by halves; counted

Counted places begin with `rope_offset`. Where there is a `rope_grid`, they are scaled to that grid, the trained one. MLCD turns
the class token too, by learned angles.
"""

import decimal
import functools
from typing import Any

import numpy as np

from .config import LADDERS
from .ops import operation

Array = Any
PI = decimal.Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803482534211706798")


PAIRS = ("index_pairs", "column_pairs", "alternating_pairs", "ladder_pairs")  # others pair halves


@operation
def rotation_tables(
    frequencies: Array, grid: tuple[int, int], rope: str, rope_grid: tuple[int, int] | None = None, offset: int = 0
) -> Array:
    """The cosines and sines of every patch's angles. frequencies (K/4,), grid (rows, columns) -> (2, G, K).

    A ladder has K/2 frequencies, by turns for rows and columns.
    """
    places = [coordinates(size, rope, rope_grid[axis] if rope_grid else size, offset) for axis, size in enumerate(grid)]
    steps = frequencies.tolist()
    own = (steps[0::2], steps[1::2]) if rope in LADDERS else (steps, steps)
    rows, columns = (cos_sin(tuple(axis), tuple(some)) for axis, some in zip(places, own, strict=True))  # (2, rows, K/4) ...
    shape = 2, *grid, len(own[0])
    by_row, by_column = np.broadcast_to(rows[:, :, None], shape), np.broadcast_to(columns[:, None], shape)
    return spread(by_row, by_column, rope).reshape(2, grid[0] * grid[1], -1).astype(frequencies.dtype)


def spread(by_row: Array, by_column: Array, rope: str) -> Array:
    """What belongs to each of a head's K numbers. by_row and by_column (..., K/4) -> (..., K)."""
    if rope == "axis_halves":
        return np.concatenate([by_column, by_column, by_row, by_row], axis=-1)
    if rope in ("alternating_pairs", "alternating_halves"):
        pairs = np.stack([by_column, by_row], axis=-1).reshape(*by_row.shape[:-1], -1)
    else:
        pairs = np.concatenate([by_column, by_row] if rope == "column_pairs" else [by_row, by_column], axis=-1)  # (..., K/2)
    return np.repeat(pairs, 2, axis=-1) if rope in PAIRS else np.concatenate([pairs, pairs], axis=-1)


@operation
def class_rotation(angles: Array, rope: str) -> Array:
    """The cosines and sines of the class token's own angles. (K/2,) -> (2, 1, K)."""
    pairs = cos_sin((1.0,), tuple(angles.tolist()))
    spread = np.repeat(pairs, 2, axis=-1) if rope in PAIRS else np.concatenate([pairs, pairs], axis=-1)
    return spread.astype(angles.dtype)


def coordinates(size: int, rope: str, trained: int, offset: int = 0) -> list[float]:
    """Where each of `size` patches lies along one axis; counted ones as if there were `trained`."""
    if rope == "centred_halves":
        return [2 * ((i + 0.5) / size) - 1 for i in range(size)]
    return [(i + offset) / size * trained if size != trained else float(i + offset) for i in range(size)]


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
    """Rotate the patches' queries or keys by their positions. x (B, H, N, K), cos and sin (G, K) -> (B, H, N, K).

    With a row more in cos and sin, (N, K), the class token's too.
    """
    special = x.shape[2] - len(cos)
    patches = x[:, :, special:]
    rotated = patches * cos + quarter_turn(patches, rope) * sin
    return np.concatenate([x[:, :, :special], rotated], axis=2) if special else rotated


def quarter_turn(x: Array, rope: str) -> Array:
    """Every pair (a, b) of the last axis -> (-b, a)."""
    if rope == "axis_halves":
        quarter = x.shape[-1] // 4
        column, row = x[..., : 2 * quarter], x[..., 2 * quarter :]
        return np.concatenate([halves_turned(column), halves_turned(row)], axis=-1)
    return pairs_turned(x) if rope in PAIRS else halves_turned(x)


def halves_turned(x: Array) -> Array:
    """(a, b) -> (-b, a), a and b being the two halves of the last axis."""
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)


def pairs_turned(x: Array) -> Array:
    """(a, b) -> (-b, a), a and b being neighbours on the last axis."""
    pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    return np.concatenate([-pairs[..., 1:], pairs[..., :1]], axis=-1).reshape(x.shape)
