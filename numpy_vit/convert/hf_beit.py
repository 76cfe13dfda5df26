"""Hugging Face BEiT (transformers, models/beit/modeling_beit.py).

A learned number for every head and distance is added to the scores, from a table in each block or one for all; the key has no
bias; attention and MLP are scaled (lambda_1, lambda_2); the last norm is of the mean of the patch tokens.
"""

from typing import Any

from ..errors import InputError
from .family import Family, OpenCheckpoint
from .hugging_face import BLOCK, DEFAULTS, EMBEDDINGS, MASK_TOKEN, classes, flag, labels, sizes
from .table import Row, Table

TABLE_ROW = "relative_position_bias.relative_position_bias_table"
TABLE = Table(
    (
        *EMBEDDINGS,
        *BLOCK,
        Row("blocks.{n}.attention.relative_positions", "encoder.layer.{n}.attention.attention." + TABLE_ROW, layout="plain"),
        Row("blocks.{n}.attention.relative_positions", "layers.{n}." + TABLE_ROW, layout="plain"),
        Row("blocks.{n}.attention.relative_positions", "encoder." + TABLE_ROW, layout="plain"),  # one for all blocks
        Row("blocks.{n}.attention.relative_positions", "shared_position_bias.relative_position_bias_table", layout="plain"),
        Row("blocks.{n}.layer_scale1", "encoder.layer.{n}.lambda_1"),
        Row("blocks.{n}.layer_scale2", "encoder.layer.{n}.lambda_2"),
        Row("blocks.{n}.layer_scale1", "layers.{n}.lambda_1"),
        Row("blocks.{n}.layer_scale2", "layers.{n}.lambda_2"),
        Row("norm", "layernorm"),
        Row("pooled_norm", "pooler.layernorm"),
        Row("head", "classifier"),
    ),
    "torch",
)


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    config = reading.config
    fields = sizes(reading, "BEiT", DEFAULTS)
    positions = flag(config, "use_absolute_position_embeddings", False)
    own, shared = flag(config, "use_relative_position_bias", False), flag(config, "use_shared_relative_position_bias", False)
    if own and shared:
        raise InputError("config.json: relative positions both shared and in every block are not supported")
    scale = config.get("layer_scale_init_value", 0.1)
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float) or scale < 0):
        raise InputError(f"config.json: layer_scale_init_value {scale!r:.40}: it must be null, or a number, 0 or above")
    mean = flag(config, "use_mean_pooling", True)
    seen = reading.seen.get("final_norm", "pooled" if mean else "tokens")
    if positions and (own or shared):
        reading.notes.append("at another image size both kinds of positions are resized bilinear; transformers has two rules")
    return {
        **fields,
        **({"position_rule": "bicubic"} if positions and not (own or shared) else {}),
        "classes": classes(reading),
        "pooler": 0,
        "positions": "all" if positions else "none",
        "relative_positions": own or shared,
        "layer_scale": bool(scale),
        "pooling": "mean" if mean and seen == "pooled" else "class",
        "final_norm": seen,
    }


HF_BEIT = Family(
    name="hf-beit",
    title="Hugging Face BEiT",
    upstream="transformers, models/beit",
    table=TABLE,
    marks=(r"embeddings\.cls_token", r"encoder\.(layer\.0\.lambda_1|" + TABLE_ROW.replace(".", r"\.") + ")"),
    model_types=("beit",),
    prefixes=("beit.",),
    fixed={"position_rule": "bilinear", "qkv_bias": True, "without_bias": ("attention.key",)},
    says=says,
    left_out={
        **MASK_TOKEN,
        r".*relative_position_index": "it is computed",
        r"lm_head\..*": "the head over visual words serves masked-image training only",
    },
    labels=labels,
    hugging_face=True,
)
