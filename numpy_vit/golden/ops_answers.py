"""The right answers of single operations: exact, and rounded once (numpy_vit.arithmetic.exact).

Every function takes a format and arrays of that format's numbers, held in float64, and gives two arrays of the result's shape
in float64: the right results, and the unit each is judged in. A unit is one ulp of the larger of the result and what it is a
sum of, all terms of one sign: what is lost where terms cancel is nobody's mistake. What a difference is the exponent of, or a
weight, counts likewise.
"""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from ..arithmetic.exact import exp, normal, pi, root, rounded, settled, sigmoid, ulp
from ..ops import patchify
from ..positions import CROPPED, RULES

Array = Any
Answers = tuple[Array, Array]

fractions: Any = np.frompyfunc(Fraction, 1, 1)
larger: Any = np.frompyfunc(max, 2, 1)
roots: Any = np.frompyfunc(root, 1, 1)


def exactly(format: str, y: Array, terms: Array) -> Answers:
    """Results that are rational, and the sums of their terms' sizes."""
    return each(lambda number: rounded(number, format), y), units(format, y, terms)


def nearly(format: str, y: Array, inexact: Array, terms: Array) -> Answers:
    """Results of which a part as large as `inexact` has only DIGITS right digits."""
    return each(lambda number, size: settled(number, format, size), y, abs(inexact)), units(format, y, terms)


def units(format: str, y: Array, terms: Array) -> Array:
    return each(lambda size: ulp(size, format), larger(abs(y), terms))


def each(function: Callable[..., float], *arrays: Array) -> Array:
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), np.float64)


# Pictures, matrices, norms


def patches(format: str, x: Array, *, patch: int) -> Answers:
    """Nothing is computed: every bit stays."""
    y = patchify.formula(x, patch)
    return y, each(lambda number: ulp(Fraction(number if np.isfinite(number) else 0), format), y)


def linear(format: str, x: Array, weight: Array, bias: Array) -> Answers:
    x, weight, bias = map(fractions, (x, weight, bias))
    return exactly(format, x @ weight + bias, abs(x) @ abs(weight) + abs(bias))


def layer_norm(format: str, x: Array, weight: Array, bias: Array, *, eps: float) -> Answers:
    x, weight, bias = map(fractions, (x, weight, bias))
    D = x.shape[-1]
    centred = x - x.sum(axis=-1, keepdims=True) / D
    spread = roots((centred * centred).sum(axis=-1, keepdims=True) / D + Fraction(eps))
    normed = centred / spread * weight
    terms = (abs(x) + abs(x).sum(axis=-1, keepdims=True) / D) / spread * abs(weight) + abs(bias)
    return nearly(format, normed + bias, normed, terms)


def rms_norm(format: str, x: Array, weight: Array, *, eps: float) -> Answers:
    x, weight = map(fractions, (x, weight))
    y = x / roots((x * x).sum(axis=-1, keepdims=True) / x.shape[-1] + Fraction(eps)) * weight
    return nearly(format, y, y, abs(y))


# Attention


def shares(scores: Array) -> Array:
    """Softmax of exact scores, -inf being a masked one -> exact but for the digits of exp."""
    largest = [max(score for score in row if score != -np.inf) for row in scores]
    e = np.array(
        [
            [Fraction(0) if score == -np.inf else exp(score - most) for score in row]
            for row, most in zip(scores, largest, strict=True)
        ],
        object,
    )
    return e / e.sum(axis=-1, keepdims=True)


def distances(scores: Array) -> Array:
    """How far each score lies below its row's largest, 1 at least: so many units an ulp of that difference makes of exp."""
    largest = np.array([[max(score for score in row if score != -np.inf)] for row in scores], object)
    finite = np.where(scores == -np.inf, largest, scores)
    return larger(Fraction(1), largest - finite)


def softmax(format: str, x: Array) -> Answers:
    exact = np.frompyfunc(lambda number: number if number == -np.inf else Fraction(number), 1, 1)(x)
    y = shares(exact)
    return nearly(format, y, y, y * distances(exact))


def attention(format: str, query: Array, key: Array, value: Array) -> Answers:
    query, key, value = map(fractions, (query, key, value))
    scale = 1 / root(Fraction(query.shape[-1]))
    probs = shares(query @ key.T * scale)
    sums = (abs(query) @ abs(key).T * scale).max(axis=-1, keepdims=True)  # an ulp of these is what a score may be off
    sizes = probs @ abs(value)
    return nearly(format, probs @ value, sizes, sizes * larger(Fraction(1), sums))


def rotation(format: str, x: Array, cos: Array, sin: Array, *, pairs: str) -> Answers:
    x, cos, sin = map(fractions, (x, cos, sin))
    if pairs == "neighbours":
        turned = np.stack([-x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
    else:
        half = x.shape[-1] // 2
        turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return exactly(format, x * cos + turned * sin, abs(x * cos) + abs(turned * sin))


# Activations


def elementwise(function: Callable[[Fraction], tuple[Fraction, Fraction]]) -> Callable[..., Answers]:
    """From a function of one number: its result, and what that is a sum of. Zero keeps its sign; NaN stays, and infinity."""

    def compute(format: str, x: Array) -> Answers:
        results: list[tuple[float, float]] = []
        for number in x.ravel().tolist():
            if number == 0 or not np.isfinite(number):
                results.append((number, ulp(Fraction(0), format)))
            else:
                y, terms = function(Fraction(number))
                size = max(abs(y), abs(terms))
                results.append((np.copysign(settled(y, format, abs(y)), number), ulp(size, format)))
        y, unit = np.array(results, np.float64).T
        return y.reshape(x.shape), unit.reshape(x.shape)

    return compute


def gelu(x: Fraction) -> tuple[Fraction, Fraction]:
    return x * normal(x), x / 2


def gelu_tanh(x: Fraction) -> tuple[Fraction, Fraction]:
    u = root_of_two_over_pi() * (x + Fraction("0.044715") * x**3)
    return x * sigmoid(2 * u), x / 2


@functools.cache
def root_of_two_over_pi() -> Fraction:
    return root(2 / Fraction(pi()))


def swish(factor: Fraction) -> Callable[[Fraction], tuple[Fraction, Fraction]]:
    """x sigmoid(factor x)."""

    def function(x: Fraction) -> tuple[Fraction, Fraction]:
        y = x * sigmoid(factor * x)
        return y, y * max(Fraction(1), abs(factor * x))

    return function


# Positions at another size


def resized(format: str, positions: Array, *, old: tuple[int, int], new: tuple[int, int], rule: str) -> Answers:
    """positions (S + old rows * old columns, D)."""
    special = len(positions) - old[0] * old[1]
    whole = (max(new), max(new)) if rule in CROPPED else new
    rows, columns = (axis(rule, *sizes)[:kept] for *sizes, kept in zip(old, whole, new, strict=True))
    grid = fractions(positions)

    def resize(rows: Array, columns: Array, x: Array) -> Array:
        down = rows @ x[special:].reshape(old[0], -1)
        across = columns @ down.reshape(new[0], old[1], -1)
        return np.concatenate([x[:special], across.reshape(new[0] * new[1], -1)])

    y, unit = exactly(format, resize(rows, columns, grid), resize(abs(rows), abs(columns), abs(grid)))
    if rule != "nearest":
        # A weight is made of differences of places, in float32 at least: an ulp of these it may be off, however small it is.
        weights = "float64" if format == "float64" else "float32"
        unit[special:] = np.maximum(unit[special:], ulp(max(old) * abs(grid).max(), weights))
    return y, unit


@functools.cache
def axis(rule: str, old: int, new: int) -> Array:
    """The weights of positions.RULES without rounding: (new, old) Fractions.

    Of "nearest", which is defined in float32, and "linear_geometric", whose ratio is searched for in float64, their own.
    """
    if rule in ("nearest", "linear_geometric"):
        return fractions(RULES[rule](old, new))
    kernel = triangle if rule.startswith("bilinear") else cubic(Fraction(-1, 2) if "antialias" in rule else Fraction(-3, 4))
    weights = antialiased if "antialias" in rule else interpolated
    return np.array([weights(kernel, rule, old, new, i) for i in range(new)], object)


def interpolated(kernel: Callable[[Fraction], Fraction], rule: str, old: int, new: int, i: int) -> list[Fraction]:
    place = place_of(rule, old, new, i)
    below = place.__floor__()
    weights = [Fraction(0)] * old
    for neighbour in range(below - 1, below + 3):
        weights[min(max(neighbour, 0), old - 1)] += kernel(abs(place - neighbour))
    return weights


def place_of(rule: str, old: int, new: int, i: int) -> Fraction:
    """Where the new point i lies among the old ones."""
    if rule.endswith("corners"):
        return Fraction(i * (old - 1), new - 1) if new > 1 else Fraction(0)
    width = new + Fraction(1, 10) if rule == "bicubic_dino" else Fraction(new)
    return (i + Fraction(1, 2)) * old / width - Fraction(1, 2)


def antialiased(kernel: Callable[[Fraction], Fraction], rule: str, old: int, new: int, i: int) -> list[Fraction]:
    reach, half = (1 if rule.startswith("bilinear") else 2), Fraction(1, 2)
    wide = max(Fraction(old, new), Fraction(1))
    centre = (i + half) * Fraction(old, new)
    first, end = (centre - reach * wide + half).__floor__(), (centre + reach * wide + half).__floor__()
    weights = [kernel(abs(p - centre + half) / wide) if first <= p < end else Fraction(0) for p in range(old)]
    return [weight / sum(weights) for weight in weights]


def triangle(distance: Fraction) -> Fraction:
    return max(1 - distance, Fraction(0))


def cubic(a: Fraction) -> Callable[[Fraction], Fraction]:
    """Keys' cubic convolution."""

    def kernel(distance: Fraction) -> Fraction:
        if distance <= 1:
            return ((a + 2) * distance - (a + 3)) * distance**2 + 1
        return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a if distance < 2 else Fraction(0)

    return kernel
