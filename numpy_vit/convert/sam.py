"""SAM's image encoder (facebookresearch/segment-anything; transformers, models/sam and sam_hq), and ViTDet (models/vitdet).

Windows of 14 x 14 patches in all blocks but a few, those at the edges filled up with zeros, which are attended to like patches;
relative positions for rows and columns, by the query; no class token, no last norm. SAM's neck, two convolutions with a norm
after each, gives the map that the mask decoder reads: here the tokens for it, `image_tokens`, which upstream calls
last_hidden_state and has as (B, 256, rows, columns). last_hidden_state here is what the last block gives.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import check_image
from ..errors import InputError
from ..files.tensorfile import Tensor, tensor_of
from ..positions import resize_positions
from .family import Family, OpenCheckpoint
from .hugging_face import flag, mlp_ratio
from .multimodal import number, sizes
from .table import Row, Table, Tensors

QKV = tuple(
    Row(f"blocks.{{n}}.attention.{part}", "{layer}.qkv", part=(i, 3)) for i, part in enumerate(("query", "key", "value"))
)
ATTENTION = (
    *QKV,
    Row("blocks.{n}.attention.output", "{layer}.proj"),
    Row("blocks.{n}.attention.relative_rows", "{layer}.rel_pos_h"),
    Row("blocks.{n}.attention.relative_columns", "{layer}.rel_pos_w"),
)


def attention(layer: str) -> tuple[Row, ...]:
    """The rows of attention, which lies under this name."""
    return tuple(row._replace(theirs=row.theirs.replace("{layer}", layer)) for row in ATTENTION)


SAM_TABLE = Table(
    (
        Row("embed.projection", "patch_embed.projection"),
        Row("embed.positions", "pos_embed"),
        Row("blocks.{n}.norm1", "layers.{n}.layer_norm1"),
        *attention("layers.{n}.attn"),
        Row("blocks.{n}.norm2", "layers.{n}.layer_norm2"),
        Row("blocks.{n}.mlp.hidden", "layers.{n}.mlp.lin1"),
        Row("blocks.{n}.mlp.output", "layers.{n}.mlp.lin2"),
        Row("merger.hidden", "neck.conv1"),
        Row("merger.norm", "neck.layer_norm1"),
        Row("merger.conv", "neck.conv2"),
        Row("merger.norm2", "neck.layer_norm2"),
    ),
    "torch",
)
OWN_TABLE = Table(
    (
        Row("embed.projection", "patch_embed.proj"),
        Row("embed.positions", "pos_embed"),
        Row("blocks.{n}.norm1", "blocks.{n}.norm1"),
        *attention("blocks.{n}.attn"),
        Row("blocks.{n}.norm2", "blocks.{n}.norm2"),
        Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.lin1"),
        Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.lin2"),
        Row("merger.hidden", "neck.0"),
        Row("merger.norm", "neck.1"),
        Row("merger.conv", "neck.2"),
        Row("merger.norm2", "neck.3"),
    ),
    "torch",
)
VITDET_TABLE = Table(
    (
        Row("embed.projection", "embeddings.projection"),
        Row("embed.positions", "embeddings.position_embeddings"),
        Row("blocks.{n}.norm1", "encoder.layer.{n}.norm1"),
        *attention("encoder.layer.{n}.attention"),
        Row("blocks.{n}.norm2", "encoder.layer.{n}.norm2"),
        Row("blocks.{n}.mlp.hidden", "encoder.layer.{n}.mlp.fc1"),
        Row("blocks.{n}.mlp.output", "encoder.layer.{n}.mlp.fc2"),
    ),
    "torch",
)
SIZES: dict[str, tuple[str, Any]] = {
    "depth": ("num_hidden_layers", 12), "width": ("hidden_size", 768), "heads": ("num_attention_heads", 12),
    "activation": ("hidden_act", "gelu"), "patch": ("patch_size", 16), "channels": ("num_channels", 3),
    "eps": ("layer_norm_eps", 1e-6), "image": ("image_size", 1024),
}  # fmt: skip
EPS = 1e-6  # of the neck's norms


def says_sam(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of SAM says."""
    fields, section = sizes(reading, "SAM", SIZES, (
        "mlp_dim", "mlp_ratio", "output_channels", "window_size", "global_attn_indexes", "qkv_bias", "use_abs_pos",
        "use_rel_pos", "num_pos_feats", "projection_dim", "scale",
    ))  # fmt: skip
    number(section, "image_size", 1024)  # upstream divides it by the patch size: a square
    depth = fields["depth"]
    whole = block_list(section, "global_attn_indexes", (2, 5, 8, 11))
    return {
        **fields,
        "mlp": number(section, "mlp_dim", hidden_width(section, fields)),
        "qkv_bias": flag(section, "qkv_bias", True),
        "positions": "all" if flag(section, "use_abs_pos", True) else "none",
        "relative_axes": flag(section, "use_rel_pos", True),
        **windows(section, 14, [n for n in whole if n < depth], depth),
        "merger": neck(number(section, "output_channels", 256, reading.notes, "SAM")),
    }


def says_vitdet(reading: OpenCheckpoint) -> dict[str, Any]:
    """What config.json of ViTDet says."""
    fields, section = sizes(reading, "ViTDet", {**SIZES, "image": ("image_size", 224)}, (
        "mlp_ratio", "dropout_prob", "pretrain_image_size", "window_size", "window_block_indices", "residual_block_indices",
        "qkv_bias", "use_absolute_position_embeddings", "use_relative_position_embeddings",
    ))  # fmt: skip
    if block_list(section, "residual_block_indices", ()):
        raise InputError("config.json: residual_block_indices: blocks with convolutions after the MLP are not supported")
    learned, image = flag(section, "use_absolute_position_embeddings", True), fields["image"]
    trained, depth = section.get("pretrain_image_size", 224), fields["depth"]
    moved = learned and grid_of(trained, fields) != grid_of(image, fields)
    if moved:
        reading.notes.append(f"positions were learned for {trained} pixels: they are resized for image_size, {image}, alone")
    windowed = block_list(section, "window_block_indices", ())
    return {
        **fields,
        "mlp": hidden_width(section, fields),
        "qkv_bias": flag(section, "qkv_bias", True),
        "positions": "all" if learned else "none",
        "position_rule": "none" if moved else "bicubic",
        "relative_axes": flag(section, "use_relative_position_embeddings", False),
        **windows(section, 0, [n for n in range(depth) if n not in windowed], depth),
    }


def says_own(reading: OpenCheckpoint) -> dict[str, Any]:
    """What follows from the tensors of segment-anything's own files."""
    shapes, seen = reading.shapes, reading.seen
    patch, positions = seen.get("patch"), shapes.get("pos_embed", ())
    tables = [tuple(shapes.get(f"blocks.{n}.attn.rel_pos_{axis}", ()) for axis in "hw") for n in range(seen["depth"])]
    if len(positions) != 4 or not patch or not all(len(table) == 2 and table[1] for pair in tables for table in pair):
        raise InputError(
            "pos_embed (1, rows, columns, D), or some block's rel_pos_h or rel_pos_w, is missing or of another shape"
        )
    grid = positions[1:3]
    attended = [((rows[0] + 1) // 2, (columns[0] + 1) // 2) for rows, columns in tables]
    whole = [n for n, area in enumerate(attended) if area == grid]
    sides = {side for n, area in enumerate(attended) if n not in whole for side in area}
    if len(sides) > 1:
        raise InputError(f"rel_pos_h and rel_pos_w are of windows of several sizes, {sorted(sides)}: not supported")
    return {
        "image": (grid[0] * patch, grid[1] * patch),
        "heads": seen.get("width", 0) // tables[0][0][1],
        "positions": "all",
        "relative_axes": True,
        "windows": {"side": sides.pop(), "whole": whole, "padded": True} if sides else None,
        "merger": neck(shapes["neck.0.weight"][0]),
        "without_bias": (),
    }


def hidden_width(section: Mapping[str, Any], fields: Mapping[str, Any]) -> int:
    """The MLP's hidden width, of mlp_ratio."""
    return int(fields["width"] * mlp_ratio(section, [], "SAM"))


def block_list(section: Mapping[str, Any], key: str, default: tuple[int, ...]) -> list[int]:
    """A list of block numbers of config.json."""
    blocks = section.get(key, default)
    if not isinstance(blocks, list | tuple) or not all(type(n) is int and n >= 0 for n in blocks):
        raise InputError(f"config.json: {key} {blocks!r:.60}: it must be a list of block numbers")
    return sorted(set(blocks))


def windows(section: Mapping[str, Any], default: int, whole: list[int], depth: int) -> dict[str, Any]:
    """The windows; a size of 0 means none."""
    side = section.get("window_size", default)
    if type(side) is not int or side < 0:
        raise InputError(f"config.json: window_size is {side!r}: it must be a whole number from 0 on")
    return {"windows": {"side": side, "whole": whole, "padded": True} if side and len(whole) < depth else None}


def neck(channels: int) -> dict[str, Any]:
    """SAM's neck: two convolutions without bias, 1 x 1 and 3 x 3, and a norm over the channels after each."""
    return {
        "side": 1,
        "stages": (f"hidden {channels}", "norm", f"conv {channels}", "norm2"),
        "eps": EPS,
        "without_bias": ("hidden", "conv"),
    }


def grid_of(image: Any, fields: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, columns) of the patches of an image size of config.json."""
    size = check_image(tuple(image) if isinstance(image, list) else image, fields["patch"], whole=False)
    return size[0] // fields["patch"], size[1] // fields["patch"]


def row_by_row(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Positions (1, rows, columns, D) as (rows * columns, D)."""
    positions = tensors.get("pos_embed")
    if positions is None or len(positions.shape) != 4:
        return tensors
    return {**tensors, "pos_embed": Tensor(positions.dtype, positions.data.reshape(-1, positions.shape[-1]))}


def for_image_size(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """ViTDet's positions without the class token's, which it does not use; of another size than image_size's, resized."""
    name = "embeddings.position_embeddings"
    if name not in tensors or len(tensors[name].shape) != 3:
        return tensors
    positions = tensors[name]
    learned = Tensor(positions.dtype, positions.data[0, 1:])
    fields = {"patch": config.get("patch_size", 16)}
    if isinstance(fields["patch"], list):
        fields["patch"] = fields["patch"][0]
    old, new = (grid_of(config.get(key, 224), fields) for key in ("pretrain_image_size", "image_size"))
    if old != new and len(learned.data) == old[0] * old[1]:
        learned = tensor_of(resize_positions(learned.to_float(np.float64), old, new, "bicubic"))
    return {**tensors, name: learned}


COMMON: dict[str, Any] = {"class_token": False, "pooling": "none", "classes": 0, "pooler": 0, "final_norm": "none"}
SAM = Family(
    name="sam",
    title="SAM's image encoder, and SAM-HQ's",
    upstream="transformers, models/sam and sam_hq",
    table=SAM_TABLE,
    marks=(),
    model_types=("sam", "sam_vision_model", "sam_hq", "sam_hq_vision_model"),
    prefixes=("vision_encoder.",),
    fixed={**COMMON, "position_rule": "none"},
    says=says_sam,
    unprepared=("Sam",),
    prepare=row_by_row,
    hugging_face=True,
)
SEGMENT_ANYTHING = Family(
    name="segment-anything",
    title="SAM's image encoder, in Facebook's own files",
    upstream="facebookresearch/segment-anything, modeling/image_encoder.py",
    table=OWN_TABLE,
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.rel_pos_h", r"neck\.2\.weight"),
    prefixes=("image_encoder.",),
    fixed={**COMMON, "position_rule": "none", "eps": EPS, "activation": "gelu"},
    says=says_own,
    prepare=row_by_row,
)
VITDET = Family(
    name="vitdet",
    title="ViTDet's backbone",
    upstream="transformers, models/vitdet",
    table=VITDET_TABLE,
    marks=(),
    model_types=("vitdet",),
    prefixes=("vitdet.",),
    fixed=COMMON,
    says=says_vitdet,
    prepare=for_image_size,
    hugging_face=True,
)
