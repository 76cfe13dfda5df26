"""Vectors for whoever writes kernels: for every operation small awkward inputs, and the right answers in every format.

The inputs are numbers of the format, the answers exact and rounded once (ops_answers.py); of integers, what the rule of
numpy_vit.arithmetic.{integers,litert,formats} gives, which is one code. Nothing here depends on the machine.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ..arithmetic import formats, integers, litert
from ..arithmetic.exact import SHAPES, rounded
from ..models.seeded import uniform
from ..positions import RULES
from ..rotary import cos_sin
from . import ops_answers as answers

Array = Any
Inputs = dict[str, Array]
EPS = 1e-6  # of both norms
FORMATS = ("float64", "float32", "float16", "bfloat16")


class Case(NamedTuple):
    """One awkward input of one operation, in one format."""

    operation: str
    name: str  # "softmax/lone-maximum/float32"
    format: str  # of the result
    formula: str
    about: str  # what is awkward
    parameters: Mapping[str, Any]
    inputs: Mapping[str, tuple[str, Array]]  # name -> its format, and its numbers in float64
    output: Array  # float64
    unit: Array | None  # what an error is counted in; None where every number must be equal
    correctly_rounded: bool


class Operation(NamedTuple):
    """An operation in floating point: how it is written, its right answer, and its inputs in a format."""

    formula: str
    answer: Callable[..., answers.Answers]
    cases: Callable[[str], Iterator[tuple[str, str, Inputs]]]  # of a format: name, what is awkward, inputs
    parameters: Mapping[str, Any] = {}
    exact: bool = False
    correctly_rounded: bool = True


def all_cases() -> Iterator[Case]:
    """Every case, in a fixed order."""
    for name, operation in float_operations().items():
        for format in FORMATS:
            for case, about, inputs in operation.cases(format):
                yield float_case(name, operation, format, case, about, inputs)
    yield from integer_cases()


def float_case(name: str, operation: Operation, format: str, case: str, about: str, inputs: Inputs) -> Case:
    inputs = {key: in_format(array, format) for key, array in inputs.items()}
    output, unit = operation.answer(format, *inputs.values(), **operation.parameters)
    return Case(
        name.split("-")[0], f"{name}/{case}/{format}", format, operation.formula, about, operation.parameters,
        {key: (format, array) for key, array in inputs.items()}, output, None if operation.exact else unit,
        operation.correctly_rounded,
    )  # fmt: skip


def in_format(array: Array, format: str) -> Array:
    """Numbers as the nearest of a format."""
    round_one = np.frompyfunc(lambda x: rounded(Fraction(x), format) if math.isfinite(x) and x else x, 1, 1)
    return np.asarray(round_one(np.asarray(array, np.float64)), np.float64)


class Numbers:
    """What is large and small in a format."""

    def __init__(self, format: str) -> None:
        mantissa, lowest, largest = SHAPES[format]
        self.bits = mantissa
        self.least = 2.0**lowest
        self.normal = math.ldexp(1.0, lowest + mantissa)  # the smallest number that is not subnormal
        self.largest = float(largest)
        self.square = 2.0**15 if format == "float16" else 2.0 ** (400 if format == "float64" else 55)  # its square fits
        self.half = 2.0 ** (mantissa // 2)  # beside it half of the bits are left


def spread(name: str, *shape: int) -> Array:
    """Ordinary numbers, -1 to 1."""
    return uniform(0, name, shape, "float64")


# Operations in floating point


def float_operations() -> dict[str, Operation]:
    activation = "{}, for each number"
    return {
        "patchify": Operation("ops.patchify: patches row by row, each (c, py, px)", answers.patches, patchify_cases,
                              {"patch": 2}, exact=True),
        "linear": Operation("y = x @ weight + bias", answers.linear, linear_cases),
        "layer_norm": Operation("(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias", answers.layer_norm,
                                layer_norm_cases, {"eps": EPS}),
        "rms_norm": Operation("x / sqrt(mean(x^2) + eps) * weight", answers.rms_norm, rms_norm_cases, {"eps": EPS}),
        "softmax": Operation("exp(x - max(x)) / sum(exp(x - max(x))), over the last axis", answers.softmax, softmax_cases),
        "gelu": Operation(activation.format("x (1 + erf(x / sqrt(2))) / 2"), answers.elementwise(answers.gelu), gelu_cases),
        "gelu_tanh": Operation(activation.format("x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2"),
                               answers.elementwise(answers.gelu_tanh), gelu_cases),
        "quick_gelu": Operation(activation.format("x / (1 + exp(-1.702 x))"),
                                answers.elementwise(answers.swish(Fraction("1.702"))), gelu_cases),
        "silu": Operation(activation.format("x / (1 + exp(-x))"), answers.elementwise(answers.swish(Fraction(1))), gelu_cases),
        "attention": Operation("softmax(query @ key^T / sqrt(K)) @ value, one head", answers.attention, attention_cases),
        "rotation-halves": Operation("x cos + (-b, a) sin, where a is number i and b number i + K/2", answers.rotation,
                                     rotation_cases("halves"), {"pairs": "halves"}),
        "rotation-neighbours": Operation("x cos + (-b, a) sin, where a is number 2i and b number 2i + 1", answers.rotation,
                                         rotation_cases("neighbours"), {"pairs": "neighbours"}),
        **{f"resize-{rule}{size}": resizing(rule, old, new) for rule in RULES for size, (old, new) in SIZES.items()},
    }  # fmt: skip


def patchify_cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
    n = Numbers(format)
    yield "left-over", "a row and a column that fill no patch", {"x": spread("patchify", 2, 3, 5, 7)}
    special = [0.0, -0.0, n.least, -n.least, n.largest, -n.largest, math.inf, -math.inf, math.nan, 1, -1, n.normal]
    yield "special", "zeros of both signs, the least and largest, infinity, NaN", {"x": np.reshape(special, (1, 1, 2, 6))}


def linear_cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
    n = Numbers(format)
    x, weight, bias = spread("linear.x", 3, 6), spread("linear.weight", 6, 4), spread("linear.bias", 4)
    yield "ordinary", "nothing", {"x": x, "weight": weight, "bias": bias}
    large = np.concatenate([x, -x], axis=1)
    paired = np.concatenate([weight, weight * (1 + 4.0 ** -(n.bits // 3))])
    yield "cancelling", "every term has one that nearly cancels it", {"x": large, "weight": paired, "bias": bias * 0}
    yield "huge", "sums near the largest number", {"x": x * n.largest / 8, "weight": weight, "bias": bias}
    too_large = {"x": np.full((2, 2), n.largest), "weight": [[2, -2], [1, -1]], "bias": [0, 0]}
    yield "overflow", "sums of one sign beyond the largest number", too_large
    yield "tiny", "products below the least number", {"x": x * n.normal * 4, "weight": weight, "bias": bias * n.normal}
    between = [[1, 2.0 ** -(n.bits + 1)], [1 + 2.0**-n.bits, 2.0 ** -(n.bits + 1)], [-1, -(2.0 ** -(n.bits + 1))]]
    yield "ties", "sums half way between two numbers", {"x": between, "weight": [[1, 2], [1, 1]], "bias": [0, 0]}
    zeros = {"x": [[0.0, -0.0], [-0.0, -0.0]], "weight": [[1, -1], [1, 0]], "bias": [0.0, -0.0]}
    yield "zeros", "zeros of both signs", zeros
    if format in ("float16", "bfloat16"):
        ones = np.ones((1, 64))
        ones[0, 0] = 2.0 ** (n.bits + 1)
        swamped = {"x": ones, "weight": np.ones((64, 1)), "bias": [0]}
        yield "swamped", "many ones beside a number that would swallow each: sums need a wider accumulator", swamped


def norm_rows(format: str) -> Iterator[tuple[str, str, Array]]:
    """Tokens of 12 numbers."""
    n, x = Numbers(format), spread("norm.x", 2, 12)
    yield "ordinary", "nothing", x * 4
    yield "equal", "all numbers of a token the same: no variance", np.repeat([[0.1], [-3.0], [0.0]], 12, axis=1)
    yield "small", "a variance far below eps", x * 2.0**-12
    yield "subnormal", "subnormal numbers", np.round(x * 9) * n.least
    yield "huge", "squares that just fit float32, of float64 its own range", x * n.square
    yield "lone", "one large number, zeros of both signs", [[0.0, -0.0] * 5 + [100.0, 0.0], [-100.0] + [0.0, -0.0] * 5 + [0.0]]
    yield "zeros", "zeros of both signs alone", [[0.0, -0.0] * 6]


def layer_norm_cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
    weight, bias = 1 + spread("norm.weight", 12) / 2, spread("norm.bias", 12)
    for name, about, x in norm_rows(format):
        yield name, about, {"x": x, "weight": weight, "bias": bias}
    half = Numbers(format).half
    far = half + np.round(spread("norm.x", 2, 12) * 8) / 4
    yield "offset", "a mean far larger than the spread: mean(x^2) - mean(x)^2 has no digits left", {
        "x": far, "weight": weight, "bias": bias
    }  # fmt: skip


def rms_norm_cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
    for name, about, x in norm_rows(format):
        yield name, about, {"x": x, "weight": 1 + spread("norm.weight", 12) / 2}


def softmax_cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
    n = Numbers(format)
    yield "ordinary", "nothing", {"x": spread("softmax", 3, 9) * 5}
    yield "equal", "all scores the same", {"x": np.repeat([[0.1], [n.largest / 2], [n.least]], 7, axis=1)}
    lone = np.full((2, 8), [[0.0], [-n.largest / 4]])
    lone[0, 5], lone[1, 2] = 40.0, 1.0
    yield "lone-maximum", "one score far above the others", {"x": lone}
    yield "ties", "two largest scores", {"x": [[5, -5, 5, -5, 1, 0], [0.0, -0.0, -1, -1, -2, -2]]}
    yield (
        "tiny",
        "scores beside nothing",
        {"x": [[n.least, -n.least, n.normal, -n.normal, 0.0, -0.0, 4 * n.least, 2 * n.least]]},
    )
    large = 2.0 ** (9 if format == "float16" else 10)
    yield "large", "scores whose exp is infinite unless the largest is subtracted", {
        "x": [large + np.arange(8.0) * large / 128, -large - np.arange(8.0) * large / 128]
    }  # fmt: skip
    fall = math.log(n.normal)
    yield (
        "vanishing",
        "shares that are subnormal, or nothing",
        {"x": [[0, *(fall + 0.7 * k for k in (4, 1, 0, -1, -3, -5, -8))]]},
    )
    masked = [[1, -math.inf, 2, -math.inf, 0.5], [-math.inf, -math.inf, -math.inf, 3, -math.inf]]
    yield "masked", "scores of minus infinity: no share", {"x": masked}


def gelu_cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
    n = Numbers(format)
    yield "ordinary", "-4 to 4", {"x": np.arange(-32, 33) / 8}
    yield (
        "tails",
        "where it is nearly x, or nearly nothing",
        {"x": [s * k for k in (4.5, 5, 5.5, 6, 7, 8, 10, 13, 20, 30, 38) for s in (1, -1)]},
    )
    small = [1e-3, 1e-4, 4 * n.normal, 2 * n.normal, n.normal, 12 * n.least, 2 * n.least]
    yield "tiny", "subnormal numbers, zeros of both signs", {"x": [0.0, -0.0, *small, *(-x for x in small)]}
    yield (
        "huge",
        "so large that its cube, and its exp, overflow",
        {"x": [n.largest / 4, -n.largest / 4, n.square / 4, -n.square / 4, 1000, -1000]},
    )
    yield "infinite", "infinity and NaN, where they are defined", {"x": [math.inf, math.nan]}


def attention_cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
    n = Numbers(format)
    q, k, v = (spread(f"attention.{name}", *shape) for name, shape in (("q", (4, 6)), ("k", (5, 6)), ("v", (5, 6))))
    yield "ordinary", "nothing", {"query": q * 2, "key": k * 2, "value": v}
    yield "equal", "one key for all", {"query": q, "key": np.repeat(k[:1], 5, axis=0), "value": v}
    yield (
        "lone-maximum",
        "one key takes all",
        {"query": q[:2] * 0 + 8, "key": np.eye(5, 6)[:, :] * 0 + [[8], [-8], [-7], [0], [1]], "value": v},
    )
    yield (
        "cancelling",
        "values that cancel",
        {"query": q * 0, "key": k, "value": np.concatenate([v[:2], -v[:2], v[4:] * 2.0**-n.bits])},
    )
    yield (
        "tiny",
        "scores beside nothing, subnormal values",
        {"query": q * n.normal, "key": k, "value": np.round(v * 20) * n.least},
    )
    yield "huge", "values near the largest", {"query": q, "key": k, "value": v * n.largest / 2}


def rotation_cases(pairs: str) -> Callable[[str], Iterator[tuple[str, str, Inputs]]]:
    def cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
        n, x = Numbers(format), spread("rotation", 3, 8)
        angles = cos_sin((0.0, 1.0, 13.0), (1.0, 0.3, 0.1, 0.01))
        cos, sin = np.repeat(angles, 2, axis=-1) if pairs == "neighbours" else np.concatenate([angles, angles], axis=-1)
        yield "ordinary", "the first token is not turned", {"x": x, "cos": cos, "sin": sin}
        first, second = in_format(sin, format), in_format(cos, format)
        left = np.arange(8) % 2 == 0 if pairs == "neighbours" else np.arange(8) < 4
        yield "cancelling", "turned onto an axis: one of each pair is nearly 0", {
            "x": np.where(left, first, second), "cos": cos, "sin": sin
        }  # fmt: skip
        yield "tiny", "subnormal numbers, zeros of both signs", {"x": np.round(x * 3) * n.least, "cos": cos, "sin": sin}
        yield "huge", "near the largest number", {"x": x * n.largest / 2, "cos": cos, "sin": sin}

    return cases


SIZES = {"-larger": ((3, 5), (5, 7)), "-smaller": ((7, 5), (3, 4))}


def resizing(rule: str, old: tuple[int, int], new: tuple[int, int]) -> Operation:
    def cases(format: str) -> Iterator[tuple[str, str, Inputs]]:
        x = spread("positions", 1 + old[0] * old[1], 2)
        yield "ordinary", "one special token first", {"positions": x}
        spike = x * 0.0
        spike[0], spike[1 + len(x) // 2] = 1, 100
        yield "spike", "one number among zeros: its weights", {"positions": spike}

    return Operation(
        f"positions.RULES[{rule!r}] along rows, then columns; the first token stays", answers.resized, cases,
        {"old": old, "new": new, "rule": rule}, correctly_rounded=rule != "linear_geometric",
    )  # fmt: skip


# Operations in integers: one right code each

ENDS = {"int8": (-128, 127), "uint8": (0, 255)}


def integer_cases() -> Iterator[Case]:
    yield from quantise_cases()
    yield from product_cases()
    yield from requantise_cases()


def integer_case(
    operation: str, name: str, format: str, formula: str, about: str, parameters: Mapping[str, Any],
    inputs: Mapping[str, tuple[str, Array]], output: Array,
) -> Case:  # fmt: skip
    inputs = {key: (kind, np.asarray(array, np.float64)) for key, (kind, array) in inputs.items()}
    return Case(operation, name, format, formula, about, parameters, inputs, np.asarray(output), None, True)


def to_quantise(scale: float) -> dict[str, tuple[str, Array]]:
    """What is awkward to quantise with a scale: float32 numbers, and what is awkward."""
    halves = (np.arange(-20, 20) + 0.5) * scale
    beyond = [s * x * scale for x in (126.4, 126.5, 127.5, 128, 128.5, 129, 255.5, 256, 300, 1e4) for s in (1, -1)]
    tiny = [0.0, -0.0, 2.0**-149, -(2.0**-149), 2.0**-126, -(2.0**-126), scale / 4, -scale / 4]
    return {
        "ties": ("half way between two codes", halves),
        "beside-ties": ("the neighbours of what is half way", np.concatenate([nudged(halves, 1), nudged(halves, -1)])),
        "ends": ("at and beyond the ends of the range", np.concatenate([beyond, np.zeros(4)])),
        "tiny": ("zeros of both signs, subnormal numbers", np.array(tiny)),
        "ordinary": ("nothing", spread("quantise", 64) * 140 * scale),
    }


def nudged(x: Array, way: int) -> Array:
    return np.nextafter(x.astype(np.float32), np.float32(way * np.inf)).astype(np.float64)


def quantise_cases() -> Iterator[Case]:
    wide = (
        "ends-of-floats",
        ("the largest numbers, infinity", np.array([3e38, -3e38, 1e20, -1e20, math.inf, -math.inf, 1, -1])),
    )
    for scale, zero in ((0.5, 3), (0.1, -5)):
        x_cases = {f"{name}-scale-{scale:g}": case for name, case in to_quantise(np.float32(scale).item()).items()}
        for rule, formula, apply in quantisers():
            cases = {**x_cases, **(dict([wide]) if scale == 0.5 and "wrap" not in rule else {})}
            for format, (low, high) in ENDS.items():
                if "litert" in rule and format == "uint8":
                    continue
                own = zero if format == "int8" else zero + 128
                for name, (about, x) in cases.items():
                    single = np.asarray(x, np.float32).astype(np.float64)
                    yield integer_case(
                        "quantise", f"quantise-{rule}/{name}/{format}", format, formula, about,
                        {"scale": float(np.float32(scale)), "zero_point": own, "low": low, "high": high, "rule": rule},
                        {"x": ("float32", single)}, apply(single, float(np.float32(scale)), own, low, high),
                    )  # fmt: skip


def quantisers() -> Iterator[tuple[str, str, Callable[..., Array]]]:
    """Name, formula, and x, scale, zero, low, high -> codes."""
    for rounding in integers.ROUNDINGS:
        for saturation in integers.SATURATIONS:
            formula = f"{saturation}(round(x / scale) + zero_point), x / scale in float32, round: {rounding}"
            apply = functools.partial(formats.quantise, rounding=rounding, saturation=saturation)
            yield f"{rounding}-{saturation}", formula, apply
    for numerics in litert.NUMERICS:
        reference = numerics == "reference"
        scaled, ties = ("x / scale", "away from zero") if reference else ("x * (1 / scale)", "to even")
        formula = f"clip(round({scaled}) + zero_point), in float32, ties {ties}"
        yield f"litert-{numerics}", formula, functools.partial(litert_quantise, numerics)


def litert_quantise(numerics: str, x: Array, scale: float, zero: int, low: int, high: int) -> Array:
    return litert.quantise(x, scale, zero, numerics, low, high)


def product_cases() -> Iterator[Case]:
    """Sums of products of integers."""
    for kinds in (("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")):
        a, b = (
            np.clip(np.rint(spread(f"product.{kind}", *shape) * 128), *ENDS[kind])
            for kind, shape in zip(kinds, ((3, 10), (10, 4)), strict=True)
        )
        ends = [np.full(shape, ENDS[kind][1]) for kind, shape in zip(kinds, ((2, 64), (64, 3)), strict=True)]
        ends[1][:, 1], ends[1][::2, 2] = ENDS[kinds[1]][0], ENDS[kinds[1]][0]
        for name, about, pair in (
            ("ordinary", "nothing", (a, b)),
            ("ends", "the largest codes: 16 bits hold no sum of two products", ends),
        ):
            zeros = [3 if kind == "int8" else 131 for kind in kinds]
            yield integer_case(
                "product", f"product-{'-'.join(kinds)}/{name}/int32", "int32", "(a - zero_a) @ (b - zero_b)", about,
                {"zero_a": zeros[0], "zero_b": zeros[1]}, {"a": (kinds[0], pair[0]), "b": (kinds[1], pair[1])},
                integers.matmul_integer(*pair, *zeros),
            )  # fmt: skip


def sums_to_requantise() -> Iterator[tuple[str, str, Array, Array, float]]:
    """Name, what is awkward, sums (M, 4), scale_b of each column, scale_y; scale_a is 0.5."""
    ordinary = np.rint(spread("requantise", 12, 4) * 30000)
    awkward = np.array([0.011, 0.0007, 0.003, 0.02], np.float32).astype(np.float64)
    yield "ordinary", "scales that are no powers of two", ordinary, awkward, float(np.float32(0.77))
    halves = np.stack([np.arange(-30, 30) * step for step in (1, 2, 4, 8)], axis=1)
    yield "ties", "half way between two codes", halves, np.array([1, 0.5, 0.25, 0.125]), 1.0
    ends = np.repeat([[2**31 - 1], [-(2**31)], [2**24 + 1], [-(2**24) - 1], [0], [1], [-1], [65535]], 4, axis=1)
    yield "ends", "the ends of 32 bits, and what float32 does not hold", ends, awkward * 2.0**-6, 1.0


def requantise_cases() -> Iterator[Case]:
    scale_a = 0.5
    for name, about, sums, scale_b, scale_y in sums_to_requantise():
        for rule, formula, apply in requantisers():
            for format, (low, high) in ENDS.items():
                if "litert" in rule and format == "uint8":
                    continue
                zero = 2 if format == "int8" else 130
                yield integer_case(
                    "requantise", f"requantise-{rule}/{name}/{format}", format, formula, about,
                    {"scale_a": scale_a, "scale_y": scale_y, "zero_y": zero, "low": low, "high": high, "rule": rule},
                    {"sums": ("int32", sums), "scale_b": ("float32", scale_b)},
                    apply(sums, scale_a, scale_b, scale_y, zero, low, high),
                )  # fmt: skip


def requantisers() -> Iterator[tuple[str, str, Callable[..., Array]]]:
    """Name, formula, and sums, scale_a, scale_b, scale_y, zero, low, high -> codes."""
    real = "scale_a * scale_b / scale_y"
    yield "onnx", f"clip(round(float32(sums) * ({real} in float32)) + zero_y), ties to even", integers.requantise_onnx
    words = {
        "reference": f"clip(round(sums * ({real} in float64)) + zero_y), ties away from zero",
        "ruy": f"clip(fixed point of 31 bits ({real} in float64), two roundings, ties up, + zero_y)",
        "xnnpack": f"clip(round(float32(sums) * ({real} in float32)) + zero_y), ties to even",
    }
    for numerics, formula in words.items():
        yield f"litert-{numerics}", formula, functools.partial(litert.fully_connected, numerics=numerics)
    for rounding in integers.FIXED:
        formula = f"clip((sums * q >> shift) + zero_y), q * 2^-shift = {real} in 31 bits, integers.FIXED[{rounding!r}]"
        yield f"fixed-{rounding}", formula, with_multiplier(functools.partial(integers.requantise_fixed, rounding=rounding))
    for rounding in integers.ROUNDINGS:
        for saturation in integers.SATURATIONS:
            formula = f"{saturation}(round(sums * ({real} in float64)) + zero_y), rounded once: {rounding}"
            once = functools.partial(integers.requantise, rounding=rounding, saturation=saturation)
            yield f"{rounding}-{saturation}", formula, with_multiplier(once)


def with_multiplier(apply: Callable[..., Array]) -> Callable[..., Array]:
    """From a function of the real multiplier, one of the three scales."""

    def of_scales(sums: Array, a: float, b: Array, y: float, zero: int, low: int, high: int) -> Array:
        return apply(sums, a * b / y, zero, low, high)

    return of_scales
