"""The step contract: every array of the forward pass has a name, named dimensions and a dtype.

    step("scores", query @ key.swapaxes(-1, -2), "B H N N")

is a comment, an assertion and a row of the trace in one literal. A `Step` checks the array and hands it back, and shows
it to whoever listens (a recorder, the shape tracer, a notebook). It raises `ShapeError`; it is never a bare `assert`,
which `python -O` would strip.

The letters, everywhere in this package:

    B batch             C channels        Y X image height and width    P patch size
    G patches           N tokens (the patches and the class token)      D width
    H heads             K head dimension  M MLP width                   L depth
    O classes           R pooler width    E width of the space shared with texts

A dimension may also be a number, or letters joined by `*` and `-`: "B G C*P*P" are the patches, 196 rows of 768.
"""

import copy
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from .errors import InvariantError, ShapeError

Listener = Callable[[str, Any, str], None]
"""Called as listener(full_name, array, dims) once for every step, in the order of execution."""


class Step:
    """Checks and announces the steps of one forward pass.

    sizes   letter -> size; a letter not yet in it is bound by the first array that has it
    dtype   what every step's array must have. NumPy 2 silently upcasts (`float32 / np.sqrt(64)` is float64); this
            catches it
    listen  called with every step, or None
    strict  also check the invariants: shapes prove little by themselves (a transposed 197 x 197 matrix has the
            right shape)
    """

    whole = False  # a subclass that does something to steps itself says True: then each is one array, as for a listener

    def __init__(
        self,
        sizes: Mapping[str, int],
        dtype: Any,
        listen: Listener | None = None,
        strict: bool = False,
    ) -> None:
        self.sizes = dict(sizes)
        self.dtype = dtype
        self.listen = listen
        self.strict = strict
        self.path = ""
        self.part: tuple[int, ...] = ()

    def under(self, name: str) -> "Step":
        """The same contract one level down: `step.under("attention")("query", ...)` is "attention.query"."""
        deeper = copy.copy(self)  # shares what is bound
        deeper.path = f"{self.path}{name}."
        return deeper

    def of_part(self, shape: tuple[int, ...]) -> "Step":
        """The same contract for a part of the arrays, whose first axes have these sizes; nobody hears of it."""
        smaller = copy.copy(self)
        smaller.part, smaller.listen = tuple(shape), None
        return smaller

    def of_share(self, config: Any) -> "Step":
        """The same contract for a share of the heads or hidden numbers, as many as `config` has."""
        narrower = copy.copy(self)
        narrower.sizes = {**self.sizes, "H": config.heads, "M": config.mlp}
        return narrower

    @property
    def unheard(self) -> bool:
        """Whether nobody listens to any step."""
        return self.listen is None and not self.whole

    def wants(self, name: str) -> bool:
        """Whether somebody listens to this step. A listener may say what it wants by a function `wants(full_name)`."""
        return self.whole or (self.listen is not None and getattr(self.listen, "wants", lambda _: True)(self.path + name))

    def spare(self, name: str, array: Any) -> Any:
        """The array of a step, for the next to be written over it; None where somebody has seen it and may keep it."""
        return None if self.wants(name) else array

    def __call__(self, name: str, array: Any, dims: str) -> Any:
        """Hold `array` to `dims` and to the dtype, announce it, and return it unchanged.

        Raises ShapeError with the step's full name, the dimensions with their sizes, and what came.
        """
        if not fits(array.shape, dims, self.sizes, self.part):
            expected = " ".join(spell(d, self.sizes) for d in dims.split())
            raise ShapeError(f"step {self.path}{name}: expected ({expected}), got {tuple(array.shape)}")
        if array.dtype != self.dtype:
            raise ShapeError(f"step {self.path}{name}: expected dtype {self.dtype}, got {array.dtype}")
        if self.listen is not None:
            self.listen(self.path + name, array, dims)
        return array

    def invariant(self, name: str, holds: Callable[..., bool], *arrays: Any) -> None:
        """With `strict`, raise InvariantError unless holds(*arrays). Its docstring says what must hold."""
        if self.strict and not holds(*arrays):
            raise InvariantError(f"step {self.path}{name}: {(holds.__doc__ or holds.__name__).strip()}: not so")


def fits(shape: tuple[int, ...], dims: str, sizes: Mapping[str, int], part: tuple[int, ...] = ()) -> bool:
    """Whether `shape` is `dims`, but for the first axes the sizes of a part; binds in `sizes` the lone letters that are new."""
    expected = parse(dims)
    if len(shape) != len(expected) or shape[: len(part)] != part:
        return False
    for size, (dim, letters) in list(zip(shape, expected, strict=True))[len(part) :]:
        if dim == letters and dim not in sizes:
            sizes[dim] = size  # type: ignore[index]
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
