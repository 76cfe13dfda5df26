"""RADIO's encoder (transformers, models/radio).

Three class tokens and seven registers, all without positions, and no last norm. Positions are of a large square grid, which is
resized to a square as large as the picture's longer side and cropped at the right and bottom ("CPE").

Upstream normalises pixels inside the model. Here that is done where pictures are prepared: the model wants normalised pixels.
"""

import dataclasses
from typing import Any

import numpy as np

from ..errors import InputError
from ..pictures.images import Preprocess
from . import multimodal
from .family import Family, OpenCheckpoint
from .hugging_face import DEFAULTS, flag, mlp_ratio, qkv_bias, sizes
from .multimodal import number, only
from .table import Row, Table

GENERATOR, BLOCK = "model.patch_generator.", "model.blocks.{n}."
TABLE = Table(
    (
        Row("embed.projection", GENERATOR + "embedder"),
        Row("embed.registers", GENERATOR + "cls_token.token"),
        Row("embed.positions", GENERATOR + "pos_embed", ones=1),
        Row("blocks.{n}.norm1", BLOCK + "norm1"),
        Row("blocks.{n}.attention.query", BLOCK + "attn.qkv", part=(0, 3)),
        Row("blocks.{n}.attention.key", BLOCK + "attn.qkv", part=(1, 3)),
        Row("blocks.{n}.attention.value", BLOCK + "attn.qkv", part=(2, 3)),
        Row("blocks.{n}.attention.output", BLOCK + "attn.proj"),
        Row("blocks.{n}.layer_scale1", BLOCK + "layer_scale1.lambda1"),
        Row("blocks.{n}.norm2", BLOCK + "norm2"),
        Row("blocks.{n}.mlp.hidden", BLOCK + "mlp.fc1"),
        Row("blocks.{n}.mlp.output", BLOCK + "mlp.fc2"),
        Row("blocks.{n}.mlp.gate", BLOCK + "mlp.gate_proj"),
        Row("blocks.{n}.mlp.hidden", BLOCK + "mlp.up_proj"),
        Row("blocks.{n}.mlp.output", BLOCK + "mlp.down_proj"),
        Row("blocks.{n}.layer_scale2", BLOCK + "layer_scale2.lambda1"),
    ),
    "torch",
)
RADIOS_DEFAULTS = {key: value for key, value in DEFAULTS.items() if key != "intermediate_size"} | {
    "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "layer_norm_eps": 1e-6,
}  # fmt: skip
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json says. Its image_size is not used upstream either: positions are for max_img_size."""
    config = reading.config
    fields = sizes(reading, "RADIO", RADIOS_DEFAULTS)
    width, patch = fields["width"], fields["patch"]
    hidden = int(width * mlp_ratio(config, reading.notes, "RADIO"))
    gated = flag(config, "use_swiglu_ffn", False)
    fields |= {"mlp": (int(hidden * 2 / 3) + 7) // 8 * 8, "activation": "silu"} if gated else {"mlp": hidden}
    scale = config.get("layerscale_value", 1.0)
    scaled = reading.tensors is None or reading.seen["layer_scale"]  # a file may lack it, and then it is this number
    only(f"layerscale_value {scale!r:.40}", scaled or scale == 1, "there are no layer_scale tensors")
    registers = number(config, "num_cls_tokens", 3) + number(config, "num_registers", 7)
    if normalises(reading):
        mean, std = normalisation(reading)
        reading.notes.append(f"pixels are to be normalised, with mean {mean} and std {std}: upstream's model does so itself")
    return {
        **fields,
        "gated_mlp": gated,
        "layer_scale": scaled,
        "registers": registers,
        "image": number(config, "max_img_size", 2048, reading.notes, "RADIO") // patch * patch,
        "qkv_bias": qkv_bias(reading),
    }


def normalises(reading: OpenCheckpoint) -> bool:
    """Whether upstream's model normalises pixels itself: as part of a larger model (Nemotron 3) it does not."""
    if reading.tensors is None:
        return (reading.source.config or {}).get("model_type") == "radio"
    return "input_conditioner.norm_mean" in reading.tensors


def normalisation(reading: OpenCheckpoint) -> tuple[list[float], list[float]]:
    """Mean and std of each channel: of the file, or of config.json; they must agree."""
    found = []
    for name, default in (("norm_mean", MEAN), ("norm_std", STD)):
        said = reading.config.get(name, list(default))
        if not isinstance(said, list | tuple) or not all(isinstance(value, int | float) for value in said):
            raise InputError(f"config.json: {name} {said!r:.60}: must be a list of numbers")
        tensor = (reading.tensors or {}).get(f"input_conditioner.{name}")
        if tensor is not None:
            stored = tensor.to_float(np.float64).reshape(-1)
            if stored.shape != (len(said),) or not np.allclose(stored, said, rtol=1e-2, atol=0):
                raise InputError(f"config.json says {name} {list(said)}, the tensors say {stored.tolist()}")
        found.append([float(value) for value in said])
    return found[0], found[1]


def prepared(reading: OpenCheckpoint, preprocess: Preprocess) -> Preprocess:
    """Pictures normalised as upstream's model does it inside."""
    if not normalises(reading):
        return preprocess
    only("do_normalize of the preprocessor", preprocess.mean is None, "the model normalises too")
    mean, std = normalisation(reading)
    return dataclasses.replace(preprocess, mean=tuple(mean), std=tuple(std))


RADIO = Family(
    name="radio",
    title="RADIO's encoder",
    upstream="transformers, models/radio",
    table=TABLE,
    marks=(r"model\.patch_generator\.embedder\.weight", r"model\.patch_generator\.cls_token\.token"),
    model_types=("radio",),
    prefixes=("radio_model.",),
    fixed={
        **multimodal.FIXED,
        "position_rule": "bilinear_cropped",
        "final_norm": "none",
        "without_bias": ("embed.projection",),
    },
    says=says,
    left_out={
        r"summary_idxs": "which class tokens make the summary, as config.json says",
        r"input_conditioner\..*": "pictures are normalised where they are prepared",
        r"model\.patch_generator\.video_embedder\..*": "it is for videos",
    },
    prepared=prepared,
    hugging_face=True,
)
