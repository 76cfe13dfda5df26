"""Rename tables for home-made models (`convert --map FILE`): a JSON file that says which of their tensors is which of ours.

    {
      "layout": "out in",
      "norm_first": true,
      "config": {"heads": 4, "eps": 1e-5, "activation": "relu", ...},
      "tensors": {
        "embed.projection": "patch_to_embedding",
        "embed.positions": "pos_embedding",
        "blocks.{n}.attention.query": {"from": "layers.{n}.to_qkv", "part": [0, 3]},
        "blocks.{n}.mlp.hidden": "layers.{n}.net.0",
        ...
      }
    }

layout      how linear weights lie: "out in" (torch) or "in out"
norm_first  whether attention and MLP see normed tokens, as in the paper; torch's own layers norm afterwards unless told
            otherwise, with the same names: such models are not supported
config      fields of ViTConfig that the tensors cannot tell
tensors     ours -> theirs. A layer's name stands for its weight and its bias (".weight", ".bias" are put after both; or
            theirs has {end} in it: "in_proj_{end}"); {n} is the block, and may be counted with: "arr_{5 + 58*n}". Instead of a
            name there may be an object with

    from      the name
    part      [i, n]: part i of n equal parts of their outputs (fused matrices)
    packed    "3 H K" (the default): all of the query comes first; "H 3 K": each head's query, key and value
    layout    of this one alone
    patch     "py px c": the patch projection's inputs are in this order, not (c, py, px)

labels      class names, in a list
preprocess  how pictures are prepared: the fields of Preprocess, or of a preprocessor_config.json, or the name of a known way
left_out    patterns of tensors that are not needed

A name with {h} stands for one tensor a head: they are joined. Every line must take something, every tensor must be taken or
left out, and nothing is taken because of its name alone.
"""

import ast
import dataclasses
import difflib
import fnmatch
import functools
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ViTConfig
from ..errors import InputError, about, nearest
from ..fields import whole_number
from ..files.tensorfile import Tensor
from ..parameters import parameter_dims
from ..pictures.images import Preprocess
from .family import Family, OpenCheckpoint
from .hugging_face import OURS, activation
from .preprocessing import policy, read_preprocessor
from .sources import read_json
from .table import Row, Table, Tensors, first_names

Array = Any
LAYOUTS = ("out in", "in out")
PACKINGS = ("3 H K", "H 3 K")
KEYS = ("layout", "norm_first", "config", "tensors", "left_out", "labels", "preprocess")
LINE_KEYS = ("from", "part", "packed", "layout", "patch")
MOST = 10_000  # blocks, or heads


@dataclasses.dataclass(frozen=True)
class Line:
    """Where one of our tensors, or a layer's two, comes from."""

    ours: str
    theirs: str
    part: tuple[int, int]
    packed: str
    layout: str
    patch_last: bool

    @property
    def ends(self) -> tuple[str, ...]:
        """What is put after both names: a layer's name stands for two arrays."""
        return (".weight", ".bias") if pattern_of(self.ours) in our_names()[0] else ("",)

    def name_in_file(self, end: str, n: int, h: int) -> str:
        """Theirs, for one block and head."""
        name = numbers_in(self.theirs.replace("{end}", end[1:]), n, h)
        return name if "{end}" in self.theirs else name + end

    @property
    def counts_blocks(self) -> bool:
        return counts(self.ours, "n")


@functools.cache
def our_names() -> tuple[frozenset[str], frozenset[str]]:
    """(layers, arrays) that a model of ours may have, with {n} for the block."""
    common: dict[str, Any] = dict(
        image=4, patch=4, channels=1, width=4, depth=1, heads=1, mlp=4, classes=2, pooler=2, eps=1.0, activation="gelu",
        position_rule="bicubic", qkv_bias=True, registers=1, pre_norm=True, layer_scale=True, qk_norm=True, gated_mlp=True,
        mlp_norm=True, context_norm=True, projection=2,
    )  # fmt: skip
    distilled: dict[str, Any] = dict(distillation_token=True, distillation_head=True)
    configs = (
        ViTConfig(**common, **distilled, pooling="map", rope="centred_halves"),
        ViTConfig(**{**common, "registers": 0}, pooling="class", relative_positions=True, final_norm="pooled"),
    )
    arrays = {pattern_of(name) for config in configs for name in parameter_dims(config)}
    layers = {name.removesuffix(".weight") for name in arrays if name.endswith(".weight")}
    return frozenset(layers), frozenset(arrays)


def pattern_of(ours: str) -> str:
    """ "blocks.3.norm1", "blocks.{n + 1}.norm1" -> "blocks.{n}.norm1"."""
    return re.sub(r"^blocks\.(\d+|\{[^{}]*\})\.", "blocks.{n}.", ours)


def counts(pattern: str, letter: str) -> bool:
    """Whether {...} in a name counts with this letter."""
    return any(letter in re.findall(r"[a-z]+", inside) for inside in re.findall(r"\{([^{}]*)\}", pattern))


def read_map(
    path: str | os.PathLike[str], told: Mapping[str, Any], config_file: Mapping[str, Any]
) -> tuple[Family, dict[str, Any]]:
    """A rename table as a family, and the config fields it gives, with those told besides.

    `config_file`: a config.json in the form of Hugging Face's, or nothing; the table's own fields come first.
    Raises InputError for a table that makes no sense.
    """
    content = read_json(Path(path))
    with about(path):
        for key in content:
            if key not in KEYS:
                raise InputError(f"unknown key '{key}'{nearest(key, KEYS)} (known: {', '.join(KEYS)})")
        layout, names, fields = content.get("layout", "out in"), content.get("tensors"), content.get("config", {})
        left_out = content.get("left_out", [])
        if not isinstance(names, dict) or not names or not isinstance(fields, dict):
            raise InputError("'tensors' must be a table of ours -> theirs, 'config' a table of fields")
        if not isinstance(left_out, list) or not all(isinstance(pattern, str) for pattern in left_out):
            raise InputError("'left_out' must be a list of name patterns")
        check_norm_first(content.get("norm_first"))
        lines = [line(ours, theirs, layout) for ours, theirs in names.items()]
        check_doubles(lines)
        known = [field.name for field in dataclasses.fields(ViTConfig)]
        for name in fields:
            if name not in known:
                raise InputError(f"config: unknown field '{name}'{nearest(name, known)}")
        from_file, notes = fields_of(config_file)
        told = {**from_file, **fields, **told}
        for name in ("heads", "depth", "patch", "channels"):
            if name in told:
                whole_number(f"config: {name}", told[name], 1, MOST)
        labels = class_names(content.get("labels", config_file.get("id2label")))
    arrays = {ours for each in lines for ours in (each.ours + end for end in each.ends)}
    family = Family(
        name="mapped",
        title=f"a model of {Path(path).name}",
        upstream=str(path),
        table=Table(tuple(Row(ours, ours) for ours in sorted(arrays | {pattern_of(name) for name in arrays})), "plain"),
        marks=(),
        whole_names=True,
        prepare=lambda tensors, config: renamed(lines, left_out, tensors, told, path),
        says=lambda reading: reading.notes.extend(notes) or {},  # type: ignore[func-returns-value]
        labels=lambda reading, config: labels,
        preprocess=lambda reading, config: preprocess(content.get("preprocess"), config, reading, path),
    )
    return family, dict(told)


def check_norm_first(value: Any) -> None:
    """Raise InputError unless the table says that blocks norm first: their names do not tell, and the numbers differ."""
    if value is not True:
        raise InputError(
            'say "norm_first": true if attention and MLP see normed tokens, x + f(norm(x)). torch\'s '
            "nn.TransformerEncoderLayer does so with norm_first=True only; blocks that norm afterwards, norm(x + f(x)), "
            "are not supported"
        )


def check_doubles(lines: list[Line]) -> None:
    """Raise InputError where two lines give the same array."""
    seen: dict[str, str] = {}
    for each in lines:
        for end in each.ends:
            ours = each.ours + end
            if ours in seen:
                raise InputError(f"lines '{seen[ours]}' and '{each.ours}' both give '{ours}': take one away")
            seen[ours] = each.ours


def line(ours: str, theirs: Any, layout: Any) -> Line:
    """One line of the table, checked."""
    value = {"from": theirs} if isinstance(theirs, str) else theirs
    if not isinstance(value, dict) or not isinstance(value.get("from"), str):
        raise InputError(f"'{ours}': give a name, or an object with 'from'")
    unknown = value.keys() - set(LINE_KEYS)
    if unknown:
        raise InputError(f"'{ours}': unknown key '{min(unknown)}'{nearest(min(unknown), LINE_KEYS)}")
    layers, arrays = our_names()
    pattern = pattern_of(ours)
    if pattern not in layers | arrays:
        raise InputError(f"line '{ours}': no tensor of ours is called so{nearest(pattern, layers | arrays)}")
    part, layout, patch = value.get("part", [0, 1]), value.get("layout", layout), value.get("patch", "c py px")
    right = isinstance(part, list) and len(part) == 2 and all(type(n) is int for n in part) and 0 <= part[0] < part[1]
    if not right:
        raise InputError(f"'{ours}': part {part!r} is not [i, n] with 0 <= i < n")
    if layout not in LAYOUTS or patch not in ("c py px", "py px c") or value.get("packed", PACKINGS[0]) not in PACKINGS:
        raise InputError(
            f"line '{ours}': layout is one of {', '.join(LAYOUTS)}; patch of c py px, py px c; packed of {', '.join(PACKINGS)}"
        )
    found = Line(ours, value["from"], (part[0], part[1]), value.get("packed", PACKINGS[0]), layout, patch == "py px c")
    numbers_in(found.theirs.replace("{end}", ""), n=0, h=0)
    numbers_in(ours, n=0, h=0)
    if "{end}" in found.theirs and found.ends == ("",):
        raise InputError(f"line '{ours}': {{end}} stands for weight or bias, and this line is for one array")
    if found.counts_blocks != counts(found.theirs, "n") and not (
        found.counts_blocks and pattern.endswith("relative_positions")
    ):
        raise InputError(f"line '{ours}': {{n}}, the block, is on one side alone: '{found.theirs}'")
    return found


def numbers_in(pattern: str, n: int, h: int) -> str:
    """A pattern with its {...} computed: "arr_{5 + 58*n}" -> "arr_63". Only n, h, whole numbers, +, - and * are known."""

    def computed(match: re.Match[str]) -> str:
        try:
            return str(value_of(ast.parse(match[1].strip(), mode="eval").body, {"n": n, "h": h}))
        except (SyntaxError, ValueError, RecursionError) as error:
            raise InputError(f"'{pattern}': {{{match[1]}}} is not made of n, h, whole numbers, +, - and *") from error

    return re.sub(r"\{([^{}]{1,40})\}", computed, pattern)


def value_of(node: ast.AST, known: Mapping[str, int]) -> int:
    """A parsed sum of products. Raises ValueError for anything else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
        left, right = value_of(node.left, known), value_of(node.right, known)
        return left + right if isinstance(node.op, ast.Add) else left - right if isinstance(node.op, ast.Sub) else left * right
    raise ValueError("no such arithmetic")


# What else a table, or a config.json beside it, says


def fields_of(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields of ViTConfig that a config.json in Hugging Face's form gives, and notes on what is read of it."""
    found = {ours: config[key] for key, ours in OURS.items() if config.get(key) is not None}
    if "activation" in found:
        found["activation"] = activation(found["activation"])
    read = [key for key in OURS if config.get(key) is not None] + (["id2label"] if "id2label" in config else [])
    others = sorted(config.keys() - set(read))
    notes = [f"config.json: {', '.join(read)} are read; the rest is not ({first_names(others)})"] if config else []
    return found, notes if others or not config else [f"config.json: {', '.join(read)} are read"]


def class_names(value: Any) -> list[str] | None:
    """Labels: a list, or a table of "0", "1", ... Raises InputError for anything else."""
    if isinstance(value, dict) and set(value) == {str(n) for n in range(len(value))}:
        value = [value[str(n)] for n in range(len(value))]
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise InputError('labels must be a list of names, or a table of "0", "1", ... and names')
    return value


def preprocess(value: Any, config: ViTConfig, reading: OpenCheckpoint, path: str | os.PathLike[str]) -> Preprocess | None:
    """How pictures are prepared, as the table says it; None where it does not."""
    with about(f"{path}: preprocess"):
        if value is None:
            return None
        if isinstance(value, str):
            return policy(value, config.image, config.channels)
        if not isinstance(value, dict):
            raise InputError("give the fields of Preprocess or of a preprocessor_config.json, or the name of a known way")
        if any(key.startswith("do_") or key in ("image_mean", "image_processor_type") for key in value):
            return read_preprocessor(value, config.channels, reading.notes)
        return Preprocess.from_dict({"channels": config.channels, "crop": None, **value})


# The tensors


def renamed(
    lines: list[Line], left_out: list[str], tensors: Tensors, told: Mapping[str, Any], path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """`checked`; errors say of which table."""
    with about(path):
        return checked(lines, left_out, tensors, told)


def checked(lines: list[Line], left_out: list[str], tensors: Tensors, told: Mapping[str, Any]) -> dict[str, Tensor]:
    """Their tensors under our names, in our layout. Raises InputError for a line, or a tensor, that is left over."""
    depth = told.get("depth") or max((blocks_of(each, tensors, told) for each in lines if each.counts_blocks), default=1)
    found: dict[str, Tensor] = {}
    parts: dict[str, set[tuple[int, int]]] = {}
    idle: list[str] = []
    for each in lines:
        for n in range(depth) if each.counts_blocks else range(1):
            names = {end: names_for(each, end, n, told) for end in each.ends}
            there = [end for end in each.ends if names[end] and all(name in tensors for name in names[end])]
            if not there or there == [".bias"]:
                wanted = names[each.ends[0]]
                idle.append(takes_nothing(each, wanted[0] if wanted else each.theirs, n, tensors))
                break
            for end in there:
                ours = numbers_in(each.ours, n, 0) + end
                found[ours] = take(each, ours, [(name, tensors[name]) for name in names[end]], told)
                for name in names[end]:
                    check_once(parts.setdefault(name, set()), each, name)
    others = [name for name in tensors if name not in parts and not any(fnmatch.fnmatchcase(name, p) for p in left_out)]
    if idle:
        raise InputError("; ".join(idle[:3]) + (f"; {len(idle)} such lines in all" if idle[3:] else "") + left_over(others))
    missing = [name for name in REQUIRED if not any(pattern_of(each.ours) in (name, f"{name}.weight") for each in lines)]
    if missing:
        raise InputError(f"no line for {first_names(missing)}{left_over(others)}")
    if others:
        raise InputError(
            f"tensor '{others[0]}' is taken by no line{left_over(others)}: give it one, or name it in \"left_out\""
        )
    check_parts(parts)
    check_widths(lines, found, told)
    return found


REQUIRED = ("embed.projection", "blocks.{n}.norm1", "blocks.{n}.attention.query", "blocks.{n}.attention.key",
            "blocks.{n}.attention.value", "blocks.{n}.attention.output", "blocks.{n}.norm2", "blocks.{n}.mlp.hidden",
            "blocks.{n}.mlp.output")  # fmt: skip


def names_for(each: Line, end: str, n: int, told: Mapping[str, Any]) -> list[str]:
    """The tensors that a line takes for one block: several where each head has its own."""
    if not counts(each.theirs, "h"):
        return [each.name_in_file(end, n, 0)]
    if "heads" not in told:
        raise InputError(f"line '{each.ours}': one tensor a head: config must say how many heads")
    return [each.name_in_file(end, n, h) for h in range(told["heads"])]


def blocks_of(each: Line, tensors: Tensors, told: Mapping[str, Any]) -> int:
    """For how many blocks a line finds something."""
    if not counts(each.theirs, "n"):
        return 0
    return next(n for n in range(MOST) if not any(set(names_for(each, end, n, told)) & tensors.keys() for end in each.ends))


def takes_nothing(each: Line, wanted: str, n: int, tensors: Iterable[str]) -> str:
    """What is said of a line that finds nothing."""
    stems = sorted({name.removesuffix(".weight") for name in tensors if not name.endswith(".bias")} | set(tensors))
    wanted = wanted.removesuffix(".weight")
    close = difflib.get_close_matches(wanted, stems, n=3, cutoff=0.6)
    hint = f"; the nearest: {', '.join(close)}" if close else ""
    return f"line '{each.ours}' takes nothing{f' for block {n}' if n else ''}: the file has no '{wanted}'{hint}"


def left_over(names: list[str]) -> str:
    """What no line takes, for the error."""
    return f"; taken by no line: {first_names(names)}" if names else ""


def check_once(taken: set[tuple[int, int]], each: Line, name: str) -> None:
    """Raise InputError where a tensor, or a part of it, is taken twice."""
    if each.part in taken and not each.ours.endswith("relative_positions"):
        what = f"part {list(each.part)} of '{name}'" if each.part[1] > 1 else f"'{name}'"
        raise InputError(f"line '{each.ours}' takes {what}, which another line takes too")
    taken.add(each.part)


def check_parts(parts: Mapping[str, set[tuple[int, int]]]) -> None:
    """Raise InputError where a part of a tensor is taken and another is not."""
    for name, taken in parts.items():
        count = max(of for _, of in taken)
        for i in range(count):
            if (i, count) not in taken:
                raise InputError(f"part [{i}, {count}] of '{name}' is taken by no line ({len(taken)} of {count} parts are)")


def check_widths(lines: list[Line], found: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Raise InputError, naming the line, where a matrix does not take or give as many numbers as the norms have."""
    norm = found.get("blocks.0.norm1.weight")
    hidden = found.get("blocks.0.mlp.output.weight")
    if norm is None or norm.data.ndim != 1:
        return
    D, M = norm.shape[0], hidden.shape[0] if hidden is not None and hidden.data.ndim == 2 else None
    sides: dict[str, tuple[int | None, int | None]] = {
        "embed.projection": (None, D), "attention.query": (D, None), "attention.key": (D, None), "attention.value": (D, None),
        "attention.output": (None, D), "mlp.output": (None, D), "mlp.hidden": (D, M), "mlp.gate": (D, M), "pooler": (D, None),
    }  # fmt: skip
    if told.get("pooling") != "class_and_mean" and not told.get("pre_logits"):
        sides["head"] = (D, None)
    for each in lines:
        layer = pattern_of(each.ours).removeprefix("blocks.{n}.").removesuffix(".weight")
        tensor = found.get(numbers_in(each.ours, 0, 0).removesuffix(".weight") + ".weight")
        if layer not in sides or tensor is None:
            continue
        fits = tensor.data.ndim == 2 and all(w in (None, s) for w, s in zip(sides[layer], tensor.shape, strict=True))
        if not fits:
            wants = " to ".join("any" if side is None else str(side) for side in sides[layer])
            raise InputError(
                f"line '{each.ours}': read as '{each.layout}', '{each.theirs}' leads from {' to '.join(map(str, tensor.shape))}"
                f" numbers, not from {wants} (norm1 has {D}): is its layout right, and its part?"
            )


def take(each: Line, ours: str, theirs: list[tuple[str, Tensor]], told: Mapping[str, Any]) -> Tensor:
    """One array of ours from theirs: heads joined, the part taken, turned to (in, out)."""
    first, outputs_first = theirs[0][1], each.layout == "out in"
    arrays = [tensor.data for _, tensor in theirs]
    empty = next((f"'{name}' is {tensor.shape}" for name, tensor in theirs if not tensor.data.size), None)
    if empty:
        raise InputError(f"line '{each.ours}': {empty}, which are no numbers: give it a tensor that holds some")
    if len({tensor.dtype for _, tensor in theirs}) > 1:
        raise InputError(f"line '{each.ours}': '{theirs[0][0]}' and the other heads' are of different kinds of number")
    matrix = ours.endswith(".weight") and first.data.ndim >= 2
    heads_apart = not counts(each.theirs, "h") and re.search(r"attention\.(query|key|value)\.", ours) is not None
    if matrix and not outputs_first and heads_apart:  # (D, H, K) of Keras and flax
        arrays = [array.reshape(len(array), -1) for array in arrays]
    elif ours.endswith(".bias") and heads_apart:
        arrays = [array.reshape(-1) for array in arrays]
    axis = 0 if matrix and outputs_first else -1
    try:
        data = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)
    except ValueError as error:
        raise InputError(f"line '{each.ours}': the heads' tensors do not fit together ({error})") from error
    data = part_of(each, data, axis, told)
    if matrix and ours == "embed.projection.weight" and data.ndim == 4 and not outputs_first and not each.patch_last:
        raise InputError(f'line \'{each.ours}\': a kernel of 4 axes, outputs last, has "patch": "py px c": say so')
    if matrix:
        data = data.reshape(len(data), -1).T if outputs_first else data.reshape(-1, data.shape[-1])
    if matrix and each.patch_last:
        P, C = told.get("patch"), told.get("channels")
        if not isinstance(P, int) or not isinstance(C, int) or len(data) != P * P * C:
            raise InputError(f"'{each.ours}': for patch order py px c, config must say the right patch and channels")
        data = data.reshape(P, P, C, -1).transpose(2, 0, 1, 3).reshape(data.shape)
    return Tensor(first.dtype, data)


def part_of(each: Line, data: Array, axis: int, told: Mapping[str, Any]) -> Array:
    """Part i of n of the outputs, which lie along `axis`; of outputs packed (H, n, K) each head's."""
    i, count = each.part
    if count == 1:
        return data
    length = data.shape[axis] if data.ndim else 0
    heads = told.get("heads") if each.packed == "H 3 K" else 1
    if heads is None:
        raise InputError(f"line '{each.ours}': packed H 3 K: config must say how many heads")
    if length == 0 or length % (count * heads):
        raise InputError(
            f"line '{each.ours}': {length} outputs are not {count} equal parts" + (f" of {heads} heads" * (heads > 1))
        )
    outputs = np.moveaxis(data, axis, 0)
    taken = outputs.reshape(heads, count, length // count // heads, *outputs.shape[1:])[:, i]
    return np.moveaxis(taken.reshape(length // count, *outputs.shape[1:]), 0, axis)
