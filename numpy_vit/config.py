"""What a Vision Transformer is, in numbers and choices; and the published variants.

`ViTConfig` has no default for anything: model families disagree on eps, activation, pooling and the rest, and a wrong
default gives an answer that is only nearly right.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import field
from numbers import Integral
from typing import Any

from .errors import InputError, check_kind, check_known, in_words, nearest
from .fields import from_plain, is_number, to_plain, whole_number
from .groups import Deepstack, Merger, Windows, group

DIGITS = "digits"  # what the shipped model is called
PRECISIONS = ("float32", "float64", "portable")  # numpy_vit.arithmetic.precision

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")
POSITION_RULES = (
    "bicubic",
    "bicubic_antialias",
    "bicubic_dino",
    "bicubic_corners",
    "bilinear",
    "bilinear_corners",
    "bilinear_antialias",
    "bilinear_cropped",
    "linear_geometric",
    "nearest",
    "none",  # at no other size
)
ROPES = ("none", "centred_halves", "index_pairs", "index_halves", "column_pairs", "ladder_halves", "alternating_pairs",
         "alternating_halves", "ladder_pairs", "axis_halves")  # fmt: skip
LADDERS = ("ladder_halves", "ladder_pairs")  # with K/2 frequencies, others with K/4
GROUPS = {"windows": Windows, "merger": Merger, "deepstack": Deepstack}
LINEARS = ("embed.projection", "attention.key", "attention.output", "mlp.gate", "mlp.hidden", "mlp.output", "head")
MAY_BE_0 = {"minimum": 0}  # else 1
MAX_SIZE = 1_000_000  # of any single size; above it a number is surely a slip
MAX_DEPTH = 1_000
MAX_PATCHES = 10_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The shape of a model and the choices its family made.

    image           (Y, X) pixels the position embeddings are for; one number means a square. What P does not divide is not
                    used, at the right and bottom edge
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
    pooling         what the head sees: "class" (the class token), "mean" (of the patch tokens), "class_and_mean" (one after
                    the other), "map" (a learned query attends to all tokens; then an MLP), "query" (AIMv2: the same without
                    an MLP, and the query is not projected), "none" (a language model sees all tokens)
    position_rule   how position embeddings are resized for another image size (numpy_vit.positions); "none": not
    qkv_bias        whether query, key and value have a bias

    The rest is what later families add; the paper's model has none of it, and so has the default. Each comes with tensors of
    its own, or without some, so that a checkpoint is not read without it unnoticed (rope is the converters' to say).

    class_token          whether there is one
    distillation_token   DeiT: a second one, with a position of its own
    distillation_head    DeiT: and with a head of its own; the logits are the mean of both
    registers            DINOv2: so many more tokens, after these, without positions
    positions            learned positions of "all" tokens (but registers), of the "patches" alone, of their rows and columns
                         (the "axes": Gemma 4), "none"; or "sincos", sines and cosines of column and row (AIMv2)
    rope                 rotary positions: "none", "centred_halves" (DINOv3), "index_pairs" (EVA-02), "index_halves" (Qwen2-VL)
                         and others; see numpy_vit.rotary
    rope_grid            (rows, columns) that patches are counted in, whatever the image; or None
    rope_offset          the number of the first row and column
    rope_class_angle     MLCD: the class token is rotated too, by learned angles
    relative_positions   BEiT: a learned number for every head and distance is added to the scores
    pre_norm             CLIP: a layer norm before the first block
    relative_axes        MViT, SAM, ViTDet: a learned row for every distance in rows, and in columns; the query times both is
                         added to the scores
    layer_scale          CaiT, DeiT-3, DINOv2: what attention and MLP give is scaled before it is added
    qk_norm              a norm of query and key, for each head
    inner                H * K, where it is not D; or 0
    gated_mlp            SwiGLU: the activation is that of a gate, which the hidden numbers are multiplied with
    mlp_norm             EVA-02: a layer norm of the MLP's hidden numbers
    context_norm         EVA-02 CLIP, BEiT-3: and one of what the heads give, all H * K numbers, before the output layer
    map_heads, map_mlp   heads and hidden numbers of pooling "map" (Perception Encoder), where not those of the blocks; or 0
    final_norm           the last layer norm: of the "tokens" before pooling, of the "pooled" vector, or "none"
    pre_logits           old ImageNet-21k ViTs: the head sees the tanh pooler's output
    projection           CLIP: E, the width of the space shared with texts; or 0
    without_bias         linear layers that have no bias: some of "embed.projection", "attention.key" (where query and value
                         have one), "attention.output", "mlp.gate", "mlp.hidden", "mlp.output", "head"

    And what the encoders of multimodal models add (docs/multimodal.md).

    any_size             pictures come at their own size, and positions are made for it; `image` is one of many
    position_grid        (rows, columns) of the patches that learned positions are for, where not those of `image`; or None
    position_rows        how many rows, and columns, have a position, where positions are those of the "axes"
    norm                 "layer", or "rms": RMS norm wherever the encoder has one
    norm_places          "before" attention and MLP, "after" them, or "both"; always before the sum
    patch_norm           a norm of the projected patches, before there are positions
    qk_norm_of_heads     qk_norm is of each head by itself; or of all H * K numbers of a token
    value_norm           Gemma 4: an RMS norm of the values, without a scale
    scaled_scores        scores are divided by sqrt(K)
    clipped_linears      Gemma 4: what goes into a block's linear layer and comes out of it is kept within learned bounds
    windows              blocks in which patches attend to their neighbours alone (numpy_vit.groups.Windows), or None
    merger               what is made of the tokens for the language model (Merger), or None
    deepstack            and of inner blocks' tokens (Deepstack), or None

    Raises InputError where a value makes no sense.
    """

    image: tuple[int, int]
    patch: int
    channels: int
    width: int
    depth: int
    heads: int
    mlp: int
    classes: int = field(metadata=MAY_BE_0)
    pooler: int = field(metadata=MAY_BE_0)
    eps: float
    activation: str = field(metadata={"known": ACTIVATIONS})
    pooling: str = field(metadata={"known": ("class", "mean", "class_and_mean", "map", "query", "none")})
    position_rule: str = field(metadata={"known": POSITION_RULES})
    qkv_bias: bool

    class_token: bool = True
    distillation_token: bool = False
    distillation_head: bool = False
    registers: int = field(default=0, metadata=MAY_BE_0)
    positions: str = field(default="all", metadata={"known": ("all", "patches", "axes", "sincos", "none")})
    rope: str = field(default="none", metadata={"known": ROPES})
    rope_grid: tuple[int, int] | None = None
    rope_offset: int = field(default=0, metadata=MAY_BE_0)
    rope_class_angle: bool = False
    relative_positions: bool = False
    relative_axes: bool = False
    pre_norm: bool = False
    layer_scale: bool = False
    qk_norm: bool = False
    inner: int = field(default=0, metadata=MAY_BE_0)
    gated_mlp: bool = False
    mlp_norm: bool = False
    context_norm: bool = False
    map_heads: int = field(default=0, metadata=MAY_BE_0)
    map_mlp: int = field(default=0, metadata=MAY_BE_0)
    final_norm: str = field(default="tokens", metadata={"known": ("tokens", "pooled", "none")})
    pre_logits: bool = False
    projection: int = field(default=0, metadata=MAY_BE_0)
    without_bias: tuple[str, ...] = ()

    any_size: bool = False
    position_grid: tuple[int, int] | None = None
    position_rows: int = field(default=0, metadata=MAY_BE_0)
    norm: str = field(default="layer", metadata={"known": ("layer", "rms")})
    norm_places: str = field(default="before", metadata={"known": ("before", "after", "both")})
    patch_norm: bool = False
    qk_norm_of_heads: bool = True
    value_norm: bool = False
    scaled_scores: bool = True
    clipped_linears: bool = False
    windows: Windows | None = None
    merger: Merger | None = None
    deepstack: Deepstack | None = None

    def __post_init__(self) -> None:
        for given in dataclasses.fields(self):
            what, value = f"config: {given.name}", getattr(self, given.name)
            if given.type is int:
                whole_number(what, value, given.metadata.get("minimum", 1), MAX_SIZE)
                object.__setattr__(self, given.name, int(value))  # of NumPy's integers, Python's
            elif given.type is str:
                check_known(what, value, given.metadata["known"])
            elif given.type is bool and type(value) is not bool:
                raise InputError(f"{what} is {value!r}: it must be true or false")
        whole_number("config: depth", self.depth, 1, MAX_DEPTH)
        object.__setattr__(self, "image", check_image(self.image, self.patch, whole=False))
        if self.inner == self.width:
            object.__setattr__(self, "inner", 0)
        if self.inner_width % self.heads:
            what = "inner width" if self.inner else "width"
            raise InputError(f"config: {self.heads} heads do not divide the {what} {self.inner_width}")
        for own, of_blocks in (("map_heads", self.heads), ("map_mlp", self.mlp)):
            if getattr(self, own) == of_blocks:
                object.__setattr__(self, own, 0)
        if not is_number(self.eps) or self.eps <= 0:
            raise InputError(f"config: eps is {self.eps!r}: it must be a number above 0")
        self._check_options()

    def _check_options(self) -> None:
        """Raise InputError for options that are senseless, or do not go together."""
        for name, kind in GROUPS.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, group(kind, getattr(self, name), f"config: {name}"))
        names = [self.without_bias] if isinstance(self.without_bias, str) else self.without_bias
        if not isinstance(names, list | tuple) or not all(name in LINEARS for name in names):
            raise InputError(f"config: without_bias {names!r:.60}: give some of {', '.join(LINEARS)}")
        object.__setattr__(self, "without_bias", tuple(name for name in LINEARS if name in names))
        if self.positions == "patches" and not self.class_token:  # there are no others
            object.__setattr__(self, "positions", "all")
        if self.rope_grid is not None:
            object.__setattr__(self, "rope_grid", check_image(self.rope_grid, 1))
        if self.position_grid is not None:
            object.__setattr__(self, "position_grid", check_image(self.position_grid, 1))
        for wrong, why in (
            (self.pooling.startswith("class") and not self.class_token, f"pooling {self.pooling!r} needs a class token"),
            (self.distillation_token and not self.class_token, "a distillation token needs a class token beside it"),
            (self.distillation_head and not self.distillation_token, "a distillation head needs a distillation token"),
            (self.distillation_head and not self.classes, "a distillation head needs classes"),
            (self.pre_logits and not (self.pooler and self.classes), "pre_logits needs a pooler and classes"),
            (self.pooler and self.pooling == "class_and_mean", "a pooler goes with one pooled vector, not two"),
            (self.projection and self.pooling == "class_and_mean", "a projection goes with one pooled vector, not two"),
            (self.final_norm == "pooled" and self.pooling == "class_and_mean", "the norm of two pooled vectors is not known"),
            (self.rope != "none" and self.head_dim % 4, f"rotary positions need heads of 4, 8, ... not {self.head_dim}"),
            (self.rope in ("none", "centred_halves") and (self.rope_grid is not None or self.rope_offset),
             f"rope {self.rope!r} counts no rows and columns: rope_grid and rope_offset do not go with it"),
            (self.pooling == "none" and (self.classes or self.pooler or self.projection or self.final_norm == "pooled"),
             "pooling 'none' gives no vector for a head, a pooler, a projection or a norm"),
            ((self.map_heads or self.map_mlp) and self.pooling != "map", "map_heads and map_mlp go with pooling 'map'"),
            (self.map_heads and self.inner_width % self.map_heads,
             f"map_heads: {self.map_heads} heads do not divide the width {self.inner_width}"),
            (self.value_norm and self.norm != "rms", "value_norm goes with norm 'rms'"),
            (not self.qk_norm_of_heads and not self.qk_norm, "qk_norm_of_heads says of what qk_norm is"),
            (self.windows is not None and (self.special_tokens or self.relative_positions),
             "windows go with patches alone, and without relative_positions"),
            (self.relative_axes and (self.special_tokens or self.relative_positions),
             "relative_axes go with patches alone, and without relative_positions"),
            (self.windows is not None and self.windows.padded
             and (self.rope != "none" or self.qk_norm or self.value_norm or self.clipped_linears),
             "padded windows go without rope, qk_norm, value_norm and clipped_linears"),
            (self.relative_axes and self.windows is not None and not self.windows.padded,
             "relative_axes go with windows that are padded"),
            (self.position_grid is not None and (self.positions not in ("all", "patches") or self.relative_positions),
             "position_grid says for which patches there are learned positions, which are not there"),
            (self.positions in ("axes", "sincos") and self.special_tokens,
             f"positions of {self.positions!r} go with patches alone"),
            (self.positions == "sincos" and self.width % 4, "positions of 'sincos' need a width of 4, 8, ..."),
            (self.rope_class_angle and (self.rope in ("none", "axis_halves") or self.special_tokens != 1),
             f"rope_class_angle goes with a class token and no other, and not with rope {self.rope!r}"),
            ((self.positions == "axes") != (self.position_rows > 0), "positions 'axes' and position_rows go together"),
            (self.position_rows and max(self.grid) > self.position_rows, f"{max(self.grid)} patches in a row: there are "
             f"positions for {self.position_rows}"),
            (self.merger is not None and any(n % self.merger.side for n in self.grid),
             f"merger: the {self.grid[0]} x {self.grid[1]} patches cannot be merged by {self.merger and self.merger.side}"),
            (self.deepstack is not None and (self.merger is None or self.merger.side != self.deepstack.merger.side),
             "deepstack goes with a merger of as many patches"),
            (self.deepstack is not None and self.deepstack.blocks[-1:] >= (self.depth,),
             f"deepstack names a block that is not among the {self.depth}"),
            (self.relative_positions and (self.registers or self.distillation_token or not self.class_token),
             "relative positions go with a class token and no other"),
            (self.position_rule == "linear_geometric" and not (self.relative_positions and self.positions == "none"),
             "position_rule 'linear_geometric' is for relative positions alone"),
            ("mlp.gate" in self.without_bias and not self.gated_mlp, "without_bias names mlp.gate, which is not there"),
            ("attention.key" in self.without_bias and not self.qkv_bias, "without_bias names attention.key; qkv_bias says it"),
            ("head" in self.without_bias and not self.classes, "without_bias names head, which is not there"),
        ):  # fmt: skip
            if wrong:
                raise InputError(f"config: {why}")

    @property
    def inner_width(self) -> int:
        """H * K: D, unless the config says otherwise."""
        return self.inner or self.width

    @property
    def head_dim(self) -> int:
        """K: the inner width, which is mostly D, divided by H."""
        return self.inner_width // self.heads

    @property
    def map_sizes(self) -> dict[str, int]:
        """The letters that are others in pooling "map", and their sizes."""
        heads = self.map_heads or self.heads
        return {"H": heads, "K": self.inner_width // heads, "M": self.map_mlp or self.mlp}

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image[0] // self.patch, self.image[1] // self.patch

    def windows_of(self, block: int) -> Windows | None:
        """The windows that a block attends in, or None: to the whole picture."""
        return None if self.windows is None or block in self.windows.whole else self.windows

    def attended_grid(self, block: int) -> tuple[int, int]:
        """(rows, columns) of the patches that those of a block attend to: all, or those of a window."""
        windows = self.windows_of(block)
        return (windows.side, windows.side) if windows else self.grid

    @property
    def learned_grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches that learned positions are for."""
        return self.position_grid or self.grid

    @property
    def patches(self) -> int:
        """G: how many patches."""
        return self.grid[0] * self.grid[1]

    @property
    def special_tokens(self) -> int:
        """N - G: how many tokens come before the patches: the class token, and in some families others."""
        return self.class_token + self.distillation_token + self.registers

    @property
    def tokens(self) -> int:
        """N: the patches, the class token, and what other special tokens there are."""
        return self.special_tokens + self.patches

    @property
    def positioned_tokens(self) -> int:
        """How many tokens have a learned position."""
        special = self.class_token + self.distillation_token
        rows, columns = self.learned_grid
        return {"all": special + rows * columns, "patches": rows * columns}.get(self.positions, 0)

    @property
    def multiple(self) -> int:
        """Pixels: what the height and width of a picture must be a multiple of."""
        return self.patch * (self.merger.side if self.merger else 1)

    @property
    def image_tokens(self) -> int:
        """T: how many tokens a language model is given; all patches, where nothing is merged."""
        return self.patches // (self.merger.side**2 if self.merger else 1)

    def for_image(self, image: tuple[int, int]) -> "ViTConfig":
        """The same model for pictures of another size (Y, X). Raises InputError where its positions are for its own alone."""
        if self.position_rule == "none" and tuple(n // self.patch for n in image) != self.grid:
            size, own = ("x".join(map(str, n)) for n in (image, self.image))
            raise InputError(
                f"pictures of {size}: this model's way of placing patches at other sizes is not supported, only {own}"
            )
        return self if image == self.image else dataclasses.replace(self, image=image)

    def sizes_of_run(self, batch: int, image: tuple[int, int]) -> dict[str, int]:
        """Every letter of numpy_vit.steps and its size, for `batch` pictures of `image` (Y, X) pixels."""
        return {**self.for_image(image).sizes, "B": batch}

    @property
    def sizes(self) -> dict[str, int]:
        """Every letter of numpy_vit.steps but B, and its size."""
        return {
            "C": self.channels,
            "Y": self.image[0],
            "X": self.image[1],
            "P": self.patch,
            "G": self.patches,
            "N": self.tokens,
            "D": self.width,
            "H": self.heads,
            "K": self.head_dim,
            "M": self.mlp,
            "L": self.depth,
            "O": self.classes,
            "R": self.pooler,
            "E": self.projection,
            **({"T": self.image_tokens} if self.merger else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without the options that the paper's model does not have: `from_dict` gives the same config."""
        return to_plain(self)

    def replace(self, **changes: Any) -> "ViTConfig":
        """The same config with some fields changed. Raises InputError for an unknown field."""
        return ViTConfig.from_dict({**dataclasses.asdict(self), **changes})

    def overridden(self, changes: Mapping[str, Any]) -> "ViTConfig":
        """`replace` for a user's changes: an image or patch size that is among them must make whole patches."""
        config = self.replace(**changes)
        if {"image", "patch"} & changes.keys():
            check_image(config.image, config.patch)
        return config

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViTConfig":
        """A config from plain data. Raises InputError for a field that is missing or unknown."""
        return from_plain(cls, values, "config")


def check_image(image: Any, patch: int, whole: bool = True) -> tuple[int, int]:
    """An image size (Y, X), or one number for a square, of `whole` patches. Raises InputError for another.

    Not whole: a rest at the right and bottom edge is not used, as in SigLIP's 384 pixels in patches of 14.
    """
    image = (image, image) if isinstance(image, Integral) else image
    if not isinstance(image, list | tuple) or len(image) != 2:
        raise InputError(f"config: image is {image!r}: give one number or (height, width)")
    for name, value in zip(("height", "width"), image, strict=True):
        whole_number(f"config: image {name}", value, 1, MAX_SIZE)
        if value < patch:
            raise InputError(f"config: image {name} {value} is less than a patch of {patch}")
        if whole and value % patch:
            raise InputError(f"config: image {name} {value} is not a multiple of the patch size {patch}")
    if (image[0] // patch) * (image[1] // patch) > MAX_PATCHES:
        raise InputError(f"config: an image of {image[0]}x{image[1]} has more than {MAX_PATCHES:,} patches of {patch}x{patch}")
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
LONG_NAMES = {"Ti": "tiny", "S": "small", "B": "base", "L": "large", "H": "huge", "g": "giant", "G": "gigantic"}
PUBLISHED = (
    ("Ti", 16), ("S", 32), ("S", 16), ("S", 8), ("B", 32), ("B", 16), ("B", 8),
    ("L", 32), ("L", 16), ("L", 14), ("H", 14), ("g", 14), ("G", 14),
)  # fmt: skip
PAPER_STYLE = {f"ViT-{size}/{patch}": (size, patch) for size, patch in PUBLISHED}
HUGGING_FACE_STYLE = {f"vit-{LONG_NAMES[size]}-patch{patch}": (size, patch) for size, patch in PUBLISHED}


def variants() -> list[str]:
    """The paper-style names of the published variants: "ViT-Ti/16" to "ViT-G/14"."""
    return list(PAPER_STYLE)


def variant(name: str) -> ViTConfig:
    """The config of a published variant by its paper-style or Hugging Face-style name.

    "ViT-B/16", "ViT-L/16@384", "vit-base-patch16-224", "google/vit-huge-patch14-224-in21k". Image size 224 and 1,000
    classes unless the name says otherwise; "-in21k" means the backbone with its tanh pooler and no head, as
    Hugging Face publishes it. Eps 1e-12 and exact GELU, as transformers runs them (`ViTConfig`); the original JAX code
    has eps 1e-6 and tanh GELU: use `.replace(eps=1e-6, activation="gelu_tanh")` for that.

    Raises InputError for a name that is no variant.
    """
    check_kind("model", name, str, "a ViTConfig, or the name of a published variant (ViT-B/16, ...)")
    paper = re.fullmatch(r"(ViT-[A-Za-z]+/\d+)(?:@(\d+))?()", name)
    match = paper or re.fullmatch(r"(?:google/)?(vit-[a-z]+-patch\d+)-(\d+)(-in21k)?", name)
    known = PAPER_STYLE if paper else HUGGING_FACE_STYLE
    if match is None or match[1] not in known:
        raise InputError(f"{in_words(name)} is not a published variant{nearest_variant(name)} ({known_variants()})")
    size, patch = known[match[1]]
    width, depth, heads, mlp = SIZES[size]
    backbone_only = bool(match[3])
    return ViTConfig(
        image=check_image(int(match[2] or 224), patch),
        patch=patch,
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


def nearest_variant(name: str) -> str:
    """ "; did you mean 'ViT-B/16'?" for a name that is no variant's, or nothing."""
    return nearest(name, [*PAPER_STYLE, *(f"{known}-224" for known in HUGGING_FACE_STYLE)], alike=0.8)


def known_variants() -> str:
    """All of them, for a message."""
    return f"known: ViT-{', '.join(PAPER_STYLE).replace('ViT-', '')}"


def is_variant(name: str) -> bool:
    """Whether this is the name of a published variant."""
    try:
        return bool(variant(name))
    except InputError:
        return False


def config_given(model: Any) -> ViTConfig:
    """A config, a model that has one, or a variant's name -> the config. Raises InputError for anything else."""
    config = getattr(model, "config", model)
    return config if isinstance(config, ViTConfig) else variant(config)
