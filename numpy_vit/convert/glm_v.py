"""The encoders of GLM-4.1V, 4.5V and 4.6V, and of GLM-OCR (transformers, models/glm4v, glm4v_moe, glm46v and glm_ocr).

RMS norms, gated MLPs, rotary positions. GLM-4V norms the patches and adds learned positions, sampled from a square table by
cubic convolution; GLM-OCR has neither, but norms queries and keys. After the last norm a convolution makes one token of 2 x 2
patches, and a gated MLP follows. Tokens of pictures have the width of the language model.

Upstream has the patches that are merged beside each other from the beginning. Here they lie row by row.
"""

from typing import Any

from ..config import ViTConfig
from . import multimodal
from .family import Family, OpenCheckpoint
from .hugging_face import flag
from .multimodal import any_image, frequencies, number, of_a_still_picture, only, rope_theta, sizes
from .qwen_vl import COMMON, GATED_MLP
from .table import Row, Table

ROWS = (
    *COMMON,
    *GATED_MLP,
    Row("norm", "post_layernorm"),
    Row("merger.hidden", "downsample"),
    Row("merger.hidden2", "merger.proj"),
    Row("merger.norm", "merger.post_projection_norm"),
    Row("merger.gated.gate", "merger.gate_proj"),
    Row("merger.gated.hidden", "merger.up_proj"),
    Row("merger.output", "merger.down_proj"),
)
POSITIONS = (Row("embed.patch_norm", "post_conv_layernorm"), Row("embed.positions", "embeddings.position_embedding.weight"))
QK_NORM = (
    Row("blocks.{n}.attention.query_norm", "blocks.{n}.attn.q_norm"),
    Row("blocks.{n}.attention.key_norm", "blocks.{n}.attn.k_norm"),
)
READ = ("image_size", "out_hidden_size", "spatial_merge_size", "temporal_patch_size", "attention_bias", "intermediate_size",
        "rope_parameters", "rope_theta", "rope_scaling")  # fmt: skip
AFTER_ATTENTION = ("attention.output", "mlp.gate", "mlp.hidden", "mlp.output")


def says_4v(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of GLM-4V says: intermediate_size is the merger's, the blocks' MLP is as wide as the language model."""
    fields, section, out = common(reading, "GLM-4V", width=1536, heads=12, out=4096)
    hidden = number(section, "intermediate_size", 13696, reading.notes, "GLM-4V")
    side = number(section, "image_size", 336, reading.notes, "GLM-4V") // fields["patch"]
    only("image_size", side > 0, "it is less than a patch")
    bias = flag(section, "attention_bias", False)
    return {**fields, **merged(section, fields, out, hidden), "mlp": out, "position_grid": (side, side),
            "qkv_bias": bias, "without_bias": AFTER_ATTENTION}  # fmt: skip


def says_ocr(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of GLM-OCR says: intermediate_size is the blocks', the merger's MLP is out_hidden_size * in_channels."""
    fields, section, out = common(reading, "GLM-OCR", width=1024, heads=16, out=1536)
    hidden = number(section, "intermediate_size", 4096, reading.notes, "GLM-OCR")
    bias = flag(section, "attention_bias", True)
    return {**fields, **merged(section, fields, out, out * fields["channels"]), "mlp": hidden,
            "qkv_bias": bias, "without_bias": () if bias else AFTER_ATTENTION}  # fmt: skip


def common(reading: OpenCheckpoint, what: str, width: int, heads: int, out: int) -> tuple[dict[str, Any], Any, int]:
    """What both say in the same words: fields, the part about pictures, the width of a token of the language model."""
    fields, section = sizes(reading, what, {
        "depth": ("depth", 24), "width": ("hidden_size", width), "heads": ("num_heads", heads),
        "activation": ("hidden_act", "silu"), "patch": ("patch_size", 14), "channels": ("in_channels", 3),
        "eps": ("rms_norm_eps", 1e-5),
    }, READ)  # fmt: skip
    act = section.get("hidden_act")
    only(f"hidden_act {act!r:.40}", fields["activation"] == "silu", "silu is, for the merger's gate too")
    number(section, "temporal_patch_size", 2)
    rope_theta(section, 10_000.0)
    return fields, section, number(section, "out_hidden_size", out, reading.notes, what)


def merged(section: Any, fields: dict[str, Any], out: int, hidden: int) -> dict[str, Any]:
    """The convolution over 2 x 2 patches, a linear layer, a norm with GELU, and a gated MLP."""
    side = number(section, "spatial_merge_size", 2)
    stages = [*(["unfold"] if side > 1 else []), f"hidden {out}", f"hidden2 {out}", "norm", "gelu", f"gated {hidden}",
              f"output {out}"]  # fmt: skip
    merger = {"side": side, "stages": stages, "eps": 1e-5, "without_bias": ("hidden2", "output")}
    return {"merger": merger, "image": any_image(side * fields["patch"])}


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    return frequencies(config, rope_theta(reading.config.get("vision_config") or reading.config, 10_000.0))


def glm(name: str, title: str, folder: str, rows: tuple[Row, ...], types: tuple[str, ...], says: Any, **fixed: Any) -> Family:
    """One of them."""
    return Family(
        name=name,
        title=title,
        upstream=f"transformers, models/{folder}",
        table=Table((*ROWS, *rows), "torch"),
        marks=(),
        model_types=types,
        prefixes=("visual.",),
        fixed={**multimodal.FIXED, "rope": "index_halves", "norm": "rms", "gated_mlp": True, "final_norm": "tokens", **fixed},
        says=says,
        prepare=of_a_still_picture("patch_embed.proj.weight"),
        made=made,
        hugging_face=True,
    )


GLM_4V = glm(
    "glm-4v", "GLM-4.1V's encoder, and GLM-4.5V's and 4.6V's", "glm4v, glm4v_moe and glm46v", POSITIONS,
    ("glm4v", "glm4v_vision", "glm4v_moe", "glm4v_moe_vision", "glm46v"), says_4v, patch_norm=True,
)  # fmt: skip
GLM_OCR = glm(
    "glm-ocr", "GLM-OCR's encoder", "glm_ocr", QK_NORM, ("glm_ocr", "glm_ocr_vision"), says_ocr,
    positions="none", qk_norm=True,
)  # fmt: skip
