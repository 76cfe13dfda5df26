"""Make the stored test cases of timm's checkpoints from timm itself.

    python tests/make_timm_arrays.py [CASE ...]

Writes a folder tests/data/families/<case> for every case, or for those named: the weights and config.json as timm's own
`save_for_hf` writes them; expected.npz, what timm computes from these weights in float64; about.json, what the files do not
say. Needs torch, safetensors, huggingface_hub and timm; torchvision may be missing. The same versions give the same bytes.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torchvision_stub  # noqa: F401  before timm
from torch.utils._python_dispatch import TorchDispatchMode

import timm  # isort: skip
from timm.layers import LayerNorm, pos_embed_sincos, set_fused_attn  # isort: skip
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3  # isort: skip
from timm.models._hub import save_for_hf  # isort: skip

FAMILIES = Path(__file__).parent / "data" / "families"
# Y != X, so that the patches differ per axis; heads != head size; the MLP no multiple of the width.
TINY = {"img_size": (12, 16), "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
POOLINGS = {"token": "class", "avg": "mean", "map": "map"}


class Case(NamedTuple):
    """One checkpoint: a published architecture, made tiny.

    architecture    timm's name of it, with the tag of its weights; without a tag: a plain VisionTransformer
    options         what its constructor is given besides TINY
    activation      of the MLP, read in the architecture's function
    note            what is surprising in timm's code
    told            what else the files do not say
    mlp             rows of the MLP's first layer
    """

    seed: int
    architecture: str
    options: dict
    activation: str
    note: str
    told: dict | None = None
    mlp: int = 28


CASES = {
    "timm_vit": Case(
        101, "vit_base_patch16_224.augreg_in21k_ft_in1k", {}, "gelu",
        "Class token first, then pos_embed (1, 1 + patches, D) is added to all. LayerNorm eps 1e-6, exact GELU, though the "
        "weights were trained with the tanh one. attn.qkv rows are all of q, then k, then v. The head sees norm(x)[:, 0].",
    ),
    "timm_gap": Case(
        102, "eva_large_patch14_196.in22k_ft_in1k", {}, "gelu",
        "global_pool 'avg' with a class token: it runs through the blocks, but the mean is of the patches alone. There is no "
        "norm before the mean (model.norm is Identity) but fc_norm after it. The vit_*_gap_* architectures have no class "
        "token and fc_norm=False: norm before the mean; so fc_norm.* or norm.* in the file tells which. fc_norm has the "
        "eps of all norms.",
    ),
    "timm_deit_distilled": Case(
        103, "deit_base_distilled_patch16_224.fb_in1k", {}, "gelu",
        "Tokens: cls_token, dist_token, patches; pos_embed has an entry for each. Logits are (head(class) + "
        "head_dist(distillation)) / 2. `pooled` here is what forward_head(pre_logits=True) gives, (class + distillation) / 2, "
        "which no head sees: each head sees its own token.",
    ),
    "timm_deit3": Case(
        104, "deit3_base_patch16_224.fb_in1k", {}, "gelu",
        "no_embed_class: pos_embed (1, patches, D) is added to the patches, then cls_token is put before them. Layer scale "
        "ls1.gamma, ls2.gamma (gamma_1, gamma_2 in the original files).",
    ),
    "timm_dinov2_reg": Case(
        105, "vit_base_patch14_reg4_dinov2.lvd142m", {"num_classes": 0}, "gelu",
        "Tokens: class, 4 registers, patches. pos_embed (1, patches, D) is added to the patches alone; the original's position "
        "of the class token was added into cls_token when timm converted it, and mask_token dropped. No head: the output is "
        "norm(x)[:, 0].",
    ),
    "timm_qknorm": Case(
        106, "", {"qk_norm": True, "qkv_bias": False}, "gelu",
        "A plain timm.models.VisionTransformer saved by safetensors.torch.save_file(model.state_dict()): no config.json. "
        "attn.q_norm, attn.k_norm are layer norms of each head's q and k, (head size,), shared by the heads, eps 1e-6, before "
        "q is scaled by head size ** -0.5. No bias of q, k, v.",
    ),
    "timm_clip": Case(
        107, "vit_base_patch16_clip_quickgelu_224.openai", {}, "quick_gelu",
        "Positions are added to class token and patches, then norm_pre (before the first block: hidden.0 is its output). "
        "patch_embed.proj has no bias. eps 1e-5 in every norm. norm is of all tokens, the head sees the class token. head is "
        "CLIP's projection, transposed, with a bias that CLIP does not have: timm's converter fills it with zeros; here it "
        "is random, as in fine-tuned models.",
    ),
    "timm_siglip": Case(
        108, "vit_base_patch32_siglip_256.v2_webli", {}, "gelu_tanh",
        "No class token. attn_pool sees norm(x): q = q(latent), k and v = kv(x) (rows of k, then v), softmax(q k / sqrt(head "
        "size)) v, proj; then x + mlp(norm(x)) with x that projection: latent itself is not added. The same heads, MLP width, "
        "eps and activation as in the blocks. Published files have no head (num_classes 0). Of the *_siglip_* architectures "
        "base_patch32, large_patch16 512, so400m_patch16 and giantopt have tanh GELU in timm, the others the exact one.",
    ),
    "timm_swiglu": Case(
        109, "vit_giant_patch14_dinov2.lvd142m", {}, "silu",
        "SwiGLUPacked: mlp.fc1 gives gate and hidden numbers, in this order; silu(first half) * second half goes to fc2. "
        "mlp_ratio 2.66667 * 2 of the published one counts both halves. Published files have no head (num_classes 0).",
        mlp=2 * 28,
    ),
    "timm_beit": Case(
        110, "beit_base_patch16_224.in22k_ft_in22k_in1k", {}, "gelu",
        "No pos_embed. Every block has relative_position_bias_table ((2 rows - 1) * (2 columns - 1) + 3, heads): the row of "
        "(query y - key y + rows - 1) * (2 columns - 1) + (query x - key x + columns - 1); the last three are class to any "
        "patch, any patch to class, class to class. It is added to scaled scores. The bias of q and v are q_bias, v_bias, k "
        "has none (a buffer of zeros that is not stored). Layer scale gamma_1, gamma_2. No norm; fc_norm of the mean of the "
        "patches.",
    ),
    "timm_eva02": Case(
        111, "eva02_base_patch14_224.mim_in22k", {}, "silu",
        "Class token, learned positions of all tokens, and RoPE of q and k of the patches in every block: patch y is the "
        "number y / rows * 16 (ref_feat_shape (16, 16), whatever the patch or image size), x likewise; times 10000 ** -(i / "
        "(head size / 4)) for i < head size / 4; y's angles, then x's; each angle turns two neighbours: (a, b) -> (a cos - b "
        "sin, b cos + a sin). q_proj and v_proj have a bias, k_proj none. The MLP is silu(fc1_g(x)) * fc1_x(x), norm, fc2. No "
        "norm before the mean of the patches, fc_norm after it. Tables of the angles are not stored. timm computes them in "
        "float32; here its own code does in float64.",
        {"rope_grid": [16, 16]},
    ),
    "timm_dinov3": Case(
        112, "vit_small_patch16_dinov3.lvd1689m", {}, "gelu",
        "Tokens: class, 4 registers, patches. No learned positions; RoPE of q and k of the patches in every block: y = 2 (row "
        "+ 0.5) / rows - 1, x likewise; angle 2 pi y / 100 ** (2 i / (head size / 2)) for i < head size / 4; y's angles, then "
        "x's; number j of the first half of a head turns with number j of the second: (a, b) -> (a cos - b sin, b cos + a "
        "sin). Periods are not stored (the original stores them, rounded to bfloat16; timm makes them anew in float32, here "
        "in float64, and drops the original's). No bias of q, k, v (the original's is dropped); the architectures *_qkvb have "
        "attn.q_bias, attn.v_bias. eps 1e-5. Layer scale gamma_1, gamma_2. global_pool 'avg': norm, "
        "then the mean of the patches, where the original takes the class token. Published files have no head (num_classes "
        "0).",
    ),
    "timm_gap_alone": Case(
        113, "vit_medium_patch16_gap_256.sw_in12k_ft_in1k", {}, "gelu",
        "No class token: norm of all tokens, then the mean of all, which are patches.",
    ),
    "timm_dinov3_qkvb": Case(
        114, "vit_small_patch16_dinov3_qkvb.lvd1689m", {}, "gelu",
        "As timm_dinov3, with attn.q_bias and attn.v_bias.",
    ),
    "timm_eva02_small": Case(
        115, "eva02_small_patch14_224.mim_in22k", {}, "silu",
        "As timm_eva02, but q, k, v in attn.qkv.weight with q_bias and v_bias, gate and hidden numbers in mlp.fc1 (gate "
        "first), and no norm in the MLP.",
        {"rope_grid": [16, 16]}, mlp=2 * 28,
    ),
    "timm_eva_giant": Case(
        116, "eva_giant_patch14_224.clip_ft_in1k", {}, "gelu",
        "Learned positions of all tokens; q_bias and v_bias; no RoPE, no layer scale; fc_norm of the mean of the patches.",
    ),
}  # fmt: skip


class Float64Torch:
    """torch, but its float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class Only64(TorchDispatchMode):
    """Fails where any operation makes floating-point numbers other than float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64:
                raise AssertionError(f"{function} makes {tensor.dtype}")
        return made


def rotary_float64():
    """timm's rotary code names float32, whatever the model's dtype: in the module's body, and as two functions' default."""
    pos_embed_sincos.torch = Float64Torch()
    for function in (pos_embed_sincos._build_grid, RotaryEmbeddingDinoV3._compute_periods):
        function.__defaults__ = tuple(torch.float64 if value is torch.float32 else value for value in function.__defaults__)


def make(case):
    options = {**TINY, "mlp_ratio": case.mlp / TINY["embed_dim"], **case.options}
    if not case.architecture:
        return timm.models.VisionTransformer(**options).eval()
    return timm.create_model(case.architecture, **options).eval()


def crooked(model, seed):
    """Fill every parameter with random numbers: no zeros, no ones, every bias and scale matters."""
    rng = np.random.default_rng(seed)
    norms = {id(module.weight) for module in model.modules() if isinstance(module, LayerNorm)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = rng.normal(size=tuple(parameter.shape))
            if id(parameter) in norms:
                values = 1 + 0.1 * values
            elif "gamma" in name:
                values = 0.5 + 0.1 * values
            elif parameter.ndim == 1:  # biases
                values = 0.1 * values
            elif name.endswith(".weight"):
                values = values / parameter[0].numel() ** 0.5
            else:  # tokens, positions
                values = 0.5 * values
            parameter.copy_(torch.from_numpy(values))
    return model


def save(model, case, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if case.architecture:
        save_for_hf(model, folder, safe_serialization=True)
        return folder / "model.safetensors"
    safetensors.torch.save_file(model.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def run(model, pixels):
    """pixels (B, C, Y, X) -> name -> array, of the model's dtype."""
    seen = {}
    hooks = [model.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.update({"hidden.0": inputs[0]}))]
    for n, block in enumerate(model.blocks, 1):
        hooks.append(block.register_forward_hook(lambda module, inputs, output, n=n: seen.update({f"hidden.{n}": output})))
    with torch.no_grad():
        features = model.forward_features(pixels)
        if isinstance(model.norm, LayerNorm):
            seen["tokens"] = features
        seen["pooled"] = model.forward_head(features, pre_logits=True)
        if model.num_classes:
            seen["logits"] = model(pixels)
    for hook in hooks:
        hook.remove()
    return {name: value.numpy() for name, value in seen.items()}


def expected(case, file, pixels):
    """What timm computes in float64 of the stored float32 numbers."""
    torch.set_default_dtype(torch.float64)
    with Only64():
        model = make(case)
    model.load_state_dict(safetensors.torch.load_file(file))  # float32 -> float64 is exact
    with Only64():
        arrays = run(model, torch.from_numpy(pixels))
    torch.set_default_dtype(torch.float32)
    return arrays


def about(case, model):
    eps = {module.eps for module in model.modules() if isinstance(module, LayerNorm)}
    told = {
        "heads": model.blocks[0].attn.num_heads,
        "image": list(TINY["img_size"]),
        "eps": eps.pop(),
        "activation": case.activation,
        "pooling": POOLINGS[model.global_pool],
        **(case.told or {}),
    }
    assert not eps, "one eps for all norms"
    upstream = f"timm {timm.__version__}"
    return {"upstream": upstream, "seed": case.seed, "architecture": case.architecture, "told": told, "note": case.note}


def main(names):
    torch.set_num_threads(1)  # the same sums in the same order
    set_fused_attn(False)  # the formula as timm spells it out, not torch's kernel
    models, pixels, rough = {}, {}, {}
    for name in names:
        case = CASES[name]
        models[name] = crooked(make(case), case.seed)
        # in steps of 1/64, so that they pack well and are the same numbers in float32
        pixels[name] = np.round(64 * np.random.default_rng(case.seed + 1000).normal(size=(2, 3, *TINY["img_size"]))) / 64
        rough[name] = run(models[name], torch.from_numpy(pixels[name]).float())  # timm as it is, nothing replaced
    rotary_float64()
    for name, model in models.items():
        case, folder = CASES[name], FAMILIES / name
        arrays = expected(case, save(model, case, folder), pixels[name])
        for step, value in arrays.items():
            assert np.abs(rough[name][step] - value).max() < 1e-5 * np.abs(value).max(), (name, step)
        np.savez_compressed(folder / "expected.npz", pixels=pixels[name], **arrays)
        (folder / "about.json").write_text(json.dumps(about(case, model), indent=1) + "\n", encoding="utf-8")
        print(name, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
