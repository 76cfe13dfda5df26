"""LiteRT's (TensorFlow Lite's) int8 kernels, as they compute: requantisation, add, mean, softmax, GELU, quantise.

The same graph gives three results, by the kernels the interpreter is told to use:

- "reference": the plain code (OpResolverType.BUILTIN_REF)
- "ruy": the optimised kernels (BUILTIN_WITHOUT_DEFAULT_DELEGATES), whose matrix products are ruy's, on x86 with AVX2 or AVX-512
- "xnnpack": what an interpreter does unless told otherwise (AUTO): XNNPACK for the operations it takes over, on x86 float32
  requantisation; else as "ruy"

Other processors have other kernels: ruy's plain code rounds once (`integers.requantise_fixed(..., rounding="single")`), and
XNNPACK on ARM may requantise in fixed point. LiteRT's specification allows it: "implementations may deviate".

real = (q - zero) * scale. Activations are -128..127, asymmetric, one scale for a tensor; weights -127..127, symmetric, a
scale for each output; biases int32 with scale_x * scale_w. Fixed by the specification: softmax's result has scale 1/256 and
zero -128. (Source: quantization_spec.md; kernels in tensorflow/lite/kernels.)

There is no layer norm: neither an operation nor an int8 kernel for its variance worth having. It stays in floating point
(or in 16 bits), between a dequantisation and a quantisation.

Integers go in as whole numbers in any array and come out as whole numbers in float64; scales are float32, as the file has
them. The same bits on every machine.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import check_known
from . import portable
from .integers import (
    multiply_fixed,
    requantise_fixed,
    round_whole,
    shift_multiplier,
    shift_right,
)

Array = Any
NUMERICS = ("reference", "ruy", "xnnpack")
LOW, HIGH = -128, 127


def as_stored(scale: Array) -> Array:
    """A scale as the file holds it, in float32, as a float64 number."""
    return np.asarray(scale, np.float32).astype(np.float64)


def check_numerics(numerics: str) -> None:
    check_known("numerics", numerics, NUMERICS)


# Quantising


def quantise(x: Array, scale: float, zero: int, numerics: str = "reference", low: int = LOW, high: int = HIGH) -> Array:
    """QUANTIZE, float32 to int8: x / scale, ties away from zero, or x times 1 / scale, ties to even; + zero, clipped.

    x: any shape -> whole numbers in float64, the same shape. (quantize.cc; XNNPACK and the optimised kernel agree.)
    The last numbers of a tensor of which 8 do not divide the size go another way under "ruy", which is not done here.
    NaN becomes `low`. Where x / scale is beyond 2**31, C does not define what the plain code does; here it saturates.
    """
    check_numerics(numerics)
    x, unit = np.asarray(x, np.float32), np.float32(scale)
    with np.errstate(over="ignore"):
        scaled = x / unit if numerics == "reference" else x * (np.float32(1) / unit)
    scaled = np.clip(np.nan_to_num(scaled, nan=-np.inf, posinf=np.inf, neginf=-np.inf), -(2.0**31), 2.0**31)
    return np.clip(round_whole(scaled, "away" if numerics == "reference" else "even") + zero, low, high)


def quantise_weight(weight: Array) -> tuple[Array, Array]:
    """A weight (K, N) in -127..127, a scale for each of its N outputs -> whole numbers (K, N) in float64, scales (N,) float32.

    scale = max|w| / 127 of the column (1 where it is all zero); ties away from zero. The specification fixes the range, the
    symmetry and the axis. (LiteRT stores the transposed (N, K), quantised along its axis 0.)
    """
    weight = np.asarray(weight, np.float32)
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(round_whole(weight / scale, "away"), -127, 127), scale


def quantise_bias(bias: Array, scale_x: float, scale_w: Array) -> tuple[Array, Array]:
    """A bias (N,) in int32 with the scale of the accumulator, scale_x * scale_w, zero 0.

    scale_w: a scalar or (N,). -> whole numbers (N,) in float64, scales (N,) in float32. Ties away from zero, saturating.
    """
    scale = np.broadcast_to(np.float32(scale_x) * np.asarray(scale_w, np.float32), np.shape(bias))
    scaled = np.asarray(bias, np.float32).astype(np.float64) / scale.astype(np.float64)
    return np.clip(round_whole(np.clip(scaled, -(2.0**32), 2.0**32), "away"), -(2**31), 2**31 - 1), scale


# Matrix products, after the exact accumulator


def fully_connected(
    acc: Array, scale_x: float, scale_w: Array, scale_y: float, zero_y: int, low: int = LOW, high: int = HIGH,
    numerics: str = "reference",
) -> Array:  # fmt: skip
    """FULLY_CONNECTED's requantisation. acc: (..., N), the bias included; scale_w: a scalar or (N,), one for each output.

    -> whole numbers in float64, the shape of acc. The multiplier is scale_x * scale_w / scale_y:

    - reference: in float64, ties away from zero
    - ruy: 31 bits of fixed point, rounded twice, ties up
    - xnnpack: in float32, ties to even
    """
    check_numerics(numerics)
    if numerics == "xnnpack":
        multiplier = np.float32(scale_x) * np.asarray(scale_w, np.float32) / np.float32(scale_y)
        scaled = np.asarray(acc, np.float64).astype(np.float32) * multiplier
        return np.clip(np.rint(scaled).astype(np.float64) + zero_y, low, high)
    real = as_stored(scale_x) * as_stored(scale_w) / as_stored(scale_y)
    if numerics == "ruy":
        return requantise_fixed(acc, real, zero_y, low, high, rounding="double-up")
    scaled = np.clip(np.asarray(acc, np.float64) * real, -(2.0**40), 2.0**40)
    return np.clip(round_whole(scaled, "away") + zero_y, low, high)


def batch_matmul(
    acc: Array, scale_a: float, scale_b: float, zero_b: int, scale_y: float, zero_y: int, low: int = LOW, high: int = HIGH,
    numerics: str = "reference",
) -> Array:  # fmt: skip
    """BATCH_MATMUL's requantisation: 31 bits of fixed point, rounded twice.

    acc: (..., M, N) = (a - zero_a) @ (b - zero_b) -> whole numbers in float64, the same shape. The product of scales is
    rounded to float32 (batch_matmul.cc). XNNPACK takes the operation over where zero_b is 0, and requantises as in
    `fully_connected`; else it is computed as in the other numerics.
    """
    check_numerics(numerics)
    if numerics == "xnnpack" and zero_b == 0:
        return fully_connected(acc, scale_a, scale_b, scale_y, zero_y, low, high, numerics)
    real = as_stored(np.float32(scale_a) * np.float32(scale_b)) / as_stored(scale_y)
    return requantise_fixed(acc, real, zero_y, low, high)


# Sums


def add(
    a: Array, b: Array, scale_a: float, zero_a: int, scale_b: float, zero_b: int, scale_y: float, zero_y: int,
    low: int = LOW, high: int = HIGH, numerics: str = "reference",
) -> Array:  # fmt: skip
    """ADD: a + b of integers of different scales. Whole numbers, shapes that broadcast -> whole numbers in float64.

    - reference, ruy: both in units of 2 * (the larger scale) / 2**20, each rounded twice; so is their sum (add.cc).
      (ruy's vector code wraps sums of 2**15 codes and more, which only absurd scales give; here they saturate)
    - xnnpack: both times a multiplier of 21 bits, the sum shifted once, ties up
    """
    check_numerics(numerics)
    a, b = np.asarray(a).astype(np.int64) - int(zero_a), np.asarray(b).astype(np.int64) - int(zero_b)
    if numerics == "xnnpack":
        total = _add_xnnpack(a, b, *(np.float32(scale) / np.float32(scale_y) for scale in (scale_a, scale_b)))
    else:
        unit = 2 * max(as_stored(scale_a), as_stored(scale_b))
        fine_a = multiply_fixed(a << 20, *shift_multiplier(as_stored(scale_a) / unit))
        fine_b = multiply_fixed(b << 20, *shift_multiplier(as_stored(scale_b) / unit))
        real = unit / as_stored(np.float32(2**20) * np.float32(scale_y))
        total = multiply_fixed(fine_a + fine_b, *shift_multiplier(real))
    return np.clip(total.astype(np.float64) + zero_y, low, high)


def _add_xnnpack(a: Array, b: Array, ratio_a: Array, ratio_b: Array) -> Array:
    """a * ratio_a + b * ratio_b: the larger ratio in 21 bits, the other at the same shift (xnn_init_qs8_add_minmax_params)."""
    shift = 21 - int(np.frexp(max(ratio_a, ratio_b))[1])
    first, second = (int(np.rint(np.ldexp(np.float64(ratio), shift))) for ratio in (ratio_a, ratio_b))
    return shift_right(a * first + b * second, np.int64(shift), "up")


def mean(
    q: Array, axis: int | tuple[int, ...], scale_x: float, zero_x: int, scale_y: float, zero_y: int,
    low: int = LOW, high: int = HIGH, numerics: str = "reference", keepdims: bool = False,
) -> Array:  # fmt: skip
    """MEAN over one or several axes. q: whole numbers, any shape -> whole numbers in float64, without these axes.

    - reference, ruy: the multiplier in fixed point is divided by the count, and rounded down; two roundings (reduce.h). (The
      optimised kernels have another way where (B, Y, X, C) becomes (B, 1, 1, C), which no ViT does: not here.)
    - xnnpack: in float32, ties to even
    """
    check_numerics(numerics)
    q = np.asarray(q, np.float64)
    total = q.sum(axis=axis, keepdims=keepdims)  # of whole numbers: exact
    count = q.size // max(total.size, 1)
    if numerics == "xnnpack":
        real = np.float32(scale_x) / np.float32(scale_y) * (np.float32(1) / np.float32(count))
        offset = np.float32(zero_y) - np.float32(count * zero_x) * real
        return np.clip(np.rint(total.astype(np.float32) * real + offset).astype(np.float64), low, high)
    multiplier, exponent = (int(part) for part in shift_multiplier(as_stored(scale_x) / as_stored(scale_y)))
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    scaled = multiply_fixed(total - count * zero_x, np.int64((multiplier << shift) // count), np.int64(exponent - shift))
    return np.clip(scaled.astype(np.float64) + zero_y, low, high)


# Functions of one number: tables


def lookup_table(
    function: Callable[[Array], Array],
    scale_x: float,
    zero_x: int,
    scale_y: float,
    zero_y: int,
    low: int = LOW,
    high: int = HIGH,
) -> Array:
    """The results of an int8 function for the 256 codes -128..127 -> whole numbers (256,) in float64, the table at [q + 128].

    `function` is given float64 numbers (each a float32), and its result rounded to float32, as LUTPopulate does
    (kernels/internal/common.h); ties away from zero.
    """
    x = np.float32(scale_x) * (np.arange(-128, 128) - zero_x).astype(np.float32)
    with np.errstate(over="ignore"):
        y = np.asarray(function(x.astype(np.float64))).astype(np.float32) * (np.float32(1) / np.float32(scale_y))
    return np.clip(round_whole(np.clip(y, -(2.0**31), 2.0**31), "away") + zero_y, low, high)


def gelu(
    q: Array, scale_x: float, zero_x: int, scale_y: float, zero_y: int, approximate: bool = False, numerics: str = "reference"
) -> Array:
    """GELU by a table of 256, the same in all three numerics; `approximate`: its tanh form.

    q: whole numbers -128..127, any shape -> whole numbers in float64, the same shape. (activations.cc)
    """
    check_numerics(numerics)
    function = portable.gelu_tanh if approximate else portable.gelu
    table = lookup_table(lambda x: portable.in_tiles(function, x), scale_x, zero_x, scale_y, zero_y)
    return table[np.asarray(q).astype(np.int64) + 128]


# Softmax


def softmax(q: Array, scale: float, beta: float = 1.0, numerics: str = "reference") -> Array:
    """SOFTMAX along the last axis. q: whole numbers -128..127 (..., N), whose zero point makes no difference.

    -> whole numbers -128..127 in float64, the same shape, of scale 1/256 and zero -128. Rows add up to nearly 256, not to 256.
    (The plain code aborts where the exps of a row add up to 512 or more; here it goes on.)

    - reference: gemmlowp's fixed point throughout (softmax.h)
    - ruy, xnnpack: a float32 table of exp for the 256 distances from the maximum, float32 sums in order (optimized_ops.h)
    """
    check_numerics(numerics)
    q = np.asarray(q).astype(np.int64)
    below = q - q.max(axis=-1, keepdims=True)
    if numerics == "reference":
        return _softmax_fixed(below, float(as_stored(scale)) * float(np.float32(beta)))
    return _softmax_table(below, np.float32(-np.float32(scale) * np.float32(beta)))


def _softmax_table(below: Array, minus_scale: Array) -> Array:
    exponents = minus_scale * np.arange(256).astype(np.float32)
    terms = portable.in_tiles(portable.exp, exponents.astype(np.float64)).astype(np.float32)[-below]
    total = np.add.accumulate(terms, axis=-1, dtype=np.float32)[..., -1:]
    scaled = terms * (np.float32(1) / (total * np.float32(1 / 256)))
    return np.clip(round_whole(scaled, "away") - 128, LOW, HIGH)


# Fixed point as gemmlowp has it: Q<i> is an int64 array of raw numbers, i integer bits and 31 - i fractional ones.
INTEGER_BITS, SUM_BITS = 5, 12  # of exp's argument, of the sum of exps


def _softmax_fixed(below: Array, scale: float) -> Array:
    """below: (..., N) int64, 0 or less; scale: of its unit."""
    q, e = shift_multiplier(min(scale * 2.0 ** (31 - INTEGER_BITS), 2.0**31 - 1))
    e = max(int(e), 0)
    furthest = -int(np.floor((2.0**INTEGER_BITS - 1) * 2.0 ** (31 - INTEGER_BITS) / 2.0**e))  # beyond it exp is 0
    exps = _exp_on_negative(high_product(np.maximum(below, furthest) << e, q))
    total = shift_right(exps, np.int64(SUM_BITS), "away").sum(axis=-1, keepdims=True)
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)  # leading zeros of 32 bits
    reciprocal = _one_over_one_plus((total << headroom) - (1 << 31))
    scaled = shift_right(high_product(reciprocal, exps), SUM_BITS - headroom + 31 - 8, "away")
    return np.clip(scaled - 128, LOW, HIGH).astype(np.float64)


def high_product(a: Array, b: Array) -> Array:
    """a * b / 2**31, ties up, of raw 32-bit numbers: SaturatingRoundingDoublingHighMul."""
    return np.minimum(shift_right(a * b, np.int64(31), "up"), 2**31 - 1)


def _shift_left(x: Array, bits: int) -> Array:
    return np.clip(x << bits, -(2**31), 2**31 - 1)


EXP_OF_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
"""exp(-2**n) for n = -2..4, in Q0."""


def _exp_on_negative(x: Array) -> Array:
    """exp(x), x in Q5, 0 or less -> Q0: x = r - (a sum of powers of two), -1/4 <= r < 0 (gemmlowp fixedpoint.h)."""
    quarter = 1 << 24
    r = (x & (quarter - 1)) - quarter
    result = _exp_near_zero(r << INTEGER_BITS)
    for bit, factor in enumerate(EXP_OF_POWERS, start=24):
        result = np.where((r - x) >> bit & 1 == 1, high_product(result, np.int64(factor)), result)
    return np.where(x == 0, 2**31 - 1, result)


def _exp_near_zero(r: Array) -> Array:
    """exp(r), r and the result in Q0, -1/4 <= r < 0: the Taylor series at -1/8, to the fourth power."""
    x = r + (1 << 28)
    square = high_product(x, x)
    cube, fourth = high_product(square, x), high_product(square, square)
    third = high_product(shift_right(fourth, np.int64(2), "away") + cube, np.int64(715827883))  # times 1/3
    rest = x + shift_right(third + square, np.int64(1), "away")
    return 1895147668 + high_product(np.int64(1895147668), rest)  # exp(-1/8)


def _one_over_one_plus(x: Array) -> Array:
    """1 / (1 + x), x and the result in Q0, 0 <= x < 1: three steps of Newton for the reciprocal of (1 + x) / 2."""
    half = (x + 2**31) >> 1  # of x + (2**31 - 1), ties away from zero
    y = 1515870810 + high_product(half, np.int64(-1010580540))  # 48/17 - 32/17 half, in Q2
    for _ in range(3):
        y = y + _shift_left(high_product(y, (1 << 29) - high_product(half, y)), 2)
    return _shift_left(y, 1)
