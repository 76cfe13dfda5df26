"""Pix2Struct's encoder, and Kosmos-2.5's (transformers, models/pix2struct and models/kosmos2_5).

Pictures at their own size; a patch has one position for its row and one for its column, of two tables; RMS norms, gated MLPs
and no biases but the patch projection's. Pix2Struct does not divide its scores by sqrt(K). Rows and columns count from 1: the
tables' first entries are for padding, and are left out here. Pixels of a patch lie as (py, px, c). All tokens go to a text
model; Kosmos-2.5's resampler between is not run.
"""

import math
from collections.abc import Mapping
from typing import Any

from ..files.tensorfile import Tensor
from . import multimodal
from .family import Family, OpenCheckpoint
from .multimodal import any_image, only, sizes
from .table import Row, Table, Tensors

LAYER = "encoder.layer.{n}."
TABLE = Table(
    (
        Row("embed.projection.weight", "embeddings.patch_projection.weight", layout="patch_last"),
        Row("embed.projection.bias", "embeddings.patch_projection.bias"),
        Row("embed.row_positions", "embeddings.row_embedder.weight"),
        Row("embed.column_positions", "embeddings.column_embedder.weight"),
        Row("blocks.{n}.norm1", LAYER + "pre_attention_layer_norm"),
        Row("blocks.{n}.attention.query", LAYER + "attention.query"),
        Row("blocks.{n}.attention.key", LAYER + "attention.key"),
        Row("blocks.{n}.attention.value", LAYER + "attention.value"),
        Row("blocks.{n}.attention.output", LAYER + "attention.output"),
        Row("blocks.{n}.norm2", LAYER + "pre_mlp_layer_norm"),
        Row("blocks.{n}.mlp.gate", LAYER + "mlp.wi_0"),
        Row("blocks.{n}.mlp.hidden", LAYER + "mlp.wi_1"),
        Row("blocks.{n}.mlp.output", LAYER + "mlp.wo"),
        Row("norm", "layernorm"),
    ),
    "torch",
)
COMMON = {
    "depth": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "activation": ("dense_act_fn", "gelu_new"),
    "eps": ("layer_norm_eps", 1e-6),
    "row": ("patch_embed_hidden_size", 768),  # numbers of a patch
    "width": ("hidden_size", 768),
}
PIX2STRUCT_KEYS = {**COMMON, "mlp": ("d_ff", 2048), "head": ("d_kv", 64), "table": ("seq_len", 4096)}
KOSMOS_KEYS = {
    **COMMON,
    "width": ("hidden_size", 1536),
    "depth": ("num_hidden_layers", 18),
    "heads": ("num_attention_heads", 24),
    "mlp": ("intermediate_size", 3968),
    "head": ("head_dim", 64),
    "table": ("max_num_patches", 4096),
}
NO_EFFECT = ("dropout_rate", "relative_attention_num_buckets", "relative_attention_max_distance")


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says of the encoder."""
    kosmos = reading.config.get("model_type") == "kosmos_2_5_vision_model"
    keys, what = (KOSMOS_KEYS, "Kosmos-2.5") if kosmos else (PIX2STRUCT_KEYS, "Pix2Struct")
    fields, _ = sizes(reading, what, keys, NO_EFFECT)
    row, head, rows = (fields.pop(name) for name in ("row", "head", "table"))
    for key, value, least in ((keys["head"][0], head, 1), (keys["table"][0], rows, 2), ("patch_embed_hidden_size", row, 3)):
        only(f"{key} {value!r:.40}", type(value) is int and value >= least, f"it must be a whole number from {least} on")
    patch = math.isqrt(row // 3)
    only(f"patch_embed_hidden_size {row}", 3 * patch * patch == row, "a square patch of three channels is")
    image = [min(side, (rows - 1) * patch) for side in any_image(patch)]
    return {
        **fields,
        "patch": patch,
        "channels": 3,
        "image": image,
        "inner": fields["heads"] * head,
        "position_rows": rows - 1,
        "scaled_scores": kosmos,
    }


def from_1_on(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The tables of positions without their first entries."""
    tables = [name for name in ("embeddings.row_embedder.weight", "embeddings.column_embedder.weight") if name in tensors]
    return {**tensors, **{name: Tensor(tensors[name].dtype, tensors[name].data[1:]) for name in tables}}


PIX2STRUCT = Family(
    name="pix2struct",
    unprepared=("Pix2Struct", "Kosmos2_5"),
    title="Pix2Struct's encoder, and Kosmos-2.5's",
    upstream="transformers, models/pix2struct and kosmos2_5",
    table=TABLE,
    marks=(),
    model_types=("pix2struct_vision_model", "kosmos_2_5_vision_model"),
    prefixes=("vision_model.",),
    fixed={
        **multimodal.FIXED,
        "positions": "axes",
        "norm": "rms",
        "qkv_bias": False,
        "gated_mlp": True,
        "final_norm": "tokens",
        "without_bias": ("attention.output", "mlp.gate", "mlp.hidden", "mlp.output"),
    },
    says=says,
    prepare=from_1_on,
    hugging_face=True,
)
