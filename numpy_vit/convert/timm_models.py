"""timm's config.json -> the fields of ViTConfig: what timm's own arguments mean, key by key.

data/timm_models.json (made by tests/make_timm_table.py) holds what each architecture's function passes to its class, and the
class's defaults; config.json's model_args come on top, as timm itself does it (timm/models/_builder.py, _hub.py). Every
argument is read here, or is known to change nothing in a forward pass, or is refused, whatever its value.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from ..config import MAX_DEPTH
from ..errors import InputError, nearest
from ..fields import whole_number

POOLINGS = {"token": "class", "avg": "mean", "map": "map"}
# timm's activations by timm's names (layers/create_act.py) and by its classes'.
ACTIVATIONS = {
    "gelu": "gelu", "GELU": "gelu", "gelu_tanh": "gelu_tanh", "GELUTanh": "gelu_tanh", "quick_gelu": "quick_gelu",
    "QuickGELU": "quick_gelu", "relu": "relu", "ReLU": "relu", "silu": "silu", "swish": "silu", "SiLU": "silu",
}  # fmt: skip
SWIGLU_PACKED = {"layer": "GluMlp", "gate_last": False}  # timm/layers/mlp.py
NO_EFFECT = {
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init",
    "fix_init", "head_init_scale", "dynamic_img_size", "dynamic_img_pad", "strict_img_size", "rope_shift_coords",
    "rope_jitter_coords", "rope_rescale_coords", "pretrained_strict", "out_indices",
}  # fmt: skip
"""What concerns training, or pictures of another size, alone."""


@functools.cache
def table() -> dict[str, Any]:
    """data/timm_models.json."""
    text = resources.files(__package__).joinpath("data/timm_models.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def names_one(config: Mapping[str, Any] | None) -> bool:
    """Whether a config.json is timm's: it names an architecture, and is not a config of transformers' own models."""
    config = config or {}
    return isinstance(config.get("architecture"), str) and config.get("model_type") in (None, "timm_wrapper")


def tower_of_open_clip(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An open_clip_config.json whose picture tower is timm's, as timm's config.json would say it; None of any other.

    open_clip/timm_model.py, TimmModel. Raises InputError for a tower with more layers after it (timm_proj).
    """
    model = (config or {}).get("model_cfg")
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(vision, dict) or not isinstance(vision.get("timm_model_name"), str) or not vision["timm_model_name"]:
        return None
    projection = vision.get("timm_proj", "linear")
    if projection != "none":
        raise InputError(
            f"open_clip_config.json: timm_proj {projection!r} after a tower of timm's is not supported: "
            "timm's own config.json (--config) reads the tower without it"
        )
    pool, image = vision.get("timm_pool", "avg"), vision.get("image_size")
    return {
        "architecture": vision["timm_model_name"],
        "num_classes": 0,
        **({"global_pool": pool} if pool else {}),
        "model_args": {} if image is None else {"img_size": image},
        "preprocess_cfg": (config or {}).get("preprocess_cfg"),
    }


def published(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """pretrained_cfg of timm's config.json; of old files, whose keys all lie side by side, the file itself."""
    found = config.get("pretrained_cfg", config)
    if not isinstance(found, dict) or not isinstance(config.get("model_args") or {}, dict):
        raise InputError("config.json: model_args and pretrained_cfg must be tables")
    return found


class Arguments:
    """What a class of timm's is made with; which of it has been read."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        known = table()
        name = str(config["architecture"]).split(".")[0]
        name = known["renamed"].get(name, name)
        if name not in known["models"]:
            raise InputError(
                f"config.json: timm's {name} is not one of the plain ViTs of timm {known['timm']}"
                f"{nearest(name, known['models'])}, and is not supported"
            )
        self.name = name
        self.kind, own, _ = known["models"][name]
        cfg, args = published(config), config.get("model_args") or {}
        told = {key: config.get(key, cfg.get(key)) for key in ("num_classes", "global_pool")}
        size = cfg.get("input_size")
        if size is not None:
            if not isinstance(size, list | tuple) or len(size) != 3:
                raise InputError(f"config.json: input_size {size!r} is not (channels, height, width)")
            told |= {"in_chans": size[0], **({"img_size": size[1:]} if cfg.get("fixed_input_size") else {})}
        told = {key: value for key, value in told.items() if value is not None}
        if {"global_pool"} <= config.keys() & args.keys() and args["global_pool"] != config["global_pool"]:
            raise InputError(
                f"config.json says global_pool {config['global_pool']!r}, its model_args say {args['global_pool']!r}"
            )
        self.sure = {*args, *own, *({"num_classes"} & told.keys())}
        pool = {key: told.pop(key) for key in ("global_pool",) if key in config and key in told}
        self.values = {**known["classes"][self.kind], **told, **own, **pool, **args}
        whole_number(f"config.json: timm's {self.name}: depth", self.values.get("depth", 1), 1, MAX_DEPTH)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return self.values[key]

    def refuse(self, key: str, why: str = " is not supported") -> InputError:
        return InputError(f"config.json: timm's {self.name}: {key} {self.values.get(key)!r}{why}")

    def only(self, key: str, *supported: Any) -> None:
        """Read an argument of which only these values are supported."""
        if self[key] not in supported:
            raise self.refuse(key, f" is not supported, only {', '.join(map(repr, supported))}")

    def layer(self, key: str, *supported: str) -> str:
        """The name of a layer's class, or timm's name for it."""
        value = self[key]
        value = {"SwiGLUPacked": SWIGLU_PACKED}.get(value, value) if isinstance(value, str) else value
        name = value.get("layer") if isinstance(value, dict) else value
        if name not in supported:
            raise self.refuse(key)
        return str(name)

    def check_all_read(self) -> None:
        """Raise InputError for an argument that nobody has read."""
        for key in sorted(self.values.keys() - self.read - NO_EFFECT):
            raise self.refuse(key)


def fields(config: Mapping[str, Any], notes: list[str]) -> tuple[dict[str, Any], Arguments]:
    """The fields of ViTConfig that timm's config.json gives, and the arguments they were read from.

    Beside them may be "rope_theta", of which the rotary frequencies follow. Raises InputError for what is not supported.
    """
    a = Arguments(config)
    found = READERS[a.kind](a, notes)
    a.check_all_read()
    return found, a


def common(a: Arguments) -> dict[str, Any]:
    """What all classes call alike."""
    patch, image, norm = a["patch_size"], a["img_size"], a["norm_layer"]
    if isinstance(patch, list):
        if len(set(patch)) != 1:
            raise a.refuse("patch_size", ": only square patches are supported")
        patch = patch[0]
    if norm is not None:
        a.layer("norm_layer", "LayerNorm", "layernorm")
    return {
        "image": tuple(image) if isinstance(image, list) else image,
        "patch": patch,
        "channels": a["in_chans"],
        "width": a["embed_dim"],
        "depth": a["depth"],
        "heads": a["num_heads"],
        "mlp": int(a["embed_dim"] * a["mlp_ratio"]),
        "classes": a["num_classes"],
        "pooler": 0,
        "eps": norm.get("eps", 1e-6) if isinstance(norm, dict) else 1e-6,
        "position_rule": "bicubic_antialias",
        "qkv_bias": a["qkv_bias"],
        "rope": "none",
    }


def pooling(a: Arguments, notes: list[str]) -> str:
    """How the picture's vector is made."""
    pool = a["global_pool"]
    if pool == "" and not a["num_classes"] and a.values.get("class_token", True):
        notes.append(
            "timm pools nothing (global_pool ''): pooled is the class token here, and last_hidden_state is timm's output"
        )
        return "class"
    if not isinstance(pool, str) or pool not in POOLINGS:
        raise InputError(f"config.json: global_pool {pool!r} is not supported, only {', '.join(POOLINGS)}")
    return POOLINGS[pool]


def gate_last(mlp_layer: Any) -> bool:
    """Whether GluMlp's gate is its second half: so by default, and not in SwiGLUPacked."""
    return mlp_layer != "SwiGLUPacked" and not (isinstance(mlp_layer, dict) and mlp_layer.get("gate_last") is False)


def placed(learned: bool, patches_alone: bool) -> str:
    """Which tokens have learned positions."""
    return "none" if not learned else "patches" if patches_alone else "all"


def vision_transformer(a: Arguments, notes: list[str]) -> dict[str, Any]:
    """timm/models/vision_transformer.py, VisionTransformer."""
    pool, registers = pooling(a, notes), a["reg_tokens"] or 0
    prefix = bool(a["class_token"]) + registers
    takes_all = bool(a["pool_include_prefix"])
    if pool == "mean" and takes_all and prefix:
        raise a.refuse("pool_include_prefix", ": the mean over all tokens is not supported")
    if pool == "map" and prefix and not takes_all:
        raise a.refuse("global_pool", ": attention over the patches alone, beside class token or registers, is not supported")
    for key, kind in (("embed_layer", "PatchEmbed"), ("attn_layer", "Attention")):
        a.layer(key, kind)
    a.only("embed_norm_layer", False, None)
    after = a.layer("block_fn", "Block", "ResPostBlock") == "ResPostBlock"  # whose init_values are its norms' weights
    mlp = a.layer("mlp_layer", "Mlp", "GluMlp", "SwiGLU")
    if mlp == "GluMlp" and gate_last(a["mlp_layer"]):
        raise a.refuse("mlp_layer", ": a gate in the second half is not supported")
    activation = a["act_layer"] if isinstance(a["act_layer"], str | None) else a["act_layer"].get("layer")
    if (activation or "gelu") not in ACTIVATIONS:
        raise InputError(f"config.json: act_layer {a['act_layer']!r} is not one of {', '.join(ACTIVATIONS)}")
    found, gated, pre_norm = common(a), mlp != "Mlp", bool(a["pre_norm"])
    if gated and pool == "map":
        raise a.refuse("mlp_layer", ": with attention pooling, whose own MLP has no gate, it is not supported")
    norm, final = a["fc_norm"] if a["fc_norm"] is not None else pool == "mean", a["final_norm"]
    learned = a["pos_embed"] not in ("", "none", None)
    without = ["embed.projection"] if pre_norm else []
    without += [] if a["proj_bias"] else ["attention.output", "mlp.hidden", "mlp.output", *(["mlp.gate"] if gated else [])]
    return {
        **found,
        "mlp": found["mlp"] // 2 if mlp == "GluMlp" else found["mlp"],
        "activation": ACTIVATIONS[activation or "gelu"],
        "pooling": pool,
        "class_token": bool(a["class_token"]),
        "registers": registers,
        "positions": placed(bool(learned), a["no_embed_class"]),
        "pre_norm": pre_norm,
        "norm_places": "after" if after else "before",
        "layer_scale": bool(a["init_values"]) and not after,
        "qk_norm": bool(a["qk_norm"]),
        "gated_mlp": gated,
        "mlp_norm": bool(a["scale_mlp_norm"]),
        "context_norm": bool(a["scale_attn_norm"]),
        "map_mlp": found["mlp"] if pool == "map" else 0,
        "final_norm": "none" if not final else "pooled" if norm else "tokens",
        "without_bias": tuple(without),
    }


def distilled(a: Arguments, notes: list[str]) -> dict[str, Any]:
    """timm/models/deit.py, VisionTransformerDistilled: no registers, no pooling but its own."""
    a.only("global_pool", "token")
    a.only("fc_norm", None, False)
    for key in ("reg_tokens", "no_embed_class"):
        a.only(key, 0, False)
    if not a["num_classes"]:
        raise a.refuse("num_classes", ": without classes timm gives the mean of class and distillation token, which is not "
                                      "supported; `--config` with a config of ours takes the class token")  # fmt: skip
    return {**vision_transformer(a, notes), "distillation_token": True, "distillation_head": True}


def eva(a: Arguments, notes: list[str]) -> dict[str, Any]:
    """timm/models/eva.py, Eva: EVA, EVA-02, DINOv3 and more."""
    pool, registers, pre_norm = pooling(a, notes), a["num_reg_tokens"] or 0, bool(a["use_pre_transformer_norm"])
    found, gated, attention = common(a), bool(a["swiglu_mlp"]), a["attn_type"]
    a.only("attn_only_layer_scale", False)
    after, normed = bool(a["use_post_norm"]), bool(a["scale_mlp"])
    a.only("attn_type", "eva", "rope")
    a.only("num_kv_heads", None, a["num_heads"], [a["num_heads"]] * a["depth"])
    heads, ratio = a["attn_pool_num_heads"] or a["num_heads"], a["attn_pool_mlp_ratio"] or a["mlp_ratio"]
    if pool == "map" and gated:
        raise a.refuse("swiglu_mlp", ": with attention pooling, whose own MLP has no gate, it is not supported")
    aligned = a["swiglu_align_to"] or 0
    aligned = 0 if after and not normed else aligned  # EvaBlockPostNorm then has another layer, which does not align
    pooled_norm = a["use_fc_norm"] if a["use_fc_norm"] is not None else a["global_pool"] == "avg"
    norm = a["use_post_transformer_norm"] if a["use_post_transformer_norm"] is not None else not pooled_norm
    if norm and pooled_norm:
        raise a.refuse("use_post_transformer_norm", ": norms before and after pooling together are not supported")
    _ = a["qkv_fused"]  # the names tell
    without = ["embed.projection"] if pre_norm else []
    without += ["attention.key"] if a["qkv_bias"] and attention == "eva" else []
    return {
        **found,
        "mlp": found["mlp"] + (-found["mlp"] % aligned if gated and aligned else 0),
        "activation": "silu" if gated else "gelu",
        "pooling": pool,
        "class_token": bool(a["class_token"]),
        "registers": registers,
        "positions": placed(a["use_abs_pos_emb"], a["no_embed_class"]),
        "pre_norm": pre_norm,
        "norm_places": "after" if after else "before",
        "layer_scale": a["init_values"] is not None and not after,
        "qk_norm": bool(a["qk_norm"]),
        "gated_mlp": gated,
        "mlp_norm": normed,
        "context_norm": bool(a["scale_attn_inner"]),
        **({"map_heads": heads, "map_mlp": int(ratio * a["embed_dim"])} if pool == "map" else {}),
        "final_norm": "tokens" if norm else "pooled" if pooled_norm else "none",
        "without_bias": tuple(without),
        **rotary(a),
    }


COUNTED = {("ij", False): "index_pairs", ("ij", True): "index_halves", ("xy", False): "column_pairs"}
"""Of counted places: (which axis comes first, whether halves are paired) -> ViTConfig.rope."""


def rotary(a: Arguments) -> dict[str, Any]:
    """Eva's rotary positions."""
    keys = ("rope_type", "ref_feat_shape", "rope_grid_offset", "rope_grid_indexing", "rope_temperature", "rope_rotate_half")
    kind, grid, *_ = (a[key] for key in (*keys, "rope_mrope_section"))
    if not a["use_rot_pos_emb"]:
        return {"rope": "none"}
    a.only("rope_type", "cat", "dinov3")
    if kind == "dinov3":  # (row, column) whatever the indexing, unless it is "xy"
        a.only("rope_grid_offset", 0)
        a.only("rope_rotate_half", True)
        a.only("rope_grid_indexing", "ij")
        return {"rope": "centred_halves", "rope_theta": a["rope_temperature"]}
    a.only("rope_grid_indexing", "ij", "xy")
    rope = COUNTED.get((a["rope_grid_indexing"], bool(a["rope_rotate_half"])))
    if rope is None:
        raise a.refuse("rope_rotate_half", " with columns first is not supported")
    offset = a["rope_grid_offset"]
    if isinstance(offset, bool) or not isinstance(offset, int | float) or offset < 0 or offset != int(offset):
        raise a.refuse("rope_grid_offset", " is no whole number from 0 on")
    grid = [grid, grid] if isinstance(grid, int) else grid
    return {
        "rope": rope,
        "rope_grid": None if grid is None else tuple(grid),
        "rope_offset": int(offset),
        "rope_theta": a["rope_temperature"],
    }


def beit(a: Arguments, notes: list[str]) -> dict[str, Any]:
    """timm/models/beit.py, Beit."""
    pool, gated, own, shared = pooling(a, notes), bool(a["swiglu_mlp"]), a["use_rel_pos_bias"], a["use_shared_rel_pos_bias"]
    if pool == "map":
        raise a.refuse("global_pool")
    if own and shared:
        raise a.refuse("use_shared_rel_pos_bias", ": relative positions both shared and in every block are not supported")
    pooled_norm = a["use_fc_norm"] if a["use_fc_norm"] is not None else pool == "mean"
    return {
        **common(a),
        "activation": "silu" if gated else "gelu",
        "pooling": pool,
        "class_token": True,
        "positions": "all" if a["use_abs_pos_emb"] else "none",
        "relative_positions": bool(own or shared),
        **({"position_rule": "linear_geometric"} if (own or shared) and not a["use_abs_pos_emb"] else {}),
        "layer_scale": bool(a["init_values"]),
        "gated_mlp": gated,
        "mlp_norm": bool(a["scale_mlp"]),
        "final_norm": "pooled" if pooled_norm else "tokens",
        "without_bias": ("attention.key",) if a["qkv_bias"] else (),
    }


READERS = {
    "VisionTransformer": vision_transformer,
    "VisionTransformerDistilled": distilled,
    "Eva": eva,
    "Beit": beit,
}


def registers_have_positions(config: Mapping[str, Any]) -> int:
    """How many registers have learned positions of their own (no_embed_class False)."""
    a = Arguments(config)
    if a.kind not in ("VisionTransformer", "Eva"):
        return 0
    count = a["reg_tokens" if a.kind == "VisionTransformer" else "num_reg_tokens"] or 0
    learned = a["pos_embed"] not in ("", "none", None) if a.kind == "VisionTransformer" else a["use_abs_pos_emb"]
    return count if learned and not a["no_embed_class"] and isinstance(count, int) else 0


def family(config: Mapping[str, Any]) -> str:
    """Which of our families a config.json of timm's is of."""
    a = Arguments(config)
    if a.kind.startswith("VisionTransformer"):
        return "timm"
    rope = a.kind == "Eva" and a["use_rot_pos_emb"]
    return "beit" if not rope else "timm-dinov3" if a["rope_type"] == "dinov3" else "eva02"


def shapes_key(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A short name for a model's tensors, whatever its depth, its classes and its image size."""
    left = sorted((name, shape) for name, shape in shapes.items() if not re.match(r"head(_dist)?\.|blocks\.[1-9]", name))
    text = "\n".join(name if name == "pos_embed" else f"{name} {tuple(shape)}" for name, shape in left)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def alike(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The architectures whose tensors have these names and shapes."""
    key, depth = shapes_key(shapes), len({name.split(".")[1] for name in shapes if re.match(r"blocks\.\d+\.", name)})
    return [name for name, (_, args, other) in table()["models"].items() if other == key and args.get("depth", 12) == depth]


def labels(config: Mapping[str, Any], classes: int, notes: list[str]) -> list[str] | None:
    """label_names of timm's config.json ("labels" in old files): a list, or a table of numbers and names."""
    cfg = published(config)
    names = config.get("label_names") or cfg.get("label_names") or config.get("labels")
    if isinstance(names, dict) and set(names) == {str(n) for n in range(classes)}:
        names = [names[str(n)] for n in range(classes)]
    if not names or not classes:
        return None
    if not isinstance(names, list) or len(names) != classes:
        notes.append(f"config.json: label_names does not name the {classes} classes one by one: they are left out")
        return None
    return [str(name) for name in names]
