"""Ports in integers: every code compared exactly, what differs said in words, and the mistakes people make with integers.

A step of a narrow golden (numpy_vit.arithmetic.named) that is kept in integers is right where every code is. Where it was
computed in floating point before it became integers (a norm, or a sum between two quantisers), a code beside the right one is
right too, where the number lay within float32 noise of the tie between both.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..arithmetic import integers
from ..arithmetic.formats import ROUNDINGS, quantise, to_float
from ..arithmetic.named import Arithmetic, Grid
from ..arithmetic.narrow import REQUANTISED, Held, NarrowArray, Product, codes_of, float32, reals

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


class Case:
    """One step of a port in integers: its codes, the right ones, and all they were computed from."""

    def __init__(self, step: NarrowArray, port: Array, inputs: Mapping[str, NarrowArray]) -> None:
        assert step.grid is not None
        self.grid: Grid = step.grid
        self.arithmetic = step.arithmetic
        self.product = step.made_of
        self.unrounded = step.unrounded  # the real numbers that became codes
        self.exact = step.from_codes  # whether there is one right code
        self.right = codes_of(step, step.grid)
        self.port = np.asarray(port, np.float64)
        self.inputs = inputs

    @property
    def real(self) -> Array:
        """What was rounded, in units of the grid, before the zero point."""
        if self.product is not None:
            product = self.product
            exact = product.sums(self.arithmetic) * (product.scale * product.factor / self.grid.scale)
            return product.moved(exact)
        return np.asarray(self.unrounded if self.unrounded is not None else reals(self.right, self.grid)) / self.grid.scale

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
        """What the pattern of differences means, in words; the most telling first."""
        by, (_, zero, low, high) = self.port - self.right, self.grid
        if (self.port < low).any() or (self.port > high).any() or (self.port != np.rint(self.port)).any():
            yield f"some are no codes at all: a code is a whole number from {low} to {high}"
            return
        inside = (self.port > low) & (self.port < high) & (self.right > low) & (self.right < high)
        constant = np.unique(by[inside]) if inside.any() else np.array([])
        if len(constant) == 1 and constant[0]:
            yield f"everywhere {constant[0]:+.0f}: another zero point ({zero + constant[0]:.0f} instead of {zero})"
            return
        ends = (self.right == low) | (self.right == high) | (self.port == low) | (self.port == high)
        if wrong.any() and ends[wrong].all():
            what = "wrapped around" if (np.abs(by[wrong]) > (high - low) / 2).all() else "cut off elsewhere"
            lowest, highest = int(self.port.min()), int(self.port.max())
            yield f"only at the ends of the range, {what}: another saturation (the port's codes are {lowest} to {highest})"
            return
        if np.abs(by[wrong]).max() == 1:
            rest = np.abs(self.real - np.floor(self.real) - 0.5)
            if (rest[wrong] <= 1e-6 * max(1.0, float(np.abs(self.real).max()))).all():
                yield "off by one, at ties only: another rounding of ties"
                return
            share, why = 100 * wrong.mean(), "rounded twice, cut off, or a multiplier of fewer bits"
            yield f"off by one in {share:.2g} % of places, not at ties alone: {why}"
            return
        yield from self.columns(by, wrong)

    def columns(self, by: Array, wrong: Array) -> Iterator[str]:
        """Whether a scale or an offset explains it, of all or by column."""
        port, right = self.port - self.grid.zero, self.right - self.grid.zero
        factor = float((port * right).sum() / max((right * right).sum(), 1e-300))
        if np.abs(port - factor * right).max() <= 1.5:
            yield f"all are {factor:.4g} times what they should be: another scale"
            return
        flat, wanted = port.reshape(-1, port.shape[-1]), right.reshape(-1, port.shape[-1])
        factors = (flat * wanted).sum(0) / np.maximum((wanted * wanted).sum(0), 1e-300)
        if np.abs(flat - factors * wanted).max() <= 1.5:
            yield (
                f"every column has a factor of its own, {factors.min():.3g} to {factors.max():.3g}: scales of other columns, "
                "or one for all"
            )
            return
        offsets = np.median(flat - wanted, axis=0)
        if np.abs(flat - wanted - offsets).max() <= 1.5:
            least, most = offsets.min(), offsets.max()
            yield f"every column is off by a number of its own, {least:+.0f} to {most:+.0f}: biases, or a zero point's part"
            return
        alone = [n for n in range(by.shape[-1]) if wrong[..., n].any()]
        if len(alone) == 1 < by.shape[-1]:
            yield f"column {alone[0]} alone is wrong"

    def explains(self, codes: Array) -> bool:
        """Whether other codes are the port's: all, or of those computed from float numbers nearly all, the rest by one."""
        same = codes == self.port
        if self.exact:
            return bool(same.all())
        return bool(same.mean() >= NEARLY and np.abs(codes - self.port).max() <= 1)


# What people do wrong with integers: name, what the port does, its codes

Mistake = tuple[str, str, Callable[..., Array]]


def known(case: Case) -> Iterator[Mistake]:
    """The mistakes that can have happened at this step."""
    yield from at_the_end(case)
    if case.product is not None:
        yield from of_products(case.product, case.arithmetic, case.grid)
    else:
        yield from of_float_steps(case)


ROUNDED = {
    "even": "half to even", "away": "half away from zero", "up": "half up", "truncate": "cut off towards zero",
    "floor": "rounded down",
}  # fmt: skip


def at_the_end(case: Case) -> Iterator[Mistake]:
    """Rounding, saturation, the step's own zero point and scale."""
    _, zero, low, high = case.grid
    count = high - low + 1

    def onto(x: Array, zero: float = zero, low: int = low, high: int = high) -> Array:
        return np.clip(x + zero, low, high)

    for rounding, words in ROUNDED.items():
        how = ROUNDINGS[rounding]
        yield f"int-round-{rounding}", f"numbers are {words}", lambda c, how=how: onto(how(c.real))
    even = ROUNDINGS["even"]
    yield (
        "int-wrapped",
        "what is too large wraps around instead of saturating",
        lambda c: (even(c.real) + zero - low) % count + low,
    )
    if low == -(high + 1):
        yield "int-symmetric", f"numbers are cut off at {-high} instead of {low}", lambda c: onto(even(c.real), low=-high)
    yield "int-zero-missing", "the zero point is not added", lambda c: onto(even(c.real), 0)
    yield "int-zero-sign", "the zero point has the wrong sign", lambda c: onto(even(c.real), -zero)
    for off in (1, -1):
        yield (
            f"int-zero-off{off:+d}",
            f"the zero point is {zero + off} instead of {zero}",
            lambda c, off=off: onto(even(c.real), zero + off),
        )
    yield "int-zero-first", "the zero point is added before rounding, and cut off", lambda c: onto(np.trunc(c.real + zero), 0)
    yield "int-rectified", "what is below the zero point is cut off, as by a ReLU", lambda c: onto(np.maximum(even(c.real), 0))
    for factor, words in ((2.0, "twice"), (0.5, "half"), (4.0, "four times"), (0.25, "a quarter of")):
        yield (
            f"int-shift-{factor:g}",
            f"results are {words} what they should be: a shift is off",
            lambda c, f=factor: onto(even(c.real * f)),
        )
    yield "int-unscaled", "the step's scale is not divided by", lambda c: onto(even(c.real * c.grid.scale))


def of_products(p: Product, a: Arithmetic, grid: Grid) -> Iterator[Mistake]:
    """Of a product of integers: accumulators, zero points, scales, biases, weights, the multiplier."""
    left, right = p.left, p.right
    columns = np.reshape(right.scale, -1)

    def made(arithmetic: Arithmetic = a, sums: Array | None = None, **changes: Any) -> Array:
        other = dataclasses.replace(p, **changes, known={} if sums is None else {"sums": sums})
        return other.codes(grid, arithmetic)

    def with_sums(change: Callable[[Array], Array]) -> Callable[[Case], Array]:
        return lambda c: made(sums=change(p.sums(a)))

    def of_left(**changes: Any) -> Callable[[Case], Array]:
        return lambda c: made(left=left._replace(**changes))

    def of_right(**changes: Any) -> Callable[[Case], Array]:
        # biases are in units that follow from the scale: those of the right one stay
        return lambda c: made(sums=p.sums(a), right=right._replace(**changes))

    for kind in REQUANTISED:
        if kind not in (a.requantise, "exact"):
            other = dataclasses.replace(a, requantise=kind)
            yield (
                f"int-as-{kind}",
                f"sums are requantised as {kind} does, instead of as {a.requantise}",
                lambda c, o=other: made(o, p.sums(a)),
            )
    for bits in (24, 16, 15, 8):
        other = dataclasses.replace(a, requantise="fixed", multiplier_bits=bits)
        yield f"int-multiplier-{bits}", f"the multiplier has {bits} bits", lambda c, o=other: made(o, p.sums(a))
    for how, words in (("single", "once"), ("double", "twice")):
        multiplier = p.scale * p.factor / grid.scale
        yield (f"int-fixed-{how}", f"sums are multiplied in fixed point and rounded {words}",
               lambda c, m=multiplier, how=how: p.moved(
                   integers.requantise_fixed(p.sums(a), m, *grid[1:], rounding=how)))  # fmt: skip
    for bits in (16, 20, 24):
        yield (
            f"int-sums-wrap-{bits}",
            f"sums wrap around at {bits} bits",
            with_sums(functools.partial(integers.wrap, bits=bits)),
        )
        yield (
            f"int-sums-saturate-{bits}",
            f"sums saturate at {bits} bits",
            with_sums(functools.partial(integers.saturate, bits=bits)),
        )
    codes = left.codes - left.zero, right.codes - right.zero
    for overflow, words in (
        ("saturate16", "saturate at 16 bits, one after another"),
        ("pairs16", "of two terms saturate at 16 bits"),
    ):
        bias = 0.0 if p.bias is None else p.sums(a) - integers.accumulate(*codes)
        yield f"int-{overflow}", f"sums {words}", lambda c, o=overflow, b=bias: made(sums=integers.accumulate(*codes, o) + b)
    unsigned = left._replace(codes=left.codes - grid.low, zero=left.zero - grid.low)
    yield ("int-pairs-unsigned", "sums of two terms saturate at 16 bits (what goes in being 0 to 255)",
           lambda c: made(sums=pairs_of_unsigned(unsigned, right, p, a)))  # fmt: skip
    yield "int-sums-cut", "the lowest 8 bits of sums are cut off", with_sums(lambda s: np.floor(s / 256) * 256)

    yield "int-input-zero-missing", "the zero point of what goes in is not subtracted", of_left(zero=0)
    yield "int-input-zero-sign", "the zero point of what goes in is added, not subtracted", of_left(zero=-left.zero)
    yield "int-input-zero-off", "the zero point of what goes in is one too large", of_left(zero=left.zero + 1)
    if not p.weights:
        yield (
            "int-other-zero-missing",
            "the second operand's zero point is not subtracted",
            lambda c: made(right=right._replace(zero=0)),
        )
        yield (
            "int-other-zero-sign",
            "the second operand's zero point is added",
            lambda c: made(right=right._replace(zero=-right.zero)),
        )
    if p.factor != 1:
        yield "int-factor-missing", "scores are not divided by sqrt(K)", lambda c: made(factor=1.0, sums=p.sums(a))
        yield "int-factor-twice", "scores are divided by K", lambda c: made(factor=p.factor**2, sums=p.sums(a))

    if columns.size > 1:
        for what, scale in (("largest", columns.max()), ("mean", float32(columns.mean())), ("first", columns[0])):
            one = np.full_like(columns, scale)
            yield (
                f"int-one-scale-{what}",
                f"one scale for all columns (the {what} of them) instead of one for each",
                of_right(scale=one),
            )
        for by, words in ((1, "the one before"), (-1, "the next one")):
            yield f"int-scale-rolled{by:+d}", f"every column has the scale of {words}", of_right(scale=np.roll(columns, by))
        yield "int-scales-reversed", "the columns' scales are in reverse order", of_right(scale=columns[::-1])
    power = np.ldexp(1.0, np.frexp(columns * np.sqrt(2.0))[1] - 1)
    yield "int-scale-power", "scales are rounded to powers of two", of_right(scale=power)
    swapped = dataclasses.replace(p, left=left._replace(scale=float32(1.0)), known={"sums": p.sums(a)})
    yield "int-input-scale-missing", "the scale of what goes in is left out of the multiplier", lambda c: swapped.codes(grid, a)

    if p.bias is not None:
        bias = p.sums(a) - integers.accumulate(*codes)
        row = bias.reshape(-1, bias.shape[-1])[0]
        for name, words, other in (
            ("missing", "the bias is missing", 0 * row),
            ("twice", "the bias is added twice", 2 * row),
            ("negated", "the bias is subtracted", -row),
            ("unscaled", "the bias is rounded as it is, without a scale", np.rint(p.bias)),
            ("by-weights", "the bias is in units of the weights' scale alone", np.rint(p.bias / columns)),
            ("by-input", "the bias is in units of the input's scale alone", np.rint(p.bias / np.asarray(left.scale))),
            ("by-output", "the bias is in units of the result's scale, but added to the sums", np.rint(p.bias / grid.scale)),
            ("rolled", "every column has the bias of the one before", np.roll(row, 1)),
            ("8-bits", "the bias is kept in 8 bits", np.clip(row, -128, 127)),
            ("16-bits", "the bias is kept in 16 bits", np.clip(row, -32768, 32767)),
        ):
            yield f"int-bias-{name}", words, lambda c, o=other: made(sums=p.sums(a) - bias + o)
    if p.weights:
        square = right.codes.shape[0] == right.codes.shape[1]
        changed: dict[str, tuple[str, Array]] = {
            "unsigned": ("weights are read as unsigned", right.codes % 256),
            "4-bits": ("weights have four bits (their upper half)", np.rint(right.codes / 16) * 16),
            "offset": ("weights are 128 too large: their zero point is not subtracted", right.codes + 128),
        }
        if square:
            changed["transposed"] = "the weights are transposed", right.codes.T
        else:
            changed["reshaped"] = (
                "the weights are transposed: (out, in) numbers are read as (in, out)",
                np.reshape(right.codes.T, right.codes.shape),
            )
        for name, (words, codes_) in changed.items():
            extra = 0.0 if p.bias is None else p.sums(a) - integers.accumulate(*codes)
            yield (f"int-weights-{name}", words,
                   lambda c, w=codes_, e=extra: made(sums=integers.accumulate(codes[0], w) + e))  # fmt: skip


def pairs_of_unsigned(left: Held, right: Held, p: Product, a: Arithmetic) -> Array:
    """Sums as x86's vpmaddubsw makes them of uint8 times int8; what the zero point adds is taken away after."""
    exact = integers.accumulate(left.codes - left.zero, right.codes - right.zero)
    cut = integers.accumulate(left.codes, right.codes - right.zero, "pairs16")
    return p.sums(a) - exact + cut - left.zero * (right.codes - right.zero).sum(axis=-2, keepdims=True)


def of_float_steps(case: Case) -> Iterator[Mistake]:
    """Of a step that was computed in floating point, or by a table, and then became integers."""
    grid = case.grid
    for format in ("float16", "bfloat16"):
        yield (f"int-before-{format}", f"the numbers are {format} before they become integers",
               lambda c, f=format: quantise(to_float(c.real * grid.scale, f), *grid))  # fmt: skip
    whole = [x for x in case.inputs.values() if x.grid is not None]
    if len(whole) == 2 and all(x.shape == case.port.shape for x in whole):
        a, b = whole
        assert a.grid and b.grid
        steps = [(codes_of(x, grid) - grid.zero, grid.scale) for x, grid in ((a, a.grid), (b, b.grid))]
        even = ROUNDINGS["even"]

        def total(*parts: Array) -> Callable[[Case], Array]:
            return lambda c: np.clip(even(sum(parts)) + grid.zero, grid.low, grid.high)

        (one, one_scale), (two, two_scale) = steps
        yield "int-sum-unscaled", "the codes are added as they are, whatever their scales", total(one, two)
        yield (
            "int-sum-one-scale",
            "both codes are taken to have the first one's scale",
            total((one + two) * (one_scale / grid.scale)),
        )
        yield (
            "int-sum-other-scale",
            "both codes are taken to have the second one's scale",
            total((one + two) * (two_scale / grid.scale)),
        )
        yield ("int-sum-rounded-first", "both are brought to the result's scale, and rounded, before they are added",
               total(even(one * one_scale / grid.scale), even(two * two_scale / grid.scale)))  # fmt: skip
        yield (
            "int-sum-swapped",
            "the scales of both are swapped",
            total(one * (two_scale / grid.scale), two * (one_scale / grid.scale)),
        )
    if len(whole) == 1 and whole[0].shape == case.port.shape and whole[0].grid:
        yield from of_tables(case, whole[0])


def of_tables(case: Case, x: NarrowArray) -> Iterator[Mistake]:
    """Of a function of one code: a table that has too few entries."""
    assert x.grid is not None
    codes = codes_of(x, x.grid).astype(np.int64)
    table = np.full(65536, np.nan)
    table[codes.ravel() + 32768] = case.right.ravel()
    for entries in (128, 64, 32, 16):
        size = (x.grid.high - x.grid.low + 1) // entries
        for how, words in ((0, "the entry below"), (size // 2, "the entry in the middle")):
            coarse = (codes - x.grid.low) // size * size + x.grid.low + how
            found = table[coarse + 32768]
            if not np.isnan(found).any():
                yield f"int-table-{entries}", f"the table has {entries} entries ({words} is taken)", lambda c, f=found: f


@dataclasses.dataclass(frozen=True)
class Explained:
    """A mistake that gives a port's codes."""

    name: str
    text: str


def explain(case: Case) -> tuple[list[Explained], int]:
    """The mistakes that give the port's codes and not the right ones, and how many were tried."""
    found, tried = [], 0
    for name, text, codes in known(case):
        tried += 1
        with np.errstate(all="ignore"):
            try:
                given = codes(case)
            except Exception as error:  # a mistake that cannot be made with these shapes
                if not isinstance(error, (ValueError, IndexError)) and type(error).__name__ != "InputError":
                    raise
                continue
        if given.shape == case.port.shape and case.explains(given) and (given != case.right).any():
            found.append(Explained(name, text))
    return found, tried
