"""timm's names (timm/models/vision_transformer.py), and the families that are published under them.

Query, key and value lie in one matrix, rows of the query first. Facebook's DeiT, DINO, MAE and DINOv2 have these names too:
they differ in what comes besides (a distillation token, registers), in how positions are resized, in how pictures are prepared.
"""

import contextlib
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import LINEARS, ViTConfig
from ..errors import InputError
from ..files.tensorfile import Tensor
from ..pictures.images import Preprocess
from . import timm_models
from .family import Family, OpenCheckpoint
from .preprocessing import from_open_clip, from_timm
from .table import Row, Table, Tensors

EMBEDDINGS = (
    Row("embed.projection", "patch_embed.proj"),
    Row("embed.class_token", "cls_token"),
    Row("embed.distillation_token", "dist_token"),
    Row("embed.registers", "reg_token"),  # timm
    Row("embed.registers", "register_tokens"),  # DINOv2
    Row("embed.positions", "pos_embed"),
    Row("embed.norm", "norm_pre"),
)
QKV = tuple(
    Row(f"blocks.{{n}}.attention.{part}", "blocks.{n}.attn.qkv", part=(i, 3))
    for i, part in enumerate(("query", "key", "value"))
)
BLOCK = (
    Row("blocks.{n}.norm1", "blocks.{n}.norm1"),
    *QKV,
    Row("blocks.{n}.attention.query_norm", "blocks.{n}.attn.q_norm"),
    Row("blocks.{n}.attention.key_norm", "blocks.{n}.attn.k_norm"),
    Row("blocks.{n}.attention.context_norm", "blocks.{n}.attn.norm"),
    Row("blocks.{n}.attention.output", "blocks.{n}.attn.proj"),
    Row("blocks.{n}.layer_scale1", "blocks.{n}.ls1.gamma"),
    Row("blocks.{n}.layer_scale1", "blocks.{n}.gamma_1"),  # Facebook's DeiT-3, BEiT, EVA
    Row("blocks.{n}.norm2", "blocks.{n}.norm2"),
    Row("blocks.{n}.mlp.gate", "blocks.{n}.mlp.w12", part=(0, 2)),  # DINOv2 giant
    Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.w12", part=(1, 2)),
    Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.w3"),
    Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.fc1"),
    Row("blocks.{n}.mlp.output", "blocks.{n}.mlp.fc2"),
    Row("blocks.{n}.layer_scale2", "blocks.{n}.ls2.gamma"),
    Row("blocks.{n}.layer_scale2", "blocks.{n}.gamma_2"),
)
TAIL = (
    Row("norm", "norm"),
    Row("map.probe", "attn_pool.latent"),
    Row("map.attention.query", "attn_pool.q"),
    Row("map.attention.key", "attn_pool.kv", part=(0, 2)),
    Row("map.attention.value", "attn_pool.kv", part=(1, 2)),
    Row("map.attention.output", "attn_pool.proj"),
    Row("map.norm", "attn_pool.norm"),
    Row("map.mlp.hidden", "attn_pool.mlp.fc1"),
    Row("map.mlp.output", "attn_pool.mlp.fc2"),
    Row("pooled_norm", "fc_norm"),
    Row("pooler", "pre_logits.fc"),  # of timm before 0.6
    Row("head", "head"),
    Row("distillation_head", "head_dist"),
)
TABLE = Table((*EMBEDDINGS, *BLOCK, *TAIL), "torch")
# What other classes of timm's (Eva, Beit) call otherwise, or have besides.
OTHERS = (
    Row("blocks.{n}.attention.query", "blocks.{n}.attn.q_proj"),
    Row("blocks.{n}.attention.key", "blocks.{n}.attn.k_proj"),
    Row("blocks.{n}.attention.value", "blocks.{n}.attn.v_proj"),
    Row("blocks.{n}.attention.query.bias", "blocks.{n}.attn.q_bias"),
    Row("blocks.{n}.attention.value.bias", "blocks.{n}.attn.v_bias"),
    Row("blocks.{n}.attention.relative_positions", "blocks.{n}.attn.relative_position_bias_table"),
    Row("blocks.{n}.attention.relative_positions", "rel_pos_bias.relative_position_bias_table"),
    Row("blocks.{n}.mlp.gate", "blocks.{n}.mlp.fc1_g"),
    Row("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.fc1_x"),
    Row("blocks.{n}.mlp.norm", "blocks.{n}.mlp.norm"),
)
ALL = Table((*EMBEDDINGS, *OTHERS, *BLOCK, *TAIL), "torch")


def unpacked(tensors: Tensors) -> Mapping[str, Tensor]:
    """timm calls DINOv2's gated MLP fc1 and fc2, like a plain one: it is seen from fc1 having twice the rows."""
    first, second = tensors.get("blocks.0.mlp.fc1.weight"), tensors.get("blocks.0.mlp.fc2.weight")
    if first is None or second is None or (len(first.shape), len(second.shape)) != (2, 2):
        return tensors
    if first.shape[0] != 2 * second.shape[-1]:
        return tensors
    return {
        re.sub(r"\.mlp\.fc([12])\.", lambda m: ".mlp.w12." if m[1] == "1" else ".mlp.w3.", n): t for n, t in tensors.items()
    }


def prepared(tensors: Tensors, config: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """A gated MLP under names of its own; and registers that have positions, with them added: ours have none."""
    tensors = unpacked(tensors)
    count = timm_models.registers_have_positions(config) if timm_models.names_one(config) else 0
    if not count or "reg_token" not in tensors or "pos_embed" not in tensors:
        return tensors
    positions, registers = tensors["pos_embed"], tensors["reg_token"]
    first = int("cls_token" in tensors)
    rows = positions.data.reshape(-1, positions.shape[-1])
    added = (
        registers.to_float(np.float64).reshape(count, -1) + positions.to_float(np.float64).reshape(rows.shape)[first:][:count]
    )
    others = np.concatenate([rows[:first], rows[first + count :]])
    return {**tensors, "reg_token": Tensor("F64", added), "pos_embed": Tensor(positions.dtype, others)}


def config_says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What timm's config.json says, where there is one; it must not contradict the tensors."""
    if "model_cfg" in reading.config:
        raise InputError("open_clip_config.json does not name timm's model: give timm's own config.json for it (--config)")
    if not timm_models.names_one(reading.config):
        reading.notes.append("taken as blocks that norm first, one after the other; timm has others with the same names")
        return unclear(reading)
    fields, arguments = timm_models.fields(reading.config, reading.notes)
    fields.pop("rope_theta", None)
    reading.left_out[r"pre_logits\.fc\..*"] = "timm leaves it out"
    if "num_classes" not in arguments.sure and "classes" in reading.seen:
        fields["classes"] = reading.seen["classes"]
    fields["without_bias"] = tuple(name for name in LINEARS if name in fields["without_bias"])
    for name in COMPARED:
        said = fields.get(name, UNSAID.get(name))
        seen = reading.seen.get(name, said)
        if said != seen:
            raise InputError(f"config.json says {name} {said} (timm's {arguments.name}), the tensors say {seen}")
    return {**fields, **{name: value for name, value in UNSAID.items() if name not in fields}}


def unclear(reading: OpenCheckpoint) -> dict[str, Any]:
    """Of a file without config.json: fields in which an architecture with just these tensors is not as its names make it.

    They are asked for.
    """
    found: dict[str, set[Any]] = {}
    for name in timm_models.alike(reading.shapes):
        with contextlib.suppress(InputError):
            for field, value in timm_models.fields({"architecture": name}, [])[0].items():
                found.setdefault(field, set()).add(value)
    assumed = {**FIXED, **gated(reading)}
    return {field: None for field in ("activation", "eps") if found.get(field, set()) - {assumed[field]}}


def confusable(reading: OpenCheckpoint) -> str | None:
    """An architecture of timm's that has just these tensors and is not what its names make it, or None."""
    if timm_models.names_one(reading.config):
        return None
    for name in timm_models.alike(reading.shapes):
        try:
            fields = timm_models.fields({"architecture": name}, [])[0]
        except InputError:
            return name
        if fields["rope"] != "none" or fields.get("norm_places", "before") != "before":
            return name
    return None


def rotary_frequencies(config: ViTConfig, reading: OpenCheckpoint, theta: float) -> dict[str, Any]:
    """theta ** -(0, 1/q, 2/q, ...), q = K / 4; theta is the family's, or what timm's config.json says."""
    if config.rope == "none":
        return {}
    if timm_models.names_one(reading.config):
        theta = timm_models.fields(reading.config, [])[0]["rope_theta"]
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not theta > 0:
        raise InputError(f"config.json: rope_temperature {theta!r} is no number above 0")
    frequencies = np.float64(theta) ** -np.arange(0, 1, 4 / config.head_dim)
    return {"rope.frequencies": 2 * math.pi * frequencies if config.rope == "centred_halves" else frequencies}


# What timm's config.json and the tensors both tell.
COMPARED = (
    "patch", "channels", "width", "depth", "heads", "mlp", "classes", "class_token", "distillation_token", "registers",
    "qkv_bias", "pre_norm", "layer_scale", "qk_norm", "relative_positions", "gated_mlp", "mlp_norm", "context_norm", "map_mlp",
    "final_norm", "without_bias",
)  # fmt: skip
UNSAID = {"distillation_token": False, "distillation_head": False, "qk_norm": False, "relative_positions": False,
          "mlp_norm": False, "context_norm": False, "map_mlp": 0, "pre_norm": False, "registers": 0, "projection": 0,
          "pre_logits": False}  # fmt: skip


def pooling(reading: OpenCheckpoint) -> str:
    """Where nothing says it: a model that norms after pooling takes the mean, and so does one without class token."""
    seen = reading.seen
    if seen.get("pooling") == "map":
        return "map"
    return "mean" if seen.get("final_norm") == "pooled" or not seen.get("class_token") else "class"


def gated(reading: OpenCheckpoint) -> dict[str, Any]:
    """The gate's activation."""
    return {"activation": "silu"} if reading.seen.get("gated_mlp") else {}


def says(reading: OpenCheckpoint) -> dict[str, Any]:
    """What timm's config.json says, or, without one, what follows from the tensors."""
    if timm_models.names_one(reading.config):
        return config_says(reading)
    if "pos_embed" not in (reading.tensors or {}):
        raise InputError("timm's names, but no pos_embed: a model with rotary positions? The tensors do not tell of what kind: "
                         "its config.json does")  # fmt: skip
    fields = tensors_say(reading)
    if reading.seen.get("pre_norm"):
        return {**fields, "activation": None, "eps": None}
    return {"activation": None, **fields} if fields["pooling"] == "map" else fields  # SigLIP's: of both kinds


def preprocess(reading: OpenCheckpoint, config: ViTConfig) -> Preprocess | None:
    """pretrained_cfg of timm's config.json; or preprocess_cfg of open_clip's."""
    if not timm_models.names_one(reading.config):
        return None
    if isinstance(reading.config.get("preprocess_cfg"), dict):
        return from_open_clip(reading.config["preprocess_cfg"], config.image, config.channels, reading.notes)
    values = timm_models.published(reading.config)
    return from_timm(values, config.channels, reading.notes) if values.keys() & {"input_size", "mean", "crop_pct"} else None


def labels(reading: OpenCheckpoint, config: ViTConfig) -> list[str] | None:
    """label_names of timm's config.json."""
    known = timm_models.names_one(reading.config)
    return timm_models.labels(reading.config, config.classes, reading.notes) if known else None


def tensors_say(reading: OpenCheckpoint) -> dict[str, Any]:
    """Of files that are tensors alone, as Facebook's; timm's copies of them have its config.json."""
    if timm_models.names_one(reading.config):
        return config_says(reading)
    pre_logits = bool(reading.seen.get("pooler") and reading.seen.get("classes"))
    return {"pooling": pooling(reading), "pre_logits": pre_logits, **gated(reading), **config_says(reading)}


FIXED = {"eps": 1e-6, "activation": "gelu"}
MASK_TOKEN = {r"mask_token": "the mask token serves masked-image training only"}
WORDS = {r"lm_head\..*": "the head over visual words serves masked-image training only"}
COMPUTED = {r".*relative_position_index": "it is computed", r".*rope\.freqs_(cos|sin)": "they are computed"}
MODEL = ("state_dict.", "model.", "module.", "backbone.")
TEACHER = ("teacher.backbone.", "teacher.module.backbone.")  # in checkpoints of training; upstream evaluates the teacher
TIMM = Family(
    name="timm",
    title="timm ViT",
    upstream="timm, vision_transformer.py",
    table=ALL,
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight"),
    prefixes=MODEL,
    fixed={**FIXED, "position_rule": "bicubic_antialias"},
    says=says,
    prepare=prepared,
    confusable=confusable,
    left_out={**MASK_TOKEN, **COMPUTED, **WORDS},
    preprocess=preprocess,
    labels=labels,
    made=lambda config, reading: rotary_frequencies(config, reading, 10_000),
)
DEIT3 = Family(
    name="deit3",
    title="Facebook's DeiT-3",
    confusable=confusable,
    upstream="facebookresearch/deit, models_v2.py",
    table=TABLE,
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.gamma_1", r"pos_embed", r"norm\.weight"),
    prefixes=MODEL,
    fixed={**FIXED, "position_rule": "bicubic"},
    says=tensors_say,
    policy="deit3",
)
DEIT = Family(
    name="deit",
    title="Facebook's DeiT",
    confusable=confusable,
    upstream="facebookresearch/deit, models.py",
    table=TABLE,
    marks=(r"patch_embed\.proj\.weight", r"dist_token", r"pos_embed", r"norm\.weight"),
    prefixes=MODEL,
    fixed={**FIXED, "position_rule": "bicubic"},
    says=tensors_say,
    policy="deit",
)
DINO = Family(
    name="dino",
    title="Facebook's DINO",
    upstream="facebookresearch/dino, vision_transformer.py",
    table=TABLE,
    marks=(),
    prefixes=MODEL,
    towers=TEACHER,
    fixed={**FIXED, "position_rule": "bicubic_dino"},
    says=tensors_say,
    policy="dino",
)
MAE = Family(
    name="mae",
    title="Facebook's MAE: the encoder, or the fine-tuned classifier",
    upstream="facebookresearch/mae, models_mae.py and models_vit.py",
    table=TABLE,
    marks=(r"patch_embed\.proj\.weight", r"decoder_embed\.weight"),
    prefixes=MODEL,
    fixed={**FIXED, "position_rule": "bicubic"},
    says=tensors_say,
    left_out={**MASK_TOKEN, r"decoder_.*": "the decoder serves masked-image training only"},
    policy="mae",
)
DINOV2 = Family(
    name="dinov2",
    title="Facebook's DINOv2",
    upstream="facebookresearch/dinov2, vision_transformer.py",
    table=TABLE,
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.ls1\.gamma", r"mask_token"),
    prefixes=MODEL,
    towers=TEACHER,
    fixed=FIXED,
    says=lambda reading: {
        **tensors_say(reading),
        "position_rule": "bicubic_antialias" if reading.seen["registers"] else "bicubic_dino",
    },
    left_out=MASK_TOKEN,
    policy="dinov2",
)
