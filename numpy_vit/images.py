"""From a picture file to pixel values: read, turn upright, to RGB, resize, crop, rescale, normalise.

Pillow does the reading and the resizing; results equal those of transformers' PIL image processors.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .config import from_plain
from .errors import InputError

Array = Any
RESAMPLES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}
POLICIES = ("none", "squash", "shortest_edge")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
LARGEST_SIDE = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a model wants its pictures, step by step.

    channels   3 (RGB) or 1 (grey)
    resize     "none", "squash" (to exactly `size`, whatever the proportions), "shortest_edge" (to `size`, in proportion)
    size       (Y, X) for squash, a number for shortest_edge, None for none
    resample   "bilinear", "bicubic", ..., with Pillow's antialiasing
    crop       (Y, X) taken from the centre, zeros around a picture that is smaller; or None
    scale      each value 0..255 is multiplied by this (1/255), or None
    mean, std  one number a channel: (value - mean) / std; or None

    Calling it turns a picture or a list of pictures into (B, C, Y, X).
    """

    channels: int
    resize: str
    size: tuple[int, int] | int | None
    resample: str
    crop: tuple[int, int] | None
    scale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def __post_init__(self) -> None:
        for name in ("size", "crop", "mean", "std"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.channels not in (1, 3):
            raise InputError(f"preprocess: channels is {self.channels!r}: pictures have 1 (grey) or 3 (RGB)")
        for name, known in (("resize", POLICIES), ("resample", tuple(RESAMPLES))):
            if getattr(self, name) not in known:
                raise InputError(f"preprocess: {name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        wants_pair = self.resize == "squash"
        if self.resize != "none" and not (_is_pair(self.size) if wants_pair else _is_side(self.size)):
            what = "(height, width)" if wants_pair else "a number of pixels"
            raise InputError(f"preprocess: size is {self.size!r}: {self.resize} takes {what}")
        if self.crop is not None and not _is_pair(self.crop):
            raise InputError(f"preprocess: crop is {self.crop!r}: give (height, width)")
        if self.scale is not None and not (_is_number(self.scale) and self.scale > 0):
            raise InputError(f"preprocess: scale is {self.scale!r}: it must be a number above 0")
        if (self.mean is None) != (self.std is None):
            raise InputError("preprocess: mean and std go together")
        if self.mean is not None and self.std is not None:
            for name, values in (("mean", self.mean), ("std", self.std)):
                right = isinstance(values, tuple) and len(values) == self.channels and all(map(_is_number, values))
                if not right or (name == "std" and not all(values)):
                    raise InputError(f"preprocess: {name} is {values!r}: give {self.channels} numbers (std not 0)")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocess":
        """From plain data. Raises InputError for a field that is missing, unknown or senseless."""
        return from_plain(cls, values, "preprocess")

    def for_image(self, size: tuple[int, int]) -> "Preprocess":
        """The same policy for pictures of another size (Y, X): the crop, or the squash, becomes that size."""
        Y, X = size
        if self.crop is None:
            return dataclasses.replace(self, resize="squash", size=(Y, X))
        if self.resize == "shortest_edge":
            edge = math.ceil(self.size * max(Y / self.crop[0], X / self.crop[1]))  # type: ignore[operator]
            return dataclasses.replace(self, size=edge, crop=(Y, X))
        if self.resize == "squash":
            rows, columns = self.size  # type: ignore[misc]
            scaled = (math.ceil(rows * Y / self.crop[0]), math.ceil(columns * X / self.crop[1]))
            return dataclasses.replace(self, size=scaled, crop=(Y, X))
        return dataclasses.replace(self, crop=(Y, X))

    def __call__(self, images: Any, dtype: Any = "float32") -> Array:
        """A path, PIL image or uint8 array, or a list of them -> pixels (B, C, Y, X).

        Raises InputError for a picture that cannot be read, or pictures of different sizes with resize "none".
        """
        one = isinstance(images, str | os.PathLike | Image.Image | np.ndarray)
        if not one and not isinstance(images, Iterable):
            raise InputError(f"a picture must be a path, a PIL image or a uint8 array, not {type(images).__name__}")
        pixels = [self.normalize(self.resize_and_crop(image)) for image in ([images] if one else images)]
        if not pixels:
            raise InputError("no picture given")
        shapes = {p.shape for p in pixels}
        if len(shapes) > 1:
            raise InputError("the pictures have different sizes and this model's preprocessing does not resize them")
        return np.stack(pixels).astype(dtype)

    def resize_and_crop(self, image: Any) -> Array:
        """The uint8 stage. One picture -> (Y, X, C) uint8."""
        picture = upright(image, self.channels)
        if self.resize != "none":
            Y, X = self.target(picture.height, picture.width)
            picture = picture.resize((X, Y), RESAMPLES[self.resample])
        array = np.asarray(picture)
        array = array[..., None] if array.ndim == 2 else array
        return array if self.crop is None else center_crop(array, self.crop)

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The size (Y, X) a picture is resized to."""
        if isinstance(self.size, tuple):
            return self.size
        edge, short, long = self.size, min(height, width), max(height, width)
        if edge is None:
            return height, width
        longer = int(edge * long / short)  # transformers and torchvision round down
        if longer > LARGEST_SIDE:
            raise InputError(f"a picture of {height}x{width} pixels is too narrow: resized it would be {longer} long")
        return (edge, longer) if height <= width else (longer, edge)

    def normalize(self, array: Array) -> Array:
        """(Y, X, C) uint8 -> (C, Y, X) float64, scaled and normalised."""
        pixels = array.transpose(2, 0, 1).astype(np.float64)
        if self.scale is not None:
            pixels *= self.scale
        if self.mean is not None and self.std is not None:
            pixels = (pixels - np.reshape(self.mean, (-1, 1, 1))) / np.reshape(self.std, (-1, 1, 1))
        return pixels


def center_crop(array: Array, crop: tuple[int, int]) -> Array:
    """array (Y, X, C) -> (crop Y, crop X, C): the middle; zeros are put around what is smaller.

    Odd remainders go as in transformers' image_transforms.center_crop.
    """
    for axis in (0, 1):
        missing = crop[axis] - array.shape[axis]
        if missing > 0:
            padding = [(0, 0)] * 3
            padding[axis] = (math.ceil(missing / 2), missing - math.ceil(missing / 2))
            array = np.pad(array, padding)
    top, left = ((array.shape[axis] - crop[axis]) // 2 for axis in (0, 1))
    return array[top : top + crop[0], left : left + crop[1]]


def upright(image: Any, channels: int = 3) -> Image.Image:
    """A path, PIL image or uint8 array (Y, X[, C]) as an 8-bit "RGB" (or, for 1 channel, "L") image, turned upright.

    Transparent parts become white, as in transformers; 16-bit grey is scaled to 8 bits; EXIF rotation is applied.
    Raises InputError, naming the file, for what is no picture, is cut, or is absurdly large.
    """
    name = str(image) if isinstance(image, str | os.PathLike) else "the picture"
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on (a phone has 108) and refuses from 179 million on; it also warns of
            # damaged EXIF data, which do no harm.
            warnings.simplefilter("ignore")
            return _to_mode(_open(image), "RGB" if channels == 3 else "L")
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{name}: is a folder, not a picture") from error
    except PermissionError as error:
        raise InputError(f"{name}: not allowed to read it") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{name}: not a picture that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large ({' '.join(str(error).split())})") from error
    except MemoryError as error:
        raise InputError(f"{name}: too large for this machine's memory") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise InputError(f"{name}: a damaged or unsupported picture ({' '.join(str(error).split())})") from error


def _open(image: Any) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise InputError(f"an array must be uint8 (Y, X, C), not {image.dtype} {image.shape}")
        image = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    elif isinstance(image, str | os.PathLike):
        if not Path(image).is_file() and Path(image).exists() and not Path(image).is_dir():
            raise InputError("not a regular file")  # a pipe would be waited for, for ever
        if Path(image).is_file() and Path(image).stat().st_size == 0:
            raise InputError("the file is empty (0 bytes)")
        with Image.open(image) as opened:
            opened.load()
            image = opened
    elif not isinstance(image, Image.Image):
        raise InputError(f"must be a path, a PIL image or a uint8 array, not {type(image).__name__}")
    if 0 in image.size:
        raise InputError("a picture of no pixels")
    return ImageOps.exif_transpose(image)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))
    elif image.mode == "F":
        raise InputError("a floating-point picture has no agreed range: save it with 8 or 16 bits")
    if image.mode == "La":
        image = image.convert("LA")
    if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST_SIDE


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_side, value))
