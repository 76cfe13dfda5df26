"""MLCD (transformers, models/mlcd): CLIP's tower with rotary positions in the place of the table.

Patches are rotated by their row and then their column, and the class token by angles of its own, which are learned.
"""

from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from .family import Family, OpenCheckpoint
from .hf_clip import BLOCK
from .hugging_face import DEFAULTS, section_of, sizes
from .multimodal import frequencies, rope_theta
from .table import Row, Table

TABLE = Table(
    (
        Row("embed.projection", "embeddings.patch_embedding"),
        Row("embed.class_token", "embeddings.class_embedding"),
        Row("embed.norm", "pre_layrnorm"),
        Row("rope.class_angles", "class_pos_emb", ones=1),
        *BLOCK,
        Row("pooled_norm", "post_layernorm"),
    ),
    "torch",
)
MLCD_DEFAULTS = {
    **DEFAULTS, "hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "layer_norm_eps": 1e-5,
}  # fmt: skip


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    section = section_of(reading)
    if section.get("num_key_value_groups", 1) != 1:
        raise InputError(f"config.json: num_key_value_groups {section['num_key_value_groups']!r} is not supported: only 1")
    return sizes(reading, "MLCD", MLCD_DEFAULTS, section)


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    return frequencies(config, rope_theta(section_of(reading), 10_000.0))


HF_MLCD = Family(
    name="hf-mlcd",
    title="Hugging Face MLCD",
    upstream="transformers, models/mlcd",
    table=TABLE,
    marks=(),
    model_types=("mlcd", "mlcd_vision_model"),
    prefixes=("vision_model.",),
    fixed={
        "classes": 0,
        "pooler": 0,
        "pooling": "class",
        "position_rule": "bicubic",
        "positions": "none",
        "rope": "index_halves",
        "rope_class_angle": True,
        "qkv_bias": True,
        "pre_norm": True,
        "final_norm": "pooled",
        "without_bias": ("embed.projection",),
    },
    says=says,
    made=made,
    hugging_face=True,
)
