"""Every transformers family, live: made and saved by it with crooked weights, converted by us (`pytest -m peers`)."""

import os
import subprocess
import sys

import numpy as np
import pytest

import numpy_vit
from numpy_vit.convert import convert
from numpy_vit.files.converted import write_converted

from conftest import HERE, REPOSITORY, relative_error

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

SIZES = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, image_size=20, patch_size=4)
DINOV2 = {**{k: v for k, v in SIZES.items() if k != "intermediate_size"}, "mlp_ratio": 3}
TOWERS = dict(text_config=dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=11))
LABELS = dict(num_labels=5)

# name: (class, config class, config, family, what transformers' outputs are called -> ours)
LAST, LOGITS, POOLED = {"last_hidden_state": "last_hidden_state"}, {"logits": "logits"}, {"pooler_output": "pooled"}
CASES = {
    "vit": ("ViTModel", "ViTConfig", SIZES, "hf-vit", {**LAST, "pooler_output": "pooler_output"}),
    "mae": ("ViTMAEModel", "ViTMAEConfig", {**SIZES, "mask_ratio": 0.0}, "hf-mae", LAST),
    "mae with decoder": ("ViTMAEForPreTraining", "ViTMAEConfig",
                         {**SIZES, "mask_ratio": 0.0, "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1,
                          "decoder_num_attention_heads": 2, "decoder_intermediate_size": 8}, "hf-mae", LAST),
    "deit": ("DeiTModel", "DeiTConfig", SIZES, "hf-deit", {**LAST, "pooler_output": "pooler_output"}),
    "deit, one head": ("DeiTForImageClassification", "DeiTConfig", {**SIZES, **LABELS}, "hf-deit", LOGITS),
    "deit, two heads": ("DeiTForImageClassificationWithTeacher", "DeiTConfig",
                        {**SIZES, **LABELS, "layer_norm_eps": 1e-6}, "hf-deit", LOGITS),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", SIZES, "hf-clip", {**LAST, **POOLED}),
    "clip, erf GELU": ("CLIPVisionModel", "CLIPVisionConfig", {**SIZES, "hidden_act": "gelu"}, "hf-clip", {**LAST, **POOLED}),
    "clip, projected": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {**SIZES, "projection_dim": 7}, "hf-clip",
                        {**LAST, "image_embeds": "image_embedding"}),
    "clip, both towers": ("CLIPModel", "CLIPConfig", {"vision_config": SIZES, "projection_dim": 7, **TOWERS}, "hf-clip",
                          {**LAST, **POOLED}),
    "clip, classifier": ("CLIPForImageClassification", "CLIPConfig", {"vision_config": SIZES, **LABELS}, "hf-clip", LOGITS),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", SIZES, "hf-siglip", {**LAST, **POOLED}),
    "siglip, pixels over": ("SiglipVisionModel", "SiglipVisionConfig", {**SIZES, "image_size": 22}, "hf-siglip",
                            {**LAST, **POOLED}),
    "siglip without head": ("SiglipVisionModel", "SiglipVisionConfig", {**SIZES, "vision_use_head": False}, "hf-siglip", LAST),
    "siglip, both towers": ("SiglipModel", "SiglipConfig", {"vision_config": SIZES, **TOWERS}, "hf-siglip", {**LAST, **POOLED}),
    "siglip, classifier": ("SiglipForImageClassification", "SiglipConfig", {"vision_config": SIZES, **LABELS}, "hf-siglip",
                           LOGITS),
    "siglip 2": ("Siglip2VisionModel", "Siglip2VisionConfig",
                 {**{k: v for k, v in SIZES.items() if k != "image_size"}, "num_patches": 25}, "hf-siglip2",
                 {**LAST, **POOLED}),
    "dinov2": ("Dinov2Model", "Dinov2Config", DINOV2, "hf-dinov2", {**LAST, **POOLED}),
    "dinov2, gated": ("Dinov2Model", "Dinov2Config", {**DINOV2, "use_swiglu_ffn": True}, "hf-dinov2", {**LAST, **POOLED}),
    "dinov2, classifier": ("Dinov2ForImageClassification", "Dinov2Config", {**DINOV2, **LABELS, "qkv_bias": False},
                           "hf-dinov2", LOGITS),
    "dinov2, registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {**DINOV2, "num_register_tokens": 2},
                          "hf-dinov2-registers", {**LAST, **POOLED}),
    "dinov2, registers, classifier": ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig",
                                      {**DINOV2, **LABELS}, "hf-dinov2-registers", LOGITS),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**SIZES, "image_size": [12, 20], "num_register_tokens": 4}, "hf-dinov3",
               {**LAST, **POOLED}),
    "dinov3, gated": ("DINOv3ViTModel", "DINOv3ViTConfig",
                      {**SIZES, "use_gated_mlp": True, "hidden_act": "silu", "key_bias": True, "mlp_bias": False,
                       "rope_theta": 50.0}, "hf-dinov3", {**LAST, **POOLED}),
    "beit": ("BeitModel", "BeitConfig", {**SIZES, "use_relative_position_bias": True}, "hf-beit", {**LAST, **POOLED}),
    "beit, shared": ("BeitModel", "BeitConfig", {**SIZES, "use_shared_relative_position_bias": True, "use_mask_token": True},
                     "hf-beit", {**LAST, **POOLED}),
    "beit, class token": ("BeitModel", "BeitConfig",
                          {**SIZES, "use_absolute_position_embeddings": True, "use_mean_pooling": False,
                           "layer_scale_init_value": 0.0}, "hf-beit", {**LAST, **POOLED}),
    "beit, classifier": ("BeitForImageClassification", "BeitConfig", {**SIZES, **LABELS, "use_relative_position_bias": True},
                         "hf-beit", LOGITS),
}  # fmt: skip


def made(case, seed=0):
    """A crooked model of transformers'."""
    import transformers

    import upstream

    model, config, values, _, _ = CASES[case]
    config = getattr(transformers, config)(**values)
    return upstream.crooked(getattr(transformers, model)(config), seed)


def run(model, pixels, **options):
    """Its outputs in float64."""
    import torch
    from transformers import ViTMAEForPreTraining, ViTMAEModel

    import upstream

    model = model.double()
    upstream.exact_rotation(model)
    target = next((part for name, part in model.named_modules() if name == "vision_model"), model)
    if "logits" in CASES or not hasattr(model, "text_model"):
        target = model
    if isinstance(model, ViTMAEForPreTraining):
        target = model.vit
    if isinstance(target, ViTMAEModel):  # it shuffles the patches by this noise; growing noise leaves them where they are
        options["noise"] = torch.arange(25.0).repeat(len(pixels), 1)
    values = torch.from_numpy(pixels)
    if type(model).__name__.startswith("Siglip2"):
        patches = values.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(len(pixels), 25, -1)
        options |= {"pixel_attention_mask": torch.ones(len(pixels), 25, dtype=torch.long)}
        options |= {"spatial_shapes": torch.full((len(pixels), 2), 5)}
        values = patches
    with torch.inference_mode():
        return target(values, output_hidden_states=True, **options)


@pytest.mark.parametrize("case", CASES)
def test_converted_families_agree(case, tmp_path):
    _, _, _, family, outputs = CASES[case]
    model = made(case)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = convert(tmp_path / "theirs")
    assert checkpoint.source["family"] == family
    config = checkpoint.config
    pixels = np.random.default_rng(1).normal(size=(2, 3, *config.image))
    write_converted(tmp_path / "ours.safetensors", checkpoint)
    ours = numpy_vit.load(tmp_path / "ours.safetensors", dtype="float64")(pixels, record="hidden_states", strict=True)
    theirs = run(model, pixels)
    for name, our_name in outputs.items():
        assert relative_error(getattr(ours, our_name), getattr(theirs, name).numpy()) < 1e-12, name
    hidden = theirs.hidden_states
    assert len(hidden) == config.depth + 1
    for n, (a, b) in enumerate(zip(ours.hidden_states, hidden, strict=True)):
        assert relative_error(a, b.numpy()) < 1e-12, f"hidden state {n}"


@pytest.mark.parametrize("case", CASES)
def test_names_as_in_memory(case, tmp_path):
    """state_dict() of transformers 5 has other names than its files: both convert, to the same."""
    from safetensors.torch import save_file

    model = made(case)
    model.save_pretrained(tmp_path)
    on_disk = convert(tmp_path)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    in_memory = convert(tmp_path)
    assert in_memory.config == on_disk.config
    for name, tensor in on_disk.tensors.items():
        assert np.array_equal(tensor.data, in_memory.tensors[name].data), name


@pytest.mark.parametrize("case", CASES)
def test_a_config_alone_is_traced_as_the_model(case, tmp_path):
    from numpy_vit.convert import config_of
    from numpy_vit.convert.sources import Source, open_source, read_json

    made(case).save_pretrained(tmp_path)
    alone = Source("config.json", False, [], {}, {}, read_json(tmp_path / "config.json"), None)
    assert config_of(alone, []) == config_of(open_source(tmp_path), [])


HELD = [case for case in CASES if case not in ("siglip 2", "clip, classifier", "siglip, classifier", "beit, shared")]


@pytest.mark.parametrize("case", HELD)
def test_there_and_back_again(case, tmp_path):
    """Converted, written as a Hugging Face folder, loaded by transformers: nothing missing or left over, outputs equal."""
    import transformers

    from numpy_vit.convert.to_hugging_face import write_hugging_face
    from numpy_vit.files.converted import read_converted

    model = made(case)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = convert(tmp_path / "theirs")
    write_converted(tmp_path / "ours.safetensors", checkpoint)
    write_hugging_face(tmp_path / "back", read_converted(tmp_path / "ours.safetensors"))
    name = CASES[case][0]
    pictures_part = {"CLIPModel": "CLIPVisionModelWithProjection", "SiglipModel": "SiglipVisionModel",
                     "ViTMAEModel": "ViTModel", "ViTMAEForPreTraining": "ViTModel"}  # fmt: skip
    kind = getattr(transformers, pictures_part.get(name, name))
    options = {"add_pooling_layer": False} if kind.__name__ == "ViTModel" and "MAE" in name else {}
    again, loaded = kind.from_pretrained(tmp_path / "back", output_loading_info=True, **options)
    assert not any(loaded[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), loaded
    pixels = np.random.default_rng(1).normal(size=(2, 3, *checkpoint.config.image))
    one, two = run(model, pixels), run(again.eval(), pixels)
    for their_name in [name for name in CASES[case][4] if hasattr(two, name)]:
        assert relative_error(getattr(two, their_name).numpy(), getattr(one, their_name).numpy()) < 1e-15, their_name


# Model types that are copies of a family: (class, config class, config, what of the output to compare)
INNER = {k: v for k, v in SIZES.items() if k != "image_size"} | {"image_size": 20}
COPIES = {
    "vit_msn": ("ViTMSNModel", "ViTMSNConfig", SIZES, LAST),
    "flava_image": ("FlavaImageModel", "FlavaImageConfig", SIZES, {**LAST, "pooler_output": "pooler_output"}),
    "dpt": ("DPTModel", "DPTConfig", SIZES, {**LAST, "pooler_output": "pooler_output"}),
    "data2vec-vision": (
        "Data2VecVisionModel",
        "Data2VecVisionConfig",
        {**SIZES, "use_relative_position_bias": True},
        LAST,
    ),
    "metaclip_2": ("MetaClip2VisionModel", "MetaClip2VisionConfig", SIZES, {**LAST, **POOLED}),
    "chinese_clip": ("ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", SIZES, {**LAST, **POOLED}),
    "altclip": ("AltCLIPVisionModel", "AltCLIPVisionConfig", SIZES, {**LAST, **POOLED}),
    "clipseg": ("CLIPSegVisionModel", "CLIPSegVisionConfig", SIZES, {**LAST, **POOLED}),
}


def copy_of(case, folder):
    """A crooked model of a copy, saved."""
    import transformers

    import upstream

    model, config, values, _ = COPIES[case]
    model = upstream.crooked(getattr(transformers, model)(getattr(transformers, config)(**values)), 0)
    model.save_pretrained(folder)
    return model.double()


@pytest.mark.parametrize("case", COPIES)
def test_copies_of_a_family_are_read_as_it(case, tmp_path):
    import torch

    model = copy_of(case, tmp_path)
    checkpoint = convert(tmp_path)
    pixels = np.random.default_rng(1).normal(size=(2, 3, *checkpoint.config.image))
    ours = checkpoint.model("float64")(pixels, strict=True)
    with torch.inference_mode():
        theirs = model(torch.from_numpy(pixels))
    for name, our_name in COPIES[case][3].items():
        assert relative_error(getattr(ours, our_name), getattr(theirs, name).numpy()) < 1e-12, name


TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=99,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
SIGLIP_TOWER = {**SIZES, "model_type": "siglip_vision_model", "vision_use_head": False}
CLIP_TOWER = {**SIZES, "model_type": "clip_vision_model"}
MULTIMODAL = {
    "llava": ("LlavaForConditionalGeneration", "LlavaConfig", CLIP_TOWER, {**TEXT, "model_type": "llama"}, {}),
    "llava_siglip": ("LlavaForConditionalGeneration", "LlavaConfig", SIGLIP_TOWER, {**TEXT, "model_type": "llama"}, {}),
    "llava_onevision": ("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionConfig", SIGLIP_TOWER,
                        {**TEXT, "model_type": "qwen2"}, {}),
    "paligemma": ("PaliGemmaForConditionalGeneration", "PaliGemmaConfig", SIGLIP_TOWER,
                  {**TEXT, "model_type": "gemma", "head_dim": 8}, {"projection_dim": 16}),
    "idefics3": ("Idefics3Model", "Idefics3Config", SIZES, {**TEXT, "model_type": "llama"}, {"scale_factor": 1}),
    "idefics2": ("Idefics2Model", "Idefics2Config", SIZES, {**TEXT, "model_type": "mistral"}, {}),
    "smolvlm": ("SmolVLMModel", "SmolVLMConfig", SIZES, {**TEXT, "model_type": "llama"}, {"scale_factor": 1}),
    "clip": ("CLIPModel", "CLIPConfig", SIZES, {**TOWERS["text_config"]}, {"projection_dim": 7}),
    "chinese_clip": ("ChineseCLIPModel", "ChineseCLIPConfig", SIZES, {**TOWERS["text_config"]}, {"projection_dim": 7}),
    "metaclip_2": ("MetaClip2Model", "MetaClip2Config", SIZES, {**TOWERS["text_config"], "eos_token_id": 2},
                   {"projection_dim": 7}),
    "clipseg": ("CLIPSegModel", "CLIPSegConfig", SIZES, {**TOWERS["text_config"]}, {"projection_dim": 7}),
}  # fmt: skip


@pytest.mark.parametrize("case", MULTIMODAL)
def test_the_picture_tower_of_a_multimodal_checkpoint(case, tmp_path):
    """Straight from the whole checkpoint's folder, as transformers saves it."""
    import torch
    import transformers

    import upstream

    model, config, vision, text, others = MULTIMODAL[case]
    config = getattr(transformers, config)(vision_config=vision, text_config=text, **others)
    model = upstream.crooked(getattr(transformers, model)(config), 0)
    model.save_pretrained(tmp_path)
    checkpoint = convert(tmp_path)
    assert "left out" in " ".join(checkpoint.notes)
    tower = next(
        part for name, part in model.named_modules() if name.split(".")[-1] in ("vision_tower", "vision_model")
    ).double()
    pixels = np.random.default_rng(1).normal(size=(2, 3, 20, 20))
    options = (
        {"patch_attention_mask": torch.ones(2, 5, 5, dtype=torch.bool)} if case in ("idefics2", "idefics3", "smolvlm") else {}
    )
    with torch.inference_mode():
        theirs = tower(torch.from_numpy(pixels), **options).last_hidden_state.numpy()
    assert relative_error(checkpoint.model("float64")(pixels).last_hidden_state, theirs) < 1e-12


def test_vision_config_dict_takes_the_place_of_vision_config(tmp_path):
    import json

    model = made("clip, both towers")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config_dict"] = {**SIZES, "hidden_act": "gelu", "layer_norm_eps": 1e-3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = convert(tmp_path).config
    theirs = type(model).from_pretrained(tmp_path).config.vision_config
    assert (theirs.hidden_act, theirs.layer_norm_eps) == ("gelu", 1e-3) == (found.activation, found.eps)


@pytest.mark.parametrize("case", ["clip, classifier", "dinov2, classifier"])
def test_classifiers_of_no_classes(case, tmp_path):
    """Their output is what the head would have seen."""
    _, _, values, _, _ = CASES[case]
    CASES["no classes"] = (*CASES[case][:2], {**values, "num_labels": 0}, *CASES[case][3:])
    try:
        model = made("no classes")
        model.save_pretrained(tmp_path)
        checkpoint = convert(tmp_path)
        pixels = np.random.default_rng(1).normal(size=(2, 3, *checkpoint.config.image))
        theirs = run(model, pixels).logits.numpy()
    finally:
        del CASES["no classes"]
    assert relative_error(checkpoint.model("float64")(pixels).pooled, theirs) < 1e-12


def in_a_process(script, *options):
    """timm needs a stub of torchvision, which no other test shall see."""
    command = [sys.executable, "-W", "ignore", HERE / script, *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.splitlines()


def test_the_table_of_architectures_is_timms():
    in_a_process("make_timm_table.py")


def test_the_table_of_weights_is_timms():
    in_a_process("make_timm_weights.py")


@pytest.mark.parametrize(("options", "least"), [((), 190), (("--options",), 77)])
def test_every_architecture_of_timm_is_read_rightly_or_not_at_all(options, least):
    """At its own image size and at two others; with what its code takes as options too."""
    *_, last = in_a_process("timm_registry.py", *options)
    assert int(last.split()[0]) >= least and last.endswith(" 0 wrong"), last


def test_bare_files_whose_tensors_are_anothers_are_refused():
    *_, last = in_a_process("timm_bare.py")
    assert last == "12 cases, 0 wrong"
