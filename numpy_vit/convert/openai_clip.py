"""CLIP's picture tower as OpenAI and OpenCLIP have it (openai/CLIP, clip/model.py; mlfoundations/open_clip, transformer.py).

The patch projection has no bias; the projection into the space shared with texts is (in, out), unlike every other matrix.
OpenAI trained with the quick GELU, OpenCLIP mostly with the exact one: nothing in the file tells which.
"""

from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from ..images import Preprocess
from .family import Family, Reading
from .preprocessing import from_open_clip
from .table import Row, Table

BLOCK = "transformer.resblocks.{n}."
TABLE = Table(
    (
        Row("embed.projection", "conv1"),
        Row("embed.class_token", "class_embedding"),
        Row("embed.positions", "positional_embedding"),
        Row("embed.norm", "ln_pre"),
        Row("blocks.{n}.norm1", BLOCK + "ln_1"),
        Row("blocks.{n}.attention.query", BLOCK + "attn.in_proj_{end}", part=(0, 3)),
        Row("blocks.{n}.attention.key", BLOCK + "attn.in_proj_{end}", part=(1, 3)),
        Row("blocks.{n}.attention.value", BLOCK + "attn.in_proj_{end}", part=(2, 3)),
        Row("blocks.{n}.attention.output", BLOCK + "attn.out_proj"),
        Row("blocks.{n}.layer_scale1", BLOCK + "ls_1.gamma"),
        Row("blocks.{n}.norm2", BLOCK + "ln_2"),
        Row("blocks.{n}.mlp.hidden", BLOCK + "mlp.c_fc"),
        Row("blocks.{n}.mlp.output", BLOCK + "mlp.c_proj"),
        Row("blocks.{n}.layer_scale2", BLOCK + "ls_2.gamma"),
        Row("pooled_norm", "ln_post"),
        Row("projection.weight", "proj", layout="plain"),
    ),
    "torch",
)


def says(reading: Reading) -> dict[str, Any]:
    """What open_clip_config.json says, where it is there."""
    model = reading.config.get("model_cfg")
    if model is None:
        return {}
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(vision, dict):
        raise InputError("open_clip_config.json: model_cfg has no vision_cfg")
    width, head_width = vision.get("width", 768), vision.get("head_width", 64)
    fields = {
        "position_rule": "bicubic_antialias",
        "heads": width // head_width,
        "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
    }
    size = vision.get("image_size")
    return {**fields, **({"image": tuple(size) if isinstance(size, list) else size} if size else {})}


def preprocess(reading: Reading, config: ViTConfig) -> Preprocess | None:
    """preprocess_cfg of open_clip_config.json."""
    values = reading.config.get("preprocess_cfg")
    return from_open_clip(values, config.image, config.channels, reading.notes) if isinstance(values, dict) else None


OPENAI_CLIP = Family(
    name="clip",
    title="OpenAI's CLIP and OpenCLIP, the picture's tower",
    upstream="openai/CLIP, clip/model.py",
    table=TABLE,
    marks=(r"conv1\.weight", r"class_embedding", r"transformer\.resblocks\.0\.attn\.in_proj_weight"),
    prefixes=("module.",),
    towers=("module.visual.", "visual."),
    fixed={"eps": 1e-5, "pooling": "class", "position_rule": "bicubic"},
    says=says,
    preprocess=preprocess,
    policy="clip",
)
