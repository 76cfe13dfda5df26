"""Rename tables for home-made models (`convert --map FILE`): a JSON file that says which of their tensors is which of ours.

    {
      "layout": "out in",
      "config": {"heads": 4, "eps": 1e-5, "activation": "relu", ...},
      "tensors": {
        "embed.projection": "patch_to_embedding",
        "embed.positions": "pos_embedding",
        "blocks.{n}.attention.query": {"from": "layers.{n}.to_qkv", "part": [0, 3]},
        "blocks.{n}.mlp.hidden": "layers.{n}.net.0",
        ...
      }
    }

layout    how linear weights lie: "out in" (torch) or "in out"
config    fields of ViTConfig that the tensors cannot tell
tensors   ours -> theirs. A layer's name stands for its weight and its bias (".weight", ".bias" are put after both); {n} is
          the block, and may be counted with: "arr_{5 + 58*n}". Instead of a name there may be an object with

    from      the name
    part      [i, n]: part i of n equal parts of their outputs (fused matrices)
    layout    of this one alone
    patch     "py px c": the patch projection's inputs are in this order, not (c, py, px)

A name with {h} stands for one tensor a head: they are joined. "left_out" lists patterns of tensors that are not needed.
"""

import ast
import dataclasses
import fnmatch
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ViTConfig, whole_number
from ..errors import InputError, about, nearest
from ..files.tensorfile import Tensor
from .family import Family
from .sources import read_json
from .table import Row, Table, Tensors

Array = Any
LAYOUTS = ("out in", "in out")
KEYS = ("layout", "config", "tensors", "left_out")
MOST = 10_000  # blocks, or heads


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one of our tensors, or a layer's two, comes from."""

    ours: str
    theirs: str
    part: tuple[int, int]
    layout: str
    patch_last: bool


def read_map(path: str | os.PathLike[str], told: Mapping[str, Any]) -> tuple[Family, dict[str, Any]]:
    """A rename table as a family, and the config fields it gives, with those told besides.

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
        entries = [entry(ours, theirs, layout) for ours, theirs in names.items()]
        known = [field.name for field in dataclasses.fields(ViTConfig)]
        for name in fields:
            if name not in known:
                raise InputError(f"config: unknown field '{name}'{nearest(name, known)}")
        told = {**fields, **told}
        for name in ("heads", "depth", "patch", "channels"):
            if name in told:
                whole_number(f"config: {name}", told[name], 1, MOST)
    rows = tuple(Row(e.ours, e.ours) for e in entries)
    family = Family(
        name="mapped",
        title=f"a model of {Path(path).name}",
        upstream=str(path),
        table=Table(rows, "plain"),
        marks=(),
        prepare=lambda tensors, config: renamed(entries, left_out, tensors, told),
    )
    return family, dict(told)


def entry(ours: str, theirs: Any, layout: Any) -> Entry:
    """One line of the table."""
    value = {"from": theirs} if isinstance(theirs, str) else theirs
    if not isinstance(value, dict) or not isinstance(value.get("from"), str):
        raise InputError(f"'{ours}': give a name, or an object with 'from'")
    unknown = value.keys() - {"from", "part", "layout", "patch"}
    if unknown:
        raise InputError(f"'{ours}': unknown key '{min(unknown)}'")
    part, layout, patch = value.get("part", [0, 1]), value.get("layout", layout), value.get("patch", "c py px")
    right = isinstance(part, list) and len(part) == 2 and all(type(n) is int for n in part) and 0 <= part[0] < part[1]
    if not right:
        raise InputError(f"'{ours}': part {part!r} is not [i, n] with 0 <= i < n")
    if layout not in LAYOUTS or patch not in ("c py px", "py px c"):
        raise InputError(f"'{ours}': layout is one of {', '.join(LAYOUTS)}, patch one of c py px, py px c")
    numbers_in(value["from"], n=0, h=0)
    return Entry(ours, value["from"], (part[0], part[1]), layout, patch == "py px c")


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


def renamed(entries: list[Entry], left_out: list[str], tensors: Tensors, told: Mapping[str, Any]) -> dict[str, Tensor]:
    """Their tensors under our names, in our layout; what no entry takes keeps its name."""
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for e in entries:
        blocks = range(told.get("depth", MOST)) if "{n" in e.ours or "n}" in e.ours else range(1)
        for n in blocks:
            some = [take(e, end, n, tensors, told, found, used) for end in ("", ".weight", ".bias")]
            if not any(some):
                break
    others = {name: tensor for name, tensor in tensors.items() if name not in used}
    return found | {name: t for name, t in others.items() if not any(fnmatch.fnmatchcase(name, p) for p in left_out)}


def take(
    e: Entry, end: str, n: int, tensors: Tensors, told: Mapping[str, Any], found: dict[str, Tensor], used: set[str]
) -> bool:
    """Put one tensor of ours into `found`, if theirs is there."""
    names = [numbers_in(e.theirs, n, 0) + end]
    if "h" in "".join(re.findall(r"\{([^{}]*)\}", e.theirs)):
        names = [numbers_in(e.theirs, n, h) + end for h in range(told.get("heads", 0))]
    if not names or not all(name in tensors for name in names):
        return False
    ours = numbers_in(e.ours, n, 0) + end
    is_weight, outputs_first = ours.endswith(".weight"), e.layout == "out in"
    parts = [tensors[name].data for name in names]
    matrix = is_weight and parts[0].ndim >= 2
    axis = 0 if matrix and outputs_first else -1
    data = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)
    (i, count), length = e.part, data.shape[axis] // e.part[1] if data.ndim else 0
    if count > 1:
        data = data[i * length : (i + 1) * length] if axis == 0 else data[..., i * length : (i + 1) * length]
    if matrix:
        data = data.reshape(len(data), -1).T if outputs_first else data.reshape(-1, data.shape[-1])
    if matrix and e.patch_last:
        P, C = told.get("patch"), told.get("channels")
        if not isinstance(P, int) or not isinstance(C, int) or len(data) != P * P * C:
            raise InputError(f"'{e.ours}': for patch order py px c, config must say the right patch and channels")
        data = data.reshape(P, P, C, -1).transpose(2, 0, 1, 3).reshape(data.shape)
    used.update(names)
    found[ours] = Tensor(tensors[names[0]].dtype, data)
    return True
