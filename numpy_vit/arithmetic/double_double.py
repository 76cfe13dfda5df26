"""Numbers of twice the precision: each is a sum high + low of two float64, low at most half a unit in high's last place.

Built from IEEE +, -, x alone (Dekker 1971, Knuth), which every machine rounds alike; used where portable arithmetic needs a
function right to within one unit in the last place.
"""

from typing import Any

Array = Any
Doubled = tuple[Array, Array]
SPLITTER = 2.0**27 + 1


def two_sum(a: Array, b: Array) -> Doubled:
    """a + b without any error, as high + low (Knuth)."""
    high = a + b
    part = high - a
    return high, (a - (high - part)) + (b - part)


def quick_two_sum(a: Array, b: Array) -> Doubled:
    """The same where |a| >= |b| or a = 0 (Dekker)."""
    high = a + b
    return high, b - (high - a)


def split(a: Array) -> Doubled:
    """a as two halves of 26 bits, whose products are exact (Veltkamp)."""
    c = SPLITTER * a
    high = c - (c - a)
    return high, a - high


def two_product(a: Array, b: Array) -> Doubled:
    """a * b without any error, as high + low (Dekker). |a|, |b| < 2**995."""
    high = a * b
    a1, a2 = split(a)
    b1, b2 = split(b)
    return high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2


def add(x: Doubled, y: Doubled) -> Doubled:
    """x + y."""
    high, low = two_sum(x[0], y[0])
    return quick_two_sum(high, low + (x[1] + y[1]))


def multiply(x: Doubled, y: Doubled) -> Doubled:
    """x * y."""
    high, low = two_product(x[0], y[0])
    return quick_two_sum(high, low + (x[0] * y[1] + x[1] * y[0]))


def divide(x: Doubled, y: Doubled) -> Doubled:
    """x / y: a first quotient, then the quotient of what it leaves."""
    first = x[0] / y[0]
    product = multiply(y, (first, 0.0 * first))
    rest = (x[0] - product[0]) - product[1] + x[1]
    return quick_two_sum(first, rest / y[0])


def polynomial(coefficients: Any, x: Doubled, doubled: int) -> Doubled:
    """Horner's rule. coefficients: (high, low) pairs, lowest degree first; only the first `doubled` need the precision."""
    plain = 0.0 * x[0] + coefficients[-1][0]
    for high, _ in reversed(coefficients[doubled:-1]):
        plain = plain * x[0] + high
    result = (plain, 0.0 * plain)
    for pair in reversed(coefficients[:doubled]):
        result = add(multiply(result, x), pair)
    return result
