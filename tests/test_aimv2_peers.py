"""AIMv2 and Ovis 2's encoder, live: whole models of transformers, converted by us (`pytest -m peers`)."""

import json

import numpy as np
import pytest

from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.models.loading import config_of_content

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

VISION = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, patch_size=4, image_size=20)
TEXT = dict(
    hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=19
)
AIMV2 = {  # what is said of the tower, and the sizes of pictures; upstream's tables are square and stay as they are
    "table": (dict(), ((20, 20),)),
    "table, a rest, biases": (dict(image_size=18, qkv_bias=True, mlp_bias=True, hidden_act="gelu"), ((18, 18),)),
    "biases of the MLP alone": (dict(image_size=12, mlp_bias=True, rms_norm_eps=1e-3), ((12, 12),)),
    "native": (dict(is_native=True), ((40, 24), (24, 56), (16, 8))),
    "no head": (dict(use_head=False, is_native=True), ((20, 12),)),
}
OVIS2 = {
    "not merged": (dict(), 20),
    "merged": (dict(hidden_stride=2, image_size=24, qkv_bias=True), 24),
    "merged by 3": (dict(hidden_stride=3, image_size=12, num_visual_indicator_tokens=2, mlp_bias=True), 12),
}


def aimv2(said):
    import transformers

    vision = {**VISION, **said}
    if not vision.get("use_head", True):  # there is nothing to project
        return transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**vision, attn_implementation="own_dtype"))
    config = transformers.Aimv2Config(
        vision_config=vision, text_config={**TEXT, "num_key_value_heads": 2}, projection_dim=7, attn_implementation="own_dtype"
    )
    return transformers.Aimv2Model(config)


def ovis2(said):
    import transformers

    config = transformers.Ovis2Config(
        vision_config={**VISION, "vocab_size": 31, **said}, text_config={**TEXT, "model_type": "qwen2"}, hidden_size=16,
        vocab_size=19, attn_implementation="own_dtype",
    )  # fmt: skip
    return transformers.Ovis2ForConditionalGeneration(config)


def run_aimv2(model, pixels):
    import multimodal_upstream as up
    import torch

    tower = getattr(model, "vision_model", model)
    with up.everything_in_float64(), torch.inference_mode():
        out = tower(torch.from_numpy(pixels), output_hidden_states=True)
        found = {"hidden_states": [x.numpy() for x in out.hidden_states], "last_hidden_state": out.last_hidden_state.numpy()}
        if out.pooler_output is not None:
            found |= {"pooled": out.pooler_output.numpy()}
            found |= {"image_embedding": model.visual_projection(out.pooler_output).numpy()}
    return found


def run_ovis2(model, pixels):
    import multimodal_upstream as up
    import torch

    inside = {}
    transformer = model.model.vision_tower.transformer
    hooks = [
        module.register_forward_hook(lambda _, given, out, name=name: inside.update({name: out.last_hidden_state.numpy()}))
        for name, module in (("encoder", transformer.encoder), ("transformer", transformer))
    ]
    with up.everything_in_float64(), torch.inference_mode():
        out = model.model.get_image_features(torch.from_numpy(pixels), output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    hidden = [x.numpy() for x in out.hidden_states[:-1]]  # their last one is what goes into the head
    return {
        "hidden_states": [*hidden, inside["encoder"]],
        "last_hidden_state": inside["transformer"],
        "image_tokens": out.pooler_output.numpy(),
    }


def check(model, run, sizes, family, folder):
    """Its outputs, and that config.json alone says the same."""
    import multimodal_upstream as up

    up.saved(model, folder)
    worst = up.agree(folder, lambda pixels, config: run(model, pixels), sizes)
    print("WORST", worst)
    assert worst < 1e-12
    checkpoint = convert(folder)
    assert checkpoint.source["family"] == family
    assert config_of_content("it", json.loads((folder / "config.json").read_text()))[0] == checkpoint.config


@pytest.mark.parametrize("case", AIMV2)
def test_aimv2_agrees(case, tmp_path):
    import multimodal_upstream as up

    said, sizes = AIMV2[case]
    check(up.crooked(lambda: aimv2(said)), run_aimv2, sizes, "aimv2", tmp_path)


@pytest.mark.parametrize("case", OVIS2)
def test_ovis2_agrees(case, tmp_path):
    import multimodal_upstream as up

    said, size = OVIS2[case]
    check(up.crooked(lambda: ovis2(said)), run_ovis2, ((size, size),), "ovis2", tmp_path)


def test_ovis2s_encoder_alone_ends_with_probabilities(tmp_path):
    import multimodal_upstream as up

    import numpy_vit

    up.saved(up.crooked(lambda: ovis2({})).model.vision_tower, tmp_path)
    tokens = numpy_vit.load(tmp_path, dtype="float64")(np.zeros((1, 3, 20, 20))).image_tokens
    assert tokens.shape == (1, 25, 26) and np.allclose(tokens.sum(axis=-1), 1)


@pytest.mark.parametrize(
    ("model_type", "said", "message"),
    [
        ("aimv2_vision_model", dict(use_bias=True), "use_bias True is not known"),
        ("aimv2_vision_model", dict(qkv_bias=None), "qkv_bias is None"),
        ("ovis2_vision", dict(tokenize_function="st_argmax"), "tokenize_function 'st_argmax' is not supported"),
        ("ovis2_vision", dict(hidden_stride=2), "cannot be merged by 2"),
        ("ovis2_vision", dict(num_visual_indicator_tokens=-1), "num_visual_indicator_tokens -1"),
    ],
)
def test_what_they_cannot_do_is_refused(model_type, said, message):
    with pytest.raises(InputError, match=message):
        config_of_content("it", {**VISION, "model_type": model_type, **said})
