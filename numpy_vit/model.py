"""The Vision Transformer, in the order the data flows: embed -> encode -> classify (norm, pool, head).

This is the model of "An Image is Worth 16x16 Words" (Dosovitskiy et al., arXiv 2010.11929) as it classifies pictures, for
reading and for reference. For ViT-B/16, (B, 3, 224, 224) pixels become (B, 196, 768) patches, (B, 197, 768) tokens, pass 12
encoder blocks of that same shape, and end as (B, 768) for the picture and (B, 1000) class scores.

Letters (the paper's own differ for N, H and K):
    B batch        C channels   Y X picture height and width      P patch size    G patches      N tokens: G + 1
    D width        H heads      K = D / H numbers of a head       M MLP width     L blocks       O classes

`w` holds the learned numbers. A linear layer unpacks to its weight (in, out) and bias (out,), a layer norm to its weight (D,)
and bias (D,); w.class_token is (D,), w.positions (N, D). Two calls are bookkeeping, not arithmetic:

    x = step("scores", x, "B H N N")      checks these dimensions and gives x its name: read it as `x` (numpy_vit.steps)
    step.into("mlp", mlp, x, w, config)   is mlp(x, w, config, step), with "mlp." before the names of its steps; with "" before
                                          them nothing. A later family's function may replace it (numpy_vit.families)
"""

from collections.abc import Sequence

from .config import ViTConfig
from .ops import gelu, layer_norm, linear, merge_heads, patchify, prepend, softmax, split_heads
from .parameters import Weights
from .steps import Array, Step


def forward(pixels: Array, w: Weights, config: ViTConfig, step: Step) -> dict[str, Array]:
    """The whole model. pixels (B, C, Y, X) -> tokens (B, N, D), the picture's vector (B, D), class scores (B, O)."""
    x = step.into("embed", embed, pixels, w.embed, config)  # (B, N, D)
    x = encode(x, w.blocks, config, step)  # (B, N, D)
    return step.into("", classify, x, w, config)


def embed(pixels: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Eq. 1: patches are projected, the class token is put first, positions are added. (B, C, Y, X) -> (B, N, D)."""
    patches = step("patches", patchify(pixels, config.patch), "B G C*P*P")
    x = step("projection", linear(patches, *w.projection), "B G D")
    x = step("tokens", prepend([w.class_token], x), "B N D")
    return step("positions", x + w.positions, "B N D")


def encode(x: Array, blocks: Sequence[Weights], config: ViTConfig, step: Step) -> Array:
    """L encoder blocks, one after another, each with its own weights; none changes the shape. (B, N, D) -> (B, N, D)."""
    for n, w in enumerate(blocks):
        x = step.into(f"blocks.{n}", encoder_block, x, w, config)  # (B, N, D)
    return x


def encoder_block(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Eq. 2 and 3: x + attention(norm(x)), then x + mlp(norm(x)). (B, N, D) -> (B, N, D)."""
    normed = step("norm1", layer_norm(x, *w.norm1, config.eps), "B N D")
    attention_output = step.into("attention", multi_head_attention, normed, w.attention, config)  # (B, N, D)
    x = step("residual1", x + attention_output, "B N D")
    normed = step("norm2", layer_norm(x, *w.norm2, config.eps), "B N D")
    mlp_output = step.into("mlp", mlp, normed, w.mlp, config)  # (B, N, D)
    return step("residual2", x + mlp_output, "B N D")


def multi_head_attention(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Eq. 5 and 8: every token has, for each head, a query, a key and a value. (B, N, D) -> (B, N, D)."""
    query = step("query", split_heads(linear(x, *w.query), config.heads), "B H N K")
    key = step("key", split_heads(linear(x, *w.key), config.heads), "B H N K")
    value = step("value", split_heads(linear(x, *w.value), config.heads), "B H N K")
    context = step("context", step.into("", attend, query, key, value), "B H N K")
    return step("output", linear(merge_heads(context), *w.output), "B N D")


def attend(query: Array, key: Array, value: Array, step: Step) -> Array:
    """Eq. 6 and 7: weighted means of the values, the weights from query times key. Each (B, H, N, K) -> (B, H, N, K).

    K**-0.5 is 1 / sqrt(K): without it scores would grow with K, and softmax would saturate.
    """
    K = query.shape[-1]
    scores = step("scores", query @ key.swapaxes(-1, -2) * K**-0.5, "B H N N")  # (.., N, K) @ (.., K, N)
    probs = step("probs", softmax(scores), "B H N N")  # over the keys: every row sums to 1
    return probs @ value  # (.., N, N) @ (.., N, K)


def mlp(x: Array, w: Weights, config: ViTConfig, step: Step) -> Array:
    """Section 3.1: each token independently is widened to M numbers, through GELU, and back to D. (B, N, D) -> (B, N, D)."""
    x = step("hidden", linear(x, *w.hidden), "B N M")
    x = step("gelu", gelu(x), "B N M")
    return step("output", linear(x, *w.output), "B N D")


def classify(x: Array, w: Weights, config: ViTConfig, step: Step) -> dict[str, Array]:
    """Eq. 4: after a last norm the class token stands for the picture; a linear head scores the classes.

    (B, N, D) -> all tokens after the norm (B, N, D), the class token (B, D), logits (B, O).
    """
    x = step("norm", layer_norm(x, *w.norm, config.eps), "B N D")
    pooled = step("pool", x[:, 0], "B D")  # of every picture, token 0
    logits = step("logits", linear(pooled, *w.head), "B O")
    return {"last_hidden_state": x, "pooled": pooled, "logits": logits}
