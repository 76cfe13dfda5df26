"""The step contract: every array of the forward pass has a name, named dimensions and a dtype.

    step("scores", query @ key.swapaxes(-1, -2), "B H N N")

is a comment, an assertion and a row of the trace in one literal. A `Step` checks the array and hands it back; on the way it
may be heard (by a recorder, the tracer, a notebook) and changed (by a "what if", or a port's own numbers). A wrong array
raises `ShapeError`; it is never a bare `assert`, which `python -O` would strip.

The letters, everywhere in this package:

    B batch             C channels        Y X picture height and width  P patch size
    G patches           N tokens (the patches and the class token)      D width
    H heads             K head dimension  M MLP width                   L depth
    O classes           R pooler width    E width of the space shared with texts

A dimension may also be a number, or letters joined by `*` and `-`: "B G C*P*P" are the patches, 196 rows of 768.
"""

import copy
import functools
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

from .errors import ShapeError

Array = Any
Listener = Callable[[str, Any, str], None]
"""Called as listener(full_name, array, dims) once for every step, in the order of execution."""


class Step:
    """One forward pass: what its steps are held to, who hears and changes them, and what stands in the paper's place.

    sizes    letter -> size; a letter not yet in it is bound by the first array that has it
    dtype    what every step's array must have. NumPy 2 silently upcasts (`float32 / np.sqrt(64)` is float64); this
             catches it
    hear     called with every step, after it was changed
    change   a step's full name -> a function of its array; what that gives is held to the same contract, and goes on
    touched  the full names of the steps that are heard or changed, and the names above them; what is not touched may be
             computed in another way (numpy_vit.arithmetic.parallel)
    uses     function of the paper -> the function that a family has in its place (numpy_vit.families)
    ways     function of the paper -> how to run it, or what stands in its place, fast (numpy_vit.arithmetic.parallel)
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        dtype: Any,
        *,
        hear: Listener | None = None,
        change: Mapping[str, Callable[[Array], Array]] | None = None,
        touched: Container[str] | None = None,
        uses: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
        ways: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    ) -> None:
        self.sizes = dict(sizes)
        self.dtype = dtype
        self.hear = hear
        self.change = change or {}
        self.touched = touched if touched is not None else EVERY if hear or change else ()
        self.uses = uses or {}
        self.ways = ways or {}
        self.path = ""
        self.after: Mapping[str, Callable[..., Array]] = {}
        self.fitting: set[tuple[Any, ...]] = set()  # shapes that were found right: checked once is enough

    def __call__(self, name: str, array: Array, dims: str) -> Array:
        """Hold `array` to `dims` and to the dtype; change it, let it be heard, and return it.

        Raises ShapeError with the step's full name, the dimensions with their sizes, and what came.
        """
        name = self.path + name
        self.check(name, array, dims)
        if name in self.change:
            array = self.change[name](array)
            self.check(name, array, dims)
        if self.hear is not None:
            self.hear(name, array, dims)
        return self.after[name](array, self) if name in self.after else array

    def check(self, name: str, array: Array, dims: str) -> None:
        """Raise ShapeError unless the array has these dimensions and the dtype."""
        shape = array.shape
        if (shape, dims) not in self.fitting:
            if not self.fits(shape, dims):
                expected = " ".join(spell(dim, self.sizes) for dim in dims.split())
                raise ShapeError(f"step {name}: expected ({expected}), got {tuple(shape)}")
            self.fitting.add((shape, dims))
        if array.dtype != self.dtype:
            raise ShapeError(f"step {name}: expected dtype {self.dtype}, got {array.dtype}")

    def fits(self, shape: tuple[int, ...], dims: str) -> bool:
        """Whether `shape` is `dims`; binds the lone letters that are new."""
        return fits(shape, dims, self.sizes)

    def into(self, name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        """function(*inputs, step), its steps named "name. ...": one level down, or with "" on the same level.

        What a family, or a mistake, has in the function's place is called instead; how it is run is arithmetic's business.
        """
        step = self.under(name) if name else self
        chosen, way = self.uses.get(function, function), self.ways.get(function)
        result = chosen(*inputs, step) if way is None else way(chosen, *inputs, step)
        name = self.path + name
        return self.after[name](result, self) if name in self.after else result

    def under(self, name: str) -> "Step":
        """The same contract one level down: `step.under("attention")("query", ...)` is "attention.query"."""
        return self.having(path=f"{self.path}{name}.")

    def then(self, after: Mapping[str, Callable[[Array, "Step"], Array]]) -> "Step":
        """The same contract, where more comes after some steps of this level: name -> f(array, step) -> what goes on."""
        return self.having(after={**self.after, **{self.path + name: what for name, what in after.items()}})

    def having(self, **changes: Any) -> "Step":
        """The same contract, which shares what is bound, with some attributes changed."""
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other

    def touches(self, *names: str) -> bool:
        """Whether one of these steps of this level is heard or changed; without names, whether any below this level is."""
        return any(self.path + name in self.touched for name in names) if names else self.path.rstrip(".") in self.touched

    def part_of(self, array: Array) -> Array:
        """Of an array (H, N, N) or (B, H, N, n), what goes with the scores at hand: all, but in tiles (arithmetic.parallel)."""
        return array


class Every:
    """Contains everything."""

    def __contains__(self, name: object) -> bool:
        return True


EVERY = Every()


def fits(shape: tuple[int, ...], dims: str, sizes: dict[str, int]) -> bool:
    """Whether `shape` is `dims`; binds in `sizes` the lone letters that are new."""
    expected = parse(dims)
    if len(shape) != len(expected):
        return False
    for size, (dim, letters) in zip(shape, expected, strict=True):
        if dim == letters and dim not in sizes:
            sizes[dim] = size
        if size != evaluate(dim, sizes):
            return False
    return True


@functools.cache
def parse(dims: str) -> tuple[tuple[str, str], ...]:
    """ "B C*P*P" -> (("B", "B"), ("C*P*P", "CPP")): each dimension with the letters in it."""
    return tuple((dim, "".join(re.findall("[A-Z]", dim))) for dim in dims.split())


def evaluate(dim: str, sizes: Mapping[str, int]) -> int:
    """The size of one dimension: a letter, a number, or letters and numbers joined by `*` and `-`.

    Raises KeyError for a letter that is not bound.
    """
    if dim in sizes:
        return sizes[dim]
    if "-" in dim:
        left, right = dim.rsplit("-", 1)
        return evaluate(left, sizes) - evaluate(right, sizes)
    if "*" in dim:
        left, right = dim.rsplit("*", 1)
        return evaluate(left, sizes) * evaluate(right, sizes)
    return int(dim) if dim.isdigit() else sizes[dim]


def spell(dim: str, sizes: Mapping[str, int]) -> str:
    """ "N" -> "N=197"; a number stays as it is, and so does what is not bound."""
    try:
        return dim if dim.isdigit() else f"{dim}={evaluate(dim, sizes)}"
    except KeyError:
        return dim
