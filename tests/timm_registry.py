"""Every architecture of timm's table, made small and with crooked weights by timm itself: what we make of it against timm.

    python tests/timm_registry.py                 all architectures, as they are
    python tests/timm_registry.py --options       a few of each class, under every option that their code takes

Each is saved as timm saves it for the hub, converted, and run in float64 at its own image size and at two others. Prints how
many agree and why the others are refused; fails where one is read and differs. Needs the extra `peers`.
"""

import collections
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision_stub  # noqa: F401  before timm

import timm  # isort: skip
from timm.models._hub import save_config_for_hf  # isort: skip
from numpy_vit import InputError  # isort: skip
from numpy_vit.convert import convert_source  # isort: skip
from numpy_vit.convert.sources import Source  # isort: skip
from numpy_vit.convert.timm_models import table  # isort: skip
from numpy_vit.files.tensorfile import tensor_of  # isort: skip

torch.set_num_threads(1)
PATCH, HEADS, HEAD_DIM = 4, 3, 8
SMALL = dict(patch_size=PATCH, num_heads=HEADS, embed_dim=HEADS * HEAD_DIM, depth=2, img_size=(12, 20), num_classes=5)
OTHER_SIZES = ((20, 20), (16, 28))
OPTIONS = {
    "vit_base_patch16_224": dict(
        global_pool=["", "avg", "max", "avgmax", "map", "prr"], class_token=[False], qkv_bias=[False], qk_norm=[True],
        scale_attn_norm=[True], scale_mlp_norm=[True], proj_bias=[False], init_values=[1e-5, 0.0], pos_embed=["none", ""],
        no_embed_class=[True], reg_tokens=[2], pre_norm=[True], final_norm=[False], fc_norm=[True, False],
        pool_include_prefix=[True], dynamic_img_size=[True], drop_rate=[0.1], act_layer=["gelu_tanh", "silu", "relu", "mish"],
        norm_layer=["rmsnorm", "layernorm"], num_classes=[0], mlp_ratio=[2.3],
    ),
    "eva02_base_patch14_224": dict(
        global_pool=["", "token", "map"], class_token=[False], qkv_bias=[False], qkv_fused=[True], qk_norm=[True],
        swiglu_mlp=[False], swiglu_align_to=[8], scale_mlp=[False], scale_attn_inner=[True], attn_type=["rope"],
        init_values=[1e-5], attn_only_layer_scale=[True], num_reg_tokens=[2], no_embed_class=[True], use_abs_pos_emb=[False],
        use_rot_pos_emb=[False], rope_type=["dinov3", "mixed"], rope_grid_offset=[1.0], rope_grid_indexing=["xy"],
        rope_temperature=[50.0], rope_rotate_half=[True], use_post_norm=[True], use_pre_transformer_norm=[True],
        use_post_transformer_norm=[True, False], use_fc_norm=[False, True], dynamic_img_size=[True], ref_feat_shape=[(6, 6)],
        num_classes=[0],
    ),
    "vit_small_patch16_dinov3": dict(
        rope_rotate_half=[False], use_rot_pos_emb=[False], global_pool=["token"], swiglu_mlp=[True], qkv_bias=[True],
        rope_temperature=[30.0], rope_grid_indexing=["xy"], use_abs_pos_emb=[True], rope_type=["cat"],
    ),
    "eva_giant_patch14_224": dict(swiglu_mlp=[True], scale_mlp=[True], global_pool=["token"], use_rot_pos_emb=[True],
                                  qkv_fused=[False]),
    "beit_base_patch16_224": dict(
        global_pool=["token", "max"], qkv_bias=[False], swiglu_mlp=[True], scale_mlp=[True], init_values=[None, 0.0],
        use_abs_pos_emb=[True], use_rel_pos_bias=[False], use_shared_rel_pos_bias=[True], use_fc_norm=[False, True],
        num_classes=[0],
    ),
    "deit_base_distilled_patch16_224": dict(num_classes=[0], reg_tokens=[2], init_values=[1e-3], fc_norm=[True],
                                            pre_norm=[True], qk_norm=[True]),
    "vit_base_patch16_clip_224": dict(act_layer=["silu"], norm_layer=["layernorm"], global_pool=["avg"], pre_norm=[False]),
    "vit_giant_patch14_dinov2": dict(act_layer=["gelu"], proj_bias=[False], global_pool=["map"]),
    "vit_base_patch16_siglip_224": dict(reg_tokens=[2], class_token=[True], pool_include_prefix=[True], fc_norm=[True]),
}  # fmt: skip


def crooked(model, seed):
    """Every parameter random, rotary angles in float64."""
    model = filled(model, seed).double().eval()
    for module in model.modules():
        if type(module).__name__ in ("RotaryEmbeddingCat", "RotaryEmbeddingDinoV3"):
            exact_rotation(module, model)
    return model


def filled(model, seed):
    """Every parameter random, none of its own scale forgotten."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        plain = parameter.ndim > 1 and "pos" not in name and "token" not in name and "latent" not in name
        values = values / parameter[0].numel() ** 0.5 if plain else 0.3 * values
        if parameter.ndim == 1 and name.endswith("weight"):
            values = 1 + values
        parameter.data = values.float().double()
    return model


def exact_rotation(rope, model):
    """timm computes rotary angles in float32, whatever the model's dtype: here in float64, by the same formulas."""
    args = made_with(model)
    exponent = torch.arange(0, 1, 4 / HEAD_DIM, dtype=torch.float64)
    frequency = args["rope_temperature"] ** -exponent
    dinov3 = type(rope).__name__ == "RotaryEmbeddingDinoV3"
    reference = args["ref_feat_shape"]
    reference = (reference,) * 2 if isinstance(reference, int) else reference

    def embed(shape=None, **_):
        shape = shape or model.patch_embed.grid_size
        places = [torch.arange(n, dtype=torch.float64) for n in shape]
        if dinov3:
            places = [2 * ((p + 0.5 + args["rope_grid_offset"]) / n) - 1 for p, n in zip(places, shape, strict=True)]
        else:
            places = [p + args["rope_grid_offset"] for p in places]
            places = [p / n * r for p, n, r in zip(places, shape, reference, strict=True)] if reference else places
        y, x = torch.meshgrid(*places, indexing="ij")
        order = (x, y) if args["rope_grid_indexing"] == "xy" else (y, x)
        angles = torch.cat([p.reshape(-1, 1) * frequency * (2 * math.pi if dinov3 else 1) for p in order], dim=1)
        angles = torch.cat([angles, angles], 1) if args["rope_rotate_half"] else angles.repeat_interleave(2, -1)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rope.get_embed = embed


def made_with(model):
    """All arguments of a model's class."""
    known = table()
    return {**known["classes"][type(model).__name__], **model.own_args}


def made(name, options, seed=0):
    """A small model of timm's, or None where timm itself cannot make it."""
    known = table()
    arguments = {**known["classes"][known["models"][name][0]], **known["models"][name][1]}
    small = {**SMALL, "global_pool": arguments["global_pool"]}
    if arguments.get("num_kv_heads"):
        small["num_kv_heads"] = HEADS
    small |= options
    try:
        with torch.no_grad():
            model = timm.create_model(name, **small)
            model.own_args = {**known["models"][name][1], **small}
            model = crooked(model, seed)
            model(torch.zeros(1, 3, 12, 20, dtype=torch.float64))
        return model
    except (AssertionError, TypeError, ValueError, RuntimeError, AttributeError):
        return None


def read(model):
    """Our checkpoint, from timm's own files for the hub."""
    with tempfile.TemporaryDirectory() as folder:
        save_config_for_hf(model, Path(folder) / "config.json")
        config = json.loads((Path(folder) / "config.json").read_text())
    tensors = {key: tensor_of(value.numpy()) for key, value in model.state_dict().items()}
    return convert_source(Source("model", False, [], tensors, {}, config, None))


def error(model, ours, image):
    """The worst of logits, or pooled, and the tokens."""
    pixels = np.random.default_rng(0).normal(size=(2, 3, *image))
    out = ours(pixels, resize_positions=image != ours.config.image)
    with torch.no_grad():
        tokens = model.forward_features(torch.from_numpy(pixels))
        theirs = model.forward_head(tokens)
    pairs = [(out.logits if out.logits is not None else out.pooled, theirs)]
    if ours.config.final_norm == "tokens" or theirs.ndim == 3:
        pairs = [(out.last_hidden_state, tokens)] + (pairs if theirs.ndim == 2 else [])
    return max(float(np.abs(a - b.numpy()).max() / b.abs().max()) for a, b in pairs)


def compare(name, options):
    """(what came of it, why or how far off)."""
    model = made(name, options)
    if model is None:
        return "timm cannot", ""
    try:
        ours = read(model).model("float64")
    except InputError as refused:
        return "refused", str(refused).removeprefix("model: ")
    worst = error(model, ours, (12, 20))
    if not worst < 1e-12:
        return "WRONG", f"{worst:.1e}"
    for image in OTHER_SIZES if ours.config.position_rule != "bicubic_antialias" or not ours.config.relative_positions else ():
        model = made(name, options)
        with torch.no_grad():
            model.set_input_size(image)
        worst = error(model, ours, image)
        if not worst < 1e-5:  # timm resizes positions in float32
            return "WRONG", f"{worst:.1e} at {image}"
    return "right", ""


def main():
    found = collections.defaultdict(list)
    cases = [(name, {}) for name in table()["models"]]
    if "--options" in sys.argv:
        cases = [(name, {key: value}) for name, all_ in OPTIONS.items() for key, values in all_.items() for value in values]
    for name, options in cases:
        what, why = compare(name, options)
        found[what].append(f"{name} {options or ''}: {why}")
    for what in ("timm cannot", "refused", "WRONG"):
        for line in found[what]:
            print(f"{what}: {line}")
    print(f"{len(found['right'])} right, {len(found['refused'])} refused, {len(found['WRONG'])} wrong")
    return 1 if found["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
