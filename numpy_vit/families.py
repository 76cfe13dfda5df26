"""What later families add to the paper's model: functions that stand in the place of numpy_vit.model's.

    uses(config)        function of the paper -> the one this model has instead; empty for the paper's own model
    at_image_size(...)  what depends on the patches' places, made or resized for pictures of another size

Most take the paper's function and say what comes after one of its steps (`step.then`): a rotation after "query", layer scale
after "attention". numpy_vit.config says which family has which option.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from . import merging, model
from .config import ViTConfig
from .ops import ACTIVATIONS, layer_norm, linear, merge_heads, patchify, prepend, rms_norm, softmax, split_heads
from .parameters import Weights
from .positions import (
    axis_positions,
    axis_scores,
    relative_bias,
    resize_axis,
    resize_distances,
    resize_positions,
    sincos_positions,
    with_rows_of_zeros,
)
from .rotary import class_rotation, rotate, rotation_tables
from .steps import Array, Step
from .windows import in_windows, standing_in

NORMS: dict[str, Callable[..., Array]] = {"layer": layer_norm, "rms": rms_norm}
After = Callable[[Array, Step], Array]


def uses(config: ViTConfig) -> dict[Callable[..., Any], Callable[..., Any]]:
    """The functions that this model has in the place of the paper's."""
    c = config
    found: dict[Callable[..., Any], Callable[..., Any]] = {}
    if c.merger or c.deepstack:
        found[model.forward] = merging.forward
    only_class_token = c.class_token and not (c.distillation_token or c.registers)
    if not only_class_token or c.positions == "none" or c.pre_norm or c.patch_norm:
        found[model.embed] = embed
    if c.layer_scale or (c.norm, c.norm_places) != ("layer", "before"):
        found[model.encoder_block] = encoder_block
    if not c.scaled_scores:
        found[model.attend] = attend_unscaled
    normed = c.qk_norm or c.value_norm or c.context_norm
    placed = c.rope != "none" or c.relative_positions or c.relative_axes
    if normed or placed or c.windows or c.clipped_linears:
        found[model.multi_head_attention] = multi_head_attention
    if c.gated_mlp or c.mlp_norm or c.activation != "gelu" or c.clipped_linears:
        found[model.mlp] = mlp
    tail = (c.pooling, c.final_norm, c.pooler, c.projection, c.distillation_head)
    if tail != ("class", "tokens", 0, 0, False) or not c.classes or c.norm != "layer":
        found[model.classify] = classify
    return found


# Tokens and positions


def embed(pixels: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Eq. 1 with other tokens before the patches, or none; without positions; with a norm (CLIP). -> (B, N, D)."""
    patches = step("patches", patchify(pixels, config.patch), "B G C*P*P")
    x = step("projection", linear(patches, *w.projection), "B G D")
    x = norm("patch_norm", w, config, "B G D")(x, step) if config.patch_norm else x
    special = [getattr(w, name) for name in ("class_token", "distillation_token", "registers") if name in w]
    x = step("tokens", prepend(special, x), "B N D")
    if "positions" in w:
        x = step("positions", x + w.positions, "B N D")
    return norm("norm", w, config)(x, step) if "norm" in w else x


def embedding_output(config: ViTConfig) -> str:
    """The name of the step that goes into the first block."""
    return f"embed.{'norm' if config.pre_norm else 'tokens' if config.positions == 'none' else 'positions'}"


def at_image_size(image: tuple[int, int], w: Weights, config: ViTConfig, step: Step) -> tuple[Weights, ViTConfig]:
    """The model for pictures of (Y, X) pixels: what depends on the patches' places, resized or made for their grid."""
    old, new = config.learned_grid, (image[0] // config.patch, image[1] // config.patch)
    embed, blocks, rule = w.embed, w.blocks, config.position_rule
    step = step.under("embed")
    config = config.for_image(image)
    if "positions" in embed:
        positions = embed.positions if new == old else resize_positions(embed.positions, old, new, rule)
        if len(positions) < config.tokens:  # registers have no position, class tokens not always
            before = len(positions) - config.patches
            positions = with_rows_of_zeros(positions, before, config.tokens - len(positions))
        embed = embed.having(positions=positions if new == old else step("resized_positions", positions, "N D"))
    if config.positions == "axes":
        positions = axis_positions(embed.row_positions[: new[0]], embed.column_positions[: new[1]])
        embed = embed.having(positions=step("axis_positions", positions, "N D"))
    if config.positions == "sincos":
        embed = embed.having(positions=step("sincos_positions", sincos_positions(embed.frequencies, new), "N D"))
    if new != old and config.relative_positions:
        tables = [resize_distances(block.attention.relative_positions, old, new, rule) for block in blocks]
        blocks = [with_attention(b, relative_positions=table) for b, table in zip(blocks, tables, strict=True)]
    if config.relative_axes:
        blocks = [with_axis_tables(block, config.attended_grid(n)) for n, block in enumerate(blocks)]
    if config.rope != "none":
        cos, sin = rotation_tables(w.rope.frequencies, new, config.rope, config.rope_grid, config.rope_offset)
        cos, sin = step("rope_cos", cos, "G K"), step("rope_sin", sin, "G K")
        if config.rope_class_angle:
            first_cos, first_sin = class_rotation(w.rope.class_angles, config.rope)
            cos = np.concatenate([step("rope_class_cos", first_cos, "1 K"), cos])
            sin = np.concatenate([step("rope_class_sin", first_sin, "1 K"), sin])
        rotation = Weights(cos=cos, sin=sin)
        blocks = [with_attention(block, rotation=rotation) for block in blocks]
    if config.windows is not None:
        blocks = [with_attention(b, windowed=config.windows_of(n) is not None) for n, b in enumerate(blocks)]
    return w.having(embed=embed, blocks=blocks), config


def with_attention(block: Weights, **changes: Any) -> Weights:
    """The same block with something changed in its attention."""
    return block.having(attention=block.attention.having(**changes))


def with_axis_tables(block: Weights, grid: tuple[int, int]) -> Weights:
    """The same block with tables of distances for so many rows and columns."""
    a = block.attention
    return with_attention(
        block, relative_rows=resize_axis(a.relative_rows, grid[0]), relative_columns=resize_axis(a.relative_columns, grid[1])
    )


# Inside a block


def encoder_block(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Other norms, or in other places; a learned factor for each of the D numbers that are added. -> (B, N, D)."""
    step = step.then(branch_ends(w, config))
    if (config.norm, config.norm_places) == ("layer", "before"):
        return model.encoder_block(x, w, config, step)
    first = config.norm_places != "after"
    normed = norm("norm1", w, config)(x, step) if first else x
    x = step("residual1", x + step.into("attention", model.multi_head_attention, normed, w.attention, config), "B N D")
    normed = norm("norm2", w, config)(x, step) if first else x
    return step("residual2", x + step.into("mlp", model.mlp, normed, w.mlp, config), "B N D")


def branch_ends(w: Weights, config: ViTConfig) -> dict[str, After]:
    """What comes after attention and after the MLP."""
    return {"attention": branch_end(1, w, config), "mlp": branch_end(2, w, config)}


def branch_end(n: int, w: Weights, config: ViTConfig) -> After:
    """What comes after attention (n = 1) or the MLP (2), before it is added.

    A norm (Swin v2, arXiv 2111.09883; of Gemma 4 the second one), and layer scale (CaiT, arXiv 2103.17239).
    """

    def finish(x: Array, step: Step) -> Array:
        if config.norm_places != "before":
            x = norm(f"norm{n}_after" if config.norm_places == "both" else f"norm{n}", w, config)(x, step)
        return step(f"layer_scale{n}", x * getattr(w, f"layer_scale{n}"), "B N D") if config.layer_scale else x

    return finish


def norm(name: str, w: Weights, config: ViTConfig, dims: str = "B N D") -> After:
    """The norm of this name, as what comes after a step."""
    return lambda x, step: step(name, NORMS[config.norm](x, *getattr(w, name), config.eps), dims)


def multi_head_attention(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Query and key normed (ViT-22B) or rotated (RoPE), scores by distance (BEiT), or in windows. -> (B, N, D)."""
    after: dict[str, After] = {}
    for name in ("query", "key"):
        if config.qk_norm or config.rope != "none":
            after[name] = normed_and_rotated(name, w, config)
    if config.relative_positions:  # arXiv 2106.08254: a learned number for every head and distance
        bias = step("relative_bias", relative_bias(w.relative_positions, config.grid), "H N N")
        after["scores"] = lambda scores, step: step("biased_scores", scores + step.part_of(bias), "B H N N")
    if config.value_norm:
        after["value"] = lambda x, step: step("value_norm", rms_norm(x, 1.0, config.eps), "B H N K")
    if config.context_norm:
        after["context"] = normed_context(w, config)
    windows = config.windows if config.windows and w.windowed else None
    if config.relative_axes:
        step = scored_by_axes(step, w, (windows.side,) * 2 if windows else config.grid)
    if windows:
        step = in_windows(step, config.grid, windows, [filler(part, config) for part in (w.query, w.key, w.value)])
    attention = attention_within_bounds if config.clipped_linears else model.multi_head_attention
    return attention(x, w, config, step.then(after))


def attention_within_bounds(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """The paper's attention, of such linear layers as Gemma 4 has. (B, N, D) -> (B, N, D)."""
    query = step("query", split_heads(linear_within_bounds(x, w.query), config.heads), "B H N K")
    key = step("key", split_heads(linear_within_bounds(x, w.key), config.heads), "B H N K")
    value = step("value", split_heads(linear_within_bounds(x, w.value), config.heads), "B H N K")
    context = step("context", step.into("", model.attend, query, key, value), "B H N K")
    return step("output", linear_within_bounds(merge_heads(context), w.output), "B N D")


def linear_within_bounds(x: Array, w: Weights) -> Array:
    """A linear layer; where it has bounds, what goes in and comes out is kept within them. (..., in) -> (..., out)."""
    if "bounds" not in w:
        return linear(x, *w)
    *learned, bounds = w
    x = np.minimum(np.maximum(x, bounds[0:1]), bounds[1:2])
    return np.minimum(np.maximum(linear(x, *learned), bounds[2:3]), bounds[3:4])


def scored_by_axes(step: Step, w: Weights, grid: tuple[int, int]) -> Step:
    """The same contract, in which every score has besides what its query makes of the distance in rows, and in columns."""

    def attend(query: Array, key: Array, value: Array, inner: Step) -> Array:
        rows = inner("row_scores", axis_scores(query, w.relative_rows, grid, 0), f"B H N {grid[0]}")
        columns = inner("column_scores", axis_scores(query, w.relative_columns, grid, 1), f"B H N {grid[1]}")

        def biased(scores: Array, step: Step) -> Array:
            bias = step.part_of(rows)[..., :, None] + step.part_of(columns)[..., None, :]  # (B, H, N, rows, columns)
            return step("biased_scores", scores + bias.reshape(*scores.shape), "B H N N")

        below = inner.then({"scores": biased}).having(uses=step.uses, ways=step.ways)
        return below.into("", model.attend, query, key, value)

    return standing_in(step, attend)


def filler(w: Weights, config: ViTConfig) -> Array:
    """The query, key or value of a token of zeros: (H, 1, K)."""
    bias = w.bias if "bias" in w else np.zeros(config.inner_width, w.weight.dtype)
    return bias.reshape(config.heads, 1, config.head_dim)


def attend_unscaled(query: Array, key: Array, value: Array, step: Step) -> Array:
    """Attention whose scores are not divided by sqrt(K): Gemma 4 norms query and key instead. Each (B, H, N, K) -> the same."""
    scores = step("scores", query @ key.swapaxes(-1, -2), "B H N N")
    return step("probs", softmax(scores), "B H N N") @ value


def normed_and_rotated(name: str, w: Weights, config: ViTConfig) -> After:
    """What is done to a query or key before it goes into the scores. (B, H, N, K) -> (B, H, N, K)."""

    def finish(x: Array, step: Step) -> Array:
        if config.qk_norm and config.qk_norm_of_heads:
            x = norm(f"{name}_norm", w, config, "B H N K")(x, step)
        elif config.qk_norm:
            whole = NORMS[config.norm](merge_heads(x), *getattr(w, f"{name}_norm"), config.eps)
            x = step(f"{name}_norm", split_heads(whole, config.heads), "B H N K")
        if config.rope != "none":
            x = step(f"{name}_rotated", rotate(x, w.rotation.cos, w.rotation.sin, config.rope), "B H N K")
        return x

    return finish


def normed_context(w: Weights, config: ViTConfig) -> After:
    """A norm of what all heads give together, before the output layer (arXiv 2210.06423, EVA-02 CLIP)."""

    def finish(x: Array, step: Step) -> Array:
        return split_heads(norm("context_norm", w, config, "B N H*K")(merge_heads(x), step), config.heads)

    return finish


def activation_name(config: ViTConfig) -> str:
    """The activation's step: "gelu" for all three dialects of GELU, else its own name."""
    return "gelu" if "gelu" in config.activation else config.activation


def mlp(x: Array, w: Weights, config: ViTConfig, step: Step, tokens: str = "N") -> Array:
    """Another activation; a gate for each hidden number (GLU, arXiv 2002.05202); a norm of them (EVA-02). -> (B, N, D)."""
    activate, name, dims = ACTIVATIONS[config.activation], activation_name(config), f"B {tokens} M"
    hidden = step("hidden", linear_within_bounds(x, w.hidden), dims)
    if "gate" in w:
        gate = step("gate", linear_within_bounds(x, w.gate), dims)
        gate = step(name, activate(gate), dims)
        hidden = step("gated", gate * hidden, dims)
    else:
        hidden = step(name, activate(hidden), dims)
    if "norm" in w:
        hidden = norm("norm", w, config, dims)(hidden, step)
    return step("output", linear_within_bounds(hidden, w.output), f"B {tokens} D")


# After the blocks


def classify(x: Array, w: Weights, config: ViTConfig, step: Step) -> dict[str, Array]:
    """One vector for the picture by another rule than the paper's, and what is made of it. (B, N, D) -> the outputs."""
    x = norm("norm", w, config)(x, step) if config.final_norm == "tokens" else x
    if config.pooling == "none":
        return {"last_hidden_state": x}
    pooled = POOLINGS[config.pooling](x, w, config, step)
    pooled = norm("pooled_norm", w, config, "B D")(pooled, step) if config.final_norm == "pooled" else pooled
    outputs = {"last_hidden_state": x, "pooled": pooled}
    if config.pooler:  # what transformers' ViTModel keeps of pre-training: one more layer on the class token
        outputs["pooler_output"] = step("pooler", np.tanh(linear(pooled, *w.pooler)), "B R")
    if config.classes:
        logits = linear(outputs["pooler_output"] if config.pre_logits else pooled, *w.head)
        outputs["logits"] = step("logits", distilled(logits, x, w, step) if config.distillation_head else logits, "B O")
    if config.projection:  # CLIP (arXiv 2103.00020): the picture in the space shared with texts, not normalised
        outputs["image_embedding"] = step("image_embedding", linear(pooled, *w.projection), "B E")
    return outputs


def distilled(logits: Array, x: Array, w: Weights, step: Step) -> Array:
    """DeiT (arXiv 2012.12877): the mean of what the heads of class and distillation token say. -> (B, O)."""
    logits = step("class_logits", logits, "B O")
    other = step("distillation_logits", linear(x[:, 1], *w.distillation_head), "B O")
    return (logits + other) / 2


def pool_class(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """The class token (eq. 4). (B, N, D) -> (B, D)."""
    return step("pool", x[:, 0], "B D")


def pool_mean(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """The mean of the patches' tokens. (B, N, D) -> (B, D)."""
    return step("pool", x[:, config.special_tokens :].mean(axis=1), "B D")


def pool_class_and_mean(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Both, one after the other (DINOv2's classifiers). (B, N, D) -> (B, 2*D)."""
    return step("pool", np.concatenate([x[:, 0], x[:, config.special_tokens :].mean(axis=1)], axis=-1), "B 2*D")


def pool_by_attention(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """MAP (Set Transformer, arXiv 1810.00825; SigLIP): a learned query attends to all tokens; then an MLP. -> (B, D)."""
    path, a = step.under("map").having(sizes={**step.sizes, **config.map_sizes}, fitting=set()), w.map.attention
    probe = np.broadcast_to(w.map.probe, (len(x), *w.map.probe.shape))  # (B, 1, D)
    query = path("query", split_heads(linear(probe, *a.query), config.map_sizes["H"]), "B H 1 K")
    attended = gathered(query, x, a, config, path)
    normed = norm("norm", w.map, config, "B 1 D")(attended, path)
    return step("pool", (attended + path.into("mlp", pooling_mlp, normed, w.map.mlp, config))[:, 0], "B D")


def pool_by_query(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """AIMv2 (arXiv 2411.14402): a learned token is the query, as it is; what it gathers is projected. -> (B, D)."""
    path = step.under("map").having(sizes={**step.sizes, **config.map_sizes}, fitting=set())
    probe = np.broadcast_to(w.map.probe, (len(x), *w.map.probe.shape))
    query = path("query", split_heads(probe, config.map_sizes["H"]), "B H 1 K")
    return step("pool", gathered(query, x, w.map.attention, config, path)[:, 0], "B D")


def gathered(query: Array, x: Array, a: Weights, config: ViTConfig, path: Step) -> Array:
    """What one query gathers from all tokens. (B, H, 1, K), (B, N, D) -> (B, 1, D)."""
    key = path("key", split_heads(linear(x, *a.key), config.map_sizes["H"]), "B H N K")
    value = path("value", split_heads(linear(x, *a.value), config.map_sizes["H"]), "B H N K")
    scores = path("scores", query @ key.swapaxes(-1, -2) * config.map_sizes["K"] ** -0.5, "B H 1 N")
    probs = path("probs", softmax(scores), "B H 1 N")
    context = path("context", probs @ value, "B H 1 K")
    return path("output", linear(merge_heads(context), *a.output), "B 1 D")


def pooling_mlp(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """The MLP of one token. (B, 1, D) -> (B, 1, D)."""
    return mlp(x, w, config, step, "1")


POOLINGS = {
    "class": pool_class,
    "mean": pool_mean,
    "class_and_mean": pool_class_and_mean,
    "map": pool_by_attention,
    "query": pool_by_query,
}
