"""Real numbers without rounding, and one rounding at the end: to the nearest number of a float format, ties to even.

Sums, products and quotients are exact (fractions.Fraction). Roots, exponentials and the normal distribution have DIGITS right
digits, in Python's decimal arithmetic, which is the same on every machine; `settled` rounds what comes of them and sees to it
that further digits could not make it another number.
"""

import decimal
import functools
import math
import sys
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from ..errors import InvariantError, check_known
from .formats import FLOATS

DIGITS = 80  # of roots and exponentials
DOUBT = Fraction(1, 10**60)  # what their errors may have grown to, in units of the largest number in between
LEAST = -5000  # exp of less is only known to be tiny
TINY = Fraction(1, 2**7000)  # in its place: rounded to any format it is zero


class Shape(NamedTuple):
    """A float format: how many bits follow the leading one, the exponent of its smallest number, its largest number."""

    mantissa: int
    lowest: int
    largest: Fraction


SHAPES = {
    "float64": Shape(52, -1074, Fraction(sys.float_info.max)),
    **{
        name: Shape(f.mantissa, 1 - f.bias - f.mantissa, Fraction(f.largest))
        for name, f in FLOATS.items()
        if f.overflow == "infinite"
    },
}
"""The formats that have an infinity, by name."""


def rounded(x: Fraction, format: str) -> float:
    """x as the nearest number of a format, ties to even; infinite where it is too large. Zero has no sign."""
    check_known("format", format, SHAPES)
    shape = SHAPES[format]
    unit = max(magnitude(x) - shape.mantissa, shape.lowest)
    top, bottom = abs(x.numerator) << max(-unit, 0), x.denominator << max(unit, 0)
    whole, rest = divmod(top, bottom)
    whole += 2 * rest > bottom or (2 * rest == bottom and whole % 2)
    too_large = whole.bit_length() + unit > magnitude(shape.largest) + 1
    return math.copysign(math.inf if too_large else math.ldexp(whole, unit), -1 if x < 0 else 1)


def settled(x: Fraction, format: str, largest: Fraction) -> float:
    """`rounded`, of an x that may be off by DOUBT times `largest`. Raises InvariantError where that leaves two numbers."""
    result, doubt = rounded(x, format), DOUBT * largest
    if not rounded(x - doubt, format) == result == rounded(x + doubt, format):
        raise InvariantError(f"{DIGITS} digits do not settle how a result is rounded to {format}")
    return result


def ulp(x: Fraction, format: str) -> float:
    """One unit in the last place of a number as large as x: the distance between neighbours there."""
    shape = SHAPES[format]
    return math.ldexp(1.0, max(min(magnitude(x), magnitude(shape.largest)) - shape.mantissa, shape.lowest))


def magnitude(x: Fraction) -> int:
    """The exponent e of 2**e <= |x| < 2**(e + 1); of zero a very low one."""
    if x == 0:
        return -(10**6)
    top, bottom = abs(x.numerator), x.denominator
    e = top.bit_length() - bottom.bit_length()
    larger = top << max(-e, 0) >= bottom << max(e, 0)
    return e if larger else e - 1


def context(digits: int = DIGITS) -> decimal.Context:
    """Of our own: whatever the user's has, nothing traps or is cut off."""
    return decimal.Context(
        prec=digits, rounding=decimal.ROUND_HALF_EVEN, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[]
    )


def as_decimal(x: Fraction, digits: int = DIGITS) -> Decimal:
    own = context(digits)
    return own.divide(Decimal(x.numerator), Decimal(x.denominator))


# Functions


def root(x: Fraction) -> Fraction:
    """The square root; exact where it is rational."""
    top, bottom = math.isqrt(x.numerator), math.isqrt(x.denominator)
    if top * top == x.numerator and bottom * bottom == x.denominator:
        return Fraction(top, bottom)
    return Fraction(context().sqrt(as_decimal(x, DIGITS + 5)))


def exp(x: Fraction) -> Fraction:
    """e**x, for x of at most some thousand; below LEAST it is TINY."""
    if x < LEAST:
        return TINY
    return Fraction(1) if x == 0 else Fraction(context().exp(as_decimal(x, DIGITS + 5)))


def sigmoid(x: Fraction) -> Fraction:
    """1 / (1 + exp(-x))."""
    e = exp(-abs(x))
    return 1 / (1 + e) if x > 0 else e / (1 + e)


def normal(x: Fraction) -> Fraction:
    """The normal distribution, (1 + erf(x / sqrt(2))) / 2, with DIGITS right digits also where it is small."""
    if x > 0:
        return 1 - normal(-x)
    if x < -45:  # below 10**-440: zero in every format, times x too
        return TINY
    lost = int(x * x / Fraction(23, 10)) + 1  # digits in which the sum and 1/2 agree, and some more
    own = context(DIGITS + 10 + lost)
    size = as_decimal(-x, own.prec)
    square = own.multiply(size, size)
    term, total, n = size, size, 1
    while term and term.adjusted() > total.adjusted() - own.prec - 2:  # x + x^3/3 + x^5/15 + ...: all positive
        n += 2
        term = own.divide(own.multiply(term, square), Decimal(n))
        total = own.add(total, term)
    density = own.divide(own.exp(own.divide(square, Decimal(-2))), own.sqrt(own.multiply(Decimal(2), pi(own.prec))))
    return Fraction(own.subtract(Decimal("0.5"), own.multiply(density, total)))


@functools.cache
def pi(digits: int = DIGITS + 5) -> Decimal:
    """Machin's formula: 16 arctan(1/5) - 4 arctan(1/239)."""
    one = 10 ** (digits + 10)

    def arctan_of_one_over(n: int) -> int:
        power, total, k = one // n, 0, 0
        while power:
            total += (-1) ** k * (power // (2 * k + 1))
            power //= n * n
            k += 1
        return total

    scaled = 16 * arctan_of_one_over(5) - 4 * arctan_of_one_over(239)
    return context(digits).divide(Decimal(scaled), Decimal(one))
