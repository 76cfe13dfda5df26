"""The learned numbers of a model: their names, their shapes, and the tree the forward pass reads them from.

Linear weights are (in, out), so that code reads `x @ W + b` as in the paper. What a model does not have is None in the tree.
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
    special_tokens: tuple[Array, ...]  # the class token (1, D), and in some families others
    positions: Array | None  # (N, D)
    norm: Norm | None


class Rotation(NamedTuple):
    cos: Array  # (G, K)
    sin: Array  # (G, K)


class Attention(NamedTuple):
    query: Linear  # (D, H*K)
    key: Linear  # (D, H*K)
    value: Linear  # (D, H*K)
    output: Linear  # (H*K, D)
    query_norm: Norm | None  # (K,)
    key_norm: Norm | None  # (K,)
    rotation: Rotation | None  # made for each picture size by numpy_vit.model.for_image
    relative_positions: Array | None  # (distances, H)


class Mlp(NamedTuple):
    hidden: Linear  # (D, M)
    output: Linear  # (M, D)
    gate: Linear | None  # (D, M)
    norm: Norm | None  # (M,)


class Block(NamedTuple):
    norm1: Norm
    attention: Attention
    layer_scale1: Array | None  # (D,)
    norm2: Norm
    mlp: Mlp
    layer_scale2: Array | None  # (D,)


class AttentionPool(NamedTuple):
    probe: Array  # (1, D)
    attention: Attention
    norm: Norm
    mlp: Mlp


class Weights(NamedTuple):
    embed: Embedding
    rope_frequencies: Array | None  # (K/4,)
    blocks: tuple[Block, ...]
    norm: Norm | None
    map: AttentionPool | None
    pooled_norm: Norm | None
    pooler: Linear | None  # (D, R)
    head: Linear | None  # (D, O)
    distillation_head: Linear | None  # (D, O)
    projection: Linear | None  # (D, E)


def parameter_dims(config: ViTConfig) -> dict[str, str]:
    """Every tensor of the model, in the order the data meets them: name -> dimensions in letters."""
    c = config
    dims = linear_dims(c, "embed.projection", "C*P*P", "D")
    for name, there in (("class_token", c.class_token), ("distillation_token", c.distillation_token)):
        dims |= {f"embed.{name}": "D"} if there else {}
    dims |= {"embed.registers": f"{c.registers} D"} if c.registers else {}
    if c.positions != "none":
        dims |= {"embed.positions": "N D" if c.positioned_tokens == c.tokens else f"{c.positioned_tokens} D"}
    dims |= norm_dims("embed.norm", "D") if c.pre_norm else {}
    dims |= {"rope.frequencies": str(c.head_dim // 4)} if c.rope != "none" else {}
    for n in range(c.depth):
        dims |= block_dims(c, f"blocks.{n}")
    dims |= norm_dims("norm", "D") if c.final_norm == "tokens" else {}
    if c.pooling == "map":
        dims |= {"map.probe": "1 D", **attention_dims(c, "map.attention")}
        dims |= {**norm_dims("map.norm", "D"), **linear_dims(c, "map.mlp.hidden", "D", "M")}
        dims |= linear_dims(c, "map.mlp.output", "M", "D")
    dims |= norm_dims("pooled_norm", "D") if c.final_norm == "pooled" else {}
    dims |= linear_dims(c, "pooler", "D", "R") if c.pooler else {}
    sees = "R" if c.pre_logits else "2*D" if c.pooling == "class_and_mean" else "D"
    dims |= linear_dims(c, "head", sees, "O") if c.classes else {}
    dims |= linear_dims(c, "distillation_head", "D", "O") if c.distillation_head else {}
    return dims | ({"projection.weight": "D E"} if c.projection else {})


def block_dims(c: ViTConfig, name: str) -> dict[str, str]:
    """The tensors of an encoder block."""
    dims = norm_dims(f"{name}.norm1", "D") | attention_dims(c, f"{name}.attention")
    if c.qk_norm:
        dims |= norm_dims(f"{name}.attention.query_norm", "K") | norm_dims(f"{name}.attention.key_norm", "K")
    if c.relative_positions:
        rows, columns = c.grid
        distances = (2 * rows - 1) * (2 * columns - 1) + 3  # numpy_vit.positions.distance_numbers
        dims |= {f"{name}.attention.relative_positions": f"{distances} H"}
    dims |= {f"{name}.layer_scale1": "D"} if c.layer_scale else {}
    dims |= norm_dims(f"{name}.norm2", "D")
    dims |= linear_dims(c, f"{name}.mlp.gate", "D", "M") if c.gated_mlp else {}
    dims |= linear_dims(c, f"{name}.mlp.hidden", "D", "M")
    dims |= norm_dims(f"{name}.mlp.norm", "M") if c.mlp_norm else {}
    dims |= linear_dims(c, f"{name}.mlp.output", "M", "D")
    return dims | ({f"{name}.layer_scale2": "D"} if c.layer_scale else {})


def attention_dims(c: ViTConfig, name: str) -> dict[str, str]:
    dims: dict[str, str] = {}
    for part in ("query", "key", "value"):
        dims |= linear_dims(c, f"{name}.{part}", "D", "H*K")
    return dims | linear_dims(c, f"{name}.output", "H*K", "D")


def linear_dims(c: ViTConfig, name: str, inputs: str, outputs: str) -> dict[str, str]:
    bias = {f"{name}.bias": outputs} if has_bias(c, name) else {}
    return {f"{name}.weight": f"{inputs} {outputs}", **bias}


def norm_dims(name: str, width: str) -> dict[str, str]:
    return {f"{name}.weight": width, f"{name}.bias": width}


def has_bias(config: ViTConfig, name: str) -> bool:
    """Whether the linear layer of this name has a bias."""
    if name.startswith("map."):  # the families without biases have no attention pool
        return True
    kind = name.split(".", 2)[2] if name.startswith("blocks.") else name
    if kind in ("attention.query", "attention.key", "attention.value") and not config.qkv_bias:
        return False
    return kind != "projection" and kind not in config.without_bias


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
    """The flat name -> array table as the tree the forward pass reads. What is not in the table is None in the tree.

    Raises KeyError for a missing tensor that every model has.
    """

    def linear(name: str) -> Linear:
        return Linear(tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def norm(name: str) -> Norm:
        return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def linear_if_there(name: str) -> Linear | None:
        return linear(name) if f"{name}.weight" in tensors else None

    def norm_if_there(name: str) -> Norm | None:
        return norm(name) if f"{name}.weight" in tensors else None

    def attention(name: str) -> Attention:
        query, key, value, output = (linear(f"{name}.{part}") for part in ("query", "key", "value", "output"))
        norms = norm_if_there(f"{name}.query_norm"), norm_if_there(f"{name}.key_norm")
        return Attention(query, key, value, output, *norms, None, tensors.get(f"{name}.relative_positions"))

    def mlp(name: str) -> Mlp:
        gate, inner_norm = linear_if_there(f"{name}.gate"), norm_if_there(f"{name}.norm")
        return Mlp(linear(f"{name}.hidden"), linear(f"{name}.output"), gate, inner_norm)

    def block(name: str) -> Block:
        scale1, scale2 = (tensors.get(f"{name}.layer_scale{half}") for half in (1, 2))
        return Block(
            norm(f"{name}.norm1"), attention(f"{name}.attention"), scale1, norm(f"{name}.norm2"), mlp(f"{name}.mlp"), scale2
        )

    special = (tensors.get(f"embed.{name}") for name in ("class_token", "distillation_token", "registers"))
    embed = Embedding(
        projection=linear("embed.projection"),
        special_tokens=tuple(token.reshape(-1, config.width) for token in special if token is not None),
        positions=tensors.get("embed.positions"),
        norm=norm_if_there("embed.norm"),
    )
    pool = None
    if config.pooling == "map":
        pool = AttentionPool(tensors["map.probe"], attention("map.attention"), norm("map.norm"), mlp("map.mlp"))
    return Weights(
        embed=embed,
        rope_frequencies=tensors.get("rope.frequencies"),
        blocks=tuple(block(f"blocks.{n}") for n in range(config.depth)),
        norm=norm_if_there("norm"),
        map=pool,
        pooled_norm=norm_if_there("pooled_norm"),
        pooler=linear_if_there("pooler"),
        head=linear_if_there("head"),
        distillation_head=linear_if_there("distillation_head"),
        projection=linear_if_there("projection"),
    )


# Shares of a block's work (numpy_vit.arithmetic.parallel.by_shares): views, not copies


def attention_share(w: Attention, n: int, of: int) -> Attention:
    """Share n of `of`: so many of the heads. The shares' outputs add up to the whole's."""
    positions = w.relative_positions
    return w._replace(
        query=columns(w.query, n, of),
        key=columns(w.key, n, of),
        value=columns(w.value, n, of),
        output=rows(w.output, n, of),
        relative_positions=None if positions is None else share(positions, n, of),
    )


def mlp_share(w: Mlp, n: int, of: int) -> Mlp:
    """Share n of `of`: so many of the M hidden numbers. The shares' outputs add up to the whole's."""
    gate = None if w.gate is None else columns(w.gate, n, of)
    return w._replace(hidden=columns(w.hidden, n, of), output=rows(w.output, n, of), gate=gate)


def columns(w: Linear, n: int, of: int) -> Linear:
    """A share of the outputs."""
    return Linear(share(w.weight, n, of), None if w.bias is None else share(w.bias, n, of))


def rows(w: Linear, n: int, of: int) -> Linear:
    """A share of the inputs; the first alone has the bias, since it is to be added once."""
    return Linear(share(w.weight.T, n, of).T, w.bias if n == 0 else None)


def share(x: Array, n: int, of: int) -> Array:
    """An equal part of the last axis, as a view."""
    size = x.shape[-1] // of
    return x[..., n * size : (n + 1) * size]
