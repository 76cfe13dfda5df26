"""The learned numbers of a model: their names, their shapes, and the tree the forward pass reads them from.

Linear weights are (in, out), so that code reads `x @ W + b` as in the paper.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .config import ViTConfig
from .steps import evaluate

Array = Any


class Linear(NamedTuple):
    weight: Array  # (in, out)
    bias: Array | None  # (out,)


class Norm(NamedTuple):
    weight: Array  # (D,)
    bias: Array  # (D,)


class Embedding(NamedTuple):
    projection: Linear  # (C*P*P, D)
    class_token: Array  # (D,)
    positions: Array  # (N, D)


class Attention(NamedTuple):
    query: Linear  # (D, H*K)
    key: Linear  # (D, H*K)
    value: Linear  # (D, H*K)
    output: Linear  # (H*K, D)


class Mlp(NamedTuple):
    hidden: Linear  # (D, M)
    output: Linear  # (M, D)


class Block(NamedTuple):
    norm1: Norm
    attention: Attention
    norm2: Norm
    mlp: Mlp


class Weights(NamedTuple):
    embed: Embedding
    blocks: tuple[Block, ...]
    norm: Norm
    pooler: Linear | None  # (D, R)
    head: Linear | None  # (D, O)


def parameter_dims(config: ViTConfig) -> dict[str, str]:
    """Every tensor of the model, in the order the data meets them: name -> dimensions in letters."""
    qkv_bias = "H*K" if config.qkv_bias else ""
    dims = _linear("embed.projection", "C*P*P", "D")
    dims |= {"embed.class_token": "D", "embed.positions": "N D"}
    for n in range(config.depth):
        dims |= _norm(f"blocks.{n}.norm1")
        for part in ("query", "key", "value"):
            dims |= _linear(f"blocks.{n}.attention.{part}", "D", "H*K", qkv_bias)
        dims |= _linear(f"blocks.{n}.attention.output", "H*K", "D")
        dims |= _norm(f"blocks.{n}.norm2")
        dims |= _linear(f"blocks.{n}.mlp.hidden", "D", "M")
        dims |= _linear(f"blocks.{n}.mlp.output", "M", "D")
    dims |= _norm("norm")
    if config.pooler:
        dims |= _linear("pooler", "D", "R")
    if config.classes:
        dims |= _linear("head", "D", "O")
    return dims


def _linear(name: str, inputs: str, outputs: str, bias: str | None = None) -> dict[str, str]:
    weight = {f"{name}.weight": f"{inputs} {outputs}"}
    bias = outputs if bias is None else bias
    return {**weight, f"{name}.bias": bias} if bias else weight


def _norm(name: str) -> dict[str, str]:
    return {f"{name}.weight": "D", f"{name}.bias": "D"}


def parameter_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model: name -> shape."""
    sizes = config.sizes
    return {name: tuple(evaluate(dim, sizes) for dim in dims.split()) for name, dims in parameter_dims(config).items()}


def parameter_count(config: ViTConfig) -> int:
    """How many learned numbers the model has (86,567,656 for ViT-B/16 with 1,000 classes).

    Counted from one block, so that it costs the same for any depth.
    """

    def count(shapes: Mapping[str, tuple[int, ...]]) -> int:
        total = 0
        for shape in shapes.values():
            size = 1
            for length in shape:
                size *= length
            total += size
        return total

    one, two = (count(parameter_shapes(config.replace(depth=depth))) for depth in (1, 2))
    return one + (config.depth - 1) * (two - one)


def assemble(tensors: Mapping[str, Array], config: ViTConfig) -> Weights:
    """The flat name -> array table as the tree the forward pass reads. Raises KeyError for a missing tensor."""

    def linear(name: str, bias: bool = True) -> Linear:
        return Linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"] if bias else None)

    def norm(name: str) -> Norm:
        return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def block(name: str) -> Block:
        query, key, value = (linear(f"{name}.attention.{part}", config.qkv_bias) for part in ("query", "key", "value"))
        attention = Attention(query, key, value, linear(f"{name}.attention.output"))
        mlp = Mlp(linear(f"{name}.mlp.hidden"), linear(f"{name}.mlp.output"))
        return Block(norm(f"{name}.norm1"), attention, norm(f"{name}.norm2"), mlp)

    return Weights(
        embed=Embedding(linear("embed.projection"), tensors["embed.class_token"], tensors["embed.positions"]),
        blocks=tuple(block(f"blocks.{n}") for n in range(config.depth)),
        norm=norm("norm"),
        pooler=linear("pooler") if config.pooler else None,
        head=linear("head") if config.classes else None,
    )
