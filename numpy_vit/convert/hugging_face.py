"""What the Hugging Face families (transformers) have in common: config.json, labels, the block of ViT and its kin."""

from collections.abc import Mapping
from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from .family import OpenCheckpoint
from .hugging_face_config import CLASSES, READ, position_rule, refuse_unknown
from .table import Row

# transformers/activations.py, ACT2FN.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

EMBEDDINGS = (
    Row("embed.projection", "embeddings.patch_embeddings.projection"),
    Row("embed.class_token", "embeddings.cls_token", ones=2),
    Row("embed.positions", "embeddings.position_embeddings", ones=1),
)
# Each block twice: as the hub's files have it, and as transformers 5 has it in memory.
BLOCK = (
    Row("blocks.{n}.norm1", "encoder.layer.{n}.layernorm_before"),
    Row("blocks.{n}.attention.query", "encoder.layer.{n}.attention.attention.query"),
    Row("blocks.{n}.attention.key", "encoder.layer.{n}.attention.attention.key"),
    Row("blocks.{n}.attention.value", "encoder.layer.{n}.attention.attention.value"),
    Row("blocks.{n}.attention.output", "encoder.layer.{n}.attention.output.dense"),
    Row("blocks.{n}.norm2", "encoder.layer.{n}.layernorm_after"),
    Row("blocks.{n}.mlp.hidden", "encoder.layer.{n}.intermediate.dense"),
    Row("blocks.{n}.mlp.output", "encoder.layer.{n}.output.dense"),
    Row("blocks.{n}.norm1", "layers.{n}.layernorm_before"),
    Row("blocks.{n}.attention.query", "layers.{n}.attention.q_proj"),
    Row("blocks.{n}.attention.key", "layers.{n}.attention.k_proj"),
    Row("blocks.{n}.attention.value", "layers.{n}.attention.v_proj"),
    Row("blocks.{n}.attention.output", "layers.{n}.attention.o_proj"),
    Row("blocks.{n}.norm2", "layers.{n}.layernorm_after"),
    Row("blocks.{n}.mlp.hidden", "layers.{n}.mlp.fc1"),
    Row("blocks.{n}.mlp.output", "layers.{n}.mlp.fc2"),
)
MASK_TOKEN = {r"embeddings\.mask_token": "the mask token serves masked-image training only"}
# What a key absent from config.json means to transformers (models/vit/configuration_vit.py; others differ in some).
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
}
OURS = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp",
    "hidden_act": "activation",
    "layer_norm_eps": "eps",
    "image_size": "image",
    "patch_size": "patch",
    "num_channels": "channels",
}


def section_of(reading: OpenCheckpoint, key: str = "vision_config") -> Mapping[str, Any]:
    """The part of config.json that is about pictures: itself, or, in files of two towers, the tower's.

    vision_config_dict, where it is not null, takes the place of vision_config, as in transformers (configuration_clip.py).
    """
    config = reading.config
    section = config.get(f"{key}_dict") if config.get(f"{key}_dict") is not None else config.get(key)
    if section is None and str(config.get("model_type")).endswith(("vision_model", "_vision")):
        return config
    if section is None and "model_type" not in config:  # not said whose: the whole file is the tower's
        return config
    if not isinstance(section, dict):
        raise InputError(f"config.json: {key} {section!r:.40}: a {config.get('model_type')}'s must be a table of sizes")
    check_class(reading)
    refuse_unknown(config, READ["two towers"])
    return section


def is_classifier(reading: OpenCheckpoint) -> bool:
    """Whether config.json names a class with a classifier (which may be of no classes)."""
    return any("ImageClassification" in kind for kind in architectures(reading))


def sizes(
    reading: OpenCheckpoint, what: str, defaults: Mapping[str, Any], section: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields that every family's config.json has, under our names. `defaults` are the family's, `what` its name."""
    if not reading.config:
        raise InputError("no config.json beside the weights: heads, eps and activation cannot be told from tensors; "
                         "give one (--config)")  # fmt: skip
    config = reading.config if section is None else section
    check_class(reading)
    refuse_unknown(config, {*READ[what], *OURS, "head_dim"})
    fields = {OURS[key]: get(config, key, reading.notes, defaults, what) for key in defaults if key in OURS}
    fields["activation"], patch = activation(fields["activation"]), fields["patch"]
    if isinstance(patch, list):
        if len(set(map(str, patch))) != 1:
            raise InputError(f"config.json: patch_size {patch}: only square patches are supported")
        fields["patch"] = patch[0]
    width, heads = fields["width"], fields["heads"]
    if config.get("head_dim") is not None and isinstance(width, int) and config["head_dim"] * heads != width:
        raise InputError(f"config.json: head_dim {config['head_dim']} is not hidden_size / heads: not supported")
    return {**fields, **position_rule(reading.source.config)}


def activation(name: Any, key: str = "hidden_act") -> str:
    """transformers' name of an activation -> ours; `key` is where config.json has it."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise InputError(f"config.json: {key} {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def check_class(reading: OpenCheckpoint) -> None:
    """Raise InputError where config.json names a class of another kind of model than its model_type does."""
    model_type = (reading.source.config or {}).get("model_type")
    if not isinstance(model_type, str) or model_type not in CLASSES:
        return
    for name in architectures(reading):
        if not name.lower().startswith(CLASSES[model_type]):
            raise InputError(f"config.json: architectures names {name}, which is no {model_type}: which of the two is right?")


def get(config: Mapping[str, Any], key: str, notes: list[str], defaults: Mapping[str, Any], what: str) -> Any:
    """A value of config.json, or transformers' default, which is then said."""
    if config.get(key) is not None:
        return config[key]
    notes.append(f"config.json does not say {key}: {defaults[key]!r}, transformers' default for {what}, is used")
    return defaults[key]


def mlp_ratio(config: Mapping[str, Any], notes: list[str], what: str) -> float:
    """How many times as wide as the tokens an MLP's hidden numbers are. Raises InputError for what is no number above 0."""
    ratio = get(config, "mlp_ratio", notes, {"mlp_ratio": 4}, what)
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1e6:
        raise InputError(f"config.json: mlp_ratio {ratio!r:.40} is no number above 0")
    return ratio


def flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """A true or false of config.json."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise InputError(f"config.json: {key} is {value!r}: it must be true or false")
    return value


def qkv_bias(reading: OpenCheckpoint) -> bool:
    """Whether query, key and value have biases: config.json and tensors must agree."""
    seen = reading.seen.get("qkv_bias")
    said = reading.config.get("qkv_bias", True if seen is None else seen)
    if seen is not None and said != seen:
        raise InputError(f"config.json says qkv_bias {said}, the tensors say {seen}")
    return said


def classes(reading: OpenCheckpoint) -> int:
    """How many classes: from the tensors, or, where there are none, as the class that config.json names has them."""
    if reading.tensors is not None:
        return reading.seen["classes"]
    kinds = architectures(reading)
    if not any("ImageClassification" in kind for kind in kinds):
        return 0
    names = reading.config.get("id2label")
    if names is not None and not isinstance(names, dict):
        raise InputError(f"config.json: id2label {names!r} is no table of names")
    return len(names) if names else reading.config.get("num_labels", 2)  # transformers' default is 2


def architectures(reading: OpenCheckpoint) -> list[str]:
    """The classes that config.json names."""
    kinds = reading.config.get("architectures") or []
    if not isinstance(kinds, list):
        raise InputError(f"config.json: architectures {kinds!r} is no list")
    return [str(kind) for kind in kinds]


def pooler(reading: OpenCheckpoint) -> int:
    """The width of the tanh pooler that ViTModel and DeiTModel have, and their classifiers have not."""
    if reading.tensors is not None:
        width = reading.seen["pooler"]
    elif any("ImageClassification" in kind for kind in architectures(reading)):
        width = 0
    else:
        if not architectures(reading):
            reading.notes.append("config.json names no architecture: traced as the backbone with its pooler")
        if reading.config.get("pooler_output_size") == 0:
            return 0
        width = reading.config.get("pooler_output_size") or reading.config.get("hidden_size", DEFAULTS["hidden_size"])
    if width and reading.config.get("pooler_act", "tanh") != "tanh":
        raise InputError(f"config.json: pooler_act {reading.config['pooler_act']!r} is not supported, only 'tanh'")
    return width


def labels(reading: OpenCheckpoint, config: ViTConfig) -> list[str] | None:
    """id2label of config.json as a list, or None."""
    if not config.classes:
        return None
    names = reading.config.get("id2label")
    if names is None:
        reading.notes.append("config.json has no id2label: classes have no names, only numbers")
        return None
    numbered = {str(n) for n in range(config.classes)}
    if isinstance(names, dict) and len(names) == config.classes and numbered != set(names):  # as BEiT's of ImageNet-22k
        reading.notes.append(
            "config.json: id2label counts with gaps: which class is which is not said, and labels are left out"
        )
        return None
    if not isinstance(names, dict) or numbered != set(names):
        raise InputError(f"config.json: id2label does not name the {config.classes} classes of the classifier one by one")
    return [str(names[str(n)]) for n in range(config.classes)]
