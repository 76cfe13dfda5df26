"""Narrow number formats: every code, every tie, and what is too large, against exact fractions and published values."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from numpy_vit.arithmetic import formats
from numpy_vit.arithmetic.formats import FLOATS, from_bits, quantise, to_bits, to_float
from numpy_vit.errors import InputError

SMALL = ("float8-e4m3", "float8-e5m2", "float6-e3m2", "float6-e2m3", "float4-e2m1")
# Name: largest, smallest normal, smallest subnormal (OCP 8-bit Floating Point 1.0, Microscaling 1.0; IEEE 754)
PUBLISHED = {
    "float8-e4m3": (448, 2**-6, 2**-9),
    "float8-e5m2": (57344, 2**-14, 2**-16),
    "float6-e3m2": (28, 2**-2, 2**-4),
    "float6-e2m3": (7.5, 1, 2**-3),
    "float4-e2m1": (6, 1, 0.5),
    "float16": (65504, 2**-14, 2**-24),
    "bfloat16": (3.3895313892515355e38, 2**-126, 2**-133),
    "tf32": (3.4011621342146535e38, 2**-126, 2**-136),
}


def finite(name):
    """Every finite number of a small format, in order, without -0."""
    values = from_bits(np.arange(2 ** FLOATS[name].bits), name)
    return np.unique(values[np.isfinite(values)] + 0.0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_extremes(name):
    largest, normal, subnormal = PUBLISHED[name]
    format = FLOATS[name]
    assert format.largest == largest and format.smallest == subnormal
    for number in (largest, normal, subnormal, -largest):
        assert to_float(number, name) == number == from_bits(to_bits(number, name), name)
    assert to_float(subnormal / 2, name) == 0 and to_float(0.51 * subnormal, name) == subnormal  # a tie goes to even: 0
    assert to_float(1.5 * subnormal, name) == 2 * subnormal


def test_the_numbers_of_float4():
    assert finite("float4-e2m1").tolist() == [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]


@pytest.mark.parametrize("name", SMALL)
def test_every_code_there_and_back(name):
    codes = np.arange(2 ** FLOATS[name].bits)
    values = from_bits(codes, name)
    number = ~np.isnan(values)
    assert (to_bits(values, name)[number] == codes[number]).all()
    assert np.isnan(values).sum() == {"float8-e4m3": 2, "float8-e5m2": 6}.get(name, 0)
    assert np.isinf(values).sum() == (2 if name == "float8-e5m2" else 0)
    same = to_float(values, name, overflow="infinite")
    assert np.array_equal(same, values, equal_nan=True)
    assert (np.signbit(same) == np.signbit(values))[number].all()


@pytest.mark.parametrize("rounding", ["even", "away", "truncate", "up", "floor"])
@pytest.mark.parametrize("name", SMALL)
def test_every_tie_and_its_neighbours(name, rounding):
    """Against exact fractions: the nearest of all numbers there are, and of two equally near the one the rule says."""
    numbers = finite(name)
    for low, high in itertools.pairwise(numbers):
        middle = (low + high) / 2
        for x in (middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf), low, (3 * low + high) / 4):
            below, above = Fraction(float(x)) - Fraction(float(low)), Fraction(float(high)) - Fraction(float(x))
            if rounding == "truncate":
                wanted = high if x == high or (x < 0 and below > 0) else low
            elif rounding == "floor":
                wanted = low
            elif below != above:
                wanted = low if below < above else high
            elif rounding == "even":
                wanted = low if to_bits(low, name) % 2 == 0 else high
            elif rounding == "up":
                wanted = high
            else:
                wanted = high if x > 0 else low
            assert to_float(x, name, rounding) == wanted, (x, low, high)


def test_one_rounding_from_float64():
    """A number just above a tie is not first rounded to float32, where it would be the tie itself."""
    tie = 1 + 2.0**-4  # of float8 E4M3
    assert to_float(tie, "float8-e4m3") == 1 and to_float(np.nextafter(tie, 2), "float8-e4m3") == 1.125
    tie = 1 + 2.0**-8  # of bfloat16
    assert to_float(tie, "bfloat16") == 1 and to_float(np.nextafter(tie, 2), "bfloat16") == 1 + 2.0**-7


def test_what_is_too_large():
    x = np.array([449.0, 464, 465, 1e9, np.inf, -np.inf, np.nan])
    assert to_float(x, "float8-e4m3")[:6].tolist() == [448] * 5 + [-448]
    assert to_float(x, "float8-e4m3", overflow="nan")[:2].tolist() == [448, 448]  # 464 is the tie, and 448 even
    assert np.isnan(to_float(x, "float8-e4m3", overflow="nan")[2:]).all()
    assert to_float(x, "float8-e5m2", overflow="infinite")[3:6].tolist() == [np.inf, np.inf, -np.inf]
    assert (
        np.isinf(to_float(1e39, "bfloat16"))
        and np.isinf(to_float(65520.0, "float16"))
        and to_float(65519.0, "float16") == 65504
    )
    assert to_float(x, "float4-e2m1")[3:].tolist() == [6, 6, -6, 0]  # which has no NaN
    assert np.isnan(to_float(x, "float8-e4m3")[6])
    assert to_float(1e39, "bfloat16", "truncate") == FLOATS["bfloat16"].largest and np.isinf(
        to_float(np.inf, "bfloat16", "truncate")
    )
    with pytest.raises(InputError, match="overflow 'no'"):
        to_float(x, "float16", overflow="no")


def test_float16_and_bfloat16_bits():
    x = np.random.default_rng(0).standard_normal(20_000) * 10.0 ** np.random.default_rng(1).integers(-9, 5, 20_000)
    assert np.array_equal(to_float(x, "float16"), x.astype(np.float16).astype(np.float64))
    assert np.array_equal(to_bits(to_float(x, "float16"), "float16"), x.astype(np.float16).view(np.uint16))
    upper = (to_float(x, "bfloat16").astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert np.array_equal(to_bits(to_float(x, "bfloat16"), "bfloat16"), upper)


def test_quantise():
    """ONNX's specification: round half to even, then the zero point, then saturation."""
    x = np.array([0.5, 1.5, -0.5, -1.5, 2.5, 300, -300, np.nan, np.inf, -np.inf])
    assert quantise(x, 1.0, 0, -128, 127).tolist() == [0, 2, 0, -2, 2, 127, -128, -128, 127, -128]
    assert quantise(x[:5], 1.0, 3, -128, 127, "away").tolist() == [4, 5, 2, 1, 6]
    assert quantise(np.array([130.0, -129]), 1.0, 0, -128, 127, saturation="wrap").tolist() == [-126, 127]
    x, scale = np.float32(0.1) * np.arange(1, 100), np.float32(0.1)
    assert (quantise(x, scale, 0, -128, 127) == np.arange(1, 100)).all()
    columns = quantise(np.ones((2, 3)), np.array([1, 0.5, 0.25]), np.array([0, 1, 2]), -128, 127)
    assert columns.tolist() == [[1, 3, 6]] * 2
    assert formats.dequantise(columns, np.array([1, 0.5, 0.25]), np.array([0, 1, 2])).tolist() == [[1, 1, 1]] * 2


def test_scales():
    assert formats.scale_of(-1.0, 1.0, -127, 127, symmetric=True) == (float(np.float32(2 / 254)), 0)
    assert formats.scale_of(1.0, 2.55, 0, 255) == (float(np.float32(0.01)), 0)  # 0 is always among them
    assert formats.scale_of(-0.5, 2.05, -128, 127)[1] == -78
    assert formats.scale_of(0.0, 0.0, -128, 127) == (1.0, 0)
    codes, scale, zero = formats.dynamic_quantise(np.array([-1.0, 0, 2]))
    assert codes.tolist() == [0, 85, 255] and zero == 85 and scale == float(np.float32(3) / np.float32(255))
    assert formats.dynamic_quantise(np.zeros(3))[1:] == (1.0, 0)


def test_microscaling():
    """Section 6.3 of the specification: the scale is 2**(floor(log2(largest)) - emax); elements above saturate."""
    x = np.zeros((2, 33))
    x[0, :3], x[0, 32], x[1, 5] = (7.9, -1.0, 0.24), 100.0, 6.0
    found = formats.mx(x, "float4-e2m1")
    assert found.scales.tolist() == [[1, 16], [1, 2.0**-127]]
    assert found.values[0, :3].tolist() == [6, -1, 0] and found.values[0, 32] == 96 and found.values[1, 5] == 6
    assert found.codes.shape == found.values.shape == x.shape
    assert formats.mx(x, "float4-e2m1", scale="up").values[0, 0] == 8  # 7.9 / 2 is 3.95
    assert formats.mx(x, "float4-e2m1", scale="even").scales[0, 0] == 2  # 7.9 is 8 with one bit of mantissa
    along = formats.mx(x.T, "float4-e2m1", axis=0)
    assert np.array_equal(along.values.T, found.values) and along.scales.shape == (2, 2)
    with pytest.raises(InputError, match="floor, up or even"):
        formats.mx(x, "float4-e2m1", scale="down")


def test_nvfp4():
    x = np.random.default_rng(0).standard_normal((3, 40))
    found = formats.nvfp4(x, global_scale=False)
    assert found.scales.shape == (3, 3)
    assert np.array_equal(found.scales, to_float(found.scales, "float8-e4m3"))
    assert np.array_equal(found.codes, to_float(found.codes, "float4-e2m1"))
    for some in (found, formats.nvfp4(x)):
        assert np.abs(some.values - x).max() < 0.3 * np.abs(x).max()
    assert formats.nvfp4(1000 * x).scales.max() > 0  # blocks whose scale alone would not fit E4M3


def test_ggml_blocks():
    """By hand: 127 is the largest code of Q8_0, -8 that of Q4_0, whichever sign the largest number has."""
    x = np.zeros((1, 32))
    x[0, :3] = 1.27, -0.635, 0.003
    found = formats.q8_0(x)
    assert found.codes[0, :3].tolist() == [127, -64, 0]  # -63.5 away from zero
    assert formats.q8_0(x, run_time=True).codes[0, 1] == -64 and found.scales[0, 0] == float(np.float16(0.01))
    x[0, :3] = 8.0, -4.0, 0.49
    found = formats.q4_0(x)
    assert found.codes[0, :3].tolist() == [-8, 4, 0] and found.scales[0, 0] == -1
    assert formats.ggml_bytes(found, "q4_0")[:4] == np.float16(-1).tobytes() + bytes([0x80, 0x8C])
    with pytest.raises(InputError, match="33 are no multiple"):
        formats.q8_0(np.zeros(33))


def test_groups_of_four_bits():
    w = np.random.default_rng(0).standard_normal((200, 3))
    for symmetric in (True, False):
        found = formats.int4_groups(w, symmetric=symmetric)
        assert found.scales.shape == (2, 3) and np.array_equal(found.codes, np.rint(found.codes))
        assert np.abs(found.values - w).max() <= 0.51 * found.scales.max()
    assert np.abs(found.codes).max() <= 15
