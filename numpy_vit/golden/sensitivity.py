"""Which step bears being narrow, and which does not: each one alone in an arithmetic's numbers, all else in float32.

For every block and every kind of step: the signal-to-noise ratio at the model's output, and how often the best class stays.
"""

import dataclasses
import fnmatch
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arithmetic.formats import to_float
from ..arithmetic.named import Arithmetic, Grid
from ..arithmetic.narrow import codes_of, hold, reals
from ..errors import InputError, nearest
from ..models.narrow import in_products, narrow_matrix
from ..vit import ViT, step_names

Array = Any
OUTPUTS = ("logits", "image_embedding", "image_tokens", "pooled", "last_hidden_state")
INTO_PRODUCTS = re.compile(
    r"(.*\.(norm[12]|query|key|value|probs|context|gelu|gated|relu|silu)(_\w+)?)|embed\.patches|norm|pool|pooled_norm"
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One step, or one matrix of weights, that was narrow alone."""

    name: str  # of the step, or of the tensor
    snr: float  # at the output, in dB (10 log10 of signal's power over noise's); inf where nothing changed
    agree: float  # of how many pictures the best class stayed, 0 to 1; NaN without classes

    @property
    def block(self) -> str:
        """The block's number, or "" outside."""
        found = re.match(r"blocks\.(\d+)\.", self.name)
        return found[1] if found else ""

    @property
    def kind(self) -> str:
        """The name within the block."""
        return re.sub(r"^blocks\.\d+\.", "", self.name)


def sensitivity(
    model: ViT,
    batches: Sequence[Array],
    arithmetic: Arithmetic,
    grids: Mapping[str, Grid],
    *,
    steps: Sequence[str] = ("*",),
    progress: Callable[[float, str], None] = lambda share, what: None,
) -> list[Row]:
    """Every step and every matrix of weights that the arithmetic narrows, each alone, in the order of execution.

    model    in float32 or float64
    batches  pixels (B, C, Y, X)
    grids    of the steps that are kept in integers
    steps    names or patterns of the steps and weights to look at

    Raises InputError for patterns that nothing fits.
    """
    narrowed = {**narrowed_steps(model, arithmetic, grids), **narrowed_weights(model, arithmetic)}
    for pattern in steps:
        if not fnmatch.filter(narrowed, pattern):
            raise InputError(f"nothing that {arithmetic.name} narrows is called '{pattern}'{nearest(pattern, narrowed)}")
    wanted = [name for name in narrowed if any(fnmatch.fnmatchcase(name, pattern) for pattern in steps)]
    right = [output_of(model(pixels, resize_positions=True)) for pixels in batches]
    rows = []
    for n, name in enumerate(wanted):
        progress(n / len(wanted), name)
        run = narrowed[name]()
        rows.append(measured(name, right, [output_of(run(pixels)) for pixels in batches], bool(model.config.classes)))
    return rows


Run = Callable[[Array], Any]
Made = Callable[[], Run]  # made when its turn comes: no two narrowed models are in memory at once


def narrowed_steps(model: ViT, arithmetic: Arithmetic, grids: Mapping[str, Grid]) -> dict[str, Made]:
    """Every step that the arithmetic keeps, or takes into a product, in narrower numbers -> the model with that alone."""
    found: dict[str, Made] = {}
    for name in step_names(model.config, model.config.image):
        change = as_kept(name, arithmetic, grids)
        if change is not None:
            found[name] = functools.partial(with_change, model, name, change)
    return found


def with_change(model: ViT, name: str, change: Callable[[Array], Array]) -> Run:
    """The model with one step changed, to be run."""
    return functools.partial(model, change={name: change}, resize_positions=True)


def as_kept(name: str, arithmetic: Arithmetic, grids: Mapping[str, Grid]) -> Callable[[Array], Array] | None:
    """What the arithmetic does to a step's numbers; None where that is nothing."""

    def held(x: Array, numbers: Any) -> Array:
        kept = hold(np.asarray(x, np.float64), numbers, -1)
        scale = np.asarray(kept.scale)
        if scale.ndim and scale.shape[-1] not in (1, x.shape[-1]):  # ggml's blocks
            scale = np.repeat(scale, numbers.block, axis=-1)
        return ((kept.codes - kept.zero) * scale).astype(x.dtype)

    if arithmetic.is_kept_in_integers(name):
        grid = grids[name]

        def on_grid(x: Array) -> Array:
            return reals(np.clip(codes_of(x, grid), grid.low, grid.high), grid).astype(x.dtype)

        return on_grid
    numbers = arithmetic.attention if re.match(r".*(query|key|probs|value)(_rotated)?$", name) else arithmetic.inputs
    if arithmetic.steps is None and numbers is not None and INTO_PRODUCTS.fullmatch(name):
        if numbers.per == "block" and numbers.format in ("q8_0", "q4_0"):
            return lambda x: held(x, numbers) if x.shape[-1] % numbers.block == 0 else x
        return lambda x: held(x, numbers)
    format = arithmetic.result("others")
    if arithmetic.steps is None and format not in ("float32", "inputs"):
        return lambda x: to_float(np.asarray(x, np.float64), format).astype(x.dtype)
    return None


def narrowed_weights(model: ViT, arithmetic: Arithmetic) -> dict[str, Made]:
    """Every matrix of weights -> the model with that alone in the arithmetic's numbers."""
    found: dict[str, Made] = {}
    for name, tensor in model.tensors.items():
        if in_products(name, tensor) and (arithmetic.weights is not None or arithmetic.tensors != "float32"):
            found[name] = functools.partial(with_narrow_matrix, model, name, arithmetic)
    return found


def with_narrow_matrix(model: ViT, name: str, arithmetic: Arithmetic) -> Run:
    """The model with one matrix in the arithmetic's numbers, to be run."""
    values = np.asarray(model.tensors[name], np.float64)
    narrow = narrow_matrix(values, arithmetic) if arithmetic.weights is not None else to_float(values, arithmetic.tensors)
    other = ViT(model.config, {**model.tensors, name: np.asarray(narrow).astype(model.dtype)})
    return functools.partial(other, resize_positions=True)


def output_of(outputs: Any) -> Array:
    """What a model is run for: class scores, where it has any."""
    return next(np.asarray(value, np.float64) for name in OUTPUTS if (value := getattr(outputs, name)) is not None)


def measured(name: str, right: Sequence[Array], found: Sequence[Array], classes: bool) -> Row:
    """The noise at the output, over all pictures."""
    signal = sum(float((x * x).sum()) for x in right)
    noise = sum(float(((x - y) ** 2).sum()) for x, y in zip(right, found, strict=True))
    snr = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf
    same = [(x.argmax(-1) == y.argmax(-1)).ravel() for x, y in zip(right, found, strict=True)]
    return Row(name, snr, float(np.concatenate(same).mean()) if classes else math.nan)


# On paper


def text(rows: Sequence[Row], width: int) -> str:
    """The table in the order of execution, the most sensitive steps last, in words."""
    from ..writing.text import fitted

    columns = {
        "name": ("narrow alone", [row.name for row in rows], False),
        "snr": ("signal to noise, dB", [decibels(row.snr) for row in rows], True),
        "agree": ("same best class", ["" if math.isnan(row.agree) else f"{100 * row.agree:.1f} %" for row in rows], True),
    }
    worst = sorted(rows, key=lambda row: row.snr)[:5]
    said = "Leave these in more bits first: " + ", ".join(f"{row.name} ({decibels(row.snr)} dB)" for row in worst) + "."
    return "\n".join([*fitted(columns, ("name", "snr", "agree"), width), "", said])


def decibels(snr: float) -> str:
    return "unchanged" if math.isinf(snr) else f"{snr:.1f}"


def svg(rows: Sequence[Row], title: str) -> str:
    """A picture: kinds of steps down, blocks across, the noisier the darker."""
    from xml.sax.saxutils import escape

    kinds = list(dict.fromkeys(row.kind for row in rows))
    blocks = list(dict.fromkeys(row.block for row in rows))
    cell, left, top = (52, 22), 8 + 7 * max(map(len, kinds)), 46
    finite = [row.snr for row in rows if math.isfinite(row.snr)] or [0.0]
    low, high = min(finite), max(max(finite), min(finite) + 1)
    width, height = left + cell[0] * len(blocks) + 8, top + cell[1] * len(kinds) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/><text x="8" y="18" font-size="14">{escape(title)}</text>',
    ]
    for x, block in enumerate(blocks):
        middle = left + cell[0] * x + cell[0] // 2
        parts.append(f'<text x="{middle}" y="{top - 6}" text-anchor="middle">{escape(block or "outside")}</text>')
    for y, kind in enumerate(kinds):
        parts.append(f'<text x="{left - 6}" y="{top + cell[1] * y + 15}" text-anchor="end">{escape(kind)}</text>')
    for row in rows:
        x, y = left + cell[0] * blocks.index(row.block), top + cell[1] * kinds.index(row.kind)
        share = 0.0 if math.isinf(row.snr) else 1 - (row.snr - low) / (high - low)
        light = round(96 - 60 * share)
        ink = "#fff" if light < 60 else "#000"
        said = f"{row.name}: {decibels(row.snr)} dB"
        parts.append(
            f'<g><title>{escape(said)}</title><rect x="{x}" y="{y}" width="{cell[0] - 1}" height="{cell[1] - 1}" '
            f'fill="hsl(12 80% {light}%)"/><text x="{x + cell[0] / 2:g}" y="{y + 15}" text-anchor="middle" fill="{ink}">'
            f"{'–' if math.isinf(row.snr) else f'{row.snr:.0f}'}</text></g>"
        )
    parts.append(f'<text x="8" y="{height - 10}">dB at the output where this alone is narrow; darker: noisier</text></svg>')
    return "\n".join(parts) + "\n"


def data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """As JSON has it: what is not finite is null."""
    from ..writing.text import clean

    return [clean(dataclasses.asdict(row)) for row in rows]
