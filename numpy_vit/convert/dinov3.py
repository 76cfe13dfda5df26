"""Facebook's DINOv3 (facebookresearch/dinov3, models/vision_transformer.py), and timm's files of it (timm/models/eva.py).

Rotary positions; Facebook's files hold the periods of their angles, rounded to bfloat16, and timm's and transformers' compute
them. The key has no bias: Facebook's files have one that a mask in them sets to zero.
"""

import math
from typing import Any

import numpy as np

from ..config import ViTConfig
from . import timm_models
from .family import Family, OpenCheckpoint
from .table import Row, Table
from .timm import (
    ALL,
    BLOCK,
    COMPUTED,
    EMBEDDINGS,
    MASK_TOKEN,
    MODEL,
    TAIL,
    config_says,
    labels,
    prepared,
    preprocess,
    rotary_frequencies,
)

TABLE = Table(
    (
        *EMBEDDINGS,
        Row("embed.registers", "storage_tokens"),
        *BLOCK,
        Row("blocks.{n}.attention.query.bias", "blocks.{n}.attn.q_bias"),
        Row("blocks.{n}.attention.value.bias", "blocks.{n}.attn.v_bias"),
        Row("blocks.{n}.mlp.gate", "blocks.{n}.mlp.w1"),
        Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.w2"),
        Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.w3"),
        Row("blocks.{n}.mlp.gate", "blocks.{n}.mlp.fc1_g"),
        Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.fc1_x"),
        *TAIL,
    ),
    "torch",
)


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What timm's config.json says; without it, what follows from the tensors."""
    if timm_models.names_one(reading.config):
        return config_says(reading)
    seen, tensors = reading.seen, reading.tensors or {}
    biased = seen["qkv_bias"]
    without = [name for name in seen["without_bias"] if name != "attention.key"] + (["attention.key"] if biased else [])
    gated = {"activation": "silu"} if seen["gated_mlp"] else {}
    pooling = "class" if "rope_embed.periods" in tensors else None  # timm's default is the mean, upstream's the class token
    pooling = "mean" if seen["final_norm"] == "pooled" else pooling
    if "rope_embed.periods" in tensors:
        reading.left_out[r"rope_embed\.periods"] = "its periods become frequencies"
    return {**gated, "pooling": pooling, "without_bias": tuple(without), "positions": "none", **config_says(reading)}


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    """The rotary frequencies: 2 pi / period."""
    stored = (reading.tensors or {}).get("rope_embed.periods")
    if stored is None or config.rope == "none":
        return rotary_frequencies(config, reading, 100)
    return {"rope.frequencies": 2 * math.pi / stored.to_float(np.float64)}


COMMON: dict[str, Any] = {
    "prefixes": MODEL,
    "fixed": {"eps": 1e-5, "activation": "gelu", "position_rule": "bicubic", "rope": "centred_halves"},
    "says": says,
    "made": made,
    "policy": "dinov3",
}
DINOV3 = Family(
    name="dinov3",
    title="Facebook's DINOv3",
    upstream="facebookresearch/dinov3, models/vision_transformer.py",
    table=TABLE,
    marks=(r"patch_embed\.proj\.weight", r"rope_embed\.periods"),
    left_out={
        **MASK_TOKEN,
        r"(local_cls_norm|projectors)\..*": "it serves training only",
        r"blocks\.\d+\.attn\.qkv\.bias_mask": "it sets the key's bias to zero, which has none here",
    },
    **COMMON,
)
TIMM_DINOV3 = Family(
    name="timm-dinov3",
    title="timm's DINOv3",
    upstream="timm, eva.py",
    table=ALL,
    marks=(),  # other models of timm's have the same names
    prepare=prepared,
    left_out={**MASK_TOKEN, **COMPUTED},
    preprocess=preprocess,
    labels=labels,
    **COMMON,
)
