"""Google's own checkpoints (.npz): the paper's and AugReg's (google-research/vision_transformer) and big_vision's, with SigLIP.

Linear kernels are (in, out), with heads as an axis of their own: (D, H, K) and (H, K, D); the patch kernel is (P, P, C, D).
Flax's default GELU is the tanh approximation, its layer norm has eps 1e-6. In vision_transformer the layers of a block are
numbered through (LayerNorm_0, MultiHeadDotProductAttention_1, ...), in big_vision each kind for itself; and big_vision may hold
all blocks in one array with a leading axis ("scan").
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import ViTConfig
from ..errors import InputError
from ..files.tensorfile import Tensor
from .family import Family, OpenCheckpoint
from .table import Row, Table, Tensors

BLOCK = "Transformer/encoderblock_{n}/"
TABLE = Table(
    (
        Row("embed.projection", "embedding"),
        Row("embed.class_token", "cls"),
        Row("embed.positions", "Transformer/posembed_input/pos_embedding"),
        Row("embed.positions", "pos_embedding"),  # big_vision
        Row("embed.positions", "Transformer/pos_embedding"),  # big_vision's first files
        Row("blocks.{n}.norm1", BLOCK + "LayerNorm_0"),
        # numbered through, as in all files that Google published with vision_transformer
        Row("blocks.{n}.attention.query", BLOCK + "MultiHeadDotProductAttention_1/query"),
        Row("blocks.{n}.attention.key", BLOCK + "MultiHeadDotProductAttention_1/key"),
        Row("blocks.{n}.attention.value", BLOCK + "MultiHeadDotProductAttention_1/value"),
        Row("blocks.{n}.attention.output", BLOCK + "MultiHeadDotProductAttention_1/out"),
        Row("blocks.{n}.norm2", BLOCK + "LayerNorm_2"),
        Row("blocks.{n}.mlp.hidden", BLOCK + "MlpBlock_3/Dense_0"),
        Row("blocks.{n}.mlp.output", BLOCK + "MlpBlock_3/Dense_1"),
        # each kind for itself, as big_vision and newer flax do
        Row("blocks.{n}.attention.query", BLOCK + "MultiHeadDotProductAttention_0/query"),
        Row("blocks.{n}.attention.key", BLOCK + "MultiHeadDotProductAttention_0/key"),
        Row("blocks.{n}.attention.value", BLOCK + "MultiHeadDotProductAttention_0/value"),
        Row("blocks.{n}.attention.output", BLOCK + "MultiHeadDotProductAttention_0/out"),
        Row("blocks.{n}.norm2", BLOCK + "LayerNorm_1"),
        Row("blocks.{n}.mlp.hidden", BLOCK + "MlpBlock_0/Dense_0"),
        Row("blocks.{n}.mlp.output", BLOCK + "MlpBlock_0/Dense_1"),
        Row("norm", "Transformer/encoder_norm"),
        Row("map.probe", "MAPHead_0/probe"),
        Row("map.attention.query", "MAPHead_0/MultiHeadDotProductAttention_0/query"),
        Row("map.attention.key", "MAPHead_0/MultiHeadDotProductAttention_0/key"),
        Row("map.attention.value", "MAPHead_0/MultiHeadDotProductAttention_0/value"),
        Row("map.attention.output", "MAPHead_0/MultiHeadDotProductAttention_0/out"),
        Row("map.norm", "MAPHead_0/LayerNorm_0"),
        Row("map.mlp.hidden", "MAPHead_0/MlpBlock_0/Dense_0"),
        Row("map.mlp.output", "MAPHead_0/MlpBlock_0/Dense_1"),
        Row("pooler", "pre_logits"),
        Row("head", "head"),
    ),
    "flax",
)


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What follows from the tensors."""
    seen = reading.seen
    pooling = seen.get("pooling", "class" if seen["class_token"] else "mean")
    return {"pooling": pooling, "pre_logits": bool(seen["pooler"] and seen["classes"])}


def big_vision_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """The same; positions that are not in the file are sines and cosines, big_vision has no others."""
    if reading.seen.get("positions") == "none":
        reading.notes.append("no pos_embedding: sines and cosines (posemb 'sincos2d'), as in big_vision")
    return {**says(reading), **({"positions": "patches"} if reading.seen.get("positions") == "none" else {})}


def sincos2d(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    """Fixed positions, where none are stored: sin and cos of column, then of row (big_vision, vit.py, posemb_sincos_2d)."""
    if reading.seen.get("positions") != "none":
        return {}
    row, column = (axis.reshape(-1, 1) for axis in np.indices(config.grid).astype(np.float64))
    quarter = config.width // 4
    frequency = 10_000.0 ** -(np.arange(quarter) / (quarter - 1))
    angles = [np.sin(column * frequency), np.cos(column * frequency), np.sin(row * frequency), np.cos(row * frequency)]
    return {"embed.positions": np.concatenate(angles, axis=1)}


def unstacked(tensors: Tensors, config: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """big_vision's scanned blocks, one array of (L, ...) for all -> encoderblock_0, encoderblock_1, ..."""
    found = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(Transformer/encoderblock)(/.*)", name)
        if match is None:
            found[name] = tensor
            continue
        if not tensor.shape:
            raise InputError(f"tensor '{name}' has no axis of blocks")
        found |= {f"{match[1]}_{n}{match[2]}": Tensor(tensor.dtype, part) for n, part in enumerate(tensor.data)}
    return found


FIXED = {"eps": 1e-6, "activation": "gelu_tanh", "position_rule": "bilinear_corners"}
TRAINING = {r"(opt|state|chrono)/.*|step": "it serves training only"}
AUGREG = Family(
    name="augreg",
    title="Google's ViT and AugReg",
    upstream="google-research/vision_transformer, vit_jax/models_vit.py",
    table=TABLE,
    marks=(r"embedding/kernel", r"Transformer/posembed_input/pos_embedding"),
    prefixes=("opt/target/", "params/"),
    left_out=TRAINING,
    fixed=FIXED,
    says=says,
    policy="augreg",
)
BIG_VISION = Family(
    name="big-vision",
    title="big_vision's ViT and SigLIP",
    upstream="google-research/big_vision, big_vision/models/vit.py",
    table=TABLE,
    marks=(r"embedding/kernel", r"Transformer/encoderblock(_0)?/MultiHeadDotProductAttention_0/query/kernel"),
    prefixes=("params/", "opt/target/"),
    towers=("params/img/", "img/"),
    left_out=TRAINING,
    fixed=FIXED,
    says=big_vision_says,
    made=sincos2d,
    prepare=unstacked,
    policy="big_vision",
)
