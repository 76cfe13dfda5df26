"""A model in a narrow arithmetic (numpy_vit.arithmetic.named), and the measuring of the scales it needs."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arithmetic.named import Arithmetic, Grid, arithmetic_from, arithmetic_named, named
from ..arithmetic.narrow import NarrowArray, Storing, grid_for, hold, in_format, kind
from ..errors import InputError, about, nearest
from ..fields import is_number
from ..files.jsonfile import read_json
from ..parameters import is_learned
from ..vit import ViT, step_names

Array = Any
RULES = ("min-max", "percentile", "error")
BINS = 2048  # of the histograms that percentiles and errors are read from
PERCENTILE = 99.99


class NarrowViT(ViT):
    """A model whose forward pass runs in a narrow arithmetic; its outputs and steps are real numbers.

    model       the model as it is; kept as `original`
    arithmetic  an Arithmetic
    grids       step -> the Grid it is kept on, where the arithmetic keeps steps in integers (`calibrate` measures them)

    Raises InputError where a grid is missing.
    """

    def __init__(self, model: ViT, arithmetic: Arithmetic, grids: Mapping[str, Grid] | None = None) -> None:
        tensors = narrow_tensors(model.tensors, arithmetic)
        super().__init__(model.config, tensors, model.labels, model.preprocess_policy, model.source)
        self.original = model
        self.arithmetic = arithmetic
        self.grids = dict(grids or {})
        for name in step_names(model.config, model.config.image) if arithmetic.steps else ():
            if arithmetic.is_kept_in_integers(name) and name not in self.grids:
                raise InputError(f"arithmetic {arithmetic.name}: no scale is known for step {name}: calibrate it")

    def _step(self, batch: int, image: tuple[int, int], hear: Any, change: Any, touched: Any) -> Storing:
        return Storing.of(super()._step(batch, image, hear, change, touched), self.grids)


def narrow_tensors(tensors: Mapping[str, Array], arithmetic: Arithmetic) -> dict[str, NarrowArray]:
    """Weights as the arithmetic has them: real numbers, and of matrices what goes into products besides."""
    of_kind, found = kind(arithmetic), {}
    for name, tensor in tensors.items():
        values = np.asarray(tensor, np.float64)
        if in_products(name, tensor) and arithmetic.weights is not None:
            found[name] = narrow_matrix(values, arithmetic)
        else:
            found[name] = in_format(of_kind, values, arithmetic.tensors if is_learned(name) else "float32")
    return found


def in_products(name: str, tensor: Array) -> bool:
    """Whether a tensor is the matrix of a linear layer."""
    return tensor.ndim == 2 and name.endswith(".weight")


def narrow_matrix(values: Array, arithmetic: Arithmetic) -> NarrowArray:
    """A matrix (in, out) as the arithmetic holds it. One that ggml's blocks do not fit stays float32."""
    numbers = arithmetic.weights
    assert numbers is not None
    if arithmetic.block_products and len(values) % numbers.block:
        return in_format(kind(arithmetic), values, "float32")
    held = hold(values, numbers, 0)
    scale = held.scale if np.ndim(held.scale) < 2 or len(held.scale) == 1 else np.repeat(held.scale, numbers.block, axis=0)
    matrix = in_format(kind(arithmetic), (held.codes - held.zero) * scale, "float32")
    matrix.format = numbers.format if numbers.per is None else "float32"
    matrix.held = held
    return matrix


def chosen(name: str) -> Arithmetic:
    """An arithmetic by its name, or from a JSON file. Raises InputError."""
    if name not in named() and (name.endswith(".json") or Path(name).is_file()):
        with about(name):
            return arithmetic_from(read_json(Path(name)), Path(name).stem)
    return arithmetic_named(name)


# Calibration


def calibrate(
    model: ViT,
    batches: Callable[[], Iterable[Array]],
    arithmetic: Arithmetic,
    rule: str = "min-max",
    percentile: float = PERCENTILE,
) -> dict[str, Grid]:
    """The grid of every step, from how large its numbers are on some pictures; empty where the arithmetic needs none.

    model    in float32 or float64
    batches  called for an iterable of pixels (B, C, Y, X): once, or twice where a rule needs histograms
    rule     "min-max": all numbers fit. "percentile": so many of a hundred do, at either end. "error": the range whose
             grid gives the least squared error

    Raises InputError for another rule, or where there is no picture.
    """
    if rule not in RULES:
        raise InputError(f"calibration {rule!r:.40}: one of {', '.join(RULES)}")
    if arithmetic.steps is None:
        return {}
    ranges = measured_ranges(model, batches())
    if not ranges:
        raise InputError("no picture to calibrate with")
    if rule != "min-max":
        histograms = measured_histograms(model, batches(), ranges)
        narrowed = by_percentile if rule == "percentile" else by_error
        ranges = {name: narrowed(histograms[name], *ranges[name], arithmetic, percentile) for name in ranges}
    return grids_of(ranges, arithmetic)


def grids_of(ranges: Mapping[str, tuple[float, float]], arithmetic: Arithmetic) -> dict[str, Grid]:
    """The grids for steps whose numbers lie in these ranges; empty where the arithmetic needs none."""
    numbers = arithmetic.steps
    if numbers is None:
        return {}
    return {name: arithmetic.fixed_grid(name) or grid_for(*ends, numbers) for name, ends in ranges.items()}


def measured_ranges(model: ViT, batches: Iterable[Array]) -> dict[str, tuple[float, float]]:
    """Every step's smallest and largest number."""
    found: dict[str, tuple[float, float]] = {}

    def hear(name: str, array: Array, dims: str) -> None:
        low, high = found.get(name, (np.inf, -np.inf))
        found[name] = min(low, float(array.min())), max(high, float(array.max()))

    for pixels in batches:
        model(pixels, record=hear, resize_positions=True)
    return found


def measured_histograms(model: ViT, batches: Iterable[Array], ranges: Mapping[str, tuple[float, float]]) -> dict[str, Array]:
    """How many of every step's numbers lie in each of BINS equal parts of its range."""
    found = {name: np.zeros(BINS, np.int64) for name in ranges}

    def hear(name: str, array: Array, dims: str) -> None:
        low, high = ranges[name]
        place = (np.asarray(array, np.float64) - low) * (BINS / ((high - low) or 1.0))
        found[name] += np.bincount(np.clip(place, 0, BINS - 1).astype(np.int64).ravel(), minlength=BINS)

    for pixels in batches:
        model(pixels, record=hear, resize_positions=True)
    return found


def by_percentile(counts: Array, low: float, high: float, arithmetic: Arithmetic, percentile: float) -> tuple[float, float]:
    """The range within which so many of a hundred numbers are, as many being left out at either end."""
    share, width = np.cumsum(counts) / counts.sum(), (high - low) / BINS
    outside = (1 - percentile / 100) / 2
    first = int(np.searchsorted(share, outside, side="right"))
    last = int(np.searchsorted(share, 1 - outside, side="left"))
    return low + first * width, low + (min(last, BINS - 1) + 1) * width


def by_error(counts: Array, low: float, high: float, arithmetic: Arithmetic, percentile: float) -> tuple[float, float]:
    """The range, of those that leave out the same share at either end, whose grid gives the least squared error."""
    centres, numbers = low + (np.arange(BINS) + 0.5) * ((high - low) / BINS), arithmetic.steps
    assert numbers is not None

    def error_of(share: float) -> float:
        grid = grid_for(low * share, high * share, numbers)
        codes = np.clip(np.rint(centres / grid.scale) + grid.zero, grid.low, grid.high)
        wrong = (codes - grid.zero) * grid.scale - centres
        # within a bin numbers are spread evenly; a grid coarser than bins errs by a twelfth of its step squared
        inside = (codes > grid.low) & (codes < grid.high)
        return float((counts * np.where(inside, grid.scale**2 / 12, wrong * wrong)).sum())

    best = min(np.linspace(1.0, 0.05, 96), key=error_of)
    return low * float(best), high * float(best)


def read_grids(path: Path, arithmetic: Arithmetic, names: Iterable[str]) -> dict[str, Grid]:
    """A port's own scales: a JSON object, step -> {"scale": ..., "zero_point": ...}, or a golden's manifest.

    Raises InputError.
    """
    values, known = read_json(path), list(names)
    if isinstance(values.get("grids"), Mapping):  # of a golden's manifest
        values = {name: {"scale": grid[0], "zero_point": grid[1]} for name, grid in values["grids"].items()}
    if arithmetic.steps is None:
        raise InputError(f"{path}: arithmetic {arithmetic.name} keeps no step in integers, and needs no scales")
    low, high = arithmetic.steps.range
    grids = {}
    with about(path):
        for name, given in values.items():
            if name not in known:
                raise InputError(f"no step is called '{name}'{nearest(name, known)}")
            pair = given if isinstance(given, Mapping) else {}
            scale, zero = pair.get("scale") or 0, pair.get("zero_point", 0)
            if not is_number(scale) or not 0 < scale < 1e30 or type(zero) is not int or not low <= zero <= high:
                raise InputError(f"'{name}' must have a scale above 0 and a zero_point from {low} to {high}, not {given!r:.60}")
            grids[name] = Grid(float(np.float32(scale)), zero, low, high)
        missing = [name for name in known if name not in grids and arithmetic.is_kept_in_integers(name)]
        fixed = {name: grid for name in missing if (grid := arithmetic.fixed_grid(name))}
        missing = [name for name in missing if name not in fixed]
        if missing:
            raise InputError(f"has no scale for {len(missing)} steps, the first is {missing[0]}")
    return {**grids, **fixed}
