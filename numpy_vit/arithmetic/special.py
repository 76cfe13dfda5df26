"""erf and GELU for whole arrays: NumPy has no erf, and a Python loop over `math.erf` is fifty times slower.

    GELU(x) = x * Phi(x),   Phi(x) = (1 + erf(x / sqrt(2))) / 2        (Hendrycks and Gimpel, arXiv 1606.08415)

float64: within 4 ulp of the true value for every x, in the far negative tail too, where 1 + erf loses all its digits.
float32: within 4 ulp of |x| (GELU) and of 1 (erf; 5 where NumPy's tanh is the C library's, before AVX2). Tested against
multiple-precision values; the coefficients come from tests/make_special_coefficients.py.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .primitives import TO_FAST_POWER, fast_power

Array = Any

# x * (1 - Phi(x)) = exp(-x*x/2) * X_TIMES_SCALED_TAIL(t), t = (x - 5) / (x + 5): Chebyshev interpolation on -1..1.
X_TIMES_SCALED_TAIL = (
    0.3845965248750315, 0.051905273430003056, -0.08503844346004043, 0.0908862296493444, -0.07425639525043792,
    0.0479508637317603, -0.024161785953868833, 0.008900845018786232, -0.0018956230747178054, -0.00012648519925342102,
    0.00024276158507853765, -5.456912582803063e-05, -1.6540364412395653e-05, 1.0330702817560144e-05,
    6.043721193836614e-07, -1.5526229932881276e-06, 5.130654482719013e-08, 2.382892905009105e-07,
    -1.576598124450719e-08, -3.962307367178227e-08, 1.994238876850035e-09, 6.996023872659346e-09,
    -2.361669001140417e-11, -1.2011027613408323e-09, -4.638632945216023e-11, 1.6839045764698787e-10,
    7.164872746962889e-12, -1.344885986127377e-11,
)  # fmt: skip

# erf(x) = x * ERF_NEAR_ZERO(x*x) for |x| <= 1: Chebyshev interpolation on 0..1.
ERF_NEAR_ZERO = (
    1.1283791670955126, -0.37612638903183754, 0.11283791670955126, -0.026866170645131218, 0.005223977625441678,
    -0.0008548327023403335, 0.00012055332978896794, -1.4925650237575669e-05, 1.6462110796906402e-06,
    -1.636576890552566e-07, 1.4806030251337853e-08, -1.2277760280084826e-09, 9.323863617962225e-11,
    -6.197184508840852e-12, 2.807352617647703e-13,
)  # fmt: skip

# float32: erf(x) = tanh(x * ERF_AS_TANH(x*x)) with a relative error below 1e-7. The polynomial grows beyond its fit
# (|x| > 3.92), so that tanh saturates to 1 as it must.
ERF_AS_TANH = (
    1.1283792743127914, 0.10276905574024961, -0.00019183069874350645, -0.0006197847363865146, 8.763735252093397e-05,
    -5.668479143496388e-06, 1.418523970355535e-07,
)  # fmt: skip

# The same for GELU: exp(-2 u) = fast_power(x * GELU_AS_SIGMOID(x*x)), where erf(x / sqrt(2)) = tanh(u).
GELU_AS_SIGMOID = tuple(-math.sqrt(2) * TO_FAST_POWER * c / 2**n for n, c in enumerate(ERF_AS_TANH))


def erf(x: Array, out: Array | None = None) -> Array:
    """The error function, elementwise. x any shape, float32 or float64 -> the same."""
    return of_dtype(x, _erf_float32, _erf_float64, out)


def gelu(x: Array, out: Array | None = None) -> Array:
    """x * Phi(x), elementwise: the exact GELU, not the tanh approximation. x any shape -> the same."""
    return of_dtype(x, _gelu_float32, _gelu_float64, out)


def of_dtype(
    x: Array, float32: Callable[[Array, Array | None], Array], float64: Callable[[Array], Array], out: Array | None
) -> Array:
    """The one of two functions that is made for x, of x; the first writes into `out`, where that is given."""
    dtype = getattr(x, "dtype", None)
    if dtype not in (np.dtype("float32"), np.dtype("float64")):
        raise TypeError(f"an array of float32 or float64 is expected, not {dtype or type(x).__name__}")
    # Far tails overflow x * x or underflow exp: the limits they give (1, 0) are the right ones.
    with np.errstate(over="ignore", under="ignore"):
        return float32(x, out) if dtype == np.float32 else float64(x)


def _polynomial(coefficients: Sequence[float], t: Array) -> Array:
    """Horner's rule, lowest degree first in `coefficients`."""
    result = t * coefficients[-1]
    for coefficient in reversed(coefficients[1:-1]):
        result += coefficient
        result *= t
    result += coefficients[0]
    return result


def _erf_float32(x: Array, out: Array | None) -> Array:
    return np.tanh(x * _polynomial(ERF_AS_TANH, x * x), out=out)


def _gelu_float32(x: Array, out: Array | None) -> Array:
    """x (1 + tanh(u)) / 2 = x / (1 + exp(-2 u)): two passes fewer, and the negative tail keeps its digits."""
    minus_two_u = _polynomial(GELU_AS_SIGMOID, x * x)
    minus_two_u *= x
    e = fast_power(minus_two_u, out=minus_two_u)
    e += 1
    return np.divide(x, e, out=out)


def _erf_float64(x: Array) -> Array:
    size = np.abs(x)
    near_zero = x * _polynomial(ERF_NEAR_ZERO, np.minimum(size, 1.0) ** 2)
    scaled = np.maximum(size, 1.0) * math.sqrt(2)
    far = np.copysign(1 - 2 * _x_times_tail(scaled) / scaled, x)
    return np.where(size <= 1, near_zero, far)


def _gelu_float64(x: Array) -> Array:
    size = np.abs(x)
    half_erf = math.sqrt(0.125) * size * _polynomial(ERF_NEAR_ZERO, np.minimum(size, 1.0) ** 2 / 2)
    near_zero = x * (0.5 + np.copysign(half_erf, x))
    far = np.maximum(x, 0) - _x_times_tail(np.maximum(size, 1.0))
    return np.where(size <= 1, near_zero, far)


def _x_times_tail(x: Array) -> Array:
    """x * (1 - Phi(x)) for x >= 1, float64, within 3 ulp of it however small it is.

    exp(-x*x/2) is the hard part: rounding x*x costs up to 700 ulp at x = 38. So x = high + low with `high` of few
    bits: high*high is exact, and x*x = high*high + low * (x + high).
    """
    x = np.minimum(x, 60.0)  # the tail is 0 in float64 from 38.6 on
    high = np.rint(x * 2.0**20) * 2.0**-20
    bell = np.exp(-0.5 * high * high)
    bell += bell * np.expm1(-0.5 * (x - high) * (x + high))
    return bell * _polynomial(X_TIMES_SCALED_TAIL, (x - 5) / (x + 5))
