"""Which of a port's arrays is which step: by our names, by the module names of the families that convert, or by a mapping file.

A module's name stands for what a forward hook sees as its output; of a tuple, item 1 is named `<module>.1`. Layouts that
differ only by a reshape (no batch axis, heads side by side, a convolution's output) are taken as they are.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..convert import FAMILIES
from ..errors import InputError, about, nearest
from ..files.jsonfile import described, read_json
from ..files.tensorfile import Tensor
from .folder import DTYPES, WHOLE

Array = Any
PREFIX = (
    r"(?:(?:vit|model|module|backbone|vision_model|vision_tower|vision_encoder|image_encoder|visual|vision|trunk|base_model|deit|"
    r"dinov2|dinov2_with_registers|dinov3_vit|beit|clip|siglip|ijepa|yolos|pixio|moonvit)[./])*"
)
BLOCK = "blocks.{}."

# Module name (a pattern; its group is the block's number) -> our steps. Of several modules for one step the first counts.
HUGGING_FACE: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"pixel_values", ("pixels",)),
    (r"embeddings\.patch_embeddings(?:\.projection)?", ("embed.projection",)),
    (r"embeddings(?:\.dropout)?", ("embed.positions",)),
    (r"(?:encoder\.)?hidden_states\.(\d+)", ("hidden_states.{}",)),
    # transformers 5
    (r"layers\.(\d+)\.attention\.1", (BLOCK + "attention.probs",)),
    (r"layers\.(\d+)\.attention(?:\.o_proj|\.0)?", (BLOCK + "attention.output",)),
    (r"layers\.(\d+)\.mlp\.activation_fn", (BLOCK + "mlp.activation",)),
    (r"layers\.(\d+)\.mlp(?:\.fc2)?", (BLOCK + "mlp.output",)),
    (r"layers\.(\d+)(?:\.0)?", (BLOCK + "residual2",)),
    # transformers 4
    (r"encoder\.layer\.(\d+)\.attention(?:\.attention)?\.1", (BLOCK + "attention.probs",)),
    (r"encoder\.layer\.(\d+)\.attention\.attention(?:\.0)?", (BLOCK + "attention.context",)),
    (r"encoder\.layer\.(\d+)\.attention(?:\.output(?:\.dense)?|\.0)?", (BLOCK + "attention.output",)),
    (r"encoder\.layer\.(\d+)\.intermediate(?:\.intermediate_act_fn)?", (BLOCK + "mlp.activation",)),
    (r"encoder\.layer\.(\d+)(?:\.output|\.0)?", (BLOCK + "residual2",)),
    (r"attentions\.(\d+)", (BLOCK + "attention.probs",)),
    (r"layernorm|last_hidden_state", ("norm",)),
    (r"pooler(?:\.activation)?|pooler_output", ("pooler",)),
    (r"classifier|logits", ("logits",)),
)
TIMM: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"patch_embed(?:\.proj|\.norm)?", ("embed.projection",)),
    (r"pos_drop|patch_drop|norm_pre", ("embed.positions",)),
    (r"blocks\.(\d+)\.attn\.q_norm", (BLOCK + "attention.query",)),
    (r"blocks\.(\d+)\.attn\.k_norm", (BLOCK + "attention.key",)),
    (r"blocks\.(\d+)\.attn\.attn_drop", (BLOCK + "attention.probs",)),
    (r"blocks\.(\d+)\.attn\.norm", (BLOCK + "attention.context",)),
    (r"blocks\.(\d+)\.(?:attn(?:\.proj(?:_drop)?)?|ls1|drop_path1)", (BLOCK + "attention.output",)),
    (r"blocks\.(\d+)\.mlp\.(?:act|drop1|norm)", (BLOCK + "mlp.activation",)),
    (r"blocks\.(\d+)\.(?:mlp(?:\.fc2|\.drop2)?|ls2|drop_path2)", (BLOCK + "mlp.output",)),
    (r"fc_norm|head_drop", ("pool",)),
)
MODULES = [(re.compile(PREFIX + f"(?:{pattern})"), ours) for pattern, ours in HUGGING_FACE + TIMM]

# Modules that hold others, and dropout that is used twice: hooks see them, and no step is missing without them.
CONTAINERS = re.compile(PREFIX + r"(?:blocks|layers|encoder(?:\.layer)?|vit|layers\.\d+\.dropout)")

# Steps that are the output of a layer of the same name; and two that are called otherwise.
LAYERS = re.compile(
    r"(?:.*\.)?(?:projection|norm\d?(?:_after)?|\w+_norm|query|key|value|gate|(?:hidden|output|conv)\d?|layer_scale[12]|(?:\w+_)?head)"
)
STEPS_OF = {"head": "logits", "distillation_head": "distillation_logits", "projection": "image_embedding"}

# Modules that give what their last layer gives; of a tuple, item 1 are the probabilities.
ATTENTIONS = re.compile(r"(.*\.(?:attn|attention|self_attn|self_attention)|.*/MultiHeadDotProductAttention_\d)[./][^./]+")
MLPS = re.compile(r"(.*\.(?:mlp|feed_forward)|.*/MlpBlock_\d)[./][^./]+")
ACTIVATIONS = r"(?:act|act_fn|activation|activation_fn|gelu)"


Modules = list[tuple[re.Pattern[str], tuple[str, ...]]]


@functools.cache
def modules() -> Modules:
    """A pattern of a module's name -> our steps: by the families' tables, since a layer's output is called as its weights are,
    then by MODULES."""
    found = dict.fromkeys(row for name in FAMILIES for row in modules_of(name))
    return [(re.compile(PREFIX + f"(?:{pattern})"), ours) for pattern, ours in found] + MODULES


@functools.cache
def modules_of(family: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The same of one family, without what may come before its names."""
    found: list[tuple[str, tuple[str, ...]]] = []
    flax = FAMILIES[family].table.layout == "flax"
    named: dict[str, dict[tuple[int, int], str]] = {}
    for row in FAMILIES[family].table.rows:
        theirs = re.sub(r"(?<!\})\.[^.]+$", "", row.theirs) if "layer_scale" in row.ours else row.theirs
        if "{n}" in theirs and row.ours.startswith("blocks."):
            named.setdefault(theirs[: theirs.index("{n}") + 3], {(0, 1): BLOCK + "residual2"})
        if not LAYERS.fullmatch(row.ours):
            continue
        if "{end}" not in row.theirs:
            named.setdefault(theirs, {})[row.part] = STEPS_OF.get(row.ours, row.ours).replace("{n}", "{}")
        for parents, part, step in ((ATTENTIONS, "attention", "attention.output"), (MLPS, "mlp", "mlp.output")):
            parent = parents.fullmatch(row.theirs)
            if parent and row.ours.startswith(f"blocks.{{n}}.{part}."):
                named.setdefault(parent[1], {(0, 1): BLOCK + step})
                named.setdefault(parent[1] + ".0", {(0, 1): BLOCK + step} if part == "attention" else {})
                named.setdefault(parent[1] + ".1", {(0, 1): BLOCK + "attention.probs"} if part == "attention" else {})
    for theirs, parts in named.items():
        if parts:
            pattern = re.escape(theirs).replace(r"\{n\}", r"(\d+)")
            called = r"(?:[/.]__call__(?:[/.]0)?)?" if flax else ""  # of flax's capture_intermediates
            found.append((pattern.replace("/", "[/.]") + called, tuple(ours for _, ours in sorted(parts.items()))))
    mlps = {parent[1] for row in FAMILIES[family].table.rows if (parent := MLPS.fullmatch(row.theirs)) and "{n}" in row.theirs}
    for mlp in sorted(mlps):
        found.append((re.escape(mlp).replace(r"\{n\}", r"(\d+)") + rf"\.{ACTIVATIONS}", (BLOCK + "mlp.activation",)))
    return tuple(found)


@functools.cache
def names_only_of() -> dict[str, list[re.Pattern[str]]]:
    """Family -> the names of its blocks' layers that no other family has: "blocks.0.norm0" is MoonViT's.

    Of such a dump another name means what it means there, though elsewhere, or with us, it means something else.
    """
    of = {family: {pattern for pattern, _ in modules_of(family)} for family in FAMILIES}
    only = {}
    for family, patterns in of.items():
        others = set().union(*(them for other, them in of.items() if other != family))
        meant = dict(modules_of(family))
        elsewhere = {p: ours for other in FAMILIES if other != family for p, ours in modules_of(other)}
        if any(p in elsewhere and elsewhere[p][:1] != meant[p][:1] and "blocks" in meant[p][0] for p in patterns):
            only[family] = [re.compile(PREFIX + f"(?:{pattern})") for pattern in patterns - others]
    return only


def family_of_names(names: Iterable[str]) -> str | None:
    """The family that alone has one of these names, where it uses others' names for something else; mostly None."""
    names = list(names)
    found = [f for f, patterns in names_only_of().items() if any(p.fullmatch(n) for p in patterns for n in names)]
    return found[0] if len(found) == 1 else None


class Aligned(NamedTuple):
    """A port's array in the shape of our step."""

    name: str  # as the port calls it
    dtype: str  # "float32", "bfloat16", ...
    array: Array  # float64


def align(
    dump: Mapping[str, Tensor],
    steps: Sequence[Mapping[str, Any]],
    mapping: Mapping[str, str] | None = None,
    *,
    whole: bool = False,
) -> Any:
    """A dump's arrays by our steps.

    dump      the port's name -> Tensor
    steps     the manifest's steps (of each, name, dims and shape count)
    mapping   the port's name -> our step ({n} is the block's number); then nothing else is looked for
    whole     integers are taken too

    Returns (step -> Aligned, the port's names that are no step). Raises InputError for an array whose shape cannot be the
    step's, or where no array is any step.
    """
    shapes = {step["name"]: step for step in steps}
    chosen: dict[str, tuple[str, int, int]] = {}  # step -> name, part, parts
    unknown = []
    if mapping is not None:
        mapping = for_every_block(mapping, shapes)
        for theirs, ours in mapping.items():
            if theirs not in dump:
                raise InputError(f"the mapping names '{theirs}', which the dump does not have{nearest(theirs, dump)}")
            if ours not in shapes:
                raise InputError(f"the mapping names step '{ours}', which the golden does not have{nearest(ours, shapes)}")
            if ours in chosen:
                raise InputError(f"the mapping gives step '{ours}' twice")
            chosen[ours] = theirs, 0, 1
        unknown = [name for name in dump if name not in mapping]
    else:
        ranks: dict[str, int] = {}
        family = family_of_names(dump)
        for name in dump:
            rank, targets = our_names(name, shapes, family)
            for part, step in enumerate(targets):
                if step in shapes and rank < ranks.get(step, math.inf):
                    ranks[step], chosen[step] = rank, (name, part, len(targets))
            if not targets and not CONTAINERS.fullmatch(name):
                unknown.append(name)
    if not dump:
        raise InputError("has no arrays")
    if not chosen.keys() - {"pixels"}:
        some = ", ".join(f"'{name}'" for name in list(dump)[:3])
        wanted = ", ".join(f"'{name}'" for name in list(shapes)[:3])
        raise InputError(
            f"no array of the dump is a step of the golden: it has {some}, ...; the golden {wanted}, ...: "
            "rename them or give a mapping file"
        )
    aligned = {}
    for step, entry in shapes.items():
        if step in chosen:
            name, part, parts = chosen[step]
            kind = DTYPES.get(dump[name].dtype, "")
            if not kind or (kind in WHOLE.values() and not whole):
                integers = (
                    ", or check integers with a golden in the port's arithmetic, golden record --arithmetic" if kind else ""
                )
                raise InputError(
                    f"'{name}' is {dump[name].data.dtype}: dump float16, float32 or float64 (bfloat16: as .safetensors or raw "
                    f".bf16){integers}"
                )
            array = dump[name].to_float(np.float64)
            if parts > 1:
                if array.shape[-1:] == () or array.shape[-1] % parts:
                    raise InputError(f"'{name}' has shape {array.shape}: its last axis is not {parts} parts")
                array = np.split(array, parts, axis=-1)[part]
            with about(f"'{name}'" if name == step else f"'{name}' ({step})"):
                aligned[step] = Aligned(name, kind, in_shape(array, entry["dims"], tuple(entry["shape"])))
    return aligned, unknown


def last_hidden_state_named(aligned: Mapping[str, Aligned], arrays: Mapping[str, Array], depth: int) -> dict[str, Aligned]:
    """The last of transformers' hidden_states is the last block's output, or that after the last norm: it depends on the
    family, and on transformers' version. It is taken for what it is nearer to in the golden (`arrays`)."""
    last, found = f"blocks.{depth - 1}.residual2", dict(aligned)
    if (
        last in aligned
        and re.search(r"(?:^|\.)hidden_states\.\d+$", aligned[last].name)
        and "norm" in arrays
        and last in arrays
    ):
        array = aligned[last].array
        with np.errstate(all="ignore"):
            to_norm, to_block = (float(np.linalg.norm(array - np.asarray(arrays[n], np.float64))) for n in ("norm", last))
        if to_norm < to_block:
            as_norm = found.pop(last)
            found.setdefault("norm", as_norm)
    return found


def for_every_block(mapping: Mapping[str, str], steps: Iterable[str]) -> dict[str, str]:
    """A mapping whose lines with {n} are there once for every block. Raises InputError for a line that is for none."""
    lines: dict[str, str] = {}
    for theirs, ours in mapping.items():
        line = f"the mapping's line '{theirs}': '{ours}'"
        if "*" in ours:
            raise InputError(f"{line} has a *: write {{n}} for the number of the block, on both sides")
        if ("{n}" in theirs) != ("{n}" in ours):
            raise InputError(f"{line} has {{n}}, the number of the block, on one side alone: write it on both")
        if "{n}" not in ours:
            lines[theirs] = ours
            continue
        pattern = re.compile(re.escape(ours).replace(re.escape("{n}"), r"(\d+)"))
        numbers = [match[1] for match in map(pattern.fullmatch, steps) if match]
        if not numbers:
            known = dict.fromkeys(re.sub(r"(?<=^blocks\.)\d+", "{n}", step) for step in steps)
            raise InputError(f"{line}: the golden has no such step in any block{nearest(ours, known)}")
        lines |= {theirs.replace("{n}", number): ours.replace("{n}", number) for number in numbers}
    return lines


def our_names(name: str, steps: Iterable[str], family: str | None = None) -> tuple[int, tuple[str, ...]]:
    """A port's name -> (its rank among the names for that step, our steps); no steps where it is not known.

    family   whose meaning of a name counts before all others
    """
    own = re.sub(f"^{PREFIX}", "", name)
    for meant, ours in modules_of(family) if family else ():
        match = re.fullmatch(PREFIX + f"(?:{meant})", name)
        if match and ours[0].format(*match.groups()) in steps:
            return -1, tuple(target.format(*match.groups()) for target in ours)
    if own in steps:
        return -1, (own,)
    known: tuple[int, tuple[str, ...]] = 0, ()
    for rank, (pattern, ours) in enumerate(modules()):
        match = pattern.fullmatch(name)
        if match:
            targets = tuple(step_of(target.format(*match.groups()), steps) for target in ours)
            if any(target in steps for target in targets):
                return rank, targets
            known = rank, targets  # of a step that this golden does not have
    return known


def step_of(target: str, steps: Iterable[str]) -> str:
    """ "blocks.0.mlp.activation" -> "blocks.0.mlp.gelu", "hidden_states.2" -> "blocks.1.residual2": as the golden calls it."""
    if target.startswith("hidden_states."):
        number = int(target.removeprefix("hidden_states."))
        embedded = (f"embed.{name}" for name in ("norm", "positions", "tokens"))
        return (
            f"blocks.{number - 1}.residual2"
            if number
            else next((name for name in embedded if name in steps), "embed.positions")
        )
    if target == "logits" and "class_logits" in steps:
        return "class_logits"
    if not target.endswith("mlp.activation"):
        return target
    start = target.removesuffix("activation")
    own = [step for step in steps if step.startswith(start) and not step.endswith((".hidden", ".output"))]
    return own[0] if own else target


def in_shape(array: Array, dims: str, shape: tuple[int, ...]) -> Array:
    """The array in the step's shape, where it is that but for a reshape that can only be meant one way.

    Raises InputError where it is not.
    """
    given = array.shape
    if given == shape:
        return array
    if array.ndim == 1 and array.size == math.prod(shape):  # raw numbers
        return array.reshape(shape)
    if shape[0] == 1 and given == shape[1:]:
        return array.reshape(shape)
    if shape[0] == 1 and array.ndim and given[0] != 1:
        array = array[None]
    if dims == "B H N K":
        B, H, N, K = shape
        if array.shape == (B, N, H * K):
            return array.reshape(B, N, H, K).swapaxes(1, 2)
        if array.shape == (B, N, H, K):
            return array.swapaxes(1, 2)
    if dims == "B G D" and array.ndim == 4:
        B, patches, D = shape
        if array.shape[:2] == (B, D) and array.shape[2] * array.shape[3] == patches:  # a convolution's: (B, D, rows, columns)
            return array.reshape(B, D, patches).swapaxes(1, 2)
        if array.shape[::3] == (B, D) and array.shape[1] * array.shape[2] == patches:  # (B, rows, columns, D)
            return array.reshape(shape)
    if dims == "B R" and array.ndim == 3 and array.shape[::2] == shape:  # a hook on all tokens
        return array[:, 0]
    raise InputError(f"has shape {given}, the step is {dims} = {shape}")


def read_mapping(path: Path) -> dict[str, str]:
    """A mapping file: a JSON object, the port's name -> our step; {n} in both is the block's number. Raises InputError."""
    mapping = read_json(path)
    with about(path):
        for theirs, ours in mapping.items():
            if not isinstance(ours, str):
                raise InputError(f"'{theirs}' must be the name of a step, not {described(ours)}")
        if not mapping:
            raise InputError("maps nothing")
        return mapping
