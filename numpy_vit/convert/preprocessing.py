"""How a foreign model wants its pictures, as a numpy_vit.pictures.images.Preprocess.

There are four sources: transformers' preprocessor_config.json (`read_preprocessor`), timm's pretrained_cfg (`from_timm`),
open_clip's preprocess_cfg (`from_open_clip`); and, of files that say nothing, the code they were published with (`policy`).
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import InputError, about, nearest
from ..pictures.images import RESAMPLES, Preprocess
from ..pictures.sizing import Sizing
from .processors import (
    ANY_SIZE,
    CLIP,
    FILE,
    HALF,
    IMAGENET,
    NEUTRAL_OF_ANY_SIZE,
    PROCESSOR_OF,
    PROCESSORS,
    SAME_CLASS,
    TOLD_BY,
    Statistics,
)

SATELLITE = Statistics((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))

# transformers: preprocessor_config.json

# Processors that do just these steps in this order; others (ConvNext's crop_pct, say) give the same keys another meaning.
PLAIN_PROCESSORS = re.compile(r"((ViT|DeiT|CLIP|Blip|Siglip|Bit|Beit|DINOv3ViT|MobileNet|ResNet)\w*?)")
SUFFIX = re.compile(r"(\w*?)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")
# Keys that change nothing here: names, options of the call, what concerns segmentation maps alone.
NEUTRAL_KEYS = {
    "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb", "data_format", "input_data_format",
    "return_tensors", "disable_grouping", "device", "do_reduce_labels", "reduce_labels", "image_seq_length",
}  # fmt: skip
# Absent from older files, which had no choice; and a crop is named where there is one. Nothing to doubt.
SILENT_KEYS = ("do_rescale", "rescale_factor", "default_to_square", "do_center_crop", "do_pan_and_scan", "do_pad")
PILLOW_RESAMPLES = {int(value): name for name, value in RESAMPLES.items()}


def read_preprocessor(
    values: Mapping[str, Any] | None, channels: int, notes: list[str], model_type: Any = None
) -> Preprocess | None:
    """preprocessor_config.json -> Preprocess, or None (and a note) where there is none.

    `model_type`, of config.json, tells the class where the file does not, as in transformers (image_processing_auto.py). A
    processor_config.json, of transformers 5, has all this under "image_processor".
    What the file leaves to the defaults of its class goes into `notes`. Raises InputError for what is unknown or senseless.
    """
    if values is None:
        notes.append(f"no {FILE}: the model does not say how pictures are prepared")
        return None
    outer: Mapping[str, Any] = values
    values = image_processor(values)
    kind = values.get("image_processor_type") or values.get("feature_extractor_type")
    known = processor_named(kind)
    if not known and isinstance(model_type, str) and model_type in PROCESSOR_OF:
        known = PROCESSOR_OF[model_type]
        notes.append(f"{FILE} does not say its type: {known}ImageProcessor, as transformers has it for {model_type}")
    refuse_unknown_keys(values, known)
    if known in ANY_SIZE:
        values = as_told(values, outer, known, model_type, notes)
    default = PROCESSORS.get(known)

    def get(key: str) -> Any:
        if values.get(key) is not None:
            return values[key]
        if default is None and key in ("do_center_crop", "default_to_square"):
            return None
        if default is None:
            raise InputError(f"{FILE} does not say {key}, and of type {kind!r} no default is known")
        if default.get(key) is not None and (key not in SILENT_KEYS or (key == "do_center_crop" and default[key])):
            note = f"{FILE} does not say {key}: {default[key]!r}, transformers' default, is used"
            notes.extend([note] if note not in notes else [])
        return default.get(key)

    sizing = read_sizing(known, get) if known in ANY_SIZE else None
    resize, size = ("none", None)
    if sizing is None and get("do_resize"):
        resize, size = read_size(get("size"), get("default_to_square"))
    crop = read_crop(get("crop_size")) if get("do_center_crop") else None
    if known == "DINOv3ViT" and crop is not None:
        raise InputError(f"{FILE}: do_center_crop is not supported for {kind!r}: its crop is torchvision's on tensors")
    if known in ANY_SIZE and crop is not None:
        raise InputError(f"{FILE}: do_center_crop is not supported for {kind!r}")
    resample = get("resample") if resize != "none" or sizing is not None else 2
    if not isinstance(resample, int) or resample not in PILLOW_RESAMPLES:
        raise InputError(f"{FILE}: resample {resample!r} is not a Pillow filter")
    normalize = get("do_normalize")
    with about(FILE):
        return Preprocess(
            channels=channels,
            resize=resize,
            size=size,
            resample=PILLOW_RESAMPLES[resample],
            crop=crop,
            scale=get("rescale_factor") if get("do_rescale") else None,
            mean=per_channel(get("image_mean"), channels) if normalize else None,
            std=per_channel(get("image_std"), channels) if normalize else None,
            arithmetic="torch" if known == "DINOv3ViT" else "pillow",
            sizing=sizing,
        )


def image_processor(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a file says of the image processor: all of it, or, of a processor_config.json, a part."""
    inner = values.get("image_processor")
    return inner if isinstance(inner, dict) else values


def read_sizing(known: str, get: Callable[[str], Any]) -> Sizing | None:
    """The rule of a class of any size, with the file's numbers; None where the file asks for one size, or for no resizing."""
    resizes = ANY_SIZE[known].resizes
    if resizes != "always" and not get("do_resize"):
        if resizes == "must":
            raise InputError(f"{FILE}: do_resize false is not supported for {known}ImageProcessor")
        return None
    with about(FILE):
        return ANY_SIZE[known].sizing(get)


def as_told(
    values: Mapping[str, Any], outer: Mapping[str, Any], known: str, model_type: Any, notes: list[str]
) -> Mapping[str, Any]:
    """The file's values, and in their place what the model's text-and-picture processor tells the image processor.

    `outer` is processor_config.json, where there is one.
    """
    name = outer.get("processor_class") or values.get("processor_class")
    if name is None and isinstance(model_type, str) and model_type.startswith("internvl"):
        name = "InternVLProcessor"
    told: dict[str, Any] = {}
    if known == "GotOcr2" and isinstance(name, str):
        told |= TOLD_BY.get(name, {})
    if known == "Pixtral" and outer is not values and ("patch_size" in outer or "spatial_merge_size" in outer):
        patch = outer.get("patch_size", 16), outer.get("spatial_merge_size", 1)  # PixtralProcessor's defaults
        if not all(type(n) is int and n > 0 for n in patch):
            raise InputError(f"processor_config.json: patch_size and spatial_merge_size are {patch}, not whole numbers")
        told["patch_size"] = patch[0] * patch[1]
    for key, value in told.items():
        if values.get(key) not in (None, value):
            notes.append(f"{FILE} says {key} {values[key]!r}, but {name or 'the processor'} makes it {value!r}")
    if known == "Llama4":
        notes.append("transformers rounds Llama 4's normalised pixels to bfloat16; here they are not rounded")
    if known == "Gemma3" and values.get("do_pan_and_scan") and name == "Gemma3Processor":
        notes.append(f"{FILE} says do_pan_and_scan: done, though Gemma3Processor asks its image processor for none by itself")
    return {**values, **told}


def processor_named(kind: Any) -> str:
    """ "CLIPImageProcessorFast" -> "CLIP"; "" for no name. Raises InputError for one that does other steps than these."""
    if kind is None:
        return ""
    match = SUFFIX.fullmatch(str(kind))
    name = SAME_CLASS.get(match[1], match[1]) if match else ""
    if name not in ANY_SIZE and not PLAIN_PROCESSORS.fullmatch(name):
        raise InputError(f"{FILE}: {kind!r} prepares pictures in a way of its own, which is not supported")
    return name


def refuse_unknown_keys(values: Mapping[str, Any], processor: str = "") -> None:
    """Raise InputError for a key that asks for something (is not null, nor false) and that we do not know."""
    known = {*PROCESSORS["ViT"], *NEUTRAL_KEYS}
    if processor in ANY_SIZE:
        known |= {*PROCESSORS[processor], *NEUTRAL_OF_ANY_SIZE}
        if processor in ("Glm4v", "Glm46V"):
            known -= {"min_pixels", "max_pixels"}  # which say nothing to transformers' class
    for key, value in values.items():
        if key not in known and not key.startswith("_") and value is not None and value is not False:
            raise InputError(f"{FILE}: {key} {value!r} is not supported{nearest(key, known)}")


def read_size(size: Any, square: bool | None = True) -> tuple[str, Any]:
    """transformers' `size` in all its spellings -> (resize, size). `square` is default_to_square, None if not known."""
    if isinstance(size, int) and square is None:
        raise InputError(f"{FILE}: size {size!r}: a square or the shorter edge? Give height and width, or shortest_edge")
    if isinstance(size, int):
        return ("squash", (size, size)) if square else ("shortest_edge", size)
    if isinstance(size, list) and len(size) == 2:
        return "squash", (size[0], size[1])
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return "squash", (size["height"], size["width"])
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return "shortest_edge", size["shortest_edge"]
    raise InputError(f"{FILE}: size {size!r} is not supported (height and width, or shortest_edge)")


def read_crop(size: Any) -> tuple[int, int]:
    """transformers' `crop_size` -> (Y, X); a bare number is always a square."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return size["height"], size["width"]
    raise InputError(f"{FILE}: crop_size {size!r} has no height and width")


def per_channel(values: Any, channels: int) -> Any:
    """One number for all channels, as transformers allows, spread; anything else as it is."""
    if isinstance(values, int | float):
        return (values,) * channels
    return tuple(values) if isinstance(values, list) else values


# timm: pretrained_cfg, in config.json


def from_timm(pretrained_cfg: Mapping[str, Any], channels: int, notes: list[str]) -> Preprocess:
    """timm's pretrained_cfg -> Preprocess: timm/data/transforms_factory.py, transforms_imagenet_eval, on PIL images.

    What timm would take from its own defaults (timm/data/config.py, resolve_data_config) goes into `notes`. Raises
    InputError for what is senseless, and for crop_mode "border", which no ViT of timm's is published with.
    """
    file = "config.json: pretrained_cfg"

    def get(key: str, default: Any) -> Any:
        if pretrained_cfg.get(key):  # an empty or zero value is none, to timm
            return pretrained_cfg[key]
        if key != "crop_mode":  # older files never had it
            notes.append(f"{file} does not say {key}: {default!r}, timm's default, is used")
        return default

    size = get("input_size", [channels, 224, 224])
    if not isinstance(size, list | tuple) or len(size) != 3 or not all(type(n) is int and n > 0 for n in size):
        raise InputError(f"{file}: input_size {size!r} is not (channels, height, width)")
    part, mode, resample = get("crop_pct", 0.875), get("crop_mode", "center"), get("interpolation", "bicubic")
    if not isinstance(part, int | float) or isinstance(part, bool) or not 0 < part < math.inf:
        raise InputError(f"{file}: crop_pct {part!r} is not a number above 0")
    if mode not in ("center", "squash"):
        raise InputError(f"{file}: crop_mode {mode!r} is not supported, only 'center' and 'squash'")
    tested = [f"{key} {pretrained_cfg[key]}" for key in ("test_input_size", "test_crop_pct") if pretrained_cfg.get(key)]
    if tested:
        notes.append(f"{file} also says {', '.join(tested)}: not used")
    image = (size[1], size[2])
    scaled = (math.floor(image[0] / part), math.floor(image[1] / part))
    resize, target = ("squash", scaled) if mode == "squash" else in_proportion(scaled)
    with about(file):
        return Preprocess(
            channels=channels,
            resize=resize,
            size=target,
            resample=resample,
            crop=None if resize == "squash" and scaled == image else image,
            scale=1 / 255,
            mean=per_channel(get("mean", list(IMAGENET.mean)), channels),
            std=per_channel(get("std", list(IMAGENET.std)), channels),
            crop_rounding="even",
        )


def in_proportion(size: tuple[int, int]) -> tuple[str, Any]:
    """(resize, size) that keeps the proportions: a square is the shorter edge's, as timm and open_clip have it."""
    return ("shortest_edge", size[0]) if size[0] == size[1] else ("cover", size)


# open_clip: preprocess_cfg, in open_clip_config.json


def from_open_clip(preprocess_cfg: Mapping[str, Any], image: tuple[int, int], channels: int, notes: list[str]) -> Preprocess:
    """open_clip's preprocess_cfg -> Preprocess: open_clip/transform.py, image_transform_v2, on PIL images.

    `image` (Y, X) is the model's, which open_clip puts before the file's `size`. Keys that open_clip does not know it passes
    over: they go into `notes`. Raises InputError for what is senseless, and for resize_mode "longest", which pads.
    """
    file = "open_clip_config.json: preprocess_cfg"
    ignored = sorted(set(preprocess_cfg) - {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"})
    if ignored:
        notes.append(f"{file}: {', '.join(ignored)} not known to open_clip, not used")
    if preprocess_cfg.get("mode", "RGB") != "RGB":
        raise InputError(f"{file}: mode {preprocess_cfg['mode']!r} is not supported, only 'RGB'")
    mode, asked = preprocess_cfg.get("resize_mode") or "shortest", preprocess_cfg.get("interpolation") or "bicubic"
    if mode not in ("shortest", "squash"):
        raise InputError(f"{file}: resize_mode {mode!r} is not supported, only 'shortest' and 'squash'")
    if asked not in ("bicubic", "bilinear", "random"):
        raise InputError(f"{file}: interpolation {asked!r} is not one of bicubic, bilinear, random")
    resize, size = ("squash", image) if mode == "squash" else in_proportion(image)
    resample = "bilinear" if asked == "bilinear" else "bicubic"  # "random" is for training
    if resize == "cover" and resample == "bilinear":
        notes.append(f"{file} says bilinear, but open_clip resizes to an oblong image bicubic, whatever it says")
        resample = "bicubic"
    with about(file):
        return Preprocess(
            channels=channels,
            resize=resize,
            size=size,
            resample=resample,
            crop=None if mode == "squash" else image,
            scale=1 / 255,
            mean=per_channel(preprocess_cfg.get("mean") or list(CLIP.mean), channels),
            std=per_channel(preprocess_cfg.get("std") or list(CLIP.std), channels),
            crop_rounding="even",
        )


# The code that models were published with


class Policy(NamedTuple):
    resize: str  # "squash", or "crop": in proportion, and the middle
    resample: str
    statistics: Statistics
    larger: tuple[int, int] = (1, 1)  # resized larger than cropped, as 256 to 224, say; what is over is rounded down
    below: float = math.inf  # only images smaller than this; others are resized to their own size
    arithmetic: str = "pillow"


POLICIES = {
    # facebookresearch/deit, datasets.py, build_transform, with main.py's --eval-crop-ratio 0.875
    "deit": Policy("crop", "bicubic", IMAGENET, (256, 224)),
    # the same with --eval-crop-ratio 1.0, as README_revenge.md calls it
    "deit3": Policy("crop", "bicubic", IMAGENET),
    # facebookresearch/mae, util/datasets.py, build_transform
    "mae": Policy("crop", "bicubic", IMAGENET, (256, 224), below=225),
    # facebookresearch/dino, eval_linear.py, val_transform
    "dino": Policy("crop", "bicubic", IMAGENET, (256, 224)),
    # facebookresearch/dinov2, dinov2/data/transforms.py, make_classification_eval_transform
    "dinov2": Policy("crop", "bicubic", IMAGENET, (256, 224)),
    # transformers, models/dinov3_vit/image_processing_dinov3_vit.py. The README of facebookresearch/dinov3 does the same on
    # 8-bit tensors; its evaluations (dinov3/data/transforms.py) have DINOv2's steps.
    "dinov3": Policy("squash", "bilinear", IMAGENET, arithmetic="torch"),
    # the same; the statistics are in facebookresearch/dinov3, README.md, for weights trained on SAT-493M
    "dinov3_satellite": Policy("squash", "bilinear", SATELLITE, arithmetic="torch"),
    # pytorch/vision, torchvision/models/vision_transformer.py, IMAGENET1K_V1 of all but ViT-L/16
    "torchvision": Policy("crop", "bilinear", IMAGENET, (256, 224)),
    # the same, ViT_L_16_Weights.IMAGENET1K_V1
    "torchvision_l_16": Policy("crop", "bilinear", IMAGENET, (242, 224)),
    # the same, IMAGENET1K_SWAG_E2E_V1 and IMAGENET1K_SWAG_LINEAR_V1
    "torchvision_swag": Policy("crop", "bicubic", IMAGENET),
    # openai/CLIP, clip/clip.py, _transform; open_clip's default is the same
    "clip": Policy("crop", "bicubic", CLIP),
    # google-research/vision_transformer, vit_jax/input_pipeline.py, get_data
    "augreg": Policy("squash", "bilinear", HALF, arithmetic="tensorflow"),
    # google-research/big_vision, pp/ops_image.py, resize, and pp/ops_general.py, value_range(-1, 1)
    "big_vision": Policy("squash", "bilinear", HALF, arithmetic="tensorflow_uint8"),
    # mlfoundations/open_clip, src/open_clip/pretrained.py, _slpcfg; transformers, models/siglip (big_vision has its own)
    "siglip": Policy("squash", "bicubic", HALF),
    # microsoft/unilm, beit/datasets.py, build_transform
    "beit": Policy("crop", "bicubic", HALF, (256, 224), below=384),
    # the same in beit2, with --imagenet_default_mean_and_std, as get_started_for_image_classification.md calls it
    "beit2": Policy("crop", "bicubic", IMAGENET, (256, 224), below=384),
    # baaivision/EVA, EVA-02/asuka/datasets.py, build_transform, with --crop_pct 1.0, as README.md calls it
    "eva02": Policy("crop", "bicubic", CLIP),
}


def policy(name: str, image: tuple[int, int], channels: int) -> Preprocess:
    """The preprocessing that the models of POLICIES[name] were published with, for images of (Y, X) pixels.

    Upstream's images are square; for oblong ones the picture is resized to cover them, as timm and open_clip do. One channel
    only goes with one mean for all channels. Raises InputError for an unknown name and for statistics that do not fit.
    """
    if name not in POLICIES:
        raise InputError(f"'{name}' is no known preprocessing{nearest(name, POLICIES)} (known: {', '.join(POLICIES)})")
    found = POLICIES[name]
    crops = found.resize == "crop"
    more, less = found.larger if max(image) < found.below else (1, 1)
    resize, size = in_proportion((image[0] * more // less, image[1] * more // less)) if crops else ("squash", image)
    with about(f"preprocessing '{name}'"):
        return Preprocess(
            channels=channels,
            resize=resize,
            size=size,
            resample=found.resample,
            crop=image if crops else None,
            scale=1 / 255,
            mean=for_channels(found.statistics.mean, channels),
            std=for_channels(found.statistics.std, channels),
            arithmetic=found.arithmetic,
            crop_rounding="even" if crops else "down",
        )


def for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """The three channels' numbers; where all are the same, for as many channels as wanted."""
    return (values[0],) * channels if len(set(values)) == 1 else values
