"""transformers' image processors: what a class says where a file is silent, and the rule of those that take any size.

The names are those before "ImageProcessor", "ImageProcessorFast", "ImageProcessorPil" or, in old files, "FeatureExtractor".
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import InputError
from ..fields import whole_number
from ..pictures.sizing import Sizing

FILE = "preprocessor_config.json"


class Statistics(NamedTuple):
    mean: tuple[float, ...]
    std: tuple[float, ...]


HALF = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SQUARE = {"height": 224, "width": 224}


def processor(size: dict[str, int] | None, resample: int, statistics: Statistics, **others: Any) -> dict[str, Any]:
    """What one of transformers' classes says, and what all of them say (image_processing_utils.py, BaseImageProcessor)."""
    return {
        "do_resize": True,
        "size": size,
        "default_to_square": True,  # what a bare number as size means: True a square, False the shorter edge
        "resample": resample,
        "do_center_crop": False,
        "crop_size": None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(statistics.mean),
        "image_std": list(statistics.std),
        **others,
    }


def pixels(least: int, most: int) -> dict[str, int]:
    """A `size` that holds numbers of pixels, under the names of edges."""
    return {"shortest_edge": least, "longest_edge": most}


QWEN = dict(default_to_square=False, patch_size=14, merge_size=2)
IDEFICS_3 = processor(
    {"longest_edge": 4 * 364}, 1, HALF, max_image_size={"longest_edge": 364}, do_image_splitting=True, do_pad=True
)
GLM = processor(pixels(112**2, 28**2 * 15000), 3, CLIP, temporal_patch_size=2, **QWEN)

# What a key that is absent, or null, means: transformers 5.24, models/*/image_processing_*.py.
PROCESSORS = {
    "ViT": processor(SQUARE, 2, HALF),  # also of MAE and DINO
    "DeiT": processor({"height": 256, "width": 256}, 3, HALF, do_center_crop=True, crop_size=SQUARE),
    "CLIP": processor({"shortest_edge": 224}, 3, CLIP, do_center_crop=True, crop_size=SQUARE, default_to_square=False),
    "Siglip": processor(SQUARE, 3, HALF, default_to_square=False),
    "Blip": processor({"height": 384, "width": 384}, 3, CLIP),
    # DINOv2's; its files say 256 and ImageNet's statistics
    "Bit": processor({"shortest_edge": 224}, 3, CLIP, do_center_crop=True, crop_size=SQUARE, default_to_square=False),
    # in transformers 4, before the "Fast" class: size 256 and a crop
    "Beit": processor(SQUARE, 3, HALF, crop_size=SQUARE),
    "DINOv3ViT": processor(SQUARE, 2, IMAGENET),
    # below, those of any size
    "Qwen2VL": processor(pixels(56**2, 28**2 * 1280), 3, CLIP, temporal_patch_size=2, **QWEN),
    "VideoLlama3": processor(
        pixels(56**2, 28**2 * 1280), 3, HALF, temporal_patch_size=1, **QWEN | {"merge_size": 1}
    ),
    "PaddleOCRVL": processor(pixels(384**2, 1536**2), 3, CLIP, temporal_patch_size=1, **QWEN),
    "Glm4v": GLM,
    "Glm46V": GLM,
    "Pixtral": processor({"longest_edge": 1024}, 3, CLIP, patch_size={"height": 16, "width": 16}, do_pad=True),
    "Siglip2": processor(None, 2, HALF, patch_size=16, max_num_patches=256),
    "Gemma4": processor(
        None, 3, Statistics((0.0,) * 3, (1.0,) * 3), do_normalize=False,
        patch_size=16, max_soft_tokens=280, pooling_kernel_size=3,
    ),
    "Kimi_K25": processor({"max_height": 512, "max_width": 512}, 3, HALF, max_patches=16384, patch_size=14, merge_size=2),
    "Idefics2": processor(
        {"shortest_edge": 378, "longest_edge": 980}, 2, HALF, default_to_square=False, do_image_splitting=False, do_pad=True
    ),
    "Idefics3": IDEFICS_3,
    "SmolVLM": IDEFICS_3,
    "Lfm2Vl": processor(
        {"height": 512, "width": 512}, 2, HALF, downsample_factor=2, do_image_splitting=True, min_tiles=2, max_tiles=10,
        use_thumbnail=True, min_image_tokens=64, max_image_tokens=256, encoder_patch_size=16, tile_size=512,
        max_pixels_tolerance=2.0, do_pad=True, patch_size=None, max_num_patches=None,
    ),
    "GotOcr2": processor(
        {"height": 384, "width": 384}, 3, CLIP, crop_to_patches=False, min_patches=1, max_patches=12
    ),
    "Llama4": processor({"height": 336, "width": 336}, 2, HALF, max_patches=16, resize_to_max_canvas=False),
    "Mllama": processor(SQUARE, 2, HALF, max_image_tiles=4, do_pad=True),
    "Gemma3": processor(  # of pan_and_scan_*, its own class says nothing, but Gemma3Processor does
        SQUARE, 2, HALF, do_pan_and_scan=False,
        pan_and_scan_min_crop_size=256, pan_and_scan_max_num_crops=4, pan_and_scan_min_ratio_to_activate=1.2,
    ),
}  # fmt: skip
# The class of a file that does not say it, by the model's type (transformers, image_processing_auto.py).
PROCESSOR_OF = {
    "vit": "ViT", "vit_mae": "ViT", "deit": "DeiT", "clip": "CLIP", "clip_vision_model": "CLIP", "siglip": "Siglip",
    "siglip_vision_model": "Siglip", "dinov2": "Bit", "dinov2_with_registers": "Bit", "beit": "Beit", "dinov3_vit": "DINOv3ViT",
    "qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2VL", "qwen3_vl": "Qwen2VL", "qwen3_vl_moe": "Qwen2VL", "qwen3_5": "Qwen2VL",
    "qwen3_5_moe": "Qwen2VL", "video_llama_3": "VideoLlama3", "paddleocr_vl": "PaddleOCRVL", "glm4v": "Glm4v",
    "glm4v_moe": "Glm4v", "glm46v": "Glm46V", "glm_ocr": "Glm46V", "pixtral": "Pixtral", "mistral3": "Pixtral",
    "siglip2": "Siglip2", "siglip2_vision_model": "Siglip2", "gemma4": "Gemma4", "kimi_k25": "Kimi_K25",
    "idefics2": "Idefics2", "idefics3": "Idefics3", "smolvlm": "SmolVLM", "lfm2_vl": "Lfm2Vl", "internvl": "GotOcr2",
    "llama4": "Llama4", "mllama": "Mllama", "gemma3": "Gemma3", "paligemma": "Siglip",
}  # fmt: skip
# Older names of the same class.
SAME_CLASS = {"Qwen2_5_VL": "Qwen2VL", "InternVL": "GotOcr2"}

Get = Callable[[str], Any]


def count(get: Get, key: str) -> int:
    """A whole number of the file, or the class. Raises InputError for anything else."""
    whole_number(key, get(key), 1, 2**40)
    return int(get(key))


def flag(get: Get, key: str) -> bool:
    if not isinstance(get(key), bool):
        raise InputError(f"{key} is {get(key)!r}: it must be true or false")
    return bool(get(key))


def entries(get: Get, key: str, *names: str) -> list[int]:
    """What an object such as `size` holds under these names: whole numbers. Raises InputError for other names."""
    value = get(key)
    if not isinstance(value, Mapping) or {name for name in value if value[name] is not None} != set(names):
        raise InputError(f"{key} {value!r} is not supported for this type: it must have {' and '.join(names)}")
    return [count(value.__getitem__, name) for name in names]


def side(get: Get, key: str = "size") -> int:
    """The side of a square, from a number or from height and width."""
    if isinstance(get(key), int):
        return count(get, key)
    height, width = entries(get, key, "height", "width")
    if height != width:
        raise InputError(f"{key} {get(key)!r} is not supported for this type: only squares")
    return height


def pixel_counts(get: Get) -> dict[str, int]:
    """min_pixels and max_pixels, or what `size` says of pixels under the names of edges.

    They come first, as in Qwen2VLImageProcessor.__init__; older files say both twice, in `size` too.
    """
    least, most = get("min_pixels"), get("max_pixels")
    if least is None or most is None:
        names = ("shortest_edge", "longest_edge")
        size = dict(zip(names, entries(get, "size", *names), strict=True))
        least, most = (size[name] if value is None else value for name, value in zip(names, (least, most), strict=True))
    return {"min_pixels": least, "max_pixels": most}


def pixel_range(get: Get) -> Sizing:
    multiple = count(get, "patch_size") * count(get, "merge_size")
    return Sizing(rule="pixel_range", numbers={"multiple": multiple, **pixel_counts(get)})


def pixel_range_enlarged(get: Get) -> Sizing:
    return Sizing(rule="pixel_range_enlarged", numbers=pixel_range(get).numbers)


def pixel_range_of_frames(get: Get) -> Sizing:
    least, most = entries(get, "size", "shortest_edge", "longest_edge")
    numbers = {"multiple": count(get, "patch_size") * count(get, "merge_size"), "min_pixels": least, "max_pixels": most}
    return Sizing(rule="pixel_range_of_frames", numbers={**numbers, "frames": count(get, "temporal_patch_size")})


def longest_edge(get: Get) -> Sizing:
    size = get("size")
    longest = side(get) if isinstance(size, Mapping) and "height" in size else entries(get, "size", "longest_edge")[0]
    return Sizing(rule="longest_edge", numbers={"multiple": side(get, "patch_size"), "longest": longest})


def patch_budget(get: Get) -> Sizing:
    return Sizing(
        rule="patch_budget", numbers={"patch": count(get, "patch_size"), "max_patches": count(get, "max_num_patches")}
    )


def token_budget(get: Get) -> Sizing:
    tokens = count(get, "max_soft_tokens")
    if tokens not in (70, 140, 280, 560, 1120):
        raise InputError(f"max_soft_tokens is {tokens}: this type takes only 70, 140, 280, 560 and 1120")
    numbers = {"patch": count(get, "patch_size"), "merge": count(get, "pooling_kernel_size"), "max_tokens": tokens}
    return Sizing(rule="token_budget", numbers=numbers)


def padded_patch_budget(get: Get) -> Sizing:
    rows, columns = entries(get, "size", "max_height", "max_width")
    if rows != columns:
        raise InputError(f"size {get('size')!r}: max_height and max_width must be the same for this type")
    numbers = {"patch": count(get, "patch_size"), "merge": count(get, "merge_size"), "max_patches": count(get, "max_patches")}
    return Sizing(rule="padded_patch_budget", numbers={**numbers, "max_side": rows})


def edges(get: Get) -> Sizing:
    shortest, longest = entries(get, "size", "shortest_edge", "longest_edge")
    numbers = {"shortest": shortest, "longest": longest, "quarters": flag(get, "do_image_splitting")}
    return Sizing(rule="edges", numbers=numbers)


def tiles_of_longest_edge(get: Get) -> Sizing:
    (longest,), (tile,) = entries(get, "size", "longest_edge"), entries(get, "max_image_size", "longest_edge")
    numbers = {"longest": longest, "tile": tile, "split": flag(get, "do_image_splitting")}
    return Sizing(rule="tiles_of_longest_edge", numbers=numbers)


def pixel_range_or_tiles(get: Get) -> Sizing:
    numbers = {
        "patch": count(get, "encoder_patch_size"),
        "merge": count(get, "downsample_factor"),
        "min_tokens": count(get, "min_image_tokens"),
        "max_tokens": count(get, "max_image_tokens"),
        "tolerance": get("max_pixels_tolerance"),
        "tile": count(get, "tile_size"),
        "min_tiles": count(get, "min_tiles"),
        "max_tiles": count(get, "max_tiles"),
        "split": flag(get, "do_image_splitting"),
        "thumbnail": flag(get, "use_thumbnail"),
    }
    if numbers["split"] and numbers["min_tiles"] > numbers["max_tiles"]:
        raise InputError(f"min_tiles {numbers['min_tiles']} is above max_tiles {numbers['max_tiles']}")
    return Sizing(rule="pixel_range_or_tiles", numbers=numbers)


def tiles(get: Get) -> Sizing | None:
    if not flag(get, "crop_to_patches"):
        return None
    numbers = {"tile": side(get), "min_tiles": count(get, "min_patches"), "max_tiles": count(get, "max_patches")}
    return Sizing(rule="tiles", numbers=numbers)


def canvas(get: Get) -> Sizing:
    if not flag(get, "do_pad"):
        raise InputError("do_pad false is not supported for this type, nor by transformers")
    return Sizing(rule="canvas", numbers={"tile": side(get), "max_tiles": count(get, "max_image_tiles")})


def canvas_and_thumbnail(get: Get) -> Sizing:
    numbers = {"tile": side(get), "max_tiles": count(get, "max_patches"), "largest": flag(get, "resize_to_max_canvas")}
    return Sizing(rule="canvas_and_thumbnail", numbers=numbers)


def pan_and_scan(get: Get) -> Sizing | None:
    if not flag(get, "do_pan_and_scan"):
        return None
    numbers = {
        "size": side(get),
        "min_crop": count(get, "pan_and_scan_min_crop_size"),
        "max_crops": count(get, "pan_and_scan_max_num_crops"),
        "min_ratio": get("pan_and_scan_min_ratio_to_activate"),
    }
    return Sizing(rule="pan_and_scan", numbers=numbers)


class AnySize(NamedTuple):
    """A class that does not make all pictures of one size."""

    sizing: Callable[[Get], Sizing | None]  # None where the file asks for a plain square
    resizes: str = "may"  # what do_resize false does: "may" (no resizing then), "must" (refused), "always" (nothing)


# Whose pictures are of any size, or in tiles
ANY_SIZE = {
    "Qwen2VL": AnySize(pixel_range),
    "VideoLlama3": AnySize(pixel_range),
    "PaddleOCRVL": AnySize(pixel_range_enlarged),
    "Glm4v": AnySize(pixel_range_of_frames),
    "Glm46V": AnySize(pixel_range_of_frames),
    "Pixtral": AnySize(longest_edge),
    "Siglip2": AnySize(patch_budget),
    "Gemma4": AnySize(token_budget),
    "Kimi_K25": AnySize(padded_patch_budget),
    "Idefics2": AnySize(edges, "must"),
    "Idefics3": AnySize(tiles_of_longest_edge, "must"),
    "SmolVLM": AnySize(tiles_of_longest_edge, "must"),
    "Lfm2Vl": AnySize(pixel_range_or_tiles, "always"),  # its files say false
    "GotOcr2": AnySize(tiles, "must"),
    "Llama4": AnySize(canvas_and_thumbnail, "must"),
    "Mllama": AnySize(canvas, "must"),
    "Gemma3": AnySize(pan_and_scan, "must"),
}
# What a text-and-picture processor tells its image processor, whatever the file says (models/*/processing_*.py, images_kwargs)
TOLD_BY: dict[str, dict[str, Any]] = {
    "InternVLProcessor": {"crop_to_patches": True},
    "AyaVisionProcessor": {"crop_to_patches": True},
    "GotOcr2Processor": {"crop_to_patches": False, "min_patches": 1, "max_patches": 12},
}
# Keys of these classes that change nothing for one picture: videos, tables of results, numbers of tokens; or read otherwise
NEUTRAL_OF_ANY_SIZE = {
    "auto_map", "video_sampling", "return_row_col_info", "temporal_patch_size", "image_seq_length", "min_pixels", "max_pixels",
}  # fmt: skip
