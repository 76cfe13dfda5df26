"""Tables of names: which of a family's tensors is which of ours, and how its numbers lie.

A table has a row for every tensor, or for the .weight and .bias of a layer. Several rows for one of ours are dialects of it:
the first whose tensor is in the file counts. What a model has is seen from what its file has (`measure`), so that a table is
all that most families need. Nothing is copied: converted tensors are views of the file's memory map.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..config import LINEARS, ViTConfig, check_image
from ..errors import InputError, nearest
from ..files.tensorfile import Tensor
from ..parameters import parameter_shapes

Array = Any
Tensors = Mapping[str, Tensor]
SHOWN = 6  # so many names of each side are listed where names do not fit


class Row(NamedTuple):
    ours: str  # {n} is the block; stands for .weight and .bias, or for one array
    theirs: str  # likewise; {end} stands for "weight" or "bias" where no dot or slash comes before
    part: tuple[int, int] = (0, 1)  # part i of n along the first axis: of matrices that hold several
    layout: str = ""  # how the numbers lie, where it is otherwise than in the rest of the table
    ones: int = 0  # axes of length 1 that theirs has in front (for writing; reading takes any)


@dataclasses.dataclass(frozen=True)
class Table:
    """rows, and how linear weights lie: "torch" (out, in), "flax" (in, out) with heads as an axis, "plain" (in, out)."""

    rows: tuple[Row, ...]
    layout: str

    @functools.cached_property
    def by_name(self) -> dict[str, list[Row]]:
        table: dict[str, list[Row]] = {}
        for row in self.rows:
            table.setdefault(row.ours, []).append(row)
        return table

    def candidates(self, ours: str) -> list[tuple[Row, str]]:
        """The rows for one of our tensors, and its full names in the file."""
        block = re.match(r"(?:blocks|deepstack)\.(\d+)\.", ours)
        pattern = re.sub(r"^(blocks|deepstack)\.\d+\.", r"\1.{n}.", ours)
        n = block[1] if block else ""
        stem, _, end = pattern.rpartition(".")
        whole = [(row, row.theirs.replace("{n}", n)) for row in self.by_name.get(pattern, ())]
        if end not in ("weight", "bias"):
            return whole
        return whole + [(row, self.full_name(row.theirs.replace("{n}", n), stem, end)) for row in self.by_name.get(stem, ())]

    def full_name(self, theirs: str, ours: str, end: str) -> str:
        """A layer's name -> its weight's, or its bias's."""
        if "{end}" in theirs:
            return theirs.replace("{end}", end)
        if self.layout != "flax":
            return f"{theirs}.{end}"
        return f"{theirs}/{end if end == 'bias' else 'scale' if 'norm' in ours else 'kernel'}"

    def patterns(self) -> dict[str, list[str]]:
        """Ours -> patterns of the names that the file may have for it."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            end = r"[./](weight|bias|kernel|scale)"
            name = re.escape(row.theirs).replace(r"\{n\}", r"\d+")
            name = name.replace(r"\{end\}", "(weight|bias)") if "{end}" in row.theirs else f"{name}({end})?"
            found.setdefault(row.ours, []).append(name)
        return found

    @functools.cached_property
    def known(self) -> re.Pattern[str]:
        """All names that a file may have."""
        return re.compile("|".join(f"(?:{name})" for names in self.patterns().values() for name in names))

    @functools.cached_property
    def projection(self) -> re.Pattern[str]:
        """The patch projection's weight, which every model has once, whatever comes before its name: (prefix)name."""
        names = {pattern for ours, ps in self.patterns().items() if ours.startswith("embed.projection") for pattern in ps}
        return re.compile("((?:.*[./])?)(?:" + "|".join(sorted(names)) + ")")

    def find(self, ours: str, tensors: Tensors) -> tuple[Row, str] | None:
        """The row and the name of one of our tensors in a file, or None. A single number without an axis is no such tensor."""
        return next(((row, name) for row, name in self.candidates(ours) if name in tensors and tensors[name].shape), None)

    def convert(
        self, tensors: Tensors, config: ViTConfig, whose: str, made: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """A file's tensors under our names and in our shapes; `made` are ours already, and no file has them.

        Raises InputError where any is missing, unused or mis-shaped.
        """
        converted, used, missing = dict(made or {}), set(), []
        for ours, shape in parameter_shapes(config).items():
            if ours in converted:
                continue
            found = self.find(ours, tensors)
            if found is None:
                missing.append(self.first(ours))
                continue
            row, theirs = found
            used.add(theirs)
            converted[ours] = self.take(row, theirs, tensors[theirs], ours, shape, config, whose)
        unused = sorted(tensors.keys() - used)
        if missing or unused:
            raise InputError(misfit(missing, unused, list(map(self.first, parameter_shapes(config))), whose))
        return converted

    def first(self, ours: str) -> str:
        """What one of our tensors is mostly called in this family; by our name where the table says nothing of it."""
        return next((name for _, name in self.candidates(ours)), ours)

    def take(
        self, row: Row, name: str, tensor: Tensor, ours: str, shape: tuple[int, ...], config: ViTConfig, whose: str
    ) -> Tensor:
        """One tensor of theirs as ours."""
        data, (i, count) = tensor.data, row.part
        length = len(data) // count if data.ndim else 0
        data = data[i * length : (i + 1) * length] if count > 1 else data
        layout = row.layout or self.layout
        try:
            taken = to_ours(layout, data, ours, shape, config)
        except (ValueError, IndexError, TypeError):
            taken = np.empty(0)
        if taken.shape != shape:
            wants = theirs_shape(layout, ours, shape, data.ndim, config)
            wants = (wants[0] * count, *wants[1:])
            raise InputError(f"tensor '{name}' is {tensor.shape}, {whose} says {wants}")
        return Tensor(tensor.dtype, taken)


def to_ours(layout: str, data: Array, ours: str, shape: tuple[int, ...], config: ViTConfig) -> Array:
    """A tensor in one of the layouts -> in our shape, linear weights (in, out). ValueError where it cannot be."""
    if layout == "patch_last":  # (D, P*P*C)
        P, C = config.patch, config.channels
        return data.reshape(-1, P, P, C).transpose(3, 1, 2, 0).reshape(shape)
    if ours == "embed.projection.weight" and layout == "flax":  # (P, P, C, D)
        return data.transpose(2, 0, 1, 3).reshape(shape)
    if layout == "torch" and ours.endswith(".weight") and len(shape) == 2:  # (out, in), of convolutions (D, C, P, P)
        return data.reshape(len(data), -1).T
    if layout == "flax" and data.size and (data.shape[0] == shape[0] or data.shape[-1] == shape[-1]):
        return data.reshape(shape)  # (D, H, K) or (H, K, D); biases (H, K)
    if layout == "flax" and len(shape) == 1:
        return data.reshape(shape)
    without_ones = data.reshape(data.shape[-len(shape) :]) if data.ndim > len(shape) else data
    return without_ones.reshape(shape) if without_ones.size == math.prod(shape) and min(shape) == 1 else without_ones


def theirs_shape(layout: str, ours: str, shape: tuple[int, ...], ndim: int, config: ViTConfig) -> tuple[int, ...]:
    """The shape a tensor of theirs should have had (`ndim` axes, if it can), for the error."""
    if ours == "embed.projection.weight" and layout == "torch" and ndim == 4:
        return config.width, config.channels, config.patch, config.patch
    if layout == "torch" and ours.endswith(".weight") and len(shape) == 2:
        return shape[::-1]
    return (1,) * (ndim - len(shape)) + shape


def first_names(names: list[str]) -> str:
    """The first of several names, and how many there are."""
    return ", ".join(names[:SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN else "")


def misfit(missing: list[str], unused: list[str], known: list[str], whose: str) -> str:
    """One line that sets the missing and the unused names side by side."""
    if not unused:
        return f"tensor '{missing[0]}' is missing{f' (and {first_names(missing[1:])})' if missing[1:] else ''}"
    if not missing:
        others = f" ({len(unused)} in all: {first_names(unused)})" if len(unused) > 1 else ""
        return f"tensor '{unused[0]}'{others} is not used by the model of {whose}{nearest(unused[0], known)}"
    both = f"missing: {first_names(missing)}; not used: {first_names(unused)}"
    return f"tensor '{missing[0]}' is missing{nearest(missing[0], unused)}; {both}"


def compare(table: Table, names: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """Names of a file against a table: (known, not known, what the table has and the file has not)."""
    patterns = {ours: "|".join(some) for ours, some in table.patterns().items()}
    whole = re.compile("|".join(patterns.values()))
    known: list[str] = []
    unknown: list[str] = []
    for name in names:
        (known if whole.fullmatch(name) else unknown).append(name)
    theirs = {row.ours: row.theirs for row in reversed(table.rows)}
    missing = [theirs[ours] for ours, pattern in patterns.items() if not any(map(re.compile(pattern).fullmatch, known))]
    return known, unknown, missing


# What a file tells of its model


def measure(table: Table, tensors: Tensors) -> dict[str, Any]:
    """The fields of ViTConfig that can be told from the tensors' presence and shapes; what cannot is left out."""

    def there(ours: str) -> bool:
        return table.find(ours, tensors) is not None

    def sides(ours: str) -> tuple[int, int]:
        """(in, out) of a linear layer."""
        found = table.find(f"{ours}.weight", tensors)
        return (0, 0) if found is None else in_out(table, found[0], tensors[found[1]].shape, ours)

    fields: dict[str, Any] = patch_fields(table, tensors)
    fields["depth"] = next(n for n in range(100_000) if not there(f"blocks.{n}.norm1.weight"))
    fields["mlp"] = sides("blocks.0.mlp.hidden")[1]
    inner = sides("blocks.0.attention.query")[1]
    fields |= {"inner": inner if inner != fields.get("width") else 0}
    fields |= {"classes": sides("head")[1], "pooler": sides("pooler")[1], "projection": sides("projection")[1]}
    for token in ("class_token", "distillation_token"):
        fields[token] = there(f"embed.{token}")
    registers = table.find("embed.registers", tensors)
    fields["registers"] = math.prod(tensors[registers[1]].shape[:-1]) if registers else 0
    block = "blocks.0."
    fields |= {
        "qkv_bias": there(f"{block}attention.query.bias"),
        "distillation_head": there("distillation_head.weight"),
        "pre_norm": there("embed.norm.weight"),
        "layer_scale": there(f"{block}layer_scale1"),
        "qk_norm": there(f"{block}attention.query_norm.weight"),
        "relative_positions": there(f"{block}attention.relative_positions"),
        "gated_mlp": there(f"{block}mlp.gate.weight"),
        "mlp_norm": there(f"{block}mlp.norm.weight"),
        "context_norm": there(f"{block}attention.context_norm.weight"),
        "map_mlp": sides("map.mlp.hidden")[1],
        "final_norm": "tokens" if there("norm.weight") else "pooled" if there("pooled_norm.weight") else "none",
    }
    if there("map.probe"):
        fields["pooling"] = "map"
    fields["without_bias"] = tuple(name for name in LINEARS if lacks_bias(name, fields, there))
    return fields | head_fields(table, tensors, inner) | grid_fields(table, tensors, fields)


def lacks_bias(name: str, fields: Mapping[str, Any], there: Any) -> bool:
    """Whether a linear layer is there, has no bias, and could have one."""
    full = name if name in ("embed.projection", "head") else f"blocks.0.{name}"
    applies = fields["qkv_bias"] if name == "attention.key" else True
    return bool(applies and there(f"{full}.weight") and not there(f"{full}.bias"))


def in_out(table: Table, row: Row, shape: tuple[int, ...], ours: str) -> tuple[int, int]:
    """(in, out) of a linear weight of theirs."""
    layout = row.layout or table.layout
    if layout == "torch":
        return math.prod(shape[1:]), shape[0] // row.part[1]
    if layout == "flax" and ours.endswith("attention.output"):
        return math.prod(shape[:-1]), shape[-1]
    return (shape[0], math.prod(shape[1:]) // row.part[1]) if shape else (0, 0)


def patch_fields(table: Table, tensors: Tensors) -> dict[str, Any]:
    """width, patch and channels, from the projection where it is stored as a convolution."""
    found = table.find("embed.projection.weight", tensors)
    shape = tensors[found[1]].shape if found else ()
    if len(shape) == 4 and table.layout == "flax":
        return {"patch": shape[0], "channels": shape[2], "width": shape[3]}
    if len(shape) == 4:
        return {"patch": shape[2], "channels": shape[1], "width": shape[0]}
    if found and found[0].layout == "patch_last" and len(shape) == 2:
        return {"width": shape[0], "channels": 3, "patch": math.isqrt(shape[1] // 3)}
    return {"width": in_out(table, found[0], shape, "embed.projection")[1]} if found and shape else {}


def head_fields(table: Table, tensors: Tensors, inner: int) -> dict[str, Any]:
    """The number of heads, where a shape tells it."""
    found = table.find("blocks.0.attention.query.weight", tensors)
    if found and table.layout == "flax" and len(tensors[found[1]].shape) == 3:
        return {"heads": tensors[found[1]].shape[1]}
    for ours, heads in (
        ("blocks.0.attention.relative_positions", lambda shape: shape[-1]),
        ("blocks.0.attention.query_norm.weight", lambda shape: 0 if shape[0] == inner else inner // max(shape[0], 1)),
    ):
        found = table.find(ours, tensors)
        if found and (count := heads(tensors[found[1]].shape)):  # 0: a norm of all heads together, or there is one head
            return {"heads": count}
    return {}


def grid_fields(table: Table, tensors: Tensors, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Which tokens have positions, and the image size, where the patches make a square."""
    patch, special = fields.get("patch", 0), fields["class_token"] + fields["distillation_token"]
    found = table.find("embed.positions", tensors)
    if found:
        rows = math.prod(tensors[found[1]].shape[:-1])
        for positions, patches in (("all", rows - special), ("patches", rows)):
            side = math.isqrt(max(patches, 0))
            if side and side * side == patches:
                return {"positions": positions, **({"image": side * patch} if patch else {})}
        return {}
    if fields["relative_positions"]:
        found = table.find("blocks.0.attention.relative_positions", tensors)
        distances = math.isqrt(max(tensors[found[1]].shape[0] - 3, 0)) if found else 0
        square = found and patch and distances**2 == tensors[found[1]].shape[0] - 3
        return {"positions": "none", **({"image": (distances + 1) // 2 * patch} if square else {})}
    return {"positions": "none"}


def positions_for(table: Table, tensors: Tensors, fields: Mapping[str, Any]) -> str | None:
    """Which tokens have positions, where the image size is known and one of the ways fits; else None."""
    found, patch = table.find("embed.positions", tensors), fields.get("patch")
    if found is None or fields.get("image") is None or not isinstance(patch, int) or patch < 1:
        return None if found else "none"
    Y, X = check_image(fields["image"], patch, whole=False)
    patches = (Y // patch) * (X // patch)
    rows = math.prod(tensors[found[1]].shape[:-1])
    special = fields["class_token"] + fields["distillation_token"]
    if fields["registers"] and rows == patches + special + fields["registers"]:
        raise InputError("its registers have positions of their own, which is not supported")
    return {patches + special: "all", patches: "patches"}.get(rows)
