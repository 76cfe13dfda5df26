"""CLIP's picture tower as OpenAI and OpenCLIP have it (openai/CLIP, clip/model.py; mlfoundations/open_clip, transformer.py).

The patch projection has no bias; the projection into the space shared with texts is (in, out), unlike every other matrix.
OpenAI trained with the quick GELU, OpenCLIP mostly with the exact one: nothing in the file tells which.
"""

from collections.abc import Mapping
from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from ..pictures.images import Preprocess
from .family import Family, OpenCheckpoint
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


# What may be in open_clip's config (open_clip/model.py, CLIPVisionCfg; factory.py): what is read below; what changes nothing
# in the picture's tower; and what must be so.
VISION_CFG = {
    "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "ls_init_value", "no_ln_pre", "pool_type",
    "final_ln_after_pool", "norm_kwargs", "act_kwargs",
}  # fmt: skip
NO_EFFECT = {
    "patch_dropout", "pos_embed_type", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained",
    "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path",
}  # fmt: skip
NEUTRAL = {
    "attentional_pool": (False, None),
    "timm_model_name": (None, ""),
    "global_average_pool": (False,),
    "input_patchnorm": (False,),
}
MODEL_CFG = {
    "embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text", "cast_dtype", "output_dict",
    "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale",
}  # fmt: skip


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What open_clip_config.json says, where it is there."""
    model = reading.config.get("model_cfg")
    if model is None:  # CLIPA's files have no ln_pre, and take the mean
        return {"final_norm": "pooled"} if reading.seen.get("pre_norm") else {"final_norm": "pooled", "pooling": None}
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(vision, dict):
        raise InputError("open_clip_config.json: model_cfg has no vision_cfg")
    for key, value in model.items():
        if key not in MODEL_CFG:
            raise InputError(f"open_clip_config.json: model_cfg: {key} {value!r:.40} is not supported")
    for key, value in vision.items():
        if key not in VISION_CFG | NO_EFFECT and value not in NEUTRAL.get(key, ()):
            raise InputError(f"open_clip_config.json: vision_cfg: {key} {value!r:.40} is not supported")
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
    size = vision.get("image_size", 224 if reading.tensors is None else None)
    if reading.tensors is None:
        fields |= shape(model, vision)
    return {**fields, **({"image": tuple(size) if isinstance(size, list) else size} if size else {})}


def shape(model: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """What the tensors tell, where there are none: a config file alone."""
    return {
        "width": vision.get("width", 768),
        "depth": vision.get("layers", 12),
        "mlp": int(vision.get("width", 768) * vision.get("mlp_ratio", 4.0)),
        "patch": vision.get("patch_size", 16),
        "channels": 3,
        "classes": 0,
        "pooler": 0,
        "projection": model.get("embed_dim"),
        "qkv_bias": True,
        "pre_norm": not vision.get("no_ln_pre", False),
        "layer_scale": vision.get("ls_init_value") is not None,
        "without_bias": ("embed.projection",),
    }


def preprocess(reading: OpenCheckpoint, config: ViTConfig) -> Preprocess | None:
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
