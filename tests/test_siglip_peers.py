"""SigLIP 2 NaFlex, and SigLIP's towers before a language model, live: whole models of transformers (`pytest -m peers`)."""

import json

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert

from conftest import relative_error

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

PATCH = 4
TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=99,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
GEMMA = {**TEXT, "head_dim": 8}
SIZES = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, patch_size=PATCH)
SIGLIP = {**SIZES, "image_size": 24, "vision_use_head": False, "model_type": "siglip_vision_model"}
NAFLEX = {**SIZES, "num_patches": 36, "vision_use_head": False, "model_type": "siglip2_vision_model"}
LFM2 = {**TEXT, "model_type": "lfm2", "layer_types": ["full_attention"]}
LLAMA = {**TEXT, "model_type": "llama"}


def of(vision, text, **others):
    return {"vision_config": vision, "text_config": text, **others}


# Sizes at which Idefics 3's code places the patches alike in float32 and in float64 (test_places_are_upstreams_in_float32).
SQUARE, OBLONG = ((24, 24),), ((24, 40), (16, 32), (48, 8))
# case: (class, its config, our family, the sizes compared, and those of them where its tokens are)
CASES = {
    "naflex": ("Siglip2", of({**NAFLEX, "vision_use_head": True}, TEXT), "hf-siglip2", (*OBLONG, (24, 24), (52, 28)), ()),
    "gemma 3": ("Gemma3", of(SIGLIP, GEMMA, mm_tokens_per_image=4), "gemma3", SQUARE, SQUARE),
    "gemma 3, by 2": ("Gemma3", of({**SIGLIP, "layer_norm_eps": 1e-5}, GEMMA, mm_tokens_per_image=9), "gemma3", SQUARE, SQUARE),
    "gemma 3, each patch": ("Gemma3", of({**SIGLIP, "vision_use_head": True}, GEMMA, mm_tokens_per_image=36), "gemma3", SQUARE,
                            SQUARE),
    "paligemma": ("PaliGemma", of(SIGLIP, {**GEMMA, "model_type": "gemma"}, projection_dim=16), "paligemma",
                  (*SQUARE, *OBLONG), (*SQUARE, *OBLONG)),
    "paligemma, gelu": ("PaliGemma", of({**SIGLIP, "hidden_act": "gelu"}, {**GEMMA, "model_type": "gemma"}, projection_dim=7),
                        "paligemma", (*SQUARE, *OBLONG), (*SQUARE, *OBLONG)),
    "idefics 3": ("Idefics3", of({**SIZES, "image_size": 24}, LLAMA, scale_factor=2), "idefics3",
                  (*OBLONG, *SQUARE, (40, 40)), (*SQUARE, (40, 40))),
    "idefics 3, by 3": ("Idefics3", of({**SIZES, "image_size": 24}, LLAMA, scale_factor=3), "idefics3", ((48, 24), (24, 24)),
                        SQUARE),
    "smolvlm": ("SmolVLM", of({**SIZES, "image_size": 16}, LLAMA, scale_factor=4), "idefics3",
                ((16, 32), (48, 16), (16, 16), (32, 32)), ((16, 16), (32, 32))),
    "smolvlm, each patch": ("SmolVLM", of({**SIZES, "image_size": 20}, LLAMA, scale_factor=1), "idefics3", ((20, 20),),
                            ((20, 20),)),
    "lfm2": ("Lfm2Vl", of(NAFLEX, LFM2, projector_hidden_size=20), "lfm2-vl", OBLONG, OBLONG),
    "lfm2, bare": ("Lfm2Vl", of(NAFLEX, LFM2, projector_hidden_size=20, projector_use_layernorm=False, projector_bias=False,
                                downsample_factor=3, projector_hidden_act="gelu_pytorch_tanh"), "lfm2-vl", ((24, 36), (48, 12)),
                   ((24, 36), (48, 12))),
    "lfm2, each patch": ("Lfm2Vl", of(NAFLEX, LFM2, projector_hidden_size=20, downsample_factor=1), "lfm2-vl",
                         ((12, 20), (24, 28)), ((12, 20), (24, 28))),
}  # fmt: skip


def built(case):
    import transformers

    name, values, *_ = CASES[case]
    kind = f"{name}Model" if name == "Siglip2" else f"{name}ForConditionalGeneration"
    return getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**values))


def run(model, pixels, case):
    """Its tower's outputs, and the tokens of the language model where its code makes them at this size."""
    import multimodal_upstream as up
    import torch

    _, _, _, _, merged = CASES[case]
    size = pixels.shape[2:]
    whole = getattr(model, "model", model)
    tower = getattr(whole, "vision_tower", None) or whole.vision_model
    options, values = {}, torch.from_numpy(pixels)
    if hasattr(tower.config, "num_patches"):
        values, options = filled_up(pixels)
    elif "Siglip" in type(tower).__name__ and size != (24, 24):
        options["interpolate_pos_encoding"] = True
    with up.everything_in_float64(), torch.inference_mode():
        out = tower(values, output_hidden_states=True, **options)
        if size not in merged:
            tokens = None
        elif hasattr(whole, "connector"):
            tokens = whole.get_image_features(values[None]).pooler_output[0][None]
        else:
            tokens = whole.get_image_features(values, **options).pooler_output
    real = size[0] // PATCH * (size[1] // PATCH)
    found = {
        "hidden_states": [x[:, :real].numpy() for x in out.hidden_states],
        "last_hidden_state": out.last_hidden_state[:, :real].numpy(),
    }
    if tokens is not None:
        found["image_tokens"] = np.stack([np.asarray(x) for x in tokens])
    if getattr(out, "pooler_output", None) is not None:
        found["pooled"] = out.pooler_output.numpy()
    return found


def filled_up(pixels):
    """NaFlex's input: rows of (py, px, c), 12 empty ones after them, and what it is told of them."""
    import torch

    B, C, Y, X = pixels.shape
    h, w = Y // PATCH, X // PATCH
    rows = pixels.reshape(B, C, h, PATCH, w, PATCH).transpose(0, 2, 4, 3, 5, 1).reshape(B, h * w, -1)
    rows = np.concatenate([rows, np.zeros((B, 12, rows.shape[2]))], axis=1)
    mask = torch.tensor([[1] * (h * w) + [0] * 12] * B)
    return torch.from_numpy(rows), {"pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[h, w]] * B)}


@pytest.mark.parametrize("case", CASES)
def test_converted_encoders_agree(case, tmp_path):
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case))
    up.saved(model, tmp_path)
    assert up.agree(tmp_path, lambda pixels, config: run(model, pixels, case), CASES[case][3]) < 1e-12
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == CASES[case][2]
    assert up.config_alone(tmp_path) == checkpoint.config


def test_places_are_upstreams_in_float32():
    """Not i * old // new throughout: rounding puts some places before or behind an edge."""
    import torch
    from transformers import Idefics3VisionConfig
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings

    from numpy_vit.positions import RULES

    differ = 0
    for old in (14, 24, 26, 32, 64, 70):
        config = Idefics3VisionConfig(hidden_size=1, num_attention_heads=1, image_size=old, patch_size=1, num_channels=1)
        embeddings = Idefics3VisionEmbeddings(config)
        with torch.inference_mode():
            embeddings.patch_embedding.weight.zero_()
            embeddings.patch_embedding.bias.zero_()
            embeddings.position_embedding.weight[:, 0] = torch.arange(old * old)
            for new in range(1, 120):
                places = embeddings(torch.zeros(1, 1, 1, new), torch.ones(1, 1, new, dtype=torch.bool))[0, :, 0].numpy()
                assert np.array_equal(RULES["nearest"](old, new).argmax(axis=1), places), (old, new)
                differ += not np.array_equal(places, np.arange(new) * old // new)
    assert differ


@pytest.mark.parametrize("case", ("gemma 3", "paligemma", "idefics 3", "lfm2"))
def test_names_of_other_versions(case, tmp_path):
    """The hub's older files have "vision_model." below the tower; in memory names begin with "model.". All give the same."""
    import multimodal_upstream as up
    from safetensors.numpy import load_file, save_file

    up.saved(up.crooked(lambda: built(case)), tmp_path)
    want = convert(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")

    def same(renamed):
        save_file(renamed, tmp_path / "model.safetensors")
        found = convert(tmp_path)
        assert found.config == want.config
        assert all(np.array_equal(found.tensors[name].data, tensor.data) for name, tensor in want.tensors.items())

    bare = {name.removeprefix("model."): array for name, array in tensors.items()}
    same(bare)
    same({f"model.{name}": array for name, array in bare.items()})
    if case != "idefics 3":
        same({name.replace("vision_tower.", "vision_tower.vision_model."): array for name, array in bare.items()})


@pytest.mark.parametrize("case", ("gemma 3", "paligemma", "idefics 3", "lfm2"))
def test_a_tower_without_its_projector(case, tmp_path):
    """It is read as the encoder alone, which gives the same tokens."""
    import multimodal_upstream as up
    from safetensors.numpy import load_file, save_file

    up.saved(up.crooked(lambda: built(case)), tmp_path)
    pixels = np.random.default_rng(2).normal(size=(1, 3, 24, 24))
    want = numpy_vit.load(tmp_path, dtype="float64")(pixels)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({name: x for name, x in tensors.items() if "vision_" in name}, tmp_path / "model.safetensors")
    checkpoint = convert(tmp_path)
    assert checkpoint.config.merger is None and any("the encoder alone is read" in note for note in checkpoint.notes)
    found = checkpoint.model("float64")(pixels)
    assert found.image_tokens is None and np.array_equal(found.last_hidden_state, want.last_hidden_state)


def test_what_published_files_write(tmp_path):
    """SmolVLM's have the processor's sizes beside the tower's; and some the whole model's type in the tower's place."""
    import multimodal_upstream as up

    up.saved(up.crooked(lambda: built("smolvlm")), tmp_path)
    want = convert(tmp_path).config
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"] |= {"model_type": "smolvlm", "size": {"longest_edge": 2048}, "use_base_siglip": False,
                                "max_image_size": {"longest_edge": 512}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert convert(tmp_path).config == want


WRONG = {
    "a tower of another kind": (
        "gemma 3",
        ("vision_config", "model_type"),
        "siglip2_vision_model",
        "only siglip_vision_model is",
    ),
    "a key that is not known": ("paligemma", ("vision_config", "turned"), True, "turned True is not known"),
    "more tokens than patches": ("gemma 3", ("mm_tokens_per_image",), 100, "mm_tokens_per_image 100"),
    "patches that cannot be joined": ("idefics 3", ("scale_factor",), 4, "cannot be merged by 4"),
    "no table of sizes": ("lfm2", ("vision_config",), None, "vision_config None: must be a table"),
    "no language model": ("idefics 3", ("text_config",), None, "text_config None: must be a table"),
    "an activation": ("lfm2", ("projector_hidden_act",), "tanh", "projector_hidden_act 'tanh'"),
    "an activation that no merger has": ("lfm2", ("projector_hidden_act",), "relu", "stage 'relu'"),
    "no true or false": ("lfm2", ("projector_bias",), None, "projector_bias is None"),
    "another width": ("paligemma", ("projection_dim",), 17, "multi_modal_projector.linear.weight' is"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refused(wrong, tmp_path):
    import multimodal_upstream as up

    case, (*path, last), value, message = WRONG[wrong]
    up.saved(up.crooked(lambda: built(case)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    section = config
    for key in path:
        section = section[key]
    section[last] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        convert(tmp_path)


def test_idefics_2_has_the_tower_alone(tmp_path):
    """Its tokens are made by a resampler, which is not run; pictures of other sizes are placed as Idefics 3's."""
    import multimodal_upstream as up
    import torch
    import transformers

    perceiver = dict(resampler_n_latents=2, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=4, num_key_value_heads=1)
    config = transformers.Idefics2Config(
        **of({**SIZES, "image_size": 24}, {**TEXT, "model_type": "mistral"}, perceiver_config=perceiver)
    )
    model = up.crooked(lambda: transformers.Idefics2ForConditionalGeneration(config))
    up.saved(model, tmp_path)
    ours = numpy_vit.load(tmp_path, dtype="float64")
    assert ours.config.merger is None
    for size in ((24, 24), (24, 40), (8, 52)):
        pixels = np.random.default_rng(1).normal(size=(1, 3, *size))
        mask = torch.ones(1, size[0] // PATCH, size[1] // PATCH, dtype=torch.bool)
        with up.everything_in_float64(), torch.inference_mode():
            theirs = model.model.vision_model(torch.from_numpy(pixels), mask).last_hidden_state.numpy()
        assert relative_error(ours(pixels, resize_positions=True).last_hidden_state, theirs) < 1e-12
