"""What a difference is, where no known mistake explains it: a factor, an order, a mask, one head alone; with numbers, places.

A pattern is said where it leaves nothing but noise, or a thousandth of the difference, and where it has far fewer numbers of
its own than it explains.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..arithmetic.formats import FLOATS, to_float

Array = Any
NOISES = 4.0  # noise floors that a pattern may leave
SHARE = 1e-3  # of the difference's length that a pattern may leave where that is more
FREEDOM = 3  # times as many numbers as a pattern has of its own must be explained by it

WORDS = {
    "B": ("picture", "pictures"), "H": ("head", "heads"), "N": ("token", "tokens"), "G": ("patch", "patches"),
    "K": ("number of a head", "numbers of a head"), "D": ("channel", "channels"), "M": ("hidden number", "hidden numbers"),
    "O": ("class", "classes"), "T": ("image token", "image tokens"), "Y": ("row", "rows"), "X": ("column", "columns"),
}  # fmt: skip
LISTED = 12  # so many places are named


@dataclasses.dataclass(frozen=True)
class Description:
    """One thing that can be said of a difference."""

    kind: str  # "factor", "order", "alone", ...
    text: str
    explains: float = 0.0  # the share of the squared difference that is then accounted for, 0 to 1


def describe(
    port: Array, right: Array, dims: str, noise: Mapping[str, float], inputs: Mapping[str, Array] | None = None
) -> list[Description]:
    """What the difference of a port's step from the right one is, the most telling first; at most three.

    port, right  of one shape, float64
    dims         the step's dimensions: "B H N K" (numpy_vit.steps)
    noise        what correct arithmetic may differ: "largest" and "l2", relative
    inputs       what the step was computed from, by name
    """
    with np.errstate(all="ignore"):
        return list(itertools.islice(Difference(port, right, dims, noise).described(inputs or {}), 3))


class Difference:
    """A port's array and the right one, or a part of both."""

    def __init__(self, port: Array, right: Array, dims: str, noise: Mapping[str, float], where: str = "") -> None:
        self.port, self.right = np.asarray(port, np.float64), np.asarray(right, np.float64)
        self.letters = dims.split()
        self.noise = noise
        self.where = where  # of what part
        self.by = self.port - self.right
        self.length = float(np.linalg.norm(self.by))
        self.allowed = NOISES * noise["l2"] * float(np.linalg.norm(self.right))

    def word(self, axis: int, several: bool = False) -> str:
        letter = self.letters[axis]
        same = [n for n, other in enumerate(self.letters) if other == letter]
        if len(same) == 2 and letter in "NT" and self.letters[-2:] == [letter, letter]:  # scores
            letter_words = (("query", "queries"), ("key", "keys"))[same.index(axis)]
            return letter_words[several]
        return WORDS.get(letter, (f"index of {letter}", f"indices of {letter}"))[several]

    def described(self, inputs: Mapping[str, Array]) -> Iterator[Description]:
        if not (np.isfinite(self.port).all() and np.isfinite(self.right).all()):
            yield self.not_finite()
            return
        if self.length <= self.allowed:
            return
        alone = self.alone()
        found = list((alone[1] if alone else self).patterns(inputs if alone is None else {}))
        if found:
            yield from found[:2]
        elif alone:
            yield alone[0]
        yield self.statistics()

    # Where

    def not_finite(self) -> Description:
        bad = ~np.isfinite(self.port)
        count = int(bad.sum())
        places = []
        for axis in range(bad.ndim):
            which = np.flatnonzero(bad.any(axis=tuple(n for n in range(bad.ndim) if n != axis)))
            if 0 < len(which) < bad.shape[axis] and len(which) <= LISTED:
                places.append(f"{self.word(axis, len(which) > 1)} {runs(which)}")
        where = f": {', '.join(places)}" if places else ""
        return Description("not finite", f"{count:,} of {bad.size:,} numbers are NaN or infinite{where}")

    def alone(self) -> "tuple[Description, Difference] | None":
        """A few places along one axis where all that is wrong lies."""
        largest = NOISES * self.noise["largest"] * float(np.abs(self.right).max())
        wrong = np.abs(self.by) > largest
        best = None
        for axis, size in enumerate(self.port.shape):
            which = np.flatnonzero(wrong.any(axis=tuple(n for n in range(wrong.ndim) if n != axis)))
            few = 0 < len(which) <= max(1, min(LISTED, size // 4)) if size > 1 else False
            if few and (best is None or len(which) / size < best[0]):
                best = len(which) / size, axis, which
        if best is None:
            return None
        _, axis, which = best
        where = f"{self.word(axis, len(which) > 1)} {runs(which)} alone {'is' if len(which) == 1 else 'are'} wrong"
        port, right = self.port.take(which, axis=axis), self.right.take(which, axis=axis)
        of = f"{len(which)} of {self.port.shape[axis]} {self.word(axis, True)}"
        deeper = Difference(port, right, " ".join(self.letters), self.noise, f"{self.where}{where} ({of}): ")
        inner = deeper.alone() if self.port.ndim - self.where.count("alone") > 1 else None
        if inner is not None and inner[1].port.size < port.size:
            return Description("alone", f"{self.where}{where} ({of}), and there {inner[0].text.split(': ')[-1]}", 1.0), inner[1]
        return Description("alone", f"{self.where}{where} ({of})", 1.0), deeper

    # What

    def patterns(self, inputs: Mapping[str, Array]) -> Iterator[Description]:
        for look in (self.constant, self.format, self.of_all, self.mask, self.in_memory, self.order, self.moved, self.clipped):
            yield from look()
        yield from self.of_inputs(inputs)
        yield from self.by_place()
        yield from self.ranks()

    def leaves(self, guess: Array) -> float:
        return float(np.linalg.norm(self.port - guess))

    def fits(self, guess: Array, freedom: float = 0) -> bool:
        """Whether a guess of the port's numbers is right, having so many numbers of its own."""
        if freedom * FREEDOM > self.port.size:
            return False
        return self.leaves(guess) <= max(self.allowed, SHARE * self.length)

    def say(self, kind: str, text: str, guess: Array) -> Description:
        left = self.leaves(guess) / (self.length or 1.0)
        return Description(kind, self.where + text, 1 - min(left, 1.0) ** 2)

    def constant(self) -> Iterator[Description]:
        value = float(self.port.flat[0])
        if (self.port == value).all() and self.port.size > 1:
            yield Description("constant", f"{self.where}every number is {value:.4g}", 1.0)

    def of_all(self) -> Iterator[Description]:
        """One factor, one offset, or both."""
        p, r = self.port, self.right
        factor = float((p * r).sum() / max((r * r).sum(), 1e-300))
        if self.fits(factor * r, 1):
            what = "the sign is wrong" if abs(factor + 1) < 1e-3 else f"every number is {factor:.6g} times what it should be"
            yield self.say("factor", what, factor * r)
            return
        offset = float(self.by.mean())
        if self.fits(r + offset, 1):
            yield self.say("offset", f"every number is {offset:+.6g} off", r + offset)
            return
        slope, start = line(r, p)
        if self.fits(slope * r + start, 2):
            yield self.say(
                "affine", f"every number is {slope:.6g} times what it should be, and {start:+.6g}", slope * r + start
            )

    def mask(self) -> Iterator[Description]:
        """Zeros, or another number, in a triangle, rows or columns."""
        if self.port.ndim < 2:
            return
        values, counts = np.unique(self.port, return_counts=True)
        value = float(values[counts.argmax()])
        there = self.port == value
        if counts.max() < max(4, 0.02 * self.port.size) or not there.any() or (np.abs(self.right[there] - value) < 1e-12).all():
            return
        shape = self.port.shape[-2:]
        if shape[0] == shape[1]:
            for name, triangle in (("above", np.triu(np.ones(shape, bool), 1)), ("below", np.tril(np.ones(shape, bool), -1))):
                if there[..., triangle].all() and not there[..., ~triangle].all():
                    axes = f"{self.word(self.port.ndim - 2)} by {self.word(self.port.ndim - 1)}"
                    causal = ", as by a causal mask" if name == "above" else ""
                    said = f"every number {name} the diagonal is {value:.4g} ({axes}){causal}"
                    yield Description("triangle", self.where + said, self.share_of(np.broadcast_to(triangle, there.shape)))
                    return
        for axis in range(self.port.ndim):
            which = np.flatnonzero(there.all(axis=tuple(n for n in range(there.ndim) if n != axis)))
            if 0 < len(which) < self.port.shape[axis]:
                are = "is" if len(which) == 1 else "are"
                one = f"{self.word(axis, len(which) > 1)} {runs(which)} {are} {value:.4g} throughout"
                inside = np.zeros(there.shape, bool)
                np.moveaxis(inside, axis, 0)[which] = True
                yield Description("masked", self.where + one, self.share_of(inside))
                return

    def share_of(self, inside: Array) -> float:
        return float((self.by[inside] ** 2).sum() / max(self.length**2, 1e-300))

    def order(self) -> Iterator[Description]:
        """The same rows along an axis, in another order."""
        for axis, size in enumerate(self.port.shape):
            if 1 < size <= 4096 and self.port.size // size >= 4:
                yield from self.order_along(axis)

    def order_along(self, axis: int) -> Iterator[Description]:
        p, r = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (self.port, self.right))
        distance = (p * p).sum(1)[:, None] + (r * r).sum(1) - 2 * p @ r.T  # of port's row i to right row j
        taken = distance.argmin(axis=1)
        plain = np.arange(len(p))
        if (taken == plain).all():
            return
        guess = np.moveaxis(self.right.take(taken, axis=axis), axis, axis)
        several, size = self.word(axis, True), len(plain)
        if self.fits(guess) and len(set(taken.tolist())) == size:
            yield self.say("order", f"the {several} are in another order: {ordered(taken)}", guess)
            return
        for by in (1, -1):
            moved = np.roll(self.right, by, axis=axis)
            kept = slice(by, None) if by > 0 else slice(0, by)
            part = [np.moveaxis(x, axis, 0)[kept] for x in (self.port, moved)]
            allowed = max(self.allowed, SHARE * self.length)
            if size > 2 and np.linalg.norm(part[0] - part[1]) <= allowed:
                which = "the one before it" if by > 0 else "the next one"
                yield self.say("shift", f"every {self.word(axis)} is {which}", moved)
                return
        if self.fits(guess) and len(set(taken.tolist())) > 1:
            yield self.say("repeated", f"the {several} are others, some of them twice: {ordered(taken)}", guess)

    def moved(self) -> Iterator[Description]:
        """Two axes swapped, or numbers read in the order of other axes."""
        r, shape = self.right, self.port.shape
        for a, b in itertools.combinations(range(r.ndim), 2):
            if min(shape[a], shape[b]) == 1:
                continue
            swapped = r.swapaxes(a, b)
            pair = f"{self.word(a, True)} and {self.word(b, True)}"
            if swapped.shape == shape and self.fits(swapped):
                yield self.say("transposed", f"{pair} are transposed", swapped)
                return
            if swapped.shape != shape and self.fits(swapped.reshape(shape)):
                yield self.say(
                    "reshaped", f"the numbers lie as if {pair} had been swapped, and then reshaped", swapped.reshape(shape)
                )
                return
            there = [*shape]
            there[a], there[b] = there[b], there[a]
            back = r.reshape(there).swapaxes(a, b)
            if self.fits(back):
                yield self.say("reshaped", f"the numbers lie as if reshaped first, and {pair} swapped then", back)
                return

    def in_memory(self) -> Iterator[Description]:
        """All numbers a few places on, as by a pointer that is off."""
        flat, shape = self.right.ravel(), self.port.shape
        for by in (1, -1, 2, -2):
            guess = np.roll(flat, by).reshape(shape)
            if flat.size > 64 and self.fits(guess, 4):
                places, way = f"{abs(by)} place{'s' * (abs(by) > 1)}", "later" if by > 0 else "earlier"
                yield self.say("flat shift", f"all numbers are {places} {way} in memory than they should be", guess)
                return

    def clipped(self) -> Iterator[Description]:
        low, high = float(self.port.min()), float(self.port.max())
        guess = np.clip(self.right, low, high)
        cut = [f"{word} {limit:.6g}" for word, limit, outside in (
            ("below", low, (self.right < low).any()), ("above", high, (self.right > high).any())) if outside]  # fmt: skip
        at_limits = ((self.port == low) | (self.port == high)).sum()
        if cut and at_limits >= 4 and self.fits(guess, 2):
            count = int(((self.right < low) | (self.right > high)).sum())
            yield self.say("clipped", f"numbers are cut off {' and '.join(cut)} ({count:,} of {guess.size:,})", guess)

    def format(self) -> Iterator[Description]:
        """Numbers of a narrower format: all of the port's are, and the right ones are not."""
        for name in ("float8-e4m3", "float8-e5m2", "bfloat16", "float16"):
            if (to_float(self.port, name) == self.port).all() and not (to_float(self.right, name) == self.right).all():
                near = {how: to_float(self.right, name, how) for how in ("even", "truncate")}
                how = min(near, key=lambda how: self.leaves(near[how]))
                unit = 2.0 ** -FLOATS[name].mantissa * float(np.abs(self.right).max())
                if np.abs(self.port - near[how]).max() <= unit:
                    cut = ", cut off instead of rounded" if how == "truncate" else ""
                    yield self.say("format", f"every number is one of {name}{cut}", near[how])
                return
        steps = np.unique(self.port)
        if 2 < len(steps) <= 256 and self.port.size > 4 * len(steps):
            gap = np.diff(steps)
            unit = float(gap.min())
            if np.abs(gap / unit - np.rint(gap / unit)).max() < 1e-3 and np.abs(self.by).max() <= 1.01 * unit:
                yield self.say("grid", f"every number is a multiple of {unit:.6g}, as of integers with a scale", self.right)

    def of_inputs(self, inputs: Mapping[str, Array]) -> Iterator[Description]:
        """A multiple of what the step was computed from is added, or missing."""
        for name, given in inputs.items():
            x = np.asarray(given, np.float64)
            if x.shape != self.port.shape:
                continue
            times = float((self.by * x).sum() / max((x * x).sum(), 1e-300))
            if self.fits(self.right + times * x, 1):
                what = {-1: "is missing", 1: "is added once too often"}.get(round(times)) if near_whole(times) else None
                what = what or f"counts {1 + times:.6g} times"
                yield self.say("input", f"{name} {what}", self.right + times * x)
                return

    def by_place(self) -> Iterator[Description]:
        """A factor, an offset, or both, for each place along an axis."""
        p, r = self.port, self.right
        axes = [axis for axis in range(p.ndim) if p.shape[axis] > 1]
        for kind, parameters in (("factor", 1), ("offset", 1), ("affine", 2)):
            for axis in sorted(axes, key=lambda axis: p.shape[axis]):
                rest = tuple(n for n in range(p.ndim) if n != axis)
                if not rest:
                    continue
                mean = lambda x, rest=rest: x.mean(axis=rest, keepdims=True)  # noqa: E731
                factor, start = np.ones(()), np.zeros(())
                if kind == "factor":
                    factor = mean(p * r) / np.maximum(mean(r * r), 1e-300)
                elif kind == "offset":
                    start = mean(self.by)
                else:
                    spread = mean((r - mean(r)) ** 2)
                    factor = mean((r - mean(r)) * (p - mean(p))) / np.maximum(spread, 1e-300)
                    start = mean(p) - factor * mean(r)
                guess = factor * r + start
                if self.fits(guess, parameters * p.shape[axis]):
                    said = {
                        "factor": f"has a factor of its own, {spread_of(factor)}",
                        "offset": f"is off by a number of its own, {spread_of(start)}",
                        "affine": f"has a factor and an offset of its own, {spread_of(factor)} and {spread_of(start)}",
                    }[kind]
                    yield self.say(f"{kind} by place", f"every {self.word(axis)} {said}", guess)
                    return

    def ranks(self) -> Iterator[Description]:
        """A difference that is an outer product, or a sum of few."""
        by = self.by.reshape(-1, self.by.shape[-1])
        if min(by.shape) < 16 or by.size > 4e6:
            return
        left, sizes, across = np.linalg.svd(by, full_matrices=False)
        for rank in (1, 2, 3, 4):
            guess = (left[:, :rank] * sizes[:rank]) @ across[:rank]
            if self.fits(self.right + guess.reshape(self.by.shape), rank * sum(by.shape)):
                last = self.word(self.port.ndim - 1)
                said = f"one number a {last} times one a row" if rank == 1 else f"a sum of {rank} outer products"
                yield self.say("rank", f"the difference has rank {rank}: {said}", self.right + guess.reshape(self.by.shape))
                return

    def statistics(self) -> Description:
        """How much differs, how much alike it is, and where most of it lies."""
        wrong = np.abs(self.by) > NOISES * self.noise["largest"] * float(np.abs(self.right).max())
        p, r = self.port - self.port.mean(), self.right - self.right.mean()
        alike = float((p * r).sum() / max(math.sqrt((p * p).sum() * (r * r).sum()), 1e-300))
        size = float(np.linalg.norm(self.port)) / max(float(np.linalg.norm(self.right)), 1e-300)
        most = []
        for axis, count in enumerate(self.port.shape):
            power: Array = (self.by**2).sum(axis=tuple(n for n in range(self.by.ndim) if n != axis))
            first = int(power.argmax())
            all_of_it = float(power.sum())
            if count > 1 and power[first] > all_of_it * max(4 / count, 0.25):
                most.append(f"{self.word(axis)} {first} has {100 * power[first] / all_of_it:.0f} % of it")
        where = f"; {', '.join(most)}" if most else ""
        return Description(
            "statistics",
            f"{100 * wrong.mean():.3g} % of the numbers differ beyond noise; correlation with the right ones {alike:.4f}, "
            f"size {size:.3g} of theirs{where}",
        )


def near_whole(x: float) -> bool:
    return abs(x - round(x)) < 1e-3


def line(x: Array, y: Array) -> tuple[float, float]:
    """Slope and start of the line through (x, y) with the least squared error."""
    centred = x - x.mean()
    slope = float((centred * (y - y.mean())).sum() / max((centred * centred).sum(), 1e-300))
    return slope, float(y.mean() - slope * x.mean())


def spread_of(values: Array) -> str:
    """ "0.5 to 2"."""
    return f"{float(np.min(values)):.4g} to {float(np.max(values)):.4g}"


def runs(which: Array) -> str:
    """[0, 1, 2, 5] -> "0 to 2, 5"."""
    found: list[list[int]] = []
    for n in (int(n) for n in which):
        if found and n == found[-1][-1] + 1:
            found[-1].append(n)
        else:
            found.append([n])
    shown = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in found]
    return ", ".join(shown[:LISTED]) + (", ..." if len(shown) > LISTED else "")


def ordered(taken: Array) -> str:
    """An order in words where it has some, else the first places."""
    size, places = len(taken), np.arange(len(taken))
    if (taken == places[::-1]).all():
        return "reversed"
    by = int(places[0] - taken[0]) % size
    if (taken == np.roll(places, by)).all():
        return f"moved on by {by}, cyclically" if by <= size // 2 else f"moved back by {size - by}, cyclically"
    for parts in (n for n in range(2, size) if size % n == 0):
        if (taken == places.reshape(parts, -1).T.ravel()).all():
            return f"{parts} interleaved ones ({', '.join(map(str, taken[:4]))}, ...)"
    moved = np.flatnonzero(taken != places)
    if len(moved) == 2:
        return f"{moved[0]} and {moved[1]} are swapped"
    pairs = f"{', '.join(map(str, taken[:LISTED]))}{', ...' if size > LISTED else ''}"
    return f"{pairs} ({len(moved)} of {size} are elsewhere)"


Look = Callable[[], Iterator[Description]]
