"""What people do wrong when they port a ViT, each as a small change of the forward pass, so that it can be run and compared.

A mistake changes the config, the pixels, a weight, the result of a step, or the order of a block. `mistakes` lists those that
a model can have; where several explain a dump equally well, the one listed first is named.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from .. import model as paper
from ..arithmetic.rounded import round_to
from ..config import ViTConfig
from ..families import NORMS as NORMS_OF
from ..families import activation_name, branch_ends, norm, uses
from ..ops import ACTIVATIONS as ACTIVATION_FUNCTIONS
from ..ops import erf, gelu_tanh, layer_norm, linear, merge_heads, rms_norm, sigmoid, softmax
from ..parameters import Weights, has_bias, parameter_shapes
from ..positions import RULES, axis_weights
from ..rotary import PAIRS, rotate, rotation_tables
from ..steps import Step
from ..vit import step_names

Array = Any
Get = Callable[[str], Array]  # a weight by its name
OnWeight = Callable[[str, Get, ViTConfig], Array | None]  # a weight's name -> what the port has instead; None: nothing else


class Run(Protocol):
    """Of one run: earlier steps and weights, by their name within the block; "input" is what came into the block."""

    config: ViTConfig
    block: int  # of the step that is being changed; -1 outside the blocks

    def __getitem__(self, name: str) -> Array: ...


OnStep = Callable[[Array, Run], Array]  # the right result, what was computed before -> the wrong result


@dataclasses.dataclass(frozen=True)
class Variation:
    """A forward pass as a port may have it. Without changes it is the model's own."""

    config: ViTConfig
    pixels: Callable[[Array], Array] | None = None
    on_weight: tuple[OnWeight, ...] = ()
    change: Mapping[str, OnStep] = dataclasses.field(default_factory=dict)  # by the step's name within its block
    uses: Mapping[Callable[..., Any], Callable[..., Any]] = dataclasses.field(default_factory=dict)  # numpy_vit.steps.Step
    block_output: str = "residual2"  # the step that goes into the next block
    backwards: bool = False  # whether the last block is run first
    about: int | None = None  # the one block that is run otherwise, if it is one


Change = Callable[[Variation], Variation]


def config(**changes: Any) -> Change:
    """Another config."""
    return lambda run: dataclasses.replace(run, config=run.config.replace(**changes))


def pixels(prepare: Callable[[Array], Array]) -> Change:
    """The golden's pixels -> the port's."""
    return lambda run: dataclasses.replace(run, pixels=prepare)


def weight(change: OnWeight) -> Change:
    """Other weights."""
    return lambda run: dataclasses.replace(run, on_weight=(*run.on_weight, change))


def step(name: str, change: OnStep) -> Change:
    """Another result of a step, named as it is within its block."""
    return lambda run: dataclasses.replace(run, change={**run.change, name: change})


def both(*changes: Change) -> Change:
    """One change after another."""
    return lambda run: functools.reduce(lambda changed, change: change(changed), changes, run)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One thing that people do wrong."""

    name: str  # "eps-1e-6"
    text: str  # what the port does
    change: Change


Row = tuple[Any, str, str, Change]  # whether the model can have it, and the Mistake


# Pixels. The golden's are (value / 255 - mean) / std.

KNOWN_STATISTICS = {
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def pixel_mistakes(channels: int, square: bool, preprocess: Mapping[str, Any] | None) -> Iterator[Row]:
    """Pictures prepared in another way: they depend on how the golden's were."""
    policy = preprocess or {"scale": 1 / 255, "mean": [0.5], "std": [0.5]}  # what Google's ViTs were trained with
    mean, std = (np.reshape(policy.get(key) or default, (-1, 1, 1)) for key, default in (("mean", 0.0), ("std", 1.0)))
    largest = 255 * (policy.get("scale") or 1.0)

    def prepared(prepare: Callable[[Array], Array]) -> Change:
        """prepare: values of 0 to 1 -> what the port feeds its model."""
        return pixels(lambda x: prepare((x * std + mean) / largest))

    yield channels == 3, "bgr", "the channels are in the order blue, green, red", pixels(lambda x: x[:, ::-1])
    yield True, "not-rescaled", "0..255 is normalised without division by 255", prepared(lambda v: (255 * v - mean) / std)
    yield True, "raw-0-255", "values of 0 to 255 are fed as they are", prepared(lambda v: 255 * v)
    yield True, "not-normalised", "values of 0 to 1 are fed without mean and std", prepared(lambda v: v)
    yield True, "rescaled-twice", "values are divided by 255 twice", prepared(lambda v: (v / 255 - mean) / std)
    yield True, "no-mean", "the mean is not subtracted", prepared(lambda v: v / std)
    yield True, "no-std", "the pixels are not divided by the std", prepared(lambda v: v - mean)
    for whose, numbers in KNOWN_STATISTICS.items():
        m, s = (np.reshape(n, (-1, 1, 1)) for n in numbers)
        differ = channels == 3 and not (np.allclose(m, mean) and np.allclose(s, std))
        other = functools.partial(lambda m, s, v: (v - m) / s, m, s)
        yield differ, f"mean-std-{whose}", f"the pixels are normalised with {whose} mean and std", prepared(other)
    swap = pixels(lambda x: x.swapaxes(2, 3))
    yield square, "picture-transposed", "height and width of the picture are swapped", swap


def moved_pixels(channels: int, size: tuple[int, int]) -> list[Row]:
    """The picture turned, moved, or without its colours."""
    tall, wide = (length > 1 for length in size)
    ways = ((2, 1, "down", tall), (2, -1, "up", tall), (3, 1, "right", wide), (3, -1, "left", wide))
    return [
        (wide, "picture-mirrored", "the picture is flipped left to right", pixels(lambda x: x[..., ::-1])),
        (tall, "picture-upside-down", "the picture is upside down", pixels(lambda x: x[:, :, ::-1])),
        (tall and wide, "picture-turned", "the picture is turned by 180 degrees", pixels(lambda x: x[:, :, ::-1, ::-1])),
        *((there, f"picture-moved-{way}", f"the picture is moved {way} by one pixel, and zeros move in",
           pixels(functools.partial(moved, axis, by))) for axis, by, way, there in ways),
        *((there, f"picture-rolled-{way}", f"the picture is moved {way} by one pixel, and its other edge moves in",
           pixels(functools.partial(np.roll, shift=by, axis=axis))) for axis, by, way, there in ways),
        (channels > 1, "one-channel", "every channel is the first one", pixels(lambda x: x[:, [0] * x.shape[1]])),
    ]  # fmt: skip


def moved(axis: int, by: int, x: Array) -> Array:
    """Moved by one along an axis; zeros move in."""
    result = np.roll(x, by, axis)
    result[(slice(None),) * axis + (0 if by > 0 else -1,)] = 0
    return result


# Patches, tokens, positions


def patch_rows(order: tuple[int, int, int]) -> OnStep:
    """Patches flattened in another order of the axes (c, py, px)."""

    def change(patches: Array, run: Run) -> Array:
        B, patch_count, _ = patches.shape
        rows = patches.reshape(B, patch_count, run.config.channels, run.config.patch, run.config.patch)
        return rows.transpose(0, 1, *(2 + axis for axis in order)).reshape(patches.shape)

    return change


def projection_rows(name: str, get: Get, config: ViTConfig) -> Array | None:
    """The projection's rows are in the order (py, px, c)."""
    if name != "embed.projection.weight":
        return None
    C, P, weight = config.channels, config.patch, get(name)
    return weight.reshape(C, P, P, -1).transpose(1, 2, 0, 3).reshape(weight.shape)


def patches_by_column(patches: Array, run: Run) -> Array:
    B, N, row = patches.shape
    Y, X = run["pixels"].shape[2:]
    grid = patches.reshape(B, Y // run.config.patch, X // run.config.patch, row)
    return grid.swapaxes(1, 2).reshape(B, N, row)


def class_token_last(tokens: Array, run: Run) -> Array:
    return np.concatenate([tokens[:, 1:], tokens[:, :1]], axis=1)


def positions_become(change: Callable[[Array], Array]) -> OnStep:
    """Other positions are added: what is made of those learned, or resized."""

    def added(result: Array, run: Run) -> Array:
        made = {"axes": "axis_positions", "sincos": "sincos_positions"}
        try:
            positions = run[f"embed.{made.get(run.config.positions, 'resized_positions')}"]
        except KeyError:
            positions = run["embed.positions"]
        tokens, c = run["embed.tokens"], run.config
        has_position = np.arange(tokens.shape[1]) >= c.special_tokens  # the patches, and the special tokens but registers
        has_position[: c.special_tokens - c.registers] = c.positions == "all"
        positions = positions[has_position] if len(positions) == len(has_position) else positions
        placed = np.zeros_like(tokens[0])
        placed[has_position] = change(positions)
        return tokens + placed

    return added


def differ(rule: str, other: str, old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether two rules resize positions otherwise: not every pair does in every direction."""
    pairs = zip(*(axis_weights(old, new, name) for name in (rule, other)), strict=True)
    return old != new and not all(np.allclose(*pair) for pair in pairs)


def rolled(by: int) -> Callable[[Array], Array]:
    return lambda positions: np.roll(positions, by, axis=0)


def without_first(positions: Array) -> Array:
    return np.concatenate([np.zeros_like(positions[:1]), positions[1:]])


def delayed(positions: Array) -> Array:
    return np.concatenate([np.zeros_like(positions[:1]), positions[:-1]])


def on_grid(change: Callable[[Array], Array], grid: tuple[int, int]) -> Callable[[Array], Array]:
    """A change of the patches' positions as (rows, columns, D); those of other tokens stay."""

    def changed(positions: Array) -> Array:
        special = len(positions) - grid[0] * grid[1]
        of_patches = change(positions[special:].reshape(*grid, -1)).reshape(-1, positions.shape[-1])
        return np.concatenate([positions[:special], of_patches])

    return changed


def halves_swapped(positions: Array) -> Array:
    return np.roll(positions, positions.shape[-1] // 2, axis=-1)


def sines_swapped(positions: Array) -> Array:
    """Sines where the cosines should be, for columns and rows."""
    count, width = positions.shape
    return positions.reshape(count, 2, 2, width // 4)[:, :, ::-1].reshape(count, width)


def patch_turned(patches: Array, run: Run) -> Array:
    """The kernel turned by 180 degrees, as a convolution in mathematics has it."""
    shape = *patches.shape[:2], run.config.channels, run.config.patch, run.config.patch
    return patches.reshape(shape)[..., ::-1, ::-1].reshape(patches.shape)


def tokens_enlarged(tokens: Array, run: Run) -> Array:
    return tokens + run["embed.tokens"] * (run.config.width**0.5 - 1)


# Weights

NORMS = ("norm1", "norm2", "norm", "pooled_norm")
QKV = ("query", "key", "value")


def transposed(*layers: str, back: bool = False) -> OnWeight:
    """(out, in) numbers read as if they were (in, out), or (`back`) the reverse; of a square matrix both are its transpose."""

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        if not ends_with(name, "weight", layers) or 1 in get(name).shape:  # a row and a column are the same numbers
            return None
        weight = get(name)
        if back:
            return weight.reshape(weight.shape[::-1]).T
        return np.ascontiguousarray(weight.T).reshape(weight.shape)

    return change


def zero(kind: str, *layers: str) -> OnWeight:
    return lambda name, get, config: np.zeros_like(get(name)) if ends_with(name, kind, layers) else None


def ends_with(name: str, kind: str, layers: tuple[str, ...]) -> bool:
    """ "blocks.0.mlp.hidden.bias" is the "bias" of the layer "mlp.hidden"."""
    if name.startswith("embed.") and "projection" in layers:  # which is the one to the image embedding
        layers = tuple(layer for layer in layers if layer != "projection")
    return any(name == f"{layer}.{kind}" or name.endswith(f".{layer}.{kind}") for layer in layers)


def times_of(kind: str, factor: float, *layers: str) -> OnWeight:
    return lambda name, get, config: factor * get(name) if ends_with(name, kind, layers) else None


def taken_from(kind: str, here: str, there: str) -> OnWeight:
    """The weight or bias of one layer of every block from another layer of the same block."""

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        if not (name.startswith("blocks.") and ends_with(name, kind, (here,))):
            return None
        other = get(name.replace(f".{here}.", f".{there}."))
        return other if other.shape == get(name).shape else None

    return change


def from_block(other: Callable[[int, int], int], kind: str = "") -> OnWeight:
    """Every block has the weights (or one kind of them) of another: (its number, how many there are) -> the other's."""

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        if not (name.startswith("blocks.") and name.endswith(kind)):
            return None
        _, number, rest = name.split(".", 2)
        return get(f"blocks.{other(int(number), config.depth)}.{rest}")

    return change


def rounded(how: Callable[[Array], Array], *layers: str) -> OnWeight:
    """Matrices, or all learned numbers, in a narrower format."""

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        return how(get(name)) if not layers or ends_with(name, "weight", layers) else None

    return change


def narrowed(format: str) -> Callable[[Array], Array]:
    return lambda weight: round_to(format, weight).astype(np.float64)


def to_int8(axis: int | None) -> Callable[[Array], Array]:
    """Symmetric int8: of the whole tensor, or of each output (the last axis of (in, out))."""

    def how(weight: Array) -> Array:
        weight = np.asarray(weight, np.float32)  # as ports compute it: what is halfway falls to the same side
        largest = np.abs(weight).max(axis=axis, keepdims=True)
        scale = np.where(largest > 0, largest, np.float32(1)) / np.float32(127)
        return (np.rint(weight / scale) * scale).astype(np.float64)

    return how


def cut_to_bfloat16(weight: Array) -> Array:
    """The upper half of a float32's bits: rounded towards 0."""
    bits = np.ascontiguousarray(weight, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64).reshape(weight.shape)


def heads_backwards(part: str) -> OnWeight:
    """The heads of query, key or value, or those that the output layer takes, in reverse order."""

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        if not (name.startswith("blocks.") and ends_with(name, name.rpartition(".")[2], (f"attention.{part}",))):
            return None
        weight, shape = get(name), (config.heads, config.head_dim)
        if name.endswith("bounds") or (part == "output" and name.endswith("bias")):
            return None
        if part == "output":
            return weight.reshape(*shape, -1)[::-1].reshape(weight.shape)
        return weight.reshape(*weight.shape[:-1], *shape)[..., ::-1, :].reshape(weight.shape)

    return change


def unit_scale(name: str, get: Get, config: ViTConfig) -> Array | None:
    return np.ones_like(get(name)) if ends_with(name, "weight", NORMS) else None


def unbiased(run: Variation) -> Variation:
    """Variance over D - 1. 1/sqrt(v D/(D-1) + eps) is sqrt((D-1)/D) / sqrt(v + eps (D-1)/D)."""
    less = (run.config.width - 1) / run.config.width

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        return get(name) * less**0.5 if ends_with(name, "weight", NORMS) else None

    return both(config(eps=run.config.eps * less), weight(change))(run)


def swapped(one: str, other: str) -> OnWeight:
    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        for a, b in ((one, other), (other, one)):
            if name.startswith("blocks.") and f".{a}." in name:
                return get(name.replace(f".{a}.", f".{b}."))
        return None

    return change


def other_block(distance: int) -> OnWeight:
    """Every block has the weights of the next one (or the one before), cyclically."""

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        if not name.startswith("blocks."):
            return None
        _, number, rest = name.split(".", 2)
        return get(f"blocks.{(int(number) + distance) % config.depth}.{rest}")

    return change


def qkv_order(*order: str) -> OnWeight:
    """What the port takes for query, key and value."""

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        for part, taken in zip(QKV, order, strict=True):
            if f".attention.{part}." in name and has_all_three(name, config):
                return get(name.replace(f".{part}.", f".{taken}."))
        return None

    return change


def has_all_three(name: str, config: ViTConfig) -> bool:
    """Whether the attention of a weight of this name projects its query too."""
    return not (name.startswith("map.") and config.pooling == "query")


def of_qkv(change: OnWeight) -> Change:
    """Query, key and value mixed up: where the key alone has no bias, it may get one."""

    def changed(run: Variation) -> Variation:
        without = tuple(layer for layer in run.config.without_bias if layer != "attention.key")
        return both(config(without_bias=without), weight(change))(run)

    return changed


def packed_by_head(name: str, get: Get, config: ViTConfig) -> Array | None:
    """One fused matrix of columns (3, H, K), read as (H, 3, K)."""
    for part in QKV:
        if f".attention.{part}." in name and has_all_three(name, config) and not name.endswith("bounds"):
            fused = np.concatenate([get(name.replace(f".{part}.", f".{p}.")) for p in QKV], axis=-1)
            by_head = fused.reshape(*fused.shape[:-1], config.heads, 3, config.head_dim)
            return by_head[..., QKV.index(part), :].reshape(get(name).shape)
    return None


def heads_last(name: str, get: Get, config: ViTConfig) -> Array | None:
    """Query, key and value split (K, H) instead of (H, K): the same as their columns in another order."""
    if any(f".attention.{part}." in name for part in QKV) and not name.endswith("bounds"):
        weight = get(name)
        return weight.reshape(*weight.shape[:-1], config.head_dim, config.heads).swapaxes(-1, -2).reshape(weight.shape)
    return None


def heads_last_merged(name: str, get: Get, config: ViTConfig) -> Array | None:
    """Split (K, H), and merged (K, H) again."""
    if name.endswith(".attention.output.weight"):
        weight = get(name)
        return weight.reshape(config.head_dim, config.heads, -1).swapaxes(0, 1).reshape(weight.shape)
    return heads_last(name, get, config)


# Norms computed otherwise: x, scale, shift (or 0), eps -> the result


def variance(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    return ((x - x.mean(axis, keepdims=True)) ** 2).mean(axis, keepdims=True)


def centre(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    return x - x.mean(axis, keepdims=True)


def mean_square(x: Array) -> Array:
    return (x * x).mean(-1, keepdims=True)


def standard(x: Array, eps: float, axis: int | tuple[int, ...] = -1) -> Array:
    return centre(x, axis) / np.sqrt(variance(x, axis) + eps)


NormOf = Callable[[Array, Array, Array, float], Array]
OTHER_NORMS: dict[str, tuple[str, NormOf]] = {
    "rms": ("is RMS norm: the mean is not taken away", lambda x, w, b, eps: x / np.sqrt(mean_square(x) + eps) * w + b),
    "not-centred": ("does not take the mean away, but divides by the standard deviation",
                    lambda x, w, b, eps: x / np.sqrt(variance(x) + eps) * w + b),
    "only-centred": ("takes the mean away, but divides by nothing", lambda x, w, b, eps: centre(x) * w + b),
    "by-variance": ("divides by the variance instead of its root",
                    lambda x, w, b, eps: centre(x) / (variance(x) + eps) * w + b),
    "by-the-sum": ("divides by the root of the sum of squares instead of their mean",
                   lambda x, w, b, eps: centre(x) / np.sqrt(variance(x) * x.shape[-1] + eps) * w + b),
    "by-deviations": ("divides by the mean absolute deviation",
                      lambda x, w, b, eps: centre(x) / (np.abs(centre(x)).mean(-1, keepdims=True) + eps) * w + b),
    "eps-outside": ("adds eps to the standard deviation instead of the variance",
                    lambda x, w, b, eps: centre(x) / (np.sqrt(variance(x)) + eps) * w + b),
    "no-eps": ("has no eps", lambda x, w, b, eps: standard(x, 0.0) * w + b),
    "over-tokens": ("runs over the tokens instead of each token's numbers", lambda x, w, b, eps: standard(x, eps, -2) * w + b),
    "over-all": ("runs over all numbers of a picture instead of each token's",
                 lambda x, w, b, eps: standard(x, eps, (-2, -1)) * w + b),
    "twice": ("is applied twice", lambda x, w, b, eps: standard(standard(x, eps) * w + b, eps) * w + b),
    "shift-first": ("adds its shift before it multiplies by its scale", lambda x, w, b, eps: (standard(x, eps) + b) * w),
    "scale-plus-1": ("multiplies by 1 + its scale", lambda x, w, b, eps: standard(x, eps) * (1 + w) + b),
    "shift-twice": ("adds its shift twice", lambda x, w, b, eps: standard(x, eps) * w + 2 * b),
}  # fmt: skip
IF_RMS: dict[str, tuple[str, NormOf]] = {
    "eps-outside": ("adds eps to the root instead of under it", lambda x, w, b, eps: x / (np.sqrt(mean_square(x)) + eps) * w),
    "by-the-sum": ("divides by the root of the sum of squares instead of their mean",
                   lambda x, w, b, eps: x / np.sqrt(mean_square(x) * x.shape[-1] + eps) * w),
    "scale-plus-1": ("multiplies by 1 + its scale", lambda x, w, b, eps: x / np.sqrt(mean_square(x) + eps) * (1 + w)),
    "twice": ("is applied twice", lambda x, w, b, eps: rms_norm(rms_norm(x, w, eps), w, eps)),
}  # fmt: skip


def norm_inputs(c: ViTConfig) -> dict[str, str]:
    """The norms of the model -> the step that goes into each."""
    found = {"embed.norm": "embed.tokens" if c.positions == "none" else "embed.positions"} if c.pre_norm else {}
    found |= {"norm1": "input", "norm2": "residual1"} if c.norm_places == "before" and c.depth else {}
    if c.qk_norm and c.qk_norm_of_heads and c.depth:
        found |= {f"attention.{part}_norm": f"attention.{part}" for part in ("query", "key")}
    if c.mlp_norm and c.depth:
        found["mlp.norm"] = "mlp.gated" if c.gated_mlp else f"mlp.{activation_name(c)}"
    if c.final_norm == "pooled" and c.pooling != "none":
        found["pooled_norm"] = "pool"
    return found | ({"norm": "input"} if c.final_norm == "tokens" else {})


def as_norm(name: str, before: str, how: NormOf) -> OnStep:
    """A norm of the name's weights, computed in some way, of another step."""

    def change(result: Array, run: Run) -> Array:
        shift = run[f"{name}.bias"] if run.config.norm == "layer" else 0.0
        return how(run[before], run[f"{name}.weight"], shift, run.config.eps)

    return change


def rightly_normed(c: ViTConfig) -> NormOf:
    return layer_norm if c.norm == "layer" else lambda x, w, b, eps: rms_norm(x, w, eps)


def last_norm_as_well(x: Array, run: Run) -> Array:
    shift = (run["norm.bias"],) if run.config.norm == "layer" else ()
    return NORMS_OF[run.config.norm](x, run["norm.weight"], *shift, run.config.eps)


def last_norm_of(before: str) -> OnStep:
    """The model's last norm, of another step."""

    def change(result: Array, run: Run) -> Array:
        return as_norm("norm", before.format(run.config.depth - 2), rightly_normed(run.config))(result, run)

    return change


# Attention, as changes of its steps


def times(factor: float) -> OnStep:
    return lambda scores, run: scores * factor


def made_of(before: str, how: Callable[[Array], Array]) -> OnStep:
    """A step that is made of another in another way."""
    return lambda result, run: how(run[before])


def exponentials(scores: Array) -> Array:
    return np.exp(scores - scores.max(-1, keepdims=True))


def softmax_plus_one(scores: Array) -> Array:
    largest = np.maximum(scores.max(-1, keepdims=True), 0.0)
    e = np.exp(scores - largest)
    return e / (e.sum(-1, keepdims=True) + np.exp(-largest))


MASKS: dict[str, tuple[str, Callable[[int], Array]]] = {  # -> (N, N), where the score of a query (row) and a key is hidden
    "causal": ("no token sees those after it (a causal mask)", lambda n: ~np.tri(n, dtype=bool)),
    "backwards": ("no token sees those before it", lambda n: ~np.tri(n, dtype=bool).T),
    "last": ("no token sees the last one (a padding mask)", lambda n: np.arange(n) == np.full((n, 1), n - 1)),
    "first": ("no token sees the first one (a mask that leaves it out)", lambda n: np.arange(n) == np.zeros((n, 1))),
    "itself": ("no token sees itself", lambda n: np.eye(n, dtype=bool)),
}


def masked(hidden: Callable[[int], Array]) -> Callable[[Array], Array]:
    return lambda scores: np.where(hidden(scores.shape[-1]), -np.inf, scores)


def softmax_of_masked(hide: Callable[[Array], Array], scores: Array) -> Array:
    return softmax(hide(scores))


def hidden_in_result(hide: Callable[[Array], Array]) -> OnStep:
    return lambda scores, run: hide(scores)


def mask_mistakes(c: ViTConfig, scores: str) -> Iterator[Row]:
    """Masks where there is none, in a dump whose scores have them, or have not yet."""
    for name, (text, hidden) in MASKS.items():
        hide = masked(hidden)
        then_softmax = functools.partial(softmax_of_masked, hide)
        yield c.tokens > 1, f"mask-{name}", text, step("attention.probs", made_of(scores, then_softmax))
        yield c.tokens > 1, f"mask-{name}-scores", f"{text}, as its scores show", step(scores, hidden_in_result(hide))


def of_the_token_before(x: Array, run: Run) -> Array:
    return np.concatenate([np.zeros_like(x[..., :1, :]), x[..., :-1, :]], axis=-2)


def of_the_token_after(x: Array, run: Run) -> Array:
    return np.roll(x, -1, axis=-2)


def of_the_block_before(name: str) -> OnStep:
    return lambda result, run: run[f"blocks.{run.block - 1}.{name}"] if run.block > 0 else result


def without_output_layer(output: Array, run: Run) -> Array:
    return merge_heads(run["attention.context"])


def softmax_over(axis: int, scores: str) -> OnStep:
    return lambda probs, run: softmax(run[scores].swapaxes(axis, -1)).swapaxes(axis, -1)


def reshaped_heads(x: Array, run: Run) -> Array:
    """(B, N, H*K) reshaped to (B, H, N, K) without moving an axis."""
    return merge_heads(x).reshape(x.shape)


def output_of_unmoved_heads(output: Array, run: Run) -> Array:
    """attention.output from (B, H, N, K) reshaped to (B, N, H*K) without moving an axis."""
    B, H, N, K = run["attention.context"].shape
    merged = run["attention.context"].reshape(B, N, H * K)
    bias = run["attention.output.bias"] if has_bias(run.config, "attention.output") else None
    return linear(merged, run["attention.output.weight"], bias)


def pooler_without_tanh(pooled: Array, run: Run) -> Array:
    pool = "pooled_norm" if run.config.final_norm == "pooled" else "pool"
    return linear(run[pool], run["pooler.weight"], run["pooler.bias"])


def logits_of_the_pooler(logits: Array, run: Run) -> Array:
    bias = run["head.bias"] if has_bias(run.config, "head") else None
    return linear(run["pooler"], run["head.weight"], bias)


def mean_normed(pooled: Array, run: Run) -> Array:
    return last_norm_as_well(run["input"][:, run.config.special_tokens :].mean(axis=1), run)


def divided_by_length(x: Array, run: Run) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# Blocks and tail


def post_norm_block(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """LN(x + attention(x)), then LN(x + MLP(x)), as in the first Transformer."""
    step = step.then(branch_ends(w, config))
    x = step("residual1", x + step.into("attention", paper.multi_head_attention, x, w.attention, config), "B N D")
    x = norm("norm1", w, config)(x, step)
    x = step("residual2", x + step.into("mlp", paper.mlp, x, w.mlp, config), "B N D")
    return norm("norm2", w, config)(x, step)


def post_norm(run: Variation) -> Variation:
    return dataclasses.replace(run, uses={**run.uses, paper.encoder_block: post_norm_block}, block_output="norm2")


def earlier(name: str) -> OnStep:
    """The result is an earlier step's, unchanged."""
    return lambda result, run: run[name]


def plus(one: str, other: str) -> OnStep:
    return lambda result, run: run[one] + run[other]


def weighted(one: str, factor: float, other: str, times_other: float) -> OnStep:
    return lambda result, run: factor * run[one] + times_other * run[other]


def branches(c: ViTConfig) -> list[tuple[str, str, str]]:
    """The two sums of a block: the step, what it adds to, and what it adds."""
    ends = []
    for n, name in ((1, "attention.output"), (2, "mlp.output")):
        name = {"before": name, "after": f"norm{n}"}.get(c.norm_places, f"norm{n}_after")
        ends.append(f"layer_scale{n}" if c.layer_scale else name)
    return [("residual1", "input", ends[0]), ("residual2", "residual1", ends[1])]


SUMS = {  # what is added times 1, ... -> factors of what came in, and of what is added
    "branch-halved": ("adds half of {}", 1.0, 0.5),
    "branch-twice": ("adds {} twice", 1.0, 2.0),
    "branch-subtracted": ("subtracts {}", 1.0, -1.0),
    "sum-halved": ("takes the mean of what came in and {} instead of the sum", 0.5, 0.5),
    "input-twice": ("adds {} to twice what came in", 2.0, 1.0),
}


def sum_mistakes(c: ViTConfig) -> Iterator[Row]:
    """The sums of a block weighted otherwise: one of them, or both."""
    ends = branches(c)
    for name, (text, of_input, of_branch) in SUMS.items():
        changes = [step(sum_, weighted(before, of_input, end, of_branch)) for sum_, before, end in ends]
        yield True, f"{name}-both", "each sum of a block " + text.format("what attention or the MLP gives"), both(*changes)
        for n, (change, words) in enumerate(zip(changes, ("attention", "the MLP"), strict=True), 1):
            yield True, f"{name}-{n}", f"the sum after {words} " + text.format(f"what {words} gives"), change


def block_by_another_rule(number: int, rule: Callable[..., Array]) -> Change:
    """One block that is run by `rule`: of its function, and what that takes -> the block's output."""

    def changed(run: Variation) -> Variation:
        right = {**uses(run.config), **run.uses}.get(paper.encoder_block, paper.encoder_block)

        def block(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
            if step.path != f"blocks.{number}.":
                return right(x, w, config, step)
            return rule(right, x, w, config, step)

        return dataclasses.replace(run, uses={**run.uses, paper.encoder_block: block}, about=number)

    return changed


def left_out(right: Callable[..., Array], x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    return step("residual2", x, "B N D")


def run_twice(right: Callable[..., Array], x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Of the first of two runs no port has numbers: the second one's are in their place."""
    return right(right(x, w, config, step.having(change={}, hear=None)), w, config, step)


def backwards_blocks(run: Variation) -> Variation:
    """The last block first: each takes what the next one gives."""
    return dataclasses.replace(run, backwards=True)


def order_mistakes(c: ViTConfig) -> list[Row]:
    """Blocks left out, run twice, or in another order."""
    several = c.depth > 1
    return [
        (several, "blocks-reversed", "the blocks have the weights of the blocks in reverse order",
         weight(from_block(lambda n, depth: depth - 1 - n))),
        (several, "first-block", "the blocks have the weights of the first one", weight(from_block(lambda n, depth: 0))),
        (several, "last-block", "the blocks have the weights of the last one", weight(from_block(lambda n, depth: depth - 1))),
        *((True, f"block-{n}-left-out", f"block {n} is left out", block_by_another_rule(n, left_out)) for n in range(c.depth)),
        *((True, f"block-{n}-twice", f"block {n} is run twice", block_by_another_rule(n, run_twice)) for n in range(c.depth)),
    ]  # fmt: skip


def hidden_without_bias(hidden: Array, run: Run) -> Array:
    return hidden - run["mlp.hidden.bias"]


def activated_before_bias(result: Array, run: Run) -> Array:
    return ACTIVATION_FUNCTIONS[run.config.activation](run["mlp.hidden"]) + run["mlp.hidden.bias"]


def softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


OTHER_ACTIVATIONS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "gelu-no-cube": ("GELU's tanh approximation without its cube", lambda x: x * sigmoid(1.5957691216057308 * x)),
    "gelu-no-root": ("GELU's tanh approximation without sqrt(2/pi)", lambda x: 0.5 * x * (1 + np.tanh(x + 0.044715 * x**3))),
    "gelu-0.44715": ("GELU's tanh approximation with 0.44715 instead of 0.044715",
                     lambda x: 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.44715 * x**3)))),
    "gelu-erf-of-x": ("GELU with erf(x) instead of erf(x / sqrt(2))", lambda x: 0.5 * x * (1 + erf(x))),
    "gelu-no-half": ("GELU without its factor 1/2", lambda x: x * (1 + erf(x / 2**0.5))),
    "gelu-distribution": ("GELU's normal distribution alone, not multiplied by x", lambda x: 0.5 * (1 + erf(x / 2**0.5))),
    "gelu-1.7": ("x sigmoid(1.7 x)", lambda x: x * sigmoid(1.7 * x)),
    "leaky_relu": ("leaky ReLU with slope 0.01", lambda x: np.where(x > 0, x, 0.01 * x)),
    "relu6": ("ReLU6", lambda x: np.clip(x, 0.0, 6.0)),
    "relu_squared": ("the square of ReLU", lambda x: np.maximum(x, 0.0) ** 2),
    "elu": ("ELU", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))),
    "hard_swish": ("hard swish", lambda x: x * np.clip(x + 3, 0.0, 6.0) / 6),
    "mish": ("mish", lambda x: x * np.tanh(softplus(x))),
    "softplus": ("softplus", softplus),
    "tanh": ("tanh", np.tanh),
    "sigmoid": ("the sigmoid", sigmoid),
}  # fmt: skip


def activation_mistakes(c: ViTConfig) -> list[Row]:
    """Other activations than any model here has; the activation in another place, or twice."""
    name, activate = f"mlp.{activation_name(c)}", ACTIVATION_FUNCTIONS[c.activation]
    before = "mlp.gate" if c.gated_mlp else "mlp.hidden"
    again: OnStep = lambda result, run: activate(result)  # noqa: E731
    return [
        *(((other, c.activation) != ("relu6", "relu"), f"activation-{other}", f"the activation is {text}",
           step(name, made_of(before, how))) for other, (text, how) in OTHER_ACTIVATIONS.items()),
        (c.activation != "relu", "activation-twice", "the activation is applied twice", step(name, again)),
        (True, "output-activated", "the activation is applied to the MLP's output too", step("mlp.output", again)),
        (True, "activation-late", "the activation is applied to the MLP's output instead of its hidden numbers",
         both(step(name, earlier(before)), step("mlp.output", again))),
    ]  # fmt: skip


LINEARS = {
    "embed.projection": "the patch projection",
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "attention.output": "attention's output",
    "mlp.gate": "the MLP's gate",
    "mlp.hidden": "the MLP's first layer",
    "mlp.output": "the MLP's second layer",
    "pooler": "the pooler",
    "head": "the classification head",
    "distillation_head": "the distillation head",
    "projection": "the projection to the image embedding",
}
ACTIVATIONS = {
    "gelu": "GELU is exact (erf)",
    "gelu_tanh": "GELU is the tanh approximation",
    "quick_gelu": "GELU is the quick approximation, x sigmoid(1.702 x)",
    "relu": "the activation is ReLU",
    "silu": "the activation is SiLU",
}
ORDERS = (
    ("query", "value", "key"),
    ("key", "query", "value"),
    ("value", "key", "query"),
    ("key", "value", "query"),
    ("value", "query", "key"),
)
REPEATED = tuple(tuple(QKV[i] for i in order) for order in ((0, 0, 2), (1, 1, 2), (0, 1, 1), (0, 1, 0), (0, 2, 2), (2, 1, 2)))
OTHER_EPS = (1e-5, 1e-6, 1e-12, 1e-8, 1e-4, 1e-3)


OTHER_BIASES = (("bias-twice", "added twice", 2.0), ("bias-subtracted", "subtracted", -1.0))
NEIGHBOURS = (
    *((f"attention.{one}", f"attention.{other}") for one in QKV for other in QKV if one != other),
    ("attention.output", "mlp.output"),
    ("mlp.output", "attention.output"),
)
NARROWER: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "bfloat16": ("bfloat16", narrowed("bfloat16")),
    "float16": ("float16", narrowed("float16")),
    "bfloat16-cut": ("bfloat16 towards zero", cut_to_bfloat16),
    "int8": ("int8 with one scale for each matrix", to_int8(None)),
    "int8-by-output": ("int8 with one scale for each output", to_int8(0)),
    "int8-by-input": ("int8 with one scale for each input", to_int8(1)),
}


# What only some families have


def ones(*names: str) -> OnWeight:
    return lambda name, get, config: np.ones_like(get(name)) if name.endswith(names) else None


def squared(*names: str) -> OnWeight:
    return lambda name, get, config: get(name) ** 2 if name.endswith(names) else None


def exchanged(one: str, other: str) -> OnWeight:
    """Two weights of every block, one for the other."""

    def change(name: str, get: Get, config: ViTConfig) -> Array | None:
        for a, b in ((one, other), (other, one)):
            if name.endswith(a):
                return get(name.removesuffix(a) + b)
        return None

    return change


def paired_otherwise(part: str) -> OnStep:
    """Rotary positions with neighbours paired instead of halves, or the reverse."""

    def change(rotated: Array, run: Run) -> Array:
        pairs = run.config.rope in PAIRS
        cos, sin = (run[f"embed.rope_{name}"] for name in ("cos", "sin"))
        if run.config.rope_class_angle:
            cos, sin = (np.concatenate([run[f"embed.rope_class_{n}"], table]) for n, table in (("cos", cos), ("sin", sin)))
        once = [table[:, ::2] if pairs else table[:, : table.shape[1] // 2] for table in (cos, sin)]
        cos, sin = (np.tile(t, 2) if pairs else np.repeat(t, 2, axis=-1) for t in once)
        return rotate(before_rotation(part, run), cos, sin, "centred_halves" if pairs else "index_pairs")

    return change


def missing_rotation(part: str) -> OnStep:
    return lambda rotated, run: before_rotation(part, run)


def before_rotation(part: str, run: Run) -> Array:
    return run[f"attention.{part}_norm" if run.config.qk_norm else f"attention.{part}"]


def bias_transposed(scores: Array, run: Run) -> Array:
    return run["attention.scores"] + run["attention.relative_bias"].swapaxes(-1, -2)


def backwards(name: str, get: Get, config: ViTConfig) -> Array | None:
    return get(name)[::-1] if name.endswith((".relative_rows", ".relative_columns")) else None


def option_mistakes(c: ViTConfig) -> tuple[Row, ...]:
    """What later families have; whether the model has it is seen from its steps and weights (`applies`)."""
    parts, scales = ("query", "key"), ("layer_scale1", "layer_scale2")
    missing, otherwise = (
        both(*(step(f"attention.{p}_rotated", how(p)) for p in parts)) for how in (missing_rotation, paired_otherwise)
    )
    unnormed = both(*(step(f"attention.{p}_norm", earlier(f"attention.{p}")) for p in parts))
    pairs = "halves" if c.rope in PAIRS else "neighbours"
    inside = "mlp.gated" if c.gated_mlp else f"mlp.{activation_name(c)}"
    return (
        (True, "registers-zero", "the register tokens are zero", weight(zero("registers", "embed"))),
        (True, "pre-norm-missing", "the norm before the first block is missing",
         step("embed.norm", earlier("embed.positions"))),
        (True, "layer-scale-missing", "layer scale is missing", weight(ones(*scales))),
        (True, "layer-scale-twice", "layer scale is applied twice", weight(squared(*scales))),
        (True, "layer-scales-swapped", "the layer scales of attention and MLP are swapped", weight(exchanged(*scales))),
        (True, "qk-norm-missing", "query and key are not normed", unnormed),
        (True, "rope-missing", "query and key are not rotated", missing),
        (True, "rope-paired-otherwise", f"rotary positions pair {pairs}", otherwise),
        (True, "relative-positions-missing", "no relative positions are added to the scores",
         step("attention.biased_scores", earlier("attention.scores"))),
        (True, "relative-positions-transposed", "relative positions are from key to query, not query to key",
         weight(backwards) if c.relative_axes else step("attention.biased_scores", bias_transposed)),
        (True, "context-norm-missing", "the norm of what the heads give is missing",
         step("attention.context_norm", lambda normed, run: merge_heads(run["attention.context"]))),
        (True, "gate-swapped", "the MLP's gate and hidden layer are swapped", weight(swapped("mlp.gate", "mlp.hidden"))),
        (True, "mlp-norm-missing", "the norm inside the MLP is missing", step("mlp.norm", earlier(inside))),
        (True, "pooled-norm-missing", "the norm after pooling is missing", step("pooled_norm", earlier("pool"))),
        (c.distillation_head, "class-head-alone", "the logits are the class token's head's alone",
         step("logits", earlier("class_logits"))),
    )  # fmt: skip


# What only encoders of multimodal models have


def axes_swapped(which: str) -> OnStep:
    """A patch is rotated by its column where it should be by its row, and the other way round: the picture's transpose."""

    def change(table: Array, run: Run) -> Array:
        c = run.config
        rows, columns = c.grid
        turned = rotation_tables(
            run["rope.frequencies"], (columns, rows), c.rope, c.rope_grid and c.rope_grid[::-1], c.rope_offset
        )
        return turned[("cos", "sin").index(which)].reshape(columns, rows, -1).swapaxes(0, 1).reshape(table.shape)

    return change


def neighbours(order: tuple[int, ...]) -> OnStep:
    """The tokens that are merged in another order: axes of (down, right, D)."""

    def change(merged: Array, run: Run) -> Array:
        assert run.config.merger is not None
        side = run.config.merger.side
        whole = [side, side, run.config.width]
        return merged.reshape(*merged.shape[:2], *whole).transpose(0, 1, *(2 + axis for axis in order)).reshape(merged.shape)

    return change


def centred(name: str, before: str) -> Change:
    """Layer norm in the place of RMS norm."""

    def change(normed: Array, run: Run) -> Array:
        return layer_norm(run[before], run[f"{name}.weight"], 0.0 * run[f"{name}.weight"], run.config.eps)

    return step(name, change)


def before_the_mergers_norm(normed: Array, run: Run) -> Array:
    """What goes into the merger's norm."""
    assert run.config.merger is not None
    names = [name for name, _, _ in run.config.merger.parsed]
    if names[0] != "norm":
        return run[f"merger.{names[names.index('norm') - 1]}"]
    return run["norm" if run.config.final_norm == "tokens" else "input"][:, run.config.special_tokens :]


def multimodal_mistakes(c: ViTConfig) -> list[Row]:
    """Rotation by the wrong axis, patches merged in another order, windows mistaken, another norm."""
    swapped_axes = both(*(step(f"embed.rope_{which}", axes_swapped(which)) for which in ("cos", "sin")))
    windows, merger = c.windows, c.merger
    other_sides = {windows.side * 2, windows.side // 2} - {0} if windows else set()
    text = "windows are of {0} x {0} patches instead of {1}"
    return [
        (c.rope != "none", "rope-axes-swapped", "patches are rotated by their column where it should be by their row",
         swapped_axes),
        (c.norm == "rms", "norm-centred", "layer norm (which takes the mean away) stands in the place of RMS norm",
         both(centred("norm1", "input"), centred("norm2", "residual1"))),
        (windows, "windows-missing", "every block attends to the whole picture: there are no windows", config(windows=None)),
        (windows and windows.whole, "windows-everywhere", "no block attends to the whole picture: all have windows",
         config(windows=dataclasses.replace(windows, whole=()) if windows else None)),
        *((True, f"windows-{side}", text.format(side, windows and windows.side),
           config(windows=dataclasses.replace(windows, side=side) if windows else None)) for side in sorted(other_sides)),
        (merger, "merged-by-column", "the patches that are merged are taken column by column",
         step("merger.concat", neighbours((1, 0, 2)))),
        (merger, "merged-as-unfolded", "merged tokens have their numbers as a convolution's kernel has them",
         step("merger.concat", neighbours((2, 0, 1)))),
        (merger, "merger-norm-missing", "the merger has no norm", step("merger.norm", before_the_mergers_norm)),
        (merger, "merger-gelu-tanh", "the merger's GELU is the tanh approximation",
         step("merger.gelu", lambda x, run: gelu_tanh(run["merger.hidden"]))),
    ]  # fmt: skip


def embedding_mistakes(c: ViTConfig, size: tuple[int, int]) -> list[Row]:
    """Patches in another order, tokens or positions missing or moved."""
    grid, several = (size[0] // c.patch, size[1] // c.patch), c.patch > 1 and c.channels > 1
    placed, resized = c.class_token and c.positions == "all", c.positions in ("all", "patches") or c.relative_positions
    add = lambda change: step("embed.positions", positions_become(change))  # noqa: E731
    shifted = "positions are shifted by the class token: "
    turned = functools.partial(on_grid, grid=grid)
    has_grid, sines = c.positions != "none" and not c.registers, c.positions == "sincos"
    return [
        (several, "patch-rows", "patch rows are flattened (py, px, c) instead of (c, py, px)",
         step("embed.patches", patch_rows((1, 2, 0)))),
        (c.patch > 1, "patch-transposed", "patch rows are flattened (c, px, py) instead of (c, py, px)",
         step("embed.patches", patch_rows((0, 2, 1)))),
        (several, "projection-rows", "the projection's rows are in the order (py, px, c) instead of (c, py, px)",
         weight(projection_rows)),
        (min(grid) > 1, "patches-by-column", "patches are taken column by column instead of row by row",
         step("embed.patches", patches_by_column)),
        (c.class_token, "class-token-last", "the class token is put last instead of first",
         step("embed.tokens", class_token_last)),
        (True, "class-token-zero", "the class token is zero", weight(zero("class_token", "embed"))),
        (True, "positions-missing", "no positions are added", add(np.zeros_like)),
        (placed, "positions-shifted", shifted + "each patch has the position of the token before it", add(delayed)),
        (placed, "positions-rotated", shifted + "its own is taken for the last patch", add(rolled(-1))),
        (placed, "positions-rotated-back", shifted + "it has the last patch's", add(rolled(1))),
        (placed, "class-position-missing", "the class token has no position", add(without_first)),
        (True, "positions-twice", "positions are added twice", add(lambda positions: 2 * positions)),
        (has_grid and min(grid) > 1, "positions-by-column", "positions are taken column by column instead of row by row",
         add(turned(lambda p: p.swapaxes(0, 1)))),
        (has_grid and min(grid[1], c.learned_grid[1]) > 1, "positions-mirrored",
         "the patches' positions are flipped left to right", add(turned(lambda p: p[:, ::-1]))),
        (has_grid and min(grid[0], c.learned_grid[0]) > 1, "positions-upside-down",
         "the patches' positions are upside down", add(turned(lambda p: p[::-1]))),
        (has_grid and min(grid) > 1, "positions-backwards", "the patches' positions are in reverse order",
         add(turned(lambda p: p[::-1, ::-1]))),
        (sines, "sincos-axes-swapped", "the positions' halves for rows and columns are swapped", add(halves_swapped)),
        (sines, "sincos-swapped", "the positions' sines and cosines are swapped", add(sines_swapped)),
        (c.patch > 1, "patch-turned", "each patch is turned by 180 degrees (a convolution with its kernel turned)",
         step("embed.patches", patch_turned)),
        (c.width > 1, "tokens-times-sqrt-D", "the tokens are multiplied by sqrt(D) before positions are added",
         step("embed.positions", tokens_enlarged)),
        *((resized and differ(rule, c.position_rule, c.learned_grid, grid), f"positions-{rule}",
           f"positions are resized by the rule '{rule}' instead of '{c.position_rule}'", config(position_rule=rule))
          for rule in RULES if rule != "linear_geometric" or (c.relative_positions and c.positions == "none")),
    ]  # fmt: skip


def other_norms(c: ViTConfig) -> Iterator[Row]:
    """Every norm of blocks and tail, or one of them, computed in another way."""
    places = norm_inputs(c)
    of_tokens = {name: places[name] for name in ("embed.norm", "norm1", "norm2", "norm") if name in places}
    for key, (text, how) in (OTHER_NORMS if c.norm == "layer" else IF_RMS).items():
        norms = of_tokens if key.startswith("over-") else places
        there = bool(norms) and (key != "no-eps" or c.eps > 1e-9)
        kind = "layer norm" if c.norm == "layer" else "RMS norm"
        yield there, f"norm-{key}", f"{kind} {text}", both(*(step(n, as_norm(n, x, how)) for n, x in norms.items()))


def norm_mistakes(c: ViTConfig) -> list[Row]:
    """Layer norm computed otherwise, or in another place."""
    return [
        *((eps != c.eps, f"eps-{eps:g}", f"layer norm has eps {eps:g} instead of {c.eps:g}", config(eps=eps))
          for eps in OTHER_EPS),
        (True, "norm-no-scale", "layer norm's scale is missing", weight(unit_scale)),
        (True, "norm-no-shift", "layer norm's shift is missing", weight(zero("bias", *NORMS))),
        (True, "norm-unbiased", "layer norm divides by the unbiased variance (over D - 1 instead of D)", unbiased),
        (True, "norms-swapped", "the weights of norm1 and norm2 are swapped", weight(swapped("norm1", "norm2"))),
        (True, "norm1-missing", "the norm before attention is missing", step("norm1", earlier("input"))),
        (True, "norm2-missing", "the norm before the MLP is missing", step("norm2", earlier("residual1"))),
        *other_norms(c),
        *((True, f"{one}-of-{other}", f"{one} has the weights of {other}",
           both(*(weight(taken_from(kind, one, other)) for kind in ("weight", *("bias",) * (c.norm == "layer")))))
          for one, other in (("norm1", "norm2"), ("norm2", "norm1"))),
        (True, "post-norm", "layer norm comes after the sums (post-norm) instead of before attention and MLP (pre-norm)",
         post_norm),
    ]  # fmt: skip


def attention_mistakes(c: ViTConfig) -> list[Row]:
    """Query, key and value mixed up, heads split or merged otherwise, scores scaled or normed otherwise."""
    K, heads, several = c.head_dim, c.heads > 1, c.tokens > 1
    scaled, plain_output = c.scaled_scores, c.inner_width == c.width and not c.context_norm
    used = "attention.biased_scores" if c.relative_positions or c.relative_axes else "attention.scores"
    scores, probs = functools.partial(step, "attention.scores"), functools.partial(step, "attention.probs")
    return [
        *((True, f"qkv-order-{''.join(part[0] for part in order)}",
           "query, key and value are taken in another order: " + ", ".join(order), of_qkv(qkv_order(*order)))
          for order in ORDERS),
        *((True, f"qkv-order-{''.join(part[0] for part in order)}",
           "of query, key and value one stands for another: " + ", ".join(order), of_qkv(qkv_order(*order)))
          for order in REPEATED),
        (heads, "qkv-packing", "the fused query-key-value is unpacked (H, 3, K) instead of (3, H, K)", of_qkv(packed_by_head)),
        (heads and K > 1, "heads-kh", "heads are split (K, H) instead of (H, K)", weight(heads_last)),
        (heads and K > 1, "heads-kh-merged", "heads are split and merged (K, H) instead of (H, K)", weight(heads_last_merged)),
        (heads, "heads-not-moved", "heads are split by a reshape to (B, H, N, K), without moving the axes",
         both(*(step(f"attention.{part}", reshaped_heads) for part in QKV))),
        (heads and not c.context_norm, "merged-not-moved", "heads are merged by a reshape, without moving the axes",
         step("attention.output", output_of_unmoved_heads)),
        (K > 1 and scaled, "scale-missing", "scores are not divided by sqrt(K)", scores(times(K**0.5))),
        (c.width != K and scaled, "scale-by-D", "scores are divided by sqrt(D) instead of sqrt(K)",
         scores(times((K / c.width) ** 0.5))),
        (K > 1 and scaled, "scale-by-K", "scores are divided by K instead of sqrt(K)", scores(times(K**-0.5))),
        (K > 1 and scaled, "scale-twice", "the queries are divided by sqrt(K), and the scores again",
         step("attention.query", times(K**-0.5))),
        (K > 1 and scaled, "scale-times", "scores are multiplied by sqrt(K) instead of divided", scores(times(K))),
        (K > 1 and scaled, "scale-fourth-root", "scores are divided by the root of sqrt(K)", scores(times(K**0.25))),
        (heads and c.heads != K and scaled, "scale-by-H", "scores are divided by sqrt(H) instead of sqrt(K)",
         scores(times((K / c.heads) ** 0.5))),
        (K > 1 and not scaled, "scale-added", "scores are divided by sqrt(K), as this model's are not", scores(times(K**-0.5))),
        (K > 1 and scaled, "scale-after-softmax", "softmax is divided by sqrt(K) instead of the scores",
         both(scores(times(K**0.5)), probs(lambda probs, run: softmax(run[used]) * K**-0.5))),
        (True, "scores-transposed", "scores are key times query instead of query times key",
         scores(lambda scores, run: scores.swapaxes(-1, -2))),
        (True, "softmax-over-queries", "softmax runs over the queries (axis -2) instead of the keys (axis -1)",
         probs(softmax_over(-2, used))),
        (True, "softmax-over-heads", "softmax runs over the heads instead of the keys", probs(softmax_over(-3, used))),
        (True, "softmax-missing", "there is no softmax", probs(earlier(used))),
        (several, "softmax-base-2", "softmax raises 2 to the scores instead of e",
         probs(made_of(used, lambda x: softmax(x * np.log(2.0))))),
        (True, "softmax-plus-one", "softmax has 1 more in its denominator", probs(made_of(used, softmax_plus_one))),
        (several, "softmax-twice", "softmax is applied twice", probs(lambda probs, run: softmax(probs))),
        (True, "softmax-log", "the logarithm of softmax is taken", probs(lambda probs, run: np.log(probs))),
        (True, "softmax-not-normalised", "softmax is not divided by its sum", probs(made_of(used, exponentials))),
        (True, "sigmoid-attention", "the sigmoid stands in the place of softmax", probs(made_of(used, sigmoid))),
        (several, "softmax-negative", "softmax is taken of the negative scores",
         probs(made_of(used, lambda x: softmax(-x)))),
        *mask_mistakes(c, used),
        (heads, "heads-averaged", "every head has the mean of all heads' weights",
         probs(lambda probs, run: np.broadcast_to(probs.mean(-3, keepdims=True), probs.shape))),
        (heads, "first-head", "every head has the weights of the first",
         probs(lambda probs, run: np.broadcast_to(probs[..., :1, :, :], probs.shape))),
        (several and not c.windows, "probs-transposed", "the values are weighted by the transpose of softmax",
         step("attention.context", lambda x, run: run["attention.probs"].swapaxes(-1, -2) @ run["attention.value"])),
        *((several, f"{part}-of-the-token-before", f"each token has the {part} of the one before it, the first zeros",
           step(f"attention.{part}", of_the_token_before)) for part in QKV),
        *((several, f"{part}-of-the-token-after", f"each token has the {part} of the next, the last the first one's",
           step(f"attention.{part}", of_the_token_after)) for part in QKV),
        *((c.depth > 1, f"{part}-of-the-block-before", f"each block has the {part} of the one before it",
           step(f"attention.{part}", of_the_block_before(f"attention.{part}"))) for part in QKV[1:]),
        (c.depth > 1, "cache-of-the-block-before", "each block has keys and values of the one before it",
         both(*(step(f"attention.{part}", of_the_block_before(f"attention.{part}")) for part in QKV[1:]))),
        *((heads, f"{part}-heads-reversed", f"the heads of {part} are in reverse order", weight(heads_backwards(part)))
          for part in (*QKV, "output")),
        (plain_output, "output-missing", "attention's output layer is missing", step("attention.output", without_output_layer)),
    ]  # fmt: skip


def block_mistakes(c: ViTConfig) -> list[Row]:
    """The sums, and the activation."""
    (*_, attended), (*_, widened) = branches(c)
    parallel, inside = c.norm_places == "before", rightly_normed(c)
    one, two = step("residual1", earlier(attended)), step("residual2", earlier(widened))
    normed = both(step("residual1", plus("norm1", attended)), step("residual2", plus("norm2", widened)))
    unactivated = step(f"mlp.{activation_name(c)}", earlier("mlp.gate" if c.gated_mlp else "mlp.hidden"))
    return [
        (True, "residual1-missing", "what came into the block is not added after attention", one),
        (True, "residual2-missing", "what came into the MLP half is not added after the MLP", two),
        (True, "residuals-missing", "nothing is added after attention and after the MLP: no residual connections",
         both(one, two)),
        (True, "residual-of-the-norm", "the sums add the normed tokens instead of those before the norm", normed),
        *sum_mistakes(c),
        (True, "attention-missing", "there is no attention: its sum is what came in", step("residual1", earlier("input"))),
        (True, "mlp-missing", "there is no MLP: its sum is what came in", step("residual2", earlier("residual1"))),
        (True, "residual2-of-the-input", "the second sum adds to what came into the block instead of the first sum",
         step("residual2", plus("input", widened))),
        (parallel, "parallel", "attention and MLP both take what came into the block (a parallel block)",
         step("norm2", as_norm("norm2", "input", inside))),
        (parallel, "parallel-of-one-norm", "attention and MLP both take what norm1 gives (a parallel block)",
         step("norm2", earlier("norm1"))),
        (parallel, "norm2-of-attention", "the norm before the MLP is of what attention gives, without what came in",
         step("norm2", as_norm("norm2", attended, inside))),
        (c.final_norm == "tokens", "last-norm-in-every-block", "the model's last norm comes after the blocks too",
         step("residual2", last_norm_as_well)),
        *((name != c.activation, f"activation-{name}", text, config(activation=name)) for name, text in ACTIVATIONS.items()),
        (True, "activation-missing", "there is no activation", unactivated),
        *activation_mistakes(c),
    ]  # fmt: skip


def tail_mistakes(c: ViTConfig) -> list[Row]:
    """After the blocks: the last norm, pooling, the pooler."""
    tokens, one_vector = "norm" if c.final_norm == "tokens" else "input", c.pooling != "class_and_mean"
    of_all = step("pool", lambda pooled, run: run[tokens].mean(axis=1))
    pooled, special = c.pooling in ("class", "mean"), c.special_tokens
    others: tuple[tuple[bool, str, str, Callable[[Array], Array]], ...] = (
        (True, "max", "the largest of all tokens is taken, number by number", lambda x: x.max(axis=1)),
        (special > 0, "max-of-patches", "the largest of the patch tokens is taken, number by number",
         lambda x: x[:, special:].max(axis=1)),
        (True, "last", "the last token is taken", lambda x: x[:, -1]),
        (special > 0, "first-patch", "the first patch's token is taken", lambda x: x[:, special]),
        (c.pooling == "mean", "sum", "the sum of the patch tokens is taken instead of their mean",
         lambda x: x[:, special:].sum(axis=1)),
    )  # fmt: skip
    heads_alike = c.pooler == c.width and c.pooling != "class_and_mean" and not (c.pre_logits or c.distillation_head)
    return [
        (True, "final-norm-missing", "the last norm is missing", step("norm", earlier("input"))),
        (c.pooling == "class", "pooling-mean", "the mean of the patch tokens is taken instead of the class token",
         config(pooling="mean")),
        (c.pooling == "mean" and c.class_token, "pooling-class",
         "the class token is taken instead of the mean of the patch tokens", config(pooling="class")),
        (c.class_token and one_vector, "pooling-all", "the mean of all tokens, the class token included, is taken", of_all),
        (True, "pooler-no-tanh", "the pooler has no tanh", step("pooler", pooler_without_tanh)),
        (c.final_norm == "tokens" and c.depth > 1, "last-block-not-taken",
         "the last norm is of what the last block but one gives",
         step("norm", last_norm_of("blocks.{}.residual2"))),
        *((pooled and there, f"pooling-{key}", text, step("pool", made_of(tokens, how))) for there, key, text, how in others),
        (c.final_norm == "tokens" and c.pooling == "mean", "norm-after-pooling",
         "the last norm is of the mean of the tokens instead of each of them", step("pool", mean_normed)),
        *((True, f"{key}-normalised", f"the {words} is divided by its length", step(key, divided_by_length))
          for key, words in (("pool", "picture's vector"), ("image_embedding", "image embedding"))),
        (True, "logits-softmax", "softmax is applied to the logits", step("logits", lambda x, run: softmax(x))),
        (c.classes > 1, "logits-log-softmax", "the logarithm of softmax is applied to the logits",
         step("logits", lambda x, run: np.log(softmax(x)))),
        (True, "logits-sigmoid", "the sigmoid is applied to the logits", step("logits", lambda x, run: sigmoid(x))),
        (heads_alike, "head-of-the-pooler", "the classification head takes what the pooler gives",
         step("logits", logits_of_the_pooler)),
    ]  # fmt: skip


def weight_mistakes(c: ViTConfig) -> list[Row]:
    """Biases forgotten, weights transposed, blocks mistaken for others."""
    ways = (("transposed", False, "(out, in){} read as (in, out)"), ("transposed-back", True, "(in, out){} read as (out, in)"))
    return [
        *((True, f"no-bias-{layer}", f"{words} has no bias", weight(zero("bias", layer))) for layer, words in LINEARS.items()),
        (True, "no-biases", "no linear layer has a bias", weight(zero("bias", *LINEARS))),
        *((True, f"{name}-{layer}", f"the bias of {words} is {how}", weight(times_of("bias", factor, layer)))
          for layer, words in LINEARS.items() for name, how, factor in OTHER_BIASES),
        *((True, f"{name}-all", f"the bias of every linear layer is {how}", weight(times_of("bias", factor, *LINEARS)))
          for name, how, factor in OTHER_BIASES),
        *((True, f"bias-{one}-of-{other}", f"{LINEARS[one]} has the bias of {LINEARS[other]}",
           weight(taken_from("bias", one, other))) for one, other in NEIGHBOURS),
        *((c.depth > 1, name, f"the linear layers have the biases of the block {way}", weight(from_block(other, "bias")))
          for name, way, other in (("bias-of-next-block", "after", lambda n, depth: (n + 1) % depth),
                                   ("bias-of-block-before", "before", lambda n, depth: (n - 1) % depth))),
        *((True, f"weights-{name}", f"the matrices are rounded to {text}", weight(rounded(how, *LINEARS)))
          for name, (text, how) in NARROWER.items()),
        *((True, f"all-weights-{name}", f"all learned numbers are rounded to {NARROWER[name][0]}",
           weight(rounded(NARROWER[name][1]))) for name in ("bfloat16", "float16", "bfloat16-cut")),
        *((True, f"{name}-{layer}", f"the weights of {words} are transposed: {how.format(' numbers are')}",
           weight(transposed(layer, back=back))) for layer, words in LINEARS.items() for name, back, how in ways),
        *((True, name, f"all weights are transposed: {how.format('')}", weight(transposed(*LINEARS, back=back)))
          for name, back, how in ways),
        (c.depth > 1, "next-block", "each block has the weights of the next one", weight(other_block(1))),
        (c.depth > 1, "block-before", "each block has the weights of the one before", weight(other_block(-1))),
    ]  # fmt: skip


def mistakes(
    model: ViTConfig, *, preprocess: Mapping[str, Any] | None = None, size: tuple[int, int] | None = None
) -> list[Mistake]:
    """All mistakes that a port of this model can make, on pictures of `size` (Y, X; the config's where it is not given).

    preprocess  how the golden's pictures were prepared, as its manifest says

    What could not change a number is left out: the more are tried, the less it says that one fits.
    """
    size = size or model.image
    return applicable(model, [
        *pixel_mistakes(model.channels, size[0] == size[1], preprocess),
        *moved_pixels(model.channels, size),
        *embedding_mistakes(model, size),
        *norm_mistakes(model),
        *attention_mistakes(model),
        *block_mistakes(model),
        *option_mistakes(model),
        *multimodal_mistakes(model),
        *order_mistakes(model),
        *tail_mistakes(model),
        *weight_mistakes(model),
        (has_bias(model, "mlp.hidden") and not model.gated_mlp, "bias-after-activation",
         "the bias of the MLP's first layer is added after the activation",
         both(step("mlp.hidden", hidden_without_bias), step(f"mlp.{activation_name(model)}", activated_before_bias))),
        (model.depth > 1, "blocks-backwards", "the blocks are run in reverse order", backwards_blocks),
    ])  # fmt: skip


def applicable(model: ViTConfig, rows: Iterable[Row]) -> list[Mistake]:
    """Those that change steps and weights that the model has."""
    steps = {re.sub(r"^blocks\.\d+\.", "", name) for name in step_names(model, model.image)}

    shapes_of = functools.cache(parameter_shapes)

    def touches(on_weight: OnWeight, run: Variation) -> bool:
        shapes = shapes_of(run.config)
        get: Get = lambda name: np.broadcast_to(0.0, shapes[name])  # noqa: E731
        for name in shapes:
            with contextlib.suppress(KeyError):  # it takes another one's, which is not there
                if on_weight(name, get, run.config) is not None:
                    return True
        return False

    def applies(run: Variation) -> bool:
        return all(name in steps for name in run.change) and all(touches(on_weight, run) for on_weight in run.on_weight)

    known = [Mistake(name, text, change) for there, name, text, change in rows if there]
    return [mistake for mistake in known if applies(mistake.change(Variation(model)))]
