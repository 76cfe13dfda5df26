"""AIMv2 (transformers, models/aimv2) and Ovis 2's encoder (models/ovis2), which is one with another end.

RMS norms, one of them right after the patch projection; gated MLPs; mostly no biases; no class token. AIMv2's positions are
learned, or, of its "native" models, which take pictures of any size, sines and cosines of column and row. Its pooling query is
a learned token as it is.

Ovis 2 turns each token (or 2 x 2 of them) into probabilities over a visual vocabulary, and the language model sees the mean of
those words' vectors. The vocabulary's last words stand for a picture's begin, end and the like, and no token becomes one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import ViTConfig
from ..errors import InputError
from ..files.tensorfile import Tensor
from .family import Family, OpenCheckpoint
from .hugging_face import flag
from .multimodal import any_image, number, sizes
from .table import Row, Table, Tensors

WORDS = "visual_embeddings_table.weight"
BLOCKS = (
    Row("blocks.{n}.norm1", "encoder.layers.{n}.rms_norm1"),
    Row("blocks.{n}.attention.query", "encoder.layers.{n}.attention.q_proj"),
    Row("blocks.{n}.attention.key", "encoder.layers.{n}.attention.k_proj"),
    Row("blocks.{n}.attention.value", "encoder.layers.{n}.attention.v_proj"),
    Row("blocks.{n}.attention.output", "encoder.layers.{n}.attention.out_proj"),
    Row("blocks.{n}.norm2", "encoder.layers.{n}.rms_norm2"),
    Row("blocks.{n}.mlp.gate", "encoder.layers.{n}.ffn.gate_proj"),
    Row("blocks.{n}.mlp.hidden", "encoder.layers.{n}.ffn.up_proj"),
    Row("blocks.{n}.mlp.output", "encoder.layers.{n}.ffn.down_proj"),
    Row("norm", "rms_norm"),
)
EMBEDDINGS = (
    Row("embed.patch_norm", "embeddings.rms_norm"),
    Row("embed.positions", "embeddings.position_embedding.weight"),
)
AIMV2_TABLE = Table(
    (
        Row("embed.projection", "embeddings.patch_embed"),
        *EMBEDDINGS,
        *BLOCKS,
        Row("map.probe", "head.cls_token", ones=1),
        Row("map.attention.key", "head.k_proj"),
        Row("map.attention.value", "head.v_proj"),
        Row("map.attention.output", "head.output_proj"),
        Row("projection", "visual_projection"),
    ),
    "torch",
)
OVIS2_TABLE = Table(
    (
        Row("embed.projection", "transformer.embeddings.patch_embedding"),
        *(row._replace(theirs=f"transformer.{row.theirs}") for row in (*EMBEDDINGS, *BLOCKS)),
        Row("merger.hidden", "head_linear"),
        Row("merger.norm", "head_norm"),
        Row("merger.output.weight", WORDS, layout="plain"),
    ),
    "torch",
)
KEYS: dict[str, tuple[str, Any]] = {
    "width": ("hidden_size", 1024), "mlp": ("intermediate_size", 2816), "depth": ("num_hidden_layers", 24),
    "heads": ("num_attention_heads", 8), "channels": ("num_channels", 3), "image": ("image_size", 224),
    "patch": ("patch_size", 14), "activation": ("hidden_act", "silu"), "eps": ("rms_norm_eps", 1e-5),
}  # fmt: skip
THETA = 10_000.0


def biases(section: Mapping[str, Any]) -> dict[str, Any]:
    """qkv_bias is of the attention's output as well; mlp_bias of all three layers of an MLP."""
    attention, mlp = flag(section, "qkv_bias", False), flag(section, "mlp_bias", False)
    without = [*([] if attention else ["attention.output"]), *([] if mlp else ["mlp.gate", "mlp.hidden", "mlp.output"])]
    return {"qkv_bias": attention, "without_bias": without}


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of AIMv2 says; that of both towers has the width of the space shared with texts beside."""
    fields, section = sizes(reading, "AIMv2", KEYS, ("qkv_bias", "mlp_bias", "use_head", "is_native"))
    fields |= {**biases(section), "pooling": "query" if flag(section, "use_head", True) else "none"}
    both = "vision_config" in reading.config
    width = number(reading.config, "projection_dim", 512, reading.notes, "AIMv2") if both else 0
    fields["projection"] = width if reading.tensors is None else reading.seen["projection"]
    if not flag(section, "is_native", False):
        return {**fields, "position_rule": "none"}
    return {**fields, "positions": "sincos", "position_rule": "bicubic", "any_size": True, "image": any_image(fields["patch"])}


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    """The frequencies of sines and cosines: 10,000^(-4 i / D), radians for one step."""
    if config.positions != "sincos":
        return {}
    return {"embed.frequencies": THETA ** -(4 * np.arange(config.width // 4) / config.width)}


def says_ovis2(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of Ovis 2 says."""
    read = ("qkv_bias", "mlp_bias", "vocab_size", "hidden_stride", "tokenize_function", "num_visual_indicator_tokens")
    fields, section = sizes(reading, "Ovis 2", KEYS, read)
    how = section.get("tokenize_function", "softmax")
    if how != "softmax":
        raise InputError(f"config.json: tokenize_function {how!r} is not supported: only softmax")
    side = number(section, "hidden_stride", 1)
    words, width = words_of(section, reading.notes), language_width(reading)
    stages = [*(["concat"] if side > 1 else []), f"hidden {words}", "norm", "softmax", *([f"output {width}"] if width else [])]
    linears = [stage.split()[0] for stage in stages if " " in stage]
    return {**fields, **biases(section), "merger": {"side": side, "stages": stages, "eps": 1e-5, "without_bias": linears}}


def words_of(section: Mapping[str, Any], notes: list[str]) -> int:
    """How many words the visual vocabulary has that a token may become."""
    others = section.get("num_visual_indicator_tokens", 5)
    words = number(section, "vocab_size", 16384, notes, "Ovis 2")
    if type(others) is not int or not 0 <= others < words:
        raise InputError(f"config.json: num_visual_indicator_tokens {others!r}: it must be a number below vocab_size {words}")
    return words - others


def language_width(reading: OpenCheckpoint) -> int:
    """How many numbers the language model's tokens have; 0 where only the encoder is there, without the words' vectors."""
    if reading.tensors is not None:
        return reading.tensors[WORDS].shape[-1] if WORDS in reading.tensors else 0
    if "vision_config" not in reading.config:
        return 0
    return number(reading.config, "hidden_size", 1536, reading.notes, "Ovis 2's language model")


def words_alone(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The vectors of the words that a token may become: as many as there are scores."""
    scores, words = tensors.get("head_linear.weight"), tensors.get(WORDS)
    if scores is None or words is None:
        return tensors
    return {**tensors, WORDS: Tensor(words.dtype, words.data[: len(scores.data)])}


def aimv2(
    name: str, title: str, folder: str, table: Table, model_types: tuple[str, ...], prefix: str, says: Any, **named: Any
) -> Family:
    """One of them."""
    own: dict[str, Any] = named.pop("fixed", {})
    return Family(
        name=name,
        title=title,
        upstream=f"transformers, models/{folder}",
        table=table,
        marks=(),
        model_types=model_types,
        prefixes=(prefix,),
        fixed={"classes": 0, "pooler": 0, "class_token": False, "norm": "rms", "patch_norm": True, "gated_mlp": True, **own},
        says=says,
        hugging_face=True,
        **named,
    )


AIMV2 = aimv2("aimv2", "AIMv2, the picture's tower", "aimv2", AIMV2_TABLE, ("aimv2", "aimv2_vision_model"), "vision_model.",
              says, made=made)  # fmt: skip
OVIS2 = aimv2("ovis2", "Ovis 2's encoder", "ovis2", OVIS2_TABLE, ("ovis2", "ovis2_vision"), "vision_tower.", says_ovis2,
              prepare=words_alone, fixed={"pooling": "none", "position_rule": "none"})  # fmt: skip
