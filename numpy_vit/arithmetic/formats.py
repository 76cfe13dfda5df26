"""The numbers of narrow arithmetics: float formats down to four bits, integers with a scale, blocks that share one.

Arrays come in and go out as float64, which holds every number of these formats. Only IEEE operations, scaling by powers of two
and comparisons are used, so the same bits come out on every machine.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .integers import ROUNDINGS as KNOWN_ROUNDINGS
from .integers import SATURATIONS, round_whole

Array = Any
ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    name: functools.partial(round_whole, rounding=name) for name in KNOWN_ROUNDINGS
}
"""Real numbers -> whole numbers: "even" (to the nearest, ties to even), "away", "up", "truncate", "floor"."""

# Float formats


@dataclasses.dataclass(frozen=True)
class FloatFormat:
    """A binary float format.

    exponent, mantissa  bits
    bias                of the exponent
    largest             the largest finite number
    overflow            what a larger one becomes unless told otherwise: "infinite", or "saturate" (the largest)
    nan                 whether it has a NaN
    """

    name: str
    exponent: int
    mantissa: int
    bias: int
    largest: float
    overflow: str
    nan: bool = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def smallest(self) -> float:
        """The smallest positive number, a subnormal."""
        return 2.0 ** (1 - self.bias - self.mantissa)


def ieee(name: str, exponent: int, mantissa: int) -> FloatFormat:
    """A format as IEEE 754 has them: the highest exponent is for infinity and NaN."""
    bias = 2 ** (exponent - 1) - 1
    return FloatFormat(name, exponent, mantissa, bias, (2 - 2.0**-mantissa) * 2.0**bias, "infinite")


FLOATS: dict[str, FloatFormat] = {
    format.name: format
    for format in (
        ieee("float32", 8, 23),
        ieee("tf32", 8, 10),
        ieee("bfloat16", 8, 7),
        ieee("float16", 5, 10),
        # OCP 8-bit Floating Point Specification 1.0: E4M3 has no infinity, and one NaN.
        FloatFormat("float8-e4m3", 4, 3, 7, 448.0, "saturate"),
        dataclasses.replace(ieee("float8-e5m2", 5, 2), overflow="saturate"),
        # OCP Microscaling Formats 1.0: no infinity, no NaN.
        FloatFormat("float6-e3m2", 3, 2, 3, 28.0, "saturate", nan=False),
        FloatFormat("float6-e2m3", 2, 3, 1, 7.5, "saturate", nan=False),
        FloatFormat("float4-e2m1", 2, 1, 1, 6.0, "saturate", nan=False),
    )
}


def to_float(x: Array, name: str, rounding: str = "even", overflow: str | None = None) -> Array:
    """x rounded to the nearest number of a format, once, whatever it comes from. Any shape -> float64, the same shape.

    rounding  "even", "away", "truncate", "up" or "floor"
    overflow  what is too large, infinity included, becomes "infinite", "nan" or the largest ("saturate"); the format's own
              way if not given. Where a format has no infinity, or no NaN, it saturates instead.

    Subnormals are kept, as is the sign of zero; NaN stays NaN, or becomes 0 where the format has none.
    """
    format, x = FLOATS[name], np.asarray(x, np.float64)
    overflow = overflow or format.overflow
    if overflow not in ("infinite", "nan", "saturate"):
        raise InputError(f"overflow {overflow!r:.40}: infinite, nan or saturate")
    with np.errstate(over="ignore", invalid="ignore"):
        if name == "float32" and rounding == "even" and overflow == "infinite":
            return x.astype(np.float32).astype(np.float64)
        exponent = np.maximum(np.frexp(x)[1] - 1, 1 - format.bias) - format.mantissa  # of one unit in the last place
        finite = np.where(np.isfinite(x), x, 0.0)
        rounded = np.ldexp(ROUNDINGS[rounding](np.ldexp(finite, -exponent)), exponent)
    beyond = (np.abs(rounded) > format.largest) | np.isinf(x)
    has_infinity = format.overflow == "infinite" or name == "float8-e5m2"
    if overflow == "infinite" and has_infinity:
        limit = np.inf
    else:
        limit = np.nan if overflow != "saturate" and format.nan else format.largest
    over = np.where(np.isfinite(x) & (rounding == "truncate"), format.largest, limit)  # cut off, no finite number overflows
    rounded = np.where(beyond, np.copysign(over, x), rounded)
    return np.copysign(np.where(np.isnan(x), np.nan if format.nan else 0.0, rounded), x)


def to_bits(values: Array, name: str) -> Array:
    """The codes of numbers that are a format's. Float64 any shape -> uint8, uint16 or uint32, the same shape.

    Of a NaN the code with all bits of exponent and mantissa set, or of E4M3 and IEEE formats what their specifications have.
    """
    format, x = FLOATS[name], np.asarray(values, np.float64)
    size = np.where(np.isfinite(x), np.abs(x), 0.0)
    power = np.maximum(np.frexp(size)[1] - 1, 1 - format.bias)
    units = np.ldexp(size, format.mantissa - power).astype(np.int64)  # with the leading 1, where there is one
    code = units + np.where(units >> format.mantissa, (power + format.bias - 1) << format.mantissa, 0)
    infinity = ((1 << format.exponent) - 1) << format.mantissa
    code = np.where(np.isinf(x), infinity, code)
    quiet = infinity | (1 << (format.mantissa - 1) if format.overflow == "infinite" or name == "float8-e5m2" else infinity | 7)
    code = np.where(np.isnan(x), quiet, code) | (np.signbit(x).astype(np.int64) << (format.bits - 1))
    return code.astype(np.uint8 if format.bits <= 8 else np.uint16 if format.bits <= 16 else np.uint32)


def from_bits(codes: Array, name: str) -> Array:
    """The numbers of a format's codes: the inverse of `to_bits`. Whole numbers, any shape -> float64, the same shape."""
    format, code = FLOATS[name], np.asarray(codes).astype(np.int64)
    fraction, exponent = code & ((1 << format.mantissa) - 1), (code >> format.mantissa) & ((1 << format.exponent) - 1)
    significand = fraction + np.where(exponent > 0, 1 << format.mantissa, 0)
    size = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - format.bias - format.mantissa)
    if format.overflow == "infinite" or name == "float8-e5m2":
        highest = exponent == (1 << format.exponent) - 1
        size = np.where(highest, np.where(fraction == 0, np.inf, np.nan), size)
    elif format.nan:
        size = np.where(size > format.largest, np.nan, size)
    return np.copysign(size, np.where(code >> (format.bits - 1) & 1, -1.0, 1.0))


# Integers with a scale


def quantise(
    x: Array, scale: Array, zero: Array, low: int, high: int, rounding: str = "even", saturation: str = "clip"
) -> Array:
    """x / scale + zero, as a whole code from low to high. x: any shape; scale, zero: what broadcasts -> float64.

    The division is float32's, as in ONNX Runtime (QuantizeLinear: onnx.defs; mlas/lib/quantize.cpp). What is too large is
    clipped, or wraps around; NaN becomes `low`, as there.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        divided = (np.asarray(x, np.float32) / np.asarray(scale, np.float32)).astype(np.float64)
    whole = ROUNDINGS[rounding](np.clip(np.where(np.isnan(divided), -np.inf, divided), -(2.0**40), 2.0**40))
    return SATURATIONS[saturation](whole + zero, low, high)


def dequantise(codes: Array, scale: Array, zero: Array) -> Array:
    """(code - zero) * scale, rounded to float32, as float64."""
    return ((np.asarray(codes, np.float64) - zero).astype(np.float32) * np.asarray(scale, np.float32)).astype(np.float64)


def scale_of(low: float, high: float, lowest: int, highest: int, symmetric: bool = False) -> tuple[float, int]:
    """The scale (a float32 number) and zero point with which low..high, and 0, fit codes from lowest to highest.

    As onnxruntime.quantization has them (quant_utils.py, compute_scale_zp): computed in float64, the scale then stored as
    float32; 1 and the code of zero where the range is empty.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    scale = (high - low) / (highest - lowest)
    if scale < np.finfo(np.float32).tiny:
        return 1.0, 0 if symmetric and lowest < 0 else min(max(0, lowest), highest)
    zero = np.rint((highest + lowest) / 2.0) if symmetric else np.rint(lowest - low / scale)
    return float(np.float32(scale)), int(min(max(zero, lowest), highest))


def dynamic_quantise(x: Array) -> tuple[Array, float, int]:
    """uint8 codes of x, with the scale and zero point that fit x and 0 (ONNX, DynamicQuantizeLinear-11).

    x: any shape -> codes in float64, scale, zero. All in float32, as ONNX Runtime has it; of zeros the scale is 1.
    """
    x = np.asarray(x, np.float32)
    high, low = max(np.float32(0), x.max()), min(np.float32(0), x.min())
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = int(np.rint(np.clip((np.float32(0) - low) / scale, 0, 255)))
    return quantise(x, scale, zero, 0, 255), float(scale), zero


# Blocks along an axis that share a scale


class Blocks(NamedTuple):
    """Numbers in blocks along an axis."""

    codes: Array  # of x's shape: whole numbers, or numbers of the element format
    scales: Array  # the same, with one number a block along the axis
    values: Array  # of x's shape: the real numbers that codes and scales stand for


def in_blocks(x: Array, block: int, axis: int) -> tuple[Array, Callable[[Array], Array], Callable[[Array], Array]]:
    """x as (..., blocks, block), filled up with zeros; and the way back for what is so, and for one number a block."""
    x = np.moveaxis(np.asarray(x, np.float64), axis, -1)
    count = x.shape[-1]
    padded = np.concatenate([x, np.zeros((*x.shape[:-1], -count % block))], axis=-1)

    def back(y: Array) -> Array:
        return np.moveaxis(y.reshape(*y.shape[:-2], -1)[..., :count], -1, axis)

    return padded.reshape(*x.shape[:-1], -1, block), back, lambda scales: np.moveaxis(scales[..., 0], -1, axis)


def mx(x: Array, element: str, block: int = 32, scale: str = "floor", axis: int = -1) -> Blocks:
    """OCP Microscaling (MX): blocks along an axis with a power of two as their scale, elements of a narrow float format.

    scale   "floor": 2**(floor(log2(largest)) - the element's largest exponent), as the specification has it (section 6.3);
            elements may then saturate. "up": the next power that lets all fit. "even": the largest is first rounded to the
            element's mantissa.
    """
    numbers, back, one = in_blocks(x, block, axis)
    format = FLOATS[element]
    largest = np.abs(numbers).max(axis=-1, keepdims=True)
    top = np.frexp(format.largest)[1] - 1
    if scale == "even":
        power = np.frexp(largest)[1] - 1 - format.mantissa
        largest = np.ldexp(np.rint(np.ldexp(largest, -power)), power)
    power = np.frexp(largest)[1] - 1 - top
    if scale == "up":
        power = power + (np.ldexp(largest, -power) > format.largest)
    elif scale not in ("floor", "even"):
        raise InputError(f"scale {scale!r:.40}: floor, up or even")
    scales = np.ldexp(1.0, np.where(largest > 0, np.clip(power, -127, 127), -127))
    codes = to_float(numbers / scales, element, overflow="saturate")
    return Blocks(back(codes), one(scales), back(codes * scales))


def nvfp4(x: Array, axis: int = -1, global_scale: bool = True) -> Blocks:
    """NVFP4: blocks of 16 along an axis, float4 E2M1 elements, a float8 E4M3 scale each, and a float32 of all.

    As torchao has it (prototype/mx_formats/nvfp4_tensor.py): the scale of all is largest / (448 * 6); without it blocks have
    theirs alone. Scales below 2**-6 are 2**-6.
    """
    numbers, back, one = in_blocks(x, 16, axis)
    whole = float(np.float32(np.abs(numbers).max(initial=0.0) / (448 * 6))) or 1.0
    largest = (np.abs(numbers).max(axis=-1, keepdims=True) / 6).astype(np.float32)
    wanted = (largest / np.float32(whole)) if global_scale else largest
    scales = to_float(np.clip(wanted.astype(np.float64), 2.0**-6, 448.0), "float8-e4m3")
    scales = (scales * (whole if global_scale else 1.0)).astype(np.float32).astype(np.float64)
    codes = to_float(numbers / scales, "float4-e2m1")
    return Blocks(back(codes), one(scales), back(codes * scales))


GGML_BLOCK = 32


def ggml_blocks(x: Array) -> tuple[Array, Callable[[Array], Array], Callable[[Array], Array]]:
    """x (..., K) in blocks of 32, as float32. Raises InputError where K is no multiple of 32: ggml has none."""
    if np.shape(x)[-1] % GGML_BLOCK:
        raise InputError(f"ggml's blocks have 32 numbers: {np.shape(x)[-1]} are no multiple of that")
    numbers, back, one = in_blocks(x, GGML_BLOCK, -1)
    return numbers.astype(np.float32), back, one


def q8_0(x: Array, run_time: bool = False) -> Blocks:
    """ggml's Q8_0: int8 in blocks of 32 along the last axis, a float16 scale each. x (..., K).

    As the reference has it (ggml-quants.c, quantize_row_q8_0_ref): codes by the float32 scale's inverse, ties away from zero.
    `run_time`: as its AVX2 code quantises activations, with 127 / largest and ties to even.
    """
    numbers, back, one = ggml_blocks(x)
    largest = np.abs(numbers).max(axis=-1, keepdims=True)
    scales = largest / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales > 0, np.float32(127) / largest if run_time else np.float32(1) / scales, np.float32(0))
    codes = ROUNDINGS["even" if run_time else "away"]((numbers * inverse).astype(np.float64))
    halves = to_float(scales, "float16")
    return Blocks(back(codes), one(halves), back(codes * halves))


def q4_0(x: Array) -> Blocks:
    """ggml's Q4_0: -8..7 in blocks of 32 along the last axis, a float16 scale each, which may be negative. x (..., K).

    As the reference has it (ggml-quants.c, quantize_row_q4_0_ref): the number of largest size becomes -8.
    """
    numbers, back, one = ggml_blocks(x)
    place = np.abs(numbers).argmax(axis=-1)[..., None]
    scales = np.take_along_axis(numbers, place, axis=-1) / np.float32(-8)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales != 0, np.float32(1) / scales, np.float32(0))
    codes = np.minimum(np.trunc(numbers * inverse + np.float32(8.5)), 15).astype(np.float64) - 8
    halves = to_float(scales, "float16")
    return Blocks(back(codes), one(halves), back(codes * halves))


def ggml_bytes(blocks: Blocks, format: str) -> bytes:
    """Blocks of `q8_0` or `q4_0` as ggml lays them out: the float16 scale, then the codes (of Q4_0: i and i + 16 in a byte)."""
    codes = blocks.codes.reshape(-1, GGML_BLOCK)
    scales = blocks.scales.reshape(-1, 1).astype("<f2").view(np.uint8)
    if format == "q4_0":
        nibbles = (codes + 8).astype(np.uint8)
        packed = nibbles[:, :16] | nibbles[:, 16:] << 4
    else:
        packed = codes.astype(np.int8).view(np.uint8)
    return np.concatenate([scales, packed], axis=1).tobytes()


def int4_groups(w: Array, group: int = 128, axis: int = 0, symmetric: bool = True) -> Blocks:
    """Four-bit integers in groups along an axis, a float16 scale each; not symmetric: a whole zero point each as well.

    symmetric: scale = largest / 7, codes -8..7. Otherwise (GPTQ, AWQ) scale = (highest - lowest) / 15, codes 0..15 less the
    zero point.
    """
    numbers, back, one = in_blocks(w, group, axis)
    low, high = np.minimum(numbers.min(-1, keepdims=True), 0), np.maximum(numbers.max(-1, keepdims=True), 0)
    scales = to_float(np.maximum(high, -low) / 7 if symmetric else (high - low) / 15, "float16")
    scales = np.where(scales > 0, scales, 1.0)
    zero = 0.0 if symmetric else np.clip(np.rint(-low / scales), 0, 15)
    codes = np.clip(np.rint(numbers / scales) + zero, *((-8, 7) if symmetric else (0, 15))) - zero
    return Blocks(back(codes), one(scales), back(codes * scales))
