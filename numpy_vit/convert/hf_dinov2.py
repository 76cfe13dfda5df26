"""Hugging Face DINOv2 (transformers, models/dinov2 and models/dinov2_with_registers).

Layer scale in every block; four register tokens in the later models, put between the class token and the patches after
positions were added; in the giant model a gated MLP whose gate and hidden halves lie in one matrix. Classifiers see the class
token and the mean of the patches side by side. transformers resizes the positions of the models without registers by its own
rule, not by the "+ 0.1" of Facebook's code (--family dinov2 has that). TIPSv2 (models/tipsv2) is DINOv2 with one register,
names of its own, and positions resized bilinearly.
"""

from typing import Any

from .family import Family, OpenCheckpoint
from .hugging_face import DEFAULTS, EMBEDDINGS, MASK_TOKEN, classes, flag, is_classifier, labels, mlp_ratio, qkv_bias, sizes
from .table import Row, Table

BLOCK = tuple(
    row
    for attention in (("attention.attention.query", "attention.attention.key", "attention.attention.value",
                       "attention.output.dense"),
                      ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"))
    for row in (
        Row("blocks.{n}.attention.query", "encoder.layer.{n}." + attention[0]),
        Row("blocks.{n}.attention.key", "encoder.layer.{n}." + attention[1]),
        Row("blocks.{n}.attention.value", "encoder.layer.{n}." + attention[2]),
        Row("blocks.{n}.attention.output", "encoder.layer.{n}." + attention[3]),
    )
)  # fmt: skip
TABLE = Table(
    (
        *EMBEDDINGS,
        Row("embed.registers", "embeddings.register_tokens", ones=1),
        Row("blocks.{n}.norm1", "encoder.layer.{n}.norm1"),
        *BLOCK,
        Row("blocks.{n}.layer_scale1", "encoder.layer.{n}.layer_scale1.lambda1"),
        Row("blocks.{n}.norm2", "encoder.layer.{n}.norm2"),
        Row("blocks.{n}.mlp.hidden", "encoder.layer.{n}.mlp.fc1"),
        Row("blocks.{n}.mlp.output", "encoder.layer.{n}.mlp.fc2"),
        Row("blocks.{n}.mlp.gate", "encoder.layer.{n}.mlp.weights_in", part=(0, 2)),
        Row("blocks.{n}.mlp.hidden", "encoder.layer.{n}.mlp.weights_in", part=(1, 2)),
        Row("blocks.{n}.mlp.output", "encoder.layer.{n}.mlp.weights_out"),
        Row("blocks.{n}.mlp.gate", "encoder.layer.{n}.mlp.gate_proj"),
        Row("blocks.{n}.mlp.hidden", "encoder.layer.{n}.mlp.up_proj"),
        Row("blocks.{n}.mlp.output", "encoder.layer.{n}.mlp.down_proj"),
        Row("blocks.{n}.layer_scale2", "encoder.layer.{n}.layer_scale2.lambda1"),
        Row("norm", "layernorm"),
        Row("head", "classifier"),
    ),
    "torch",
)

TIPS = (
    Row("embed.projection", "patch_embed.proj"),
    Row("embed.class_token", "cls_token", ones=2),
    Row("embed.positions", "pos_embed", ones=1),
    Row("embed.registers", "register_tokens", ones=1),
    Row("blocks.{n}.norm1", "blocks.{n}.norm1"),
    Row("blocks.{n}.attention.query", "blocks.{n}.attn.qkv", part=(0, 3)),
    Row("blocks.{n}.attention.key", "blocks.{n}.attn.qkv", part=(1, 3)),
    Row("blocks.{n}.attention.value", "blocks.{n}.attn.qkv", part=(2, 3)),
    Row("blocks.{n}.attention.output", "blocks.{n}.attn.proj"),
    Row("blocks.{n}.layer_scale1", "blocks.{n}.ls1.gamma"),
    Row("blocks.{n}.norm2", "blocks.{n}.norm2"),
    Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.c_fc"),
    Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.c_proj"),
    Row("blocks.{n}.layer_scale2", "blocks.{n}.ls2.gamma"),
    Row("norm", "norm"),
)


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    registers = reading.config.get("model_type") == "dinov2_with_registers"
    return said(reading, "DINOv2", {"patch_size": 16 if registers else 14}, 4 if registers else 0)


def tips_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of TIPSv2's encoder says."""
    return said(reading, "TIPSv2", {"image_size": 448, "patch_size": 14}, 1)


def said(reading: OpenCheckpoint, what: str, defaults: dict[str, Any], registers: int) -> dict[str, Any]:
    """What config.json says of any of them; `registers` is how many there are if it does not, or 0 if there never are any."""
    config = reading.config
    own = {key: value for key, value in DEFAULTS.items() if key != "intermediate_size"}
    fields = sizes(reading, what, {**own, "layer_norm_eps": 1e-6, **defaults})
    gated = flag(config, "use_swiglu_ffn", False)
    width = int(fields["width"] * mlp_ratio(config, reading.notes, what))
    fields |= {"mlp": (int(width * 2 / 3) + 7) // 8 * 8 if gated else width, "gated_mlp": gated}
    fields |= {"activation": "silu"} if gated else {}
    fields |= {"classes": classes(reading), "pooler": 0, "qkv_bias": qkv_bias(reading)}
    fields |= {"registers": config.get("num_register_tokens", registers) if registers else 0}
    return {**fields, "pooling": "class_and_mean" if fields["classes"] or is_classifier(reading) else "class"}


COMMON: dict[str, Any] = {
    "upstream": "transformers, models/dinov2",
    "table": TABLE,
    "says": says,
    "left_out": MASK_TOKEN,
    "labels": labels,
    "hugging_face": True,
}
HF_DINOV2 = Family(
    name="hf-dinov2",
    title="Hugging Face DINOv2",
    marks=(r"embeddings\.cls_token", r"encoder\.layer\.0\.layer_scale1\.lambda1"),
    model_types=("dinov2",),
    prefixes=("dinov2.",),
    fixed={"position_rule": "bicubic", "layer_scale": True},
    **COMMON,
)
HF_DINOV2_REGISTERS = Family(
    name="hf-dinov2-registers",
    title="Hugging Face DINOv2 with registers",
    marks=(r"embeddings\.register_tokens", r"encoder\.layer\.0\.layer_scale1\.lambda1"),
    model_types=("dinov2_with_registers",),
    prefixes=("dinov2_with_registers.",),
    fixed={"position_rule": "bicubic_antialias", "layer_scale": True},
    **COMMON,
)
HF_TIPSV2 = Family(
    name="hf-tipsv2",
    unprepared=("Tipsv2",),
    title="TIPSv2's encoder",
    upstream="transformers, models/tipsv2",
    table=Table((*TIPS, *TABLE.rows), "torch"),
    marks=(),
    model_types=("tipsv2_vision_model",),
    prefixes=("vision_encoder.",),
    fixed={"position_rule": "bilinear_antialias", "layer_scale": True},
    says=tips_says,
    left_out={r"(embeddings\.)?mask_token": MASK_TOKEN[r"embeddings\.mask_token"]},
    labels=labels,
    hugging_face=True,
)
