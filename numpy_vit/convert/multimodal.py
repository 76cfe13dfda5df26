"""What the encoders of multimodal models have in common: where their config lies, kernels over time, rotary frequencies."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ..config import LADDERS, ViTConfig
from ..errors import InputError
from ..files.tensorfile import tensor_of
from ..groups import SIMPLE
from .family import OpenCheckpoint
from .hugging_face import activation, get
from .hugging_face_config import refuse_unknown
from .table import Tensors

ABOUT = 448  # pixels: the image size of a config whose model takes any
FIXED: dict[str, Any] = {
    "class_token": False,
    "pooling": "none",
    "classes": 0,
    "pooler": 0,
    "position_rule": "bicubic",
    "any_size": True,
}
"""Of an encoder that takes pictures of any size, and whose tokens all go to a language model."""


def section_of(reading: OpenCheckpoint, known: Collection[str]) -> Mapping[str, Any]:
    """The part of config.json that is about pictures; `known` are the keys of it that are read.

    Other keys of it are refused. What lies beside it is the language model's.
    """
    config = reading.config
    if not config:
        raise InputError(
            "no config.json beside the weights: heads and much else cannot be told from tensors; give one (--config)"
        )
    section = config.get("vision_config", config)
    if not isinstance(section, dict):
        raise InputError(f"config.json: vision_config {section!r:.40}: must be a table of sizes")
    refuse_unknown(section, known)
    return section


def sizes(
    reading: OpenCheckpoint, what: str, keys: Mapping[str, tuple[str, Any]], read: Collection[str] = ()
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Fields of ViTConfig from the picture's part of config.json, and that part.

    keys   our field -> (their key, transformers' default); `read` are other keys that the family reads itself
    """
    section = section_of(reading, {*(key for key, _ in keys.values()), *read})
    defaults = dict(keys.values())
    fields = {ours: get(section, key, reading.notes, defaults, what) for ours, (key, _) in keys.items()}
    if "activation" in fields:
        fields["activation"] = activation(fields["activation"])
    if isinstance(fields.get("patch"), list) and len(set(map(str, fields["patch"]))) == 1:
        fields["patch"] = fields["patch"][0]
    for ours, (key, _) in keys.items():
        if ours in ("width", "depth", "heads", "patch", "channels", "mlp") and (
            type(fields[ours]) is not int or fields[ours] < 1
        ):
            raise InputError(f"config.json: {key} is {fields[ours]!r}: it must be a whole number above 0")
    return fields, section


def number(section: Mapping[str, Any], key: str, default: int, notes: list[str] | None = None, what: str = "") -> int:
    """A whole number of config.json above 0; a default that matters is said where there are `notes`."""
    value = get(section, key, [] if notes is None else notes, {key: default}, what)
    if type(value) is not int or value < 1:
        raise InputError(f"config.json: {key} is {value!r}: it must be a whole number above 0")
    return value


def only(what: str, supported: object, why: str) -> None:
    """Raise InputError for a value of config.json that is not supported."""
    if not supported:
        raise InputError(f"config.json: {what} is not supported: {why}")


def language_model(parent: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of the whole config.json."""
    section = parent.get("text_config", parent.get("llm_config"))
    if not isinstance(section, dict):
        raise InputError(f"config.json: text_config {section!r:.40}: must be a table: it says how wide image tokens are")
    return section


def language_model_width(text: Mapping[str, Any], notes: list[str], default: int, what: str) -> int:
    """How many numbers an image token has for the language model."""
    return number(text, "hidden_size", default, notes, f"the language model of {what}")


def says_no_language_model(reading: OpenCheckpoint, parent: Mapping[str, Any]) -> bool:
    """Whether there is a config.json alone, and no word in it of the language model; that is noted."""
    silent = reading.tensors is None and not {"text_config", "llm_config"} & parent.keys()
    if silent:
        reading.notes.append("config.json says nothing of the language model: tokens are merged, not yet of its width")
    return silent


def activation_between(parent: Mapping[str, Any]) -> str:
    """The activation between a projector's two layers, as a merger's stage: of the parent's config.json."""
    name = activation(parent.get("projector_hidden_act", "gelu"))
    only(
        f"projector_hidden_act {parent.get('projector_hidden_act')!r:.40}",
        name in SIMPLE,
        "gelu, gelu_pytorch_tanh and silu are",
    )
    return name


def any_image(multiple: int) -> tuple[int, int]:
    """An image size for a model that takes any: about 448 pixels, a multiple of this."""
    side = max(1, round(ABOUT / multiple)) * multiple
    return side, side


def of_a_still_picture(name: str) -> Callable[[Tensors, Mapping[str, Any]], Tensors]:
    """`prepare` of a family whose kernel goes over two frames: a still picture is the same frame twice, so its halves add up.

    name   of the kernel, (D, C, frames, P, P). Its sum is kept in float64: it would be rounded else.
    """

    def prepare(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
        if name not in tensors or len(tensors[name].shape) != 5:
            return tensors
        return {**tensors, name: tensor_of(tensors[name].to_float(np.float64).sum(axis=2))}

    return prepare


def rope_theta(section: Mapping[str, Any], default: float) -> float:
    """The base of the rotary frequencies, in either of the places where config.json has it."""
    parameters = section.get("rope_parameters") or section.get("rope_scaling") or {}
    theta = section.get("rope_theta", parameters.get("rope_theta", default) if isinstance(parameters, dict) else None)
    if not isinstance(theta, int | float) or isinstance(theta, bool) or not theta > 0:
        raise InputError(f"config.json: rope_theta {theta!r} is no number above 0")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "axial", "mrope"):
        raise InputError(f"config.json: rope_type {kind!r} is not supported")
    return float(theta)


def frequencies(config: ViTConfig, theta: float) -> dict[str, Any]:
    """The rotary frequencies, in no file: theta^(-4 i / K), radians for one step; of a ladder, theta^(-2 i / K)."""
    step = 2 if config.rope in LADDERS else 4
    return {"rope.frequencies": 1 / np.float64(theta) ** (np.arange(0, config.head_dim, step) / config.head_dim)}
