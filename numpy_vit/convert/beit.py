"""BEiT as Microsoft and timm have it (microsoft/unilm, beit/modeling_finetune.py; timm/models/beit.py), and timm's EVA-1.

Query and value have biases of their own names, the key none; a table of learned numbers for every distance in each block, or
one for all; the last norm is of the mean of the patch tokens. EVA-1 has learned positions instead of the table.
"""

from .family import Family
from .timm import ALL, COMPUTED, MASK_TOKEN, MODEL, WORDS, labels, prepared, preprocess, rotary_frequencies, tensors_say

BEIT = Family(
    name="beit",
    title="BEiT and EVA-1",
    upstream="microsoft/unilm, beit/modeling_finetune.py; timm, beit.py",
    table=ALL,
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.q_bias", r".*relative_position_bias_table"),
    prepare=prepared,
    labels=labels,
    made=lambda config, reading: rotary_frequencies(config, reading, 10_000),
    preprocess=preprocess,
    prefixes=MODEL,
    fixed={"eps": 1e-6, "activation": "gelu", "position_rule": "bicubic"},
    says=tensors_say,
    left_out={**MASK_TOKEN, **COMPUTED, **WORDS},
    policy="beit",
)
