"""Hugging Face ViT (transformers, models/vit/modeling_vit.py): ViTModel and ViTForImageClassification; MAE's encoder; I-JEPA.

Names come in two dialects: as the hub's files have them, and as transformers 5 has them in memory. Linear weights are
(out, in) and are transposed; the patch convolution (D, C, P, P) becomes (C*P*P, D). DINO and DeiT without distillation are
on the hub as this family. I-JEPA has no class token: its classifier sees the mean of the patches.
"""

from typing import Any

from .family import Family, OpenCheckpoint
from .hugging_face import BLOCK, DEFAULTS, EMBEDDINGS, MASK_TOKEN, classes, labels, pooler, qkv_bias, sizes
from .table import Row, Table

TABLE = Table(
    (
        *EMBEDDINGS,
        *BLOCK,
        Row("norm", "layernorm"),
        Row("pooler", "pooler.dense"),
        Row("head", "classifier"),
    ),
    "torch",
)


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    fields = sizes(reading, "ViT", DEFAULTS)
    return {**fields, "classes": classes(reading), "pooler": pooler(reading), "qkv_bias": qkv_bias(reading)}


def mae_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What MAE's config.json says of the encoder."""
    return {**sizes(reading, "ViTMAE", DEFAULTS), "classes": 0, "pooler": 0, "qkv_bias": qkv_bias(reading)}


def ijepa_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What I-JEPA's config.json says. A pooler, which it can have, would see the first patch: that is not read."""
    return {**sizes(reading, "I-JEPA", DEFAULTS), "classes": classes(reading), "pooler": 0, "qkv_bias": qkv_bias(reading)}


FIXED = {"pooling": "class", "position_rule": "bicubic"}
HF_VIT = Family(
    name="hf-vit",
    title="Hugging Face ViT",
    upstream="transformers, models/vit",
    table=TABLE,
    marks=(r"embeddings\.cls_token", r"embeddings\.patch_embeddings\.projection\.weight", r"layernorm\.weight"),
    model_types=("vit",),
    prefixes=("vit.",),
    fixed=FIXED,
    says=says,
    left_out={**MASK_TOKEN, r"decoder\.\d+\..*": "the decoder serves masked-image training only"},
    labels=labels,
    hugging_face=True,
)
HF_MAE = Family(
    name="hf-mae",
    title="Hugging Face MAE, the encoder",
    upstream="transformers, models/vit_mae",
    table=TABLE,
    marks=(r"vit\.embeddings\.cls_token", r"decoder\.decoder_pred\.weight"),
    model_types=("vit_mae",),
    prefixes=("vit.",),
    fixed=FIXED,
    says=mae_says,
    left_out={r"decoder\..*": "the decoder serves masked-image training only"},
    hugging_face=True,
)
HF_IJEPA = Family(
    name="hf-ijepa",
    title="Hugging Face I-JEPA, the encoder",
    upstream="transformers, models/ijepa",
    table=Table(tuple(row for row in TABLE.rows if row.ours not in ("embed.class_token", "pooler")), "torch"),
    marks=(),
    model_types=("ijepa",),
    prefixes=("ijepa.",),
    fixed={"pooling": "mean", "position_rule": "bicubic", "class_token": False},
    says=ijepa_says,
    left_out=MASK_TOKEN,
    labels=labels,
    hugging_face=True,
)
