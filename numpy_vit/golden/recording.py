"""Record a golden: run a model once and keep every step, its hash, and how much noise narrower arithmetic makes there."""

import fnmatch
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..arithmetic.named import Grid
from ..arithmetic.narrow import codes_of
from ..arithmetic.portable import total
from ..arithmetic.rounded import FORMATS, KINDS, round_to, rounded_tensors
from ..errors import InputError, nearest
from ..models.narrow import NarrowViT
from ..parameters import parameter_shapes
from ..tracing.tracer import trace
from ..vit import ViT, step_names
from .folder import FORMAT, IN_INTEGERS, LAYOUTS, SUMS, VERSION, file_name, manifest_sha256, sha256, weights_sha256

Array = Any
Floors = dict[str, dict[str, dict[str, float]]]  # step -> "run" and "step" -> "largest", "l2", "gain"


def record(
    model: ViT,
    pixels: Array,
    *,
    steps: Sequence[str] = ("*",),
    store: str = "float64",
    layout: str = "safetensors",
    noise: Sequence[str] = FORMATS,
    origin: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Run `model` on `pixels` (B, C, Y, X): a golden's manifest and its arrays, for `numpy_vit.golden.folder.write_golden`.

    steps    names or patterns of the steps to keep; the pixels are always kept
    store    "float64", or "float32" for half the size (the hashes are of what is stored)
    layout   how it is to be written: "safetensors", "npy" or "raw" (numpy_vit.golden.folder)
    noise    the formats whose noise floor is measured
    origin   what the manifest is to say of the "model", the "input" and the "preprocess"ing

    For hashes that hold on every machine the model must be of dtype "portable". Raises InputError.
    """
    if store not in ("float64", "float32"):
        raise InputError(f"store {store!r}: float64 or float32")
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r}: one of {', '.join(LAYOUTS)}")
    unknown = [name for name in noise if name not in FORMATS]
    if unknown:
        raise InputError(f"noise of {unknown[0]!r}: one of {', '.join(FORMATS)}")
    pixels = np.ascontiguousarray(pixels, model.dtype)
    arithmetic = model.arithmetic if isinstance(model, NarrowViT) else None
    original = model.original if isinstance(model, NarrowViT) else model
    portable = model.array_type is not np.ndarray
    precision = arithmetic.name if arithmetic else "portable" if portable else str(model.dtype)
    if arithmetic and (noise or store == "float64"):
        raise InputError("a golden in a narrow arithmetic is compared exactly: it has no noise floors, and stores float32")
    traced = trace(model.config, batch=len(pixels), dtype=model.dtype, size=pixels.shape[2:])
    rows = {row.name: row for row in traced}
    for pattern in steps:
        if not fnmatch.filter(rows, pattern):
            raise InputError(f"no step is called '{pattern}'{nearest(pattern, rows)}")
    progress(f"running in {precision}")
    with np.errstate(all="ignore"):  # what overflows is refused below
        exact, whole, grids = run_whole(model, pixels)
    for name, array in exact.items():
        if not np.isfinite(array).all():
            raise InputError(f"step {name} has NaN or infinite numbers: such a model makes no golden")
    kept = [name for name in exact if name == "pixels" or any(fnmatch.fnmatchcase(name, p) for p in steps)]
    kept = [name for step in kept for name in (step + SUMS, step) if name in exact or name in whole]
    floors = {}
    for kind in noise:
        progress(f"measuring the noise floor of {kind}")
        floors[kind] = noise_floors(model, exact, kind)
    stored = {name: whole[name] if name in whole else exact[name].astype(store) for name in kept}
    entries = []
    for name in kept:
        row = rows.get(name.removesuffix(SUMS))
        entries.append(
            {
                "name": name,
                "operation": row.operation if row else "input",
                "formula": row.formula if row else "",
                "inputs": [tensor.name for tensor in row.inputs] if row else [],
                "weights": [tensor.name for tensor in row.weights] if row else [],
                "dims": row.dims if row else "B C Y X",
                "shape": list(stored[name].shape),
                "dtype": str(stored[name].dtype),
                "file": file_name(name, layout, stored[name].dtype),
                "sha256": sha256(stored[name]),
                "largest": float(np.abs(exact.get(name, stored[name])).max()),
                "noise": {kind: floors[kind][name] for kind in noise},
            }
        )
    origin = dict(origin or {})
    manifest = {
        "format": FORMAT,
        "version": IN_INTEGERS if arithmetic else VERSION,
        "numpy_vit": __version__,
        "precision": precision,
        "store": store,
        "layout": layout,
        "model": origin.get("model", {}),
        "input": origin.get("input", {}),
        "weights_sha256": weights_sha256(original.tensors, parameter_shapes(model.config)),
        "config": model.config.to_dict(),
        "preprocess": origin.get("preprocess"),
        "sizes": traced.sizes,
        **(
            {
                "arithmetic": arithmetic.to_plain(),
                "calibration": origin.get("calibration", {}),
                "grids": {name: list(grid) for name, grid in grids.items()},
            }
            if arithmetic
            else {}
        ),
        "steps": entries,
    }
    return {**manifest, "sha256": manifest_sha256(manifest)}, stored


def run_whole(model: ViT, pixels: Array) -> tuple[dict[str, Array], dict[str, Array], dict[str, Grid]]:
    """Every step's real numbers; what is kept in integers as those, with the sums it was requantised from; and its grid."""
    real: dict[str, Array] = {"pixels": np.asarray(pixels)}
    whole: dict[str, Array] = {}
    grids: dict[str, Grid] = {}
    if not isinstance(model, NarrowViT):
        return {**real, **model(pixels, record=True, resize_positions=True).steps}, whole, grids

    def hear(name: str, array: Array, dims: str) -> None:
        real[name] = np.asarray(array)
        if getattr(array, "grid", None) is not None:  # tables of rotations are plain arrays
            grids[name] = array.grid
            whole[name] = codes_of(array, array.grid).astype(dtype_for(array.grid))
            if array.made_of is not None:
                sums = array.made_of.moved(array.made_of.sums(model.arithmetic))
                whole[name + SUMS] = sums.astype(np.int32 if model.arithmetic.accumulator_bits <= 32 else np.int64)

    model(pixels, record=hear, resize_positions=True)
    return real, whole, grids


def dtype_for(grid: Grid) -> str:
    """The narrowest dtype for a grid's codes."""
    bits = 8 if max(-grid.low - 1, grid.high) < (256 if grid.low >= 0 else 128) else 16
    return f"{'int' if grid.low < 0 else 'uint'}{bits}"


def replay(model: ViT, pixels: Array, given: Mapping[str, Array], hear: Callable[[str, Array], None]) -> None:
    """The forward pass again, step by step, from a port's own inputs (teacher forcing): hear(name, array) gets every step as
    computed from the given arrays before it, and then the given array takes its place.

    pixels (B, C, Y, X) and the given arrays are of the model's dtype. So accumulated error is told from a fresh mistake.
    """

    def heard_and_replaced(name: str, array: Array) -> Array:
        hear(name, array)
        return given.get(name, array)

    names = step_names(model.config, pixels.shape[2:])
    change = {name: functools.partial(heard_and_replaced, name) for name in names}
    model.run(pixels, change=change)


def noise_floors(model: ViT, exact: Mapping[str, Array], kind: str) -> Floors:
    """How far arithmetic in a format is from exact at every step, measured by running it.

    exact   "pixels" and every step of the model, in float64

    "run": the whole forward pass in the format, up to this step. "step": this step alone, against the exact step from the same
    inputs, which are the exact ones rounded to the format. Both as `floor` gives them.
    """
    narrow = ViT(model.config, rounded_tensors(kind, model.tensors))
    rounded = {name: round_to(kind, array).view(KINDS[kind]) for name, array in exact.items()}
    pixels = floor(rounded["pixels"], exact["pixels"])
    floors: Floors = {name: {} for name in exact}
    floors["pixels"] = {"run": pixels, "step": pixels}
    by_itself: dict[str, Array] = {}
    same_inputs = {name: array.astype(model.dtype) for name, array in rounded.items()}

    def run(name: str, array: Array) -> None:
        floors[name]["run"] = floor(array, exact[name])

    def one_step(name: str, array: Array) -> None:
        floors[name]["step"] = floor(by_itself.pop(name), np.asarray(array))

    with np.errstate(all="ignore"):  # a float16 that overflows is a finding, not a warning
        replay(narrow, rounded["pixels"], {}, run)
        replay(narrow, rounded["pixels"], rounded, lambda name, array: by_itself.update({name: np.asarray(array)}))
        replay(model, same_inputs["pixels"], same_inputs, one_step)
    return floors


def floor(a: Array, exact: Array) -> dict[str, float]:
    """The distance of a from exact to 3 digits, the same on every machine; 1 for what is no number."""
    found = distance(a, exact, lambda x, y: total(x * y))
    return {key: float(f"{abs(x):.3g}") if math.isfinite(x) else 1.0 for key, x in found.items()}


def distance(a: Array, exact: Array, dot: Callable[[Array, Array], Array] = np.dot) -> dict[str, float]:
    """How far a is from exact; `dot` is how products are added up.

    largest   max|a - exact| / max|exact|
    l2        norm of a - exact / norm of exact
    gain      (a - exact) . exact / exact . exact: by how much a is larger as a whole, or smaller
    """
    a, exact = np.asarray(a, np.float64).ravel(), np.asarray(exact, np.float64).ravel()
    difference, square = a - exact, float(dot(exact, exact)) or 1.0
    return {
        "largest": float(np.abs(difference).max() / (np.abs(exact).max() or 1.0)),
        "l2": math.sqrt(dot(difference, difference) / square),
        "gain": float(dot(difference, exact)) / square,
    }
