"""CLIP's picture tower as OpenAI and OpenCLIP have it (openai/CLIP, clip/model.py; mlfoundations/open_clip, transformer.py).

The patch projection has no bias; the projection into the space shared with texts is (in, out), unlike every other matrix.
OpenAI trained with the quick GELU, OpenCLIP mostly with the exact one: nothing in the file tells which.
"""

from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from ..pictures.images import Preprocess
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
        Row("norm", "ln_post"),  # of a model that takes the mean of normed tokens
        Row("projection.weight", "proj", layout="plain"),
    ),
    "torch",
)


# What may be in vision_cfg: what the tensors tell as well, what is read below, and what concerns training alone.
VISION_CFG = {
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "ls_init_value", "patch_dropout", "no_ln_pre",
    "pool_type", "final_ln_after_pool", "norm_kwargs", "act_kwargs", "pos_embed_type", "output_tokens",
}  # fmt: skip


def says(reading: Reading) -> dict[str, Any]:
    """What open_clip_config.json says, where it is there."""
    model = reading.config.get("model_cfg")
    if model is None:  # CLIPA's files have no ln_pre, and take the mean
        return {"final_norm": "pooled"} if reading.seen.get("pre_norm") else {"final_norm": "pooled", "pooling": None}
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(vision, dict):
        raise InputError("open_clip_config.json: model_cfg has no vision_cfg")
    for key, value in vision.items():
        if key not in VISION_CFG and value not in (None, False, 0):
            raise InputError(f"open_clip_config.json: vision_cfg: {key} {value!r} is not supported")
    pool, width, head_width = vision.get("pool_type", "tok"), vision.get("width", 768), vision.get("head_width", 64)
    if pool not in ("tok", "avg"):
        raise InputError(f"open_clip_config.json: pool_type {pool!r} is not supported, only tok and avg")
    fields = {
        "pooling": "class" if pool == "tok" else "mean",
        "final_norm": "pooled" if pool == "tok" or vision.get("final_ln_after_pool") else "tokens",
        "eps": (vision.get("norm_kwargs") or {}).get("eps", 1e-5),
        "position_rule": "bicubic_antialias",
        "heads": width // head_width,
        "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
    }
    if (vision.get("act_kwargs") or {}).get("approximate") == "tanh" and not model.get("quick_gelu"):
        fields["activation"] = "gelu_tanh"
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
