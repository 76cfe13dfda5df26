"""Llama 4's encoder (transformers, models/llama4).

The class token has a learned position as the patches have, which are rotated besides, by their column and then their row, both
counted from 1. Norms come before the first block and after the last. For the language model 2 x 2 patches are put together and
go through an MLP that ends with GELU as well, and through one more layer. A picture is cut into tiles of one size; each is by
itself.

Upstream has the class token last, and so its position; here both come first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import ViTConfig
from ..errors import InputError
from ..files.tensorfile import Tensor
from .family import Family, OpenCheckpoint
from .multimodal import frequencies, number, rope_theta, sizes
from .table import Row, Table, Tensors

POSITIONS = "positional_embedding_vlm"
PROJECTOR = "multi_modal_projector.linear_1"
TABLE = Table(
    (
        Row("embed.projection", "patch_embedding.linear"),
        Row("embed.class_token", "class_embedding"),
        Row("embed.positions", POSITIONS),
        Row("embed.norm", "layernorm_pre"),
        Row("blocks.{n}.norm1", "model.layers.{n}.input_layernorm"),
        Row("blocks.{n}.attention.query", "model.layers.{n}.self_attn.q_proj"),
        Row("blocks.{n}.attention.key", "model.layers.{n}.self_attn.k_proj"),
        Row("blocks.{n}.attention.value", "model.layers.{n}.self_attn.v_proj"),
        Row("blocks.{n}.attention.output", "model.layers.{n}.self_attn.o_proj"),
        Row("blocks.{n}.norm2", "model.layers.{n}.post_attention_layernorm"),
        Row("blocks.{n}.mlp.hidden", "model.layers.{n}.mlp.fc1"),
        Row("blocks.{n}.mlp.output", "model.layers.{n}.mlp.fc2"),
        Row("norm", "layernorm_post"),
        Row("merger.hidden", "vision_adapter.mlp.fc1"),
        Row("merger.output", "vision_adapter.mlp.fc2"),
        Row("merger.output2", PROJECTOR),
    ),
    "torch",
)
# Their code has the exact GELU, eps 1e-5, no bias in the projector, and takes the last block's patches, whatever these say.
IGNORED = (
    "hidden_act", "norm_eps", "multi_modal_projector_bias", "projector_dropout", "vision_feature_layer",
    "vision_feature_select_strategy",
)  # fmt: skip


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says."""
    fields, section = sizes(reading, "Llama 4", {
        "width": ("hidden_size", 768), "depth": ("num_hidden_layers", 34), "heads": ("num_attention_heads", 16),
        "mlp": ("intermediate_size", 5632), "image": ("image_size", 448), "patch": ("patch_size", 14),
        "channels": ("num_channels", 3),
    }, (*IGNORED, "pixel_shuffle_ratio", "projector_input_dim", "projector_output_dim", "vision_output_dim", "rope_theta",
        "rope_parameters"))  # fmt: skip
    ratio = section.get("pixel_shuffle_ratio", 0.5)
    if ratio not in (1, 1 / 2, 1 / 4) or isinstance(ratio, bool):
        raise InputError(f"config.json: pixel_shuffle_ratio {ratio!r} is not supported: only 0.5, and 0.25 and 1")
    hidden = number(section, "projector_input_dim", 4096, reading.notes, "Llama 4")
    output = number(section, "projector_output_dim", 4096, reading.notes, "Llama 4")
    if hidden != output:  # fc1 gives one, fc2 takes the other
        raise InputError(f"config.json: projector_input_dim {hidden} and projector_output_dim {output} must be the same")
    side = int(1 / ratio)
    stages = [*["concat"][: side - 1], f"hidden {hidden}", "gelu", f"output {output}", "gelu2"]
    last = language_width(reading)
    stages += [f"output2 {last}"] if last else []
    linears = [stage.split()[0] for stage in stages if " " in stage]
    return {**fields, "merger": {"side": side, "stages": stages, "without_bias": linears}}


def language_width(reading: OpenCheckpoint) -> int:
    """How many numbers the language model's tokens have; 0 where only the encoder is there, without its last layer."""
    if reading.tensors is not None:
        last = reading.tensors.get(f"{PROJECTOR}.weight")
        return last.shape[0] if last is not None else 0
    text = reading.config.get("text_config", {} if "vision_config" in reading.config else None)
    return 0 if text is None else number(text, "hidden_size", 5120, reading.notes, "Llama 4's language model")


def class_token_first(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The last row of the table of positions, the class token's, put first."""
    table = tensors.get(POSITIONS)
    if table is None:
        return tensors
    rows = table.data
    return {**tensors, POSITIONS: Tensor(table.dtype, np.concatenate([rows[-1:], rows[:-1]]))}


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    return frequencies(config, rope_theta(reading.config.get("vision_config") or reading.config, 10_000.0))


LLAMA4 = Family(
    name="llama4",
    title="Llama 4's encoder",
    upstream="transformers, models/llama4",
    table=TABLE,
    marks=(),
    model_types=("llama4", "llama4_vision_model"),
    prefixes=("vision_model.",),
    fixed={
        "pooling": "none",
        "classes": 0,
        "pooler": 0,
        "position_rule": "none",
        "qkv_bias": True,
        "eps": 1e-5,
        "activation": "gelu",
        "pre_norm": True,
        "rope": "column_pairs",
        "rope_offset": 1,
        "without_bias": ("embed.projection",),
    },
    says=says,
    prepare=class_token_first,
    made=made,
    hugging_face=True,
)
