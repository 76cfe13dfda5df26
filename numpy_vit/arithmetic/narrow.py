"""The forward pass in a narrow arithmetic (numpy_vit.arithmetic.named), with the same bits on every machine.

A `NarrowArray` holds real numbers, whatever they are kept as; its grid says which whole codes they are. Matrix products are
taken of what an arithmetic brings their operands to; every other operation is computed exactly within (as portable arrays
are) and rounded once. `Storing` is the step contract that keeps every step in the numbers the arithmetic has for it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import ops
from ..steps import Step
from . import formats, integers, litert, portable
from .named import Arithmetic, Grid, Numbers
from .portable import PortableArray, matmul

Array = Any
SLICES = 2  # of the exact product: sums are right to 40 bits, and rounded to 24 or fewer
WIDTH = {"float32": 24, "tf32": 11, "float16": 11, "bfloat16": 8}  # bits of a mantissa: which of two formats is the wider


class Held(NamedTuple):
    """What goes into a product: the real numbers are (codes - zero) * scale."""

    codes: Array  # whole numbers, or numbers of a float format
    scale: Array = 1.0  # float32 numbers: one, one a column, or (ggml) one a block
    zero: int = 0


@dataclasses.dataclass(frozen=True)
class Product:
    """A product of integers that is no step yet: what it is made of, and so all that can be made of it."""

    left: Held
    right: Held
    bias: Array | None  # real numbers
    weights: bool  # whether it is of weights, or of two results
    factor: float = 1.0  # a constant that goes into the multiplier
    moves: tuple[Callable[[Array], Array], ...] = ()  # how its numbers are moved before they are a step's
    known: dict[str, Array] = dataclasses.field(default_factory=dict)  # the sums, once they are

    @property
    def scale(self) -> Array:
        """Of one whole sum, in float64, where the product of two float32 numbers is exact: one number, or one a column."""
        return np.asarray(self.left.scale, np.float64) * np.reshape(self.right.scale, -1)

    def sums(self, a: Arithmetic) -> Array:
        """The whole sums, with the bias, as the accumulator has them."""
        if "sums" not in self.known:
            left, right = self.left.codes - self.left.zero, self.right.codes - self.right.zero
            bias = 0.0 if self.bias is None else bias_codes(self.bias, self.scale, a)
            overflow = a.overflow if a.overflow == "exact" else f"{a.overflow}{a.accumulator_bits}"
            self.known["sums"] = integers.accumulate(left, right, overflow, bias)
        return self.known["sums"]

    def codes(self, grid: Grid, a: Arithmetic) -> Array:
        """Requantised: codes of a grid."""
        return self.moved(REQUANTISED[a.requantise](self, self.sums(a), grid, a))

    def values(self, a: Arithmetic) -> Array:
        """The sums as real numbers of float32."""
        return self.moved(float32(float32(self.sums(a)) * self.multiplier))

    @property
    def multiplier(self) -> Array:
        return float32(float32(self.scale) * self.factor)

    def moved(self, x: Array) -> Array:
        return functools.reduce(lambda moved, move: move(moved), self.moves, x)


class NarrowArray(PortableArray):
    """Real numbers of a format, or of a grid, as float64. Each arithmetic has a kind of its own (`kind_of`)."""

    arithmetic: ClassVar[Arithmetic]
    format: str  # the float format they are numbers of
    grid: Grid | None  # where they are kept as integers
    is_step: bool  # whether they are a step's, or a view of one
    made_of: Product | None  # what becomes a step's integers, or (of a step) what became it
    pending: Callable[[Grid], Array] | None  # how another operation becomes codes of a grid
    held: Held | None  # of weights
    unrounded: Array | None  # of a step in integers: the numbers before they were
    from_codes: bool  # of a step in integers: whether it was computed from integers alone, so that it is exact
    become: Callable[[Grid], Array] | None  # of a step in integers: the codes it would have on another grid

    def __array_finalize__(self, other: Any) -> None:
        self.format = getattr(other, "format", "float32")
        self.grid = getattr(other, "grid", None)
        self.is_step = getattr(other, "is_step", False)
        self.made_of = self.pending = self.held = self.unrounded = self.become = None
        self.from_codes = False

    def copy(self, order: Any = "C") -> "NarrowArray":
        """A copy of a step is that step."""
        other = super().copy(order)
        for name in ("made_of", "unrounded", "from_codes", "become"):
            setattr(other, name, getattr(self, name))
        return other

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if method == "__call__" and ufunc is np.matmul:
            return multiplied(*inputs)
        if method == "__call__" and ufunc is np.multiply and np.ndim(inputs[1]) == 0 and getattr(inputs[0], "made_of", None):
            return scaled(*inputs)
        result = super().__array_ufunc__(ufunc, method, *inputs, out=out, **kwargs)
        if out is not None or method != "__call__" or getattr(result, "dtype", None) != np.float64:
            return result
        result = rounded(type(self), "others", result, inputs)
        if ufunc is np.add and all(getattr(x, "grid", None) and np.shape(x) == result.shape for x in inputs):
            numerics = litert_numerics(self.arithmetic)
            if numerics:
                result.pending = functools.partial(added, inputs[0], inputs[1], numerics)
        return result

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(function, types, args, kwargs)
        if function is np.concatenate and isinstance(result, NarrowArray):  # parts of several grids are on none
            parts = list(args[0])
            grids = {getattr(part, "grid", None) for part in parts}
            result.grid = grids.pop() if len(grids) == 1 else None
            result.format = max((getattr(part, "format", "float32") for part in parts), key=lambda f: WIDTH.get(f, 24))
        return result

    def mean(self, axis: int = -1, keepdims: bool = False) -> Any:  # type: ignore[override]
        result = super().mean(axis, keepdims)
        numerics = litert_numerics(self.arithmetic)
        if self.grid is not None and numerics:
            result.pending = functools.partial(averaged, self, self.grid, axis, keepdims, numerics)
        return result


@functools.cache
def kind_of(name: str, key: str) -> type[NarrowArray]:
    """(Made by `kind`, one for each arithmetic.)"""
    made: type[NarrowArray] = type("NarrowArray", (NarrowArray,), {"__doc__": f"Numbers of the arithmetic {name}."})
    ops.WAYS[made] = WAYS
    return made


def kind(arithmetic: Arithmetic) -> type[NarrowArray]:
    """The kind of array that computes in an arithmetic."""
    made = kind_of(arithmetic.name, repr(arithmetic))
    made.arithmetic = arithmetic
    return made


def rounded(kind: type[NarrowArray], what: str, values: Array, inputs: Any = ()) -> NarrowArray:
    """An operation's result in the float format that the arithmetic has for it."""
    format = kind.arithmetic.result(what)
    if format == "inputs":
        format = max((x.format for x in inputs if isinstance(x, NarrowArray)), key=lambda f: WIDTH[f], default="float32")
    return in_format(kind, values, format)


def in_format(kind: type[NarrowArray], values: Array, format: str) -> NarrowArray:
    array = to_format(np.asarray(values), format).view(kind)
    array.format = format
    return array


def to_format(values: Array, format: str, **how: str) -> Array:
    if format == "float32" and not how:
        with np.errstate(over="ignore"):
            return values.astype(np.float32).astype(np.float64)
    return formats.to_float(values, format, **how)


# What goes into products


def hold(x: Array, numbers: Numbers | None, axis: int) -> Held:
    """Real numbers, brought to what a product takes; `axis` is that of the sum."""
    x = np.asarray(x)
    if numbers is None:
        return Held(x)
    if numbers.format in ("q8_0", "q4_0"):
        return ggml_blocks(x, numbers.format, axis)
    if numbers.per == "block":
        return Held(blocks(x, numbers, axis))
    if numbers.is_integer and not numbers.symmetric:
        return Held(*dynamic(x, numbers))
    how = {"rounding": numbers.rounding}
    if numbers.per is None:
        return Held(to_format(x, numbers.format, **how))
    scale = scale_for(np.abs(x).max(axis=axis if numbers.per == "column" else None, keepdims=True), numbers)
    if numbers.is_integer:
        return Held(formats.quantise(x, scale, 0, *numbers.range, numbers.rounding, numbers.saturation), scale)
    return Held(formats.to_float(float32(x / scale), numbers.format, **how), scale)


def scale_for(largest: Array, numbers: Numbers) -> Array:
    """The scale with which the largest number has the largest code, as a float32."""
    top = numbers.range[1] if numbers.is_integer else formats.FLOATS[numbers.format].largest
    scale = float32(np.asarray(largest, np.float64) / top)
    if numbers.scale == "power of two":
        mantissa, exponent = np.frexp(scale)
        scale = np.ldexp(1.0, exponent - (mantissa == 0.5))  # up, so that nothing is cut off
    return np.where(scale > 0, scale, 1.0)


def blocks(x: Array, numbers: Numbers, axis: int) -> Array:
    """The real numbers that blocks along an axis hold."""
    if numbers.scale == "e8m0":
        return formats.mx(x, numbers.format, block=numbers.block, axis=axis).values
    if numbers.scale == "float8-e4m3":
        return formats.nvfp4(x, axis=axis, global_scale=True).values
    return formats.int4_groups(x, group=numbers.block, axis=axis, symmetric=numbers.symmetric).values


def ggml_blocks(x: Array, format: str, axis: int) -> Held:
    """ggml's blocks of 32 along an axis, which must be whole."""
    found = {"q8_0": formats.q8_0, "q4_0": formats.q4_0}[format](np.moveaxis(x, axis, -1))
    return Held(np.moveaxis(found.codes, -1, axis), np.moveaxis(found.scales, -1, axis))


def dynamic(x: Array, numbers: Numbers) -> tuple[Array, Array, int]:
    """Integers with a zero point, by what the numbers are at the moment: codes, scale, zero."""
    if numbers.format == "uint8" and numbers.rounding == "even":
        codes, scale, zero = formats.dynamic_quantise(x)
        return codes, scale, int(zero)
    grid = grid_for(float(x.min()), float(x.max()), numbers)
    return (
        formats.quantise(x, grid.scale, grid.zero, grid.low, grid.high, numbers.rounding, numbers.saturation),
        grid.scale,
        grid.zero,
    )


def grid_for(low: float, high: float, numbers: Numbers) -> Grid:
    """The grid for numbers from low to high; 0 is one of its numbers."""
    scale, zero = formats.scale_of(low, high, *numbers.range, symmetric=numbers.symmetric)
    scale = float(scale)
    if numbers.scale == "power of two":
        scale = float(scale_for(np.float64(scale), Numbers("int2", "tensor", scale="power of two")))
        zero = 0 if numbers.symmetric else round(numbers.range[0] - min(low, 0.0) / scale)
    return Grid(scale, int(zero), *numbers.range)


def codes_of(x: Array, grid: Grid) -> Array:
    """The whole codes of numbers that are a grid's."""
    return np.rint(np.asarray(x) / grid.scale) + grid.zero


def reals(codes: Array, grid: Grid) -> Array:
    """The real numbers of codes, as float32 has them."""
    return formats.dequantise(codes, grid.scale, grid.zero)


def float32(x: Array) -> Array:
    return np.asarray(x, np.float64).astype(np.float32).astype(np.float64)


# Products


def linear(x: NarrowArray, weight: NarrowArray, bias: NarrowArray | None = None) -> NarrowArray:
    """x W + b. x (..., in), weight (in, out), bias (out,) or None -> (..., out)."""
    kind, a = type(x), x.arithmetic
    right = weight.held or hold(weight, None if a.block_products else a.weights, 0)
    if a.block_products:
        if np.ndim(right.scale) == 0:  # a matrix that blocks do not fit
            return with_bias(kind, whole(x, np.asarray(weight), a), bias, (x, weight))
        return with_bias(kind, ggml_product(hold(x, a.inputs, -1), right, a), bias, (x, weight))
    if a.integer_products and (a.steps is None or x.grid is not None):
        left = held_step(x) if a.steps else hold(x, a.inputs, -1)
        if a.steps is not None:
            return of_product(kind, Product(left, right, None if bias is None else np.asarray(bias), True))
        return with_bias(kind, Product(left, right, None, True).values(a), bias, (x, weight))
    left = hold(x, a.inputs, -1) if a.steps is None else Held(np.asarray(x))
    if a.steps is not None:
        right = Held(np.asarray(weight))
    return with_bias(kind, float_product(left, right, a), bias, (x, weight))


def multiplied(left: Array, right: Array) -> NarrowArray:
    """A product of two results (scores, context) as the arithmetic has it; of other arrays in float32."""
    kind = next(type(x) for x in (left, right) if isinstance(x, NarrowArray))
    a, both = kind.arithmetic, all(isinstance(x, NarrowArray) and x.is_step for x in (left, right))
    if both and left.grid and right.grid:
        return of_product(kind, Product(held_step(left), held_step(right), None, False))
    if not both or a.attention is None:
        return rounded(kind, "products", whole(left, right, a), (left, right))
    held = hold(left, a.attention, -1), hold(right, a.attention, -2)
    return rounded(kind, "products", float_product(*held, a), (left, right))


def held_step(x: NarrowArray) -> Held:
    """The codes of a step in integers."""
    assert x.grid is not None
    return Held(codes_of(x, x.grid), np.float64(x.grid.scale), x.grid.zero)


def with_bias(kind: type[NarrowArray], values: Array, bias: NarrowArray | None, inputs: Any) -> NarrowArray:
    """The bias is added in float32, and the sum rounded once."""
    if bias is not None:
        w = kind.arithmetic.weights
        narrow = w is not None and kind.arithmetic.result("products") == w.format  # as torch casts it
        values = float32(values + (to_format(np.asarray(bias), w.format) if narrow and w else np.asarray(bias)))
    return rounded(kind, "products", values, inputs)


def float_product(left: Held, right: Held, a: Arithmetic) -> Array:
    """A product of float operands, with their scales."""
    values = whole(left.codes, right.codes, a)
    scale = float32(np.asarray(left.scale) * right.scale)
    return values if np.ndim(scale) == 0 and scale == 1 else float32(values * scale)


def whole(left: Array, right: Array, a: Arithmetic) -> Array:
    """left @ right as a float accumulator has it at the end."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if a.accumulator == "float16":
        return in_float16(left, right)
    return float32(matmul(left, right, SLICES))


def in_float16(left: Array, right: Array) -> Array:
    """left (..., m, k) @ right (..., k, n), every term and every sum rounded to float16, one after another."""
    left, right = left.astype(np.float16), right.astype(np.float16)
    total = np.zeros((), np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(left.shape[-1]):
            total = total + left[..., k, None] * right[..., k, None, :]
    return total.astype(np.float64)


def bias_codes(bias: Array, scale: Array, a: Arithmetic) -> Array:
    """A bias in units of the sums, in 32 bits: ties to even, LiteRT's away from zero."""
    codes = integers.round_whole(np.asarray(bias) / float32(scale), "away" if litert_numerics(a) else "even")
    return np.clip(codes, -(2.0**31), 2.0**31 - 1)


def ggml_product(left: Held, right: Held, a: Arithmetic) -> Array:
    """Whole sums of each block of 32, times their scales, added up in float32, block after block (ggml's generic C)."""
    four_bits = a.weights is not None and a.weights.format == "q4_0"
    total: Array = 0.0
    for n in range(right.scale.shape[0]):
        here = slice(32 * n, 32 * n + 32)
        sums = np.matmul(left.codes[..., here], right.codes[here])
        x, w = left.scale[..., n : n + 1], right.scale[n]
        term = float32(float32(sums * w) * x) if four_bits else float32(sums * float32(x * w))
        total = float32(total + term)
    return total


def of_product(kind: type[NarrowArray], product: Product) -> NarrowArray:
    """A product of integers, as real numbers that are to become a step's integers."""
    array = product.values(kind.arithmetic).view(kind)
    array.made_of = product
    return array


def scaled(x: NarrowArray, factor: float) -> NarrowArray:
    """A product times a constant, which goes into the multiplier it is requantised with."""
    assert x.made_of is not None
    return of_product(type(x), dataclasses.replace(x.made_of, factor=x.made_of.factor * factor))


def added(a: NarrowArray, b: NarrowArray, numerics: str, grid: Grid) -> Array:
    """LiteRT's integer sum of two steps, as codes of a grid."""
    assert a.grid and b.grid
    codes = codes_of(a, a.grid), codes_of(b, b.grid)
    scales = *a.grid[:2], *b.grid[:2], *grid[:2]
    return litert.add(*codes, *scales, low=grid.low, high=grid.high, numerics=numerics)


def averaged(x: Array, of: Grid, axis: int, keepdims: bool, numerics: str, grid: Grid) -> Array:
    """LiteRT's mean of integers, as codes of a grid."""
    scales = of.scale, of.zero, grid.scale, grid.zero
    ends = grid.low, grid.high
    return litert.mean(codes_of(x, of), axis, *scales, *ends, numerics=numerics, keepdims=keepdims)


def litert_numerics(a: Arithmetic) -> str:
    """ "reference", "ruy" or "xnnpack", where the arithmetic is LiteRT's; else ""."""
    return a.requantise.removeprefix("litert-") if a.requantise.startswith("litert-") else ""


def exactly(product: Product, sums: Array, grid: Grid, a: Arithmetic) -> Array:
    """The multiplier is exact, and what it gives is rounded once."""
    assert a.steps is not None
    multiplier = product.scale * product.factor / grid.scale
    return integers.requantise(sums, multiplier, *grid[1:], a.steps.rounding, a.steps.saturation)


def in_fixed_point(product: Product, sums: Array, grid: Grid, a: Arithmetic) -> Array:
    """The multiplier is a whole number of so many bits, and a shift."""
    multiplier = product.scale * product.factor / grid.scale
    return integers.requantise_fixed(sums, multiplier, *grid[1:], bits=a.multiplier_bits)


def as_onnx(product: Product, sums: Array, grid: Grid, a: Arithmetic) -> Array:
    left = float32(product.left.scale * product.factor)
    return integers.requantise_onnx(sums, left, np.reshape(product.right.scale, -1), *grid)


def as_litert(product: Product, sums: Array, grid: Grid, a: Arithmetic) -> Array:
    left, right = float(float32(product.left.scale * product.factor)), np.reshape(product.right.scale, -1)
    if product.weights:
        return litert.fully_connected(sums, left, right, *grid, numerics=litert_numerics(a))
    return litert.batch_matmul(sums, left, right[0], product.right.zero, *grid, numerics=litert_numerics(a))


REQUANTISED: dict[str, Callable[[Product, Array, Grid, Arithmetic], Array]] = {
    "exact": exactly,
    "fixed": in_fixed_point,
    "onnx": as_onnx,
    **{f"litert-{numerics}": as_litert for numerics in ("reference", "ruy", "xnnpack")},
}


# Other operations


def once(operation: Callable[..., Any], what: str) -> Callable[..., NarrowArray]:
    """An operation computed exactly within, and rounded once."""

    def way(x: NarrowArray, *others: Any) -> NarrowArray:
        plain = [y.view(PortableArray) if isinstance(y, NarrowArray) else y for y in (x, *others)]
        return rounded(type(x), what, operation(*plain), (x, *others))

    return way


def softmax(x: NarrowArray) -> NarrowArray:
    """LiteRT's softmax has integers on both sides; any other arithmetic's is a float operation."""
    numerics = litert_numerics(x.arithmetic)
    if x.grid is None or not numerics:
        return once(ops.softmax, "softmax")(x)
    grid = Grid(2.0**-8, -128, -128, 127)
    array = reals(litert.softmax(codes_of(x, x.grid), x.grid.scale, numerics=numerics), grid).view(type(x))
    array.grid = grid
    return array


def activation(function: Callable[..., Any]) -> Callable[..., NarrowArray]:
    """An activation; LiteRT's is a table of 256 entries."""

    rounded_once = once(function, "activations")

    def way(x: NarrowArray) -> NarrowArray:
        if x.grid is None:
            return rounded_once(x)
        every = np.arange(x.grid.low, x.grid.high + 1)  # of so few different numbers, each is computed once
        of_each = rounded_once(reals(every, x.grid).view(type(x)))
        result = np.asarray(of_each)[(codes_of(x, x.grid) - x.grid.low).astype(np.int64)].view(type(x))
        if litert_numerics(x.arithmetic):
            result.pending = functools.partial(from_a_table, function, x, x.grid)
        return result

    return way


def from_a_table(function: Callable[..., Any], x: Array, of: Grid, grid: Grid) -> Array:
    """The codes that LiteRT's table for all 256 codes has."""
    exact = functools.partial(portable.in_tiles, portable.ACTIVATIONS.get(function, function))
    table = litert.lookup_table(exact, of.scale, of.zero, grid.scale, grid.zero, grid.low, grid.high)
    return table[codes_of(x, of).astype(np.int64) + 128]


def moved(function: Callable[..., Array]) -> Callable[..., NarrowArray]:
    """A function that only moves numbers: what is to become of them moves along."""

    def way(x: NarrowArray, *others: Any) -> NarrowArray:
        result = function(x, *others)
        pending = x.pending
        if x.made_of is not None:
            result.made_of = dataclasses.replace(x.made_of, moves=(*x.made_of.moves, lambda array: function(array, *others)))
        if pending is not None:
            result.pending = lambda grid: function(pending(grid), *others)
        return result

    return way


WAYS: dict[Callable[..., Any], Callable[..., Any]] = {
    ops.linear: linear,
    ops.softmax: softmax,
    ops.layer_norm: once(ops.layer_norm, "norms"),
    ops.rms_norm: once(ops.rms_norm, "norms"),
    ops.split_heads: moved(ops.split_heads.formula),
    ops.merge_heads: moved(ops.merge_heads.formula),
    **{function: activation(function) for function in ops.ACTIVATIONS.values()},
}


# Steps


class Storing(Step):
    """The step contract, where every step is kept in the numbers the arithmetic has for it."""

    grids: Mapping[str, Grid]

    @classmethod
    def of(cls, step: Step, grids: Mapping[str, Grid]) -> "Storing":
        storing = cls.__new__(cls)
        storing.__dict__.update(step.__dict__, grids=grids)
        return storing

    def __call__(self, name: str, array: Array, dims: str) -> Array:
        if isinstance(array, NarrowArray):
            if self.path + name == "embed.patches":  # pixels are what is given: brought to the arithmetic's format here
                array = rounded(type(array), "others", np.asarray(array), (array,))
            array = stored(self.path + name, array, self.grids)
        return super().__call__(name, array, dims)


def stored(name: str, x: NarrowArray, grids: Mapping[str, Grid]) -> NarrowArray:
    """A step's numbers as they are kept."""
    a = x.arithmetic
    moved_alone = x.grid is not None and x.made_of is None and x.pending is None
    if not a.is_kept_in_integers(name) or moved_alone:
        kept = x.view(type(x))
    else:
        grid = grids[name]
        kept = reals(codes_for(x, grid), grid).view(type(x))
        kept.grid, kept.made_of, kept.unrounded = grid, x.made_of, np.asarray(x)
        kept.from_codes = x.made_of is not None or x.pending is not None
        kept.become = functools.partial(codes_for, x)
    kept.is_step = True
    return kept


def codes_for(x: NarrowArray, grid: Grid) -> Array:
    """The codes of a grid that an operation's result becomes."""
    a = x.arithmetic
    if x.made_of is not None:
        return x.made_of.codes(grid, a)
    if x.pending is not None:
        return x.pending(grid)
    assert a.steps is not None
    numerics = litert_numerics(a)
    if numerics:
        return litert.quantise(np.asarray(x), grid.scale, grid.zero, numerics, grid.low, grid.high)
    return formats.quantise(np.asarray(x), *grid, a.steps.rounding, a.steps.saturation)
