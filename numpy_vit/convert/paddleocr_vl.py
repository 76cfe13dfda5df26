"""The encoders of PaddleOCR-VL and VideoLLaMA 3 (transformers, models/paddleocr_vl and video_llama_3).

SigLIP's, for pictures at their own size: with rotary positions for rows and columns, and in PaddleOCR-VL learned ones besides,
resized bilinearly. PaddleOCR-VL norms the tokens and merges 2 x 2 of them; VideoLLaMA 3 gives the language model all of a still
picture's, and the mean of 2 x 2 of a video's.

Upstream has the patches of VideoLLaMA 3 in blocks where they are merged. Here they lie row by row.
"""

from collections.abc import Mapping
from typing import Any

from ..config import ViTConfig
from . import multimodal
from .family import Family, OpenCheckpoint
from .hf_clip import BLOCK
from .multimodal import any_image, frequencies, language_model_width, number, only, rope_theta, sizes
from .table import Row, Table

ENCODER = (
    Row("embed.projection", "embeddings.patch_embedding"),
    *BLOCK,
    Row("norm", "post_layernorm"),
)
PADDLE = (
    Row("embed.positions", "embeddings.position_embedding.weight"),
    *(
        Row(f"merger.{ours}", f"{projector}.{theirs}")
        for projector in ("mlp_AR", "projector")
        for ours, theirs in (("norm", "pre_norm"), ("hidden", "linear_1"), ("output", "linear_2"))
    ),
)
VIDEO_LLAMA = (Row("merger.hidden", "projector.readout.0"), Row("merger.output", "projector.readout.2"))
READ = ("rope_parameters", "rope_theta", "rope_scaling")


def says_paddle(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of PaddleOCR-VL says; one of the encoder alone says nothing of the projector."""
    # temporal_patch_size and tokens_per_second are in published files, and are not used
    others = ("image_size", "spatial_merge_size", "temporal_patch_size", "tokens_per_second")
    fields, section = common(reading, "PaddleOCR-VL", (27, 1152, 16, 4304, 14), others)
    side = number(section, "image_size", 384, reading.notes, "PaddleOCR-VL") // fields["patch"]
    only("image_size", side > 0, "it is less than a patch")
    found = {**fields, "position_grid": (side, side)}
    if "vision_config" not in reading.config:
        return found
    merge = number(section, "spatial_merge_size", 2)
    out = language_model_width(language_model(reading.config), reading.notes, 1024, "PaddleOCR-VL")
    inner = merge * merge * fields["width"]
    stages = ["norm", *(["concat"] if merge > 1 else []), f"hidden {inner}", "gelu", f"output {out}"]
    found["merger"] = {"side": merge, "stages": stages, "eps": 1e-5}
    return {**found, "image": any_image(merge * fields["patch"])}


def says_video_llama(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of VideoLLaMA 3 says; how many patches become one token, the processor's file, where there is one."""
    fields, _ = common(reading, "VideoLLaMA 3", (12, 768, 12, 3072, 16), ())
    if "vision_config" not in reading.config:
        return fields
    side = (reading.source.preprocessor or {}).get("merge_size", 1)
    only(f"merge_size {side!r:.40} of preprocessor_config.json", side in (1, 2), "1 and 2 are")
    out = language_model_width(language_model(reading.config), reading.notes, 4096, "VideoLLaMA 3")
    stages = [*(["mean"] if side > 1 else []), f"hidden {out}", "gelu", f"output {out}"]
    return {**fields, "merger": {"side": side, "stages": stages}, "image": any_image(side * fields["patch"])}


def common(
    reading: OpenCheckpoint, what: str, defaults: tuple[int, ...], others: tuple[str, ...]
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """What both say in SigLIP's words."""
    names = {"depth": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads", "mlp": "intermediate_size",
             "patch": "patch_size"}  # fmt: skip
    fields, section = sizes(reading, what, {
        **{ours: (theirs, default) for (ours, theirs), default in zip(names.items(), defaults, strict=True)},
        "activation": ("hidden_act", "gelu_pytorch_tanh"), "channels": ("num_channels", 3), "eps": ("layer_norm_eps", 1e-6),
    }, (*READ, *others))  # fmt: skip
    rope_theta(section, 10_000.0)
    return {**fields, "image": any_image(fields["patch"])}, section


def language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of config.json; older files have its keys beside vision_config."""
    return multimodal.language_model(config if "text_config" in config else {"text_config": dict(config)})


def made(config: ViTConfig, reading: OpenCheckpoint) -> dict[str, Any]:
    return frequencies(config, rope_theta(reading.config.get("vision_config") or reading.config, 10_000.0))


ROTARY = {**multimodal.FIXED, "rope": "index_halves", "qkv_bias": True, "final_norm": "tokens"}
PADDLEOCR_VL = Family(
    name="paddleocr-vl",
    title="PaddleOCR-VL's encoder",
    upstream="transformers, models/paddleocr_vl",
    table=Table((*ENCODER, *PADDLE), "torch"),
    marks=(),
    model_types=("paddleocr_vl", "paddleocr_vl_vision"),
    prefixes=("visual.vision_model.", "model.", "vision_model."),
    fixed={**ROTARY, "position_rule": "bilinear"},
    says=says_paddle,
    left_out={
        r"embeddings\.packing_position_embedding\.weight": "transformers does not use it",
        r"head\..*": "the language model sees the tokens, not the pooled vector",
    },
    made=made,
    hugging_face=True,
)
VIDEO_LLAMA_3 = Family(
    name="video-llama-3",
    title="VideoLLaMA 3's encoder",
    upstream="transformers, models/video_llama_3",
    table=Table((*ENCODER, *VIDEO_LLAMA), "torch"),
    marks=(),
    model_types=("video_llama_3", "video_llama_3_vision"),
    prefixes=("vision_model.", "model."),
    fixed={**ROTARY, "positions": "none"},
    says=says_video_llama,
    made=made,
    hugging_face=True,
)
