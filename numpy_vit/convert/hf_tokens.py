"""Encoders with other sets of tokens (transformers, models/yolos and models/pixio).

YOLOS has detection tokens after the patches, and Pixio several class tokens, each with a position of its own. Here they are
registers, which stand before the patches; attention does not see where a token stands. Registers have no positions, so theirs
are added to the tokens when a file is read: upstream adds the same two numbers for every picture.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..files.tensorfile import tensor_of
from .family import Family, OpenCheckpoint
from .hf_dinov2 import TABLE as DINOV2_TABLE
from .hf_vit import TABLE as VIT_TABLE
from .hugging_face import DEFAULTS, architectures, flag, mlp_ratio, qkv_bias, sizes
from .multimodal import number, only
from .table import Row, Table, Tensors

POSITIONS = "embeddings.position_embeddings"
REGISTERS = Row("embed.registers", "embeddings.register_tokens", ones=1)  # so they are called once they have their positions


def with_their_positions(tokens: str, before: bool) -> Callable[[Tensors, Mapping[str, Any]], Tensors]:
    """`prepare` of a family whose extra tokens have positions, `before` those of the patches or after: the sum of both.

    tokens   their name, (1, T, D); of (1, T + N, D) positions. Sums are kept in float64: they would be rounded else.
    """

    def prepare(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
        shapes = [tensors[name].shape if name in tensors else () for name in (tokens, POSITIONS)]
        if [len(shape) for shape in shapes] != [3, 3] or not 0 < shapes[0][1] < shapes[1][1] or shapes[0][2] != shapes[1][2]:
            return tensors  # the table says what is wrong
        count = shapes[0][1]
        positions = tensors[POSITIONS].to_float(np.float64)
        theirs, others = (
            (positions[:, :count], positions[:, count:]) if before else (positions[:, -count:], positions[:, :-count])
        )
        summed = tensors[tokens].to_float(np.float64) + theirs
        rest = {name: tensor for name, tensor in tensors.items() if name != tokens}
        return {**rest, POSITIONS: tensor_of(np.ascontiguousarray(others)), REGISTERS.theirs: tensor_of(summed)}

    return prepare


def yolos_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What YOLOS's config.json says. The heads that find boxes are not run."""
    config = reading.config
    fields = sizes(reading, "YOLOS", {**DEFAULTS, "image_size": [512, 864]})
    only(
        "use_mid_position_embeddings",
        not flag(config, "use_mid_position_embeddings", True),
        "positions added after every block",
    )
    if reading.tensors is not None:
        pooler = reading.seen["pooler"]
    else:
        pooler = 0 if any("ObjectDetection" in kind for kind in architectures(reading)) else fields["width"]
    registers = number(config, "num_detection_tokens", 100, reading.notes, "YOLOS")
    return {**fields, "classes": 0, "pooler": pooler, "qkv_bias": qkv_bias(reading), "registers": registers}


def pixio_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What Pixio's config.json says."""
    defaults = {key: value for key, value in DEFAULTS.items() if key != "intermediate_size"} | {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "layer_norm_eps": 1e-6, "image_size": 256,
    }  # fmt: skip
    fields = sizes(reading, "Pixio", defaults)
    mlp = int(fields["width"] * mlp_ratio(reading.config, reading.notes, "Pixio"))
    tokens = number(reading.config, "n_cls_tokens", 8, reading.notes, "Pixio")
    return {**fields, "mlp": mlp, "classes": 0, "pooler": 0, "qkv_bias": qkv_bias(reading), "registers": tokens}


HF_YOLOS = Family(
    name="hf-yolos",
    unprepared=("Yolos",),
    title="YOLOS's encoder",
    upstream="transformers, models/yolos",
    table=Table((*(row for row in VIT_TABLE.rows if row.ours != "head"), REGISTERS), "torch"),
    marks=(),
    model_types=("yolos",),
    prefixes=("vit.",),
    fixed={"pooling": "class", "position_rule": "bicubic"},
    says=yolos_says,
    prepare=with_their_positions("embeddings.detection_tokens", before=False),
    hugging_face=True,
)
PIXIO_ROWS = tuple(
    row._replace(theirs=row.theirs.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense"))
    for row in DINOV2_TABLE.rows
    if not any(text in row.ours for text in ("layer_scale", "gate", "head", "class_token", "registers"))
    and "weights" not in row.theirs
)
HF_PIXIO = Family(
    name="hf-pixio",
    unprepared=("Pixio",),
    title="Pixio's encoder",
    upstream="transformers, models/pixio",
    table=Table((*PIXIO_ROWS, REGISTERS), "torch"),
    marks=(),
    model_types=("pixio",),
    prefixes=("pixio.",),
    fixed={"pooling": "none", "position_rule": "bicubic", "class_token": False},
    says=pixio_says,
    prepare=with_their_positions("embeddings.cls_token", before=True),
    hugging_face=True,
)
