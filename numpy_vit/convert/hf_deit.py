"""Hugging Face DeiT (transformers, models/deit/modeling_deit.py): ViT with a distillation token.

DeiTForImageClassificationWithTeacher has two heads and gives the mean of both; DeiTForImageClassification has one, on the
class token. (DeiT without distillation is on the hub as a plain ViT.)
"""

from typing import Any

from .family import Family, OpenCheckpoint
from .hugging_face import BLOCK, DEFAULTS, EMBEDDINGS, MASK_TOKEN, architectures, classes, labels, pooler, qkv_bias, sizes
from .table import Row, Table

TABLE = Table(
    (
        *EMBEDDINGS,
        Row("embed.distillation_token", "embeddings.distillation_token", ones=2),
        *BLOCK,
        Row("norm", "layernorm"),
        Row("pooler", "pooler.dense"),
        Row("head", "classifier"),
        Row("head", "cls_classifier"),
        Row("distillation_head", "distillation_classifier"),
    ),
    "torch",
)


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    teacher = any("WithTeacher" in kind for kind in architectures(reading))
    two_heads = reading.seen.get("distillation_head", teacher)
    fields = sizes(reading, "DeiT", DEFAULTS)
    return {
        **fields,
        "classes": classes(reading),
        "pooler": pooler(reading),
        "qkv_bias": qkv_bias(reading),
        "distillation_head": two_heads,
    }


HF_DEIT = Family(
    name="hf-deit",
    title="Hugging Face DeiT",
    upstream="transformers, models/deit",
    table=TABLE,
    marks=(r"embeddings\.cls_token", r"embeddings\.distillation_token"),
    model_types=("deit",),
    prefixes=("deit.",),
    fixed={"pooling": "class", "position_rule": "bicubic", "distillation_token": True},
    says=says,
    left_out={**MASK_TOKEN, r"decoder\.\d+\..*": "the decoder serves masked-image training only"},
    labels=labels,
    hugging_face=True,
)
