"""SAM's encoder and ViTDet, live: whole models of transformers, and SAM under its own names (`pytest -m peers`)."""

import json

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert

from conftest import relative_error

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

SMALL = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, patch_size=4, output_channels=10)
SAM = {  # windows that fit, that do not, that are larger than the picture
    "sam": ("Sam", dict(image_size=28, window_size=3, global_attn_indexes=[1], mlp_dim=20)),
    "sam, whole windows": ("Sam", dict(image_size=24, window_size=3, global_attn_indexes=[2, 5], mlp_ratio=2.0)),
    "sam, one window": ("Sam", dict(image_size=12, window_size=5, global_attn_indexes=[], qkv_bias=False, mlp_dim=20)),
    "sam, no windows": ("Sam", dict(image_size=20, window_size=0, mlp_dim=20, use_abs_pos=False)),
    "sam, no distances": ("Sam", dict(image_size=20, window_size=3, global_attn_indexes=[0], mlp_dim=20, use_rel_pos=False)),
    "sam hq": ("SamHQ", dict(image_size=32, window_size=3, global_attn_indexes=[0, 2], mlp_dim=20)),
}  # fmt: skip
VITDET = {
    "square": dict(image_size=28, pretrain_image_size=28, window_size=3, window_block_indices=[0, 2]),
    "oblong": dict(image_size=[20, 36], pretrain_image_size=16, window_size=3, window_block_indices=[0, 2]),
    "no windows": dict(image_size=[12, 20], pretrain_image_size=8),
    "no distances": dict(image_size=20, pretrain_image_size=20, window_size=2, window_block_indices=[1],
                         use_relative_position_embeddings=False, qkv_bias=False),
}  # fmt: skip
OTHER_SIZES = ((20, 36), (12, 8), (28, 28))


def tokens(x):
    """(B, D, rows, columns) or (B, rows, columns, D) -> (B, N, D), by which axis is the width."""
    return np.asarray(x).reshape(len(x), -1, x.shape[-1])


def channels_last(x):
    return tokens(np.moveaxis(np.asarray(x), 1, -1))


def sam(case):
    import multimodal_upstream as up
    import transformers

    kind, vision = SAM[case]
    config = getattr(transformers, f"{kind}Config")(vision_config={**SMALL, **vision}, attn_implementation="eager")
    config.prompt_encoder_config.image_size = vision["image_size"]
    return up.crooked(lambda: getattr(transformers, f"{kind}Model")(config))


def run_sam(encoder, pixels):
    """(hidden states, the neck's output), all as tokens."""
    import multimodal_upstream as up
    import torch

    found = []
    hooks = [encoder.layers[0].register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))]
    hooks += [layer.register_forward_hook(lambda module, inputs, output: found.append(output)) for layer in encoder.layers]
    with up.everything_in_float64(), torch.inference_mode():
        out = encoder(torch.from_numpy(pixels)).last_hidden_state
    for hook in hooks:
        hook.remove()
    return [tokens(x) for x in found], channels_last(out)


def agree(out, hidden, image_tokens=None, family=None):
    pairs = list(zip(out.hidden_states, hidden, strict=True))
    pairs += [(out.last_hidden_state, hidden[-1])] + ([] if image_tokens is None else [(out.image_tokens, image_tokens)])
    worst = max(relative_error(a, b) for a, b in pairs)
    assert worst < 1e-12, worst
    if family is not None:
        import multimodal_upstream as up

        up.agreed(family, worst)
    return worst


def crooked_pixels(image):
    return np.random.default_rng(sum(image)).normal(size=(2, 3, *image))


@pytest.mark.parametrize("case", SAM)
def test_sam_agrees(case, tmp_path):
    import multimodal_upstream as up

    model = sam(case)
    up.saved(model, tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "SamImageProcessor"}))
    assert convert(tmp_path).source["family"] == "sam"
    assert any("SamImageProcessor prepares" in note for note in convert(tmp_path).notes)
    ours = numpy_vit.load(tmp_path, dtype="float64")
    pixels = crooked_pixels(ours.config.image)
    hidden, image_tokens = run_sam(model.vision_encoder, pixels)
    out = ours(pixels, record=["hidden_states", "attentions"], strict=True)
    agree(out, hidden, image_tokens, "sam")
    agree(ours(pixels, record="hidden_states"), hidden, image_tokens)
    with pytest.raises(InputError, match="this model's way of placing patches at other sizes"):
        ours(crooked_pixels((40, 44)), resize_positions=True)
    for text in (json.loads((tmp_path / "config.json").read_text()),):
        (tmp_path / "alone").mkdir()
        for name, section in (("whole", text), ("vision", text["vision_config"])):
            (tmp_path / "alone" / f"{name}.json").write_text(json.dumps(section))
            assert numpy_vit.trace(tmp_path / "alone" / f"{name}.json").config == ours.config
    if not case.startswith("sam hq"):
        vision = tmp_path / "vision"
        import transformers

        alone = transformers.SamVisionModel(model.config.vision_config).double()
        alone.vision_encoder.load_state_dict(model.vision_encoder.state_dict())
        up.saved(alone, vision)
        agree(numpy_vit.load(vision, dtype="float64")(pixels, record="hidden_states"), hidden, image_tokens)


OWN_NAMES = (
    ("vision_encoder.", "image_encoder."), (".layers.", ".blocks."), ("layer_norm1", "norm1"), ("layer_norm2", "norm2"),
    ("patch_embed.projection", "patch_embed.proj"), ("neck.conv1", "neck.0"), ("neck.norm1", "neck.1"),
    ("neck.conv2", "neck.2"), ("neck.norm2", "neck.3"),
)  # fmt: skip


@pytest.mark.parametrize("case", ["sam", "sam, whole windows", "sam, one window"])
def test_segment_anythings_own_names(case, tmp_path):
    import torch

    model = sam(case)
    state = {}
    for name, tensor in model.state_dict().items():
        for theirs, own in OWN_NAMES:
            name = name.replace(theirs, own)
        state[name] = tensor
    torch.save(state, tmp_path / "sam_vit_b.pth")
    checkpoint = convert(tmp_path / "sam_vit_b.pth")
    assert checkpoint.source["family"] == "segment-anything"
    ours = checkpoint.model("float64")
    pixels = crooked_pixels(ours.config.image)
    agree(ours(pixels, record="hidden_states"), *run_sam(model.vision_encoder, pixels), "segment-anything")


def vitdet(case):
    import multimodal_upstream as up
    import transformers

    sizes = {key: value for key, value in SMALL.items() if key != "output_channels"}
    config = transformers.VitDetConfig(**{"use_relative_position_embeddings": True, **sizes, "mlp_ratio": 2, **VITDET[case]})
    return up.crooked(lambda: transformers.VitDetModel(config))


@pytest.mark.parametrize("case", VITDET)
def test_vitdet_agrees(case, tmp_path):
    import multimodal_upstream as up
    import torch

    model = vitdet(case)
    up.saved(model, tmp_path)
    ours = numpy_vit.load(tmp_path, dtype="float64")
    assert numpy_vit.trace(tmp_path / "config.json").config == ours.config
    for image in (ours.config.image, *(OTHER_SIZES if ours.config.position_rule != "none" else ())):
        pixels = crooked_pixels(image)
        with up.everything_in_float64(), torch.inference_mode():
            theirs = model(torch.from_numpy(pixels), output_hidden_states=True)
        out = ours(pixels, record="hidden_states", strict=True, resize_positions=True)
        agree(out, [channels_last(x) for x in theirs.hidden_states], family="vitdet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"residual_block_indices": [1]}, "residual_block_indices"),
        ({"window_size": -1}, "window_size is -1"),
        ({"window_block_indices": "all"}, "window_block_indices 'all'"),
        ({"surprise": None}, "surprise None is not known"),
        ({"use_relative_position_embeddings": None}, "use_relative_position_embeddings is None"),
    ],
)
def test_what_is_refused(changes, message, tmp_path):
    text = {"model_type": "vitdet", "hidden_size": 24, "num_attention_heads": 3, "image_size": 32, "patch_size": 4, **changes}
    (tmp_path / "config.json").write_text(json.dumps(text))
    with pytest.raises(InputError, match=message):
        numpy_vit.trace(tmp_path / "config.json")
