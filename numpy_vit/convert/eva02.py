"""EVA-02 (timm/models/eva.py; baaivision/EVA, EVA-02/asuka/modeling_finetune.py).

Learned positions and rotary ones too, counted in the grid of pre-training, 16 x 16; a gated MLP with a norm inside; the key has
no bias; the last norm is of the mean of the patch tokens.
"""

from typing import Any

import numpy as np

from ..config import ViTConfig
from .family import Family, Reading
from .table import Row, Table, Tensors
from .timm import BLOCK, EMBEDDINGS, MASK_TOKEN, MODEL, TAIL, preprocess, tensors_say, unpacked

TABLE = Table(
    (
        *EMBEDDINGS,
        Row("blocks.{n}.attention.query", "blocks.{n}.attn.q_proj"),
        Row("blocks.{n}.attention.key", "blocks.{n}.attn.k_proj"),
        Row("blocks.{n}.attention.value", "blocks.{n}.attn.v_proj"),
        Row("blocks.{n}.attention.query.bias", "blocks.{n}.attn.q_bias"),
        Row("blocks.{n}.attention.value.bias", "blocks.{n}.attn.v_bias"),
        *BLOCK,
        Row("blocks.{n}.mlp.gate", "blocks.{n}.mlp.fc1_g"),  # timm
        Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.fc1_x"),
        Row("blocks.{n}.mlp.norm", "blocks.{n}.mlp.norm"),
        Row("blocks.{n}.mlp.gate", "blocks.{n}.mlp.w1"),  # baaivision
        Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.w2"),
        Row("blocks.{n}.mlp.norm", "blocks.{n}.mlp.ffn_ln"),
        Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.w3"),
        *TAIL,
    ),
    "torch",
)


def gated(tensors: Tensors) -> bool:
    """Whether the MLP has a gate: the small models hold both halves in fc1."""
    return "blocks.0.mlp.fc1.weight" not in tensors or unpacked(tensors) is not tensors


def made(config: ViTConfig, reading: Reading) -> dict[str, Any]:
    """The rotary frequencies: 10000 ** -(0, 1/q, 2/q, ...), q = K / 4."""
    return {"rope.frequencies": np.float64(10_000) ** -np.arange(0, 1, 4 / config.head_dim)}


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
    prepare=unpacked,
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
    made=made,
    left_out={**MASK_TOKEN, r".*rope\.freqs_(cos|sin)": "they are computed"},
    policy="eva02",
)
