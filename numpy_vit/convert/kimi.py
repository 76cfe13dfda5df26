"""MoonViT: the encoder of Kimi-VL and Kimi K2.5 (transformers, models/kimi_k25; moonshotai's own code for Kimi-VL).

Pictures at their own size. Learned positions, resized from a square table by cubic convolution, and rotary ones besides, whose
pairs turn with the column and the row by turns. 2 x 2 tokens, each normed, make one for the language model.

Their files have neighbouring numbers of a head as pairs; transformers has them in memory, and in files of the encoder alone, as
i and i + K/2. Each is read as it lies. Of videos the frames are averaged, and have sines and cosines for their time: a still
picture meets neither.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..config import ViTConfig
from ..files.tensorfile import Tensor
from . import multimodal
from .family import Family, OpenCheckpoint
from .multimodal import any_image, frequencies, language_model, number, only, rope_theta, sizes
from .table import Row, Table, Tensors

POSITIONS = ("patch_embed.pos_emb.weight", "patch_embed.pos_emb.position_embeddings")
ROWS = (
    Row("embed.projection", "patch_embed.proj"),
    *(Row("embed.positions", name) for name in POSITIONS),
    Row("blocks.{n}.norm1", "blocks.{n}.norm0"),
    Row("blocks.{n}.attention.query", "blocks.{n}.wqkv", part=(0, 3)),
    Row("blocks.{n}.attention.key", "blocks.{n}.wqkv", part=(1, 3)),
    Row("blocks.{n}.attention.value", "blocks.{n}.wqkv", part=(2, 3)),
    Row("blocks.{n}.attention.output", "blocks.{n}.wo"),
    Row("blocks.{n}.norm2", "blocks.{n}.norm1"),
    Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.fc0"),
    Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.fc1"),
    Row("norm", "final_layernorm"),
    Row("merger.norm", "mm_projector.pre_norm"),
    Row("merger.hidden", "mm_projector.proj.0"),
    Row("merger.output", "mm_projector.proj.2"),
)
KIMI_VL = (
    Row("merger.norm", "multi_modal_projector.pre_norm"),
    Row("merger.hidden", "multi_modal_projector.linear_1"),
    Row("merger.output", "multi_modal_projector.linear_2"),
)
IN_MEMORY = (
    Row("blocks.{n}.norm1", "layers.{n}.norm1"),
    Row("blocks.{n}.attention.query", "layers.{n}.attn.q_proj"),
    Row("blocks.{n}.attention.key", "layers.{n}.attn.k_proj"),
    Row("blocks.{n}.attention.value", "layers.{n}.attn.v_proj"),
    Row("blocks.{n}.attention.output", "layers.{n}.attn.proj"),
    Row("blocks.{n}.norm2", "layers.{n}.norm2"),
    Row("blocks.{n}.mlp.hidden", "layers.{n}.mlp.fc1"),
    Row("blocks.{n}.mlp.output", "layers.{n}.mlp.fc2"),
    Row("merger.hidden", "mm_projector.in_proj"),
    Row("merger.output", "mm_projector.out_proj"),
)
SIZES = {
    "depth": ("num_hidden_layers", 27), "width": ("hidden_size", 1152), "heads": ("num_attention_heads", 16),
    "mlp": ("intermediate_size", 4304), "activation": ("hidden_act", "gelu_pytorch_tanh"), "patch": ("patch_size", 14),
}  # fmt: skip
# What Moonshot's own config files call them.
OTHER_NAMES = {
    "vt_num_hidden_layers": "num_hidden_layers", "vt_hidden_size": "hidden_size", "vt_intermediate_size": "intermediate_size",
    "vt_num_attention_heads": "num_attention_heads", "init_pos_emb_height": "pos_emb_height",
    "init_pos_emb_width": "pos_emb_width", "init_pos_emb_time": "pos_emb_time",
}  # fmt: skip
# Choices that their code offers, and the one that its models have.
ONE = {"pos_emb_type": "divided_fixed", "merge_type": "sd2_tpool", "mm_projector_type": "patchmerger",
       "video_attn_type": "spatial_temporal", "projector_hidden_act": "gelu"}  # fmt: skip
# pos_emb_time and video_attn_type are about videos.
READ = ("pos_emb_height", "pos_emb_width", "pos_emb_time", "merge_kernel_size", "rope_parameters", "rope_theta", "rope_scaling",
        "mm_hidden_size", "text_hidden_size", "projector_ln_eps", *ONE)  # fmt: skip
EPS = 1e-5


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says; one of the encoder alone says nothing of the projector."""
    whole = reading.config
    inner = "vision_config" in whole
    named = {**whole, "vision_config": renamed(whole["vision_config"])} if inner else renamed(whole)
    fields, section = sizes(dataclasses.replace(reading, config=named), "Kimi K2.5", SIZES, READ)
    for key, value in ONE.items():
        only(f"{key} {section.get(key)!r:.40}", section.get(key, value) == value, f"{value} is")
    rows, columns = (number(section, f"pos_emb_{axis}", 64, reading.notes, "Kimi K2.5") for axis in ("height", "width"))
    only(f"a table of {rows} x {columns} positions", rows == columns, "it is square in every model")
    rope_theta(section, 10_000.0)
    in_memory = any(name.startswith("layers.0.attn.") for name in reading.tensors or {})
    rope = "alternating_halves" if in_memory else "alternating_pairs"
    found = {**fields, "channels": 3, "position_grid": (rows, columns), "rope": rope, "image": any_image(fields["patch"])}
    return {**found, **merged(reading, section, fields)} if inner else found


def renamed(section: Any) -> Any:
    """The encoder's part of config.json under transformers' names."""
    if not isinstance(section, dict):
        return section
    for theirs, name in OTHER_NAMES.items():
        only(f"{theirs} beside {name}", not (theirs in section and name in section), "give one of them")
    return {OTHER_NAMES.get(key, key): value for key, value in section.items()}


def merged(reading: OpenCheckpoint, section: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The projector: a norm, the tokens of 2 x 2 patches one after the other, two linear layers with GELU between."""
    whole, width = reading.config, fields["width"]
    kernel = section.get("merge_kernel_size", (2, 2))
    square = isinstance(kernel, list | tuple) and len(kernel) == 2 and kernel[0] == kernel[1]
    only(f"merge_kernel_size {kernel!r:.40}", square, "two equal numbers are")
    side = number({"merge_kernel_size": kernel[0]}, "merge_kernel_size", 2)
    for said in (section.get("mm_hidden_size"), whole.get("projection_hidden_size")):
        only(f"a projector of {said!r:.40} numbers", said in (None, width), f"the encoder has {width}")
    out = multimodal.language_model_width(language_model(whole), reading.notes, 7168, "Kimi K2.5")
    said = section.get("text_hidden_size")
    only(f"text_hidden_size {said!r:.40}", said in (None, out), f"the language model has {out}")
    only(f"projector_hidden_act {whole.get('projector_hidden_act')!r:.40}",
         whole.get("projector_hidden_act", "gelu") == "gelu", "gelu is")  # fmt: skip
    stages = ["norm", *(["concat"] if side > 1 else []), f"hidden {side * side * width}", "gelu", f"output {out}"]
    eps = section.get("projector_ln_eps", whole.get("projection_layer_norm_eps", EPS))
    return {"merger": {"side": side, "stages": stages, "eps": eps}, "image": any_image(side * fields["patch"])}


def prepare(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """The table of positions (rows, columns, D) as (rows * columns, D)."""
    found = {name: tensors[name] for name in POSITIONS if name in tensors and len(tensors[name].shape) == 3}
    return {**tensors, **{name: Tensor(t.dtype, t.data.reshape(-1, t.shape[-1])) for name, t in found.items()}}


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    return frequencies(config, rope_theta(reading.config.get("vision_config") or reading.config, 10_000.0))


MOONVIT = Family(
    name="moonvit",
    title="MoonViT, the encoder of Kimi-VL and Kimi K2.5",
    upstream="transformers, models/kimi_k25",
    table=Table((*ROWS, *KIMI_VL, *IN_MEMORY), "torch"),
    marks=(),
    model_types=("kimi_k25", "kimi_k25_vision", "kimi_vl", "moonvit"),
    prefixes=("encoder.", "vision_tower.", "model."),
    fixed={**multimodal.FIXED, "eps": EPS, "qkv_bias": True, "final_norm": "tokens"},
    says=says,
    prepare=prepare,
    made=made,
    hugging_face=True,
)
