"""Make the stored test cases of checkpoints from the authors' own PyTorch repositories, torchvision and open_clip.

    python tests/make_torch_repositories_arrays.py REPOSITORIES [CASE ...]

REPOSITORIES is a folder with the sources of the repositories, each as REPOSITORIES/<name of the repository>, at the commits
named below. Writes a folder tests/data/families/<case> for every case, or for those named: the weights as the repository's
own files hold them; expected.npz, what the repository's code computes from these weights in float64; about.json, what the
files do not say. In expected.npz, hidden.0 is what the first block is given and hidden.i what block i - 1 gives;
`resized.*` is a second picture, of another size; `recomputed.*` the same picture with exact tables of rotary positions
in place of the stored, rounded ones.

Needs torch, torchvision, open_clip_torch, safetensors, huggingface_hub, ftfy, regex, einops, pillow and timm 0.3.2, the
version that MAE, DeiT and BEiT ask for. torchvision may be built for another torch: its compiled part is not used. The
same versions give the same bytes.
"""

import collections
import contextlib
import importlib
import json
import shutil
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

FAMILIES = Path(__file__).parent / "data" / "families"
COMMITS = {
    "CLIP": "openai/CLIP d05afc436d78f1c48dc0dbf8e5980a9d471f35f6",
    "dino": "facebookresearch/dino 7c446df5b9f45747937fb0d72314eb9f7b66930a",
    "dinov2": "facebookresearch/dinov2 b8931f7bf91576930313be2c6d6af376033b35f0",
    "dinov3": "facebookresearch/dinov3 6876159a11b4df116f30f667f8c9888617df0751",
    "mae": "facebookresearch/mae efb2a8062c206524e35e47d04501ed4f544c0ae8",
    "deit": "facebookresearch/deit 7e160fe43f0252d17191b71cbb5826254114ea5b",
    "unilm": "microsoft/unilm 768a3c873f598bb9b4d4dfb9267b099e35f8fe56",
    "EVA": "baaivision/EVA 5623d08bb08a8268c7bc18e1d9b8b4bd651fe4d9",
}
EPS6 = partial(nn.LayerNorm, eps=1e-6)
# Heads != head size; the MLP (28) no multiple of the width.
TINY = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 28 / 24}
TIMM = {**TINY, "qkv_bias": True, "norm_layer": EPS6}
CLASSES = {"num_classes": 5}
CROOKED = (12, 20)  # Y != X, so that the patches differ per axis, where the code allows it
SMALL = (8, 12)  # likewise
SQUARE = (12, 12)


# --- importing old code into today's libraries ---


def prepare_imports():
    """What the repositories import and no longer exists, or is not needed to compute."""
    six = types.ModuleType("torch._six")  # gone from torch; timm 0.3.2 looks in it for collections.abc
    six.container_abcs = collections.abc
    normalization = types.ModuleType("apex.normalization")
    normalization.FusedLayerNorm = nn.LayerNorm  # the same, in one CUDA kernel
    xformers = types.ModuleType("xformers")
    xformers.ops = types.ModuleType("xformers.ops")  # EVA calls it only with xattn or swiglu
    sys.modules |= {"torch._six": six, "apex": types.ModuleType("apex"), "apex.normalization": normalization}
    sys.modules |= {"xformers": xformers, "xformers.ops": xformers.ops}
    np.float = float  # gone from NumPy; MAE
    # torchvision/__init__.py describes its compiled operators to torch, which must know their names
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return operators  # keep: they are forgotten with it


def module(folder, name):
    """Import from a repository. Two repositories have the same module names, so that none may stay in sys.modules."""
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        for new in set(sys.modules) - before:
            if (getattr(sys.modules[new], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[new]


# --- float64 ---


class Only64(TorchDispatchMode):
    """Fails where any operation makes floating-point numbers other than float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64:
                raise AssertionError(f"{function} makes {tensor.dtype}")
        return made


@contextlib.contextmanager
def double_precision():
    """New tensors are float64, and where code says .float() it gets float64."""
    torch.set_default_dtype(torch.float64)
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield
    torch.set_default_dtype(torch.float32)


# --- the cases ---


class Case(NamedTuple):
    """One checkpoint.

    repository  a name in COMMITS, or the library
    build       (sources, image) -> model, as the repository constructs it
    told        what the files do not say
    note        what is surprising in the repository's code
    file        name of the weights file
    blocks      attribute of the list of blocks
    watch       name in expected.npz -> attribute of the module whose output it is; tokens -> norm if None
    head        whether the model's output is logits; otherwise it is the pooled vector, or all tokens
    call        (model, pixels) -> output
    batch       axis of the pictures in what the blocks are given
    half        (model) -> None: round to what the files hold
    wrap        (state dict) -> what is saved
    unwrap      the reverse
    save        (model, folder) -> None, instead of torch.save(wrap(state dict))
    loads       (model built for loading) -> None: settings that differ from those when saving
    double      (model) -> None: after model.double(), replace what still names float32
    resized     another image size (Y, X) which the model is given
    rule        how positions are resized for it
    resize      (model's state dict, image) -> state dict, where the code resizes at loading; else it does in forward
    recompute   (sources, model) -> model with tables of positions that are exact in float64
    """

    seed: int
    repository: str
    build: Callable
    told: dict
    note: str
    file: str = "weights.pth"
    blocks: str = "blocks"
    watch: dict | None = None
    head: bool = True
    call: Callable = lambda model, pixels: model(pixels)
    batch: int = 0
    half: Callable = lambda model: None
    wrap: Callable = lambda state: state
    unwrap: Callable = lambda saved: saved
    save: Callable | None = None
    loads: Callable = lambda model: None
    double: Callable = lambda model: None
    resized: tuple | None = None
    rule: str = ""
    resize: Callable | None = None
    recompute: Callable | None = None


def told(heads, image, eps, activation="gelu", pooling="class", **more):
    names = {"heads": heads, "image": list(image), "eps": eps, "activation": activation, "pooling": pooling, **more}
    return {name: value for name, value in names.items() if value is not None}


MODEL_KEY = {"wrap": lambda state: {"model": state}, "unwrap": lambda saved: saved["model"]}


def torchvision_vit(sources, image):
    vit = importlib.import_module("torchvision.models.vision_transformer").VisionTransformer
    return vit(image_size=image[0], patch_size=4, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=28, num_classes=5)


def torchvision_resize(state, image):
    function = importlib.import_module("torchvision.models.vision_transformer").interpolate_embeddings
    return function(image_size=image[0], patch_size=4, model_state=state)


def old_names(state):
    """Names before pytorch/vision#6053, as MLPBlock._load_from_state_dict says: 0 and 3 were linear_1 and linear_2."""
    old = collections.OrderedDict()
    for name, value in state.items():
        old[name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")] = value
    # the versions of the modules, which torch saves along: MLPBlock's was 1 then, 2 now
    old._metadata = {name: {"version": 1} for name in state._metadata}
    return old


def with_numbers(state):
    """OpenAI's archives are TorchScript; their state dict holds these too, and build_model drops them."""
    return type(state)({**state, **{name: torch.tensor(number) for name, number in OPENAI_NUMBERS.items()}})


def without_numbers(saved):
    return {name: value for name, value in saved.items() if name not in OPENAI_NUMBERS}


def openai_clip(sources, image):
    clip = module(sources / "CLIP", "clip.model")
    # clip.CLIP makes heads of 64; the small tower with heads of 8 is put in afterwards
    model = clip.CLIP(16, image[0], 1, 64, 4, 6, 10, 8, 2, 1)
    model.visual = clip.VisionTransformer(image[0], 4, 24, 2, 3, 16)
    model.convert_weights = clip.convert_weights
    return model


def openai_double(model):
    layer_norm = type(model.visual.ln_pre)
    del layer_norm.forward  # which computes in float32; that of nn.LayerNorm is left


OPENAI_NUMBERS = {"input_resolution": 12, "context_length": 6, "vocab_size": 10}
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": list(CROOKED),
        "layers": 2,
        "width": 24,
        "head_width": 8,
        "patch_size": 4,
        "mlp_ratio": 28 / 24,
    },
    "text_cfg": {"context_length": 6, "vocab_size": 10, "width": 8, "heads": 2, "layers": 1},
}
OPEN_CLIP_PREPROCESS = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def open_clip_model(sources, image):
    library = importlib.import_module("open_clip")
    assert OPEN_CLIP["vision_cfg"]["image_size"] == list(image)
    return library.CLIP(**OPEN_CLIP)


def open_clip_save(model, folder):
    hub = importlib.import_module("open_clip.push_to_hf_hub")
    importlib.import_module("open_clip.model").set_model_preprocess_cfg(model, OPEN_CLIP_PREPROCESS)
    no_tokenizer = types.SimpleNamespace(save_pretrained=lambda folder: None)
    hub.save_for_hf(model, no_tokenizer, OPEN_CLIP, folder, safe_serialization=True)
    (folder / "open_clip_model.safetensors").chmod(0o644)  # as any other file


def dino(sources, image):
    return module(sources / "dino", "vision_transformer").VisionTransformer(img_size=[image[0]], **TIMM)


def dinov2(sources, image, **options):
    code = module(sources / "dinov2", "dinov2.models.vision_transformer")
    block = partial(code.Block, attn_class=code.MemEffAttention)
    return code.DinoVisionTransformer(img_size=image, block_fn=block, block_chunks=0, init_values=1.0, **{**TINY, **options})


def dinov3(sources, image, **options):
    code = module(sources / "dinov3", "dinov3.models.vision_transformer")
    tiny = {**TINY, "num_heads": 2, "ffn_ratio": TINY["mlp_ratio"]}
    del tiny["mlp_ratio"]
    settings = {"layerscale_init": 1e-5, "norm_layer": "layernormbf16", "n_storage_tokens": 4, "mask_k_bias": True}
    model = code.DinoVisionTransformer(img_size=image, **{**tiny, **settings, **options})
    model.init_weights()
    return model


def dinov3_loads(model):
    """torch.hub's models have pos_embed_rope_dtype="fp32"; the class, and so the saved file, bf16."""
    model.rope_embed.dtype = torch.float32
    model.rope_embed.periods = model.rope_embed.periods.float()


def dinov3_double(model):
    model.rope_embed.dtype = torch.float64  # "Don't rely on self.periods.dtype"


def dinov3_recompute(sources, model):
    model.rope_embed._init_weights()
    return model


def mae(sources, image):
    code = module(sources / "mae", "models_mae")
    decoder = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    return code.MaskedAutoencoderViT(img_size=image, norm_layer=EPS6, **TINY, **decoder)


def mae_call(model, pixels):
    """The encoder with nothing masked. It shuffles the patches all the same: sorted "random" numbers keep their order."""

    def ascending(*shape, device=None):
        return torch.arange(shape[-1]).double().expand(shape)

    with mock.patch.object(torch, "rand", ascending):
        return model.forward_encoder(pixels, 0)[0]


def mae_finetuned(sources, image):
    return module(sources / "mae", "models_vit").VisionTransformer(img_size=image, global_pool=True, **TIMM, **CLASSES)


def deit(sources, image):
    return module(sources / "deit", "models").DistilledVisionTransformer(img_size=image, **TIMM, **CLASSES)


def deit3(sources, image):
    code = module(sources / "deit", "models_v2")
    return code.vit_models(img_size=image, block_layers=code.Layer_scale_init_Block, **TIMM, **CLASSES)


def beit(sources, image):
    code = module(sources / "unilm" / "beit", "modeling_finetune")
    positions = {"use_abs_pos_emb": False, "use_rel_pos_bias": True}
    return code.VisionTransformer(img_size=image, init_values=0.1, use_mean_pooling=True, **positions, **TIMM, **CLASSES)


def eva02(sources, image):
    code = module(sources / "EVA" / "EVA-02" / "asuka", "modeling_finetune")
    # as eva02_base_patch14_xattn_fusedLN_NaiveSwiGLU_subln_RoPE, but attention spelled out instead of xformers' (xattn)
    options = {"subln": True, "naiveswiglu": True, "rope": True, "pt_hw_seq_len": 16, "intp_freq": True}
    options |= {"use_checkpoint": False, **TIMM, "num_heads": 2}
    with contextlib.redirect_stdout(None):
        return code.VisionTransformer(img_size=image[0], **options, **CLASSES)


def eva02_recompute(sources, model):
    """A new model makes its own tables, here in float64; everything else is taken from `model`."""
    exact = eva02(sources, SQUARE)
    exact.load_state_dict({name: value for name, value in model.state_dict().items() if "freqs" not in name}, strict=False)
    return exact


BICUBIC_SCALE = (
    "torch bicubic (a = -0.75), no antialias, with scale_factor (rows + 0.1) / M per axis, M = sqrt(patches of the file): "
    "output pixel i lies at (i + 0.5) / scale_factor - 0.5. Done in forward unless patches are as many as stored and the "
    "picture is square: a crooked picture of equally many patches is resized too."
)
CASES = {
    "torchvision": Case(
        201, "torchvision", torchvision_vit, told(3, SQUARE, 1e-6),
        "torch.save(model.state_dict()). Square pictures only. Class token first, then encoder.pos_embedding is added to all. "
        "self_attention is nn.MultiheadAttention: in_proj_weight rows q, k, v. All LayerNorms eps 1e-6, exact GELU. encoder.ln "
        "of all tokens, heads.head of the class token; with representation_size there are heads.pre_logits and tanh before.",
        blocks="encoder.layers", watch={"tokens": "encoder.ln"}, resized=(16, 16), resize=torchvision_resize,
        rule="interpolate_embeddings: torch bicubic, align_corners=True, at loading; square grids only.",
    ),
    "torchvision_old": Case(
        201, "torchvision", torchvision_vit, told(3, SQUARE, 1e-6),
        "The case `torchvision` with the MLP's names before pytorch/vision#6053, mlp.linear_1 and mlp.linear_2; torchvision's "
        "own loading renames them.",
        blocks="encoder.layers", watch={"tokens": "encoder.ln"}, wrap=old_names,
    ),
    "open_clip": Case(
        202, "open_clip", open_clip_model, told(3, CROOKED, 1e-5),
        "open_clip's save_for_hf: the whole CLIP, the picture's tower is visual.*, names without it (transformer.*, "
        "positional_embedding, ln_final.*, token_embedding.*, text_projection, logit_scale) are the text tower's. Heads are "
        "width / head_width of open_clip_config.json, head_width 64 if it says nothing. Exact GELU unless quick_gelu is true. "
        "conv1 has no bias; class token, positions added to all tokens, ln_pre (hidden.0 is its output), blocks, ln_post of "
        "all tokens, class token, @ proj, which is (in, out). `pooled` is before, `logits` after proj, not normalised.",
        file="open_clip_model.safetensors", blocks="visual.transformer.resblocks", watch={"tokens": "visual.ln_post"},
        call=lambda model, pixels: model.encode_image(pixels), save=open_clip_save,
    ),
    "openai_clip": Case(
        203, "CLIP", openai_clip, told(3, SQUARE, 1e-5, "quick_gelu"),
        "State dict of the whole CLIP after convert_weights: float16 are conv1, in_proj, out_proj, c_fc, c_proj (weights and "
        "biases), proj and text_projection; float32 stay LayerNorms, class_embedding, positional_embedding, token_embedding, "
        "logit_scale. input_resolution, context_length, vocab_size are numbers in the state dict of OpenAI's archives, dropped "
        "by build_model. Published towers always have heads of 64 (width // 64), an MLP of 4 * width (here too) and square "
        "pictures. Class token, positions, ln_pre (hidden.0 is its output), blocks, class token, ln_post of it alone, @ proj "
        "(in, out). `pooled` is before, `logits` after proj. LayerNorm computes in float32 whatever the input is; that is "
        "replaced here by nn.LayerNorm's own in float64.",
        blocks="visual.transformer.resblocks", watch={"pooled": "visual.ln_post"}, batch=1,
        call=lambda model, pixels: model.encode_image(pixels), half=lambda model: model.convert_weights(model),
        wrap=with_numbers, unwrap=without_numbers, double=openai_double,
    ),
    "dino": Case(
        204, "dino", dino, told(3, SQUARE, 1e-6),
        "A plain state dict of the backbone, without a head (published dino_*_pretrain.pth). The output is norm(x)[:, 0].",
        head=False, resized=(16, 8), rule=BICUBIC_SCALE,
    ),
    "dinov2": Case(
        205, "dinov2", dinov2, told(3, SQUARE, 1e-6),
        "A plain state dict of the backbone. Names blocks.0.norm1: block_chunks=0 as in torch.hub; training has "
        "block_chunks > 0 and names blocks.<chunk>.<block>. mask_token (1, D) is not used. Layer scale ls1.gamma, ls2.gamma. "
        "No head: the output is norm(x)[:, 0]. Resized positions are computed in float32, here in float64.",
        head=False, resized=(16, 8), rule=BICUBIC_SCALE,
    ),
    "dinov2_reg": Case(
        206, "dinov2",
        partial(dinov2, num_register_tokens=4, interpolate_antialias=True, interpolate_offset=0.0),
        told(3, SQUARE, 1e-6),
        "Tokens: class, 4 registers, patches. pos_embed (1, 1 + patches, D) is added to class and patches, then "
        "register_tokens come between them: registers have no positions. Otherwise as the case dinov2.",
        head=False, resized=(16, 8),
        rule="torch bicubic with antialias (a = -0.5), size=(rows, columns), in forward unless patches are as many as stored "
        "and the picture is square.",
    ),
    "dinov2_giant": Case(
        207, "dinov2", partial(dinov2, ffn_layer="swiglufused", mlp_ratio=2.0), told(3, SQUARE, 1e-6, "silu"),
        "SwiGLUFFNFused: w12 gives gate and hidden numbers, in this order: w3(silu(first half) * second half). Hidden numbers: "
        "(int(2 / 3 * int(mlp_ratio * D)) + 7) // 8 * 8. Otherwise as the case dinov2.",
        head=False,
    ),
    "dinov3": Case(
        208, "dinov3", dinov3, told(2, SMALL, 1e-5),
        "A plain state dict. Tokens: class, 4 storage_tokens, patches; no learned positions. RoPE of q and k of the patches in "
        "every block: y = 2 (row + 0.5) / rows - 1, x likewise, angle 2 pi y / period; y's angles, then x's; number j of the "
        "first half of a head turns with number j of the second: (a, b) -> (a cos - b sin, b cos + a sin). Periods are stored "
        "(rope_embed.periods, head size / 4) and loaded strictly, so the stored numbers hold: here bfloat16, the class's "
        "default dtype, in which training makes them; torch.hub's models make float32 of them. `recomputed.*`: periods exact, "
        "100 ** (2 i / (head size / 2)). Angles are computed in float32, here in float64. qkv.bias is multiplied with "
        "qkv.bias_mask (1, 0 for k, 1); qkv.bias itself may be anything for k. eps 1e-5 (norm_layer layernormbf16, as in all "
        "of torch.hub's models; the class's default has 1e-6). Layer scale ls1.gamma, ls2.gamma. mask_token is not used (only "
        "0 * mask_token). No head: the output is norm(x)[:, 0].",
        head=False, loads=dinov3_loads, double=dinov3_double, recompute=dinov3_recompute,
    ),
    "dinov3_swiglu": Case(
        209, "dinov3",
        partial(dinov3, ffn_layer="swiglu", ffn_ratio=2.0, untie_global_and_local_cls_norm=True),
        told(2, SMALL, 1e-5, "silu"),
        "As the case dinov3, with the MLP of S+, L+, H+ and 7B: w3(silu(w1(x)) * w2(x)), hidden numbers int(2 / 3 * "
        "int(ffn_ratio * D)) rounded up to a multiple of 8 (64 for 7B). local_cls_norm, in the files of 7B and of the "
        "satellite models, is used in training only.",
        head=False, loads=dinov3_loads, double=dinov3_double, recompute=dinov3_recompute,
    ),
    "mae": Case(
        210, "mae", mae, told(3, SQUARE, 1e-6, pooling=None),
        "{'model': state dict} with the decoder (decoder_*, mask_token), as mae_visualize_*; mae_pretrain_* has none. "
        "pos_embed (1, 1 + patches, D) is fixed sine and cosine, stored, zeros for the class token. Its first half of D is the "
        "column's (named emb_h, but meshgrid gives w first), the second half the row's; each half all sines, then all cosines. "
        "No head and no pooling: the output is norm of all tokens. Here with mask_ratio 0 and the shuffling replaced by none.",
        head=False, call=mae_call, **MODEL_KEY,
    ),
    "mae_finetuned": Case(
        211, "mae", mae_finetuned, told(3, CROOKED, 1e-6, pooling="mean"),
        "{'model': state dict}. global_pool: mean of the patches without the class token, then fc_norm, head; there is no "
        "norm. pos_embed is a parameter here and random.",
        watch={"pooled": "fc_norm"}, **MODEL_KEY,
    ),
    "deit": Case(
        212, "deit", deit, told(3, CROOKED, 1e-6),
        "{'model': state dict}. Distilled: tokens class, distillation, patches, pos_embed has an entry for each. Logits are "
        "(head(class) + head_dist(distillation)) / 2, so that there is no one pooled vector.",
        **MODEL_KEY,
    ),
    "deit3": Case(
        213, "deit", deit3, told(3, CROOKED, 1e-6),
        "{'model': state dict}. pos_embed (1, patches, D) is added to the patches, then cls_token put before them. Layer scale "
        "gamma_1, gamma_2. q is scaled before q k^T.",
        **MODEL_KEY,
    ),
    "beit": Case(
        214, "unilm", beit, told(3, CROOKED, 1e-6, pooling="mean"),
        "{'model': state dict}. No pos_embed. Every block has attn.relative_position_bias_table ((2 rows - 1) * (2 columns - "
        "1) + 3, heads) and the buffer attn.relative_position_index: the row of (query y - key y + rows - 1) * (2 columns - 1) "
        "+ (query x - key x + columns - 1); the last three are class to any patch, any patch to class, class to class. Added "
        "to scaled scores. attn.qkv.weight has no bias; q_bias and v_bias, k none. Layer scale gamma_1, gamma_2. No norm; mean "
        "of the patches, fc_norm, head. Published files before fine-tuning have one rel_pos_bias.relative_position_bias_table "
        "for all blocks, mask_token, lm_head and norm instead.",
        watch={"pooled": "fc_norm"}, **MODEL_KEY,
    ),
    "eva02": Case(
        215, "EVA", eva02, told(2, SQUARE, 1e-6, "silu", "mean", rope_grid=[16, 16]),
        "{'model': state dict}; square pictures. Class token, learned positions of all tokens, and RoPE of q and k of the "
        "patches in every block: patch row r is the number r / rows * 16 (pt_hw_seq_len), columns likewise, times 10000 ** -(i "
        "/ (head size / 4)) for i < head size / 4; the row's angles, then the column's; each angle turns two neighbours: (a, "
        "b) -> (a cos - b sin, b cos + a sin). The tables are stored in float32 as rope.freqs_cos, rope.freqs_sin (patches, "
        "head size) and again for every block (blocks.N.attn.rope.*, the same storage), and loaded: the main arrays use them; "
        "`recomputed.*`: exact tables. subln: q_proj, k_proj, v_proj without bias, q_bias, v_bias apart, k none; MLP "
        "w3(ffn_ln(silu(w1(x)) * w2(x))), its ffn_ln with eps 1e-6; no norm within attention. Tiny and small have no subln: "
        "attn.qkv.weight, mlp.w12, mlp.w3. No norm; mean of the patches, fc_norm, head. Attention is the code's own (xattn "
        "False), not xformers'; it computes q k^T in float32, here in float64.",
        watch={"pooled": "fc_norm"}, recompute=eva02_recompute, **MODEL_KEY,
    ),
}  # fmt: skip


# --- making them ---


def crooked(model, seed):
    """Fill every learned parameter with random numbers: no zeros, no ones, every bias and scale matters."""
    rng = np.random.default_rng(seed)
    norms = {id(module.weight) for module in model.modules() if isinstance(module, nn.LayerNorm)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = rng.normal(size=tuple(parameter.shape))
            if not parameter.requires_grad or parameter.ndim == 0:  # fixed positions, logit_scale
                continue
            if id(parameter) in norms:
                values = 1 + 0.1 * values
            elif "gamma" in name:
                values = 0.5 + 0.1 * values
            elif name.endswith("bias"):
                values = 0.1 * values
            elif name.endswith("weight"):
                values = values / parameter[0].numel() ** 0.5
            else:  # tokens, positions, projections
                values = 0.5 * values
            parameter.copy_(torch.from_numpy(values))
    return model


def load(case, sources, path, dtype, image):
    """A new model of the repository's, with the numbers of the stored file. float32 -> float64 is exact."""
    model = case.build(sources, image).eval()
    case.loads(model)
    model.to(dtype)
    state = case.unwrap(safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(path))
    if image != tuple(case.told["image"]):
        state = case.resize({name: value.to(dtype) for name, value in state.items()}, image)
    model.load_state_dict(state)
    return model


def first(value):
    """DINOv3's blocks are given, and give, lists of one tensor."""
    return value[0] if isinstance(value, list) else value


def run(case, model, pixels):
    """pixels (B, C, Y, X) -> name -> array, of the model's dtype."""
    seen = {}

    def keep(name, value):
        value = first(value)
        if name.startswith("hidden"):
            value = value.transpose(0, case.batch)
        # DINOv3 can give its norm the patches after, and apart from, the tokens before them
        seen[name] = torch.cat([seen[name], value], 1) if name in seen else value

    blocks = list(model.get_submodule(case.blocks))
    hooks = [blocks[0].register_forward_pre_hook(lambda module, inputs: keep("hidden.0", inputs[0]))]
    watched = {f"hidden.{n}": block for n, block in enumerate(blocks, 1)}
    watched |= {name: model.get_submodule(path) for name, path in (case.watch or {"tokens": "norm"}).items()}
    for name, watched_module in watched.items():
        hooks.append(watched_module.register_forward_hook(lambda module, inputs, output, name=name: keep(name, output)))
    with torch.no_grad():
        output = case.call(model, pixels)
    for hook in hooks:
        hook.remove()
    if case.told.get("pooling") == "class" and "tokens" in seen and "head_dist.weight" not in model.state_dict():
        seen["pooled"] = seen["tokens"][:, 0]
    if case.head:
        seen["logits"] = output
    else:  # nothing comes after
        assert torch.equal(output, seen.get("pooled", seen["tokens"]))
    return {name: value.numpy() for name, value in seen.items()}


def run64(case, model, pixels):
    case.double(model)
    with Only64():
        return run(case, model, torch.from_numpy(pixels))


def check(name, exact, rough):
    """The float64 outputs are those of the untouched code, but for its rounding."""
    for step, value in rough.items():
        error = np.abs(exact[step] - value).max() / np.abs(value).max()
        assert error < 1e-5, (name, step, error)


def draw(rng, image):
    """Pixels in steps of 1/64, so that they pack well and are the same numbers in float32."""
    return np.round(64 * rng.normal(size=(2, 3, *image))) / 64


def make(name, sources):
    case, folder = CASES[name], FAMILIES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(case.seed)  # for what crooked() leaves alone
    image = tuple(case.told["image"])
    model = crooked(case.build(sources, image), case.seed)
    case.half(model)
    path = folder / case.file
    if case.save:
        case.save(model, folder)
    else:
        torch.save(case.wrap(model.state_dict()), path)

    rng = np.random.default_rng(case.seed + 1000)
    inputs = {"": draw(rng, image)}
    if case.resized:
        inputs["resized."] = draw(rng, case.resized)
    sizes = {"": image, "resized.": case.resized if case.resize else image}
    arrays = {}
    for key, pixels in inputs.items():
        rough = run(case, load(case, sources, path, torch.float32, sizes[key]), torch.from_numpy(pixels).float())
        model = load(case, sources, path, torch.float64, sizes[key])
        with double_precision():
            outputs = run64(case, model, pixels)
        check(name, outputs, rough)
        if key:  # the blocks are the same; what comes after them is enough
            outputs = {step: value for step, value in outputs.items() if not step.startswith("hidden")}
        arrays |= {key + step: value for step, value in {"pixels": pixels, **outputs}.items()}
    if case.recompute:
        with double_precision():
            outputs = run64(case, case.recompute(sources, model), inputs[""])
        arrays |= {f"recomputed.{step}": outputs[step] for step in ("pooled", "logits") if step in outputs}
    np.savez_compressed(folder / "expected.npz", **arrays)
    write_about(case, folder)
    print(name, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


def write_about(case, folder):
    upstream = COMMITS.get(case.repository)
    if not upstream:
        upstream = f"{case.repository} {importlib.import_module(case.repository).__version__.split('+')[0]}"
    about = {"upstream": upstream, "seed": case.seed, "told": case.told, "note": case.note}
    if case.resized:
        about["resized"] = {"image": list(case.resized), "rule": case.rule}
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def main(sources, *names):
    warnings.simplefilter("ignore")  # that xFormers is not there, and of old code's ways
    operators = prepare_imports()
    torch.set_num_threads(1)  # the same sums in the same order
    torch.backends.mha.set_fastpath_enabled(False)  # attention as the Python code spells it out
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # and no fused kernel
        for name in names or CASES:
            make(name, Path(sources).resolve())
    del operators


if __name__ == "__main__":
    main(*sys.argv[1:])
