"""Arithmetic that gives the same bits on every machine, BLAS, thread count, NumPy and Python version.

What differs between machines is the order of sums (in matrix products and reductions, and with it the rounding) and the
last digit of exp, tanh and their like. Here

- matrix products are exact in slices (`matmul`),
- sums are taken in one fixed order (`total`),
- exp, tanh, erf and the activations are built from +, -, x, / and exact scaling, which IEEE 754 fixes to the last bit.

`PortableArray` is an array that does its arithmetic this way; the forward pass runs on it as it is.
"""

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from .. import ops
from .double_double import Doubled, add, divide, multiply, polynomial, quick_two_sum, two_product, two_sum
from .parallel import THREADS, even_slices, parallel_for

Array = Any

# Coefficients as (high, low): tests/make_special_coefficients.py makes them.
# x * (1 - Phi(x)) = exp(-x*x/2) * X_TIMES_SCALED_TAIL(t), t = (x - 5) / (x + 5).
X_TIMES_SCALED_TAIL = (
    (0.3845965248750315, -7.055865894344171e-18),
    (0.051905273430003056, -1.9809632913468982e-18),
    (-0.08503844346004041, 5.118201627879247e-19),
    (0.09088622964934435, 3.3297062727406856e-18),
    (-0.07425639525043855, -2.329681893955475e-18),
    (0.047950863731761724, -1.327107036746987e-18),
    (-0.02416178595385239, -1.384008989993795e-18),
    (0.008900845018758452, 6.502651978933449e-19),
    (-0.001895623074941664, -4.028953783368237e-20),
    (-0.00012648519894551972, -5.229739743566967e-22),
    (0.00024276158691147843, 6.442114540051163e-21),
    (-5.456912797465548e-05, -8.227630549106308e-22),
    (-1.6540374185925647e-05, -1.5551558963011941e-21),
    (1.0330712834023043e-05, -3.267535795630906e-22),
    (6.044077486360173e-07, -2.7789209853370656e-23),
    (-1.5526554817014832e-06, -7.343021605712117e-23),
    (5.12150842491744e-08, 4.410899514965641e-25),
    (2.3836413390938914e-07, 1.84905569319753e-24),
    (-1.5597984752365815e-08, 1.160106915462644e-25),
    (-3.9746588895546335e-08, -3.0271673782721028e-24),
    (1.772269078604113e-09, 1.3898273288596298e-26),
    (7.141493663031215e-09, 1.8045224500451632e-25),
    (1.86446329062292e-10, -1.0567506811295506e-26),
    (-1.321127654732399e-09, -3.577450265802793e-26),
    (-1.869287330699819e-10, -8.503029975643689e-27),
    (2.350232711837921e-10, 2.011222373353396e-26),
    (7.237763599358094e-11, -2.640539654247359e-27),
    (-3.637068852709864e-11, 2.4273570061403558e-27),
    (-2.0656674869006185e-11, 5.313973534805259e-28),
    (3.9926491779887755e-12, 2.905853536890518e-29),
    (4.500378777086237e-12, 3.4790496731517494e-28),
    (-8.668108055153483e-14, -3.2974870353101915e-31),
    (-6.756856414109927e-13, -1.4518857873986367e-29),
    (-6.14338826777157e-14, -2.5473534597027792e-30),
    (5.186434386749059e-14, -1.0212468218668501e-30),
    (8.465843372152142e-15, -3.5167188800078933e-31),
)  # fmt: skip

# erf(x) = x * ERF_NEAR_ZERO(x*x) for |x| <= 1.
ERF_NEAR_ZERO = (
    (1.1283791670955126, 1.5335459613078238e-17),
    (-0.37612638903183754, 1.3391897262904463e-17),
    (0.11283791670955126, -4.017575295095068e-18),
    (-0.026866170645131252, 4.611909694150985e-19),
    (0.005223977625442188, -9.553585282216927e-20),
    (-0.0008548327023450852, 2.283199470512429e-20),
    (0.0001205533298178959, 1.4669159894211563e-21),
    (-1.4925650358401571e-05, -7.434313939194847e-22),
    (1.6462114365673988e-06, 2.183327515312577e-23),
    (-1.6365844683885654e-07, -9.660203430666456e-24),
    (1.4807192626844673e-08, 7.978700893844841e-25),
    (-1.2290551609951041e-09, 6.189938288425907e-26),
    (9.422704267698389e-11, -4.724829735504765e-27),
    (-6.710752524913363e-12, -3.4742615632861295e-28),
    (4.4581001707548777e-13, -2.4140139132884098e-29),
    (-2.7525832543622948e-14, -2.991091172695484e-31),
    (1.5054271221351994e-15, -6.66185841445691e-32),
    (-5.667649218969531e-17, 2.05110600382215e-33),
)  # fmt: skip


# Matrix products


def matmul(a: Array, b: Array, count: int = 3) -> Array:
    """a (..., m, k) @ b (..., k, n) with the same bits everywhere, to about one unit in the last place of the largest sum
    (with `count` = 3 slices; with fewer, to so many bits of the largest).

    Each row of a and each column of b is cut into slices of so few bits that a product of slices, summed over k, stays
    below 2**53: then every such sum is exact, in whatever order a BLAS takes it. The few exact products are added in a
    fixed order, smallest first. (Ozaki, Ogita, Oishi and Rump, "Error-free transformations of matrix multiplication",
    Numerical Algorithms 59, 2012.)
    """
    k, n = b.shape[-2:]
    bits = (53 - max(k - 1, 1).bit_length()) // 2  # so that k * 2**bits * 2**bits <= 2**53
    threads = THREADS.free(products=True)
    if b.ndim == 2:  # each column is for itself
        left = slices(a, axis=-1, bits=bits, count=count)
        out = np.empty((*a.shape[:-1], n))

        def some_columns(part: slice) -> None:
            out[..., part] = product_of(left, slices(b[:, part], axis=-2, bits=bits, count=count), bits, count)

        parallel_for(some_columns, even_slices(n, max(1, PANEL // k), threads))
        return out
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    several_a, several_b = (np.broadcast_to(x, leading + x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (a, b))
    out = np.empty((len(several_a), a.shape[-2], n))

    def some_matrices(part: slice) -> None:
        left = slices(several_a[part], axis=-1, bits=bits, count=count)
        out[part] = product_of(left, slices(several_b[part], axis=-2, bits=bits, count=count), bits, count)

    parallel_for(some_matrices, even_slices(len(out), max(1, PANEL // max(1, a.shape[-2] * n)), threads) if out.size else ())
    return out.reshape(*leading, *out.shape[1:])


Slices = tuple[list[Array], Array]
PANEL = 2**19  # numbers of an operand at a time: their slices stay in the cache


def product_of(left: Slices, right: Slices, bits: int, count: int) -> Array:
    """The product of two matrices in slices, up to those of order `count`; slices of nothing but zeros were left out."""
    (a, a_scale), (b, b_scale) = left, right
    result: Array = 0.0
    for order in reversed(range(count)):
        exact = [np.matmul(a[i], b[order - i]) for i in range(order + 1) if i < len(a) and order - i < len(b)]
        result = functools.reduce(np.add, exact, 0.0) + result * 2.0 ** -(bits + 1)
    if max(np.abs(a_scale).max(), np.abs(b_scale).max()) < 450:  # then no product is too small or too large to be exact
        return result * np.ldexp(1.0, a_scale) * np.ldexp(1.0, b_scale)
    return np.ldexp(result, a_scale + b_scale)


def slices(x: Array, axis: int, bits: int, count: int) -> tuple[list[Array], Array]:
    """x as a sum of slices of whole numbers, none above 2**bits, each slice 2**(bits + 1) finer than the last: `count` of them,
    or fewer where nothing is left.

    Returns the slices and the exponents (one for each row, or column) by which their sum is to be scaled.
    """
    largest = np.maximum(x.max(axis=axis, keepdims=True), -x.min(axis=axis, keepdims=True))
    exponent = np.frexp(largest)[1] - bits  # x < 2**(exponent + bits)
    small = np.abs(exponent) < 1000
    rest = x * np.ldexp(1.0, -exponent) if small.all() else np.ldexp(x, -exponent)  # exact either way; a product is faster
    parts = [np.rint(rest)]
    while len(parts) < count:
        rest -= parts[-1]
        if not rest.any():
            break
        rest *= 2.0 ** (bits + 1)
        parts.append(np.rint(rest))
    return parts, exponent


def total(x: Array, axis: int = -1) -> Array:
    """The sum along an axis, in one fixed order: the second half is added to the first until one is left."""
    x = np.moveaxis(x, axis, 0)
    while len(x) > 1:
        half = (len(x) + 1) // 2
        folded = x[:half].copy()
        folded[: len(x) - half] += x[half:]
        x = folded
    return x[0]


# exp and what is built on it


@functools.cache
def powers_of_two(steps: int = 64) -> tuple[Array, Array]:
    """2**(j / steps) for j = 0 .. steps - 1, as (high, low), from exact integers."""
    one = 1 << 400
    root = 2 * one
    for _ in range(steps.bit_length() - 1):
        root = math.isqrt(root * one)
    value, pairs = one, []
    for _ in range(steps):
        high = value / one  # Python's division of integers is correctly rounded
        pairs.append((high, float(Fraction(value, one) - Fraction(high))))
        value = value * root // one
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])


@functools.cache
def log_of_two(steps: int = 64) -> tuple[float, float, float]:
    """ln(2) / steps in three parts; the first has 32 bits, so that its product with a small whole number is exact."""
    # ln 2 = 2 artanh(1/3) = 2 sum of (1/3)**(2n + 1) / (2n + 1)
    value = sum(Fraction(2, (2 * n + 1) * 3 ** (2 * n + 1)) for n in range(80)) / steps
    first = Fraction(round(value * 2**38), 2**38)
    second = float(value - first)
    return float(first), second, float(value - first - Fraction(second))


def exp_parts(x: Doubled) -> tuple[Doubled, Array, Array]:
    """exp(x) as (1 + p) * t * 2**k: returns p (doubled), j and k, where t = 2**(j / 64). |x| < 100,000."""
    first, second, third = log_of_two()
    n = np.rint(x[0] / (first + second))
    product = two_product(n, np.full_like(n, second))
    high, low = two_sum(x[0] - n * first, -product[0])  # the first difference is exact
    r = quick_two_sum(high, low - product[1] - n * third + x[1])
    # exp(r) - 1 = r + r*r/2 + ..., |r| < 0.0055: from r*r on plain float64 is good enough
    tail = r[0] * r[0] * (1 / 2 + r[0] * (1 / 6 + r[0] * (1 / 24 + r[0] * (1 / 120 + r[0] * (1 / 720)))))
    p = quick_two_sum(r[0], r[1] + tail + r[0] * r[1])
    whole = n.astype(np.int64)
    return p, whole & 63, whole >> 6


def exp_doubled(x: Doubled) -> tuple[Doubled, Array]:
    """exp(x) = m * 2**k: m (doubled, 1 to 2) and k."""
    p, j, k = exp_parts(x)
    return grown(p, j), k


def grown(p: Doubled, j: Array) -> Doubled:
    """(1 + p) * 2**(j / 64)."""
    high, low = powers_of_two()
    t = high[j], low[j]
    return add(t, multiply(t, p))


def plain(x: Array) -> Doubled:
    return x, 0.0 * x


def scaled(x: Doubled, k: Array) -> Array:
    """x * 2**k, rounded to float64 once (twice where the result is below 1e-308)."""
    return np.ldexp(x[0] + x[1], k)


def exp(x: Array) -> Array:
    """e to the x."""
    m, k = exp_doubled(plain(np.clip(x, -800.0, 800.0)))
    return scaled(m, k)


def expm1_doubled(x: Array) -> Doubled:
    """exp(x) - 1 for |x| < 80, doubled, without losing digits near 0."""
    p, j, k = exp_parts(plain(x))
    m = grown(p, j)
    unscaled = (j == 0) & (k == 0)
    less_one = add((np.ldexp(m[0], k), np.ldexp(m[1], k)), (-1.0 + 0.0 * x, 0.0 * x))
    return np.where(unscaled, p[0], less_one[0]), np.where(unscaled, p[1], less_one[1])


def tanh(x: Array) -> Array:
    """(e**2x - 1) / (e**2x + 1), from |x|; 1 from 20 on."""
    size = np.minimum(np.abs(x), 20.0)
    e = expm1_doubled(2 * size)
    high, low = divide(e, add(e, (2.0 + 0.0 * size, 0.0 * size)))
    return np.copysign(high + low, x)


def times_sigmoid(x: Array, u: Doubled) -> Array:
    """x / (1 + exp(-u)): SiLU with u = x, and its relatives."""
    clipped = np.clip(u[0], -1600.0, 1600.0)  # exp(-1600) makes zero even of the largest x
    m, k = exp_doubled((-clipped, np.where(clipped == u[0], -u[1], 0.0)))
    # 1 + m * 2**k, as m + 2**-k times 2**k where exp(-u) is large: no overflow
    large = np.maximum(k, 0)
    one = np.ldexp(1.0, -large)
    smaller = np.minimum(k, 0)
    high, low = add((np.ldexp(m[0], smaller), np.ldexp(m[1], smaller)), plain(one))
    shift = np.where(np.abs(x) > 2.0**900, 128, 0)  # exact products would overflow
    return scaled(divide(plain(np.ldexp(x, -shift)), (high, low)), shift - large)


def gelu_tanh(x: Array) -> Array:
    """0.5 x (1 + tanh(u)) = x sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x**3)."""
    bounded = np.clip(x, -1e3, 1e3)
    square = two_product(bounded, bounded)
    inner = add(multiply(square, constant(Fraction(44715, 10**6), x)), constant(Fraction(1), x))
    return times_sigmoid(x, multiply(multiply(inner, plain(bounded)), constant(twice_root_two_over_pi(), x)))


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x)."""
    return times_sigmoid(x, multiply(plain(np.clip(x, -1e3, 1e3)), constant(Fraction(1702, 1000), x)))


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    return times_sigmoid(x, plain(x))


@functools.cache
def twice_root_two_over_pi() -> Fraction:
    """2 sqrt(2 / pi), from Machin's pi = 16 artan(1/5) - 4 artan(1/239)."""

    def arctangent(n: int) -> Fraction:
        return sum((Fraction((-1) ** i, (2 * i + 1) * n ** (2 * i + 1)) for i in range(60)), Fraction(0))

    eight_over_pi = 8 / (16 * arctangent(5) - 4 * arctangent(239))
    return Fraction(math.isqrt(int(eight_over_pi * 2**400)), 2**200)


def constant(value: Fraction, like: Array) -> Doubled:
    """An exact number as a doubled array of the shape of `like`."""
    high = float(value)
    return np.full_like(like, high), np.full_like(like, float(value - Fraction(high)))


# erf and GELU


def tail_doubled(x: Doubled, half_square: Doubled) -> tuple[Doubled, Array]:
    """x * (1 - Phi(x)) for x >= 1 as m * 2**k; half_square is x*x/2."""
    five = constant(Fraction(5), x[0])
    t = divide(add(x, (-five[0], -five[1])), add(x, five))
    m, k = exp_doubled((-half_square[0], -half_square[1]))
    return multiply(m, polynomial(X_TIMES_SCALED_TAIL, t, doubled=12)), k


def by_size(x: Array, near: Callable[[Array], Array], far: Callable[[Array], Array]) -> Array:
    """near(x) where |x| <= 1, else far(x): each of those numbers alone."""
    small = np.abs(x) <= 1
    if small.all():
        return near(x)
    out = np.empty_like(x)
    out[small] = near(x[small])
    out[~small] = far(x[~small])  # NaN as well
    return out


def gelu(x: Array) -> Array:
    """x * Phi(x)."""
    return by_size(x, gelu_near_zero, gelu_far)


def gelu_near_zero(x: Array) -> Array:
    """|x| <= 1: x * (1/2 + x/sqrt(8) * E(x*x/2))."""
    square = two_product(x, x)
    series = polynomial(ERF_NEAR_ZERO, (square[0] / 2, square[1] / 2), doubled=6)
    half_erf = multiply(multiply(series, plain(x)), constant(Fraction(math.isqrt(2**400 // 8), 2**200), x))
    high, low = multiply(add(half_erf, constant(Fraction(1, 2), x)), plain(x))
    return high + low


def gelu_far(x: Array) -> Array:
    """|x| > 1: max(x, 0) - |x| (1 - Phi(|x|))."""
    far = np.minimum(np.abs(x), 40.0)
    square = two_product(far, far)
    m, k = tail_doubled(plain(far), (square[0] / 2, square[1] / 2))
    tail = np.where(x < 0, scaled(m, k), 0.0)
    positive = add(plain(np.maximum(x, 0.0)), (-np.ldexp(m[0], k), -np.ldexp(m[1], k)))
    return np.where(x < 0, -tail, positive[0] + positive[1])


def erf(x: Array) -> Array:
    """The error function."""
    return np.copysign(by_size(np.minimum(np.abs(x), 7.0), erf_near_zero, erf_far), x)  # from 6 on it rounds to 1


def erf_near_zero(x: Array) -> Array:
    """0 <= x <= 1."""
    high, low = multiply(polynomial(ERF_NEAR_ZERO, two_product(x, x), doubled=6), plain(x))
    return high + low


def erf_far(x: Array) -> Array:
    """x > 1: 1 - 2 (1 - Phi(sqrt(2) x))."""
    argument = multiply(plain(x), constant(Fraction(math.isqrt(2 * 2**400), 2**200), x))
    m, k = tail_doubled(argument, two_product(x, x))
    rest = divide((np.ldexp(2 * m[0], k), np.ldexp(2 * m[1], k)), argument)
    outer = add(constant(Fraction(1), x), (-rest[0], -rest[1]))
    return outer[0] + outer[1]


TILE = 32768  # numbers; with smaller tiles, and so shorter NumPy calls, threads get in each other's way


def in_tiles(function: Callable[[Array], Array], x: Array) -> Array:
    """Apply an elementwise function piece by piece: these need some fifty arrays of the size of their argument."""
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)

    def work(start: int) -> None:
        out[start : start + TILE] = function(flat[start : start + TILE])

    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        parallel_for(work, range(0, flat.size, TILE), products=False)
    return out.reshape(x.shape)


# The array

FUNCTIONS: dict[Any, Callable[[Array], Array]] = {np.exp: exp, np.tanh: tanh}
ACTIVATIONS: dict[Any, Callable[[Array], Array]] = {
    ops.erf: erf,
    ops.gelu: gelu,
    ops.gelu_tanh: gelu_tanh,
    ops.quick_gelu: quick_gelu,
    ops.silu: silu,
}
# Rounded alike everywhere by IEEE 754, or not rounded at all.
EXACT = {
    np.add, np.subtract, np.multiply, np.divide, np.sqrt, np.negative, np.absolute, np.maximum, np.minimum,
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.isfinite, np.isnan, np.isinf,
    np.logical_and, np.bitwise_and, np.rint, np.floor,
}  # fmt: skip


class PortableArray(np.ndarray):
    """A float64 array whose arithmetic gives the same bits everywhere; what cannot is refused with a TypeError.

    Make one with `array.view(PortableArray)`.
    """

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        arrays = [np.asarray(x) if isinstance(x, np.ndarray) else x for x in inputs]
        if method == "__call__" and ufunc is np.matmul:
            result = self.product(*arrays)
        elif method == "__call__" and ufunc in FUNCTIONS:
            result = self.elementwise(FUNCTIONS[ufunc], arrays[0])
        elif method == "__call__" and ufunc in EXACT:
            result = self.rounded(ufunc(*arrays, **kwargs))
        elif method == "reduce" and ufunc in (np.maximum, np.minimum, np.logical_and, np.logical_or):
            result = ufunc.reduce(*arrays, **kwargs)
        else:
            raise TypeError(f"{ufunc.__name__}.{method} is not portable arithmetic")
        if out is not None:
            out[0].view(np.ndarray)[...] = result
            return out[0]
        return result.view(type(self)) if isinstance(result, np.ndarray) else result

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(function, types, args, kwargs)
        return result.view(type(self)) if isinstance(result, np.ndarray) else result

    def sum(self, axis: int = -1, keepdims: bool = False) -> Any:  # type: ignore[override]
        result = self.rounded(total(np.asarray(self), axis))
        return (np.expand_dims(result, axis) if keepdims else result).view(type(self))

    def mean(self, axis: int = -1, keepdims: bool = False) -> Any:  # type: ignore[override]
        return self.sum(axis, keepdims) / self.shape[axis]

    # What numpy_vit.arithmetic.rounded does otherwise, to simulate narrower arithmetic.

    @classmethod
    def product(cls, a: Array, b: Array) -> Array:
        """a @ b."""
        return matmul(a, b)

    @classmethod
    def elementwise(cls, function: Callable[[Array], Array], x: Array) -> Array:
        """One of FUNCTIONS, of every number."""
        return in_tiles(function, x)

    @classmethod
    def rounded(cls, result: Array) -> Array:
        """What an operation's result is rounded to: float64 it is already."""
        return result


def of_every_number(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of float64 numbers, as the arrays of a kind compute it."""
    return lambda x: type(x).elementwise(function, np.asarray(x)).view(type(x))


ops.WAYS[PortableArray] = {operation: of_every_number(function) for operation, function in ACTIVATIONS.items()}
