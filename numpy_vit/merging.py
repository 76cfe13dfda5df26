"""What a language model sees of a picture: the encoder's tokens, merged and projected to its width.

merge       one merger: norm, neighbouring patches to one token, a small MLP (numpy_vit.groups.Merger says in which order)
forward     the whole model, and what becomes of its last tokens; and of some inner blocks' (Qwen3-VL's deepstack)
"""

import math
from collections.abc import Callable

import numpy as np

from . import model
from .config import ViTConfig
from .groups import JOINS, Merger
from .ops import ACTIVATIONS, layer_norm, linear, merge_patches, neighbourhoods, rms_norm, softmax
from .parameters import Weights, merged_width
from .steps import Array, Step


def forward(pixels: Array, w: Weights, config: ViTConfig, step: Step) -> dict[str, Array]:
    """The paper's model, and the tokens for a language model: "image_tokens" (B, T, ...), "deepstack" (B, blocks, T, ...)."""
    inner: list[Array] = []

    def kept(n: int) -> Callable[[Array, Step], Array]:
        def merged(x: Array, step: Step) -> Array:
            assert config.deepstack is not None
            inner.append(step.into(f"deepstack.{n}", merge, x, w.deepstack[n], config.deepstack.merger, config))
            return x

        return merged

    blocks = config.deepstack.blocks if config.deepstack else ()
    outputs = model.forward(pixels, w, config, step.then({f"blocks.{block}": kept(n) for n, block in enumerate(blocks)}))
    outputs |= merged_at_the_end(outputs, w, config, step)
    if inner:
        outputs["deepstack"] = np.concatenate([x[:, None] for x in inner], axis=1)
    return outputs


def merged_at_the_end(outputs: dict[str, Array], w: Weights, config: ViTConfig, step: Step) -> dict[str, Array]:
    """What the paper's outputs leave out: "image_tokens", where there is a merger."""
    if config.merger is None:
        return {}
    learned = getattr(w, "merger", Weights())  # a mean has none
    return {"image_tokens": step.into("merger", merge, outputs["last_hidden_state"], learned, config.merger, config)}


def merge(x: Array, w: Weights, merger: Merger, config: ViTConfig, step: Step) -> Array:
    """A merger's stages, one after the other; tokens that stand for no patch are left out. (B, N, D) -> (B, T, ...)."""
    tokens, width = "G", "D"
    x = x[:, config.special_tokens :]
    for name, kind, wanted in merger.parsed:
        width = merged_width(width, kind, wanted, merger.side)
        tokens = "T" if kind in JOINS else tokens
        dims = f"B {tokens} {width}"
        if kind == "norm":
            x = norm_of(merger, x, getattr(w, name, None))
        elif kind in JOINS:
            x = merge_patches(x, config.grid, merger.side, kind)
        elif kind in ACTIVATIONS:
            x = ACTIVATIONS[kind](x)
        elif kind == "softmax":
            x = softmax(x)
        elif kind == "scale":
            x = x * math.sqrt(x.shape[-1])
        elif kind == "standardize":
            x = (x - getattr(w, name).shift) * getattr(w, name).scale
        elif kind == "gated":  # GLU, arXiv 2002.05202
            gate = step(f"{name}_gate", linear(x, *getattr(w, name).gate), dims)
            gate = step(f"{name}_silu", ACTIVATIONS["silu"](gate), dims)
            x = gate * step(f"{name}_hidden", linear(x, *getattr(w, name).hidden), dims)
        elif kind == "conv":
            x = linear(neighbourhoods(x, config.grid), *getattr(w, name))
        else:
            x = linear(x, *getattr(w, name))
        x = step(name, x, dims)
    return x


def norm_of(merger: Merger, x: Array, w: Weights | None) -> Array:
    """A norm of the numbers of each token: (..., D) -> (..., D)."""
    if merger.norm == "layer":
        assert w is not None
        return layer_norm(x, *w, merger.eps)
    return rms_norm(x, 1.0 if w is None else w.weight, merger.eps)
