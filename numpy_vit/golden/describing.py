"""What the difference of two arrays is, in words with numbers and places: for the wrong steps that no known mistake explains.

Every kind of difference is searched for, on a sample where that is slow, and believed only where what it makes of the right
numbers is the port's within noise, or leaves less than a thousandth of the difference; and where no chance would give that,
by how many numbers were fitted and how many ways were tried. Places are counted from 0.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arithmetic.formats import FLOATS
from .recording import distance

Array = Any
Places = dict[str, tuple[int, ...]]

FACTOR = 4.0  # as numpy_vit.golden.checking has it
SHARE = (
    0.999  # of the difference that must be explained where noise remains: as numpy_vit.golden.diagnosing.Bench asks of mistakes
)
CHANCE = 1e-6  # how likely any description may fit by chance
GRID = 24  # so many places along each axis are looked at first
SAMPLE = 512  # so many numbers are looked at in a search
AT_MOST = 3  # descriptions
ZEROS, UNKNOWN = -1, -2
LISTED = 12  # so many places are told one by one

UNITS = {"B": "picture", "H": "head", "N": "token", "D": "channel", "K": "head channel", "M": "hidden channel", "G": "patch",
         "O": "class", "C": "colour", "Y": "pixel row", "X": "pixel column", "R": "channel", "E": "channel"}  # fmt: skip
# Formats, the narrowest first: bits of the significand, the least exponent, the largest number that need be asked for.
NARROW = {
    name: (FLOATS[name].mantissa + 1, 1 - FLOATS[name].bias, FLOATS[name].largest if FLOATS[name].exponent < 8 else math.inf)
    for name in ("float8-e5m2", "float8-e4m3", "bfloat16", "float16", "tf32")
}


@dataclasses.dataclass(frozen=True)
class Description:
    """One thing that a difference is."""

    kind: str  # "factor", "order", "constant", ...
    text: str
    explains: float  # the share of the difference that it explains, of its L2 norm: 1 where only noise is left
    places: Mapping[str, tuple[int, ...]]  # unit ("head") -> which; empty: everywhere
    cost: float = 0.0  # numbers fitted, and ways it was chosen from: the less, the more specific


def describe(
    port: Array,
    right: Array,
    dims: str,
    noise: Mapping[str, float],
    *,
    inputs: Mapping[str, Array] | None = None,
    factor: float = FACTOR,
) -> list[Description]:
    """What the difference of a port's step from the right one is: the most specific first, at most three.

    port, right   float64, of one shape; `right` is the step run from the port's own inputs
    dims          the step's dimensions, "B H N K" (numpy_vit.steps)
    noise         the step's noise floor: "largest", "l2", "gain"
    inputs        name -> what the step is computed from, where it has the step's shape
    factor        how many noise floors a correct step may be off

    Nothing is said of a step within noise. Where no pattern fits, the one description is of kind "statistics".
    """
    port, right = np.asarray(port, np.float64), np.asarray(right, np.float64)
    unknown = ~np.isfinite(right)  # the port's inputs explain these: nothing is asked of them
    port, right = np.where(unknown, 0.0, port), np.where(unknown, 0.0, right)
    with np.errstate(all="ignore"):
        case = Case(port, right, units_of(dims, port.shape), noise, factor)
        if case.within_noise(right):
            return []
        finite = bool(np.isfinite(port).all())
        searches = SEARCHES if finite else (constants,)
        found = [d for search in searches for d in search(case)]
        if finite and inputs:
            found += multiples_of_inputs(case, inputs)
        if not found:
            found = [*alone(case), statistics(case)] if finite else [not_finite(case)]
        else:
            found.sort(key=lambda d: (d.explains < 1, d.cost))
            found = [d for d in found if d.cost <= found[0].cost + 1 and (d.explains == 1) == (found[0].explains == 1)]
    unique = {d.text: d for d in reversed(found)}
    return [d for d in found if unique[d.text] is d][:AT_MOST]


def units_of(dims: str, shape: Sequence[int]) -> list[str]:
    """What the places along each axis are called."""
    letters = dims.split()
    units = [UNITS.get(letter[0] if letter[1:2] == "-" else letter, "number") for letter in letters]
    if letters[-2:] in (["N", "N"], ["G", "G"]):
        units[-2:] = [f"query {units[-2]}", f"key {units[-1]}"]
    units = units if len(units) == len(shape) else ["number"] * len(shape)
    return [unit if units.count(unit) == 1 else f"{unit} of axis {axis}" for axis, unit in enumerate(units)]


class Case:
    """Two arrays, where they differ, and what would explain that."""

    def __init__(self, port: Array, right: Array, units: Sequence[str], noise: Mapping[str, float], factor: float) -> None:
        self.port, self.right, self.units, self.noise, self.factor = port, right, units, noise, factor
        self.difference = port - right
        scale = float(np.abs(right).max(initial=0.0)) or 1.0
        self.wrong = ~(np.abs(self.difference) <= factor * noise["largest"] * scale)
        self.l2 = float(np.linalg.norm(self.difference.ravel()))
        self.noises = self.noises_of(right)
        self.axes = [axis for axis, size in enumerate(port.shape) if size > 1]
        self.rng = np.random.default_rng(0)
        self.box = self.box_of(self.wrong if self.wrong.any() else np.ones_like(self.wrong))  # many small ones may add up
        self.region = np.ix_(*self.box)

    def like(self, port: Array) -> "Case":
        """The same of another array of the port's."""
        return Case(port, self.right, self.units, self.noise, self.factor)

    def noises_of(self, predicted: Array) -> float:
        off = distance(self.port, predicted)
        if not math.isfinite(off["l2"]):
            return math.inf
        return max(off["largest"] / self.noise["largest"], off["l2"] / self.noise["l2"], abs(off["gain"]) / self.noise["gain"])

    def within_noise(self, predicted: Array) -> bool:
        return self.noises_of(predicted) <= self.factor

    def box_of(self, mask: Array) -> list[Array]:
        """Along each axis the places that a mask has something at."""
        every = range(mask.ndim)
        return [np.flatnonzero(mask.any(axis=tuple(a for a in every if a != axis))) for axis in every]

    def few(self) -> list[Array]:
        """The box, with all of an axis where most of it is wrong: another order may leave some in their places."""
        sizes = zip(self.box, self.port.shape, strict=True)
        return [places if 2 * len(places) <= size else np.arange(size) for places, size in sizes]

    def places_of(self, box: Sequence[Array]) -> Places:
        """Unit -> which, of the axes of which not all are in a box."""
        return {
            self.units[axis]: tuple(int(i) for i in places)
            for axis, places in enumerate(box)
            if len(places) < self.port.shape[axis]
        }

    def only(self, places: Places) -> str:
        return f"only in {self.phrase(places)}: " if places else ""

    def phrase(self, places: Places) -> str:
        return ", ".join(phrase(unit, where, self.port.shape[self.units.index(unit)]) for unit, where in places.items())

    def explained(
        self,
        kind: str,
        text: str,
        predicted: Array,
        *,
        fitted: float = 0,
        ways: float = 0.0,
        places: Places | None = None,
        exact: bool = False,
    ) -> Iterator[Description]:
        """The description, where what it predicts is the port's array, and no accident.

        fitted   how many numbers were fitted
        ways     the logarithm of how many ways there were to choose from
        exact    whether it must fit within noise, so that no share is enough

        That `count` numbers all come `ratio` times nearer by chance has a probability of about ratio ** -count.
        """
        left = float(np.linalg.norm((self.port - predicted).ravel()))
        if not math.isfinite(left):
            return
        share = 1 - left / self.l2
        noises = self.noises_of(predicted)
        thousandth = share >= SHARE
        within = noises <= self.factor * (4 if thousandth else 1) and 2 * noises <= self.noises
        count = np.count_nonzero(predicted != self.right) - fitted  # what it says nothing of is no evidence
        ratio = self.l2 / max(left, 1e-300)
        if not within and (exact or not thousandth):
            return
        if count < 2 or count * math.log(min(max(ratio, 1.0), 1e12)) < 1.5 * ways - math.log(CHANCE):
            return
        if not within:
            text += (
                f" (this explains {math.floor(1e4 * share) / 100:.2f} % of the difference; {noises:,.0f} noise floors are left)"
            )
        yield Description(kind, text, 1.0 if within else share, places or {}, fitted + ways / 6)

    def replaced(self, region: Any, values: Array) -> Array:
        predicted = self.right.copy()
        predicted[region] = values
        return predicted


# Words


def plural(unit: str) -> str:
    head, of, axis = unit.partition(" of axis ")
    return head + ("es" if head.endswith(("s", "ch")) else "s") + of + axis


def phrase(unit: str, places: Iterable[int], size: int) -> str:
    """ "token 3 of 13", "tokens 5 to 12 of 13", "all 13 tokens but 0"."""
    places = list(places)
    rest = sorted(set(range(size)) - set(places))
    if 0 < len(rest) <= 2 < len(places) and not consecutive(places):
        return f"all {size} {plural(unit)} but {listing(rest)}"
    return f"{unit if len(places) == 1 else plural(unit)} {listing(places)} of {size}"


def consecutive(places: Sequence[int]) -> bool:
    return list(places) == list(range(places[0], places[0] + len(places)))


def listing(places: Sequence[int]) -> str:
    """ "3", "3 and 7", "5 to 12", "1, 3, 5, ... (40 of them)"."""
    if len(places) > 2 and consecutive(places):
        return f"{places[0]} to {places[-1]}"
    if len(places) > LISTED:
        return ", ".join(map(str, places[:LISTED])) + f", ... ({len(places)} of them)"
    return " and ".join(filter(None, [", ".join(map(str, places[:-1])), str(places[-1])]))


def number(x: float) -> str:
    return "-inf" if x == -math.inf else "inf" if x == math.inf else "NaN" if math.isnan(x) else f"{x:.6g}"


def spread(x: Array) -> str:
    low, high = number(x.min()), number(x.max())
    return low if low == high else f"{low} to {high}"


def named_factor(case: Case, a: float) -> str:
    """A factor, and what it is of the array's sizes: "0.25 = 1/sqrt(16)"."""
    if 0 < abs(a - 1) < 1e-4:
        return f"1 {'+' if a > 1 else '-'} {abs(a - 1):.3g}"
    values: dict[str, float] = {}
    for n in sorted({*case.port.shape} - {1, 2}):
        values |= {f"sqrt({n})": n**0.5, f"1/sqrt({n})": n**-0.5, f"1/{n}": 1 / n, f"{n}/{n - 1}": n / (n - 1)}
        values |= {f"{n - 1}/{n}": (n - 1) / n}
    name = next((name for name, value in values.items() if abs(a / value - 1) < 1e-5), None)
    return number(a) if name is None or abs(a - round(a)) < 1e-5 else f"{number(a)} = {name}"


# Factors and offsets


def affine(case: Case) -> Iterator[Description]:
    """A factor, an offset, or both: one for all that is wrong, or for each place along some axes."""
    port, right = case.port[case.region], case.right[case.region]
    places = case.places_of(case.box)
    only = case.only(places)
    found: set[str] = set()
    some = np.ix_(*(np.unique(np.linspace(0, n - 1, GRID, dtype=int)) for n in port.shape))
    some_port, some_right = port[some], right[some]
    axes = [axis for axis, size in enumerate(port.shape) if size > 1]
    sets = sorted(
        (kept for n in range(len(axes)) for kept in itertools.combinations(axes, n)),
        key=lambda kept: math.prod(port.shape[axis] for axis in kept),
    )
    for kept in sets:
        over = tuple(axis for axis in range(port.ndim) if axis not in kept)
        several = math.prod(port.shape[axis] for axis in kept)
        each = " of each ".join(case.units[axis] for axis in reversed(kept))
        for kind in ("factor", "offset", "affine"):
            needed = 2 if kind == "affine" else 1
            if found & {kind, "factor", "offset"} or needed * several > port.size / 2:
                continue
            if not promising(kind, some_port, some_right, over):
                continue
            a, b = fitted(kind, port, right, over)
            predicted = case.replaced(case.region, a * right + b)
            if kind != "offset" and np.abs(a).max() < 1e-6:  # a constant, then
                continue
            text, name = affine_text(case, kind, a, b, each)
            ways = math.log(len(sets) * 3)
            for description in case.explained(name, only + text, predicted, fitted=several * needed, ways=ways, places=places):
                found.add(kind)
                yield description


def promising(kind: str, port: Array, right: Array, over: tuple[int, ...]) -> bool:
    """Whether a factor or offset explains much of these, a part of the numbers: only then are all looked at."""
    a, b = fitted(kind, port, right, over)
    return float(np.linalg.norm(port - a * right - b)) <= 0.1 * float(np.linalg.norm(port - right))


def fitted(kind: str, port: Array, right: Array, over: tuple[int, ...]) -> tuple[Array, Array]:
    """Factor and offset by least squares, for each place of the axes that are left."""
    if kind == "factor":
        a = (port * right).sum(axis=over, keepdims=True) / zero_is_one((right * right).sum(axis=over, keepdims=True))
        return a, np.zeros_like(a)
    p, r = port.mean(axis=over, keepdims=True), right.mean(axis=over, keepdims=True)
    if kind == "offset":
        return np.ones_like(p), p - r
    centred = right - r
    a = ((port - p) * centred).sum(axis=over, keepdims=True) / zero_is_one((centred**2).sum(axis=over, keepdims=True))
    return a, p - a * r


def zero_is_one(x: Array) -> Array:
    return np.where(x == 0, 1.0, x)


def affine_text(case: Case, kind: str, a: Array, b: Array, each: str) -> tuple[str, str]:
    if each:
        times, plus = f"times a factor of its own, {spread(a)}", f"plus an offset of its own, {spread(b)}"
        said = {"factor": times, "offset": plus, "affine": f"{times}, {plus}"}
        return f"each {each} is the right one {said[kind]}", kind
    factor, offset = float(a.flat[0]), float(b.flat[0])
    if kind == "factor" and abs(factor + 1) < 1e-5:
        return "the numbers are the right ones with the other sign", "negated"
    said = {
        "factor": f"the numbers are the right ones times {named_factor(case, factor)}",
        "offset": f"the numbers are the right ones plus {number(offset)}",
        "affine": f"the numbers are the right ones times {number(factor)} plus {number(offset)}",
    }
    return said[kind], kind


# Constants: a triangle, columns, a head


def constants(case: Case) -> Iterator[Description]:
    """One number in the place of those of a triangle or of some places, the rest right, or each row of it scaled."""
    for value in constant_values(case):
        same = np.isnan(case.port) if math.isnan(value) else case.port == value
        places = case.box_of(same & case.wrong)
        if min(map(len, places)) == 0:
            continue
        inside = np.zeros(case.port.shape, bool)
        inside[np.ix_(*places)] = True
        where = case.places_of(places)
        size = max(case.port.shape)
        if same[inside].all():
            at = case.phrase(where) if where else "all places"
            yield from constant(case, value, inside, f"{at}: the numbers are {number(value)}", where, math.log(size) * 4)
        yield from triangles(case, value, same)


def constant_values(case: Case) -> list[float]:
    wrong = case.port[case.wrong]
    if not wrong.size:
        return []
    sample = wrong[case.rng.integers(0, wrong.size, min(SAMPLE, wrong.size))]
    values, counts = np.unique(sample, return_counts=True)
    common = [float(values[counts.argmax()])] if counts.max() >= max(3, len(sample) // 8) else []
    return list(dict.fromkeys([0.0, -math.inf, math.inf, *common, math.nan]))


def triangles(case: Case, value: float, same: Array) -> Iterator[Description]:
    *_, rows, columns = case.port.shape if case.port.ndim > 1 else (0, 1)
    if rows != columns or rows < 3:
        return
    query, key = case.units[-2:]
    row, column = np.arange(rows)[:, None], np.arange(columns)
    shapes = {
        f"after the {query}": column > row,
        f"at and after the {query}": column >= row,
        f"before the {query}": column < row,
        f"at and before the {query}": column <= row,
    }
    for said, triangle in shapes.items():
        inside = np.broadcast_to(triangle, case.port.shape)
        if same[inside].all() and same[~inside].mean() < 0.5:
            text = f"every {key} {said} is {number(value)} (a triangle, as of a causal mask)"
            yield from constant(case, value, inside, text, {}, math.log(8), "triangle")


def constant(
    case: Case, value: float, inside: Array, text: str, places: Places, ways: float, kind: str = "constant"
) -> Iterator[Description]:
    """With the rest right, or scaled row by row (a softmax over what is left)."""
    cost = float(math.isfinite(value) and value != 0) + ways / 6
    rest = np.where(inside, case.right, case.port)
    if np.count_nonzero(inside & case.wrong) < 2 or not np.isfinite(rest).all():
        return
    if case.like(rest).within_noise(case.right):
        yield Description(kind, text, 1.0, places, cost)
    elif not inside.all() and case.port.ndim > 1 and math.isfinite(value):
        square = ((case.right**2) * ~inside).sum(axis=-1, keepdims=True)
        a = (rest * case.right * ~inside).sum(axis=-1, keepdims=True) / zero_is_one(square)
        a = np.where(square > 0, a, 1.0)
        text += f", and what is left of each {case.units[-2]} is the right numbers times {spread(a)}"
        predicted = np.where(inside, value, a * case.right)
        for found in case.explained(kind, text, predicted, fitted=a.size, ways=ways, places=places):
            yield dataclasses.replace(found, cost=cost + 1)  # the factors follow from the mask


# Other orders


def reshuffled(case: Case) -> Iterator[Description]:
    """The same numbers, read as if their axes (or the two factors of an axis) came in another order."""
    box = case.few()
    places, region = case.places_of(box), np.ix_(*box)
    port, right = case.port[region], case.right[region]
    for names, shape, order in best_orders(case, port, right):
        predicted = case.replaced(region, right.reshape(shape).transpose(order).reshape(port.shape))
        text, kind = order_text(case, port.shape, names, shape, order)
        yield from case.explained(kind, case.only(places) + text, predicted, ways=math.log(1000), places=places)


def best_orders(case: Case, port: Array, right: Array) -> list[tuple[list[int], list[int], tuple[int, ...]]]:
    """The orders that a sample of the numbers fits best: the axes, their sizes, and the transposition."""
    at = case.rng.integers(0, port.size, SAMPLE)
    seen, flat = port.ravel()[at], right.ravel()
    base = float(np.linalg.norm(seen - flat[at]))
    axes = [axis for axis, size in enumerate(port.shape) if size > 1]
    found = []
    for split in (None, *((axis, a) for axis in axes for a in divisors(port.shape[axis]))):
        names, shape = [], []
        for axis in axes:
            parts = [port.shape[axis]] if split is None or split[0] != axis else [split[1], port.shape[axis] // split[1]]
            names += [axis] * len(parts)
            shape += parts
        steps = np.cumprod([1, *shape[:0:-1]])[::-1]
        for order in itertools.permutations(range(len(shape))):
            if order == tuple(range(len(shape))) or (split and keeps_together(names, order)):
                continue
            source = sum(c * steps[o] for c, o in zip(np.unravel_index(at, [shape[o] for o in order]), order, strict=True))
            off = float(np.linalg.norm(seen - flat[source]))
            if off < 0.2 * base:
                found.append((off, names, shape, order))
    found.sort(key=lambda f: (f[0], len(f[2])))
    return [(names, shape, order) for _, names, shape, order in found[:2]]


@functools.cache
def divisors(n: int) -> list[int]:
    return [a for a in range(2, n // 2 + 1) if n % a == 0]


def keeps_together(names: Sequence[int], order: Sequence[int]) -> bool:
    """Whether the two parts of an axis stay side by side and in order: then there was no need to split it."""
    part = next(n for n in range(len(names) - 1) if names[n] == names[n + 1])
    return (part, part + 1) in itertools.pairwise(order)


def order_text(
    case: Case, shape: Sequence[int], names: Sequence[int], parts: Sequence[int], order: Sequence[int]
) -> tuple[str, str]:
    moved = [n for n, o in enumerate(order) if n != o]
    if len({names[n] for n in moved}) == 1 and len(moved) == 2:  # within one axis
        units = plural(case.units[names[moved[0]]])
        a, b = parts[moved[0]], parts[moved[1]]
        if b == 2:
            return f"the {units} are in another order: the even ones first, then the odd ones", "interleaved"
        if a == 2:
            return f"the {units} are in another order: the two halves are interleaved", "interleaved"
        return f"the {units} are in another order: ({b}, {a}) where it should be ({a}, {b})", "interleaved"
    got, had = [parts[o] for o in order], [size for size in shape if size > 1]
    if got == had and len(moved) == 2:
        one, other = (case.units[names[n]] for n in moved)
        return f"transposed: {one} and {other} have changed places", "transposed"
    laid = ", ".join(map(str, got))
    right = ", ".join(map(str, parts))
    return f"reshaped without moving the axes: the ({right}) numbers lie in the order ({laid})", "reshaped"


def other_order(case: Case) -> Iterator[Description]:
    """Rows along an axis that are other rows: reversed, shifted, swapped, in any order, one for another."""
    for axis in case.axes:
        box = case.few()
        box[axis] = np.arange(case.port.shape[axis])
        places, region = case.places_of(box), np.ix_(*box)
        port, right = (np.moveaxis(x[region], axis, 0) for x in (case.port, case.right))
        rows, source = (x.reshape(len(x), -1) for x in (port, right))
        at = np.arange(len(rows))[:: max(1, len(rows) // 128)], case.rng.integers(0, rows.shape[1], (8, 1))
        for order in orders(case, rows, source, axis):
            if not order.promising(rows, source, at):
                continue
            predicted = np.where((order.taken >= 0)[:, None], source[order.taken], 0.0)
            predicted[order.taken == UNKNOWN] = rows[order.taken == UNKNOWN]
            full = case.replaced(region, np.moveaxis(predicted.reshape(port.shape), 0, axis))
            found = list(
                case.explained(
                    order.kind,
                    case.only(places) + order.text,
                    full,
                    fitted=int((order.taken == UNKNOWN).sum()) * rows.shape[1],
                    ways=order.ways + math.log(8),
                    places=places | order.places,
                    exact=order.exact,
                )
            )
            yield from found
            if found:
                break


class Order(NamedTuple):
    """Rows that may be others."""

    text: str
    kind: str
    taken: Array  # row -> its source, ZEROS or UNKNOWN
    ways: float  # the logarithm of how many there were to choose from
    exact: bool = False  # whether it must fit within noise
    places: Places = {}  # noqa: RUF012 - never written to

    def promising(self, rows: Array, source: Array, at: tuple[Array, Array]) -> bool:
        """Whether it explains much of the numbers at these rows and columns: only then are all looked at."""
        taken = self.taken[at[0]]
        right = np.where(taken >= 0, source[taken, at[1]], np.where(taken == ZEROS, 0.0, rows[at]))
        return float(np.linalg.norm(rows[at] - right)) <= 0.5 * float(np.linalg.norm(rows[at] - source[at]))


def orders(case: Case, rows: Array, source: Array, axis: int) -> Iterator[Order]:
    """What to try along an axis, rows (n, m) for the right ones (n, m)."""
    n, unit = len(rows), case.units[axis]
    units, every = plural(unit), np.arange(n)
    yield Order(f"the {units} are reversed", "reversed", every[::-1], 0.0)
    if n > 2:
        k = best_roll(case, rows, source)
        each, ways, rolled = f"each has the numbers of the one {beside(k)}", math.log(n), np.roll(every, k)
        yield Order(f"the {units} are rolled by {k}: {each}, around the end", "rolled", rolled, ways)
        ends = every < k if k > 0 else every >= n + k
        text = f"the {units} are shifted by {k}: {each}"
        for more, end in ((", zeros at the end", ZEROS), (", the end repeated", 0 if k > 0 else n - 1), ("", UNKNOWN)):
            if 2 * abs(k) <= n:
                yield Order(text + more, "shifted", np.where(ends, end, rolled), ways)
    taken = matched(case, rows, source)
    changed = taken is not None and np.flatnonzero(taken != every)
    if taken is not None and (taken[changed] != ZEROS).any():  # zeros alone are a constant
        yield taken_order(taken, unit)


def beside(k: int) -> str:
    return f"{abs(k)} {'before' if k > 0 else 'after'} it"


def best_roll(case: Case, rows: Array, source: Array) -> int:
    """The number of places by which a sample of the rows is rolled, or would fit best."""
    n, width = rows.shape
    at = case.rng.integers(0, n, 96), case.rng.integers(0, width, 96)
    by = np.arange(1, n)
    off = np.abs(rows[at] - source[(at[0] - by[:, None]) % n, at[1]])
    k = int(by[np.median(off, axis=1).argmin()])
    return k if k <= n // 2 else k - n


def matched(case: Case, rows: Array, source: Array) -> Array | None:
    """Every row's nearest among the right ones, its own where that is within noise; None where one is like none."""
    n, width = rows.shape
    columns = case.rng.integers(0, width, 64) if width > 64 else np.arange(width)
    p, r = rows[:, columns], source[:, columns]
    r = np.concatenate([r, np.zeros_like(r[:1])])  # the last stands for zeros
    square = (r * r).sum(axis=1) - 2 * p @ r.T
    taken = square.argmin(axis=1)
    scale = case.factor * case.noise["largest"] * (float(np.abs(case.right).max()) or 1.0)
    own = np.abs(rows - source).max(axis=1) <= scale
    taken = np.where(own, np.arange(n), taken)
    near = np.abs(p - r[taken]).max(axis=1)
    if (near > 4 * scale).any():
        return None
    return np.where(taken == n, ZEROS, taken)


def taken_order(taken: Array, unit: str) -> Order:
    """Row -> its source, in words, with the logarithm of how many orders of this kind there are."""
    n, units = len(taken), plural(unit)
    changed = np.flatnonzero(taken != np.arange(n))
    where, shift, sources = phrase(unit, changed, n), changed - taken[changed], set(taken[changed])
    places = {unit: tuple(int(i) for i in changed)} if len(changed) < n else {}
    ways = len(changed) * math.log(n + 1)
    if len(changed) > 1 and len(set(shift)) == 1 and consecutive(list(changed)) and (taken >= 0).all():
        text = f"{where}: each has the numbers of the one {beside(int(shift[0]))}"
        return Order(text, "shifted", taken, 3 * math.log(n), True, places)
    if len(sources) == 1:
        text = f"{where} {'has' if len(changed) == 1 else 'have'} the numbers of {unit} {sources.pop()}"
        return Order(text, "taken", taken, ways, True, places)
    block = block_of(taken)
    if block > 1:
        starts = taken[::block] // block
        ways = math.lgamma(n // block + 1) + math.log(n)
        if taken[0] == block - 1 and taken[block - 1] == 0:
            return Order(f"the {units} are reversed in each {block} of them", "reversed", taken, 2 * math.log(n), True)
        if (starts == np.arange(n // block)[::-1]).all():
            return Order(f"the {units} are reversed by blocks of {block}", "reversed", taken, 2 * math.log(n), True)
        text = f"the {units} are in another order, by blocks of {block}: {pairs(np.arange(n // block), starts)}"
        return Order(text, "order", taken, ways, True)
    if sorted(taken) == list(range(n)):
        text = f"the {units} are in another order: {pairs(changed, taken[changed])}"
        return Order(text, "order", taken, ways, True, places)
    text = f"some {units} have the numbers of others: {pairs(changed, taken[changed])}"
    return Order(text, "taken", taken, ways, True, places)


def block_of(taken: Array) -> int:
    """The size of the blocks that rows keep to: moved as they are, or each reversed where it is; 1: none."""
    n = len(taken)
    for size in reversed(divisors(n)):
        blocks = taken.reshape(-1, size)
        moved = blocks[:, :1] + np.arange(size)
        if (blocks == moved).all() and (blocks[:, 0] % size == 0).all():
            return size
        if (blocks == np.arange(n).reshape(-1, size)[:, ::-1]).all():
            return size
    return 1


def pairs(places: Array, sources: Array) -> str:
    more = f" ... ({len(places)} of them)" if len(places) > LISTED else ""
    return (
        " ".join(map(str, places[:LISTED]))
        + " are "
        + " ".join("zero" if s == ZEROS else str(s) for s in sources[:LISTED])
        + more
    )


def flat_shift(case: Case) -> Iterator[Description]:
    """The array one number (or a few) on, or back, in memory, across the ends of rows."""
    port, right = case.port.ravel(), case.right.ravel()
    if port.size < 16 or len(case.axes) < 2:
        return
    shifts = [k for k in range(-16, 17) if k and abs(k) < port.size // 4]
    at = case.rng.integers(16, port.size - 16, SAMPLE) if port.size > 64 else np.arange(4, port.size - 4)
    off = [float(np.median(np.abs(port[at] - right[(at - k) % port.size]))) for k in shifts]
    k = shifts[int(np.argmin(off))]
    predicted = np.roll(right, k)
    ends = slice(0, k) if k > 0 else slice(k, None)
    predicted[ends] = port[ends]
    text = f"the array is shifted by {k} in memory: number i is the right number {'i - ' if k > 0 else 'i + '}{abs(k)}"
    yield from case.explained("pointer", text, predicted.reshape(case.port.shape), fitted=abs(k), ways=math.log(32))


# Formats and limits


def narrower(case: Case) -> Iterator[Description]:
    """Numbers that are all of a narrower format, or multiples of one number, as the right ones are not."""
    sample = case.rng.integers(0, case.port.size, SAMPLE)
    p, r = case.port.ravel()[sample], case.right.ravel()[sample]
    for name, (bits, least, largest) in NARROW.items():
        if not on_grid(p, ulp(p, bits, least), largest):
            continue
        unit = ulp(case.port, bits, least)
        if on_grid(case.port, unit, largest) and np.mean(np.rint(r / ulp(r, bits, least)) * ulp(r, bits, least) == r) < 0.5:
            yield from rounded(case, name, ulp(case.right, bits, least))
            return
    step = grid_step(p)
    if step and step[0] < np.abs(case.right).max() and port_on(case.port, *step):
        (size, start), levels = step, round(float(np.ptp(case.port) / step[0])) + 1
        if levels <= 256 and case.port.size >= 16:
            unit = np.broadcast_to(size, case.port.shape)
            yield from rounded(case, f"a grid of {levels} levels, multiples of {number(size)}", unit, start)


def ulp(x: Array, bits: int, least: int) -> Array:
    exponent = np.frexp(x)[1] - 1
    return np.ldexp(1.0, np.maximum(np.where(x == 0, least, exponent), least) - bits + 1)


def on_grid(x: Array, unit: Array, largest: float) -> bool:
    return bool((np.rint(x / unit) * unit == x).all() and np.abs(x).max() <= largest)


def grid_step(values: Array) -> tuple[float, float] | None:
    """The step and one value of the grid that all values seem to lie on."""
    unique = np.unique(values)
    gaps = np.diff(unique)
    gaps = gaps[gaps > 1e-6 * np.abs(unique).max()]
    if not 2 <= len(gaps) < len(values) // 2:
        return None
    size = float(gaps.min())
    multiples = np.rint(gaps / size)
    if np.abs(gaps / size - multiples).max() > 0.05:
        return None
    size = float(gaps.sum() / multiples.sum())
    start = float(unique[0] - size * np.rint(unique[0] / size))
    return size, (start if abs(start) > 1e-4 * size else 0.0)


def port_on(port: Array, size: float, start: float) -> bool:
    """Whether all numbers lie on a grid, but for the rounding of float32."""
    off = (port - start) / size
    return bool(np.abs(off - np.rint(off)).max() <= 1e-2)


def rounded(case: Case, name: str, unit: Array, start: float = 0.0) -> Iterator[Description]:
    """How the right numbers became those of a format: to the nearest, or cut off. Each is off by less than one unit."""
    off = np.abs(case.difference) / unit
    slack = case.factor * case.noise["largest"] * np.abs(case.right).max()
    if np.mean(off > 1 + slack / unit) > 0:
        return
    x = (case.right - start) / unit
    ways = {
        "rounded to the nearest": np.rint(x),
        "cut off towards zero": np.trunc(x),
        "rounded down": np.floor(x),
        "rounded up": np.ceil(x),
    }
    equal = {way: float(np.mean(np.abs(case.port - start - unit * y) < 0.01 * unit)) for way, y in ways.items()}
    way = max(equal, key=lambda w: equal[w])
    count = case.port.size
    if equal[way] >= 0.95 and count >= 16:
        kind = "format" if way == "rounded to the nearest" else "truncated"
        share = f"; {100 * equal[way]:.4g} % are equal to that" if equal[way] < 1 else ""
        yield Description(kind, f"the numbers are the right ones {way}, of {name}{share}", 1.0, {}, 1.0)
    elif count >= 64:
        yield Description("format", f"all numbers are of {name}, and off by less than one unit of it", 1.0, {}, 3.0)


def clipped(case: Case) -> Iterator[Description]:
    """Numbers that stop at a limit."""
    low, high = float(case.port.min()), float(case.port.max())
    below, above = (np.count_nonzero(case.port == limit) for limit in (low, high))
    beyond = np.count_nonzero(case.right[case.port == low] < low), np.count_nonzero(case.right[case.port == high] > high)
    least, most = (low if below >= 3 and beyond[0] >= 2 else -math.inf), (high if above >= 3 and beyond[1] >= 2 else math.inf)
    if low == high or (least, most) == (-math.inf, math.inf):
        return
    predicted = np.clip(case.right, least, most)
    said = " and ".join(
        f"{'below' if n == 0 else 'above'} at {number(limit)}" for n, limit in enumerate((least, most)) if math.isfinite(limit)
    )
    count = np.count_nonzero((case.right < least) | (case.right > most))
    text = f"the numbers are the right ones, cut {said} ({count:,} of {case.port.size:,})"
    yield from case.explained("clipped", text, predicted, fitted=math.isfinite(least) + math.isfinite(most), ways=math.log(4))


# The difference alone


def low_rank(case: Case) -> Iterator[Description]:
    """A difference that is a sum of few outer products, of a number for each row and one for each channel."""
    if case.port.ndim < 2 or not math.isfinite(case.l2):
        return
    part, places = case.difference[case.region], case.places_of(case.box)
    rows = part.reshape(-1, part.shape[-1])
    n, width = rows.shape
    largest = np.argsort(-np.linalg.norm(rows, axis=1))[:64]
    some = rows[np.concatenate([largest, case.rng.integers(0, n, 64)])]
    _, values, vectors = np.linalg.svd(some, full_matrices=False)
    if np.linalg.norm(values[3:]) > 0.1 * np.linalg.norm(values):
        return
    for rank in (1, 2, 3):
        if rank * (n + width) > rows.size / 4:
            return
        basis = vectors[:rank]
        difference = ((rows @ basis.T) @ basis).reshape(part.shape)
        predicted = case.replaced(case.region, case.right[case.region] + difference)
        unit, of = case.units[-1], case.units[-2]
        if rank == 1:
            text = f"the difference is of rank one: one row of numbers over the {plural(unit)}, times a number for each {of}"
        else:
            text = f"the difference is of rank {rank}, as a sum of {rank} outer products"
        kind, fitted = "rank one" if rank == 1 else "low rank", rank * (n + width)
        found = list(case.explained(kind, case.only(places) + text, predicted, fitted=fitted, places=places))
        if found:
            yield from found
            return


def multiples_of_inputs(case: Case, inputs: Mapping[str, Array]) -> Iterator[Description]:
    """A difference that is a multiple of what went in; or what went in itself, as if the step had not been done."""
    for name, given in inputs.items():
        x = np.asarray(given, np.float64)
        if x.shape != case.port.shape or not np.isfinite(x).all() or not x.any():
            continue
        ways = math.log(4 * len(inputs))
        for text, kind, base in (("the difference is", "input", case.right), ("the numbers are", "skipped", np.zeros_like(x))):
            c = float((case.port - base).ravel() @ x.ravel()) / float(x.ravel() @ x.ravel())
            said = f"{text} {number(c)} times {name}"
            if (kind == "input" and abs(c) < 1e-9) or np.array_equal(base + c * x, case.right):
                continue
            if kind == "input" and abs(c + 1) < 1e-4:
                said += ", as if it were left out"
            elif kind == "input" and abs(c - 1) < 1e-4:
                said += ", as if it were added once more"
            elif kind == "skipped" and abs(c - 1) < 1e-4:
                said = f"the numbers are those of {name}, as if this step were not done"
            found = case.explained(kind, said, base + c * x, fitted=1, ways=ways)
            yield from (dataclasses.replace(d, cost=min(d.cost, 1.0)) for d in found)


# Where no pattern fits


def alone(case: Case) -> Iterator[Description]:
    """A token, head, channel, picture (or several) where all that is wrong lies."""
    if not case.places_of(case.box):
        return
    inside = np.zeros(case.port.shape, bool)
    inside[case.region] = True
    outside = case.difference[~inside]
    places = case.places_of(case.box)
    ratio = math.sqrt(float(np.mean(case.difference[inside] ** 2)) / max(float(np.mean(outside**2)), 1e-300))
    sizes = [(case.port.shape[axis], len(box)) for axis, box in enumerate(case.box)]
    ways = sum(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for n, k in sizes)
    if ratio < 10 or outside.size * math.log(min(ratio, 1e12)) < ways - math.log(CHANCE) or 2 * inside.sum() > inside.size:
        return
    if np.count_nonzero(case.wrong[inside]) < inside.sum() / 2:  # here and there: its outline says little
        return
    rest = np.where(inside, case.port, case.right)
    if not case.within_noise(rest):
        return
    text = f"only {case.phrase(places)} {'is' if all(len(p) == 1 for p in places.values()) else 'are'} wrong"
    if inside.sum() == 1:
        values = (number(x[inside][0]) for x in (case.port, case.right))
        text = f"only one number is wrong, at {case.phrase(places)}: {' instead of '.join(values)}"
    yield Description("alone", text, 1.0, places, 50.0)


def not_finite(case: Case) -> Description:
    """Where the numbers are that are none."""
    bad = ~np.isfinite(case.port)
    nan, inf = int(np.isnan(case.port).sum()), int(np.isinf(case.port).sum())
    box = case.box_of(bad)
    places = case.places_of(box)
    full = bool(bad[np.ix_(*box)].all())
    at = f"{'all of' if full else 'within'} {case.phrase(places)}" if places else "everywhere" if full else "here and there"
    rest = np.where(bad, case.right, case.port)
    left = "right" if case.like(rest).within_noise(case.right) else "wrong as well"
    text = f"{nan:,} NaN and {inf:,} infinite numbers of {bad.size:,}: {at}" + ("" if bad.all() else f"; the rest is {left}")
    return Description("not finite", text, 1.0, places, 0.0)


def statistics(case: Case) -> Description:
    """How much differs, how alike the two are, and where it is worst."""
    wrong, size = int(case.wrong.sum()), case.port.size
    p, r = case.port.ravel(), case.right.ravel()
    said = [f"{wrong:,} of {size:,} numbers differ beyond noise"]
    p, r = p - p.mean(), r - r.mean()
    both = float(np.linalg.norm(p) * np.linalg.norm(r))
    if both > 0 and size > 2:
        said.append(f"correlation with the right ones {float(p @ r) / both:.6f}")
    norm = float(np.linalg.norm(case.right.ravel()))
    if norm > 0:
        said.append(f"difference {case.l2 / norm:.3g} of their size")
    square, places = case.difference**2, {}
    for axis in case.axes:
        along = square.sum(axis=tuple(a for a in range(square.ndim) if a != axis))
        n, most = len(along), int(along.argmax())
        share = float(along[most] / (along.sum() or 1.0))
        if n > 1 and share > max(0.3, 3 / n):
            places[case.units[axis]] = (most,)
            said.append(f"{100 * share:.0f} % of it in {phrase(case.units[axis], [most], n)}")
    return Description("statistics", "; ".join(said), 0.0, places, math.inf)


SEARCHES: tuple[Callable[[Case], Iterator[Description]], ...] = (
    constants, clipped, narrower, reshuffled, other_order, flat_shift, affine, low_rank,
)  # fmt: skip
