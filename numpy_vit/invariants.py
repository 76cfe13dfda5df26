"""What must hold beyond shapes, checked where a run is `strict`: shapes let a softmax over the wrong axis pass.

patches         put together again, they are the picture
probs           every row is a probability distribution
norm, norm1 ... the input, shifted and scaled to mean 0 and variance v / (v + eps), times the weight, plus the bias; of
                an RMS norm the input, scaled to mean square v / (v + eps), times the weight
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from .config import ViTConfig
from .errors import InvariantError
from .ops import unpatchify
from .steps import Array, Listener

NORMS = ("norm", "norm1", "norm2", "norm1_after", "norm2_after", "patch_norm", "query_norm", "key_norm", "pooled_norm")


def checking(pixels: Array, tensors: Mapping[str, Array], config: ViTConfig, hear: Listener | None) -> Listener:
    """A listener that checks the invariants of every step, and then lets `hear` have it. It raises InvariantError.

    The input of a norm is always the step before it.
    """
    before: list[Array] = [pixels]

    def listen(name: str, array: Array, dims: str) -> None:
        kind = name.rsplit(".", 1)[-1]
        if kind == "patches":
            held(name, are_the_pictures_patches, array, pixels, config.patch)
        elif kind == "probs":
            held(name, are_distributions, array)
        elif after_the_blocks(name):
            pass  # merged as the config says, with an eps of its own
        elif kind in NORMS and tensors[f"{name}.weight"].shape == array.shape[-1:]:  # not of all heads together
            learned = [tensors[f"{name}.{end}"] for end in ("weight", "bias") if f"{name}.{end}" in tensors]
            held(name, is_layer_norm if config.norm == "layer" else is_rms_norm, array, before[0], *learned, config.eps)
        if not after_the_blocks(name):
            before[0] = array
        if hear is not None:
            hear(name, array, dims)

    return listen


def after_the_blocks(name: str) -> bool:
    """Whether this is a step of what is made for a language model, which may come between two blocks."""
    return name.startswith(("merger.", "deepstack."))


def held(name: str, holds: Callable[..., bool], *arrays: object) -> None:
    """Raise InvariantError unless holds(*arrays). Its docstring says what must hold."""
    if not holds(*arrays):
        raise InvariantError(f"step {name}: {(holds.__doc__ or '').strip()}: not so")


def are_distributions(probs: Array) -> bool:
    """every row is a probability distribution: nothing negative, sum 1"""
    probs = np.asarray(probs)
    slack = 8 * np.finfo(probs.dtype).eps * math.sqrt(probs.shape[-1])
    return bool((probs >= 0).all() and (abs(probs.sum(axis=-1) - 1) <= slack).all())


def is_layer_norm(y: Array, x: Array, weight: Array, bias: Array, eps: float) -> bool:
    """a layer norm before scale and shift has mean 0 and variance v / (v + eps) in every token"""
    rounding = np.finfo(np.asarray(y).dtype).eps
    y, x, weight, bias = (np.asarray(array, np.float64) for array in (y, x, weight, bias))
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    scaled = centred / deviation * weight
    noise = abs(x).max(axis=-1, keepdims=True) / deviation * abs(weight)  # what rounding x's mean does
    return bool((abs(y - scaled - bias) <= 64 * rounding * (abs(scaled) + abs(bias) + noise)).all())


def is_rms_norm(y: Array, x: Array, weight: Array, eps: float) -> bool:
    """an RMS norm before its scale has mean square v / (v + eps) in every token"""
    rounding = np.finfo(np.asarray(y).dtype).eps
    y, x, weight = (np.asarray(array, np.float64) for array in (y, x, weight))
    scaled = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight
    return bool((abs(y - scaled) <= 64 * rounding * abs(scaled)).all())


def are_the_pictures_patches(patches: Array, pixels: Array, patch: int) -> bool:
    """patches put together again are the picture"""
    Y, X = (side // patch * patch for side in pixels.shape[2:])
    whole = unpatchify(np.asarray(patches), patch, (Y, X))
    return np.array_equal(whole, np.asarray(pixels)[:, :, :Y, :X], equal_nan=True)
