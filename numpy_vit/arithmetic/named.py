"""Arithmetics by name: what numbers look like in a narrower port, how they are rounded and scaled, where sums are cut.

An arithmetic is a short description (data/arithmetics.json), and a user's own is a JSON object of the same vocabulary.
numpy_vit.arithmetic.narrow runs the forward pass in it.
"""

import dataclasses
import fnmatch
import functools
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, nearest
from ..fields import from_plain, is_number
from .formats import FLOATS, ROUNDINGS

INTEGERS = {f"{sign}int{bits}": (sign, bits) for sign in ("", "u") for bits in (2, 3, 4, 5, 6, 7, 8, 12, 16)}
BLOCK_FORMATS = ("q8_0", "q4_0")
REQUANTISE = ("exact", "fixed", "onnx", "litert-reference", "litert-ruy", "litert-xnnpack")
RESULTS = ("products", "norms", "softmax", "activations", "others")


class Grid(NamedTuple):
    """The numbers (code - zero) * scale, for whole codes from low to high."""

    scale: float  # a float32
    zero: int
    low: int
    high: int


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What the numbers of one place look like.

    format      a float format (numpy_vit.arithmetic.formats.FLOATS), "int8", "uint8" and other widths, or ggml's "q8_0", "q4_0"
    per         what shares one scale: "tensor", "column" (of weights: one output), "block" (so many along the sum); None: no
                scale at all, for float formats
    block       so many numbers a block
    scale       what a scale is: "float32", a power of two ("power of two"; of blocks "e8m0"), or of blocks "float8-e4m3"
    symmetric   of integers: zero is code 0, and the lowest code is not used
    rounding    to the nearest with ties "even", "away" or "up", or "truncate" or "floor"
    saturation  what is too large becomes the largest ("clip"), or wraps around ("wrap")
    """

    format: str
    per: str | None = None
    block: int = 0
    scale: str = "float32"
    symmetric: bool = True
    rounding: str = "even"
    saturation: str = "clip"

    def __post_init__(self) -> None:
        known = (*FLOATS, *INTEGERS, *BLOCK_FORMATS)
        one_of("format", self.format, known)
        one_of("rounding", self.rounding, tuple(ROUNDINGS))
        one_of("saturation", self.saturation, ("clip", "wrap"))
        one_of("per", self.per, (None, "tensor", "column", "block"))
        one_of("scale", self.scale, ("float32", "power of two", "e8m0", "float8-e4m3"))
        if not isinstance(self.symmetric, bool):
            raise InputError(f"symmetric {self.symmetric!r:.40}: true or false")
        if type(self.block) is not int or not (2 <= self.block <= 65536 if self.per == "block" else self.block == 0):
            raise InputError(f"block {self.block!r:.40}: how many numbers share a scale, where it is per block, 2 to 65536")

    @property
    def is_integer(self) -> bool:
        return self.format in INTEGERS

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and highest code. A symmetric range has as many below zero as above."""
        sign, bits = INTEGERS[self.format]
        low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return (-high if self.symmetric and not sign else low), high


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How a port computes.

    name         what it is called
    about        in a sentence or two
    tensors      the float format of learned numbers that are in no matrix product, and of biases
    weights      of matrices, or None: as the other tensors
    inputs       what goes into a linear layer, brought to this at the moment; None: as it is
    attention    what goes into a product of two results (scores, context), likewise
    steps        every step is kept in these integers, with a scale and zero point measured before; None: in floating point
    fixed        step or pattern -> (scale, zero point) that are not measured
    skip         steps or patterns that stay in floating point all the same
    accumulator  what products are added up in: "float32", "float16", or of integers "int32" and other widths
    overflow     of integer accumulators: "exact" (never happens), "wrap", "saturate" (after every term), or "pairs" (two
                 neighbouring terms together, as x86's vpmaddubsw)
    requantise   how a sum becomes a step's integer: "exact", "fixed" (so many `multiplier_bits`), or as a runtime does
    results      operation -> the float format it is rounded to: "products", "norms", "softmax", "activations", and "others";
                 "inputs": the widest of what goes in
    """

    name: str
    about: str = ""
    tensors: str = "float32"
    weights: Numbers | None = None
    inputs: Numbers | None = None
    attention: Numbers | None = None
    steps: Numbers | None = None
    fixed: Mapping[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    skip: tuple[str, ...] = ()
    accumulator: str = "float32"
    overflow: str = "exact"
    requantise: str = "exact"
    multiplier_bits: int = 31
    results: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("tensors", self.tensors, tuple(FLOATS))
        one_of("overflow", self.overflow, ("exact", "wrap", "saturate", "pairs"))
        one_of("requantise", self.requantise, REQUANTISE)
        if not re.fullmatch(r"float32|float16|int([2-9]|[1-5]\d|6[0-4])", str(self.accumulator)):
            raise InputError(f"accumulator {self.accumulator!r:.40}: float32, float16, or intN, N being 2 to 64")
        if type(self.multiplier_bits) is not int or not 2 <= self.multiplier_bits <= 31:
            raise InputError(f"multiplier_bits {self.multiplier_bits!r:.40}: 2 to 31")
        for what, format in self.results.items():
            one_of("results of", what, RESULTS)
            one_of(f"results of {what}", format, ("inputs", *FLOATS))
        if self.steps is not None and (not self.steps.is_integer or self.steps.per not in (None, "tensor")):
            raise InputError("steps: integers, with one scale a tensor")
        if self.steps is not None and (self.weights is None or not self.weights.is_integer or self.weights.per == "block"):
            raise InputError("steps are integers: weights must be integers too, per tensor or per column")
        if self.whole_sums != (self.integer_products or self.block_products):
            raise InputError("accumulator: an integer's where weights and what they meet are integers, and else a float's")

    @property
    def whole_sums(self) -> bool:
        return self.accumulator.startswith("int")

    @property
    def integer_products(self) -> bool:
        """Whether linear layers multiply integers, each with one scale or one a column."""
        inputs = self.steps or self.inputs
        return inputs is not None and inputs.is_integer and inputs.per != "block"

    @property
    def block_products(self) -> bool:
        """Whether linear layers multiply ggml's blocks."""
        return self.inputs is not None and self.inputs.format in BLOCK_FORMATS

    @property
    def accumulator_bits(self) -> int:
        return int(self.accumulator.removeprefix("int"))

    def result(self, what: str) -> str:
        """The float format that an operation's result is rounded to, or "inputs"."""
        return self.results.get(what, self.results.get("others", "float32"))

    def is_kept_in_integers(self, step: str) -> bool:
        """Whether a step is; tables of rotations, which are made of no picture and no weights, never are."""
        return (
            self.steps is not None
            and "rope_" not in step
            and not any(fnmatch.fnmatchcase(step, pattern) for pattern in self.skip)
        )

    def fixed_grid(self, step: str) -> Grid | None:
        """The grid of a step, where it is given and not measured."""
        for pattern, (scale, zero) in self.fixed.items():
            if self.steps is not None and fnmatch.fnmatchcase(step, pattern):
                return Grid(float(np.float32(scale)), zero, *self.steps.range)
        return None

    def to_plain(self) -> dict[str, Any]:
        """As JSON has it: the inverse of `arithmetic_from`."""
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
            if value != default:
                if isinstance(value, Numbers):
                    value = {f.name: v for f in dataclasses.fields(value) if (v := getattr(value, f.name)) != f.default}
                elif isinstance(value, Mapping):
                    value = {key: list(v) if isinstance(v, tuple) else v for key, v in value.items()}
                plain[field.name] = list(value) if isinstance(value, tuple) else value
        return plain


def one_of(what: str, value: Any, known: tuple[Any, ...]) -> None:
    """Raise InputError unless value is one of those that are known."""
    if value not in known:
        words = ", ".join(str(k) for k in known if k is not None)
        raise InputError(f"{what} {value!r:.40}: one of {words}{nearest(value, [k for k in known if k]) if value else ''}")


def arithmetic_from(values: Any, name: str) -> Arithmetic:
    """An arithmetic from plain data (data/arithmetics.json has examples). Raises InputError, which names the field."""
    if not isinstance(values, Mapping):
        raise InputError(f"an arithmetic is a JSON object, not {values!r:.40}")
    plain = {"name": name, **values}
    for place in ("weights", "inputs", "attention", "steps"):
        if plain.get(place) is not None:
            plain[place] = from_plain(Numbers, plain[place], place)
    for place, kind, words in (
        ("fixed", Mapping, "a JSON object"),
        ("results", Mapping, "a JSON object"),
        ("skip", list, "a list"),
    ):
        if place in plain and not isinstance(plain[place], kind):
            raise InputError(f"{place} must be {words}, not {plain[place]!r:.40}")
    for place in ("name", "about"):
        if not isinstance(plain.get(place, ""), str) or not plain.get(place, "").isprintable():
            raise InputError(f"{place} must be printable text, not {plain[place]!r:.40}")
    if not all(isinstance(pattern, str) for pattern in plain.get("skip", ())):
        raise InputError("skip must be a list of steps or patterns")
    plain["skip"] = tuple(plain.get("skip", ()))
    fixed = {}
    for pattern, pair in plain.get("fixed", {}).items():
        if not (
            isinstance(pair, list | tuple) and len(pair) == 2 and is_number(pair[0]) and type(pair[1]) is int and pair[0] > 0
        ):
            raise InputError(f"fixed: '{pattern}' must be [scale above 0, whole zero point], not {pair!r:.40}")
        fixed[pattern] = (float(pair[0]), pair[1])
    return from_plain(Arithmetic, {**plain, "fixed": fixed}, "an arithmetic")


@functools.cache
def named() -> dict[str, Arithmetic]:
    """The arithmetics that have a name."""
    text = (resources.files(__package__) / "data" / "arithmetics.json").read_text(encoding="utf-8")
    return {name: arithmetic_from(values, name) for name, values in json.loads(text).items()}


def arithmetic_named(name: str) -> Arithmetic:
    """Raises InputError for a name that is none of them."""
    if name not in named():
        raise InputError(f"arithmetic '{name}': one of {', '.join(named())}{nearest(name, named())}")
    return named()[name]
