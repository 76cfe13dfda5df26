"""Integer arithmetic against exact fractions and plain loops over Python's integers."""

import math
from fractions import Fraction

import numpy as np
import pytest

from numpy_vit import InputError
from numpy_vit.arithmetic import integers, litert
from numpy_vit.arithmetic.integers import (
    FIXED,
    ROUNDINGS,
    accumulate,
    matmul_integer,
    multiply_add,
    multiply_fixed,
    requantise,
    requantise_fixed,
    requantise_onnx,
    round_whole,
    saturate,
    shift_multiplier,
    shift_right,
    softmax_onnx,
    wrap,
)

TIES = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]


def rounded(exact, rounding):
    """An exact fraction to a whole number: each rule in its own words."""
    if rounding == "even":
        return round(exact)
    if rounding == "away":
        return int(math.copysign(1, exact)) * math.floor(abs(exact) + Fraction(1, 2))
    return {"up": math.floor(exact + Fraction(1, 2)), "truncate": math.trunc(exact), "floor": math.floor(exact)}[rounding]


def whole(rng, *shape, low=-128, high=127):
    return rng.integers(low, high + 1, shape)


# Rounding


@pytest.mark.parametrize(
    "rounding, expected",
    [
        ("even", [-2, -2, 0, 0, 2, 2]),
        ("away", [-3, -2, -1, 1, 2, 3]),
        ("up", [-2, -1, 0, 1, 2, 3]),
        ("truncate", [-2, -1, 0, 0, 1, 2]),
        ("floor", [-3, -2, -1, 0, 1, 2]),
    ],
)
def test_ties(rounding, expected):
    assert round_whole(np.array(TIES), rounding).tolist() == expected
    assert shift_right((np.array(TIES) * 2**20).astype(np.int64), np.int64(20), rounding).tolist() == expected
    assert requantise(np.array(TIES) * 2, 0.5, 0, -128, 127, rounding).tolist() == expected


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_rounding_is_that_of_exact_numbers(rounding):
    """Next to ties, next to whole numbers, at every size."""
    rng = np.random.default_rng(0)
    near = [np.nextafter(x, x + step) for x in np.arange(-8, 8.5, 0.5) for step in (-1, 0, 1)]
    x = np.concatenate([near, rng.normal(size=2000) * 10.0 ** rng.integers(-3, 12, 2000), [5e-324, -5e-324, 0.0, -0.0]])
    assert round_whole(x, rounding).tolist() == [rounded(Fraction(v), rounding) for v in x.tolist()]
    n, shift = whole(rng, 2000, low=-(2**40), high=2**40), whole(rng, 2000, low=0, high=45)
    exact = [rounded(Fraction(a, 2**s), rounding) for a, s in zip(n.tolist(), shift.tolist(), strict=True)]
    assert shift_right(n, shift, rounding).tolist() == exact


# Requantisation


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_requantised_is_the_exact_product_rounded_once(rounding):
    rng = np.random.default_rng(1)
    acc = whole(rng, 3000, low=-(2**31), high=2**31 - 1).astype(np.float64)
    multiplier = rng.uniform(size=3000) * 2.0 ** rng.integers(-32, -22, 3000)
    # the float64 nearest to a tie divided by acc: the float64 product is the tie, the exact one is not
    trap = (np.rint(acc * 2.0**-25) + 0.5) / acc
    multiplier = np.where(np.arange(3000) % 2, multiplier, trap)
    exact = [rounded(Fraction(a) * Fraction(m), rounding) for a, m in zip(acc.tolist(), multiplier.tolist(), strict=True)]
    assert requantise(acc, multiplier, 0, -(2**40), 2**40, rounding).tolist() == exact
    if rounding in ("even", "away", "up"):
        assert (round_whole(acc * multiplier, rounding) != exact).any()  # what the trap is there for


def test_a_multiplier_for_each_column():
    acc = np.array([[10, 10, 10], [-30, -30, -30]])
    assert requantise(acc, [1.0, 0.5, 0.25], 3, -128, 127).tolist() == [[13, 8, 5], [-27, -12, -5]]
    assert requantise_fixed(acc, [1.0, 0.5, 0.25], 3, -128, 127).tolist() == [[13, 8, 6], [-27, -12, -5]]


def test_what_is_too_large_is_clipped_or_wraps():
    acc = np.array([-1000, -129, -128, 127, 128, 300, 1000])
    assert requantise(acc, 1.0, 0, -128, 127).tolist() == [-128, -128, -128, 127, 127, 127, 127]
    assert requantise(acc, 1.0, 0, -128, 127, saturation="wrap").tolist() == acc.astype(np.int8).tolist()
    assert requantise(acc, 1.0, 0, 0, 255, saturation="wrap").tolist() == acc.astype(np.uint8).tolist()
    assert requantise(np.array([1e15, -1e15]), 1e200, 5, -128, 127).tolist() == [127, -128]
    with pytest.raises(InputError, match="255 codes"):
        requantise(acc, 1.0, 0, -127, 127, saturation="wrap")
    with pytest.raises(InputError, match="reaches 2"):
        requantise(acc, 1e15, 0, -128, 127, saturation="wrap")
    with pytest.raises(InputError, match="rounding 'nearest' is not one of even, away"):
        requantise(acc, 1.0, 0, -128, 127, "nearest")


def test_onnx_multiplies_in_float32_in_its_own_order():
    """The accumulator is rounded to float32; the multiplier is (scale_a * scale_b) / scale_y, each rounded."""
    a, b, y = (np.float32(x) for x in (0.0123, 0.0457, 0.9871))
    acc = np.arange(-400_000, 400_000, 7)
    expected = [round(Fraction(float(np.float32(int(n)) * (a * b / y)))) for n in acc[:3000]]
    assert requantise_onnx(acc[:3000], a, b, y, 0, -(2**20), 2**20).tolist() == expected
    assert requantise_onnx([2**24 + 1], 1, 1, 1, 0, 0, 2**31).tolist() == [2**24]
    assert requantise_onnx([1, 3, 5, 1000, -1000], 1, 1, 2, 10, 0, 255).tolist() == [10, 12, 12, 255, 0]
    assert requantise_onnx([[6, 6]], 1, [0.5, 2], 1, 0, -128, 127).tolist() == [[3, 12]]


# Fixed point


def test_multipliers_in_fixed_point():
    values = [0.5, 1.0, 0.75, 1 - 2.0**-33, 3e-10, 2.0**-33, 0.0, 2.0**40]
    q, e = shift_multiplier(np.array(values))
    assert q.tolist() == [2**30, 2**30, 3 * 2**29, 2**30, round(3e-10 * 2**31 * 2**31), 0, 0, 2**31 - 1]
    assert e.tolist() == [0, 1, 0, 1, -31, 0, 0, 30]
    q, e = shift_multiplier(0.3, bits=15)
    assert (int(q), int(e)) == (round(0.6 * 2**15), -1)


def fixed(x, real, bits, rounding):
    """multiply_fixed over Python's integers."""
    q, e = (int(part) for part in shift_multiplier(real, bits))
    product = Fraction(x * q) * 2 ** max(e, 0)
    first, last = FIXED[rounding]
    if first is None:
        return rounded(product / 2 ** (bits + max(-e, 0)), last)
    return rounded(Fraction(rounded(product / 2**bits, first), 2 ** max(-e, 0)), last)


@pytest.mark.parametrize("rounding", FIXED)
@pytest.mark.parametrize("bits", [31, 15, 8])
def test_fixed_point_is_that_of_whole_numbers(rounding, bits):
    rng = np.random.default_rng(2)
    for real in (0.5, 0.25, 0.0037, 0.99, 1.7, 3e-6):
        acc = whole(rng, 500, low=-(2**20), high=2**20)
        assert multiply_fixed(acc, *shift_multiplier(real, bits), bits=bits, rounding=rounding).tolist() == [
            fixed(int(x), real, bits, rounding) for x in acc
        ]


def test_rounding_twice_is_not_rounding_once():
    """3 * 0.16 = 0.48: to 1.92 / 4, then to 2 / 4 = 1/2, then to 1."""
    acc = np.array([3, -3])
    expected = {"double": [1, -1], "double-up": [1, 0], "single": [0, 0], "away": [0, 0], "floor": [0, -1]}
    for rounding, result in expected.items():
        assert requantise_fixed(acc, 0.16, 0, -128, 127, rounding=rounding).tolist() == result, rounding
    with pytest.raises(InputError, match="40 bits"):
        requantise_fixed(acc, 0.16, 0, -128, 127, bits=40)


def test_an_accumulator_shifted_left_saturates():
    assert multiply_fixed(np.array([2**30, -(2**30)]), *shift_multiplier(100.0)).tolist() == [
        fixed(2**31 - 1, 100.0 / 2**7, 31, "double"),
        fixed(-(2**31), 100.0 / 2**7, 31, "double"),
    ]


# Accumulators


def test_matrix_products_are_exact():
    rng = np.random.default_rng(3)
    a, b = whole(rng, 2, 5, 3000, low=0, high=255).astype(np.uint8), whole(rng, 3000, 4).astype(np.int8)
    rows, columns = whole(rng, 5, low=0, high=255), whole(rng, 4)
    exact = (a.astype(object) - rows[:, None].astype(object)) @ (b.astype(object) - columns.astype(object))
    for kind in (np.int64, np.float64):
        assert (matmul_integer(a.astype(kind), b.astype(kind), rows, columns) == exact).all()
    assert (matmul_integer(a, b, rows, columns) == exact).all()
    assert (matmul_integer(a, b, 7) == (a.astype(int) - 7) @ b.astype(int)).all()
    with pytest.raises(InputError, match="might reach 2"):
        matmul_integer(np.full((1, 4), 2.0**26), np.full((4, 1), 2.0**25))


def test_wrapped_and_saturated_accumulators():
    x = np.array([-(2**15) - 1, -(2**15), 2**15 - 1, 2**15, 3 * 2**15, 2**40 + 5])
    assert wrap(x, 16).tolist() == [2**15 - 1, -(2**15), 2**15 - 1, -(2**15), -(2**15), 5]
    assert saturate(x, 16).tolist() == [-(2**15), -(2**15), 2**15 - 1, 2**15 - 1, 2**15 - 1, 2**15 - 1]
    assert wrap(np.array([2**31, -(2**31) - 1]), 32).tolist() == [-(2**31), 2**31 - 1]


def one_by_one(a, b, overflow, bias):
    """An accumulator of so many bits, one product (or pair) after another, over Python's integers."""
    kind, bits = overflow.rstrip("0123456789"), int(overflow.lstrip("abcdefghijklmnopqrstuvwxyz"))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    total = max(low, min(high, bias)) if kind == "saturate" else bias
    products = [x * y for x, y in zip(a, b, strict=True)]
    if kind == "pairs":
        return total + sum(max(low, min(high, sum(products[k : k + 2]))) for k in range(0, len(products), 2))
    for product in products:
        total += product
        total = max(low, min(high, total)) if kind == "saturate" else (total - low) % 2**bits + low
    return total


@pytest.mark.parametrize("overflow", ["wrap32", "wrap16", "saturate24", "saturate16", "saturate18", "pairs16", "pairs15"])
@pytest.mark.parametrize("k", [1, 8, 33])
def test_accumulators_too_narrow(overflow, k):
    rng = np.random.default_rng(4)
    a, b = whole(rng, 6, k, low=0, high=255), whole(rng, k, 5)
    bias = whole(rng, 5, low=-40_000, high=40_000)
    expected = [[one_by_one(a[i].tolist(), b[:, j].tolist(), overflow, int(bias[j])) for j in range(5)] for i in range(6)]
    assert accumulate(a, b, overflow, bias).tolist() == expected
    assert (accumulate(a[None], b, overflow, bias)[0] == expected).all()
    assert (accumulate(a, b, bias=bias) == a @ b + bias).all()
    if k == 33 and overflow in ("wrap16", "saturate16", "saturate18", "pairs16", "pairs15"):
        assert (a @ b + bias != expected).any()


def test_a_saturating_accumulator_depends_on_the_order():
    a, b = np.array([[200.0, 200, 200]]), np.array([[127.0], [127], [-127]])
    assert accumulate(a, b, "saturate16").item() == 32767 - 25400
    assert accumulate(a, b[::-1], "saturate16").item() == 25400


@pytest.mark.parametrize("overflow", ["wrap", "saturate1", "clip16", "wrap64", "pairs 16", None])
def test_unknown_accumulators(overflow):
    with pytest.raises(InputError, match="is not one of exact, wrap<bits>"):
        accumulate(np.ones((1, 2)), np.ones((2, 1)), overflow)


# ONNX Runtime's own


def test_a_fused_multiply_add_rounds_once():
    rng = np.random.default_rng(5)
    a, b, c = (rng.normal(size=3000).astype(np.float32) * np.float32(2) ** rng.integers(-20, 20, 3000) for _ in range(3))
    c[:1000] = -(a[:1000] * b[:1000])  # only the product's own error is left
    c[1000:2000] = (np.rint(c[1000:2000]) + np.float32(2) ** 24).astype(np.float32)  # ties between float32 numbers
    a[1000:2000], b[1000:2000] = np.rint(a[1000:2000]), 0.5
    got = multiply_add(a, b, c)
    for x, y, z, result in zip(a.tolist(), b.tolist(), c.tolist(), got, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        error = abs(Fraction(float(result)) - exact)
        for other in (np.nextafter(result, np.float32(np.inf)), np.nextafter(result, np.float32(-np.inf))):
            other_error = abs(Fraction(float(other)) - exact)
            assert error < other_error or (error == other_error and result.view(np.uint32) % 2 == 0)


def test_a_fused_multiply_add_next_to_a_tie():
    """2**24 + 3 - 2**-46: float64 makes the tie 2**24 + 3 of it, which would then go to 2**24 + 4."""
    step = np.float32(2.0**-23)
    assert multiply_add(1 + step, 1 - step, np.float32(2**24 + 2)) == 2**24 + 2
    assert multiply_add(1 + step, step - 1, np.float32(-(2**24) - 2)) == -(2**24) - 2


@pytest.mark.parametrize("n", [1, 2, 197])
def test_softmax_onnx_is_the_rounded_softmax(n):
    rng = np.random.default_rng(6)
    q = whole(rng, 50, n, low=0, high=255)
    e = np.exp((q - q.max(axis=-1, keepdims=True)) * np.float64(np.float32(0.03)))
    exact = 256 * e / e.sum(axis=-1, keepdims=True)
    assert (softmax_onnx(q, 0.03) == np.minimum(np.rint(exact), 255)).all()
    assert (softmax_onnx(q, 0.03) == softmax_onnx(q.T, 0.03, axis=0).T).all()
    assert (softmax_onnx(q - 128, 0.03, zero_y=-128, low=-128, high=127) == softmax_onnx(q, 0.03) - 128).all()


def test_logarithm():
    for x in (1.0, 2.0, 3.7, 1e10, 3.4e38):
        assert integers.logarithm(x) == pytest.approx(math.log(x), rel=1e-15, abs=1e-15)


# LiteRT


@pytest.mark.parametrize(
    "numerics, expected",
    [("reference", [-3, -2, -1, 1, 2, 3]), ("ruy", [-2, -1, 0, 1, 2, 3]), ("xnnpack", [-2, -2, 0, 0, 2, 2])],
)
def test_litert_at_ties(numerics, expected):
    acc = np.array([-5, -3, -1, 1, 3, 5])
    assert litert.fully_connected(acc, 1, 1, 2, 0, numerics=numerics).tolist() == expected
    even = [-2, -2, 0, 0, 2, 2]
    assert litert.quantise(np.array(TIES), 1, 0, numerics).tolist() == (expected if numerics == "reference" else even)
    # a product of a half in fixed point is shifted once, and that rounds up
    up = [-2, -1, 0, 1, 2, 3]
    assert litert.batch_matmul(acc, 1, 1, 1, 2, 0, numerics=numerics).tolist() == up
    # where b's zero point is 0, XNNPACK takes it over
    assert litert.batch_matmul(acc, 1, 1, 0, 2, 0, numerics=numerics).tolist() == (even if numerics == "xnnpack" else up)
    # two roundings: 2 * 0.16 = 0.32 to 1.28 / 4, then to 1 / 4; but 3 * 0.16 = 0.48 to 1.92 / 4, then to 2 / 4
    assert litert.batch_matmul([2, 3, -3], 0.4, 0.4, 1, 1, 0, numerics=numerics).tolist() == [0, 1, -1]
    away = [-3, -2, -1, 1, 2, 3]
    added = litert.add(acc, 0 * acc, 1, 0, 1, 0, 2, 0, numerics=numerics)
    assert added.tolist() == (up if numerics == "xnnpack" else away)


@pytest.mark.parametrize("numerics", litert.NUMERICS)
def test_litert_is_near_the_real_numbers(numerics):
    """Each operation within one code of its real result: no scale or zero point taken wrongly."""
    rng = np.random.default_rng(7)
    a, b = whole(rng, 40, 60), whole(rng, 40, 60)
    real_a, real_b = (a - 5) * 0.04, (b + 9) * 0.07

    def codes(real, scale, zero):
        return np.clip(real / scale + zero, -128, 127)

    added = litert.add(a, b, 0.04, 5, 0.07, -9, 0.11, 3, numerics=numerics)
    assert np.abs(added - codes(real_a + real_b, 0.11, 3)).max() <= 0.51
    mean = litert.mean(a, 0, 0.04, 5, 0.02, -7, numerics=numerics)
    assert mean.shape == (60,) and np.abs(mean - codes(real_a.mean(axis=0), 0.02, -7)).max() <= 0.6
    assert litert.mean(a, (0, 1), 0.04, 5, 0.02, -7, numerics=numerics, keepdims=True).shape == (1, 1)
    acc = matmul_integer(a, b.T, 5, -9)
    for product in (
        litert.fully_connected(acc, 0.04, 0.07, 0.4, 11, numerics=numerics),
        litert.batch_matmul(acc, 0.04, 0.07, -9, 0.4, 11, numerics=numerics),
    ):
        assert np.abs(product - codes(real_a @ real_b.T, 0.4, 11)).max() <= 0.51
    for approximate in (False, True):
        gelu = litert.gelu(b, 0.07, -9, 0.06, -90, approximate=approximate, numerics=numerics)
        exact = real_b * (1 + np.vectorize(math.erf)(real_b / math.sqrt(2))) / 2
        assert np.abs(gelu - codes(exact, 0.06, -90)).max() <= 0.51
    softmax = litert.softmax(b, 0.07, numerics=numerics)
    e = np.exp(real_b - real_b.max(axis=-1, keepdims=True))
    assert np.abs(softmax - codes(e / e.sum(axis=-1, keepdims=True), 1 / 256, -128)).max() <= 0.51
    assert (litert.softmax(b, 0.035, beta=2, numerics=numerics) == softmax).all()
    x = rng.normal(size=(30, 30)) * 5
    assert np.abs(litert.quantise(x, 0.05, 4, numerics) - codes(x, 0.05, 4)).max() <= 0.51


@pytest.mark.parametrize("numerics", litert.NUMERICS)
def test_litert_quantises_what_is_no_number(numerics):
    x = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38], np.float32)
    assert litert.quantise(x, 0.01, 3, numerics).tolist() == [-128, 127, -128, 127, -128]


def test_litert_weights_and_biases():
    rng = np.random.default_rng(8)
    weight = rng.normal(size=(20, 6)).astype(np.float32)
    weight[:, 2] = 0
    q, scale = litert.quantise_weight(weight)
    assert scale.dtype == np.float32 and scale.shape == (6,)
    assert np.abs(q).max(axis=0).tolist() == [127, 127, 0, 127, 127, 127]
    assert (np.abs(q * scale - weight) <= 0.5001 * scale).all()
    bias, scale_b = litert.quantise_bias([1.0, -2.5, 0.75, 1e30, -1e30, 0.0], 0.5, np.float32([2, 2, 0.5, 1, 1, 1]))
    assert bias.tolist() == [1, -3, 3, 2**31 - 1, -(2**31), 0] and scale_b.tolist() == [1, 1, 0.25, 0.5, 0.5, 0.5]


def test_litert_softmax_leaves_out_what_is_far_below():
    """In fixed point the argument of exp has five integer bits: from -31 on, nothing is added."""
    q = np.array([[127, 127 - 10, 127 - 30, 127 - 31, -128]])
    assert litert.softmax(q, 1.0).tolist() == [[127, -128, -128, -128, -128]]
    assert litert.softmax(np.zeros((1, 256)), 0.1).tolist() == [[-127] * 256]


def test_unknown_numerics():
    with pytest.raises(InputError, match="numerics 'fast' is not one of reference, ruy, xnnpack"):
        litert.softmax(np.zeros((1, 2)), 0.1, numerics="fast")


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.float32, np.float64])
def test_integers_of_any_type(kind):
    """Whole numbers in, whole numbers in float64 out."""
    q = whole(np.random.default_rng(9), 8, 8)
    for function in (
        lambda q: requantise(q, 0.37, 1, -128, 127),
        lambda q: requantise_fixed(q, 0.37, 1, -128, 127),
        lambda q: requantise_onnx(q, 0.37, 1, 1, 1, -128, 127),
        lambda q: matmul_integer(q, q, 3, 4),
        lambda q: accumulate(q, q, "saturate16"),
        lambda q: integers.add_onnx(q, q, 0.1, 3, 0.2, 4, 0.3, 5, -128, 127),
        lambda q: softmax_onnx(q, 0.1),
        lambda q: litert.fully_connected(q, 0.37, 1, 1, 1),
        lambda q: litert.batch_matmul(q, 0.37, 1, 0, 1, 1),
        lambda q: litert.add(q, q, 0.1, 3, 0.2, 4, 0.3, 5),
        lambda q: litert.mean(q, 1, 0.1, 3, 0.2, 4),
        lambda q: litert.softmax(q, 0.1),
        lambda q: litert.gelu(q, 0.1, 3, 0.1, 4),
    ):
        result = function(q.astype(kind))
        assert result.dtype == np.float64 and (result == np.rint(result)).all() and (result == function(q)).all()
