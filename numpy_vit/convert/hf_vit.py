"""Hugging Face ViT (transformers, models/vit/modeling_vit.py): ViTModel and ViTForImageClassification.

Names come in two dialects: as the hub's files have them, and as transformers 5 has them in memory. Both may carry the
prefix "vit.". Linear weights are (out, in) and are transposed; the patch convolution (D, C, P, P) becomes (C*P*P, D).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..config import ViTConfig
from ..errors import InputError, about, nearest
from ..images import RESAMPLES, Preprocess
from ..parameters import parameter_shapes
from ..tensorfile import Tensor
from ..weights import Checkpoint
from .sources import Source

FAMILY = "hf-vit"
Array = Any


class Row(NamedTuple):
    ours: str
    on_disk: str  # the hub's files
    in_memory: str  # transformers 5's state_dict()


# ours, on disk, in memory; {n} is the block. Each stands for a .weight and a .bias, or for one array.
TABLE = (
    Row("embed.class_token", "embeddings.cls_token", "embeddings.cls_token"),
    Row("embed.positions", "embeddings.position_embeddings", "embeddings.position_embeddings"),
    Row("embed.projection", "embeddings.patch_embeddings.projection", "embeddings.patch_embeddings.projection"),
    Row("blocks.{n}.norm1", "encoder.layer.{n}.layernorm_before", "layers.{n}.layernorm_before"),
    Row("blocks.{n}.attention.query", "encoder.layer.{n}.attention.attention.query", "layers.{n}.attention.q_proj"),
    Row("blocks.{n}.attention.key", "encoder.layer.{n}.attention.attention.key", "layers.{n}.attention.k_proj"),
    Row("blocks.{n}.attention.value", "encoder.layer.{n}.attention.attention.value", "layers.{n}.attention.v_proj"),
    Row("blocks.{n}.attention.output", "encoder.layer.{n}.attention.output.dense", "layers.{n}.attention.o_proj"),
    Row("blocks.{n}.norm2", "encoder.layer.{n}.layernorm_after", "layers.{n}.layernorm_after"),
    Row("blocks.{n}.mlp.hidden", "encoder.layer.{n}.intermediate.dense", "layers.{n}.mlp.fc1"),
    Row("blocks.{n}.mlp.output", "encoder.layer.{n}.output.dense", "layers.{n}.mlp.fc2"),
    Row("norm", "layernorm", "layernorm"),
    Row("pooler", "pooler.dense", "pooler.dense"),
    Row("head", "classifier", "classifier"),
)
NOT_USED = {"embeddings.mask_token": "the mask token serves masked-image training only"}

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
# What a key absent from config.json means to transformers (models/vit/configuration_vit.py).
CONFIG_DEFAULTS = {
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
# What a key absent from preprocessor_config.json means (models/vit/image_processing_pil_vit.py, ViTImageProcessor).
PREPROCESSOR_DEFAULTS = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
PROCESSORS = ("ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor")
# Keys that change nothing here: names, options of the call, what is said elsewhere.
PREPROCESSOR_NEUTRAL = {
    "image_processor_type", "feature_extractor_type", "processor_class", "do_center_crop", "crop_size", "do_convert_rgb",
    "default_to_square", "data_format", "input_data_format", "return_tensors", "disable_grouping", "device",
}  # fmt: skip
# Processors that do just these steps in this order; others (ConvNext's crop_pct, say) give the same keys another meaning.
PLAIN_PROCESSORS = re.compile(
    r"(ViT|DeiT|CLIP|Siglip|Bit|Beit|BlipImage|MobileNet|ResNet)\w*(ImageProcessor|FeatureExtractor)\w*"
)
PILLOW_RESAMPLES = {int(value): name for name, value in RESAMPLES.items()}


def recognise(source: Source) -> str | None:
    """Why this is a Hugging Face ViT, in a few words, or None."""
    model_type = (source.config or {}).get("model_type")
    if model_type == "vit":
        return "config.json says model_type 'vit'"
    names = {name.removeprefix("vit.") for name in source.tensors}
    known = {"embeddings.cls_token", "embeddings.patch_embeddings.projection.weight", "layernorm.weight"}
    return "its tensors are named as in transformers' ViTModel" if model_type is None and known <= names else None


def convert(source: Source) -> Checkpoint:
    """The source as a checkpoint of ours. Nothing is copied: the tensors are views of the file's memory map.

    Raises InputError where config.json is missing or contradicts the tensors.
    """
    if source.config is None:
        raise InputError(
            f"{source.name}: no config.json beside the weights: heads, eps and activation cannot be told from tensors; "
            "give one (--config)"
        )
    notes: list[str] = []
    tensors = {name.removeprefix("vit."): tensor for name, tensor in source.tensors.items()}
    if len(tensors) != len(source.tensors):
        raise InputError(f"{source.name}: some tensors are there twice, with and without the prefix 'vit.'")
    with about(source.name):
        config = read_config(source.config, tensors, notes)
        converted = rename(tensors, config, notes)
        labels = read_labels(source.config, config.classes, notes)
        preprocess = read_preprocessor(source.preprocessor, config.channels, notes)
    return Checkpoint(config, converted, preprocess, labels, {"family": FAMILY}, notes)


def rename(tensors: Mapping[str, Tensor], config: ViTConfig, notes: list[str]) -> dict[str, Tensor]:
    """Their tensors under our names and in our shapes."""
    in_memory = any(name.startswith("layers.") for name in tensors)
    left = dict(tensors)
    for name, why in NOT_USED.items():
        if left.pop(name, None) is not None:
            notes.append(f"{name} is left out: {why}")
    converted, known = {}, []
    for ours, shape in parameter_shapes(config).items():
        theirs = their_name(ours, in_memory)
        known.append(theirs)
        if theirs not in left:
            raise InputError(f"tensor '{theirs}' is missing{nearest(theirs, left)}")
        converted[ours] = reshape(theirs, left.pop(theirs), shape)
    if left:
        name = sorted(left)[0]
        raise InputError(f"tensor '{name}' ({len(left)} in all) is not used by the model of config.json{nearest(name, known)}")
    return converted


def their_name(ours: str, in_memory: bool) -> str:
    """Our tensor's name -> theirs."""
    block, stem, end = "", ours, ""
    if ours.startswith("blocks."):
        _, block, rest = ours.split(".", 2)
        stem = "blocks.{n}." + rest
    if stem.endswith((".weight", ".bias")):
        stem, end = stem[: stem.rindex(".")], stem[stem.rindex(".") :]
    row = next(row for row in TABLE if row.ours == stem)
    return (row.in_memory if in_memory else row.on_disk).replace("{n}", block) + end


def reshape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One tensor of theirs in our shape: (1, 1, D) -> (D,), (1, N, D) -> (N, D), (out, in, ...) -> (in, out)."""
    data = tensor.data
    if name.startswith("embeddings.") and data.ndim == 3:
        data, came = data.reshape(data.shape[-len(shape) :]) if data.size == data[0].size else data, data.shape
        wants: tuple[int, ...] = (1,) * (3 - len(shape)) + shape
    elif len(shape) == 2:
        came, data = data.shape, data.reshape(len(data), -1).T if data.ndim >= 2 and data.size else data
        wants = shape[::-1]
    else:
        came, wants = data.shape, shape
    if data.shape != shape:
        raise InputError(f"tensor '{name}' is {came}, config.json says {wants}")
    return Tensor(tensor.dtype, data)


def read_config(config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None, notes: list[str]) -> ViTConfig:
    """config.json -> ViTConfig; what the tensors tell (head, pooler, biases) is taken from them.

    Without tensors (None), the class that config.json names tells: a head of as many classes as it has labels, or a pooler.
    """
    if config.get("model_type", "vit") != "vit":
        raise InputError(f"config.json says model_type {config['model_type']!r}, not 'vit'")

    def get(key: str) -> Any:
        if config.get(key) is not None:
            return config[key]
        notes.append(f"config.json does not say {key}: {CONFIG_DEFAULTS[key]!r}, transformers' default for ViT, is used")
        return CONFIG_DEFAULTS[key]

    activation, patch = get("hidden_act"), get("patch_size")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise InputError(f"config.json: hidden_act {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    if isinstance(patch, list):
        if len(set(map(str, patch))) != 1:
            raise InputError(f"config.json: patch_size {patch}: only square patches are supported")
        patch = patch[0]
    if tensors is None:
        classes, pooler, biased = what_config_says(config, notes)
    else:
        classes, pooler, biased = what_tensors_say(tensors)
    if pooler and config.get("pooler_act", "tanh") != "tanh":
        raise InputError(f"config.json: pooler_act {config['pooler_act']!r} is not supported, only 'tanh'")
    if biased != config.get("qkv_bias", biased):
        raise InputError(f"config.json says qkv_bias {config['qkv_bias']}, the tensors say {biased}")
    ours = ViTConfig(
        image=get("image_size"),
        patch=patch,
        channels=get("num_channels"),
        width=get("hidden_size"),
        depth=get("num_hidden_layers"),
        heads=get("num_attention_heads"),
        mlp=get("intermediate_size"),
        classes=classes,
        pooler=pooler,
        eps=get("layer_norm_eps"),
        activation=ACTIVATIONS[activation],
        pooling="class",
        position_rule="bicubic",
        qkv_bias=biased,
    )
    if config.get("head_dim", ours.head_dim) != ours.head_dim:
        raise InputError(f"config.json: head_dim {config['head_dim']} is not hidden_size / heads: not supported")
    return ours


def what_tensors_say(tensors: Mapping[str, Tensor]) -> tuple[int, int, bool]:
    """(classes, pooler width, whether query, key and value have biases) of a checkpoint."""
    tensors = {name.removeprefix("vit."): tensor for name, tensor in tensors.items()}
    head, pooler = (len(tensors[name].data) if name in tensors else 0 for name in ("classifier.weight", "pooler.dense.weight"))
    return head, pooler, any(name.endswith(("attention.query.bias", "attention.q_proj.bias")) for name in tensors)


def what_config_says(config: Mapping[str, Any], notes: list[str]) -> tuple[int, int, bool]:
    """The same from config.json alone."""
    kinds = config.get("architectures") or []
    if not isinstance(kinds, list):
        raise InputError(f"config.json: architectures {kinds!r} is no list")
    if not kinds:
        notes.append("config.json names no architecture: traced as ViTModel, the backbone with its pooler")
    biased = config.get("qkv_bias", True)
    if any("ImageClassification" in str(kind) for kind in kinds):
        labels = config.get("id2label")
        if labels is not None and not isinstance(labels, dict):
            raise InputError(f"config.json: id2label {labels!r} is no table of names")
        return (len(labels) if labels else config.get("num_labels", 2)), 0, biased  # transformers' default is 2
    width = config.get("hidden_size", CONFIG_DEFAULTS["hidden_size"])
    return 0, config.get("pooler_output_size") or width, biased


def read_labels(config: Mapping[str, Any], classes: int, notes: list[str]) -> list[str] | None:
    """id2label of config.json as a list, or None."""
    if not classes:
        return None
    names = config.get("id2label")
    if names is None:
        notes.append("config.json has no id2label: classes have no names, only numbers")
        return None
    if not isinstance(names, dict) or {str(n) for n in range(classes)} != set(names):
        raise InputError(f"config.json: id2label does not name the {classes} classes of classifier.weight one by one")
    return [str(names[str(n)]) for n in range(classes)]


def read_preprocessor(values: Mapping[str, Any] | None, channels: int, notes: list[str]) -> Preprocess | None:
    """preprocessor_config.json -> Preprocess, or None where it does not say enough."""
    if values is None:
        notes.append("no preprocessor_config.json: the model does not say how pictures are prepared")
        return None
    kind = values.get("image_processor_type") or values.get("feature_extractor_type")
    ours = kind in PROCESSORS
    if kind is not None and not PLAIN_PROCESSORS.fullmatch(str(kind)):
        raise InputError(f"preprocessor_config.json: {kind!r} prepares pictures in a way of its own, which is not supported")
    for key, value in values.items():
        known = key in PREPROCESSOR_DEFAULTS or key in PREPROCESSOR_NEUTRAL or key.startswith("_")
        if not known and value is not None and value is not False:
            raise InputError(f"preprocessor_config.json: {key} {value!r} is not supported")

    def get(key: str) -> Any:
        if values.get(key) is not None:
            return values[key]
        if not ours:
            raise InputError(f"preprocessor_config.json does not say {key}, and of type {kind!r} no default is known")
        default = PREPROCESSOR_DEFAULTS[key]
        if key not in ("do_rescale", "rescale_factor"):  # older files never had them; there is nothing to doubt
            notes.append(f"preprocessor_config.json does not say {key}: {default!r}, transformers' default, is used")
        return default

    resize: str = "none"
    size: Any = None
    resample = PILLOW_RESAMPLES[2]
    if get("do_resize"):
        resize, size = read_size(get("size"))
        number = get("resample")
        if not isinstance(number, int) or number not in PILLOW_RESAMPLES:
            raise InputError(f"preprocessor_config.json: resample {number!r} is not a Pillow filter")
        resample = PILLOW_RESAMPLES[number]
    crop = values.get("crop_size") if values.get("do_center_crop") else None
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    if values.get("do_center_crop") and not (isinstance(crop, dict) and {"height", "width"} <= set(crop)):
        raise InputError(f"preprocessor_config.json: crop_size {crop!r} has no height and width")
    normalize = get("do_normalize")
    return Preprocess(
        channels=channels,
        resize=resize,
        size=size,
        resample=resample,
        crop=(crop["height"], crop["width"]) if crop else None,
        scale=get("rescale_factor") if get("do_rescale") else None,
        mean=per_channel(get("image_mean"), channels) if normalize else None,
        std=per_channel(get("image_std"), channels) if normalize else None,
    )


def read_size(size: Any) -> tuple[str, Any]:
    """transformers' `size` in all its spellings -> (policy, size)."""
    if isinstance(size, int):
        return "squash", (size, size)
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return "squash", (size["height"], size["width"])
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return "shortest_edge", size["shortest_edge"]
    raise InputError(f"preprocessor_config.json: size {size!r} is not supported (height and width, or shortest_edge)")


def per_channel(values: Any, channels: int) -> Any:
    """One number for all channels, as transformers allows, spread; anything else as it is."""
    if isinstance(values, int | float):
        return (values,) * channels
    return tuple(values) if isinstance(values, list) else values
