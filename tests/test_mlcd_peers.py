"""MLCD, live: models of transformers, alone and as Llava's tower, converted by us (`pytest -m peers`)."""

import json

import pytest

from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.models.loading import config_of_content

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

VISION = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, patch_size=4, image_size=20)
TEXT = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=19, model_type="llama")
CASES = {
    "plain": dict(),
    "another base": dict(
        rope_parameters={"rope_type": "axial", "rope_theta": 50.0}, hidden_act="quick_gelu", layer_norm_eps=1e-3
    ),
    "one head": dict(num_attention_heads=1, image_size=26),
}
SIZES = ((40, 24), (12, 20), (16, 8))


def built(case, inside):
    import transformers

    vision = {**VISION, **CASES[case]}
    if not inside:
        return transformers.MLCDVisionModel(transformers.MLCDVisionConfig(**vision, attn_implementation="own_dtype"))
    config = transformers.LlavaConfig(
        vision_config={**vision, "model_type": "mlcd_vision_model"}, text_config=TEXT, attn_implementation="own_dtype"
    )
    return transformers.LlavaForConditionalGeneration(config)


def run(tower, pixels):
    import multimodal_upstream as up
    import torch

    with up.everything_in_float64(), torch.inference_mode():
        out = tower(torch.from_numpy(pixels), output_hidden_states=True)
    return {
        "hidden_states": [x.numpy() for x in out.hidden_states],
        "last_hidden_state": out.last_hidden_state.numpy(),
        "pooled": out.pooler_output.numpy(),
    }


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in Llava"])
@pytest.mark.parametrize("case", CASES)
def test_mlcd_agrees(case, inside, tmp_path):
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case, inside))
    up.saved(model, tmp_path)
    worst = up.agree(tmp_path, lambda pixels, config: run(model.model.vision_tower if inside else model, pixels), SIZES)
    print("WORST", worst)
    assert worst < 1e-12
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == "hf-mlcd"
    assert config_of_content("it", json.loads((tmp_path / "config.json").read_text()))[0] == checkpoint.config


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (dict(num_key_value_groups=3), "num_key_value_groups 3 is not supported"),
        (dict(qkv_bias=False), "qkv_bias False is not"),
    ],
)
def test_what_it_cannot_do_is_refused(said, message):
    with pytest.raises(InputError, match=message):
        config_of_content("it", {**VISION, "model_type": "mlcd_vision_model", **said})
