"""Hugging Face SigLIP, the picture's tower (transformers, models/siglip/modeling_siglip.py), and SigLIP 2 of fixed size.

No class token: a learned query attends to all tokens (MAP). Its query, key and value lie in one matrix, as torch's
nn.MultiheadAttention has them. SiglipForImageClassification takes the mean of the tokens instead. SigLIP 2 "NaFlex" files
(model_type siglip2) have the patch projection as a linear layer of (py, px, c) rows, and take pictures of any size: the square
table of positions is resized for each. Upstream fills up a batch's smaller pictures and masks what was added; here a picture
is run by itself, which is the same.
"""

from typing import Any

from ..errors import InputError
from .family import Family, OpenCheckpoint
from .hf_clip import BLOCK, TEXT_TOWER
from .hugging_face import DEFAULTS, classes, flag, is_classifier, labels, section_of, sizes
from .table import Row, Table

TOWER = (
    Row("embed.positions", "embeddings.position_embedding.weight"),
    *BLOCK,
    Row("norm", "post_layernorm"),
    Row("map.probe", "head.probe", ones=1),
    Row("map.attention.query", "head.attention.in_proj_{end}", part=(0, 3)),
    Row("map.attention.key", "head.attention.in_proj_{end}", part=(1, 3)),
    Row("map.attention.value", "head.attention.in_proj_{end}", part=(2, 3)),
    Row("map.attention.output", "head.attention.out_proj"),
    Row("map.norm", "head.layernorm"),
    Row("map.mlp.hidden", "head.mlp.fc1"),
    Row("map.mlp.output", "head.mlp.fc2"),
    Row("head", "classifier"),
)
TABLE = Table((Row("embed.projection", "embeddings.patch_embedding"), *TOWER), "torch")
TABLE_2 = Table(
    (
        Row("embed.projection.weight", "embeddings.patch_embedding.weight", layout="patch_last"),
        Row("embed.projection.bias", "embeddings.patch_embedding.bias"),
        *TOWER,
    ),
    "torch",
)
SIGLIP_DEFAULTS = {**DEFAULTS, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says; in files of both towers, its vision_config."""
    section = section_of(reading)
    return {**sizes(reading, "SigLIP", SIGLIP_DEFAULTS, section), **pooling(reading, section)}


def says_2(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of SigLIP 2 says: no image size, but how many patches."""
    section = section_of(reading)
    defaults = {key: value for key, value in SIGLIP_DEFAULTS.items() if key != "image_size"}
    fields = sizes(reading, "SigLIP 2", defaults, section)
    patches = section.get("num_patches", 256)
    side = round(patches**0.5) if type(patches) is int and patches > 0 else 0
    if side * side != patches:
        raise InputError(f"config.json: num_patches {patches!r} is no square number")
    return {**fields, "image": side * fields["patch"], **pooling(reading, section)}


def pooling(reading: OpenCheckpoint, section: Any) -> dict[str, Any]:
    """How the picture's vector is made."""
    fields: dict[str, Any] = {"classes": classes(reading), "pooler": 0, "projection": 0}
    if not fields["classes"] and not is_classifier(reading) and flag(section, "vision_use_head", True):
        return {**fields, "pooling": "map"}
    reading.left_out[r"head\..*"] = "the classifier sees the mean of the tokens"
    return {**fields, "pooling": "mean"}


FIXED = {"qkv_bias": True, "class_token": False}
HF_SIGLIP = Family(
    name="hf-siglip",
    title="Hugging Face SigLIP, the picture's tower",
    upstream="transformers, models/siglip",
    table=TABLE,
    marks=(r"head\.probe", r"embeddings\.patch_embedding\.weight"),
    model_types=("siglip", "siglip_vision_model"),
    prefixes=("vision_model.",),
    fixed={**FIXED, "position_rule": "bicubic"},
    says=says,
    left_out=TEXT_TOWER,
    labels=labels,
    hugging_face=True,
)
HF_SIGLIP2 = Family(
    name="hf-siglip2",
    title="Hugging Face SigLIP 2 NaFlex, the picture's tower",
    upstream="transformers, models/siglip2",
    table=TABLE_2,
    marks=(),
    model_types=("siglip2", "siglip2_vision_model"),
    prefixes=("vision_model.",),
    fixed={**FIXED, "position_rule": "bilinear_antialias", "any_size": True},
    says=says_2,
    left_out=TEXT_TOWER,
    labels=labels,
    hugging_face=True,
)
