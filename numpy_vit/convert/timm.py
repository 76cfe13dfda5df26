"""timm's names (timm/models/vision_transformer.py), and the families that are published under them.

Query, key and value lie in one matrix, rows of the query first. Facebook's DeiT, DINO, MAE and DINOv2 have these names too:
they differ in what comes besides (a distillation token, registers), in how positions are resized, in how pictures are prepared.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..config import ViTConfig
from ..errors import InputError
from ..files.tensorfile import Tensor
from ..pictures.images import Preprocess
from .family import Family, Reading
from .preprocessing import from_timm
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
    Row("head", "head"),
    Row("distillation_head", "head_dist"),
)
TABLE = Table((*EMBEDDINGS, *BLOCK, *TAIL), "torch")


def unpacked(tensors: Tensors) -> Mapping[str, Tensor]:
    """timm calls DINOv2's gated MLP fc1 and fc2, like a plain one: it is seen from fc1 having twice the rows."""
    first, second = tensors.get("blocks.0.mlp.fc1.weight"), tensors.get("blocks.0.mlp.fc2.weight")
    if first is None or second is None or len(first.shape) != 2 or first.shape[0] != 2 * second.shape[-1]:
        return tensors
    return {
        re.sub(r"\.mlp\.fc([12])\.", lambda m: ".mlp.w12." if m[1] == "1" else ".mlp.w3.", n): t for n, t in tensors.items()
    }


# timm names its models so that heads can be told: vit_base_patch16_224, deit_tiny_..., vit_giant_patch14_dinov2.
# (timm/models/vision_transformer.py, the functions at its end; beit.py; eva.py.) Others are asked for.
HEADS = (
    (r"vit_base_patch16_gap_224", 16),
    (r"vit_huge_plus_patch16_dinov3.*", 20),
    (r"vit_giant_patch14_(reg4_)?dinov2", 24),
    (r"(vit|deit3?|beit|beitv2|eva|eva02)_(large|huge|giant|gigantic|giantopt|so400m)_(?!plus).*", 16),
    (r"(vit|deit3?|beit|beitv2|eva02)_base_(?!plus).*", 12),
    (r"vit_medium_(?!plus).*", 8),
    (r"vit_small_plus_patch16_dinov3.*|(vit|deit3?|eva02)_small_(?!plus).*", 6),
    (r"(vit|deit|eva02)_tiny_.*", 3),
)
# Published under the same names, and another model: rotary positions, norms elsewhere, blocks side by side.
OTHERS = re.compile(
    r".*(_rope|_rpn|_xp|_pe_|dwee|dlittle|dpwee|_18x2|aimv2|beit3|enormous|sapiens|lingbot|radio|tips).*|eva02_.*_clip_.*"
)
# GELU of timm's SigLIPs: the tanh approximation in these, exact in the others.
TANH = re.compile(r"vit_(base_patch32|large_patch16|so400m_patch16|giantopt_patch16)_siglip.*")
EXACT = re.compile(r"vit_large_patch16_siglip(_gap)?_(256|384).*")
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")
# What may be in model_args: what the tensors tell as well, what is read below, and what concerns training alone.
MODEL_ARGS = {
    "num_heads", "img_size", "global_pool", "act_layer", "patch_size", "embed_dim", "depth", "mlp_ratio", "num_classes",
    "in_chans", "qkv_bias", "class_token", "no_embed_class", "reg_tokens", "num_reg_tokens", "pre_norm", "fc_norm",
    "use_fc_norm", "final_norm", "init_values", "qk_norm", "pos_embed", "dynamic_img_size", "dynamic_img_pad",
    "strict_img_size", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
    "weight_init", "fix_init", "head_init_scale", "ref_feat_shape", "swiglu_mlp", "scale_mlp", "use_abs_pos_emb",
    "use_rel_pos_bias", "use_shared_rel_pos_bias",
}  # fmt: skip


POOLINGS = {"token": "class", "avg": "mean", "map": "map"}


def architecture(reading: Reading) -> str | None:
    """The architecture that timm's config.json names. Raises InputError for one that only looks like a plain ViT."""
    name = reading.config.get("architecture")
    if not isinstance(name, str):
        return None
    if OTHERS.fullmatch(name):
        raise InputError(f"config.json: timm's {name} is a model of another kind, which is not supported")
    return name


def config_says(reading: Reading) -> dict[str, Any]:
    """What timm's config.json says of any model: heads (by the architecture's name), image and pooling."""
    name, config = architecture(reading), reading.config
    if name is None:
        reading.notes.append("taken as blocks that norm first, one after the other; timm has others with the same names")
    changed, published = (config.get(key) or {} for key in ("model_args", "pretrained_cfg"))
    if not isinstance(changed, dict) or not isinstance(published, dict):
        raise InputError("config.json: model_args and pretrained_cfg must be tables")
    fields: dict[str, Any] = {}
    heads = next((heads for pattern, heads in HEADS if name and re.fullmatch(pattern, name)), None)
    if changed.get("num_heads", heads) is not None:
        fields["heads"] = changed.get("num_heads", heads)
    for key, value in changed.items():
        if key not in MODEL_ARGS and value not in (None, False):
            raise InputError(f"config.json: model_args: {key} {value!r} is not supported")
    image = changed.get("img_size") or (published.get("input_size") or [])[1:]
    if image:
        fields["image"] = tuple(image) if isinstance(image, list) else image
    if changed.get("act_layer") is not None:
        fields["activation"] = changed["act_layer"]
        if changed["act_layer"] not in ACTIVATIONS:
            raise InputError(f"config.json: act_layer {changed['act_layer']!r} is not one of {', '.join(ACTIVATIONS)}")
    elif name and "siglip" in name:
        fields["activation"] = "gelu_tanh" if TANH.fullmatch(name) and not EXACT.fullmatch(name) else "gelu"
    pool = config.get("global_pool", changed.get("global_pool"))
    if pool is not None and pool not in POOLINGS:
        raise InputError(f"config.json: global_pool {pool!r} is not supported, only {', '.join(POOLINGS)}")
    return {**fields, **({"pooling": POOLINGS[pool]} if pool is not None else {})}


def pooling(reading: Reading) -> str:
    """Where nothing says it: a model that norms after pooling takes the mean, and so does one without class token."""
    seen = reading.seen
    if seen.get("pooling") == "map":
        return "map"
    return "mean" if seen.get("final_norm") == "pooled" or not seen.get("class_token") else "class"


def gated(reading: Reading) -> dict[str, Any]:
    """The gate's activation."""
    return {"activation": "silu"} if reading.seen.get("gated_mlp") else {}


def says(reading: Reading) -> dict[str, Any]:
    """What timm's config.json says; eps and activation of CLIP and SigLIP follow from the architecture's name."""
    if "pos_embed" not in (reading.tensors or {}):
        raise InputError(
            "timm's names, but no pos_embed: a model with rotary positions? Tensors do not tell which (--family timm-dinov3?)"
        )
    name = architecture(reading) or ""
    fields = {"pooling": pooling(reading), **gated(reading), **config_says(reading)}
    if reading.seen.get("pre_norm"):
        quick = {"activation": "quick_gelu" if "quickgelu" in name else "gelu"} if name else {"activation": None}
        return {**fields, **quick, "eps": 1e-5 if name else None}
    if fields["pooling"] == "map" and not name:  # SigLIP's: of both kinds
        fields = {"activation": None, **fields}
    return fields


def preprocess(reading: Reading, config: ViTConfig) -> Preprocess | None:
    """pretrained_cfg of timm's config.json."""
    values = reading.config.get("pretrained_cfg")
    return None if values is None else from_timm(values, config.channels, reading.notes)


def tensors_say(reading: Reading) -> dict[str, Any]:
    """Of files that are tensors alone, as Facebook's; timm's copies of them have its config.json."""
    return {"pooling": pooling(reading), **gated(reading), **config_says(reading)}


FIXED = {"eps": 1e-6, "activation": "gelu"}
MASK_TOKEN = {r"mask_token": "the mask token serves masked-image training only"}
MODEL = ("state_dict.", "model.", "module.", "backbone.")
TEACHER = ("teacher.backbone.", "teacher.module.backbone.")  # in checkpoints of training; upstream evaluates the teacher
TIMM = Family(
    name="timm",
    title="timm ViT",
    upstream="timm, vision_transformer.py",
    table=TABLE,
    marks=(r"patch_embed\.proj\.weight", r"blocks\.0\.attn\.qkv\.weight"),
    prefixes=MODEL,
    fixed={**FIXED, "position_rule": "bicubic_antialias"},
    says=says,
    prepare=unpacked,
    left_out=MASK_TOKEN,
    preprocess=preprocess,
)
DEIT3 = Family(
    name="deit3",
    title="Facebook's DeiT-3",
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
