"""From a picture file to pixel values: read, turn upright, to RGB, resize, crop, rescale, normalise.

Pillow does the reading, and the resizing for most models; results equal those of transformers' PIL image processors, of
torchvision and timm on PIL images, and, for models that were trained with it, of TensorFlow.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import InputError, check_kind, check_known, in_words
from ..fields import from_plain, is_number, to_plain
from ..positions import RULES
from .overheard import complaints
from .sizing import Plan, Sizing

Array = npt.NDArray[Any]
Picture = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]  # a file, or a picture (Y, X[, C])
RESAMPLES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
ARITHMETICS = {  # whose resizing, and what it can do
    "pillow": tuple(RESAMPLES),
    "tensorflow": ("bilinear",),
    "tensorflow_uint8": ("bilinear",),
    "torch": ("bilinear", "bicubic"),
}
KNOWN = {
    "resize": ("none", "squash", "shortest_edge", "cover"),
    "resample": tuple(RESAMPLES),
    "arithmetic": tuple(ARITHMETICS),
    "crop_rounding": ("down", "even"),
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
MAX_SIDE = 100_000
COMMON_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM")
RUN_PROGRAMS = ("EPS", "WMF")  # formats for which Pillow starts Ghostscript, or asks Windows
BAND = 256  # rows

# Pillow warns from 89 million pixels on (a phone has 108) and refuses from 179 million on; it also warns of damaged EXIF data,
# which do no harm. Said once for the process, since to silence it for the time of a call is to silence other threads too.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a model wants its pictures, step by step.

    channels   3 (RGB) or 1 (grey)
    resize     "none", "squash" (to exactly `size`, whatever the proportions), "shortest_edge" (to `size`, in proportion),
               "cover" (in proportion, to the smallest picture that covers `size`: timm and open_clip, for oblong models)
    size       (Y, X) for squash and cover, a number for shortest_edge, None for none
    resample   "bilinear", "bicubic", ...
    crop       (Y, X) taken from the centre, zeros around a picture that is smaller; or None
    scale      each value 0..255 is multiplied by this (1/255), or None
    mean, std  one number a channel: (value - mean) / std; or None

    arithmetic     whose resizing it is:
                   "pillow"            antialiased, rounded to 8 bits: transformers' PIL processors, torchvision and all that
                                       use it on PIL images (timm, CLIP, open_clip, DeiT, MAE, DINO, DINOv2, BEiT, EVA)
                   "tensorflow"        not antialiased, not rounded: Google's vision_transformer
                   "tensorflow_uint8"  not antialiased, cut to 8 bits: big_vision
                   "torch"             antialiased, not rounded: DINOv3 in transformers
                   The "Fast" processors of transformers, which resize 8-bit tensors with torchvision, differ from "pillow"
                   by a level or two of 255, here and there.
    sizing         for models that take a picture in its own proportions, or in tiles: the rule that says of what size. It
                   stands in the place of resize (then "none"), size and crop (None)
    crop_rounding  which of two middles, where an odd number of rows is left over: "down" (transformers: the upper one; of
                   padding, more above) or "even" (torchvision and all that use it: the one with an even number of rows cut
                   off above; of padding, more below)

    Calling it turns a picture or a list of pictures into (B, C, Y, X). With tiles, B counts those of all pictures, in order.
    """

    channels: int
    resize: str
    size: tuple[int, int] | int | None
    resample: str
    crop: tuple[int, int] | None
    scale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    arithmetic: str = "pillow"
    crop_rounding: str = "down"
    sizing: Sizing | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sizing, Mapping):
            object.__setattr__(self, "sizing", Sizing.from_dict(self.sizing))
        for name in ("size", "crop", "mean", "std"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.channels not in (1, 3):
            raise InputError(f"preprocess: channels is {self.channels!r}: pictures have 1 (grey) or 3 (RGB)")
        for name, known in KNOWN.items():
            check_known(f"preprocess: {name}", getattr(self, name), known)
        if self.resample not in ARITHMETICS[self.arithmetic]:
            possible = ", ".join(ARITHMETICS[self.arithmetic])
            raise InputError(f"preprocess: resample {self.resample!r} with arithmetic {self.arithmetic!r}: only {possible}")
        if self.sizing is not None:
            self._check_sizing()
        wants_pair = self.resize in ("squash", "cover")
        if self.resize != "none" and not (_is_pair(self.size) if wants_pair else _is_side(self.size)):
            what = "(height, width)" if wants_pair else "a number of pixels"
            raise InputError(f"preprocess: size is {self.size!r}: {self.resize} takes {what}")
        if self.crop is not None and not _is_pair(self.crop):
            raise InputError(f"preprocess: crop is {self.crop!r}: give (height, width)")
        if self.scale is not None and not (is_number(self.scale) and self.scale > 0):
            raise InputError(f"preprocess: scale is {self.scale!r}: it must be a number above 0")
        if (self.mean is None) != (self.std is None):
            raise InputError("preprocess: mean and std go together")
        if self.mean is not None and self.std is not None:
            for name, values in (("mean", self.mean), ("std", self.std)):
                right = isinstance(values, tuple) and len(values) == self.channels and all(map(is_number, values))
                if not right or (name == "std" and not all(values)):
                    raise InputError(f"preprocess: {name} is {values!r}: give {self.channels} numbers (std not 0)")

    def _check_sizing(self) -> None:
        check_kind("preprocess: sizing", self.sizing, Sizing, "a Sizing, or null")
        if (self.resize, self.size, self.crop) != ("none", None, None):
            raise InputError('preprocess: sizing says of what size: resize "none", size and crop null go with it')
        if self.arithmetic != "pillow":
            raise InputError(f"preprocess: sizing goes with arithmetic 'pillow', not {self.arithmetic!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """From plain data. Raises InputError for a field that is missing, unknown or without meaning."""
        return from_plain(cls, values, "preprocess")

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without the fields that have their default: `from_dict` gives the same, older versions too."""
        return to_plain(self)

    def at_image_size(self, size: tuple[int, int]) -> "Preprocess":
        """The same policy for pictures of another size (Y, X): the crop, or the squash, becomes that size.

        Of a policy with a `sizing`, the picture is squashed to just that size, which must be of its multiple, and not cut.
        """
        Y, X = size
        if self.sizing is not None:
            multiple = self.sizing.multiple
            if Y % multiple or X % multiple:
                raise InputError(f"image {Y}x{X}: this model takes multiples of {multiple} pixels")
            return dataclasses.replace(self, resize="squash", size=(Y, X), sizing=None)
        if self.crop is None:
            return dataclasses.replace(self, resize="squash", size=(Y, X))
        if self.resize == "shortest_edge":
            edge = math.ceil(self.size * max(Y / self.crop[0], X / self.crop[1]))  # type: ignore[operator]
            return dataclasses.replace(self, size=edge, crop=(Y, X))
        if self.resize in ("squash", "cover"):
            rows, columns = self.size  # type: ignore[misc]
            scaled = (math.ceil(rows * Y / self.crop[0]), math.ceil(columns * X / self.crop[1]))
            return dataclasses.replace(self, size=scaled, crop=(Y, X))
        return dataclasses.replace(self, crop=(Y, X))

    def __call__(self, images: Picture | Iterable[Picture], dtype: npt.DTypeLike = "float32") -> Array:
        """A path, PIL image or uint8 array, or a list of them -> pixels (B, C, Y, X).

        Raises InputError for a picture that cannot be read, or pictures that do not become of one size: `each` has them.
        """
        pixels = self.each(images, dtype)
        if not pixels:
            raise InputError("no picture given")
        shapes = {p.shape[1:] for p in pixels}
        if len(shapes) > 1 and self.sizing is not None:
            found = ", ".join(f"{Y}x{X}" for Y, X in sorted(shapes))
            raise InputError(f"for this model, what was given becomes pictures of different sizes ({found}): one at a time")
        if len(shapes) > 1:
            raise InputError("the pictures have different sizes and this model's preprocessing does not resize them")
        return np.stack(pixels)

    def each(self, images: Picture | Iterable[Picture], dtype: npt.DTypeLike = "float32") -> list[Array]:
        """A path, PIL image or uint8 array, or a list of them -> (C, Y, X) of each picture for the model, of any sizes."""
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            images = [images]
        check_pictures(images)
        return [self.normalize(levels).astype(dtype) for image in images for levels in self.levels(image)]

    def levels(self, image: Picture) -> list[Array]:
        """One picture -> (Y, X, C), values 0..255, of each that goes through the model: itself, or its tiles and thumbnail."""
        if self.sizing is None:
            return [self.resize_and_crop(image)]
        picture = upright(image, channels=self.channels)
        return carried_out(self.sizing.plan(picture.height, picture.width), picture, self.resample)

    def resize_and_crop(self, image: Picture) -> Array:
        """One picture -> (Y, X, C), values 0..255: uint8, or floats where `arithmetic` does not round to 8 bits.

        Raises InputError for a picture that this model sees in several pieces.
        """
        if self.sizing is not None:
            found = self.levels(image)
            if len(found) > 1:
                raise InputError(f"for this model, the picture becomes {len(found)} pictures: `levels` has them")
            return found[0]
        array = self.resized(upright(image, channels=self.channels))
        return array if self.crop is None else center_crop(array, self.crop, self.crop_rounding)

    def resized(self, picture: Image.Image) -> Array:
        """An upright picture -> (Y, X, C), before the crop."""
        if self.resize == "none":
            return as_array(picture)
        Y, X = self.target(picture.height, picture.width)
        if self.arithmetic == "pillow":
            return as_array(picture.resize((X, Y), RESAMPLES[self.resample]))
        if self.arithmetic == "torch":
            return resize_as_torch(as_array(picture), (Y, X), self.resample)
        floats = resize_as_tensorflow(as_array(picture), (Y, X))
        return floats.astype(np.uint8) if self.arithmetic == "tensorflow_uint8" else floats

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The size (Y, X) a picture is resized to. Raises InputError for one that would become far too long."""
        if self.sizing is not None:
            return self.sizing.plan(height, width).resized
        if self.resize == "none":
            return height, width
        if self.resize == "squash":
            return self.size  # type: ignore[return-value]
        if self.resize == "cover":
            rows, columns = self.size  # type: ignore[misc]
            ratio = min(height / rows, width / columns)
            target = round(height / ratio), round(width / ratio)  # timm's ResizeKeepRatio: half to even
        else:
            edge: int = self.size  # type: ignore[assignment]
            longer = int(edge * max(height, width) / min(height, width))  # transformers and torchvision round down
            target = (edge, longer) if height <= width else (longer, edge)
        if max(target) > MAX_SIDE:
            raise InputError(f"a picture of {height}x{width} pixels is too narrow: resized it would be {max(target)} long")
        return target

    def normalize(self, array: Array) -> Array:
        """(Y, X, C), values 0..255 -> (C, Y, X) float64, scaled and normalised."""
        pixels = array.transpose(2, 0, 1).astype(np.float64)
        if self.scale is not None:
            pixels *= self.scale
        if self.mean is not None and self.std is not None:
            pixels = (pixels - np.reshape(self.mean, (-1, 1, 1))) / np.reshape(self.std, (-1, 1, 1))
        return pixels


def check_pictures(images: Any) -> None:
    """Raise InputError for what is no list of pictures, though much of it could be gone through like one."""
    if isinstance(images, bytes | bytearray | memoryview) or hasattr(images, "read"):
        raise InputError(f"pictures are {in_words(images) if hasattr(images, 'read') else 'bytes'}: {OPEN_IT}")
    if hasattr(images, "detach"):
        raise InputError(f"pictures are {in_words(images)}: give tensor.numpy(), uint8 (Y, X, C), or pixels to model(pixels)")
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise InputError(f"pictures are {in_words(images)}: give {A_PICTURE}, or a list of them")


A_PICTURE = "a path, a PIL image or a uint8 array (Y, X, C)"
OPEN_IT = "PIL.Image.open makes a picture of an open file, or of io.BytesIO(bytes)"


def as_array(picture: Image.Image) -> Array:
    """A picture -> (Y, X, C) uint8."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def carried_out(plan: Plan, picture: Image.Image, resample: str) -> list[Array]:
    """A plan's pictures, in order, each (Y, X, C) uint8."""

    def resized(part: Image.Image, size: tuple[int, int]) -> Image.Image:
        return part.resize((size[1], size[0]), RESAMPLES[resample])

    if plan.boxes:
        parts = [picture.crop((left, top, right, bottom)) for top, left, bottom, right in plan.boxes]
        found = [as_array(resized(part, size)) for part, size in zip(parts, plan.of_tiles, strict=True)]
    else:
        whole = resized(picture if plan.first_resized is None else resized(picture, plan.first_resized), plan.resized)
        found = cut_into_tiles(as_array(whole), plan)
        picture = picture if plan.first_resized is None else whole
    if plan.thumbnail == "first":
        return [as_array(resized(picture, plan.pictures[0])), *found]
    return found if plan.thumbnail is None else [*found, as_array(resized(picture, plan.pictures[-1]))]


def cut_into_tiles(array: Array, plan: Plan) -> list[Array]:
    """array (Y, X, C) -> its tiles (tile Y, tile X, C), row by row; what is missing below and to the right is zeros."""
    missing = [(0, wanted - got) for wanted, got in zip(plan.canvas, array.shape[:2], strict=True)]
    (rows, columns), (Y, X) = plan.tiles, plan.tile
    blocks = np.pad(array, (*missing, (0, 0))).reshape(rows, Y, columns, X, -1)
    return list(blocks.swapaxes(1, 2).reshape(rows * columns, Y, X, -1))


def resize_as_torch(array: Array, size: tuple[int, int], resample: str) -> Array:
    """array (Y, X, C) -> (size, C) float64: torch's interpolate(antialias=True) of floats, "bilinear" or "bicubic"."""
    rows, columns = (RULES[f"{resample}_antialias"](old, new) for old, new in zip(array.shape[:2], size, strict=True))
    narrow = weighted_sums(columns, array.swapaxes(0, 1)).swapaxes(0, 1)  # (Y, new X, C)
    return weighted_sums(rows, narrow)


def weighted_sums(weights: Array, array: Array) -> Array:
    """weights (new, old), array (old, Z, C) -> (new, Z, C): weights @ array, for rows of weights that are mostly zeros.

    It adds in one order on every machine, which a matrix product does not.
    """
    used = weights != 0
    first = used.argmax(axis=1)
    count = max(weights.shape[1] - used[:, ::-1].argmax(axis=1) - first)
    padded = np.pad(weights, ((0, 0), (0, count)))  # where a row uses fewer points, more zeros follow
    total = np.zeros(())
    for n in range(count):
        weight = np.take_along_axis(padded, first[:, None] + n, axis=1)
        total = total + weight[..., None] * array[np.minimum(first + n, len(array) - 1)]
    return total


def resize_as_tensorflow(array: Array, size: tuple[int, int]) -> Array:
    """array (Y, X, C) -> (size, C) float32: tf.image.resize, "bilinear" and without antialiasing, bit by bit.

    Each new pixel is between four old ones, however many lie in between when a picture is made smaller. float32 and
    TensorFlow's own order of operations matter: where big_vision then cuts off to 8 bits, a last bit decides whether 100
    becomes 99 (tensorflow/core/kernels/image/resize_bilinear_op.cc).
    """
    (above, below, down), (left, right, across) = (
        tensorflow_neighbours(old, new) for old, new in zip(array.shape[:2], size, strict=True)
    )

    def between_columns(rows: Array) -> Array:
        """(new Y, new X, C)"""
        chosen = array[rows]
        start, end = chosen[:, left].astype(np.float32), chosen[:, right].astype(np.float32)
        return start + (end - start) * across[:, None]

    upper, lower = between_columns(above), between_columns(below)
    return upper + (lower - upper) * down[:, None, None]


def tensorflow_neighbours(old: int, new: int) -> tuple[Array, Array, Array]:
    """For each of `new` points, between which two of `old` it lies, and how far from the first: (new,) each, float32."""
    scale = np.float32(old) / np.float32(new)
    source = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    first = np.floor(source)
    return np.maximum(first, 0).astype(int), np.minimum(np.ceil(source), old - 1).astype(int), source - first


def center_crop(array: Array, crop: tuple[int, int], rounding: str = "down") -> Array:
    """array (Y, X, C) -> (crop Y, crop X, C): the middle; zeros are put around what is smaller.

    Odd remainders go as in transformers' image_transforms.center_crop ("down") or as in torchvision's
    transforms.functional.center_crop ("even"; timm's and open_clip's copies of it agree).
    """
    for axis in (0, 1):
        missing = crop[axis] - array.shape[axis]
        if missing > 0:
            padding = [(0, 0)] * 3
            before = math.ceil(missing / 2) if rounding == "down" else missing // 2
            padding[axis] = (before, missing - before)
            array = np.pad(array, padding)
    spare = [array.shape[axis] - crop[axis] for axis in (0, 1)]
    top, left = (n // 2 if rounding == "down" else round(n / 2) for n in spare)  # round: half to even
    return array[top : top + crop[0], left : left + crop[1]]


def upright(image: Picture, *, channels: int = 3) -> Image.Image:
    """A path, PIL image or uint8 array (Y, X[, C]) as an 8-bit "RGB" (or, for 1 channel, "L") image, turned upright.

    Transparent parts become white, as in transformers; 16-bit grey is scaled to 8 bits; EXIF rotation is applied.
    Raises InputError, naming the file, for a file that is no picture, is cut off, or is far too large.
    """
    name = str(image) if isinstance(image, str | os.PathLike) else "the picture"
    try:
        return _to_mode(_open(image), "RGB" if channels == 3 else "L")
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        text = " ".join(str(error).split())
        why = next(
            (why for kind, why in UNREADABLE.items() if isinstance(error, kind)), "a damaged or unsupported picture ({})"
        )
        raise InputError(f"{name}: {why.format(text)}") from error


UNREADABLE: dict[type[Exception], str] = {
    InputError: "{}",
    FileNotFoundError: "no such file",
    IsADirectoryError: "is a folder, not a picture",
    PermissionError: "not allowed to read it",
    Image.UnidentifiedImageError: "not a picture that Pillow can read",
    Image.DecompressionBombError: "too large ({})",
    MemoryError: "too large for this machine's memory",
}


def _open(image: Picture) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            many = ": give list(array)" if image.dtype == np.uint8 and image.ndim == 4 else ""
            prepared = ": floats are for model(pixels)" if image.dtype.kind == "f" else ""
            raise InputError(f"an array must be uint8 (Y, X, C), not {image.dtype} {image.shape}{many}{prepared}")
        if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
            first = ", array.transpose(1, 2, 0)" if image.shape[0] in (1, 3, 4) else ""
            raise InputError(f"an array of {image.shape}: channels (1, 3 or 4) come last, (Y, X, C){first}")
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    elif isinstance(image, str | os.PathLike):
        if not Path(image).is_file() and Path(image).exists() and not Path(image).is_dir():
            raise InputError("not a regular file")  # a pipe would be waited for, for ever
        if Path(image).is_file() and Path(image).stat().st_size == 0:
            raise InputError("the file is empty (0 bytes)")
        with _decoder(Path(image)) as opened:
            _load(opened)
            image = opened
    elif isinstance(image, Image.Image):
        _load(image)
    else:
        raise InputError(f"must be {A_PICTURE}, not {in_words(image)}")
    if 0 in image.size:
        raise InputError("a picture of no pixels")
    return ImageOps.exif_transpose(image)


def _load(image: Image.Image) -> None:
    """Decode a picture. Raises InputError for one that libtiff decodes in part: of bad fax codes it tells stderr alone."""
    if not any(tile[0] == "libtiff" for tile in getattr(image, "tile", ())):
        image.load()
        return
    failed: Exception | None = None
    with complaints() as complained:
        try:
            image.load()
        except Exception as error:
            failed = error
    if complained:
        raise InputError(f"a damaged picture ({complained[0]})") from failed
    if failed is not None:
        raise failed


def _decoder(path: Path) -> Image.Image:
    """Pillow's reader of a picture, by its content and not its name; but none that runs other programs."""
    try:
        return Image.open(path, formats=COMMON_FORMATS)  # whose plugins Pillow has at hand
    except Image.UnidentifiedImageError:
        Image.init()
        return Image.open(path, formats=[name for name in Image.ID if name not in RUN_PROGRAMS])


def _to_8_bits(deep: Array) -> Array:
    """Grey of 16 bits (Y, X) as 8 bits, rounded; a band at a time, since a large picture would take gigabytes."""
    shallow = np.empty(deep.shape, np.uint8)
    for start in range(0, len(deep), BAND):
        band = deep[start : start + BAND]
        shallow[start : start + BAND] = (np.clip(band, 0, 65535).astype(np.int32) + 128) // 257
    return shallow


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    elif image.mode == "F":
        raise InputError("a floating-point picture has no agreed range: save it with 8 or 16 bits")
    if image.mode == "La":
        image = image.convert("LA")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_SIDE


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_side, value))
