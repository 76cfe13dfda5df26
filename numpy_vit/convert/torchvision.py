"""torchvision's ViT (torchvision/models/vision_transformer.py): vit_b_16 and its kin.

Query, key and value lie in one matrix, as torch's nn.MultiheadAttention has them. Files of before 0.12 call the MLP's layers
linear_1 and linear_2.
"""

from typing import Any

from .family import Family, OpenCheckpoint
from .table import Row, Table

LAYER = "encoder.layers.encoder_layer_{n}."
TABLE = Table(
    (
        Row("embed.projection", "conv_proj"),
        Row("embed.class_token", "class_token"),
        Row("embed.positions", "encoder.pos_embedding"),
        Row("blocks.{n}.norm1", LAYER + "ln_1"),
        Row("blocks.{n}.attention.query", LAYER + "self_attention.in_proj_{end}", part=(0, 3)),
        Row("blocks.{n}.attention.key", LAYER + "self_attention.in_proj_{end}", part=(1, 3)),
        Row("blocks.{n}.attention.value", LAYER + "self_attention.in_proj_{end}", part=(2, 3)),
        Row("blocks.{n}.attention.output", LAYER + "self_attention.out_proj"),
        Row("blocks.{n}.norm2", LAYER + "ln_2"),
        Row("blocks.{n}.mlp.hidden", LAYER + "mlp.0"),
        Row("blocks.{n}.mlp.output", LAYER + "mlp.3"),
        Row("blocks.{n}.mlp.hidden", LAYER + "mlp.linear_1"),
        Row("blocks.{n}.mlp.output", LAYER + "mlp.linear_2"),
        Row("norm", "encoder.ln"),
        Row("pooler", "heads.pre_logits"),
        Row("head", "heads.head"),
    ),
    "torch",
)


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """With a representation_size, the head sees one more layer and its tanh."""
    return {"pre_logits": bool(reading.seen["pooler"])}


TORCHVISION = Family(
    name="torchvision",
    title="torchvision ViT",
    upstream="torchvision, models/vision_transformer.py",
    table=TABLE,
    marks=(r"conv_proj\.weight", r"encoder\.pos_embedding"),
    prefixes=("module.",),
    fixed={"eps": 1e-6, "activation": "gelu", "pooling": "class", "position_rule": "bicubic_corners"},
    says=says,
    policy="torchvision",
)
