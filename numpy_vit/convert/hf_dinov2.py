"""Hugging Face DINOv2 (transformers, models/dinov2 and models/dinov2_with_registers).

Layer scale in every block; four register tokens in the later models, put between the class token and the patches after
positions were added; in the giant model a gated MLP whose gate and hidden halves lie in one matrix. Classifiers see the class
token and the mean of the patches side by side. transformers resizes the positions of the models without registers by its own
rule, not by the "+ 0.1" of Facebook's code (--family dinov2 has that).
"""

from typing import Any

from .family import Family, OpenCheckpoint
from .hugging_face import DEFAULTS, EMBEDDINGS, MASK_TOKEN, classes, flag, get, is_classifier, labels, qkv_bias, sizes
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


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    config, registers = reading.config, reading.config.get("model_type") == "dinov2_with_registers"
    own = {key: value for key, value in DEFAULTS.items() if key != "intermediate_size"}
    own |= {"patch_size": 16 if registers else 14, "layer_norm_eps": 1e-6}
    fields = sizes(reading, "DINOv2", own)
    gated = flag(config, "use_swiglu_ffn", False)
    width = int(fields["width"] * get(config, "mlp_ratio", reading.notes, {"mlp_ratio": 4}, "DINOv2"))
    fields |= {"mlp": (int(width * 2 / 3) + 7) // 8 * 8 if gated else width, "gated_mlp": gated}
    fields |= {"activation": "silu"} if gated else {}
    fields |= {"classes": classes(reading), "pooler": 0, "qkv_bias": qkv_bias(reading)}
    fields |= {"registers": config.get("num_register_tokens", 4) if registers else 0}
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
