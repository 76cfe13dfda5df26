"""Encoders of every family of transformers and timm, against what they computed (make_encoder_arrays.py; no weights kept)."""

import copy

import encoder_data
import pytest

from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.convert.hugging_face_config import NO_EFFECT
from numpy_vit.convert.processors import PROCESSOR_OF, PROCESSORS
from numpy_vit.models.loading import config_of_content

CASES = [(group, name) for group in encoder_data.groups() for name in encoder_data.stored(f"cases/{group}")]


# Whose tensors tell what config.json does not: whether there is a last norm, or how rotary positions lie
NOT_BY_ITSELF = {
    "families: copy data2vec-vision",
    "multimodal: DPTForDepthEstimation",
    "multimodal: VisionTextDualEncoderModel clip",
    "multimodal: ZoeDepthForDepthEstimation",
    "multimodal: UperNetForSemanticSegmentation",
    "pixtral: mistral_large_4_which_transformers_saves_under_mistrals_own_names",
}

# What is refused for an option that does not go with another, by the other's name
NAMED_BY = {
    "eva02_base_patch14_224 global_pool=map": "swiglu_mlp",
    "eva02_base_patch14_224 rope_type=dinov3": "rope_rotate_half",
    "vit_base_patch16_siglip_224 reg_tokens=2": "global_pool 'map'",
    "vit_base_patch16_siglip_224 class_token=True": "global_pool 'map'",
}


def outputs_of(model, size):
    """Our outputs by the names under which upstream's are stored."""
    picture = encoder_data.pixels(model.config.channels, size)
    out = model(picture, record="hidden_states", strict=True, resize_positions=True)
    states = {f"{encoder_data.STATE}{n}": state for n, state in enumerate(out.hidden_states)}
    return lambda name: states[name] if name in states else getattr(out, name)


@pytest.mark.parametrize("group, name", CASES, ids=[f"{group}: {name}" for group, name in CASES])
def test_an_encoder_computes_what_upstream_does(group, name, tmp_path):
    case = encoder_data.stored(f"cases/{group}")[name]
    folder = encoder_data.make_folder(case, tmp_path)
    if "refused" in case:
        with pytest.raises(InputError, match=NAMED_BY.get(name, case["refused"])) as error:
            convert(folder)
        assert "\n" not in str(error.value)
        return
    checkpoint = convert(folder)
    model = checkpoint.model("float64")
    for picture in case["pictures"]:
        found = outputs_of(model, picture["size"])
        for output, stored in picture["outputs"].items():
            error = encoder_data.error_of(found(output), stored)
            assert error < 1e-10, f"{output} at {picture['size']}: {error:.1e}"
    if list(case["files"]) == ["config.json"] and group != "timm" and f"{group}: {name}" not in NOT_BY_ITSELF:
        assert config_of_content("it", case["files"]["config.json"])[0] == checkpoint.config


# What files leave unsaid


def said(settings, key):
    """A setting of upstream's class; what it has not, or has as null, is nothing."""
    return settings.get(key) or None


@pytest.mark.parametrize("kind", PROCESSORS)
def test_an_image_processor_that_is_silent_means_what_its_class_says(kind):
    theirs = encoder_data.stored("processors")["classes"][kind]
    for key, value in PROCESSORS[kind].items():
        if (kind, key) != ("Lfm2Vl", "max_num_patches"):  # which it works out itself
            assert (value or None) == said(theirs, key), key


def test_the_image_processor_of_a_model_type():
    types = encoder_data.stored("processors")["types"]
    assert len(PROCESSOR_OF.keys() & types.keys()) > 25
    for name in PROCESSOR_OF.keys() & types.keys():
        assert types[name] == f"{PROCESSOR_OF[name]}ImageProcessor", name


CLASSES = encoder_data.stored("classes")
TEXT = ("text_config", "llm_config")
NESTED = ("model_type", *TEXT)


def places(content):
    """(its tables, key) of every key of a config.json that says something of the picture's model."""
    parts = [part for key, part in content.items() if isinstance(part, dict) and key not in TEXT]
    for part in (content, *parts):
        yield from ((part, key) for key in list(part) if key not in NESTED and part[key] not in parts)


def changed(content, part, key, value):
    """The config.json with something else at a place, or nothing (...) -> what it gives, or the line that refuses it."""
    before = part.pop(key)
    part.update({} if value is ... else {key: value})
    try:
        return config_of_content("it", content)[0], ""
    except InputError as error:
        return None, str(error)
    finally:
        part[key] = before


@pytest.mark.parametrize("model_type", CLASSES)
def test_what_config_json_leaves_unsaid_is_what_its_class_says(model_type):
    """Each key by itself left out of the config.json that transformers' class makes of itself: it means the same."""
    content = copy.deepcopy(CLASSES[model_type])
    whole = config_of_content("it", content)[0]
    for part, key in places(content):
        config, refused = changed(content, part, key, ...)
        assert config == whole or refused, key


WRONG = ("a word", -1, True)
NULL_IS_MORE = ("layer_scale_init_value", "num_register_tokens", "deepstack_visual_indexes")  # than unsaid: none of it


def once():
    """(a config.json, one of its tables, key) of every key that has a meaning, once for all tables of the same keys."""
    kept = set()
    for content in map(copy.deepcopy, CLASSES.values()):
        for part, key in places(content):
            if key not in NO_EFFECT and (place := (frozenset(part.keys() - NO_EFFECT), key)) not in kept:
                kept.add(place)
                yield content, part, key


def test_what_config_json_says_is_of_the_kind_it_should_be():
    """What is of another kind, or below zero, is refused in one line, or is a key that changes nothing."""
    for content, part, key in once():
        whole = config_of_content("it", content)[0]
        for wrong in WRONG[:2] if isinstance(part[key], bool) else WRONG:
            config, refused = changed(content, part, key, wrong)
            assert config == whole or (refused and "\n" not in refused), (content["model_type"], key, wrong, refused)


def test_null_is_unsaid():
    for content, part, key in once():
        unsaid, _ = changed(content, part, key, ...)
        config, refused = changed(content, part, key, None)
        assert config == unsaid or refused or key in NULL_IS_MORE, (content["model_type"], key)


@pytest.mark.parametrize("key", ["image_size", "max_img_size"])
def test_a_picture_holds_one_patch_at_least(key):
    """Whichever model reads its size: one pixel is refused, as any other number changes the model."""
    for content, part, _ in [place for place in once() if place[2] == key]:
        config, refused = changed(content, part, key, 1)
        other, _ = changed(content, part, key, 4 * 7 * 16 * 3)
        assert refused or config == other, content["model_type"]
