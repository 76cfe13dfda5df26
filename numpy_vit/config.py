"""What a Vision Transformer is, in numbers and choices; and the published variants.

`ViTConfig` has no default for anything: model families disagree on eps, activation, pooling and the rest, and a wrong
default gives an answer that is only nearly right.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from numbers import Integral
from typing import Any, TypeVar

from .errors import InputError, nearest

Kind = TypeVar("Kind")

DIGITS = "digits"  # what the shipped model is called

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")
POOLINGS = ("class", "mean")
POSITION_RULES = (
    "bicubic",
    "bicubic_antialias",
    "bicubic_dino",
    "bicubic_corners",
    "bilinear",
    "bilinear_corners",
    "bilinear_antialias",
)
LARGEST_SIZE = 1_000_000  # of any single size; above it a number is surely a slip
LARGEST_DEPTH = 1_000
LARGEST_TOKENS = 10_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The shape of a model and the choices its family made.

    image           (Y, X) pixels the position embeddings are for; one number means a square
    patch           P, pixels per patch side
    channels        C
    width           D, the length of a token
    depth           L, encoder blocks
    heads           H; each has K = D / H numbers
    mlp             M, the MLP's hidden width
    classes         O, or 0: no classification head
    pooler          R, the width of the tanh pooler, or 0: none
    eps             added to the variance in every layer norm
    activation      "gelu" (exact, erf), "gelu_tanh", "quick_gelu", "relu", "silu"
    pooling         "class" (the class token) or "mean" (of the patch tokens): what the head sees
    position_rule   how position embeddings are resized for another image size (numpy_vit.positions)
    qkv_bias        whether query, key and value have a bias

    Raises InputError where a value makes no sense.
    """

    image: tuple[int, int]
    patch: int
    channels: int
    width: int
    depth: int
    heads: int
    mlp: int
    classes: int
    pooler: int
    eps: float
    activation: str
    pooling: str
    position_rule: str
    qkv_bias: bool

    def __post_init__(self) -> None:
        for name, value in self._sizes():
            whole_number(f"config: {name}", value, 0 if name in ("classes", "pooler") else 1, LARGEST_SIZE)
            object.__setattr__(self, name, int(value))  # of NumPy's integers, Python's
        whole_number("config: depth", self.depth, 1, LARGEST_DEPTH)
        object.__setattr__(self, "image", check_image(self.image, self.patch))
        if self.width % self.heads:
            raise InputError(f"config: {self.heads} heads do not divide the width {self.width}")
        if (
            not isinstance(self.eps, int | float)
            or isinstance(self.eps, bool)
            or not (math.isfinite(self.eps) and self.eps > 0)
        ):
            raise InputError(f"config: eps is {self.eps!r}: it must be a number above 0")
        for name, known in (("activation", ACTIVATIONS), ("pooling", POOLINGS), ("position_rule", POSITION_RULES)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                raise InputError(f"config: {name} {value!r} is not one of {', '.join(known)}")
        if type(self.qkv_bias) is not bool:
            raise InputError(f"config: qkv_bias is {self.qkv_bias!r}: it must be true or false")

    def _sizes(self) -> list[tuple[str, Any]]:
        names = ("patch", "channels", "width", "depth", "heads", "mlp", "classes", "pooler")
        return [(name, getattr(self, name)) for name in names]

    @property
    def head_dim(self) -> int:
        """K = D / H."""
        return self.width // self.heads

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    @property
    def tokens(self) -> int:
        """N: the class token and the patches."""
        return 1 + self.grid[0] * self.grid[1]

    def sizes_of_run(self, batch: int, image: tuple[int, int]) -> dict[str, int]:
        """Every letter of numpy_vit.steps and its size, for `batch` pictures of `image` (Y, X) pixels."""
        Y, X = image
        return {**self.sizes, "B": batch, "Y": Y, "X": X, "N": 1 + (Y // self.patch) * (X // self.patch)}

    @property
    def sizes(self) -> dict[str, int]:
        """Every letter of numpy_vit.steps but B, and its size."""
        return {
            "C": self.channels,
            "Y": self.image[0],
            "X": self.image[1],
            "P": self.patch,
            "N": self.tokens,
            "D": self.width,
            "H": self.heads,
            "K": self.head_dim,
            "M": self.mlp,
            "L": self.depth,
            "O": self.classes,
            "R": self.pooler,
        }

    def replace(self, **changes: Any) -> "ViTConfig":
        """The same config with some fields changed. Raises InputError for an unknown field."""
        return ViTConfig.from_dict({**dataclasses.asdict(self), **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViTConfig":
        """A config from plain data. Raises InputError for a field that is missing or unknown."""
        return from_plain(cls, values, "config")


def from_plain(kind: type[Kind], values: Any, what: str) -> Kind:
    """A dataclass from plain data (`what` is for the errors). Raises InputError for a field that is missing or unknown."""
    if not isinstance(values, Mapping):
        raise InputError(f"{what} must be a JSON object, not {values!r:.40}")
    fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise InputError(f"{what}: unknown field '{name}'{nearest(name, fields)}")
    missing = [name for name in fields if name not in values]
    if missing:
        raise InputError(f"{what}: missing {', '.join(missing)}")
    return kind(**values)


def whole_number(what: str, value: Any, least: int, largest: int) -> None:
    """Raise InputError unless value is a whole number from least to largest."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= largest:
        raise InputError(f"{what} is {value!r}: it must be a whole number, {least} to {largest:,}")


def check_image(image: Any, patch: int) -> tuple[int, int]:
    """An image size (Y, X), or one number for a square, that a patch size fits. Raises InputError for another."""
    image = (image, image) if isinstance(image, Integral) else image
    if not isinstance(image, list | tuple) or len(image) != 2:
        raise InputError(f"config: image is {image!r}: give one number or (height, width)")
    for name, value in zip(("height", "width"), image, strict=True):
        whole_number(f"config: image {name}", value, 1, LARGEST_SIZE)
        if value % patch:
            raise InputError(f"config: image {name} {value} is not a multiple of the patch size {patch}")
    if (image[0] // patch) * (image[1] // patch) > LARGEST_TOKENS:
        raise InputError(
            f"config: an image of {image[0]}x{image[1]} has more than {LARGEST_TOKENS:,} patches of {patch}x{patch}"
        )
    return int(image[0]), int(image[1])


# Width, depth, heads, MLP width. Ti to H: google-research/vision_transformer, models/configs; g and G:
# "Scaling Vision Transformers" (arXiv 2106.04560), table 2.
SIZES = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
    "G": (1664, 48, 16, 8192),
}
LONG_NAMES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H", "giant": "g", "gigantic": "G"}
PUBLISHED = (
    ("Ti", 16), ("S", 32), ("S", 16), ("S", 8), ("B", 32), ("B", 16), ("B", 8),
    ("L", 32), ("L", 16), ("L", 14), ("H", 14), ("g", 14), ("G", 14),
)  # fmt: skip


def variants() -> list[str]:
    """The paper-style names of the published variants: "ViT-Ti/16" to "ViT-G/14"."""
    return [f"ViT-{size}/{patch}" for size, patch in PUBLISHED]


def variant(name: str) -> ViTConfig:
    """The config of a published variant by its paper-style or Hugging Face-style name.

    "ViT-B/16", "ViT-L/16@384", "vit-base-patch16-224", "google/vit-huge-patch14-224-in21k". Image size 224 and 1,000
    classes unless the name says otherwise; "-in21k" means the backbone with its tanh pooler and no head, as
    Hugging Face publishes it. Eps 1e-12 and exact GELU, as transformers runs them (`ViTConfig`); the original JAX code
    has eps 1e-6 and tanh GELU: use `.replace(eps=1e-6, activation="gelu_tanh")` for that.

    Raises InputError for a name that is no variant.
    """
    if not isinstance(name, str):
        raise InputError(f"{name!r} is not the name of a variant (known: {', '.join(variants())})")
    paper = re.fullmatch(r"ViT-([A-Za-z]+)/(\d+)(?:@(\d+))?()", name)
    hugging_face = re.fullmatch(r"(?:google/)?vit-([a-z]+)-patch(\d+)-(\d+)(-in21k)?", name)
    match = paper or hugging_face
    size = patch = None
    if match is not None:
        size, patch = LONG_NAMES.get(match[1]) if hugging_face else match[1], int(match[2])
    if match is None or (size, patch) not in PUBLISHED:
        long_names = {short: long for long, short in LONG_NAMES.items()}
        known = [*variants(), *(f"vit-{long_names[short]}-patch{p}-224" for short, p in PUBLISHED)]
        raise InputError(f"'{name}' is not a published variant{nearest(name, known)} (known: {', '.join(variants())})")
    width, depth, heads, mlp = SIZES[size]  # type: ignore[index]
    backbone_only = bool(match[4])
    image = int(match[3] or 224)
    return ViTConfig(
        image=(image, image),
        patch=patch,  # type: ignore[arg-type]
        channels=3,
        width=width,
        depth=depth,
        heads=heads,
        mlp=mlp,
        classes=0 if backbone_only else 1000,
        pooler=width if backbone_only else 0,
        eps=1e-12,
        activation="gelu",
        pooling="class",
        position_rule="bicubic",
        qkv_bias=True,
    )
