"""Hugging Face DINOv3 (transformers, models/dinov3_vit): rotary positions, registers, layer scale, no bias of the key.

The rotary frequencies are in no file: transformers computes them from rope_theta in float32; here they are made in float64.
"""

import math
from typing import Any

import numpy as np

from ..config import ViTConfig
from ..errors import InputError
from .family import Family, OpenCheckpoint
from .hugging_face import DEFAULTS, MASK_TOKEN, flag, get, sizes
from .table import Row, Table

TABLE = Table(
    (
        Row("embed.projection", "embeddings.patch_embeddings"),
        Row("embed.class_token", "embeddings.cls_token", ones=2),
        Row("embed.registers", "embeddings.register_tokens", ones=1),
        Row("blocks.{n}.norm1", "layer.{n}.norm1"),
        Row("blocks.{n}.attention.query", "layer.{n}.attention.q_proj"),
        Row("blocks.{n}.attention.key", "layer.{n}.attention.k_proj"),
        Row("blocks.{n}.attention.value", "layer.{n}.attention.v_proj"),
        Row("blocks.{n}.attention.output", "layer.{n}.attention.o_proj"),
        Row("blocks.{n}.layer_scale1", "layer.{n}.layer_scale1.lambda1"),
        Row("blocks.{n}.norm2", "layer.{n}.norm2"),
        Row("blocks.{n}.mlp.gate", "layer.{n}.mlp.gate_proj"),
        Row("blocks.{n}.mlp.hidden", "layer.{n}.mlp.up_proj"),
        Row("blocks.{n}.mlp.output", "layer.{n}.mlp.down_proj"),
        Row("blocks.{n}.layer_scale2", "layer.{n}.layer_scale2.lambda1"),
        Row("norm", "norm"),
    ),
    "torch",
)


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    config = reading.config
    fields = sizes(reading, "DINOv3", {**DEFAULTS, "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6,
                                       "layer_norm_eps": 1e-5})  # fmt: skip
    query, key, value = (flag(config, f"{part}_bias", part != "key") for part in ("query", "key", "value"))
    if query != value:
        raise InputError(f"config.json: query_bias {query} and value_bias {value}: only both alike are supported")
    gated = flag(config, "use_gated_mlp", False)
    without = [] if key or not query else ["attention.key"]
    without += [] if flag(config, "proj_bias", True) else ["attention.output"]
    if not flag(config, "mlp_bias", True):
        without += ["mlp.hidden", "mlp.output", *(["mlp.gate"] if gated else [])]
    registers = config.get("num_register_tokens", 0)
    if not registers:
        reading.left_out[r"embeddings\.register_tokens"] = "it holds no token"
    return {**fields, "registers": registers, "gated_mlp": gated, "qkv_bias": query, "without_bias": tuple(without)}


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    """The rotary frequencies: 2 pi / period, periods from 1 to nearly rope_theta."""
    theta = get(reading.config, "rope_theta", reading.notes, {"rope_theta": 100.0}, "DINOv3")
    if not isinstance(theta, int | float) or not theta > 0:
        raise InputError(f"config.json: rope_theta {theta!r} is no number above 0")
    return {"rope.frequencies": 2 * math.pi / np.float64(theta) ** np.arange(0, 1, 4 / config.head_dim)}


HF_DINOV3 = Family(
    name="hf-dinov3",
    title="Hugging Face DINOv3",
    upstream="transformers, models/dinov3_vit",
    table=TABLE,
    marks=(r"embeddings\.cls_token", r"layer\.0\.layer_scale1\.lambda1", r"layer\.0\.mlp\.up_proj\.weight"),
    model_types=("dinov3_vit",),
    prefixes=("model.",),
    fixed={
        "pooling": "class",
        "position_rule": "bicubic",
        "positions": "none",
        "rope": "centred_halves",
        "layer_scale": True,
        "classes": 0,
        "pooler": 0,
    },
    says=says,
    left_out={**MASK_TOKEN, r".*inv_freq": "it is computed"},
    made=made,
    hugging_face=True,
)
