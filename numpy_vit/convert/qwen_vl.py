"""The encoders of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5 (transformers, models/qwen2_vl and others).

Pictures at their own size, rotary positions for rows and columns, and 2 x 2 patches merged for the language model. Qwen2.5 has
RMS norms, gated MLPs and windows; Qwen3 learned positions besides, and gives the language model inner blocks' tokens too.

Upstream has the patches that are merged beside each other from the beginning, and Qwen2.5 those of a window: another order of
the tokens, and the same numbers. Here they lie row by row.
"""

from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from . import multimodal
from .family import Family, OpenCheckpoint
from .hugging_face import mlp_ratio
from .multimodal import any_image, frequencies, number, of_a_still_picture, rope_theta, sizes
from .table import Row, Table

COMMON = (
    Row("embed.projection", "patch_embed.proj"),
    Row("blocks.{n}.norm1", "blocks.{n}.norm1"),
    Row("blocks.{n}.attention.query", "blocks.{n}.attn.qkv", part=(0, 3)),
    Row("blocks.{n}.attention.key", "blocks.{n}.attn.qkv", part=(1, 3)),
    Row("blocks.{n}.attention.value", "blocks.{n}.attn.qkv", part=(2, 3)),
    Row("blocks.{n}.attention.output", "blocks.{n}.attn.proj"),
    Row("blocks.{n}.norm2", "blocks.{n}.norm2"),
)
MLP = (Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.fc1"), Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.fc2"))
GATED_MLP = (
    Row("blocks.{n}.mlp.gate", "blocks.{n}.mlp.gate_proj"),
    Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.up_proj"),
    Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.down_proj"),
)
MERGER = (Row("merger.norm", "merger.ln_q"), Row("merger.hidden", "merger.mlp.0"), Row("merger.output", "merger.mlp.2"))
QWEN3 = (
    Row("embed.positions", "pos_embed.weight"),
    Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.linear_fc1"),
    Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.linear_fc2"),
    Row("merger.norm", "merger.norm"),
    Row("merger.hidden", "merger.linear_fc1"),
    Row("merger.output", "merger.linear_fc2"),
    Row("deepstack.{n}.norm", "deepstack_merger_list.{n}.norm"),
    Row("deepstack.{n}.hidden", "deepstack_merger_list.{n}.linear_fc1"),
    Row("deepstack.{n}.output", "deepstack_merger_list.{n}.linear_fc2"),
)
READ = ("spatial_merge_size", "temporal_patch_size", "rope_parameters", "rope_theta", "in_chans", "spatial_patch_size")
EPS = 1e-6


def says_2(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of Qwen2-VL says: embed_dim is the width, hidden_size the language model's."""
    fields, section = sizes(reading, "Qwen2-VL", {
        "depth": ("depth", 32), "width": ("embed_dim", 1280), "heads": ("num_heads", 16),
        "activation": ("hidden_act", "quick_gelu"), "patch": ("patch_size", 14), "channels": ("in_channels", 3),
    }, (*READ, "hidden_size", "mlp_ratio"))  # fmt: skip
    ratio = mlp_ratio(section, [], "Qwen2-VL")
    output = number(section, "hidden_size", 3584, reading.notes, "Qwen2-VL")
    return {**fields, "mlp": int(fields["width"] * ratio), **merged(section, fields, output)}


def says_2_5(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of Qwen2.5-VL says; window_size is in pixels."""
    fields, section = sizes(reading, "Qwen2.5-VL", {
        "depth": ("depth", 32), "width": ("hidden_size", 3584), "heads": ("num_heads", 16), "mlp": ("intermediate_size", 3420),
        "activation": ("hidden_act", "silu"), "patch": ("patch_size", 14), "channels": ("in_channels", 3),
    }, (*READ, "out_hidden_size", "window_size", "fullatt_block_indexes", "tokens_per_second"))  # fmt: skip
    side = number(section, "spatial_merge_size", 2)
    units = number(section, "window_size", 112, reading.notes, "Qwen2.5-VL") // fields["patch"] // side
    whole = sorted(section.get("fullatt_block_indexes", (7, 15, 23, 31)))
    windows = {"side": units * side, "whole": [n for n in whole if n < fields["depth"]]}
    output = number(section, "out_hidden_size", 3584, reading.notes, "Qwen2.5-VL")
    return {**fields, "windows": windows, **merged(section, fields, output, norm="rms")}


def says_3(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of Qwen3-VL and Qwen3.5 says; the latter has no deepstack."""
    fields, section = sizes(reading, "Qwen3-VL", {
        "depth": ("depth", 27), "width": ("hidden_size", 1152), "heads": ("num_heads", 16), "mlp": ("intermediate_size", 4304),
        "activation": ("hidden_act", "gelu_pytorch_tanh"), "patch": ("patch_size", 16), "channels": ("in_channels", 3),
    }, (*READ, "out_hidden_size", "num_position_embeddings", "deepstack_visual_indexes"))  # fmt: skip
    output = number(section, "out_hidden_size", 3584, reading.notes, "Qwen3-VL")
    table = number(section, "num_position_embeddings", 2304, reading.notes, "Qwen3-VL")
    if int(table**0.5) ** 2 != table:
        raise InputError(f"config.json: num_position_embeddings {table} is no square number")
    said = {**fields, **merged(section, fields, output), "image": int(table**0.5) * fields["patch"]}
    if "qwen3_5" in str(section.get("model_type")):
        blocks = section.get("deepstack_visual_indexes", ())
    else:
        blocks = section.get("deepstack_visual_indexes", (8, 16, 24))
    if blocks:
        stages = ["concat", "norm", *said["merger"]["stages"][2:]]
        said["deepstack"] = {"blocks": list(blocks), "merger": {**said["merger"], "stages": stages}}
    return said


def merged(section: Any, fields: dict[str, Any], output: int, norm: str = "layer") -> dict[str, Any]:
    """The merger: a norm, 2 x 2 tokens one after the other, two linear layers with the exact GELU between."""
    side = number(section, "spatial_merge_size", 2)
    if section.get("temporal_patch_size", 2) not in (1, 2):
        raise InputError(f"config.json: temporal_patch_size {section['temporal_patch_size']!r} is not supported")
    stages = ["norm", "concat", f"hidden {side * side * fields['width']}", "gelu", f"output {output}"]
    return {"merger": {"side": side, "stages": stages, "norm": norm, "eps": EPS}, "image": any_image(side * fields["patch"])}


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    return frequencies(config, rope_theta(reading.config.get("vision_config") or reading.config, 10_000.0))


ROTARY = {**multimodal.FIXED, "rope": "index_halves", "final_norm": "none", "qkv_bias": True, "eps": EPS}


def qwen(
    name: str, title: str, folder: str, rows: tuple[Row, ...], model_types: tuple[str, ...], says: Any, **fixed: Any
) -> Family:
    """One of them."""
    return Family(
        name=name,
        title=title,
        upstream=f"transformers, models/{folder}",
        table=Table((*COMMON, *rows), "torch"),
        marks=(),
        model_types=model_types,
        prefixes=("visual.",),
        fixed={**ROTARY, "positions": "none", **fixed},
        says=says,
        prepare=of_a_still_picture("patch_embed.proj.weight"),
        made=made,
        hugging_face=True,
    )


QWEN2_VL = qwen(
    "qwen2-vl", "Qwen2-VL's encoder", "qwen2_vl", (*MLP, *MERGER), ("qwen2_vl", "qwen2_vl_vision"), says_2,
    without_bias=("embed.projection",),
)  # fmt: skip
QWEN2_5_VL = qwen(
    "qwen2.5-vl", "Qwen2.5-VL's encoder", "qwen2_5_vl", (*GATED_MLP, *MERGER), ("qwen2_5_vl", "qwen2_5_vl_vision"), says_2_5,
    without_bias=("embed.projection",), norm="rms", gated_mlp=True,
)  # fmt: skip
QWEN3_VL = qwen(
    "qwen3-vl", "Qwen3-VL's encoder, and Qwen3.5's", "qwen3_vl and qwen3_5", QWEN3,
    ("qwen3_vl", "qwen3_vl_vision", "qwen3_vl_moe", "qwen3_vl_moe_vision", "qwen3_5", "qwen3_5_vision", "qwen3_5_moe",
     "qwen3_5_moe_vision"),
    says_3, positions="all", position_rule="bilinear_corners",
)  # fmt: skip
