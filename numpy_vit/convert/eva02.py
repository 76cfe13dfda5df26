"""EVA-02 (timm/models/eva.py; baaivision/EVA, EVA-02/asuka/modeling_finetune.py).

Learned positions and rotary ones too, counted in the grid of pre-training, 16 x 16; a gated MLP with a norm inside; the key has
no bias; the last norm is of the mean of the patch tokens. EVA-02 CLIP norms what the heads give, too.

With timm's config.json also the other models of its eva.py whose rotary positions are counted: Perception Encoder (arXiv
2504.13181; columns first, its own heads in the attention pool) and naver's RoPE ViTs (arXiv 2403.13298) but the mixed ones.
"""

from .family import Family
from .table import Row, Table, Tensors
from .timm import (
    ALL,
    COMPUTED,
    MASK_TOKEN,
    MODEL,
    WORDS,
    labels,
    prepared,
    preprocess,
    rotary_frequencies,
    tensors_say,
    unpacked,
)

TABLE = Table(
    (
        *ALL.rows,
        Row("blocks.{n}.mlp.gate", "blocks.{n}.mlp.w1"),  # baaivision
        Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.w2"),
        Row("blocks.{n}.mlp.norm", "blocks.{n}.mlp.ffn_ln"),
        Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.w3"),
    ),
    "torch",
)


def gated(tensors: Tensors) -> bool:
    """Whether the MLP has a gate: the small models hold both halves in fc1."""
    return "blocks.0.mlp.fc1.weight" not in tensors or unpacked(tensors) is not tensors


EVA02 = Family(
    name="eva02",
    title="EVA-02",
    upstream="timm, eva.py",
    table=TABLE,
    marks=(
        r"patch_embed\.proj\.weight",
        r"blocks\.0\.attn\.(q_proj\.weight|q_bias)",
        r"blocks\.0\.mlp\.(fc1_g|w1|fc1)\.weight",
        r"pos_embed",
    ),
    shaped=gated,
    prepare=prepared,
    labels=labels,
    preprocess=preprocess,
    prefixes=MODEL,
    fixed={
        "eps": 1e-6,
        "activation": "silu",
        "position_rule": "bicubic_antialias",
        "rope": "index_pairs",
        "rope_grid": (16, 16),
    },
    says=tensors_say,
    made=lambda config, reading: rotary_frequencies(config, reading, 10_000),
    left_out={**MASK_TOKEN, **COMPUTED, **WORDS},
    policy="eva02",
)
