"""BEiT as Microsoft and timm have it (microsoft/unilm, beit/modeling_finetune.py; timm/models/beit.py), and timm's EVA-1.

Query and value have biases of their own names, the key none; a table of learned numbers for every distance in each block, or
one for all; the last norm is of the mean of the patch tokens. EVA-1 has learned positions instead of the table.
"""

from .family import Family
from .table import Row, Table
from .timm import BLOCK, EMBEDDINGS, MASK_TOKEN, MODEL, TAIL, preprocess, tensors_say

TABLE = Table(
    (
        *EMBEDDINGS,
        *BLOCK,
        Row("blocks.{n}.attention.query.bias", "blocks.{n}.attn.q_bias"),
        Row("blocks.{n}.attention.value.bias", "blocks.{n}.attn.v_bias"),
        Row("blocks.{n}.attention.relative_positions", "blocks.{n}.attn.relative_position_bias_table"),
        Row("blocks.{n}.attention.relative_positions", "rel_pos_bias.relative_position_bias_table"),
        *TAIL,
    ),
    "torch",
)


BEIT = Family(
    name="beit",
    title="BEiT and EVA-1",
    upstream="microsoft/unilm, beit/modeling_finetune.py; timm, beit.py",
    table=TABLE,
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.q_bias", r".*relative_position_bias_table"),
    architectures=r"eva_.*",  # whose names other models of timm's have
    preprocess=preprocess,
    prefixes=MODEL,
    fixed={"eps": 1e-6, "activation": "gelu", "position_rule": "bicubic"},
    says=tensors_say,
    left_out={**MASK_TOKEN, r".*relative_position_index": "it is computed"},
    policy="beit",
)
