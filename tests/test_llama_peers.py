"""Llama 4's encoder, live: whole models of transformers, converted by us (`pytest -m peers`); and Llama 3.2's, refused."""

import json

import numpy as np
import pytest

from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.models.loading import config_of_content

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = dict(hidden_size=16, intermediate_size=12, intermediate_size_mlp=12, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, vocab_size=19, head_dim=8, num_local_experts=1)  # fmt: skip
VISION = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, patch_size=4,
              projector_input_dim=20, projector_output_dim=20, vision_output_dim=20)  # fmt: skip
CASES = {  # upstream, pictures are square
    "4 x 4": dict(image_size=16),
    "6 x 6, a rest": dict(image_size=26, rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
    "8 x 8, merged by 4": dict(image_size=32, pixel_shuffle_ratio=0.25, intermediate_size=384),
    "5 x 5, not merged": dict(image_size=20, pixel_shuffle_ratio=1.0, intermediate_size=24),
}


def built(case):
    import transformers

    config = transformers.Llama4Config(
        vision_config={**VISION, **CASES[case]}, text_config=TEXT, attn_implementation="own_dtype"
    )
    return transformers.Llama4ForConditionalGeneration(config)


def run(model, pixels):
    """Its outputs, the class token first."""
    import multimodal_upstream as up
    import torch

    with up.everything_in_float64(), torch.inference_mode():
        out = model.get_image_features(torch.from_numpy(pixels), output_hidden_states=True)
        tokens = model.multi_modal_projector(out.last_hidden_state)
    return {"hidden_states": [np.roll(x.numpy(), 1, axis=1) for x in out.hidden_states], "image_tokens": tokens.numpy()}


@pytest.mark.parametrize("case", CASES)
def test_the_converted_encoder_agrees(case, tmp_path):
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case))
    up.saved(model, tmp_path)
    size = CASES[case]["image_size"]
    worst = up.agree(tmp_path, lambda pixels, config: run(model, pixels), ((size, size),))
    assert worst < 1e-12, worst
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == "llama4"
    said = json.loads((tmp_path / "config.json").read_text())
    assert config_of_content("it", said)[0] == checkpoint.config


def test_the_encoder_alone_ends_with_its_adapter(tmp_path):
    import multimodal_upstream as up
    import torch

    import numpy_vit

    model = up.crooked(lambda: built("4 x 4")).vision_model
    up.saved(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama4_vision_model"
    pixels = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
    with up.everything_in_float64(), torch.inference_mode():
        want = model(torch.from_numpy(pixels)).last_hidden_state.numpy()
    ours = numpy_vit.load(tmp_path, dtype="float64")(pixels).image_tokens
    assert abs(ours - want).max() <= 1e-12 * abs(want).max()


@pytest.mark.parametrize(
    "said, message",
    [
        (dict(pixel_shuffle_ratio=0.3), "pixel_shuffle_ratio 0.3 is not supported"),
        (dict(projector_input_dim=21), "must be the same"),
        (dict(hidden_activation="gelu"), "hidden_activation 'gelu' is not known"),
        (dict(image_size=[16, 16, 16]), "image is"),
    ],
)
def test_what_it_cannot_do_is_refused(said, message):
    section = {**VISION, "image_size": 16, "model_type": "llama4_vision_model", **said}
    with pytest.raises(InputError, match=message.replace("(", ".")):
        config_of_content("it", {"model_type": "llama4", "vision_config": section, "text_config": {"hidden_size": 16}})


def test_the_published_config_is_read():
    """Every key of Llama 4 Scout's vision_config."""
    section = dict(
        model_type="llama4_vision_model", attention_dropout=0.0, hidden_act="gelu", hidden_size=1408, image_size=336,
        initializer_range=0.02, intermediate_size=5632, multi_modal_projector_bias=False, norm_eps=1e-5, num_channels=3,
        num_attention_heads=16, num_hidden_layers=34, patch_size=14, pixel_shuffle_ratio=0.5, projector_dropout=0.0,
        projector_input_dim=4096, projector_output_dim=4096, rope_theta=10000, torch_dtype="bfloat16", vision_feature_layer=-1,
        vision_feature_select_strategy="default", vision_output_dim=4096, _attn_implementation_autoset=True,
    )  # fmt: skip
    content = {"model_type": "llama4", "vision_config": section, "text_config": {"hidden_size": 5120}}
    config, notes = config_of_content("it", content)
    assert (config.patches, config.image_tokens, config.merger.stages[-1], notes) == (576, 144, "output2 5120", [])


@pytest.mark.parametrize("inside", [True, False])
def test_llama_3_2_is_refused_by_name(inside, tmp_path):
    import multimodal_upstream as up
    import transformers

    vision = dict(hidden_size=24, num_hidden_layers=3, num_global_layers=1, attention_heads=3, intermediate_size=40,
                  patch_size=4, image_size=16, vision_output_dim=48, intermediate_layers_indices=[1])  # fmt: skip
    text = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                vocab_size=19, cross_attention_layers=[0], pad_token_id=0)  # fmt: skip
    config = transformers.MllamaConfig(vision_config=vision, text_config=text)
    model = up.crooked(lambda: transformers.MllamaForConditionalGeneration(config))
    up.saved(model if inside else model.model.vision_model, tmp_path)
    with pytest.raises(InputError, match="mllama.*: all tiles of a picture are one sequence"):
        convert(tmp_path)
