"""Groups of ViTConfig's fields that only the encoders of multimodal models have.

Windows     blocks in which a token attends to its neighbours alone
Merger      what is made of the encoder's tokens for the language model
Deepstack   the same of inner blocks' tokens (Qwen3-VL)
"""

import dataclasses
from typing import Any

from .errors import InputError, check_known
from .fields import from_plain, is_number, whole_number

MAX_SIDE = 10_000
JOINS = ("concat", "unfold", "mean")
SIMPLE = ("norm", "gelu", "gelu_tanh", "silu", "softmax", "scale", "standardize", *JOINS)
WIDE = ("hidden", "output", "gated", "conv")
BIASED = ("hidden", "output", "conv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Attention within windows of side x side patches, cut from the top left; those at the edges are what is left over.

    side      patches along a window's side
    whole     the numbers of the blocks that attend to the whole picture all the same
    padded    those at the edges are filled up with tokens of zeros, which are attended to as others are (SAM, ViTDet)
    """

    side: int
    whole: tuple[int, ...] = ()
    padded: bool = False

    def __post_init__(self) -> None:
        whole_number("config: windows: side", self.side, 1, MAX_SIDE)
        if type(self.padded) is not bool:
            raise InputError(f"config: windows: padded is {self.padded!r}: it must be true or false")
        object.__setattr__(self, "whole", block_numbers("config: windows: whole", self.whole))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merger:
    """From the encoder's tokens to those that the language model sees.

    side      side x side neighbouring patches become one token (1: each patch stays one)
    stages    what is done, in this order; a digit after a name tells it from an earlier one:
              "norm"                     a norm over the numbers of a token
              "concat"                   the neighbours' tokens one after the other, row by row: side*side*D numbers
              "unfold"                   the same numbers as a convolution takes them: D times side*side
              "mean"                     the neighbours' mean
              "hidden 512", "output 64"  a linear layer to so many numbers
              "gated 512"                two of them, one the gate of the other through SiLU
              "conv 256"                 a convolution of 3 x 3 neighbouring tokens, of zeros beyond the border; before a join
              "gelu", "gelu_tanh", "silu"
              "softmax"                  over the numbers of a token (Ovis 2: how much of each word of a visual vocabulary)
              "scale"                    times the square root of the number of numbers
              "standardize"              shifted and scaled by learned numbers
    norm      "layer", "rms", or "unit": RMS without a learned scale
    eps       of these norms
    without_bias   linear layers that have none
    """

    side: int
    stages: tuple[str, ...]
    norm: str = "layer"
    eps: float = 1e-6
    without_bias: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole_number("config: merger: side", self.side, 1, MAX_SIDE)
        check_known("config: merger: norm", self.norm, ("layer", "rms", "unit"))
        if not is_number(self.eps) or self.eps <= 0:
            raise InputError(f"config: merger: eps is {self.eps!r}: it must be a number above 0")
        for name in ("stages", "without_bias"):
            texts = getattr(self, name)
            if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                raise InputError(f"config: merger: {name} {texts!r:.60}: give a list of names")
            object.__setattr__(self, name, tuple(texts))
        names = []
        for name, kind, width in self.parsed:
            if (kind in WIDE) != (width > 0) or kind not in (*SIMPLE, *WIDE):
                raise InputError(
                    f"config: merger: stage {name!r}: one of {', '.join(SIMPLE)}, or with a width {', '.join(WIDE)}"
                )
            names.append(name)
        if len(set(names)) < len(names):
            raise InputError(f"config: merger: stages {', '.join(names)}: a name is there twice (hidden, hidden2)")
        if sum(kind in JOINS for _, kind, _ in self.parsed) != (self.side > 1):
            raise InputError(f"config: merger: side {self.side}: one of the stages {', '.join(JOINS)} goes with a side above 1")
        kinds = [kind for _, kind, _ in self.parsed]
        if "conv" in kinds and any(kind in JOINS for kind in kinds[: len(kinds) - kinds[::-1].index("conv")]):
            raise InputError("config: merger: a convolution of tokens that are merged already is not supported")
        for name in self.without_bias:
            check_known("config: merger: without_bias", name, [name for name, kind, _ in self.parsed if kind in BIASED])

    @property
    def parsed(self) -> list[tuple[str, str, int]]:
        """The stages as (name, kind, width or 0): "hidden2 512" is ("hidden2", "hidden", 512)."""
        found = []
        for text in self.stages:
            name, _, width = text.partition(" ")
            found.append((name, name.rstrip("0123456789"), int(width) if width.isdecimal() and len(width) < 10 else 0))
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deepstack:
    """What the language model's first blocks are given of the encoder's inner ones (DeepStack, arXiv 2406.04334).

    blocks    the numbers of the blocks whose output is taken
    merger    what is made of it, by weights of its own for each block
    """

    blocks: tuple[int, ...]
    merger: Merger

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", block_numbers("config: deepstack: blocks", self.blocks))
        object.__setattr__(self, "merger", group(Merger, self.merger, "config: deepstack: merger"))


def group(kind: type, value: Any, what: str) -> Any:
    """A group that is one already, or is made of plain data. Raises InputError for anything else."""
    return value if isinstance(value, kind) else from_plain(kind, value, what)


def block_numbers(what: str, values: Any) -> tuple[int, ...]:
    """Numbers of blocks, in order. Raises InputError for anything else, or one that is there twice."""
    if not isinstance(values, list | tuple):
        raise InputError(f"{what} {values!r:.40}: give a list of block numbers")
    for value in values:
        whole_number(what, value, 0, MAX_SIDE)
    if sorted(set(values)) != list(values):
        raise InputError(f"{what} {list(values)!r:.60}: give each block once, in order")
    return tuple(int(value) for value in values)
