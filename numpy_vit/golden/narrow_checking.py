"""A port's dump against a golden in a narrow arithmetic: integers exactly, and what explains those that differ.

Every step is run again from the port's own inputs. A step in integers that comes from integers alone has one right answer; one
that was computed in floating point first may differ at ties (numpy_vit.golden.integers). What stays in floating point is held
to a few roundings of its format.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arithmetic.formats import FLOATS
from ..arithmetic.named import Arithmetic, Grid
from ..arithmetic.narrow import WAYS, NarrowArray, codes_for, in_format, kind, reals
from ..families import activation_name
from ..files.tensorfile import Tensor
from ..models.narrow import NarrowViT
from ..ops import ACTIVATIONS
from ..vit import ViT
from .alignment import Aligned, align
from .checking import FACTOR, MISSING, OK, UNCLEAR, WRONG, Check, Error, Result, ancestors, cosine, inputs_of
from .folder import SUMS, Golden
from .integers import Case, Difference, Layer
from .recording import distance, replay

Array = Any


@dataclasses.dataclass(frozen=True)
class NarrowCheck(Check):
    """A Check whose steps in integers are kept, to be explained."""

    cases: Mapping[str, Case] = dataclasses.field(default_factory=dict, repr=False)
    narrow: NarrowViT | None = dataclasses.field(default=None, repr=False)  # the model in the golden's arithmetic


def check_narrow(
    golden: Golden,
    dump: Mapping[str, Tensor],
    *,
    mapping: Mapping[str, str] | None = None,
    factor: float = FACTOR,
    model: ViT | None = None,
    no_model: str = "no model was given",
) -> NarrowCheck:
    """Compare a port's dump with a golden in a narrow arithmetic; the options are those of numpy_vit.golden.checking.check.

    A dump holds whole codes, or the real numbers they stand for. Raises InputError for a dump that is not one of this golden.
    """
    arithmetic = golden.arithmetic
    assert arithmetic is not None
    aligned, unknown = align(dump, golden.steps, mapping, whole=True)
    port = {name: as_codes(golden, name, theirs) for name, theirs in aligned.items()}
    inputs = inputs_of(golden)
    narrow = None if model is None else NarrowViT(model, arithmetic, golden.grids)
    again = {} if narrow is None else run_again(narrow, golden, aligned, port, inputs)
    results, cases = [], {}
    for step in golden.steps:
        name = step["name"]
        if name not in aligned:
            if name != "pixels" and not name.endswith(SUMS):
                results.append(Result(name, step["dims"], tuple(step["shape"]), MISSING))
            continue
        if name == "pixels":
            continue
        own: Difference | Error | None = None
        if name in again and isinstance(again[name], Case):
            cases[name] = again[name]
            own = again[name].difference()
        elif name in again:
            own = float_error(port[name], np.asarray(again[name]), arithmetic)
        span = ancestors(name.removesuffix(SUMS), inputs, aligned)
        span = () if set(span) == set(inputs[name.removesuffix(SUMS)]) else span
        results.append(compared(golden, step, aligned[name], port[name], own, span, factor))
    return NarrowCheck(
        results=tuple(results), format=arithmetic.name, factor=factor, budgets=(), unknown=tuple(unknown),
        replayed="" if model is not None else no_model, golden=golden, model=model, floors=units(golden), cases=cases,
        narrow=narrow,
        arrays={name: theirs._replace(array=port[name], dtype=coded(golden, name, theirs)) for name, theirs in aligned.items()},
    )  # fmt: skip


def coded(golden: Golden, name: str, theirs: Aligned) -> str:
    """The dtype of a port's step as `as_codes` gives it."""
    return "int64" if golden.arrays[name].dtype.kind in "iu" and name in golden.grids else theirs.dtype


def units(golden: Golden) -> dict[str, dict[str, dict[str, float]]]:
    """Step -> what a map of its differences is in units of: one code, or one rounding of a float."""
    assert golden.arithmetic is not None
    found = {}
    for name, array in golden.arrays.items():
        largest = float(np.abs(np.asarray(array, np.float64)).max()) or 1.0
        unit = 1.0 / largest if array.dtype.kind in "iu" else roundings(golden.arithmetic)
        found[name] = {of: {"largest": unit, "l2": unit, "gain": unit} for of in ("run", "step")}
    return found


def as_codes(golden: Golden, name: str, theirs: Aligned) -> Array:
    """A port's step as the golden has it: where it is kept in integers, real numbers become the codes they stand for."""
    whole = golden.arrays[name].dtype.kind in "iu" and name in golden.grids
    if not whole:
        return theirs.array
    grid = golden.grids[name]
    if theirs.dtype in ("int8", "uint8", "int16", "uint16", "int32", "int64"):
        return of_the_other_sign(theirs, grid, np.asarray(golden.arrays[name], np.float64))
    codes = theirs.array / grid.scale + grid.zero
    on_grid = bool(np.abs(codes - np.rint(codes)).max() < 1e-3)  # NaN is not
    if on_grid:
        return np.rint(codes)
    are_codes = bool((theirs.array == np.rint(theirs.array)).all() and np.abs(theirs.array).max() < 2**16)
    return theirs.array if are_codes else codes


def of_the_other_sign(theirs: Aligned, grid: Grid, right: Array) -> Array:
    """Whole codes; those of a port in uint8 where the golden has int8, or the other way round, as the golden has them.

    Its zero points are 128 larger then, or its bits are the same: what is nearer to the golden.
    """
    codes, half = theirs.array, 2.0 ** (8 * np.dtype(theirs.dtype).itemsize - 1)
    if (grid.low < 0) == (not theirs.dtype.startswith("u")) or half > 2**15:
        return codes
    unsigned = theirs.dtype.startswith("u")
    moved = codes - half if unsigned else codes + half
    same_bits = (codes + half) % (2 * half) - half if unsigned else codes % (2 * half)
    return min((moved, same_bits), key=lambda x: np.abs(x - right).sum())


def run_again(
    model: NarrowViT, golden: Golden, aligned: Mapping[str, Aligned], port: Mapping[str, Array], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Every step of the dump from the dump's own inputs: a Case for what is kept in integers, else its real numbers."""
    kind_of_array = kind(model.arithmetic)
    given: dict[str, NarrowArray] = {}
    for name, codes in port.items():
        grid = golden.grids.get(name)
        if name != "pixels" and not name.endswith(SUMS):
            if grid is not None and golden.arrays[name].dtype.kind in "iu":
                array = reals(np.clip(np.nan_to_num(codes), grid.low, grid.high), grid).view(kind_of_array)
                array.grid = grid
            else:
                array = in_format(kind_of_array, codes, "float32")
            array.is_step = True
            given[name] = array
    seen: dict[str, NarrowArray] = {}
    again: dict[str, Any] = {}

    def hear(name: str, array: Array) -> None:
        earlier = {other: seen[other] for other in inputs[name] if other in seen}
        if not isinstance(array, NarrowArray):  # a table of rotations, which nothing is computed from here
            array = in_format(kind_of_array, array, "float32")
        if name in port:
            around = Surroundings(model, name)
            again[name] = (
                array if array.grid is None else Case(array, port[name], earlier, *around.known(earlier), golden.grids)
            )
        if name + SUMS in port and array.made_of is not None:
            again[name + SUMS] = SumsCase(array, port[name + SUMS], model.arithmetic)
        if name in given:
            given[name].format = array.format  # a port's numbers are of the format the arithmetic has there
        theirs: Array = given.get(name, array)
        seen[name] = theirs

    pixels = given.get("pixels", np.asarray(golden.arrays["pixels"], np.float64))
    with np.errstate(all="ignore"):
        replay(model, pixels, given, hear)
    return again


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a model has around a step that a port may confuse with what is right there."""

    model: NarrowViT
    step: str

    def known(self, inputs: Mapping[str, NarrowArray]) -> tuple[tuple[Layer, ...], dict[str, Array]]:
        """The layers, and the activations, as a Case takes them."""
        return self.layers(), self.activations(inputs)

    def layer(self, name: str) -> Layer | None:
        matrix, narrow = (model.tensors.get(name + ".weight") for model in (self.model.original, self.model))
        held = getattr(narrow, "held", None)
        if matrix is None or held is None:
            return None
        bias = self.model.tensors.get(name + ".bias")
        return Layer(name, np.asarray(matrix, np.float64), held, None if bias is None else np.asarray(bias))

    def layers(self) -> tuple[Layer, ...]:
        """The step's own, those of the same shape in its block, and its namesakes in the blocks beside."""
        own = self.layer("head" if self.step == "logits" else self.step)
        if own is None:
            return ()
        names = [self.step.replace(".query", f".{other}") for other in ("key", "value")]
        names += [self.step.replace(".key", f".{other}") for other in ("query", "value")]
        names += [self.step.replace(".value", f".{other}") for other in ("query", "key")]
        names += [self.step.replace(".value", ".output"), self.step.replace("attention.output", "attention.value")]
        if self.step.startswith("blocks."):
            _, number, rest = self.step.split(".", 2)
            names += [f"blocks.{int(number) + by}.{rest}" for by in (-1, 1)]
        others = [self.layer(name) for name in dict.fromkeys(names) if name != self.step]
        return (own, *(other for other in others if other is not None and other.matrix.shape == own.matrix.shape))

    def activations(self, inputs: Mapping[str, NarrowArray]) -> dict[str, Array]:
        """The activation's codes for all codes that can go in, then those of others."""
        own, grid = self.model.config.activation, self.model.grids.get(self.step)
        if self.step.rpartition(".")[2] != activation_name(self.model.config) or len(inputs) != 1 or grid is None:
            return {}
        (x,) = inputs.values()
        if x.grid is None:
            return {}
        every = reals(np.arange(x.grid.low, x.grid.high + 1), x.grid).view(type(x))
        every.grid = x.grid
        ways = {name: WAYS[function] for name, function in ACTIVATIONS.items()}
        return {name: codes_for(ways[name](every), grid) for name in (own, *(other for other in ways if other != own))}


class SumsCase(Case):
    """The sums that a step was requantised from."""

    def __init__(self, step: NarrowArray, port: Array, arithmetic: Arithmetic) -> None:
        super().__init__(step, port, {})
        assert step.made_of is not None
        self.right = step.made_of.moved(step.made_of.sums(arithmetic))

    def meanings(self, wrong: Array) -> Any:
        for bits in (16, 24):
            wrapped = (self.right + 2.0 ** (bits - 1)) % 2.0**bits - 2.0 ** (bits - 1)
            if (self.port == wrapped).all():
                yield f"wrapped around at {bits} bits"
                return
        by = self.port - self.right
        columns = by - np.take(np.take(by, [0], axis=0), [0], axis=-2)  # of the first row, of the first picture
        if not columns.any():
            yield f"every column is off by its own number, {by.min():+.0f} to {by.max():+.0f}: biases, or a zero point's part"
            return
        yield f"{np.abs(by[wrong]).mean():.3g} off on average, of sums up to {np.abs(self.right).max():.0f}"


def float_error(port: Array, right: Array, arithmetic: Arithmetic) -> Error:
    """The distance of a step that stays in floating point, in roundings of its format."""
    with np.errstate(all="ignore"):
        found = distance(port, right)
    largest = found["largest"] if np.isfinite(found["largest"]) else np.inf
    return Error(**found, noises=float(largest / roundings(arithmetic)))


def compared(
    golden: Golden, step: Mapping[str, Any], theirs: Aligned, port: Array, own: Any, span: tuple[str, ...], factor: float
) -> Result:
    """One step of the port against the golden's, and against the same step run again (`own`)."""
    name, exact = step["name"], np.asarray(golden.arrays[step["name"]], np.float64)
    whole = golden.arrays[name].dtype.kind in "iu"
    by = np.nan_to_num(np.abs(port - exact), nan=np.inf)
    worst = tuple(int(i) for i in np.unravel_index(int(by.argmax()), by.shape))
    with np.errstate(all="ignore"):
        run = Error(**distance(port, exact), noises=float(by.max()) if whole else np.nan)
    if isinstance(own, Difference):
        right = own.differ == 0 or (bool(span) and within_ties(own))
        verdict = OK if right else WRONG
        error = dataclasses.replace(run, noises=float(own.by))
    elif isinstance(own, Error):
        verdict, error = (OK if own.noises <= factor else WRONG), own
    else:
        verdict, error = (OK if not by.any() else UNCLEAR), None
    return Result(
        name=name, dims=step["dims"], shape=port.shape, verdict=verdict, theirs=theirs.name, dtype=theirs.dtype, run=run,
        own=error, span=span, cosine=cosine(port, exact), worst=worst, golden=float(exact[worst]), port=float(port[worst]),
        nan=int(np.isnan(port).sum()), inf=int(np.isinf(port).sum()), codes=own if isinstance(own, Difference) else None,
    )  # fmt: skip


def within_ties(own: Difference) -> bool:
    """Where the dump lacks steps in between, ties of those that are computed in floating point may have fallen otherwise:
    that moves few codes, and those by little."""
    return own.by <= 2 and own.differ <= 0.02 * own.count


def roundings(arithmetic: Arithmetic) -> float:
    """One rounding of the narrowest float format that results have."""
    formats = [format for format in (arithmetic.tensors, *arithmetic.results.values()) if format in FLOATS]
    return 2.0 ** -(min((FLOATS[format].mantissa for format in formats), default=23) + 1)
