"""Encoders of captioners (transformers, models/blip, blip_2, instructblip, instructblipvideo, git and janus).

Plain ViTs whose last norm is of all tokens, which all go to a text model or a Q-Former: no vector stands for the picture
(BLIP's "pooler_output" is the class token normed twice, which none of its models uses). BLIP's query, key and value lie in one
matrix; GIT's encoder is CLIP's but for that norm; Janus's is SigLIP's without a head, and a projector follows.
"""

from typing import Any

from ..groups import SIMPLE
from .family import Family, OpenCheckpoint
from .hf_clip import BLOCK, TEXT_TOWER
from .hugging_face import DEFAULTS, flag, mlp_ratio, qkv_bias, sizes
from .multimodal import number, only
from .table import Row, Table

EMBEDDINGS = (
    Row("embed.projection", "embeddings.patch_embedding"),
    Row("embed.class_token", "embeddings.class_embedding", ones=2),
)
FUSED = tuple(Row(f"blocks.{{n}}.attention.{name}", "encoder.layers.{n}.self_attn.qkv", part=(i, 3))
              for i, name in enumerate(("query", "key", "value")))  # fmt: skip
OTHERS = tuple(row for row in BLOCK if "attention" not in row.ours)
BLIP_TABLE = Table(
    (
        *EMBEDDINGS,
        Row("embed.positions", "embeddings.position_embedding", ones=1),
        *FUSED,
        Row("blocks.{n}.attention.output", "encoder.layers.{n}.self_attn.projection"),
        *OTHERS,
        Row("norm", "post_layernorm"),
    ),
    "torch",
)
GIT_TABLE = Table(
    (
        *EMBEDDINGS,
        Row("embed.positions", "embeddings.position_embedding.weight"),
        Row("embed.norm", "pre_layrnorm"),
        *BLOCK,
        Row("norm", "post_layernorm"),
    ),
    "torch",
)
JANUS_TABLE = Table(
    (
        EMBEDDINGS[0],
        Row("embed.positions", "embeddings.position_embedding.weight"),
        *(row for row in BLOCK if not row.ours.endswith("attention.output")),
        Row("blocks.{n}.attention.output", "encoder.layers.{n}.self_attn.projection_layer"),
        Row("norm", "post_layernorm"),
        Row("merger.hidden", "aligner.fc1"),
        Row("merger.output", "aligner.hidden_layers.0"),
    ),
    "torch",
)
CLIPS_DEFAULTS = {**DEFAULTS, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
BLIPS_DEFAULTS = {**DEFAULTS, "image_size": 384, "layer_norm_eps": 1e-5}
JANUS_DEFAULTS = {
    **{key: value for key, value in DEFAULTS.items() if key != "intermediate_size"},
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 384, "layer_norm_eps": 1e-6,
}  # fmt: skip


def blip_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of BLIP, BLIP-2 or InstructBLIP says of the encoder."""
    return {**sizes(reading, "BLIP", BLIPS_DEFAULTS), "qkv_bias": qkv_bias(reading), "channels": 3}


def git_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What GIT's config.json says of the encoder."""
    return sizes(reading, "GIT", CLIPS_DEFAULTS)


def janus_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What Janus's config.json says of the encoder; and of the projector, which lies beside it in the whole model alone."""
    section = reading.config
    fields = sizes(reading, "Janus", JANUS_DEFAULTS)
    only("use_qk_norm", not flag(section, "use_qk_norm", False), "it is a norm of other numbers than there are")
    ratio = mlp_ratio(section, reading.notes, "Janus")
    said = {**fields, "mlp": int(fields["width"] * ratio), "qkv_bias": flag(section, "attention_bias", True)}
    if (reading.source.config or {}).get("model_type") != "janus":
        return said
    depth, width, act = (
        section.get("depth", 2),
        number(section, "projection_dim", 2048, reading.notes, "Janus"),
        said["activation"],
    )
    only(f"depth {depth!r:.40}", depth == 2, "a projector of two layers is")
    only(
        f"hidden_act {section.get('hidden_act')!r:.40}",
        act in SIMPLE,
        "the projector's too: gelu, gelu_pytorch_tanh and silu are",
    )
    return {**said, "merger": {"side": 1, "stages": [f"hidden {width}", act, f"output {width}"]}}


COMMON: dict[str, Any] = {
    "marks": (),
    "prefixes": ("vision_model.",),
    "left_out": TEXT_TOWER,
    "hugging_face": True,
}
FIXED = {"pooling": "none", "classes": 0, "pooler": 0, "projection": 0, "position_rule": "bicubic", "final_norm": "tokens"}
HF_BLIP = Family(
    name="hf-blip",
    title="The encoders of BLIP, BLIP-2 and InstructBLIP",
    upstream="transformers, models/blip, blip_2 and instructblip",
    table=BLIP_TABLE,
    model_types=("blip_vision_model",),
    fixed=FIXED,
    says=blip_says,
    **COMMON,
)
HF_GIT = Family(
    name="hf-git",
    title="GIT's encoder",
    upstream="transformers, models/git",
    table=GIT_TABLE,
    model_types=("git_vision_model",),
    fixed={**FIXED, "qkv_bias": True, "pre_norm": True, "without_bias": ("embed.projection",)},
    says=git_says,
    **COMMON,
)
HF_JANUS = Family(
    name="hf-janus",
    unprepared=("Janus",),
    title="Janus's encoder",
    upstream="transformers, models/janus",
    table=JANUS_TABLE,
    model_types=("janus_vision_model",),
    fixed={**FIXED, "class_token": False},
    says=janus_says,
    **COMMON,
)
