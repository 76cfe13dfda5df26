"""InternViT, InternVL's encoder: as transformers has it (models/internvl), and as OpenGVLab/InternVL has it.

A ViT with a class token, layer scale and no last norm. The large one (6B) has RMS norms, no biases of query, key and value, and
norms of query and key over all heads together. For the language model the class token is dropped; 2 x 2 patches are put one
after the other, and go through a norm and an MLP.

Upstream merges the patches of square pictures only; here the grid may be oblong.
"""

from collections.abc import Mapping
from typing import Any

from .family import Family, OpenCheckpoint
from .hugging_face import MASK_TOKEN, flag
from .multimodal import activation_between, language_model, language_model_width, only, says_no_language_model, sizes
from .table import Row, Table

LAYER, LAYERS = "encoder.layer.{n}.", "encoder.layers.{n}."
TRANSFORMERS = (
    Row("embed.projection", "embeddings.patch_embeddings.projection"),
    Row("embed.class_token", "embeddings.cls_token", ones=2),
    Row("embed.positions", "embeddings.position_embeddings", ones=1),
    Row("blocks.{n}.norm1", LAYER + "layernorm_before"),
    Row("blocks.{n}.attention.query", LAYER + "attention.q_proj"),
    Row("blocks.{n}.attention.key", LAYER + "attention.k_proj"),
    Row("blocks.{n}.attention.value", LAYER + "attention.v_proj"),
    Row("blocks.{n}.attention.query_norm", LAYER + "attention.q_norm"),
    Row("blocks.{n}.attention.key_norm", LAYER + "attention.k_norm"),
    Row("blocks.{n}.attention.output", LAYER + "attention.projection_layer"),
    Row("blocks.{n}.layer_scale1", LAYER + "lambda_1"),
    Row("blocks.{n}.norm2", LAYER + "layernorm_after"),
    Row("blocks.{n}.mlp.hidden", LAYER + "mlp.fc1"),
    Row("blocks.{n}.mlp.output", LAYER + "mlp.fc2"),
    Row("blocks.{n}.layer_scale2", LAYER + "lambda_2"),
    Row("norm", "layernorm"),
    Row("merger.norm", "multi_modal_projector.layer_norm"),
    Row("merger.hidden", "multi_modal_projector.linear_1"),
    Row("merger.output", "multi_modal_projector.linear_2"),
)
OPENGVLAB = (
    Row("embed.projection", "embeddings.patch_embedding"),
    Row("embed.class_token", "embeddings.class_embedding", ones=2),
    Row("embed.positions", "embeddings.position_embedding", ones=1),
    Row("blocks.{n}.norm1", LAYERS + "norm1"),
    Row("blocks.{n}.attention.query", LAYERS + "attn.qkv", part=(0, 3)),
    Row("blocks.{n}.attention.key", LAYERS + "attn.qkv", part=(1, 3)),
    Row("blocks.{n}.attention.value", LAYERS + "attn.qkv", part=(2, 3)),
    Row("blocks.{n}.attention.query_norm", LAYERS + "attn.q_norm"),
    Row("blocks.{n}.attention.key_norm", LAYERS + "attn.k_norm"),
    Row("blocks.{n}.attention.output", LAYERS + "attn.proj"),
    Row("blocks.{n}.layer_scale1", LAYERS + "ls1"),
    Row("blocks.{n}.norm2", LAYERS + "norm2"),
    Row("blocks.{n}.mlp.hidden", LAYERS + "mlp.fc1"),
    Row("blocks.{n}.mlp.output", LAYERS + "mlp.fc2"),
    Row("blocks.{n}.layer_scale2", LAYERS + "ls2"),
    Row("merger.norm", "mlp1.0"),
    Row("merger.hidden", "mlp1.1"),
    Row("merger.output", "mlp1.3"),
)

NORMS = {"layer_norm": "layer", "rms_norm": "rms"}
SIZES = ("width", "depth", "heads", "mlp", "activation", "eps", "image", "patch", "channels", "norm")
KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
        "image_size", "patch_size", "num_channels", "norm_type")  # fmt: skip
# What transformers and OpenGVLab (configuration_intern_vit.py) take where a file does not say.
DEFAULTS = (1024, 24, 16, 4096, "gelu", 1e-6, 448, 14, 3, "layer_norm")
OPENGVLAB_DEFAULTS = (3200, 48, 25, 12800, "gelu", 1e-6, 224, 14, 3, "rms_norm")
READ = ("attention_bias", "use_qk_norm", "use_absolute_position_embeddings", "use_mean_pooling", "layer_scale_init_value",
        "projection_dropout")  # fmt: skip
EXPERTS = (
    "capacity_factor", "eval_capacity_factor", "laux_allreduce", "moe_coeff_ratio", "moe_config", "moe_intermediate_size",
    "moe_output_scale", "noisy_gate_policy", "num_experts", "num_routed_experts", "num_shared_experts",
    "shared_expert_intermediate_size", "use_residual", "use_rts", "use_weighted_residual",
)  # fmt: skip
OPENGVLAB_READ = ("qkv_bias", "qk_normalization", "use_flash_attn", "use_moe", *EXPERTS)  # EXPERTS only count with use_moe
OPENGVLAB_TYPES = ("internvl_chat", "intern_vit_6b")
MERGER_EPS = 1e-5  # torch's default, whatever the config says of the encoder


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says, in transformers' words or in OpenGVLab's."""
    config = reading.config
    tower = config.get("vision_config", config)
    whose = tower.get("model_type", config.get("model_type")) if isinstance(tower, dict) else None
    only(f"model_type of the encoder is {whose!r}", whose in INTERNVL.model_types, "InternVL has an InternViT")
    found = opengvlab(reading) if whose in OPENGVLAB_TYPES else transformers(reading)
    image = found["image"]
    sides = image if isinstance(image, list | tuple) else (image, image)
    only(f"image_size {image!r:.40}", len(set(map(str, sides))) == 1, "positions are resized from a square")
    if "vision_config" in config:
        found["merger"] = merger(reading, found["width"])
    return found


def transformers(reading: OpenCheckpoint) -> dict[str, Any]:
    """The encoder by transformers' keys."""
    fields, section = encoder(reading, DEFAULTS, READ)
    qk_norm = flag(section, "use_qk_norm", False)
    last_norm = not flag(section, "use_mean_pooling", True)
    only("use_mean_pooling False", not last_norm or fields["norm"] == "layer", "its last norm is no RMS norm")
    only(f"layer_norm_eps {fields['eps']}", not qk_norm or fields["eps"] == 1e-6, "query and key are normed with 1e-6")
    placed = flag(section, "use_absolute_position_embeddings", True)
    return {
        **fields,
        **normed(qk_norm, fields),
        "qkv_bias": flag(section, "attention_bias", False),
        "positions": "all" if placed else "none",
        "final_norm": "tokens" if last_norm else "none",
    }


def opengvlab(reading: OpenCheckpoint) -> dict[str, Any]:
    """The encoder by OpenGVLab's keys."""
    fields, section = encoder(reading, OPENGVLAB_DEFAULTS, OPENGVLAB_READ)
    only("use_moe", not section.get("use_moe"), "blocks of experts")
    qk_norm = flag(section, "qk_normalization", True)
    return {**fields, **normed(qk_norm, fields), "qkv_bias": flag(section, "qkv_bias", False), "final_norm": "none"}


def encoder(
    reading: OpenCheckpoint, defaults: tuple[Any, ...], read: tuple[str, ...]
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """What both dialects call alike, and the encoder's part of config.json."""
    keys = dict(zip(SIZES, zip(KEYS, defaults, strict=True), strict=True))
    fields, section = sizes(reading, "InternVL", keys, read)
    only(f"norm_type {fields['norm']!r:.40}", fields["norm"] in NORMS, f"one of {', '.join(NORMS)} is")
    return {**fields, "norm": NORMS[fields["norm"]]}, section


def normed(qk_norm: bool, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The norm of query and key, which is an RMS norm whatever the others are."""
    only("a norm of query and key", not qk_norm or fields["norm"] == "rms", "it goes with norm_type rms_norm")
    return {"qk_norm": qk_norm, "qk_norm_of_heads": not qk_norm}


def merger(reading: OpenCheckpoint, width: int) -> dict[str, Any]:
    """Pixel shuffle and projector ("mlp1")."""
    config = reading.config
    ratio = config.get("downsample_ratio", 0.5)
    exact = isinstance(ratio, float | int) and ratio is not True and 0 < ratio <= 1 and 1 % ratio == 0
    only(f"downsample_ratio {ratio!r:.40}", exact, "it must be a half, a quarter, ... or 1")
    side = int(1 / ratio)
    if config.get("model_type") in OPENGVLAB_TYPES:
        act = "gelu"
        only(
            f"select_layer {config.get('select_layer')!r:.40}",
            config.get("select_layer", -1) == -1,
            "only the last block, -1, is",
        )
        version = config.get("ps_version", "v1")
        only(f"ps_version {version!r:.40}", version == "v2", "it gives the tokens column by column; v2 is supported")
        flash = [key for key in config if key.startswith("flash_")]  # InternVL3.5-Flash
        only(f"{', '.join(flash)}", not flash, "a router that merges some pictures further")
        only("use_backbone_lora", not config.get("use_backbone_lora"), "add its matrices to the weights first")
    else:
        act = activation_between(config)
        layer, kept = config.get("vision_feature_layer", -1), config.get("vision_feature_select_strategy", "default")
        only(f"vision_feature_layer {layer!r:.40}", layer == -1, "only the last block, -1, is")
        only(f"vision_feature_select_strategy {kept!r:.40}", kept == "default", "the class token cannot be merged")
    stages = [*(["concat"] if side > 1 else []), "norm"]
    if not says_no_language_model(reading, config):
        out = language_model_width(language_model(config), reading.notes, 4096, "InternVL")
        stages += [f"hidden {out}", act, f"output {out}"]
    return {"side": side, "stages": stages, "norm": "layer", "eps": MERGER_EPS}


INTERNVL = Family(
    name="internvl",
    title="InternViT, InternVL's encoder",
    upstream="transformers, models/internvl, and OpenGVLab/InternVL",
    table=Table((*TRANSFORMERS, *OPENGVLAB), "torch"),
    marks=(),
    model_types=("internvl", "internvl_vision", *OPENGVLAB_TYPES),
    prefixes=("vision_tower.", "vision_model."),
    fixed={"pooling": "none", "classes": 0, "pooler": 0, "position_rule": "bicubic", "class_token": True, "layer_scale": True},
    says=says,
    left_out=MASK_TOKEN,
    hugging_face=True,
)
