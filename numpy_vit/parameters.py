"""The learned numbers of a model: their names, their shapes, and the tree the forward pass reads them from.

Linear weights are (in, out), so that code reads `x @ W + b` as in the paper.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .config import LADDERS, ViTConfig, config_given
from .errors import InputError, nearest
from .groups import Merger
from .steps import evaluate

Array = Any


class Weights:
    """The arrays under a common name: w.attention.query is the linear layer "attention.query", w.blocks[3] a block.

    It unpacks to what it has, in order: `linear(x, *w.query)`. What a model does not have is not there: `"bias" in w.query`.
    """

    def __init__(self, **children: Any) -> None:
        self.__dict__.update(children)

    def __getattr__(self, name: str) -> Any:  # only called where there is none
        raise AttributeError(f"no weights are called '{name}' here, but {', '.join(self.__dict__)}")

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__dict__.values())

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__

    def having(self, **changes: Any) -> "Weights":
        """The same weights with some changed, or added."""
        return Weights(**{**self.__dict__, **changes})


def weights_tree(tensors: Mapping[str, Array], config: ViTConfig) -> Weights:
    """The flat table name -> array as the tree the forward pass reads. Raises KeyError for a tensor that is missing."""
    tree: dict[str, Any] = {}
    for name in parameter_dims(config):
        *path, last = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = tensors[name]
    return grown(tree)


def grown(branch: Any) -> Any:
    """Nested dictionaries as Weights; those whose keys are numbers as a tuple."""
    if not isinstance(branch, dict):
        return branch
    children = {name: grown(child) for name, child in branch.items()}
    return tuple(children.values()) if "0" in children else Weights(**children)


def place(name: str) -> tuple[int | None, str]:
    """A step's or a weight's name as its block's number, or None outside the blocks, and its name there.

    "blocks.3.attention.query" -> (3, "attention.query"), "embed.patches" -> (None, "embed.patches")
    """
    if not name.startswith("blocks."):
        return None, name
    _, number, local = name.split(".", 2)
    return int(number), local


def folded(name: str) -> str:
    """The name that all blocks' steps have in common: "blocks.3.norm1" -> "blocks.*.norm1"."""
    block, local = place(name)
    return name if block is None else f"blocks.*.{local}"


def parameter_dims(config: ViTConfig, depth: int | None = None) -> dict[str, str]:
    """Every tensor of the model, in the order the data meets them: name -> dimensions in letters.

    depth   how many of its blocks are listed, where it is not all
    """
    c, dims = config, Dims(config)
    dims.linear("embed.projection", "C*P*P", "D")
    dims.array("embed.class_token", "D", c.class_token)
    dims.array("embed.distillation_token", "D", c.distillation_token)
    dims.array("embed.registers", f"{c.registers} D", c.registers)
    dims.norm("embed.patch_norm", "D", c.patch_norm)
    positions = "N D" if c.positioned_tokens == c.tokens and not c.position_grid else f"{c.positioned_tokens} D"
    dims.array("embed.positions", positions, c.positions in ("all", "patches"))
    dims.array("embed.row_positions", f"{c.position_rows} D", c.positions == "axes")
    dims.array("embed.column_positions", f"{c.position_rows} D", c.positions == "axes")
    dims.array("embed.frequencies", str(c.width // 4), c.positions == "sincos")
    dims.norm("embed.norm", "D", c.pre_norm)
    dims.array("rope.frequencies", str(c.head_dim // (2 if c.rope in LADDERS else 4)), c.rope != "none")
    dims.array("rope.class_angles", str(c.head_dim // 2), c.rope_class_angle)
    for n in range(c.depth if depth is None else depth):
        dims.block(f"blocks.{n}", c.attended_grid(n))
    dims.norm("norm", "D", c.final_norm == "tokens")
    if c.pooling in ("map", "query"):
        dims.array("map.probe", "1 D")
        dims.attention("map.attention", dims.linear, query=c.pooling == "map")
    if c.pooling == "map":
        dims.norm("map.norm", "D")
        hidden = str(c.map_mlp or "M")
        dims.linear("map.mlp.hidden", "D", hidden)
        dims.linear("map.mlp.output", hidden, "D")
    dims.norm("pooled_norm", "D", c.final_norm == "pooled")
    dims.linear("pooler", "D", "R", c.pooler)
    dims.linear("head", "R" if c.pre_logits else "2*D" if c.pooling == "class_and_mean" else "D", "O", c.classes)
    dims.linear("distillation_head", "D", "O", c.distillation_head)
    dims.array("projection.weight", "D E", c.projection)
    if c.merger:
        dims.merger("merger", c.merger)
    if c.deepstack:
        for n in range(len(c.deepstack.blocks)):
            dims.merger(f"deepstack.{n}", c.deepstack.merger)
    return dict(dims)


class Dims(dict[str, str]):
    """Tensors by name, with their dimensions, as they are added, where they are `there`."""

    def __init__(self, config: ViTConfig) -> None:
        self.config = config

    def array(self, name: str, dims: str, there: object = True) -> None:
        if there:
            self[name] = dims

    def linear(self, name: str, inputs: str, outputs: str, there: object = True) -> None:
        self.array(f"{name}.weight", f"{inputs} {outputs}", there)
        self.array(f"{name}.bias", outputs, there and has_bias(self.config, name))

    def inner_linear(self, name: str, inputs: str, outputs: str, there: object = True) -> None:
        """One of a block's, which may have bounds: the least and largest numbers that go in, and those that come out."""
        self.linear(name, inputs, outputs, there)
        self.array(f"{name}.bounds", "4", there and self.config.clipped_linears)

    def norm(self, name: str, width: str, there: object = True) -> None:
        self.array(f"{name}.weight", width, there)
        self.array(f"{name}.bias", width, there and self.config.norm == "layer")

    def attention(self, name: str, linear: Callable[..., None], query: bool = True) -> None:
        for part in ("query", "key", "value") if query else ("key", "value"):
            linear(f"{name}.{part}", "D", "H*K")
        linear(f"{name}.output", "H*K", "D")

    def block(self, name: str, attended: tuple[int, int]) -> None:
        """What a block has; `attended` are the rows and columns that a patch attends to."""
        c = self.config
        self.norm(f"{name}.norm1", "D")
        self.attention(f"{name}.attention", self.inner_linear)
        normed = "K" if c.qk_norm_of_heads else "H*K"
        self.norm(f"{name}.attention.query_norm", normed, c.qk_norm)
        self.norm(f"{name}.attention.key_norm", normed, c.qk_norm)
        self.norm(f"{name}.attention.context_norm", "H*K", c.context_norm)
        rows, columns = c.grid
        distances = (2 * rows - 1) * (2 * columns - 1) + 3  # numpy_vit.positions.distance_numbers
        self.array(f"{name}.attention.relative_positions", f"{distances} H", c.relative_positions)
        for axis, size in zip(("rows", "columns"), attended, strict=True):
            self.array(f"{name}.attention.relative_{axis}", f"{2 * size - 1} K", c.relative_axes)
        self.norm(f"{name}.norm1_after", "D", c.norm_places == "both")
        self.array(f"{name}.layer_scale1", "D", c.layer_scale)
        self.norm(f"{name}.norm2", "D")
        self.inner_linear(f"{name}.mlp.gate", "D", "M", c.gated_mlp)
        self.inner_linear(f"{name}.mlp.hidden", "D", "M")
        self.norm(f"{name}.mlp.norm", "M", c.mlp_norm)
        self.inner_linear(f"{name}.mlp.output", "M", "D")
        self.norm(f"{name}.norm2_after", "D", c.norm_places == "both")
        self.array(f"{name}.layer_scale2", "D", c.layer_scale)

    def merger(self, name: str, merger: Merger) -> None:
        """What a merger's stages have; `width` is how many numbers a token has before each."""
        width = "D"
        for stage, kind, wanted in merger.parsed:
            if kind == "norm" and merger.norm != "unit":
                self.array(f"{name}.{stage}.weight", width)
                self.array(f"{name}.{stage}.bias", width, merger.norm == "layer")
            elif kind == "standardize":
                self.array(f"{name}.{stage}.shift", width)
                self.array(f"{name}.{stage}.scale", width)
            elif kind == "gated":
                self.array(f"{name}.{stage}.gate.weight", f"{width} {wanted}")
                self.array(f"{name}.{stage}.hidden.weight", f"{width} {wanted}")
            elif wanted:
                self.array(f"{name}.{stage}.weight", f"{'9*' if kind == 'conv' else ''}{width} {wanted}")
                self.array(f"{name}.{stage}.bias", str(wanted), stage not in merger.without_bias)
            width = merged_width(width, kind, wanted, merger.side)


def merged_width(width: str, kind: str, wanted: int, side: int) -> str:
    """How many numbers a token has after a merger's stage, in the letters of numpy_vit.steps."""
    return str(wanted) if wanted else f"{side * side}*{width}" if kind in ("concat", "unfold") else width


def has_bias(config: ViTConfig, name: str) -> bool:
    """Whether the linear layer of this name has a bias."""
    if name.startswith("map."):
        return config.pooling == "map" or config.qkv_bias or name == "map.attention.output"
    _, kind = place(name)
    if kind in ("attention.query", "attention.key", "attention.value") and not config.qkv_bias:
        return False
    return kind != "projection" and kind not in config.without_bias


def parameter_shapes(config: ViTConfig, depth: int | None = None) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model, or of so many of its blocks: name -> shape."""
    sizes = config.sizes
    dims = parameter_dims(config, depth)
    return {name: tuple(evaluate(dim, sizes) for dim in letters.split()) for name, letters in dims.items()}


def check_parameters(shapes: Mapping[str, tuple[int, ...]], config: ViTConfig) -> None:
    """Raise InputError unless tensors of these shapes are those of the config: none missing, none unused."""
    expected = parameter_shapes(config)
    for name, shape in expected.items():
        if name not in shapes:
            raise InputError(f"model: tensor '{name}' is missing{nearest(name, shapes)}")
        if tuple(shapes[name]) != shape:
            raise InputError(f"model: tensor '{name}' is {tuple(shapes[name])}, the config says {shape}")
    for name in sorted(set(shapes) - set(expected)):
        raise InputError(f"model: tensor '{name}' is not used{nearest(name, expected)}")


def is_learned(name: str) -> bool:
    """Whether a tensor of this name is learned: the frequencies of positions are computed, and stored all the same."""
    return name not in ("rope.frequencies", "embed.frequencies")


def parameter_count(config: ViTConfig | str) -> int:
    """How many learned numbers the model has (86,567,656 for ViT-B/16 with 1,000 classes).

    Counted from one block, so that it costs the same for any depth, where all blocks are alike.
    """
    config = config_given(config)

    def count(depth: int) -> int:
        shapes = parameter_shapes(config, depth)
        return sum(math.prod(shape) for name, shape in shapes.items() if is_learned(name))

    if config.relative_axes and config.windows:
        return count(config.depth)
    outside = count(0)
    return outside + config.depth * (count(1) - outside)
