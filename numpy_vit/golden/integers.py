"""Ports in integers: every code compared exactly, and what differs said in words.

A step of a narrow golden (numpy_vit.arithmetic.named) that is kept in integers is right where every code is. Where it was
computed in floating point before it became integers (a norm, or a sum between two quantisers), a code beside the right one is
right too, where the number lay within float32 noise of the tie between both.
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..arithmetic.formats import quantise
from ..arithmetic.named import Grid
from ..arithmetic.narrow import Held, NarrowArray, codes_of, reals

Array = Any
NOISE = 32 * 2.0**-24  # of the largest number of a step: what float32 may be off (numpy_vit's own promise)
NEARLY = 0.999  # of codes that came from float numbers, so many must be explained


@dataclasses.dataclass(frozen=True)
class Difference:
    """How a port's codes differ from the right ones."""

    count: int
    differ: int  # so many are wrong
    by: int  # at most by so much
    first: tuple[int, ...] = ()  # where, in order
    port: int = 0  # the port's code there
    right: int = 0
    meaning: tuple[str, ...] = ()  # what the pattern means


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer of the model: its matrix as it was before it was narrowed (in, out), as it is held, and its bias."""

    name: str
    matrix: Array
    held: Held
    bias: Array | None


class Case:
    """One step of a port in integers: its codes, the right ones, and all they were computed from.

    layers       the linear layer that made it, then others of the same shape that a port may confuse with it
    activations  where it is a function of one code: the activation the model has, then others -> their codes for all codes
    grids        of every step
    """

    def __init__(
        self,
        step: NarrowArray,
        port: Array,
        inputs: Mapping[str, NarrowArray],
        layers: tuple[Layer, ...] = (),
        activations: Mapping[str, Array] | None = None,
        grids: Mapping[str, Grid] | None = None,
    ) -> None:
        assert step.grid is not None
        self.grid: Grid = step.grid
        self.arithmetic = step.arithmetic
        self.product = step.made_of
        self.unrounded = step.unrounded  # the real numbers that became codes
        self.exact = step.from_codes  # whether there is one right code
        self.become = step.become or (lambda grid: quantise(np.asarray(step), *grid))
        self.right = codes_of(step, step.grid)
        self.port = np.asarray(port, np.float64)
        self.inputs = inputs
        self.layers = layers
        self.activations = activations or {}
        self.grids = grids or {}

    def on(self, **changes: Any) -> Array:
        """The right codes on another grid; without the zero point, and not cut off, unless told otherwise."""
        return self.become(self.grid._replace(**{"zero": 0, "low": -(2**31), "high": 2**31 - 1, **changes}))

    @property
    def real(self) -> Array:
        """What was rounded, in units of the grid, before the zero point."""
        return self.reals[0]

    @functools.cached_property
    def reals(self) -> tuple[Array, ...]:
        """`real` as the arithmetic computes it, and exactly where that is another."""
        if self.product is None:
            real = np.asarray(self.unrounded if self.unrounded is not None else reals(self.right, self.grid))
            return ((real.astype(np.float32) / np.float32(self.grid.scale)).astype(np.float64),)
        product = self.product
        sums = product.sums(self.arithmetic)
        exact = product.moved(sums * (product.scale * product.factor / self.grid.scale))
        if self.arithmetic.requantise != "onnx":
            return (exact,)
        left = np.float32(product.left.scale * product.factor)
        multiplier = left * np.reshape(product.right.scale, -1).astype(np.float32) / np.float32(self.grid.scale)
        return product.moved((sums.astype(np.float32) * multiplier).astype(np.float64)), exact

    def wrong(self) -> Array:
        """Where the port's code is not right."""
        differs = self.port != self.right
        if self.exact or self.unrounded is None or not differs.any():
            return differs
        real, grid = np.asarray(self.unrounded, np.float64), self.grid
        tolerance = 0.5 + NOISE * np.abs(real).max() / grid.scale
        wanted = np.clip(real / grid.scale + grid.zero, grid.low, grid.high)
        return differs & ~(np.abs(self.port - wanted) <= tolerance)

    def difference(self) -> Difference:
        wrong = self.wrong()
        count = int(wrong.sum())
        if not count:
            return Difference(wrong.size, 0, 0)
        first = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        by = np.abs(self.port - self.right)[wrong].max()
        codes = int(self.port[first]) if np.isfinite(self.port[first]) else 0, int(self.right[first])
        meaning = tuple(self.meanings(wrong))
        return Difference(wrong.size, count, int(min(by, 2**62)), first, *codes, meaning)

    def meanings(self, wrong: Array) -> Iterator[str]:
        """What the pattern of differences means, in words."""
        yield next(found for found in patterns(self, wrong) if found)

    def explains(self, codes: Array, nearly: bool = False) -> bool:
        """Whether other codes are the port's: all, or (`nearly`, and of those computed from float numbers) nearly all, the
        rest by one, and far more of them than of the right ones."""
        if codes.shape != self.port.shape:
            return False
        missed, before = int((codes != self.port).sum()), int((self.right != self.port).sum())
        if self.exact and not nearly:
            return not missed
        return missed <= (1 - NEARLY) * codes.size and 10 * missed <= before and bool(np.abs(codes - self.port).max() <= 1)


# What a pattern means


def patterns(case: Case, wrong: Array) -> Iterator[str]:
    """What could be said of the differences, the most telling first; "" where it is not so."""
    by = case.port - case.right
    yield no_codes(case)
    yield constant(case, by)
    yield at_the_ends(case, by, wrong)
    if np.abs(by[wrong]).max() == 1:
        yield near_ties(case, wrong)
        yield one_sided(by, wrong)
        why = "rounded twice, cut off, or a multiplier of fewer bits"
        yield f"off by one in {share(wrong)} of places, not at ties alone: {why}"
    yield one_factor(case)
    yield by_column(case)
    yield where_alone(wrong)
    yield f"{share(wrong)} of codes are wrong, {np.abs(by[wrong]).mean():.3g} off on average, of no pattern that is known"


def share(wrong: Array) -> str:
    return f"{100 * wrong.mean():.3g} %"


def no_codes(case: Case) -> str:
    """What is outside the codes there are."""
    port, (_, zero, low, high) = case.port, case.grid
    if not ((port < low).any() or (port > high).any() or (port != np.rint(port)).any()):
        return ""
    shift = np.unique(port - case.right)
    if len(shift) == 1:
        return (
            f"all are {shift[0]:+.0f}: another kind of code with zero point {zero + shift[0]:.0f} instead of {zero} "
            f"(uint8 for int8, say); dump whole numbers from {low} to {high}, or the real numbers they stand for"
        )
    return f"some are no codes at all: a code is a whole number from {low} to {high}"


def constant(case: Case, by: Array) -> str:
    """The same difference wherever nothing is cut off."""
    _, zero, low, high = case.grid
    inside = (case.port > low) & (case.port < high) & (case.right > low) & (case.right < high)
    found = np.unique(by[inside])
    if len(found) != 1 or not found[0]:
        return ""
    return f"everywhere {found[0]:+.0f}: another zero point ({zero + found[0]:.0f} instead of {zero})"


def at_the_ends(case: Case, by: Array, wrong: Array) -> str:
    """Codes that are right until a limit."""
    port, right, (_, _, low, high) = case.port, case.right, case.grid
    lowest, highest = port.min(), port.max()
    limits = [f"above {highest:.0f}"] * int(((right > port) & wrong).any()) + [f"below {lowest:.0f}"] * int(
        ((right < port) & wrong).any()
    )
    cut = np.where(right > port, port == highest, port == lowest)
    if cut[wrong].all() and (np.clip(right, lowest, highest) == port)[wrong].all():
        return f"nothing is {' or '.join(limits)}, and what should be is cut off there: another saturation"
    ends = (right == low) | (right == high) | (port == low) | (port == high)
    if not ends[wrong].all():
        return ""
    what = "wrapped around" if (np.abs(by[wrong]) > (high - low) / 2).all() else "cut off elsewhere"
    return f"only at the ends of the range, {what}: another saturation (the port's codes are {lowest:.0f} to {highest:.0f})"


def near_ties(case: Case, wrong: Array) -> str:
    """Off by one only where the exact number lies near a tie: by how much it was off before it was rounded."""
    real = case.real
    largest = max(1.0, float(np.abs(real).max()))
    far = float(np.abs(real - np.floor(real) - 0.5)[wrong].max())
    if far <= 1e-6 * largest:
        return "off by one, at ties only: another rounding of ties"
    near = np.abs(real - np.floor(real) - 0.5) <= far
    if far > 0.4 or wrong.sum() < 0.02 * near.sum():
        return ""
    less = far / largest
    units = {"float32": 2.0**-22, "float16": 2.0**-9, "bfloat16": 2.0**-6}
    format = next((name for name, unit in units.items() if less <= unit), "bfloat16")
    return (
        f"off by one in {share(wrong)} of places, all within {far:.2g} of a tie: before they are rounded, the numbers are off "
        f"by {100 * less:.2g} % of the largest, as {format} or a multiplier of fewer bits would make them"
    )


def one_sided(by: Array, wrong: Array) -> str:
    """Off by one, always downwards, upwards, or towards zero."""
    signs = np.unique(by[wrong])
    if len(signs) != 1 or wrong.mean() < 0.2:
        return ""
    way = "small: cut off instead of rounded" if signs[0] < 0 else "large: rounded up instead of to the nearest"
    return f"one too {way}, in {share(wrong)} of places"


def one_factor(case: Case) -> str:
    port, right = case.port - case.grid.zero, case.right - case.grid.zero
    if port.size > 1 and (port == port.flat[0]).all():
        return f"all are the same code, {case.port.flat[0]:.0f}"
    factor = float((port * right).sum() / max((right * right).sum(), 1e-300))
    if factor and np.abs(port - factor * right).max() <= 1.0 + abs(factor) / 2:
        return f"all are {factor:.4g} times what they should be: another scale"
    return ""


def by_column(case: Case) -> str:
    """Whether each column has a factor, or an offset, of its own. Columns of heads are theirs alone."""
    port, right = case.port - case.grid.zero, case.right - case.grid.zero
    heads = port.ndim == 4
    axes = (0, 2) if heads else tuple(range(port.ndim - 1))
    if port.shape[-1] < 2 or np.prod([port.shape[a] for a in axes]) < 2:
        return ""
    _, _, low, high = case.grid
    inside = (case.port > low) & (case.port < high) & (case.right > low) & (case.right < high)
    if inside.mean() < 0.3:
        return ""
    x, y = np.where(inside, right, 0.0), np.where(inside, port, 0.0)
    factors = (x * y).sum(axes, keepdims=True) / np.maximum((x * x).sum(axes, keepdims=True), 1e-300)
    if (np.abs(y - factors * x) <= 1.0 + np.abs(factors) / 2).all():
        least, most = factors.min(), factors.max()
        return f"every column has a factor of its own, {least:.3g} to {most:.3g}: scales of other columns, or one for all"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a column that is all cut off
        offsets = np.nan_to_num(np.nanmedian(np.where(inside, port - right, np.nan), axis=axes, keepdims=True))
    if (np.abs(port - right - offsets)[inside] <= 1.5).all():
        least, most = offsets.min(), offsets.max()
        if least == most:
            return f"off by {least:+.0f} or one more or less, everywhere: an offset before the rounding"
        return f"every column is off by a number of its own, {least:+.0f} to {most:+.0f}: biases, or a zero point's part"
    return ""


def where_alone(wrong: Array) -> str:
    """One column, head, token or picture that is wrong alone, or all but one."""
    names = {4: ("picture", "head", "row", "column"), 3: ("picture", "token", "column"), 2: ("picture", "column")}
    for axis in reversed(range(wrong.ndim)):
        others = tuple(a for a in range(wrong.ndim) if a != axis)
        places = np.flatnonzero(wrong.any(axis=others))
        if wrong.ndim in names and wrong.shape[axis] > 2 and len(places) == 1:
            return f"{names[wrong.ndim][axis]} {places[0]} alone is wrong"
    return ""
