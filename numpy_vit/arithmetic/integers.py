"""Integer arithmetic of quantised networks: accumulators, requantisation, and ONNX Runtime's integer kernels.

An integer q stands for the real number (q - zero) * scale. A matrix product of such integers is a whole number, the
accumulator; requantisation multiplies it by scale_a * scale_b / scale_y, rounds it, adds the result's zero point and saturates.
Ports differ in how that multiplier is kept (float32, float64, fixed point), in the rounding of ties, and in what happens
to what is too large.

Integers go in as whole numbers in any array (int8 to int64, float32, float64) and come out as whole numbers in float64, which
holds them exactly up to 2**53. Nothing is used but IEEE operations, integer operations and exact scaling (exp is that of
`portable`): the same bits on every machine.

Layer norm has no integer kernel, in ONNX Runtime as in LiteRT: it is computed in floating point between DequantizeLinear and
QuantizeLinear. So is GELU in ONNX Runtime.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError, check_known
from .double_double import two_product, two_sum
from .portable import exp, in_tiles

Array = Any
EXACT = 2.0**53  # whole numbers up to here are exact in float64
INT32 = (-(2**31), 2**31 - 1)


# Rounding: a number is its floor and a fraction; a rule says whether it goes up to floor + 1.
# odd: is the floor odd; half: the sign of (fraction - 1/2); more: is the fraction more than 0; negative: is the number.

ROUNDINGS: dict[str, Callable[[Array, Array, Array, Array], Array]] = {
    "even": lambda odd, half, more, negative: (half > 0) | ((half == 0) & odd),
    "away": lambda odd, half, more, negative: (half > 0) | ((half == 0) & ~negative),
    "up": lambda odd, half, more, negative: half >= 0,
    "truncate": lambda odd, half, more, negative: more & negative,
    "floor": lambda odd, half, more, negative: np.zeros_like(more),
}
"""Rounding to whole numbers: to the nearest, ties to the even one (IEEE 754, ONNX, XNNPACK), ties away from zero (C's round,
LiteRT's reference kernels), ties up (floor(x + 1/2): ruy, Vitis AI's DPU); or towards zero; or down."""


def round_whole(x: Array, rounding: str = "even") -> Array:
    """x rounded to whole numbers by one of ROUNDINGS. Any shape, float32 or float64 -> the same shape, float64."""
    x = np.asarray(x, np.float64)
    return round_doubled(x, np.zeros_like(x), rounding)


def round_doubled(high: Array, low: Array, rounding: str) -> Array:
    """high + low, of which low is at most half a unit in high's last place, rounded to whole numbers, once. |high| < 2**51."""
    check_known("rounding", rounding, ROUNDINGS)
    nearest = np.rint(high)
    rest = high - nearest  # exact, -1/2 to 1/2; `low` decides only where it is one of -1/2, 0, 1/2
    below = (rest < 0) | ((rest == 0) & (low < 0))
    half = np.where(np.abs(rest) == 0.5, np.sign(low), np.where(below, 1, -1))
    floor = nearest - below
    more = (rest != 0) | (low != 0)
    return floor + ROUNDINGS[rounding](np.remainder(floor, 2) == 1, half, more, high < 0)


def shift_right(x: Array, shift: Array, rounding: str) -> Array:
    """x / 2**shift rounded to whole numbers. int64 (any shape) and a shift of 0 to 62 (broadcast) -> int64."""
    check_known("rounding", rounding, ROUNDINGS)
    floor = x >> shift
    rest = x - (floor << shift)
    half = np.where(shift > 0, np.sign(rest - ((np.int64(1) << shift) >> 1)), -1)
    return floor + ROUNDINGS[rounding](floor & 1 == 1, half, rest > 0, x < 0)


# What happens to what is too large


def wrap(acc: Array, bits: int) -> Array:
    """What a register of so many bits (two's complement) holds of acc: whole numbers below 2**53 -> the same shape, float64."""
    return _wrapped(np.asarray(acc, np.float64), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def saturate(acc: Array, bits: int) -> Array:
    """acc held to what so many bits (two's complement) can represent. Whole numbers -> float64, the same shape."""
    return np.clip(np.asarray(acc, np.float64), -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def _wrapped(x: Array, low: float, high: float) -> Array:
    count = high - low + 1  # of codes: a power of two, so that nothing here is rounded
    return x - count * np.floor((x - low) / count)


SATURATIONS: dict[str, Callable[[Array, float, float], Array]] = {"clip": np.clip, "wrap": _wrapped}
"""What becomes of a result outside low..high: the nearer end, or what is left of its bits."""


# Requantisation


def requantise(
    acc: Array, multiplier: Array, zero: Array, low: int, high: int, rounding: str = "even", saturation: str = "clip"
) -> Array:
    """acc * multiplier, rounded once, + zero, kept within low..high: requantisation as a user's own description has it.

    acc: whole numbers (..., N), |acc| < 2**53. multiplier: float64, a scalar or (N,). rounding: one of ROUNDINGS.
    saturation: "clip" or "wrap". -> whole numbers in float64, the shape of acc.

    The product is exact before it is rounded, so a tie is a true tie. With "wrap", InputError where it reaches 2**51, and
    where low..high are not the codes of a number of bits.
    """
    check_known("saturation", saturation, SATURATIONS)
    if saturation == "wrap" and (codes := high - low + 1) & (codes - 1):
        raise InputError(f"{low}..{high} are {codes} codes: only a power of two of them can wrap; use saturation='clip'")
    product, error = two_product(np.asarray(acc, np.float64), np.asarray(multiplier, np.float64))
    largest = 2.0**51
    outside = np.abs(product) >= largest
    if saturation == "wrap" and outside.any():
        raise InputError("a requantised accumulator reaches 2**51: the multiplier is wrong, or a scale is")
    product, error = np.clip(product, -largest, largest), np.where(outside, 0.0, error)
    return SATURATIONS[saturation](round_doubled(product, error, rounding) + zero, low, high)


def requantise_onnx(acc: Array, scale_a: Array, scale_b: Array, scale_y: Array, zero_y: Array, low: int, high: int) -> Array:
    """ONNX Runtime's QLinearMatMul and QGemm after the matrix product; all in float32, ties to even.

    acc: whole numbers (..., N), an int32 bias included. scale_a, scale_y: scalars; scale_b: a scalar or (N,), one for each
    column. low, high: the ends of y's type. -> whole numbers in float64, the shape of acc.

    The multiplier is (scale_a * scale_b) / scale_y, each operation rounded to float32; the order matters.
    Source: onnxruntime quantize_linear_matmul.cc, mlas/lib/quantize.cpp (MlasRequantizeOutput).
    """
    multiplier = np.float32(scale_a) * np.asarray(scale_b, np.float32) / np.float32(scale_y)
    scaled = np.asarray(acc, np.float64).astype(np.float32) * multiplier
    return np.clip(np.rint(scaled).astype(np.float64), low - zero_y, high - zero_y) + zero_y


def shift_multiplier(real: Array, bits: int = 31) -> tuple[Array, Array]:
    """A multiplier in fixed point: real = q * 2**(e - bits), 2**(bits - 1) <= q < 2**bits, both int64, the shape of `real`.

    As QuantizeMultiplier of TensorFlow Lite (quantization_util.cc): ties away from zero; below 2**-31 it is 0, and beyond
    2**30 the largest there is.
    """
    fraction, exponent = np.frexp(np.asarray(real, np.float64))
    q = round_whole(np.ldexp(fraction, bits), "away").astype(np.int64)
    e = exponent.astype(np.int64)
    carried = np.abs(q) == 1 << bits
    q, e = np.where(carried, q >> 1, q), e + carried
    q, e = np.where(e > 30, (1 << bits) - 1, q), np.minimum(e, 30)
    vanished = (e < -31) | (q == 0)
    return np.where(vanished, 0, q), np.where(vanished, 0, e)


FIXED = {
    "double": ("up", "away"),
    "double-up": ("up", "up"),
    "single": (None, "up"),
    **{rounding: (None, rounding) for rounding in ("even", "away", "truncate", "floor")},
}
"""How a product of fixed point is shifted right: in two roundings (of the high half, then of the shift), or in one.

"double" is gemmlowp's, TensorFlow Lite's and CMSIS-NN's default (SaturatingRoundingDoublingHighMul, then
RoundingDivideByPOT); "double-up" what ruy's AVX-512 kernels do; "single" ruy's plain code, TFLITE_SINGLE_ROUNDING and
CMSIS_NN_USE_SINGLE_ROUNDING. The others round once, as ROUNDINGS says ("floor" is a plain shift).
"""


def multiply_fixed(x: Array, q: Array, e: Array, bits: int = 31, rounding: str = "double") -> Array:
    """x * q * 2**(e - bits), rounded as FIXED says: MultiplyByQuantizedMultiplier of TensorFlow Lite.

    x: whole numbers of 32 bits, any shape; q and e as `shift_multiplier` gives them (broadcast) -> int64.
    Where e > 0, x is shifted left first, and held to 32 bits.
    """
    check_known("rounding", rounding, FIXED)
    first, last = FIXED[rounding]
    left = np.clip(np.asarray(x).astype(np.int64) << np.maximum(e, 0), *INT32)
    product, right = left * q, np.maximum(-np.asarray(e), 0)
    if first is None:
        return shift_right(product, bits + right, last)
    return shift_right(shift_right(product, np.int64(bits), first), right, last)


def requantise_fixed(
    acc: Array, real_multiplier: Array, zero: Array, low: int, high: int, bits: int = 31, rounding: str = "double"
) -> Array:
    """Requantisation in fixed point: acc times a multiplier of so many bits, shifted right, + zero, clipped to low..high.

    acc: whole numbers of 32 bits (..., N); real_multiplier: float64, a scalar or (N,); rounding: one of FIXED.
    -> whole numbers in float64, the shape of acc.
    """
    if not 2 <= bits <= 31:
        raise InputError(f"a multiplier of {bits} bits: give 2 to 31")
    scaled = multiply_fixed(acc, *shift_multiplier(real_multiplier, bits), bits=bits, rounding=rounding)
    return np.clip(scaled.astype(np.float64) + zero, low, high)


# Matrix products


def matmul_integer(a: Array, b: Array, zero_a: Array = 0, zero_b: Array = 0) -> Array:
    """(a - zero_a) @ (b - zero_b), exact: ONNX's MatMulInteger.

    a (..., M, K), b (..., K, N): whole numbers. zero_a: a scalar or (M,), one for each row; zero_b: a scalar or (N,), one
    for each column. -> (..., M, N), float64. InputError where a sum might reach 2**53.
    """
    zero_a = np.asarray(zero_a, np.float64)
    rows = zero_a[:, None] if zero_a.ndim == 1 else zero_a
    return exact_product(np.asarray(a, np.float64) - rows, np.asarray(b, np.float64) - np.asarray(zero_b, np.float64))


def exact_product(a: Array, b: Array) -> Array:
    """a (..., M, K) @ b (..., K, N) of whole numbers in float64: every sum is exact, in whatever order a BLAS takes it."""
    if a.size and b.size and a.shape[-1] * np.abs(a).max() * np.abs(b).max() >= EXACT:
        raise InputError("the integers of a matrix product are so large that their sums might reach 2**53")
    return np.matmul(a, b)


def accumulate(a: Array, b: Array, overflow: str = "exact", bias: Array = 0) -> Array:
    """a @ b + bias in an accumulator that may be too narrow.

    a (..., M, K), b (..., K, N): whole numbers, their zero points subtracted; bias: a scalar or (N,), of the accumulator's
    scale. -> (..., M, N), whole numbers in float64. overflow:

    - "exact": as wide as it need be
    - "wrap32" (or another number of bits): two's complement; when it wraps makes no difference
    - "saturate16": starts with the bias, takes one product after another in the order of K, and is held to the ends of its
      range after each
    - "pairs16": two neighbouring products are added and saturate to so many bits, their sums add up exactly: x86's
      vpmaddubsw, as ONNX Runtime and OpenVINO use it for uint8 by int8 on processors without VNNI
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if overflow == "exact":
        return exact_product(a, b) + bias
    kind = re.fullmatch(r"(wrap|saturate|pairs)([1-9]\d?)", overflow) if isinstance(overflow, str) else None
    if not kind or not 2 <= (bits := int(kind[2])) <= 52:
        raise InputError(f"overflow {overflow!r} is not one of exact, wrap<bits>, saturate<bits>, pairs<bits> (2 to 52 bits)")
    if kind[1] == "wrap":
        return wrap(exact_product(a, b) + bias, bits)
    if kind[1] == "pairs":
        return _in_saturated_steps(a, b, 2, bits, total_bits=None) + bias
    return _in_saturated_steps(a, b, 1, bits, total_bits=bits, start=bias)


def _in_saturated_steps(a: Array, b: Array, step: int, bits: int, total_bits: int | None, start: Array = 0) -> Array:
    """The products of `step` neighbours along K added and saturated, then added to the total, which saturates too or not."""
    exact = exact_product(a, b)
    reach = a.shape[-1] if total_bits else step
    if reach * np.abs(a).max(initial=0) * np.abs(b).max(initial=0) + np.abs(start).max(initial=0) < 2.0 ** (bits - 1):
        return exact + start  # nothing can saturate
    total = exact * 0.0 + (saturate(start, total_bits) if total_bits else start)
    for k in range(0, a.shape[-1], step):
        total += saturate(np.matmul(a[..., k : k + step], b[..., k : k + step, :]), bits)
        if total_bits:
            total = saturate(total, total_bits)
    return total


# ONNX Runtime's own operations


def add_onnx(
    a: Array, b: Array, scale_a: float, zero_a: int, scale_b: float, zero_b: int, scale_y: float, zero_y: int,
    low: int = 0, high: int = 255,
) -> Array:  # fmt: skip
    """ONNX Runtime's QLinearAdd (com.microsoft): a + b of integers of different scales.

    a, b: whole numbers, shapes that broadcast -> whole numbers in float64. low, high: the ends of the type, uint8 as it stands.
    In float32, with fused multiply-adds: fma(a, ra, fma(b, rb, c)), where ra = scale_a / scale_y, rb = scale_b / scale_y and
    c = zero_y - fma(ra, zero_a, rb * zero_b); ties to even. Source: onnxruntime mlas/lib/qladd.cpp, as it is compiled for
    processors with AVX2.
    """
    ratio_a, ratio_b = np.float32(scale_a) / np.float32(scale_y), np.float32(scale_b) / np.float32(scale_y)
    fixed = np.float32(zero_y) - multiply_add(ratio_a, np.float32(zero_a), ratio_b * np.float32(zero_b))
    total = multiply_add(a, ratio_a, multiply_add(b, ratio_b, fixed))
    return np.clip(np.rint(total).astype(np.float64), low, high)


def multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a * b + c rounded once to float32: a fused multiply-add. float32 numbers, shapes that broadcast -> float32.

    The product is exact in float64. The sum is rounded there to odd, which leaves nothing for the rounding to float32 to
    get wrong (Boldo and Melquiond, "When double rounding is odd", 2005).
    """
    total, error = two_sum(np.asarray(a, np.float64) * np.asarray(b, np.float64), np.asarray(c, np.float64))
    bits = np.ascontiguousarray(total).view(np.int64).reshape(total.shape)
    to_odd = (error != 0) & (bits & 1 == 0)
    odd = np.asarray(np.where(to_odd, np.nextafter(total, np.copysign(np.inf, error)), total))
    return odd.astype(np.float32)


def softmax_onnx(
    q: Array, scale: float, axis: int = -1, scale_y: float = 1 / 256, zero_y: int = 0, low: int = 0, high: int = 255
) -> Array:
    """ONNX Runtime's QLinearSoftmax (com.microsoft, opset 13 on): exp from a table, float32 sums in order, float64 quotients.

    q: whole numbers, any shape; scale: of q (its zero point makes no difference). low, high: the ends of y's type, uint8 as
    it stands; -128, 127 for int8. -> whole numbers in float64, the shape of q.

    With scale_y 1/256 and zero_y 0 it is rint(256 * softmax), 255 at most, but right next to a tie.
    Source: onnxruntime contrib_ops/cpu/quantization/qlinear_softmax.cc.
    """
    q = np.moveaxis(np.asarray(q, np.float64), axis, -1)
    distance = (q.max(axis=-1, keepdims=True) - q).astype(np.int64)
    terms = _exp_table_onnx(np.float32(scale), q.shape[-1])[255 - distance]
    total = np.add.accumulate(terms, axis=-1, dtype=np.float32)[..., -1:]
    levels = np.floor(np.float32(1) / np.float32(scale_y)).astype(np.float64)
    result = np.rint(terms.astype(np.float64) * levels / total.astype(np.float64)) + zero_y
    return np.moveaxis(np.clip(result, low, high), -1, axis)


def _exp_table_onnx(scale: np.float32, length: int) -> Array:
    """exp((i - 255) * scale) for i = 0..255, times a factor as large as `length` sums of float32 allow -> (256,), float32."""
    largest = np.float32(np.finfo(np.float32).max) / np.float32(length)
    shift = max(0.0, float(np.float32(logarithm(float(largest)))) - 5) / np.float64(scale)
    return in_tiles(exp, (np.arange(256.0) - 255 + shift) * np.float64(scale)).astype(np.float32)


def logarithm(x: float) -> float:
    """ln x of a number 1 or larger, from the portable exp by Newton's rule: within two units in the last place."""
    result = float(np.frexp(x)[1]) * 0.6931471805599453
    for _ in range(6):
        result += float(x * in_tiles(exp, np.array([-result]))[0]) - 1
    return result
