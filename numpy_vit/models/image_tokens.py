"""How many tokens a picture becomes: what a model's own processor makes of its size, without the picture and without weights.

The way of a picture is told by its model's files: preprocessor_config.json says what it is resized to and how it is cut
(numpy_vit.pictures.sizing), config.json how many patches that is and how many of them become one token, and the model's type
which special tokens stand around and between them (the processors of transformers 5.24, models/*/processing_*.py; where a
processor leaves them to the chat template, the template's).
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import DIGITS, GROUPS, ViTConfig, is_variant, variant
from ..convert.hub import CONFIG, PREPROCESSOR
from ..convert.preprocessing import from_timm, policy, read_preprocessor
from ..convert.sources import preprocessor_of
from ..errors import InputError, about, check_kind, in_words, nearest
from ..files.jsonfile import read_json
from ..pictures.images import Preprocess, upright
from ..pictures.sizing import Plan, Sizing
from .loading import cached_or_published, config_of_content, config_of_published, find_config, open_checkpoint
from .published import Published

Size = tuple[int, int]  # (Y, X)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """What becomes of one picture of one model. All sizes are (height, width).

    model         whose
    size          of the picture
    resized       what the whole picture is resized to, before it is cut
    tiles         (rows, columns) it is cut into; (1, 1) where nothing is cut
    thumbnail     the whole picture once more, "first" or "last" of all; or None
    pictures      the size of each picture that goes through the encoder
    patches       of all these
    image_tokens  what the language model gets of them; None for an encoder alone
    markers       special tokens around and between them: name -> how many
    macs          multiply-accumulates of the encoder, all pictures; None where the encoder is not read yet
    """

    model: str
    size: Size
    resized: Size
    tiles: Size
    thumbnail: str | None
    pictures: tuple[Size, ...]
    patches: int
    image_tokens: int | None
    markers: Mapping[str, int]
    macs: int | None

    @property
    def total(self) -> int | None:
        """Image tokens and markers together: what the picture takes of the language model's context."""
        return None if self.image_tokens is None else self.image_tokens + sum(self.markers.values())

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {**dataclasses.asdict(self), "markers": dict(self.markers), "total": self.total}


def image_tokens(model: Any, size: Any, **settings: int | bool) -> ImageTokens:
    """How many tokens a picture of this size becomes.

    model     a published model's name ("qwen2.5-vl", "Qwen/Qwen2.5-VL-7B-Instruct"); a folder with config.json and
              preprocessor_config.json, or a cached hub name; a converted file; a variant ("ViT-B/16")
    size      (height, width) in pixels; or a picture: a file, a PIL image, a uint8 array (Y, X, C)
    settings  what preprocessor_config.json says otherwise: max_pixels, max_num_patches, longest_edge, ... (SETTINGS)

    Raises InputError for what is no model, and for a size that the model's own processor refuses.
    """
    return eye(model).changed(settings).look(size_of(size))


def size_of(size: Any) -> Size:
    """(height, width) of a size or a picture. Raises InputError for neither."""
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise InputError(f"size is {in_words(size)}: give (height, width)")
        return size[0], size[1]
    if isinstance(size, int):
        raise InputError(f"size is {size}: give (height, width)")
    picture = upright(size)
    return picture.height, picture.width


def size_seen(model: Any, config: ViTConfig, size: Size) -> tuple[Size, list[str]]:
    """At what size (Y, X) a model that takes any size sees a picture of this one, and a note where it is another.

    A size that is of whole tokens stays as it is, and so does one of a model of which it is not said how pictures are prepared.
    """
    named = isinstance(model, str | os.PathLike)
    if not named or not config.any_size or len(size) != 2 or not any(side % config.multiple for side in size):
        return size, []
    try:
        seen = eye(model)
    except InputError:
        return size, []
    pictures = seen.plan(size).pictures if seen.sizing is not None else ()
    if len(pictures) != 1:
        return size, []
    (Y, X), note = pictures[0], f"{seen.name} sees a picture of {size[0]}x{size[1]} at {pictures[0][0]}x{pictures[0][1]}"
    return (Y, X), [note]


# What a model's files say


@dataclasses.dataclass(frozen=True)
class Eye:
    """A model, as far as it takes to count tokens.

    name        what it is called
    config      the encoder's, or None where its type is not read yet
    content     config.json; {} where there is none
    preprocess  how its pictures are prepared, or None: they are resized to config.image
    kind        how its tokens are made; None of an encoder alone
    """

    name: str
    config: ViTConfig | None
    content: Mapping[str, Any]
    preprocess: Preprocess | None
    kind: "Kind | None" = None

    @property
    def sizing(self) -> Sizing | None:
        """The rule of sizes, where pictures are not all made alike."""
        return None if self.preprocess is None else self.preprocess.sizing

    @property
    def side(self) -> int:
        """side x side patches become one token."""
        if self.config is not None and self.config.merger is not None:
            return self.config.merger.side
        return self.kind.side(self.content) if self.kind is not None and self.content else 1

    @property
    def patch(self) -> int:
        """Pixels along a patch's side."""
        if self.config is not None:
            return self.config.patch
        found = of_vision(self.content, "patch_size")
        return int(found[0] if isinstance(found, list) else found)

    def changed(self, settings: Mapping[str, int | bool]) -> "Eye":
        """The same model with other numbers in its preprocessor_config.json. Raises InputError for names it does not have."""
        if not settings:
            return self
        known = SETTINGS.get(self.sizing.rule, {}) if self.sizing else {}
        for name in settings:
            if name not in known:
                has = f"it has {', '.join(known)}" if known else "of its pictures' size nothing can be set"
                raise InputError(f"{self.name}: no setting '{name}'{nearest(name, known)} ({has})")
        assert self.preprocess is not None and self.sizing is not None
        with about(self.name):
            sizing = self.sizing.changed(**{known[name]: value for name, value in settings.items()})
        return dataclasses.replace(self, preprocess=dataclasses.replace(self.preprocess, sizing=sizing))

    def plan(self, size: Size) -> Plan:
        """What becomes of a picture of this size."""
        if self.sizing is not None:
            return self.sizing.plan(*size)
        if self.preprocess is not None:
            resized = self.preprocess.target(*size)
            return Plan(resized, (1, 1), None, (self.preprocess.crop or resized,))
        assert self.config is not None
        return Plan(self.config.image, (1, 1), None, (self.config.image,))

    def macs(self, pictures: Sequence[Size]) -> int | None:
        """Of the encoder, all pictures; None where it is not read, or pads what cannot be merged."""
        if self.config is None or any(side % self.config.multiple for picture in pictures for side in picture):
            return None
        return sum(encoder_macs(self.config, picture) for picture in pictures)

    def look(self, size: Size, *, macs: bool = True) -> ImageTokens:
        """A picture of this size; the multiply-accumulates, which take most of the time, if they are wanted."""
        with about(self.name):
            plan = self.plan(size)
            grids = [(Y // self.patch, X // self.patch) for Y, X in plan.pictures]
            kind = self.kind or (PLAIN if self.config is not None and self.config.merger is not None else None)
            merged = [kind.tokens(grid, self.side) for grid in grids] if kind else []
            return ImageTokens(
                model=self.name,
                size=size,
                resized=plan.resized,
                tiles=plan.tiles,
                thumbnail=plan.thumbnail,
                pictures=plan.pictures,
                patches=sum(rows * columns for rows, columns in grids),
                image_tokens=sum(rows * columns for rows, columns in merged) if kind else None,
                markers=kind.markers(plan, merged) if kind else {},
                macs=self.macs(plan.pictures) if macs else None,
            )


def eye(model: Any) -> Eye:
    """Whatever names a model, as an Eye. Raises InputError."""
    if isinstance(model, Eye):
        return model
    if not isinstance(model, str | os.PathLike):
        config, _ = find_config(model)
        return Eye(type(model).__name__, config, {}, getattr(model, "preprocess_policy", None))
    name, path = str(model), Path(model)
    if not path.exists() and name != DIGITS:
        if is_variant(name):
            return Eye(name, variant(name), {}, None)
        found = cached_or_published(name)
        if isinstance(found, Published):
            return eye_of_published(found)
        path = found
    if path.is_dir() and (path / CONFIG).is_file():
        return eye_of_folder(name, path)
    return eye_of_file(name, path)


def eye_of_published(found: Published) -> Eye:
    """A published model. Raises InputError where neither its encoder is supported nor its tokens are counted."""
    if isinstance(found.config, ViTConfig):
        return Eye(found.name, found.config, {}, policy("torchvision", found.config.image, 3))
    content = found.config
    config = config_if_read(content, lambda: config_of_published(found)[0])
    if "pretrained_cfg" in content:
        return Eye(found.name, config, content, from_timm(content["pretrained_cfg"], 3, []))
    return eye_of_content(found.name, content, found.preprocessor, config)


def eye_of_folder(name: str, folder: Path) -> Eye:
    """A folder with config.json; of preprocessor_config.json and processor_config.json what is there."""
    content = read_json(folder / CONFIG)
    config = config_if_read(content, lambda: config_of_content(name, content)[0])
    return eye_of_content(name, content, preprocessor_of(folder), config)


def eye_of_content(name: str, content: Mapping[str, Any], files: Mapping[str, Any] | None, config: ViTConfig | None) -> Eye:
    """A model by the content of its config.json, and of the files about its pictures."""
    kind = KINDS.get(str(content.get("model_type")))
    return Eye(name, config, content, preprocessing(name, content, files), kind)


def eye_of_file(name: str, path: Path) -> Eye:
    """A converted file, or weights with their config beside them."""
    checkpoint = open_checkpoint(name if name == DIGITS else path)
    return Eye(name, checkpoint.config, {}, checkpoint.preprocess, kind_of_family(checkpoint.source.get("family")))


def kind_of_family(name: Any) -> "Kind | None":
    """How the tokens of a converted file are made: it names the family that it was read as."""
    from ..convert import FAMILIES

    types = FAMILIES[name].model_types if name in FAMILIES else ()
    return next((KINDS[model_type] for model_type in types if model_type in KINDS), None)


def config_if_read(content: Mapping[str, Any], read: Callable[[], ViTConfig]) -> ViTConfig | None:
    """The encoder's config; None where it is not supported, but its tokens can be counted all the same."""
    try:
        return read()
    except InputError:
        if content.get("model_type") in KINDS:
            return None
        raise


def preprocessing(name: str, content: Mapping[str, Any], values: Mapping[str, Any] | None) -> Preprocess | None:
    """How pictures are prepared. Raises InputError where that decides how many tokens there are, and is not known."""
    with about(name):
        if values is None and content.get("model_type") in KINDS:
            raise InputError(f"no {PREPROCESSOR}: of what size the model sees a picture is not said")
        return None if values is None else read_preprocessor(values, 3, [], content.get("model_type"))


def of_vision(content: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """A value of config.json's vision_config, or of config.json itself."""
    vision = content.get("vision_config")
    found = vision.get(key) if isinstance(vision, Mapping) else None
    found = content.get(key, default) if found is None else found
    if found is None:
        raise InputError(f"config.json does not say {key}")
    return found


@functools.lru_cache(maxsize=64)
def encoder_macs(config: ViTConfig, image: Size) -> int:
    """Multiply-accumulates of all matrix products for one picture of `image` (Y, X), as `trace` counts them.

    A dry run of one or two blocks of each kind is enough, times how many there are.
    """
    if any(getattr(config, name) is not None for name in GROUPS if name not in ("merger", "windows", "deepstack")):
        return dry_macs(config, image)  # what a group of fields makes of single blocks is not known here
    windows, deepstack = config.windows, config.deepstack
    plain = dataclasses.replace(config, depth=1, windows=None, deepstack=None)
    one = dry_macs(plain, image)
    block = dry_macs(dataclasses.replace(plain, depth=2), image) - one
    total = one + (config.depth - 1) * block
    if windows is not None:
        alone = dataclasses.replace(plain, windows=dataclasses.replace(windows, whole=()))
        total += (config.depth - len(windows.whole)) * (dry_macs(alone, image) - one)
    if deepstack is not None:
        alone = dataclasses.replace(plain, deepstack=dataclasses.replace(deepstack, blocks=(0,)))
        total += len(deepstack.blocks) * (dry_macs(alone, image) - one)
    return total


def dry_macs(config: ViTConfig, image: Size) -> int:
    """The same of the whole model, block by block."""
    import numpy as np

    from ..arithmetic.shape_only import Ledger
    from ..vit import dry_run

    ledger, count = Ledger(), 0

    def hear(name: str, array: Any, dims: str) -> None:
        nonlocal count
        count += sum(operation.macs for operation in ledger.operations)
        ledger.operations.clear()

    dry_run(config, 1, image, np.dtype("float32"), hear, ledger)
    return count


# How many patches become one token, and what stands around them


Grids = Sequence[Size]
Markers = dict[str, int]


class Kind(NamedTuple):
    """How a type of model makes tokens of patches.

    side      of the square of patches that becomes one token, from config.json
    markers   (plan, grids of tokens) -> the special tokens
    tokens    (grid of patches, side) -> the grid of tokens
    """

    side: Callable[[Mapping[str, Any]], int]
    markers: Callable[[Plan, Grids], Markers]
    tokens: Callable[[Size, int], Size] = lambda grid, side: (grid[0] // side, grid[1] // side)


def around(first: str, last: str) -> Callable[[Plan, Grids], Markers]:
    """One token before the picture, one after it."""
    return lambda plan, grids: {first: 1, last: 1}


def none(plan: Plan, grids: Grids) -> Markers:
    return {}


def merged(key: str, default: int | None = None) -> Callable[[Mapping[str, Any]], int]:
    """A side that config.json says: a number, or (rows, columns) alike."""

    def side(content: Mapping[str, Any]) -> int:
        found = of_vision(content, key, default)
        return int(found[0] if isinstance(found, list) else found)

    return side


def shuffled(key: str) -> Callable[[Mapping[str, Any]], int]:
    """A pixel shuffle, which says the ratio of the sides."""
    return lambda content: round(1 / of_vision(content, key))


def pooled(content: Mapping[str, Any]) -> int:
    """Gemma 3: the patches' square becomes a square of so many tokens (modeling_gemma3.py, Gemma3MultiModalProjector)."""
    across = of_vision(content, "image_size") // of_vision(content, "patch_size")
    return int(across // math.isqrt(content["mm_tokens_per_image"]))


def rows_with_breaks(plan: Plan, grids: Grids) -> Markers:
    """Pixtral: a token after each row, another after the last (processing_pixtral.py)."""
    rows = grids[0][0]
    return {"[IMG_BREAK]": rows - 1, "[IMG_END]": 1}


def kimi(plan: Plan, grids: Grids) -> Markers:
    """Kimi's chat template: <|media_begin|>image<|media_content|> ... <|media_end|>; the word is a token too."""
    return {"<|media_begin|>": 1, "image": 1, "<|media_content|>": 1, "<|media_end|>": 1}


def idefics3(plan: Plan, grids: Grids) -> Markers:
    """Idefics 3, SmolVLM: each tile has its place, each row a line end (processing_idefics3.py)."""
    rows, columns = plan.tiles if plan.thumbnail else (0, 0)
    found = {"<fake_token_around_image>": rows * columns + 2, "<row_R_col_C>": rows * columns, "<global-img>": 1}
    return found | ({"\\n": rows - 1, "\\n\\n": 1} if rows else {})


def gemma3(plan: Plan, grids: Grids) -> Markers:
    """Two line ends around each picture, and one special token (processing_gemma3.py). Between crops there are words too."""
    count = len(grids)
    return {"\\n\\n": 2 * count, "<start_of_image>": count, "<end_of_image>": count}


def llama4(plan: Plan, grids: Grids) -> Markers:
    """Tiles with separators, then the thumbnail (processing_llama4.py, _prompt_split_image)."""
    rows, columns = plan.tiles if plan.thumbnail else (0, 0)
    found = {"<|image_start|>": 1, "<|tile_x_separator|>": rows * max(columns - 1, 0), "<|tile_y_separator|>": rows}
    return {name: n for name, n in {**found, "<|image|>": 1, "<|image_end|>": 1}.items() if n}


def lfm2(plan: Plan, grids: Grids) -> Markers:
    """Each tile has its place, the thumbnail a token of its own (processing_lfm2_vl.py, _build_image_tokens)."""
    count = plan.tiles[0] * plan.tiles[1]
    found = {"<|image_start|>": 1, "<|img_row_R_col_C|>": count if count > 1 else 0}
    found |= {"<|img_thumbnail|>": int(count > 1 and plan.thumbnail is not None), "<|image_end|>": 1}
    return {name: n for name, n in found.items() if n}


def rounded_up(grid: Size, side: int) -> Size:
    return -(-grid[0] // side), -(-grid[1] // side)


PLAIN = Kind(lambda content: 1, none)
QWEN = Kind(merged("spatial_merge_size"), around("<|vision_start|>", "<|vision_end|>"))
GLM = Kind(merged("spatial_merge_size"), around("<|begin_of_image|>", "<|end_of_image|>"))
KIMI = Kind(merged("merge_kernel_size"), kimi)
IDEFICS3 = Kind(merged("scale_factor"), idefics3)
GEMMA4 = Kind(merged("pooling_kernel_size"), around("<|image>", "<image|>"))
KINDS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), QWEN),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v", "glm_ocr"), GLM),
    **dict.fromkeys(("kimi_vl", "kimi_k25"), KIMI),
    **dict.fromkeys(("idefics3", "smolvlm"), IDEFICS3),
    "internvl": Kind(shuffled("downsample_ratio"), around("<img>", "</img>")),
    "llava": Kind(lambda content: 1, rows_with_breaks),  # Pixtral's: published under this name
    "mllama": Kind(lambda content: 1, lambda plan, grids: {"<|image|>": 1}, lambda grid, side: (0, 0)),
    "mistral3": Kind(merged("spatial_merge_size"), rows_with_breaks),
    "paddleocr_vl": Kind(merged("spatial_merge_size"), around("<|IMAGE_START|>", "<|IMAGE_END|>")),
    "gemma3": Kind(pooled, gemma3),
    "paligemma": PLAIN,
    "gemma4": GEMMA4,
    "llama4": Kind(shuffled("pixel_shuffle_ratio"), llama4),
    "lfm2_vl": Kind(merged("downsample_factor"), lfm2, rounded_up),
}
"""model_type of config.json -> how tokens are made. Llama 3.2 Vision (mllama) looks at its patches by cross-attention: among
the text's tokens they take no place."""


# What can be set

PIXELS = {"max_pixels": "max_pixels", "min_pixels": "min_pixels"}
SETTINGS: dict[str, dict[str, str]] = {
    "pixel_range": PIXELS,
    "pixel_range_enlarged": PIXELS,
    "pixel_range_of_frames": PIXELS,
    "longest_edge": {"longest_edge": "longest"},
    "patch_budget": {"max_num_patches": "max_patches"},
    "token_budget": {"max_soft_tokens": "max_tokens"},
    "padded_patch_budget": {"in_patch_limit": "max_patches", "patch_limit_on_one_side": "max_side"},
    "tiles": {"max_patches": "max_tiles", "min_patches": "min_tiles"},
    "tiles_of_longest_edge": {"longest_edge": "longest", "do_image_splitting": "split"},
    "canvas": {"max_image_tiles": "max_tiles"},
    "canvas_and_thumbnail": {"max_patches": "max_tiles", "resize_to_max_canvas": "largest"},
    "pixel_range_or_tiles": {
        "max_image_tokens": "max_tokens", "min_image_tokens": "min_tokens", "max_tiles": "max_tiles", "min_tiles": "min_tiles",
        "do_image_splitting": "split", "use_thumbnail": "thumbnail",
    },
}  # fmt: skip
"""A rule of sizes -> the names its numbers have in preprocessor_config.json, or in the processor's arguments."""
SOFT_TOKENS = (1120, 560, 280, 140, 70)  # what Gemma 4's processor takes (image_processing_gemma4.py)


def settings_for(model: Any, sizes: Iterable[Size], budget: int) -> dict[str, int | bool] | None:
    """What to set, in preprocessor_config.json, so that pictures of these sizes take at most `budget` tokens, markers included.

    {} where they do as it is; None where nothing that can be set is enough. It is as much as fits, of what is tried.
    """
    check_kind("budget", budget, int, "a number of tokens")
    seen, wanted = eye(model), list(sizes)
    for settings in ({}, *candidates(seen, budget)):
        try:
            counted = [seen.changed(settings).look(size, macs=False) for size in wanted]
        except InputError:  # a setting with which the processor refuses this size
            continue
        if all((found.patches if found.total is None else found.total) <= budget for found in counted):
            return settings
    return None


def candidates(seen: Eye, budget: int) -> Iterator[dict[str, int | bool]]:
    """Settings to try, those that leave most tokens first."""
    sizing = seen.sizing
    if sizing is None:
        return
    numbers = sizing.numbers
    if sizing.rule in ("pixel_range", "pixel_range_enlarged", "pixel_range_of_frames"):
        markers = sum(seen.kind.markers(Plan((1, 1), (1, 1), None, ((1, 1),)), [(1, 1)]).values()) if seen.kind else 0
        most = int((budget - markers) * numbers["multiple"] ** 2 * numbers.get("frames", 1))
        yield {"max_pixels": most, **({"min_pixels": most} if most < numbers["min_pixels"] else {})}
    elif sizing.rule == "token_budget":
        yield from ({"max_soft_tokens": most} for most in SOFT_TOKENS if most <= budget)
    elif sizing.rule == "pixel_range_or_tiles":
        yield from ({"max_tiles": most} for most in range(int(numbers["max_tiles"]) - 1, int(numbers["min_tiles"]) - 1, -1))
        yield from one_picture(numbers, budget)
    elif sizing.rule in SETTINGS:
        name, number = next(iter(SETTINGS[sizing.rule].items()))
        step = STEPS.get(sizing.rule, lambda numbers: 1)(numbers)
        yield from ({name: most} for most in range(int(numbers[number]) - step, 0, -step))


def one_picture(numbers: Mapping[str, Any], budget: int) -> Iterator[dict[str, int | bool]]:
    """LFM2-VL without tiles."""
    for most in sorted({budget, budget - 2, min(int(numbers["max_tokens"]), budget - 2)}, reverse=True):
        if 0 < most <= numbers["max_tokens"]:
            fewer = {"min_image_tokens": most} if most < numbers["min_tokens"] else {}
            yield {"do_image_splitting": False, "max_image_tokens": most, **fewer}


STEPS: dict[str, Callable[[Mapping[str, Any]], int]] = {
    "longest_edge": lambda numbers: int(numbers["multiple"]),
    "tiles_of_longest_edge": lambda numbers: int(numbers["tile"]),
    "padded_patch_budget": lambda numbers: int(numbers["merge"]) ** 2,
}
