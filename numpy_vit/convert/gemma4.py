"""Gemma 4's encoder (transformers, models/gemma4/modeling_gemma4.py).

Pictures at their own size; a patch has a learned position for its row and one for its column, and rotary ones besides; RMS
norms before and after attention and MLP; query, key and value normed, and scores not divided. The mean of neighbouring
patches, brought to the size of the language model's tokens (in the larger models centred and scaled by numbers of the file),
normed without a scale, goes through one matrix. The smaller models keep what goes into a linear layer, and comes out of it,
within bounds of the file (use_clipped_linears).

Upstream takes pixels from 0 to 1 and makes 2 x - 1 of them first. Here that is part of preparing pictures (mean and standard
deviation 0.5), as for other models.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import ViTConfig
from ..errors import InputError
from ..files.tensorfile import Tensor, tensor_of
from .family import Family, OpenCheckpoint
from .hugging_face import flag
from .multimodal import FIXED, any_image, frequencies, number, rope_theta, sizes
from .table import Row, Table, Tensors

LAYERS = "encoder.layers.{n}."
LINEARS = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.hidden": "mlp.up_proj",
    "mlp.output": "mlp.down_proj",
}
NORMS = {
    "norm1": "input_layernorm",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "norm1_after": "post_attention_layernorm",
    "norm2": "pre_feedforward_layernorm",
    "norm2_after": "post_feedforward_layernorm",
}
POSITIONS = "patch_embedder.position_embedding_table"
PROJECTION = "embed_vision.embedding_projection"
TABLE = Table(
    (
        Row("embed.projection.weight", "patch_embedder.input_proj.weight", layout="patch_last"),
        Row("embed.column_positions", POSITIONS, part=(0, 2)),
        Row("embed.row_positions", POSITIONS, part=(1, 2)),
        *(Row(f"blocks.{{n}}.{ours}", LAYERS + theirs) for ours, theirs in NORMS.items()),
        *(Row(f"blocks.{{n}}.{ours}", f"{LAYERS}{theirs}.linear") for ours, theirs in LINEARS.items()),
        *(Row(f"blocks.{{n}}.{ours}.bounds", f"{LAYERS}{theirs}.bounds") for ours, theirs in LINEARS.items()),
        Row("merger.standardize.shift", "std_bias"),
        Row("merger.standardize.scale", "std_scale"),
        Row("merger.output", PROJECTION),
    ),
    "torch",
)
BOUNDS = ("input_min", "input_max", "output_min", "output_max")
READ = (
    "num_key_value_heads", "head_dim", "rope_parameters", "rope_theta", "pooling_kernel_size", "position_embedding_size",
    "use_clipped_linears", "standardize", "attention_bias", "max_position_embeddings", "global_head_dim",
    "default_output_length",
)  # fmt: skip  # the last four change nothing in its code


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    fields, section = sizes(reading, "Gemma 4", {
        "depth": ("num_hidden_layers", 16), "width": ("hidden_size", 768), "heads": ("num_attention_heads", 12),
        "mlp": ("intermediate_size", 3072), "activation": ("hidden_activation", "gelu_pytorch_tanh"),
        "patch": ("patch_size", 16), "eps": ("rms_norm_eps", 1e-6),
    }, READ)  # fmt: skip
    keys = number(section, "num_key_value_heads", 12, reading.notes, "Gemma 4")
    if keys != fields["heads"]:
        raise InputError(f"config.json: num_key_value_heads {keys} for {fields['heads']} heads: shared keys are not supported")
    side = number(section, "pooling_kernel_size", 3, reading.notes, "Gemma 4")
    if side == 1:  # its code then keeps what is to be left out, and leaves out the rest
        raise InputError("config.json: pooling_kernel_size 1: transformers makes no tokens of it")
    rows = number(section, "position_embedding_size", 10_240, reading.notes, "Gemma 4")
    clipped = flag(section, "use_clipped_linears", False)
    if not clipped:
        reading.left_out[r".*\.bounds"] = "use_clipped_linears is false"
    return {
        **fields,
        "channels": 3,
        "inner": number(section, "head_dim", 64, reading.notes, "Gemma 4") * fields["heads"],
        "image": min(any_image(side * fields["patch"]), (rows // side * side * fields["patch"],) * 2),
        "position_rows": rows,
        "clipped_linears": clipped,
        "merger": merger(reading, side, flag(section, "standardize", False), fields["eps"]),
    }


def merger(reading: OpenCheckpoint, side: int, standardized: bool, eps: float) -> dict[str, Any]:
    """What makes its tokens the language model's; without the last matrix where config.json and file have the tower alone."""
    stages = ["mean", "scale", *(["standardize"] if standardized else [])]
    text = reading.config.get("text_config")
    there = isinstance(text, dict) if reading.tensors is None else f"{PROJECTION}.weight" in reading.tensors
    if not there:
        reading.notes.append("the tower alone: its tokens are not yet of the language model's width")
        return {"side": side, "stages": stages}
    said = text if isinstance(text, dict) else {"hidden_size": reading.shapes[f"{PROJECTION}.weight"][0]}
    width = number(said, "hidden_size", 2304, reading.notes, "Gemma 4's language model")
    stages += ["norm", f"output {width}"]
    return {"side": side, "stages": stages, "norm": "unit", "eps": eps, "without_bias": ["output"]}


def with_bounds_together(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The four bounds of a linear layer as one tensor. Where there is none, infinity, the largest float32 stands."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if last not in BOUNDS:
            found[name] = tensor
        elif last == BOUNDS[0] and all(f"{stem}.{each}" in tensors for each in BOUNDS):
            four = np.array([tensors[f"{stem}.{each}"].to_float(np.float64).reshape(()) for each in BOUNDS])
            largest = float(np.finfo(np.float32).max)
            found[f"{stem}.bounds"] = tensor_of(np.clip(four, -largest, largest))
    return found


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    return frequencies(config, rope_theta(reading.config.get("vision_config") or reading.config, 100.0))


GEMMA4 = Family(
    name="gemma4",
    title="Gemma 4's encoder",
    upstream="transformers, models/gemma4",
    table=TABLE,
    marks=(),
    model_types=("gemma4", "gemma4_vision"),
    prefixes=("vision_tower.",),
    fixed={
        **FIXED,
        "positions": "axes",
        "rope": "axis_halves",
        "norm": "rms",
        "norm_places": "both",
        "qk_norm": True,
        "value_norm": True,
        "scaled_scores": False,
        "gated_mlp": True,
        "final_norm": "none",
        "qkv_bias": False,
        "without_bias": ("embed.projection", "attention.output", "mlp.gate", "mlp.hidden", "mlp.output"),
    },
    says=says,
    prepare=with_bounds_together,
    made=made,
    hugging_face=True,
)
