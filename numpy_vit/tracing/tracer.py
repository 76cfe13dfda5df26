"""The shape tracer: every step of the forward pass, in order, with its shapes and its cost, from a config alone.

It runs the forward pass itself (numpy_vit.model.forward) on shape-only arrays (arithmetic.shape_only): no weights, no
arithmetic, and no second description of the model that could drift from the code.

Conventions. MACs: multiply-accumulates of the matrix products; elementwise work is not counted; one MAC is two FLOPs.
Bytes: what a step reads (its inputs and its weights) and writes (its result), each once. Peak memory: the most bytes of
activations alive at once where every step is heard, with the same Python code holding on to them; weights not counted.
A run that nobody listens to needs less: it holds scores in parts only, and reuses memory.
(The module is not called `trace`, because `numpy_vit.trace` is the function.)
"""

import dataclasses
import functools
import math
import os
import re
import warnings
from typing import Any

import numpy as np

from ..arithmetic.precision import precision
from ..arithmetic.shape_only import Ledger, ShapeOnly
from ..config import MAX_SIZE, ViTConfig, check_image, is_variant, variant
from ..errors import InputError, ShapeError
from ..families import activation_name
from ..fields import whole_number
from ..parameters import is_learned
from ..vit import dry_run
from .rows import PARTS as PARTS
from .rows import Row, Rows, Tensor
from .step_texts import EXPLANATIONS, LAYER_NORM, Explanation, fill_in, step_key


class Trace(Rows):
    """The rows of a traced run, and their totals; printed, it is a table."""

    def __repr__(self) -> str:
        from .render import table

        return table(self)

    def _repr_html_(self) -> str:
        from .render import html

        return html(self)


def trace(
    model: Any = "ViT-B/16",
    *,
    batch: int = 1,
    dtype: Any = "float32",
    size: tuple[int, int] | None = None,
    **overrides: Any,
) -> Trace:
    """Trace a model by its config or name, without weights and without arithmetic.

    model       a variant ("ViT-B/16"); a config, ours or of transformers, or a model that has one; a config.json, a file with
                weights (only its header is read), or a folder of either; a hub name in the local cache; or "digits"
    batch       pictures at once
    dtype       "float32" or "float64"
    size        (Y, X) of the picture, where it is not the config's: the positions are then resized, as a step of its own. A
                published model that takes any size is traced at the size at which its processor gives it such a picture
    overrides   fields of the config to change: image, patch, width, depth, heads, mlp, classes, channels, ...

    Raises InputError for what makes no sense. What a foreign config leaves unsaid comes as a warning.
    """
    config = config_from(model)
    if config.any_size and (size is not None or "image" in overrides):
        overrides, size = as_seen(model, config, overrides, size)
    config = config.overridden(overrides)
    whole_number("batch", batch, 1, MAX_SIZE)
    Y, X = config.image if size in (None, config.image) else check_image(size, config.patch)
    dtype, _ = precision(dtype)
    sizes = config.sizes_of_run(batch, (Y, X))
    if batch * config.heads * sizes["N"] ** 2 > 2**56:  # bytes beyond what any address can reach
        raise InputError(f"{batch} x {config.heads} heads x {sizes['N']:,} tokens squared: too large for any machine")
    ledger = Ledger()
    recorder = _Recorder(config, sizes, ledger)
    try:
        dry_run(config, batch, (Y, X), dtype, recorder, ledger)
    except ShapeError:
        raise
    except (ValueError, IndexError) as error:  # NumPy's own: shapes that do not fit, before the step that would say so
        last = recorder.rows[-1].name if recorder.rows else "the pixels"
        raise ShapeError(f"in the step after {last}: {error}") from error
    return Trace(recorder.rows, config, sizes, str(dtype), ledger.peak, recorder.products)


def config_from(model: Any) -> ViTConfig:
    """The config of what `trace` takes."""
    if isinstance(model, str) and is_variant(model) and not os.path.exists(model):
        return variant(model)
    from ..models.loading import find_config  # with what reads files

    config, notes = find_config(model)
    if notes:
        warnings.warn("; ".join(notes), stacklevel=3)
    return config


def as_seen(model: Any, config: ViTConfig, overrides: dict[str, Any], size: Any) -> tuple[dict[str, Any], Any]:
    """`overrides` and `size` with the sizes at which a model of any size sees pictures of theirs; what differs is a warning."""
    if not config.any_size:
        return overrides, size
    from ..models.image_tokens import size_seen  # with what reads files

    def seen(given: Any) -> Any:
        if not isinstance(given, tuple | list):
            return given
        found, notes = size_seen(model, config, (given[0], given[-1]))
        if notes:
            warnings.warn(notes[0], stacklevel=4)
        return found

    image = {"image": seen(overrides["image"])} if "image" in overrides else {}
    return {**overrides, **image}, None if size is None else seen(size)


class _Recorder:
    """Listens to the steps and makes a row of what happened since the one before."""

    def __init__(self, config: ViTConfig, sizes: dict[str, int], ledger: Ledger) -> None:
        self.config = config
        self.sizes = sizes
        self.ledger = ledger
        self.rows: list[Row] = []
        self.products: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self._counted: set[str] = set()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.filled = functools.cache(lambda text: fill_in(text, sizes))  # every block says the same
        self.filled_in_map = functools.cache(lambda text: fill_in(text, {**sizes, **config.map_sizes}))

    def __call__(self, name: str, array: ShapeOnly, dims: str) -> None:
        used: dict[str, ShapeOnly] = {}
        for operation in self.ledger.operations:
            for operand_name, operand in operation.named:
                used.setdefault(operand_name, operand)
        if array.name is not None:  # a view of an earlier step: nothing was computed
            used.setdefault(array.name, array if array.owner is None else array.owner)
        macs = sum(operation.macs for operation in self.ledger.operations)
        self.products += [(o.shapes[0], o.shapes[1]) for o in self.ledger.operations if o.macs]
        self.ledger.operations.clear()
        array.name = name
        self._shapes[name] = array.shape
        weights = [operand for operand in used.values() if operand.weight]
        new = [w for w in weights if w.name not in self._counted]
        self._counted.update(str(w.name) for w in new)
        c = self.config
        entry: Explanation = EXPLANATIONS[step_key(name, activation_name(c), c.pooling, c.special_tokens)]
        kind, where, formula = entry.operation, entry.where, entry.formula
        if kind == "activation":
            kind = self.config.activation
            where = where if "gelu" in kind else "section 3.1 (the paper has GELU)"
        if kind == "linear" and len(weights) == 1:
            formula = re.sub(r" \+ \{[^}]+\}", "", formula)  # a linear step without its bias
        if kind == "layer norm" and c.norm == "rms":
            kind, formula = "rms norm", formula.replace(LAYER_NORM, "x / sqrt(mean(x^2) + eps) * weight")
        if "{in}" in formula:
            rows, columns = weights[0].shape
            formula = formula.replace("{in}", str(rows)).replace("{out}", str(columns))
        filled = self.filled_in_map if name.startswith("map.") else self.filled
        self.rows.append(
            Row(
                name=name,
                operation=kind,
                inputs=tuple(Tensor(n, self._shapes.get(n, o.shape)) for n, o in used.items() if not o.weight),
                weights=tuple(Tensor(str(w.name), w.shape) for w in weights),
                dims=dims,
                shape=array.shape,
                dtype=str(array.dtype),
                parameters=sum(w.size for w in new if is_learned(str(w.name))),
                macs=macs,
                read=sum(operand.nbytes for operand in used.values()),
                written=array.nbytes,
                formula=filled(formula),
                paper=where,
                why=filled(entry.why),
                why_zh=filled(entry.why_zh),
            )
        )


def with_values(traced: Trace, model: Any, pixels: Any, resize_positions: bool = False, strict: bool = False) -> Trace:
    """The same rows with what a real run of `model` on `pixels` gave: min, max, mean, std, and how many NaN and Inf."""
    found: dict[str, dict[str, float]] = {}

    def keep(name: str, array: Any, dims: str) -> None:
        found[name] = statistics(array)

    model(pixels, record=keep, resize_positions=resize_positions, strict=strict)
    return traced.having([dataclasses.replace(row, values=found[row.name]) for row in traced])


def statistics(array: Any) -> dict[str, float]:
    """What an array's numbers are like: min, max, mean and std of the finite ones, and how many are NaN and Inf."""
    finite = array[np.isfinite(array)].astype(np.float64)
    return {
        "min": float(finite.min()) if finite.size else math.nan,
        "max": float(finite.max()) if finite.size else math.nan,
        "mean": float(finite.mean()) if finite.size else math.nan,
        "std": float(finite.std()) if finite.size else math.nan,
        "nan": int(np.isnan(array).sum()),
        "inf": int(np.isinf(array).sum()),
    }
