"""Pixtral's encoder (transformers, models/pixtral), and what Pixtral 12B, Mistral 3 and LightOnOCR make of its tokens.

Pictures at their own size, RMS norms, gated MLPs, no biases. Rotary positions take the frequencies of one ladder by turns for
row and column. Pixtral 12B projects every patch for the language model; Mistral 3 merges 2 x 2 first.

Mistral's own files (params.json, wq, wk, wv, wo, w1, w2, w3) pair neighbours in rotary positions, transformers' halves: its
conversion scripts bring the rows of query and key into that order. Here each keeps its numbers as they are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from ..fields import is_number
from . import multimodal
from .family import Family, OpenCheckpoint
from .hugging_face import flag
from .multimodal import (
    activation_between,
    any_image,
    frequencies,
    language_model,
    language_model_width,
    number,
    only,
    says_no_language_model,
)
from .table import Row, Table

LAYER = "transformer.layers.{n}."
ENCODER = (
    Row("embed.projection", "patch_conv"),
    Row("embed.norm", "ln_pre"),
    Row("blocks.{n}.norm1", LAYER + "attention_norm"),
    Row("blocks.{n}.attention.query", LAYER + "attention.q_proj"),
    Row("blocks.{n}.attention.key", LAYER + "attention.k_proj"),
    Row("blocks.{n}.attention.value", LAYER + "attention.v_proj"),
    Row("blocks.{n}.attention.output", LAYER + "attention.o_proj"),
    Row("blocks.{n}.norm2", LAYER + "ffn_norm"),
    Row("blocks.{n}.mlp.gate", LAYER + "feed_forward.gate_proj"),
    Row("blocks.{n}.mlp.hidden", LAYER + "feed_forward.up_proj"),
    Row("blocks.{n}.mlp.output", LAYER + "feed_forward.down_proj"),
)
MISTRALS_OWN = (
    Row("blocks.{n}.attention.query", LAYER + "attention.wq"),
    Row("blocks.{n}.attention.key", LAYER + "attention.wk"),
    Row("blocks.{n}.attention.value", LAYER + "attention.wv"),
    Row("blocks.{n}.attention.output", LAYER + "attention.wo"),
    Row("blocks.{n}.mlp.gate", LAYER + "feed_forward.w1"),
    Row("blocks.{n}.mlp.hidden", LAYER + "feed_forward.w3"),
    Row("blocks.{n}.mlp.output", LAYER + "feed_forward.w2"),
    Row("merger.norm", "pre_mm_projector_norm"),
    Row("merger.hidden0", "patch_merger.merging_layer"),
    Row("merger.hidden", "vision_language_adapter.w_in"),
    Row("merger.output", "vision_language_adapter.w_out"),
)
PROJECTOR = tuple(
    Row(f"merger.{ours}", f"{projector}.{theirs}")
    for projector in ("multi_modal_projector", "vision_projection")
    for ours, theirs in (
        ("norm", "norm"), ("hidden0", "patch_merger.merging_layer"), ("hidden", "linear_1"), ("output", "linear_2"),
    )
)  # fmt: skip

SIZES = {
    "depth": ("num_hidden_layers", 24), "width": ("hidden_size", 1024), "heads": ("num_attention_heads", 16),
    "mlp": ("intermediate_size", 4096), "activation": ("hidden_act", "gelu"), "patch": ("patch_size", 16),
    "channels": ("num_channels", 3),
}  # fmt: skip
# image_size is the longest side that the processor leaves a picture: the encoder takes any.
READ = ("image_size", "head_dim", "rope_parameters", "rope_theta", "rope_scaling")
EPS = 1e-5
# The models around the encoder: whether they merge, and what their classes take where a file does not say.
PARENTS: dict[str, dict[str, Any]] = {
    "llava": {"merges": False, "vision_feature_layer": -2, "multimodal_projector_bias": True},
    "mistral3": {"merges": True, "vision_feature_layer": -1, "multimodal_projector_bias": False},
    "mistral_large4": {"merges": True, "vision_feature_layer": -1, "multimodal_projector_bias": False},
    "lighton_ocr": {"merges": True, "vision_feature_layer": -1, "multimodal_projector_bias": False},
}
# Of params.json's vision_encoder, what is about the model around the encoder; the rest is called as in transformers.
AROUND = {
    "adapter_bias", "add_pre_mm_projector_layer_norm", "image_break_token_id", "image_end_token_id", "image_token_id",
    "max_image_size", "mm_projector_id", "spatial_merge_size",
}  # fmt: skip


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says, or params.json."""
    whole = parent(reading)
    tower = whole.get("vision_config", reading.config)
    whose = tower.get("model_type", "pixtral") if isinstance(tower, dict) else None
    only(f"model_type of the encoder is {whose!r}", whose == "pixtral", "a Pixtral's is pixtral")
    fields, section = multimodal.sizes(dataclasses.replace(reading, config=tower), "Pixtral", SIZES, READ)
    head_dim = section.get("head_dim")
    only(f"head_dim {head_dim!r:.40}", head_dim is None or head_dim * fields["heads"] == fields["width"],
         "it is hidden_size / heads")  # fmt: skip
    rope_theta(reading)  # refused here, where there may be no weights
    if reading.tensors:
        own = any(name.endswith(".attention.wq.weight") for name in reading.tensors)
    else:
        own = "vision_encoder" in reading.config
    found = {**fields, "rope": "ladder_pairs" if own else "ladder_halves", "image": any_image(fields["patch"])}
    if whole.get("model_type") in PARENTS and "vision_config" in whole:
        found["merger"] = merger(reading, whole, fields["width"])
        if found["merger"]:
            found["image"] = any_image(fields["patch"] * found["merger"]["side"])
    return found


def parent(reading: OpenCheckpoint) -> Mapping[str, Any]:
    """The whole config.json; params.json as such a one (as mistral3's and pixtral's conversion scripts in transformers do)."""
    config = reading.source.config or {}
    params = config.get("vision_encoder")
    if params is None:
        return config
    if not isinstance(params, dict):
        raise InputError(f"params.json: vision_encoder {params!r:.40}: must be a table of sizes")
    merges = params.get("mm_projector_id") == "patch_merge"
    only(
        f"mm_projector_id {params.get('mm_projector_id')!r:.40}", merges or not params.get("mm_projector_id"), "patch_merge is"
    )
    normed = params.get("add_pre_mm_projector_layer_norm", False)
    only(f"add_pre_mm_projector_layer_norm {normed!r:.40}", normed is merges, "a norm and patch_merge go together")
    return {
        "model_type": "mistral3" if merges else "llava",
        "vision_config": {"hidden_act": "silu", **{key: value for key, value in params.items() if key not in AROUND}},
        "text_config": {"hidden_size": config.get("dim"), "rms_norm_eps": EPS},
        "multimodal_projector_bias": params.get("adapter_bias", not merges),
        "spatial_merge_size": params.get("spatial_merge_size", 2),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }


def merger(reading: OpenCheckpoint, whole: Mapping[str, Any], width: int) -> dict[str, Any] | None:
    """The projector, after a norm and a linear layer on 2 x 2 patches where the model merges."""
    its = PARENTS[whole["model_type"]]
    layer = whole.get("vision_feature_layer", its["vision_feature_layer"])
    only(f"vision_feature_layer {layer!r:.40}", layer in (-1, [-1]), "only the last block, -1, is")
    act, bias = activation_between(whole), flag(whole, "multimodal_projector_bias", its["multimodal_projector_bias"])
    if says_no_language_model(reading, whole):
        return None
    text = language_model(whole)
    out = language_model_width(text, reading.notes, 4096, "Pixtral")
    projector = [f"hidden {out}", act, f"output {out}"]
    without_bias = () if bias else ("hidden", "output")
    if not its["merges"]:
        kept = whole.get("vision_feature_select_strategy", "default")
        only(f"vision_feature_select_strategy {kept!r:.40}", kept == "full", "it drops the first patch for a class token")
        return {"side": 1, "stages": projector, "without_bias": without_bias}
    side = number(whole, "spatial_merge_size", 2)
    eps: Any = text.get("rms_norm_eps")
    if not is_number(eps) or not eps > 0:
        raise InputError(
            f"config.json: text_config: rms_norm_eps {eps!r:.40}: must be a number above 0: it is the merger's too"
        )
    stages = ["norm", *(["unfold"] if side > 1 else []), f"hidden0 {width}", *projector]
    return {"side": side, "stages": stages, "norm": "rms", "eps": float(eps), "without_bias": ("hidden0", *without_bias)}


def rope_theta(reading: OpenCheckpoint) -> float:
    """The base of the rotary frequencies."""
    return multimodal.rope_theta(parent(reading).get("vision_config", reading.config), 10_000.0)


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    return frequencies(config, rope_theta(reading))


PIXTRAL = Family(
    name="pixtral",
    title="Pixtral's encoder, and Mistral 3's",
    upstream="transformers, models/pixtral, llava and mistral3",
    table=Table((*ENCODER, *PROJECTOR, *MISTRALS_OWN), "torch"),
    marks=(r"patch_conv\.weight", r"transformer\.layers\.0\.attention\.wq\.weight"),
    model_types=("pixtral", "mistral3", "lighton_ocr"),
    prefixes=("vision_tower.", "vision_encoder."),
    fixed={
        **multimodal.FIXED,
        "positions": "none",
        "pre_norm": True,
        "norm": "rms",
        "eps": EPS,
        "qkv_bias": False,
        "gated_mlp": True,
        "final_norm": "none",
        "without_bias": ("embed.projection", "attention.output", "mlp.gate", "mlp.hidden", "mlp.output"),
    },
    says=says,
    made=made,
    hugging_face=True,
)
