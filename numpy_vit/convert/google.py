"""Google's own checkpoints (.npz): the paper's and AugReg's (google-research/vision_transformer) and big_vision's, with SigLIP.

Linear kernels are (in, out), with heads as an axis of their own: (D, H, K) and (H, K, D); the patch kernel is (P, P, C, D).
Flax's default GELU is the tanh approximation, its layer norm has eps 1e-6. In vision_transformer the layers of a block are
numbered through (LayerNorm_0, MultiHeadDotProductAttention_1, ...), in big_vision each kind for itself; and big_vision may hold
all blocks in one array with a leading axis ("scan").
"""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..tensorfile import Tensor
from .family import Family, Reading
from .table import Row, Table, Tensors


def rows(norm1: str, attention: str, norm2: str, mlp: str) -> tuple[Row, ...]:
    """The table for one way of numbering a block's layers."""
    block = "Transformer/encoderblock_{n}/"
    return (
        Row("embed.projection", "embedding"),
        Row("embed.class_token", "cls"),
        Row("embed.positions", "Transformer/posembed_input/pos_embedding"),
        Row("embed.positions", "pos_embedding"),
        Row("blocks.{n}.norm1", block + norm1),
        Row("blocks.{n}.attention.query", block + attention + "/query"),
        Row("blocks.{n}.attention.key", block + attention + "/key"),
        Row("blocks.{n}.attention.value", block + attention + "/value"),
        Row("blocks.{n}.attention.output", block + attention + "/out"),
        Row("blocks.{n}.norm2", block + norm2),
        Row("blocks.{n}.mlp.hidden", block + mlp + "/Dense_0"),
        Row("blocks.{n}.mlp.output", block + mlp + "/Dense_1"),
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
    )


AUGREG_TABLE = Table(rows("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"), "flax")
BIG_VISION_TABLE = Table(rows("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"), "flax")


def says(reading: Reading) -> dict[str, Any]:
    """What follows from the tensors."""
    seen = reading.seen
    pooling = seen.get("pooling", "class" if seen["class_token"] else "mean")
    return {"pooling": pooling, "pre_logits": bool(seen["pooler"] and seen["classes"])}


def unstacked(tensors: Tensors) -> Mapping[str, Tensor]:
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
AUGREG = Family(
    name="augreg",
    title="Google's ViT and AugReg",
    upstream="google-research/vision_transformer, vit_jax/models_vit.py",
    table=AUGREG_TABLE,
    marks=(r"embedding/kernel", r"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"),
    prefixes=("opt/target/", "params/"),
    fixed=FIXED,
    says=says,
    policy="augreg",
)
BIG_VISION = Family(
    name="big-vision",
    title="big_vision's ViT and SigLIP",
    upstream="google-research/big_vision, big_vision/models/vit.py",
    table=BIG_VISION_TABLE,
    marks=(r"embedding/kernel", r"Transformer/encoderblock(_0)?/MultiHeadDotProductAttention_0/query/kernel"),
    prefixes=("params/", "opt/target/"),
    towers=("params/img/", "img/"),
    fixed=FIXED,
    says=says,
    prepare=unstacked,
    policy="big_vision",
)
