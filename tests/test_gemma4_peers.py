"""Gemma 4's encoder, live: whole models of transformers, converted by us (`pytest -m peers`)."""

import json

import numpy as np
import pytest

from numpy_vit import InputError
from numpy_vit.convert import convert

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, vocab_size=99,
            num_key_value_heads=1, head_dim=8, global_head_dim=8, vocab_size_per_layer_input=99,
            hidden_size_per_layer_input=4, layer_types=["sliding_attention", "full_attention"], num_kv_shared_layers=0,
            pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
VISION = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3, head_dim=8,
              intermediate_size=40, patch_size=4, pooling_kernel_size=2, position_embedding_size=16)  # fmt: skip
# case: what the encoder has beside these, and the sizes compared
CASES = {
    "as the larger ones": ({"standardize": True}, ((40, 24), (24, 56), (16, 8))),
    "as the smaller ones": ({"use_clipped_linears": True, "pooling_kernel_size": 3}, ((48, 24), (24, 60), (12, 12))),
    "both": ({"use_clipped_linears": True, "standardize": True, "rms_norm_eps": 1e-5}, ((40, 24), (24, 56), (16, 8))),
    "wider heads": ({"head_dim": 12, "rope_parameters": {"rope_theta": 50.0}, "hidden_activation": "silu"},
                    ((40, 24), (24, 56), (16, 8))),
}  # fmt: skip


def built(case, kind="Gemma4ForConditionalGeneration"):
    import torch
    import transformers

    vision = {**VISION, **CASES[case][0]}
    config = transformers.Gemma4Config(vision_config=vision, text_config=TEXT)
    model = getattr(transformers, kind)(config if kind.startswith("Gemma4For") else config.vision_config)
    random = torch.Generator().manual_seed(7)
    for name, buffer in model.named_buffers():
        last = name.rpartition(".")[2]
        if last.endswith(("_min", "_max")):  # such that some numbers are kept in, and most are left
            near = (0.5 + torch.rand((), generator=random)) * (0.1 if "down_proj" in name else 0.6)
            buffer.copy_(-near if last.endswith("_min") else near)
        elif last in ("std_bias", "std_scale"):
            buffer.copy_(torch.randn(buffer.shape, generator=random))
    return model


def run(model, pixels, config):
    """Its outputs; upstream makes 2 x - 1 of the pixels."""
    import multimodal_upstream as up
    import torch

    B, C, Y, X = pixels.shape
    P = config.patch
    h, w = Y // P, X // P
    rows = (pixels / 2 + 0.5).reshape(B, C, h, P, w, P).transpose(0, 2, 4, 3, 5, 1).reshape(B, h * w, -1)
    places = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).reshape(1, h * w, 2)
    inputs = torch.from_numpy(np.ascontiguousarray(rows)), torch.from_numpy(places).repeat(B, 1, 1)
    whole = getattr(model, "model", None)
    tower, last = whole.vision_tower if whole else model, []
    heard = tower.encoder.layers[-1].register_forward_hook(lambda block, inputs, output: last.append(output))
    with up.everything_in_float64(), torch.inference_mode():
        out = tower(*inputs, output_hidden_states=True)
        tokens = whole.embed_vision(out.last_hidden_state) if whole else out.last_hidden_state
    heard.remove()
    hidden = [*out.hidden_states[:-1], *last]  # its last one is the tokens
    return {"hidden_states": [x.numpy() for x in hidden], "image_tokens": tokens.numpy()[None]}


@pytest.mark.parametrize("case", CASES)
def test_converted_encoders_agree(case, tmp_path):
    import multimodal_upstream as up

    model = crooked(case)
    up.saved(model, tmp_path)
    assert up.agree(tmp_path, lambda pixels, config: run(model, pixels, config), CASES[case][1]) < 1e-12
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == "gemma4"
    assert up.config_alone(tmp_path) == checkpoint.config


def crooked(case, kind="Gemma4ForConditionalGeneration"):
    """With the buffers as `built` has them."""
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case, kind))
    buffers = dict(built(case, kind).named_buffers())
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in ("std_bias", "std_scale", "input_min", "input_max", "output_min", "output_max"):
            buffer.copy_(buffers[name])
    return model


@pytest.mark.parametrize("case", ("as the larger ones", "as the smaller ones"))
def test_the_tower_alone(case, tmp_path):
    import multimodal_upstream as up

    model = crooked(case, "Gemma4VisionModel")
    up.saved(model, tmp_path)
    assert up.agree(tmp_path, lambda pixels, config: run(model, pixels, config), CASES[case][1]) < 1e-12
    assert up.config_alone(tmp_path) == convert(tmp_path).config


def test_bounds_matter(tmp_path):
    """Some numbers are kept within bounds, in every layer: without any of them it is another model."""
    import multimodal_upstream as up

    up.saved(crooked("both"), tmp_path)
    model = convert(tmp_path).model("float64")
    pixels = np.random.default_rng(1).normal(size=(1, 3, *model.config.image))
    want = model(pixels).last_hidden_state
    for name in [name for name in model.tensors if name.endswith("bounds")]:
        for n in range(4):
            wider = model.tensors[name].copy()
            wider[n] *= 1000
            changed = type(model)(model.config, {**model.tensors, name: wider})
            if not np.array_equal(changed(pixels).last_hidden_state, want):
                break
        else:
            raise AssertionError(f"{name}: no bound of it matters")


def test_bounds_of_none(tmp_path):
    """transformers' own bounds are infinite until they are loaded: the largest float32 stands for it."""
    import multimodal_upstream as up
    import transformers

    config = transformers.Gemma4Config(vision_config={**VISION, "use_clipped_linears": True}, text_config=TEXT)
    model = up.crooked(lambda: transformers.Gemma4ForConditionalGeneration(config))
    up.saved(model, tmp_path)
    assert up.agree(tmp_path, lambda pixels, config: run(model, pixels, config), ((24, 16),)) < 1e-12


WRONG = {
    "shared keys": ("num_key_value_heads", 1, "num_key_value_heads 1 for 3 heads"),
    "a key that is not known": ("turned", True, "turned True is not known"),
    "bounds that are not there": ("use_clipped_linears", True, "bounds' is missing"),
    "another kind of positions": ("rope_parameters", {"rope_type": "yarn"}, "rope_type 'yarn' is not supported"),
    "each patch by itself": ("pooling_kernel_size", 1, "pooling_kernel_size 1"),
    "no true or false": ("standardize", None, "standardize is None"),
    "numbers that are there": ("standardize", False, "std_bias'.* is not used"),
    "another width": ("hidden_size", 16, "is"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_refused(wrong, tmp_path):
    import multimodal_upstream as up

    key, value, message = WRONG[wrong]
    up.saved(crooked("as the larger ones"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        convert(tmp_path)


def test_a_picture_with_more_rows_than_positions(tmp_path):
    import multimodal_upstream as up

    up.saved(crooked("as the larger ones"), tmp_path)
    with pytest.raises(InputError, match="there are positions for 16"):
        convert(tmp_path).model("float64")(np.zeros((1, 3, 72, 8)))
