"""The mistakes people make with integers: what each would give, and which of them give a port's codes.

A mistake counts as an explanation only where it gives the codes the port has, all of them (of steps that pass through floating
point nearly all), and not the right ones. All that do are told, for a dump may not tell them apart.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..arithmetic import integers, litert
from ..arithmetic.formats import ROUNDINGS, quantise, to_float
from ..arithmetic.named import Arithmetic
from ..arithmetic.narrow import REQUANTISED, Held, NarrowArray, Product, bias_codes, codes_of, float32, litert_numerics
from ..errors import InputError
from .integers import Case

Array = Any
FEW = 4  # so many codes must differ before a mistake that moves single codes near ties is believed
Codes = Callable[..., Array]  # called without arguments


class Known(NamedTuple):
    """A mistake that can have happened at a step."""

    name: str
    text: str  # what the port does
    codes: Codes  # what it gives
    fine: bool = False  # whether it moves only numbers that are next to a tie, as many other things do
    nearly: bool = False  # whether it is computed otherwise than a port would, but for ties


@dataclasses.dataclass(frozen=True)
class Explained:
    """A mistake that gives a port's codes."""

    name: str
    text: str
    fine: bool = False


def explain(case: Case, names: frozenset[str] | None = None) -> tuple[list[Explained], int]:
    """The mistakes that give the port's codes and not the right ones, and how many were tried; `names`: only these."""
    found: dict[str, Explained] = {}
    tried = 0
    for name, text, codes, fine, nearly in known(case):
        if names is not None and name not in names:
            continue
        tried += 1
        with np.errstate(all="ignore"):
            try:
                given = codes()
            except (ValueError, IndexError, InputError):  # a mistake that cannot be made with these shapes or numbers
                continue
        if case.explains(given, nearly) and (given != case.right).any():
            found.setdefault(name, Explained(name, text, fine))
    return list(found.values()), tried


def known(case: Case) -> Iterator[Known]:
    """The mistakes that can have happened at this step."""
    yield from at_the_end(case)
    if case.product is not None:
        yield from Products(case, case.product).all()
    else:
        yield from of_float_steps(case)


ROUNDED = {
    "even": "half to even", "away": "half away from zero", "up": "half up", "truncate": "cut off towards zero",
    "floor": "rounded down", "ceil": "rounded up, all of them",
}  # fmt: skip


def rounding(name: str) -> Callable[[Array], Array]:
    return np.ceil if name == "ceil" else ROUNDINGS[name]


def at_the_end(case: Case) -> Iterator[Known]:
    """Rounding, saturation, the step's own zero point and scale."""
    scale, zero, low, high = case.grid
    count, real, whole = high - low + 1, functools.cache(lambda: case.real), functools.cache(case.on)

    def onto(x: Array, zero: float = zero, low: int = low, high: int = high) -> Array:
        return np.clip(x + zero, low, high)

    for name, words in ROUNDED.items():
        fine, said = name in ("even", "away", "up"), f"numbers are {words}"
        for x in case.reals:
            codes = functools.partial(lambda x, how: onto(how(x)), x, rounding(name))
            yield Known(f"int-round-{name}", said, codes, fine, not fine)  # where x is whole, its last bit decides
    yield Known(
        "int-wrapped", "what is too large wraps around instead of saturating", lambda: (whole() + zero - low) % count + low
    )
    for name, least, most in (
        ("symmetric", -high, high),
        ("cut-1", low, high - 1),
        ("cut-both", low + 1, high - 1),
        ("cut-7-bits", low // 2, high // 2),
    ):
        if least >= low:
            words = f"numbers are cut off at {least} and {most} instead of {low} and {high}"
            yield Known(f"int-{name}", words, lambda a=least, b=most: onto(whole(), low=a, high=b))
    yield Known(
        "int-cut-first",
        "numbers are cut off before the zero point is added, and again after",
        lambda: onto(np.clip(whole(), low, high)),
    )
    yield Known("int-zero-missing", "the zero point is not added", lambda: onto(whole(), 0))
    yield Known("int-zero-sign", "the zero point has the wrong sign", lambda: onto(whole(), -zero))
    for off in (1, -1):
        words = f"the zero point is {zero + off} instead of {zero}"
        yield Known(f"int-zero-off{off:+d}", words, lambda off=off: onto(whole(), zero + off))
    yield Known(
        "int-zero-first", "the zero point is added before rounding, and cut off", lambda: onto(np.trunc(real() + zero), 0)
    )
    yield Known("int-rectified", "what is below the zero point is cut off, as by a ReLU", lambda: onto(np.maximum(whole(), 0)))
    for factor, words in ((2.0, "twice"), (0.5, "half"), (4.0, "four times"), (0.25, "a quarter of")):
        said = f"results are {words} what they should be: a shift is off"
        yield Known(f"int-shift-{factor:g}", said, lambda f=factor: onto(case.on(scale=scale / f)))
        for again in ("even", "floor", "away", "up"):  # of what was rounded already
            yield Known(f"int-shift-{factor:g}", said, lambda f=factor, way=again: onto(ROUNDINGS[way](whole() * f)))
    said = "numbers are multiplied by the step's scale, not divided"
    yield Known("int-unscaled", said, lambda: onto(case.on(scale=1 / scale)))
    yield Known("int-scale-missing", "the step's scale is not divided by", lambda: onto(case.on(scale=1.0)))
    for step, grid in near(case, real()):
        yield Known("int-scale-other", f"the step has the scale of {step}", lambda g=grid: onto(case.on(scale=g.scale)))
        yield Known(
            "int-scale-other",
            f"the step has the scale and zero point of {step}",
            lambda g=grid: onto(case.on(scale=g.scale), g.zero),
        )


def near(case: Case, real: Array) -> Iterator[tuple[str, Any]]:
    """Steps whose scale is as far from this one's as the port's numbers are from the right ones."""
    inside = (case.port > case.grid.low) & (case.port < case.grid.high)
    x, y = real[inside], (case.port - case.grid.zero)[inside]
    factor = float((x * y).sum() / max((x * x).sum(), 1e-300))
    for name, grid in case.grids.items():
        if grid.scale != case.grid.scale and factor > 0 and 0.9 < case.grid.scale / grid.scale / factor < 1.1:
            yield name, grid


class Products:
    """Of a product of integers: accumulators, zero points, scales, biases, weights, the multiplier."""

    def __init__(self, case: Case, product: Product) -> None:
        self.case, self.p, self.a, self.grid = case, product, case.arithmetic, case.grid
        self.left, self.right = product.left, product.right
        self.columns = np.reshape(self.right.scale, -1)
        self.codes = self.left.codes - self.left.zero, self.right.codes - self.right.zero

    @functools.cached_property
    def sums(self) -> Array:
        return self.p.sums(self.a)

    @functools.cached_property
    def bias(self) -> Array:
        """What is added to the sums: (out,), or 0."""
        return 0.0 if self.p.bias is None else bias_codes(self.p.bias, self.p.scale, self.a)

    def all(self) -> Iterator[Known]:
        yield from self.multipliers()
        yield from self.accumulators()
        yield from self.zero_points()
        yield from self.scales()
        if self.p.bias is not None:
            yield from self.biases()
        if self.p.weights:
            yield from self.weights()
            yield from self.other_layers()
            yield from self.heads()

    def made(self, arithmetic: Arithmetic | None = None, sums: Array | None = None, **changes: Any) -> Array:
        other = dataclasses.replace(self.p, **changes, known={} if sums is None else {"sums": sums})
        return other.codes(self.grid, arithmetic or self.a)

    def with_sums(self, change: Callable[[Array], Array]) -> Codes:
        return lambda: self.made(sums=change(self.sums))

    def of_left(self, **changes: Any) -> Codes:
        """The bias, in units that follow from the scales, stays."""
        return lambda: self.made(left=self.left._replace(**changes))

    def of_scales(self, scale: Array) -> Codes:
        return lambda: self.made(sums=self.sums, right=self.right._replace(scale=scale))

    def times(self, multiplier: Array, name: str = "even") -> Codes:
        """The sums times another multiplier, rounded once."""

        def codes() -> Array:
            whole = rounding(name)(self.p.moved(self.sums * multiplier)) + self.grid.zero
            return np.clip(whole, self.grid.low, self.grid.high)

        return codes

    @property
    def multiplier(self) -> Array:
        return self.p.scale * self.p.factor / self.grid.scale

    def multipliers(self) -> Iterator[Known]:
        for kind in REQUANTISED:
            if kind not in (self.a.requantise, "exact"):
                other = dataclasses.replace(self.a, requantise=kind)
                yield Known(
                    f"int-as-{kind}",
                    f"sums are requantised as {kind} does, instead of as {self.a.requantise}",
                    lambda o=other: self.made(o, self.sums),
                    True,
                )
        for bits in (31, 24, 16, 15, 12, 8, 7):
            for how in integers.FIXED:
                fixed = functools.partial(self.fixed, bits, how)
                if bits == 31 and how in ("single", "double"):
                    words = {"single": "once", "double": "twice"}[how]
                    said = f"sums are multiplied in fixed point and rounded {words}"
                    stored = float32(float32(self.left.scale * self.p.factor) * self.columns) / self.grid.scale
                    yield Known(f"int-fixed-{how}", said, functools.partial(self.fixed, bits, how, stored), True)
                    yield Known(f"int-fixed-{how}", f"sums are multiplied in fixed point and rounded {words}", fixed, True)
                elif bits < 31 or how in ("truncate", "floor"):
                    cut = {"truncate": ", and the rest cut off", "floor": ", and the rest shifted out"}.get(how, "")
                    name = f"int-multiplier-{bits}" + (f"-{how}" if cut else "")
                    yield Known(name, f"the multiplier has {bits} bits{cut}", fixed, bits > 12 and not cut)
        log = np.log2(self.multiplier)
        for name, power in (("", np.rint(log)), ("-up", np.ceil(log)), ("-down", np.floor(log))):
            way = {"": "the nearest", "-up": "the next larger", "-down": "the next smaller"}[name]
            yield Known(
                f"int-multiplier-power{name}", f"the multiplier is a power of two, {way}: a shift", self.times(2.0**power)
            )

    def fixed(self, bits: int, how: str, multiplier: Array | None = None) -> Array:
        """Requantised in fixed point, by a multiplier of so many bits."""
        real = self.multiplier if multiplier is None else multiplier
        return self.p.moved(integers.requantise_fixed(self.sums, real, *self.grid[1:], bits=bits, rounding=how))

    def accumulators(self) -> Iterator[Known]:
        for bits in (15, 16, 17, 18, 19, 20, 22, 24):
            for what, change in (("wrap", integers.wrap), ("saturate", integers.saturate)):
                words = {"wrap": "wrap around", "saturate": "saturate"}[what]
                changed = self.with_sums(functools.partial(change, bits=bits))
                yield Known(f"int-sums-{what}-{bits}", f"sums {words} at {bits} bits", changed)
        yield Known(
            "int-sums-saturate-16-before-bias",
            "sums saturate at 16 bits before the bias is added",
            self.with_sums(lambda s: integers.saturate(s - self.bias, 16) + self.bias),
        )
        for overflow, words in (
            ("saturate16", "saturate at 16 bits, one after another"),
            ("pairs16", "of two terms saturate at 16 bits"),
        ):
            yield Known(
                f"int-{overflow}",
                f"sums {words}",
                lambda o=overflow: self.made(sums=integers.accumulate(*self.codes, o, self.bias)),
            )
        yield Known(
            "int-pairs-unsigned",
            "sums of two terms saturate at 16 bits (what goes in being 0 to 255)",
            lambda: self.made(sums=self.pairs_of_unsigned()),
        )
        for bits in (8, 4, 12):
            size = 2.0**bits
            for name, way in (("", "floor"), ("-to-zero", "truncate"), ("-rounded", "even")):
                cut = functools.partial(without_lowest, size=size, how=ROUNDINGS[way])
                yield Known(f"int-sums-cut-{bits}{name}", f"the lowest {bits} bits of sums are cut off", self.with_sums(cut))
        a, b = self.codes
        for name, x, y in (("last", a[..., -1:], b[..., -1:, :]), ("first", a[..., :1], b[..., :1, :])):
            said = f"the {name} term of every sum is left out"
            yield Known(f"int-term-{name}", said, lambda x=x, y=y: self.made(sums=self.sums - np.matmul(x, y)))

    def pairs_of_unsigned(self) -> Array:
        """Sums as x86's vpmaddubsw makes them of uint8 times int8; what the zero point adds is taken away after."""
        left = self.left._replace(codes=self.left.codes - self.grid.low, zero=self.left.zero - self.grid.low)
        weights = self.codes[1]
        cut = integers.accumulate(left.codes, weights, "pairs16")
        return cut - left.zero * weights.sum(axis=-2, keepdims=True) + self.bias

    def zero_points(self) -> Iterator[Known]:
        zero = self.left.zero
        yield Known("int-input-zero-missing", "the zero point of what goes in is not subtracted", self.of_left(zero=0))
        yield Known("int-input-zero-sign", "the zero point of what goes in is added, not subtracted", self.of_left(zero=-zero))
        yield Known("int-input-zero-twice", "the zero point of what goes in is subtracted twice", self.of_left(zero=2 * zero))
        for off, words in ((1, "large"), (-1, "small")):
            yield Known(
                f"int-input-zero-off{off:+d}",
                f"the zero point of what goes in is one too {words}",
                self.of_left(zero=zero + off),
            )
        if self.p.weights:
            return
        for name, words, other in (
            ("missing", "is not subtracted", 0),
            ("sign", "is added", -self.right.zero),
            ("twice", "is subtracted twice", 2 * self.right.zero),
            ("off+1", "is one too large", self.right.zero + 1),
            ("off-1", "is one too small", self.right.zero - 1),
        ):
            yield Known(
                f"int-other-zero-{name}",
                f"the second operand's zero point {words}",
                lambda z=other: self.made(right=self.right._replace(zero=z)),
            )
        yield Known(
            "int-both-zeros-missing",
            "neither operand's zero point is subtracted",
            lambda: self.made(left=self.left._replace(zero=0), right=self.right._replace(zero=0)),
        )
        for off in (1, -1):
            yield Known(
                f"int-both-zeros-off{off:+d}",
                f"both operands' zero points are one too {'large' if off > 0 else 'small'}",
                lambda off=off: self.made(
                    left=self.left._replace(zero=self.left.zero + off), right=self.right._replace(zero=self.right.zero + off)
                ),
            )

    def scales(self) -> Iterator[Known]:
        columns, factor = self.columns, self.p.factor
        if factor != 1:
            yield Known(
                "int-factor-missing", "scores are not divided by sqrt(K)", lambda: self.made(factor=1.0, sums=self.sums)
            )
            yield Known("int-factor-twice", "scores are divided by K", lambda: self.made(factor=factor**2, sums=self.sums))
        if columns.size > 1:
            middle = float32(columns.mean())
            for what, scale in (
                ("largest", columns.max()),
                ("smallest", columns.min()),
                ("mean", middle),
                ("first", columns[0]),
            ):
                yield Known(
                    f"int-one-scale-{what}",
                    f"one scale for all columns (the {what} of them) instead of one for each",
                    self.of_scales(np.full_like(columns, scale)),
                )
            for by, words in ((1, "the one before"), (-1, "the next one")):
                yield Known(
                    f"int-scale-rolled{by:+d}", f"every column has the scale of {words}", self.of_scales(np.roll(columns, by))
                )
            yield Known("int-scales-reversed", "the columns' scales are in reverse order", self.of_scales(columns[::-1]))
        log = np.log2(columns)
        for name, power in (("", np.rint(log)), ("-up", np.ceil(log)), ("-down", np.floor(log))):
            yield Known(
                f"int-scale-power{name}", "the weights' scales are rounded to powers of two", self.of_scales(2.0**power)
            )
        for name, words, scale in (
            ("missing", "is left out of the multiplier", 1.0),
            ("twice", "is in the multiplier twice", float(self.left.scale) ** 2),
        ):
            other = float32(scale)
            yield Known(
                f"int-input-scale-{name}",
                f"the scale of what goes in {words}",
                lambda s=other: self.made(left=self.left._replace(scale=s), sums=self.sums),
            )
        yield Known(
            "int-weight-scale-missing", "the weights' scales are left out of the multiplier", self.of_scales(columns * 0 + 1)
        )
        for step, grid in self.case.grids.items():
            if grid.scale == self.left.scale or not 0.5 < self.gain / (grid.scale / float(self.left.scale)) < 2:
                continue
            left, said = self.left._replace(scale=np.float64(grid.scale)), f"what goes in is taken to have the scale of {step}"
            yield Known("int-input-scale-other", said, lambda left=left: self.made(left=left, sums=self.sums))
            if self.p.bias is not None:
                yield Known("int-input-scale-other", said, lambda left=left: self.made(left=left))

    @functools.cached_property
    def gain(self) -> float:
        """By how much the port's numbers are larger than the right ones, where they are not cut off."""
        inside = (self.case.port > self.grid.low) & (self.case.port < self.grid.high)
        port, right = (self.case.port - self.grid.zero)[inside], self.case.real[inside]
        return float((port * right).sum() / max((right * right).sum(), 1e-300))

    def biases(self) -> Iterator[Known]:
        row, p = np.broadcast_to(self.bias, np.shape(p_bias(self.p))), self.p
        for name, words, other in (
            ("missing", "the bias is missing", 0 * row),
            ("twice", "the bias is added twice", 2 * row),
            ("negated", "the bias is subtracted", -row),
            ("unscaled", "the bias is rounded as it is, without a scale", np.rint(p_bias(p))),
            ("by-weights", "the bias is in units of the weights' scale alone", np.rint(p_bias(p) / self.columns)),
            ("by-input", "the bias is in units of the input's scale alone", np.rint(p_bias(p) / np.asarray(self.left.scale))),
            (
                "by-output",
                "the bias is in units of the result's scale, but added to the sums",
                np.rint(p_bias(p) / self.grid.scale),
            ),
            ("rolled+1", "every column has the bias of the one before", np.roll(row, 1)),
            ("rolled-1", "every column has the bias of the next one", np.roll(row, -1)),
            ("reversed", "the biases are in reverse order", row[::-1]),
        ):
            yield Known(f"int-bias-{name}", words, self.with_bias(other))
        for bits in (8, 10, 12, 16, 18, 20):
            yield Known(
                f"int-bias-{bits}-bits", f"the bias is kept in {bits} bits", self.with_bias(integers.saturate(row, bits))
            )
            yield Known(
                f"int-bias-wraps-{bits}",
                f"the bias is kept in {bits} bits, and wraps around",
                self.with_bias(integers.wrap(row, bits)),
            )
        for power in (*range(-8, 0), *range(1, 9)):
            exact = p_bias(p) / float32(p.scale) * 2.0**power
            words = f"the bias is {2 ** abs(power)} times too {'large' if power > 0 else 'small'}: shifted"
            yield Known(f"int-bias-shift{power:+d}", words, self.with_bias(np.rint(exact)))
            yield Known(f"int-bias-shift{power:+d}", words, self.with_bias(np.floor(row * 2.0**power)))
        yield Known(
            "int-bias-late", "the bias is added after requantising, in units of the result's scale", lambda: self.late_bias()
        )

    def late_bias(self) -> Array:
        codes = self.made(sums=self.sums - self.bias)
        row = np.broadcast_to(np.rint(p_bias(self.p) / self.grid.scale), self.sums.shape)
        return np.clip(codes + self.p.moved(row), self.grid.low, self.grid.high)

    def with_bias(self, other: Array) -> Codes:
        return lambda: self.made(sums=self.sums - self.bias + other)

    def with_weights(self, codes: Array) -> Codes:
        return lambda: self.made(sums=integers.accumulate(self.codes[0], codes) + self.bias)

    def weights(self) -> Iterator[Known]:
        right = self.right.codes
        changed: dict[str, tuple[str, Array]] = {
            "unsigned": ("weights are read as unsigned", right % 256),
            "4-bits": ("weights have four bits (their upper half, rounded)", np.rint(right / 16) * 16),
            "4-bits-floor": ("weights have four bits (their upper half, the lower cut off)", np.floor(right / 16) * 16),
            "offset": ("weights are 128 too large: their zero point is not subtracted", right + 128),
            "negated": ("weights have the wrong sign", -right),
            "rows-reversed": ("the rows of the weights are in reverse order", right[::-1]),
            "columns-reversed": ("the columns of the weights are in reverse order", right[:, ::-1]),
        }
        if right.shape[0] == right.shape[1]:
            changed["transposed"] = "the weights are transposed", right.T
        else:
            reshaped = np.reshape(right.T, right.shape)
            changed["reshaped"] = "the weights are transposed: (out, in) numbers are read as (in, out)", reshaped
        for name, (words, codes) in changed.items():
            yield Known(f"int-weights-{name}", words, self.with_weights(codes))
        if self.case.layers:
            yield from self.otherwise_quantised(self.case.layers[0].matrix)

    def otherwise_quantised(self, matrix: Array) -> Iterator[Known]:
        """The weights brought to integers in other ways, with the scales that belong to them, or not."""
        largest = np.abs(matrix).max(axis=0)
        low, high = -127, 127
        one = float32(largest.max() / 127)
        rows = float32(np.abs(matrix).max(axis=1, keepdims=True) / 127)

        def codes(scale: Array, how: str = "even", low: int = low, high: int = high) -> Array:
            return np.clip(rounding(how)(float32(matrix / scale)), low, high)

        yield Known(
            "int-weights-per-tensor", "weights have one scale for all columns, and are quantised so",
            self.requantised(codes(one), np.full_like(self.columns, one)),
        )  # fmt: skip
        if matrix.shape[0] == matrix.shape[1]:
            yield Known(
                "int-weights-wrong-axis", "weights have a scale for each input instead of each output: the wrong axis",
                self.requantised(codes(rows), rows[:, 0]),
            )  # fmt: skip
        for name, words, how in (("truncate", "cut off towards zero", "truncate"), ("floor", "rounded down", "floor")):
            yield Known(f"int-weights-{name}", f"weights are {words}", self.requantised(codes(self.columns, how), self.columns))
        wide = float32(largest / 128)
        yield Known(
            "int-weights-128", "the largest weight of a column is 128, not 127, and cut off",
            self.requantised(codes(wide, low=-128), wide),
        )  # fmt: skip
        power = 2.0 ** np.ceil(np.log2(largest / 127))
        yield Known(
            "int-weights-power", "weights are quantised with scales that are powers of two",
            self.requantised(codes(power), power),
        )  # fmt: skip
        for bits in (7, 6, 4):
            top = 2 ** (bits - 1) - 1
            scale = float32(largest / top)
            yield Known(
                f"int-weights-{bits}-bits", f"weights are quantised to {bits} bits",
                self.requantised(codes(scale, low=-top, high=top), scale),
            )  # fmt: skip

    def requantised(self, codes: Array, scale: Array) -> Codes:
        """Weights with other codes and scales, the bias following the scales."""
        return lambda: self.made(right=Held(codes, scale))

    def other_layers(self) -> Iterator[Known]:
        for other in self.case.layers[1:]:
            yield Known(
                f"int-weights-of-{other.name}",
                f"it is computed with the weights of {other.name}",
                lambda o=other: self.made(right=o.held, bias=o.bias),
            )

    def heads(self) -> Iterator[Known]:
        """What goes in is a context whose heads were merged otherwise."""
        context = [x for x in self.case.inputs.values() if x.ndim == 4]
        if len(context) != 1 or context[0].grid is None:
            return
        heads = codes_of(context[0], context[0].grid)
        if heads.size != self.left.codes.size:
            return
        shape = self.left.codes.shape
        for name, words, order in (
            ("kh", "as (K, H) instead of (H, K)", (0, 2, 3, 1)),
            ("unmoved", "without moving tokens before heads", (0, 1, 2, 3)),
        ):
            merged = heads.transpose(order).reshape(shape)
            yield Known(f"int-heads-merged-{name}", f"heads are merged {words}", self.of_left(codes=merged))


def without_lowest(sums: Array, size: float, how: Callable[[Array], Array]) -> Array:
    """Sums in units of a size."""
    return how(sums / size) * size


def p_bias(product: Product) -> Array:
    """A product's bias, as real numbers."""
    assert product.bias is not None
    return np.asarray(product.bias, np.float64)


def of_float_steps(case: Case) -> Iterator[Known]:
    """Of a step that was computed in floating point, or by a table, and then became integers."""
    grid = case.grid
    for format in ("float16", "bfloat16"):
        yield Known(
            f"int-before-{format}",
            f"the numbers are {format} before they become integers",
            lambda f=format: quantise(to_float(case.real * grid.scale, f), *grid),
            True,
        )
    whole = [x for x in case.inputs.values() if x.grid is not None]
    if len(whole) == 2 and all(x.shape == case.port.shape for x in whole):
        yield from of_sums(case, *whole)
    if len(whole) == 1 and whole[0].shape == case.port.shape and case.activations:
        yield from of_tables(case, whole[0])
    if len(whole) == 1 and case.port.ndim + 1 == whole[0].ndim == 3:
        yield from of_tokens(case, whole[0])
    if len(whole) == 1 and case.port.ndim == 4 and whole[0].shape == case.port.shape:
        yield from of_softmax(case, whole[0])


def of_sums(case: Case, a: NarrowArray, b: NarrowArray) -> Iterator[Known]:
    """Of a sum of two steps."""
    grid, even = case.grid, ROUNDINGS["even"]
    assert a.grid and b.grid
    raw = codes_of(a, a.grid), codes_of(b, b.grid)
    one, two = raw[0] - a.grid.zero, raw[1] - b.grid.zero
    first, second = a.grid.scale / grid.scale, b.grid.scale / grid.scale

    def total(x: Array) -> Codes:
        return lambda: np.clip(even(x) + grid.zero, grid.low, grid.high)

    def cut(x: Array) -> Array:
        return np.clip(even(x), grid.low, grid.high)

    for name, words, x in (
        ("unscaled", "the codes are added as they are, whatever their scales", one + two),
        ("one-scale", "both codes are taken to have the first one's scale", (one + two) * first),
        ("other-scale", "both codes are taken to have the second one's scale", (one + two) * second),
        ("rounded-first", "both are brought to the result's scale, and rounded, before they are added",
         even(one * first) + even(two * second)),
        ("cut-first", "both are brought to the result's scale, rounded and cut off, before they are added",
         cut(one * first) + cut(two * second)),
        ("swapped", "the scales of both are swapped", one * second + two * first),
        ("zeros-missing", "the zero points of both are not subtracted", raw[0] * first + raw[1] * second),
        ("first-zero-missing", "the zero point of the first is not subtracted", raw[0] * first + two * second),
        ("second-zero-missing", "the zero point of the second is not subtracted", one * first + raw[1] * second),
        ("second-missing", "the second is not added", one * first),
        ("first-missing", "the first is not added: what a block began with is lost", two * second),
        ("difference", "the second is subtracted", one * first - two * second),
        ("twice", "the second is added twice", one * first + 2 * two * second),
    ):  # fmt: skip
        yield Known(f"int-sum-{name}", words, total(x))


def of_tables(case: Case, x: NarrowArray) -> Iterator[Known]:
    """Of a function of one code: another function, a table of too few entries, or read otherwise."""
    assert x.grid is not None
    low, high = x.grid.low, x.grid.high
    place = (codes_of(x, x.grid) - low).astype(np.int64)
    count = high - low + 1
    own, *others = case.activations
    table = case.activations[own]
    for other in others:
        yield Known(
            f"activation-{other}", f"the activation is {other} instead of {own}", lambda t=case.activations[other]: t[place]
        )
    yield Known("int-table-missing", f"{own} is left out", lambda: requantised(x, case))
    for entries in (128, 64, 32, 16):
        size = count // entries
        for how, words in ((0, "the entry below"), (size // 2, "the entry in the middle"), (size - 1, "the entry above")):
            coarse = place // size * size + how
            yield Known(
                f"int-table-{entries}", f"the table has {entries} entries ({words} is taken)", lambda p=coarse: table[p]
            )
        below = place // size * size
        above = np.minimum(below + size, count - 1)
        between = np.rint(table[below] + (table[above] - table[below]) * ((place - below) / size))
        yield Known(
            f"int-table-{entries}-between", f"the table has {entries} entries, with straight lines between", lambda y=between: y
        )
    for off in (1, -1):
        shifted = np.clip(place + off, 0, count - 1)
        yield Known(f"int-table-off{off:+d}", f"the table is read one entry too {'far' if off > 0 else 'early'}",
                    lambda p=shifted: table[p])  # fmt: skip
    unsigned = (place + low) % count
    yield Known("int-table-unsigned", "the table, which begins with the lowest code, is read by codes taken as unsigned",
                lambda: table[unsigned])  # fmt: skip


def requantised(x: NarrowArray, case: Case) -> Array:
    """The step before, only brought to this one's grid."""
    return quantise(np.asarray(x), *case.grid)


def of_tokens(case: Case, x: NarrowArray) -> Iterator[Known]:
    """Of one token that is taken of several: another one."""
    assert x.grid is not None
    codes = codes_of(x, x.grid)
    for n in (0, 1, codes.shape[1] - 1):
        yield Known(f"int-token-{n}", f"token {n} is taken", lambda n=n: codes[:, n])


def of_softmax(case: Case, x: NarrowArray) -> Iterator[Known]:
    """Of a softmax: scores taken otherwise."""
    of = x.grid
    assert of is not None
    grid, codes, real = case.grid, codes_of(x, of), np.asarray(x, np.float64)
    numerics = litert_numerics(case.arithmetic)

    def softmax(factor: float, axis: int = -1) -> Codes:
        """Of scores times a factor."""

        def found() -> Array:
            if numerics:
                turned = litert.softmax(np.moveaxis(codes, axis, -1), float(of.scale * factor), numerics=numerics)
                return np.moveaxis(turned, -1, axis)
            terms = np.exp((real - real.max(axis=axis, keepdims=True)) * factor)
            return quantise(terms / terms.sum(axis=axis, keepdims=True), *grid)

        return found

    said = "softmax is taken of the scores' codes, without their scale"
    yield Known("int-softmax-unscaled", said, softmax(1 / of.scale))
    yield Known("int-softmax-base-2", "softmax is taken with powers of 2, not of e", softmax(float(np.log(2.0))))
    yield Known("softmax-over-queries", "softmax is taken over the queries", softmax(1.0, axis=-2))
    for factor, words in ((2.0, "twice"), (0.5, "half")):
        yield Known(f"int-softmax-scale-{factor:g}", f"softmax is taken of scores that are {words} as large", softmax(factor))
    terms = np.exp(real - real.max(axis=-1, keepdims=True))
    probs = terms / terms.sum(axis=-1, keepdims=True)
    for name in ("truncate", "floor", "ceil"):
        cut = np.clip(rounding(name)(probs / grid.scale) + grid.zero, grid.low, grid.high)
        yield Known(f"int-round-{name}", f"numbers are {ROUNDED[name]}", lambda x=cut: x, nearly=True)
    for units in (127, 128, 255, 256):
        if abs(1 / units - grid.scale) > 1e-6:
            other = np.clip(np.rint(probs * units) + grid.zero, grid.low, grid.high)
            said = f"probabilities are in units of 1/{units}, not of 1/{1 / grid.scale:.0f}"
            yield Known(f"int-softmax-units-{units}", said, lambda x=other: x, nearly=True)
    yield Known("int-softmax-not-normalised", "the exponentials are not divided by their sum",
                lambda: quantise(np.exp(real - real.max(axis=-1, keepdims=True)), *grid))  # fmt: skip
    uniform = np.full(real.shape, 1.0 / real.shape[-1])
    yield Known(
        "int-softmax-uniform", "all probabilities are alike: scores are not looked at", lambda: quantise(uniform, *grid)
    )
