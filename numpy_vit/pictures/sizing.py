"""Of what size a model sees a picture: the rules of encoders that take any size, cut tiles, or count patches.

Each rule is a plain function of a picture's height and width and of the numbers in a model's preprocessor_config.json. It gives
a Plan: what the picture is resized to, how it is cut, and which pictures go through the encoder. Nothing is resized here: a
plan is made without a picture. The sources are files of transformers 5.24, in models/; results are equal, down to the rounding.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError, about, check_kind, check_known, nearest
from ..fields import from_plain, is_number, to_plain, whole_number

Size = tuple[int, int]  # (Y, X)
Box = tuple[int, int, int, int]  # top, left, bottom, right
LONGEST = 1_000_000  # pixels of a side


@dataclasses.dataclass(frozen=True)
class Plan:
    """What becomes of one picture, before its values are scaled and normalised.

    resized        (Y, X) the whole picture is resized to, before zeros are put below and to the right of it and it is cut
    tiles          (rows, columns) it is cut into, taken row by row; (1, 1) where nothing is cut
    thumbnail      "first" or "last": the whole picture once more, before or after the tiles; or None
    pictures       (Y, X) of each picture that goes through the encoder, in order, the thumbnail among them
    first_resized  (Y, X) of a resizing before all that (Idefics 3): the thumbnail, too, is made of its result; or None
    boxes          where the tiles are cut from the picture as it is, each then resized to its size in `pictures` (Gemma 3,
                   Idefics 2); () where the resized picture is cut
    """

    resized: Size
    tiles: Size
    thumbnail: str | None
    pictures: tuple[Size, ...]
    first_resized: Size | None = None
    boxes: tuple[Box, ...] = ()

    @property
    def of_tiles(self) -> tuple[Size, ...]:
        """`pictures` without the thumbnail."""
        return {"first": self.pictures[1:], "last": self.pictures[:-1]}.get(self.thumbnail or "", self.pictures)

    @property
    def tile(self) -> Size:
        """(Y, X) of the first tile, or of the one picture."""
        return self.of_tiles[0]

    @property
    def canvas(self) -> Size:
        """(Y, X) of all tiles together: `resized`, and the zeros around it."""
        return self.tiles[0] * self.tile[0], self.tiles[1] * self.tile[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizing:
    """Of what size a model sees a picture: the name of a rule (one of RULES), and its numbers, the rule's own arguments."""

    rule: str
    numbers: Mapping[str, int | float | bool]

    def __post_init__(self) -> None:
        check_known("sizing: rule", self.rule, RULES)
        check_kind("sizing: numbers", self.numbers, Mapping, "a JSON object of names and numbers")
        object.__setattr__(self, "numbers", dict(self.numbers))
        wanted = arguments(self.rule)
        for name, value in self.numbers.items():
            if name not in wanted:
                raise InputError(f"sizing: {self.rule} has no number '{name}'{nearest(name, wanted)}")
            check_number(name, value, wanted[name])
        missing = [name for name in wanted if name not in self.numbers]
        if missing:
            raise InputError(f"sizing: {self.rule} also needs {', '.join(missing)}")

    def __hash__(self) -> int:
        return hash((self.rule, *sorted(self.numbers.items())))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Sizing":
        """From plain data. Raises InputError for what is missing, unknown or without meaning."""
        return from_plain(cls, values, "sizing")

    def to_dict(self) -> dict[str, Any]:
        """As plain data: `from_dict` gives the same."""
        return to_plain(self)

    def changed(self, **numbers: int | float | bool) -> "Sizing":
        """The same rule with other numbers: sizing.changed(max_pixels=1_000_000)."""
        return Sizing(rule=self.rule, numbers={**self.numbers, **numbers})

    @property
    def multiple(self) -> int:
        """What both sides of a picture in the encoder are multiples of, as far as the rule says."""
        found = self.numbers.get("multiple") or self.numbers.get("patch", 1) * self.numbers.get("merge", 1)
        return int(found)

    def plan(self, height: int, width: int) -> Plan:
        """What becomes of a picture of height x width pixels.

        Raises InputError for sizes that the model's own processor refuses too: too long and narrow, above all.
        """
        whole_number("picture height", height, 1, LONGEST)
        whole_number("picture width", width, 1, LONGEST)
        with about(f"a picture of {height}x{width} pixels (height x width) is too long and narrow for this model"):
            plan = RULES[self.rule](int(height), int(width), **self.numbers)
            if any(0 in size for size in (plan.resized, *plan.pictures)):
                raise InputError("resized, it would have no pixels")
            return plan


def arguments(rule: str) -> dict[str, type]:
    """A rule's numbers, by name: int, float or bool."""
    parameters = inspect.signature(RULES[rule]).parameters.values()
    return {parameter.name: parameter.annotation for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def check_number(name: str, value: Any, kind: type) -> None:
    """Raise InputError for a number that a rule cannot use: counts are whole and at least 1, ratios above 0."""
    if kind is bool:
        check_kind(f"sizing: {name}", value, bool, "true or false")
    elif kind is int:
        whole_number(f"sizing: {name}", value, 1, 2**40)
    elif not (is_number(value) and value > 0):
        raise InputError(f"sizing: {name} is {value!r}: it must be a number above 0")


def uncut(resized: Size, padded: Size | None = None, first_resized: Size | None = None) -> Plan:
    """The plan for one picture as a whole."""
    return Plan(resized, (1, 1), None, (padded or resized,), first_resized)


def cut(resized: Size, tiles: Size, tile: int, thumbnail: Size | None, first_resized: Size | None = None) -> Plan:
    """The plan for square tiles of the resized picture, and a thumbnail, of its own size, after them."""
    pictures = ((tile, tile),) * (tiles[0] * tiles[1])
    if thumbnail is None:
        return Plan(resized, tiles, None, pictures, first_resized)
    return Plan(resized, tiles, "last", (*pictures, thumbnail), first_resized)


# Multiples of patch times merge, between a least and a largest number of pixels


def pixel_range(height: int, width: int, *, multiple: int, min_pixels: int, max_pixels: int) -> Plan:
    """Qwen2-VL, 2.5, 3, 3.5 and VideoLLaMA 3: qwen2_vl/image_processing_qwen2_vl.py, smart_resize."""
    check_proportions(height, width)
    return uncut(within_pixels(height, width, multiple, min_pixels, max_pixels))


def pixel_range_enlarged(height: int, width: int, *, multiple: int, min_pixels: int, max_pixels: int) -> Plan:
    """PaddleOCR-VL: a side below `multiple` is first made that long, in proportion (rounded).

    paddleocr_vl/image_processing_paddleocr_vl.py, smart_resize.
    """
    if height < multiple:
        height, width = multiple, round(width * multiple / height)
    if width < multiple:
        height, width = round(height * multiple / width), multiple
    check_proportions(height, width)
    return uncut(within_pixels(height, width, multiple, min_pixels, max_pixels))


def pixel_range_of_frames(height: int, width: int, *, multiple: int, min_pixels: int, max_pixels: int, frames: int) -> Plan:
    """GLM-4V, GLM-4.6V, GLM-OCR: a picture counts as `frames` (2) of a video; tiny sides are first scaled up, rounded down.

    glm4v/image_processing_glm4v.py, smart_resize.
    """
    if min(height, width) < multiple:
        scale = max(multiple / height, multiple / width)
        height, width = int(height * scale), int(width * scale)
    check_proportions(height, width)
    return uncut(within_pixels(height, width, multiple, min_pixels, max_pixels, frames))


def within_pixels(height: int, width: int, multiple: int, least: int, most: int, frames: int = 1, shortest: int = 0) -> Size:
    """The nearest multiples (half to even); too many pixels or too few: in proportion, as many as there may be."""
    Y, X = (max(shortest, round(side / multiple) * multiple) for side in (height, width))
    if frames * Y * X > most:
        shrink = math.sqrt((frames * height * width) / most)
        Y, X = (max(multiple, math.floor(side / shrink / multiple) * multiple) for side in (height, width))
    elif frames * Y * X < least:
        grow = math.sqrt(least / (frames * height * width))
        Y, X = (math.ceil(side * grow / multiple) * multiple for side in (height, width))
    return Y, X


def check_proportions(height: int, width: int) -> None:
    """Raise InputError for a picture more than 200 times as long as it is wide, as smart_resize refuses it."""
    if max(height, width) / min(height, width) > 200:
        raise InputError("one side may be at most 200 times as long as the other")


# Other pictures as a whole


def longest_edge(height: int, width: int, *, multiple: int, longest: int) -> Plan:
    """Pixtral, Mistral 3: made smaller where a side is above `longest`, never larger; then up to the next multiples.

    pixtral/image_processing_pixtral.py, get_resize_output_image_size; `multiple` is the patch, times the merger's side.
    """
    ratio = max(height / longest, width / longest)
    Y, X = (math.floor(height / ratio), math.floor(width / ratio)) if ratio > 1 else (height, width)
    return uncut((((Y - 1) // multiple + 1) * multiple, ((X - 1) // multiple + 1) * multiple))


def patch_budget(height: int, width: int, *, patch: int, max_patches: int) -> Plan:
    """SigLIP 2 NaFlex: the largest scale, up or down, whose patches are at most max_patches; found by halving an interval.

    siglip2/image_processing_siglip2.py, get_image_size_for_max_num_patches.
    """

    def scaled(scale: float) -> Size:
        Y, X = (max(patch, math.ceil(side * scale / patch) * patch) for side in (height, width))
        return Y, X

    low, high = 1e-5 / 10, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        Y, X = scaled(middle)
        if (Y / patch) * (X / patch) <= max_patches:
            low = middle
        else:
            high = middle
    return uncut(scaled(low))


def token_budget(height: int, width: int, *, patch: int, merge: int, max_tokens: int) -> Plan:
    """Gemma 4: scaled, up or down, to the area of the budget; each side down to a multiple of patch * merge.

    gemma4/image_processing_gemma4.py, get_aspect_ratio_preserving_size; a token is merge x merge patches.
    """
    multiple, pixels = patch * merge, max_tokens * merge**2 * patch**2
    factor = math.sqrt(pixels / (height * width))
    Y, X = (math.floor(factor * side / multiple) * multiple for side in (height, width))
    if Y == X == 0:
        raise InputError(f"neither side would be {multiple} pixels long")
    if Y == 0:
        Y, X = multiple, min(width // height, max_tokens) * multiple
    elif X == 0:
        Y, X = min(height // width, max_tokens) * multiple, multiple
    if pixels < Y * X:
        raise InputError(f"it would need more than {max_tokens} tokens")
    return uncut((Y, X))


def padded_patch_budget(height: int, width: int, *, patch: int, merge: int, max_patches: int, max_side: int) -> Plan:
    """Kimi (MoonViT): made smaller to at most max_patches, and max_side patches a side; then zeros up to the next multiples.

    kimi_k25/image_processing_kimi_k25.py, navit_resize. The zeros are part of the picture, and normalised with it.
    """
    patches = max(1.0, height // patch) * max(1.0, width // patch)
    longest = max_side * patch
    scale = min(1.0, math.sqrt(max_patches / patches), longest / height, longest / width)
    Y, X = (min(max(1, int(side * scale)), longest) for side in (height, width))
    multiple = patch * merge
    return uncut((Y, X), padded=(math.ceil(Y / multiple) * multiple, math.ceil(X / multiple) * multiple))


def edges(height: int, width: int, *, shortest: int, longest: int, quarters: bool) -> Plan:
    """Idefics 2: the long side down to `longest`, then both sides up to `shortest`, not in proportion.

    With quarters, the picture's four quarters, each resized like a picture of its own, and the whole last.
    idefics2/image_processing_idefics2.py, get_resize_output_image_size and split_images.
    """

    def size(height: int, width: int) -> Size:
        height, width = no_longer(height, width, longest)
        return max(height, shortest), max(width, shortest)

    whole = size(height, width)
    if not quarters:
        return uncut(whole)
    if 1 in (height, width):
        raise InputError("it is cut into quarters")
    down, across = height // 2, width // 2
    boxes = tuple((t, le, b, r) for t, b in ((0, down), (down, height)) for le, r in ((0, across), (across, width)))
    pictures = tuple(size(bottom - top, right - left) for top, left, bottom, right in boxes)
    return Plan(whole, (2, 2), "last", (*pictures, whole), boxes=boxes)


def no_longer(height: int, width: int, longest: int) -> Size:
    """Where the long side is above `longest`, made that long; the other in proportion, rounded down."""
    aspect = width / height
    if max(height, width) <= longest:
        return height, width
    return (int(longest / aspect), longest) if width >= height else (longest, int(longest * aspect))


# Tiles


def tiles(height: int, width: int, *, tile: int, min_tiles: int, max_tiles: int) -> Plan:
    """InternVL, GOT-OCR 2: the grid of tiles whose proportions are nearest; the picture squashed to it; a thumbnail last.

    got_ocr2/image_processing_got_ocr2.py, crop_image_to_patches. One tile has no thumbnail.
    """
    if max_tiles == 1:
        return uncut((tile, tile))
    rows, columns = nearest_grid(height, width, tile, grids(min_tiles, max_tiles))
    return cut((rows * tile, columns * tile), (rows, columns), tile, (tile, tile) if rows * columns > 1 else None)


def grids(least: int, most: int) -> list[Size]:
    """All (rows, columns) of `least` to `most` tiles, the smaller first; of as many tiles, the tall ones first."""
    possible = [(rows, columns) for columns in range(1, most + 1) for rows in range(1, most // columns + 1)]
    return sorted((grid for grid in possible if grid[0] * grid[1] >= least), key=lambda grid: grid[0] * grid[1])


def nearest_grid(height: int, width: int, tile: int, possible: Iterable[Size]) -> Size:
    """The grid with the picture's proportions; of those equally near, the last that is not twice the picture's area."""
    best, least = (1, 1), math.inf
    for rows, columns in possible:
        difference = abs(width / height - columns / rows)
        if difference < least or (difference == least and height * width > 0.5 * tile * tile * columns * rows):
            best, least = (rows, columns), difference
    return best


def tiles_of_longest_edge(height: int, width: int, *, longest: int, tile: int, split: bool) -> Plan:
    """Idefics 3, SmolVLM: the long side to `longest`, up or down; both sides up to multiples of the tile; a thumbnail last.

    The picture is resized twice, and the thumbnail is made of the result. Not split, the whole becomes one tile.
    idefics3/image_processing_idefics3.py, get_resize_output_image_size, resize_for_vision_encoder and split_images.
    """
    Y, X = no_longer(*to_longest(height, width, longest), 4096)  # MAX_IMAGE_SIZE
    first = max(Y, 1), max(X, 1)
    if not split:
        return uncut((tile, tile), first_resized=first)
    Y, X = first
    aspect = X / Y
    if X >= Y:
        X = math.ceil(X / tile) * tile
        Y = math.ceil(int(X / aspect) / tile) * tile
    else:
        Y = math.ceil(Y / tile) * tile
        X = math.ceil(int(Y * aspect) / tile) * tile
    rows, columns = Y // tile, X // tile
    return cut((Y, X), (rows, columns), tile, (tile, tile) if rows * columns > 1 else None, first)


def to_longest(height: int, width: int, longest: int) -> Size:
    """The long side `longest`, the other in proportion, rounded down and then up to an even number."""
    aspect = width / height
    if width >= height:
        short = int(longest / aspect)
        return max(short + short % 2, 1), longest
    short = int(longest * aspect)
    return longest, max(short + short % 2, 1)


def pixel_range_or_tiles(
    height: int,
    width: int,
    *,
    patch: int,
    merge: int,
    min_tokens: int,
    max_tokens: int,
    tolerance: float,
    tile: int,
    min_tiles: int,
    max_tiles: int,
    split: bool,
    thumbnail: bool,
) -> Plan:
    """LFM2-VL: a picture within its token budget as a whole; one above `tolerance` times that in tiles, and a thumbnail.

    The thumbnail has the size that the whole would have had: not that of the tiles.
    lfm2_vl/image_processing_lfm2_vl.py, resize_and_split.
    """
    multiple = patch * merge
    least, most = min_tokens * multiple**2, max_tokens * multiple**2
    rounded = [round(side / multiple) * multiple for side in (height, width)]
    whole = within_pixels(height, width, multiple, least, most, shortest=multiple)
    large = max(patch, rounded[0]) * max(patch, rounded[1]) > most * tolerance
    if not (large and split and max_tiles > 1):
        return uncut(whole)
    rows, columns = nearest_grid(height, width, tile, grids(min_tiles, max_tiles))
    return cut((rows * tile, columns * tile), (rows, columns), tile, whole if thumbnail and rows * columns > 1 else None)


# A canvas of tiles, filled with zeros


def canvas(height: int, width: int, *, tile: int, max_tiles: int) -> Plan:
    """Llama 3.2 Vision: in proportion onto the canvas that it must be enlarged least for, or else made smaller least.

    mllama/image_processing_mllama.py, get_optimal_tiled_canvas and get_image_size_fit_to_canvas.
    """
    rows, columns = best_canvas(height, width, tile, max_tiles, np.float64)
    Y, X = (min(max(side, tile), tile * number) for side, number in ((height, rows), (width, columns)))
    down, across = Y / height, X / width
    if across < down:
        Y = min(math.floor(height * across) or 1, Y)
    else:
        X = min(math.floor(width * down) or 1, X)
    return cut((Y, X), (rows, columns), tile, None)


def canvas_and_thumbnail(height: int, width: int, *, tile: int, max_tiles: int, largest: bool) -> Plan:
    """Llama 4: a canvas, as above, and where it has several tiles a thumbnail last. `largest`: enlarged as far as it goes.

    llama4/image_processing_llama4.py, get_best_fit and get_max_res_without_distortion. Where its sizes are tensors, its
    quotients are float32, and the last digit decides how they are rounded down.
    """
    rows, columns = best_canvas(height, width, tile, max_tiles, np.float32, largest)
    Y, down = canvas_side(height, rows * tile, tile, largest)
    X, across = canvas_side(width, columns * tile, tile, largest)
    mixed = type(down) is not type(across)  # torch compares a tensor with a number in the tensor's precision
    if np.float32(across) < np.float32(down) if mixed else across < down:
        Y = min(times(height, across), Y)
    else:
        X = min(times(width, down), X)
    return cut((max(Y, 1), max(X, 1)), (rows, columns), tile, (tile, tile) if rows * columns > 1 else None)


def canvas_side(side: int, limit: int, tile: int, largest: bool) -> tuple[int, Any]:
    """What a side may become, and the quotient of the two: float32 where it is the canvas's own, a tensor upstream."""
    if largest or limit < max(side, tile):
        return limit, np.float32(limit) / np.float32(side)
    return max(side, tile), max(side, tile) / side


def times(side: int, scale: Any) -> int:
    """side * scale, in the scale's precision, rounded down."""
    return math.floor(np.float32(side) * scale if isinstance(scale, np.float32) else side * scale)


def best_canvas(height: int, width: int, tile: int, most: int, precision: Callable[[int], Any], largest: bool = False) -> Size:
    """(rows, columns) of tiles: the least enlargement (or the largest), else the least reduction; then the least area."""
    possible = grids(1, most)
    Y, X = precision(height), precision(width)

    def scale(grid: Size) -> Any:
        return min(precision(grid[0] * tile) / Y, precision(grid[1] * tile) / X)

    scales = [scale(grid) for grid in possible]
    enlarging = [s for s in scales if s >= 1]
    chosen = (max(enlarging) if largest else min(enlarging)) if enlarging else max(scales)
    return next(grid for grid, s in zip(possible, scales, strict=True) if s == chosen)  # the smaller come first


def pan_and_scan(height: int, width: int, *, size: int, min_crop: int, max_crops: int, min_ratio: float) -> Plan:
    """Gemma 3, where it is asked to: the whole picture, and where it is long, crops along the long side; all squashed alike.

    gemma3/image_processing_gemma3.py, pan_and_scan. The published model is not asked to: that is a plain squash.
    """
    long, short = max(height, width), min(height, width)
    number = min(max(2, min(long // min_crop, math.floor(long / short + 0.5))), max_crops)
    crop = math.ceil(long / number)
    if long / short < min_ratio or min(crop, short) < min_crop:
        return uncut((size, size))
    edges_of = [(n * crop, min((n + 1) * crop, long)) for n in range(number)]
    across = width >= height
    boxes = tuple((0, start, height, end) if across else (start, 0, end, width) for start, end in edges_of)
    pictures = ((size, size),) * (1 + number)
    return Plan((size, size), (1, number) if across else (number, 1), "first", pictures, boxes=boxes)


RULES: dict[str, Callable[..., Plan]] = {
    rule.__name__: rule
    for rule in (
        pixel_range,
        pixel_range_enlarged,
        pixel_range_of_frames,
        pixel_range_or_tiles,
        longest_edge,
        patch_budget,
        token_budget,
        padded_patch_budget,
        edges,
        tiles,
        tiles_of_longest_edge,
        canvas,
        canvas_and_thumbnail,
        pan_and_scan,
    )
}
