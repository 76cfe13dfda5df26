"""Tokens of pictures against transformers' own processors, 300 random sizes each: `pytest -m peers` (extra `peers`).

The processors need a tokenizer only to turn text into numbers, and are made without one: what they say of sizes, and the text
that they write in a picture's place, is theirs. Sizes of tiles and resized pictures are compared in test_sizing_peers.py; where
a processor's text needs them (Kimi, LFM2-VL and Llama 4, whose image processors want torchvision), they are ours.
"""

import contextlib
import functools
import importlib
import json
import re
import sys
import types

import numpy as np
import pytest

from numpy_vit.errors import InputError
from numpy_vit.models import published
from numpy_vit.models.image_tokens import KINDS, eye

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

SPECIAL = re.compile(r"<[^<>]+>|\[[A-Z_]+\]|\n+")
PICTURE = {"<image>", "<|image_pad|>", "<IMG_CONTEXT>", "[IMG]", "<|media_pad|>", "<soft>", "<|patch|>", "<|placeholder|>"}


class Words:
    """A tokenizer of sorts: each special token one number; as the published ones, it merges line ends."""

    def __call__(self, text, **options):
        return {"input_ids": SPECIAL.findall(text)}


def sizes(count=300, seed=0):
    """Random (height, width), of all proportions and few pixels or many."""
    random = np.random.default_rng(seed)
    area, shape = 10 ** random.uniform(3.5, 7.2, count), random.uniform(-1.5, 1.5, count)
    return [(max(1, int((a * 2**s) ** 0.5)), max(1, int((a / 2**s) ** 0.5))) for a, s in zip(area, shape, strict=True)]


@contextlib.contextmanager
def empty_torchvision():
    """Names for what Pixtral's module imports and counting does not use; gone afterwards."""
    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.v2", "torchvision.transforms.v2.functional"]
    missing = [name for name in names if name not in sys.modules]
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[2]].functional = modules[names[3]]
    sys.modules.update({name: modules[name] for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


@functools.cache
def class_of(module, name):
    """A class of transformers'."""
    with empty_torchvision() if module == "pixtral" else contextlib.nullcontext():
        return getattr(importlib.import_module(f"transformers.models.{module}.processing_{module}"), name)


def made(module, name, **attributes):
    """A processor of transformers', without its tokenizer."""
    processor = object.__new__(class_of(module, name))
    for key, value in attributes.items():
        setattr(processor, key, value)
    told = {**(getattr(type(processor), "images_kwargs", None) or {}), "return_row_col_info": True}
    processor._merge_kwargs = lambda **options: {"images_kwargs": dict(told)}
    return processor


def image_processor(values):
    """transformers' image processor, on Pillow, with a published file's content."""
    return image_processor_of(json.dumps({**values, **(values.get("image_processor") or {})}))


@functools.cache
def image_processor_of(text):
    import transformers

    values = json.loads(text)
    kind = re.sub("Fast$", "", values["image_processor_type"])
    left = {"image_processor_type", "processor_class", "image_processor"}
    return getattr(transformers, kind + "Pil")(**{key: value for key, value in values.items() if key not in left})


def counted(text):
    """(image tokens, markers) of what a processor writes."""
    found = SPECIAL.findall(text)
    assert "".join(found) == text
    return sum(token in PICTURE for token in found), sum(token not in PICTURE for token in found)


def by_count(module, name, marks, **attributes):
    """A processor that says itself how many tokens there are; of them so many are markers, in its own count or beside it."""

    def ask(seen, values, size):
        processor = made(module, name, image_processor=image_processor(values), tokenizer=Words(), **attributes)
        return int(processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"][0]), marks

    return ask


def paddle(seen, values, size):
    pictures = image_processor(values)
    processor = made("paddleocr_vl", "PaddleOCRVLProcessor", image_processor=pictures, image_token="<|placeholder|>")
    patches = pictures.get_number_of_image_patches(*size)
    return counted(processor.replace_image_token({"image_grid_thw": [np.array([1, 1, patches])]}, 0))


def kimi(seen, values, size):
    plan = seen.plan(size)
    (Y, X), processor = plan.pictures[0], made("kimi_k25", "Kimi_K25Processor", image_token="<|media_pad|>")
    processor.image_processor = type("Pictures", (), {"merge_size": values["merge_size"]})()
    grid = np.array([1, Y // values["patch_size"], X // values["patch_size"]])
    return counted(processor.replace_image_token({"image_grid_thw": [grid]}, 0))


def gemma3(seen, values, size):
    text = f"\n\n<boi>{'<soft>' * values['image_seq_length']}<eoi>\n\n"
    processor = made("gemma3", "Gemma3Processor", full_image_sequence=text)
    return counted(processor.replace_image_token({"num_crops": [0]}, 0))


def paligemma(seen, values, size):
    length = seen.content["vision_config"]["num_image_tokens"]
    processor = made("paligemma", "PaliGemmaProcessor", image_token="<image>", image_seq_length=length)
    return counted(processor.replace_image_token({}, 0))


def gemma4(seen, values, size):
    pictures = type("Pictures", (), {key: values[key] for key in ("patch_size", "pooling_kernel_size", "max_soft_tokens")})()
    marks = {"image_token": "<image>", "boi_token": "<b>", "eoi_token": "<e>"}
    processor = made("gemma4", "Gemma4Processor", image_processor=pictures, **marks)
    count = processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"][0]
    return counted(processor.replace_image_token({"num_soft_tokens_per_image": [count]}, 0))


def llama4(seen, values, size):
    plan = seen.plan(size)
    processor = made("llama4", "Llama4Processor", patch_size=14, downsample_ratio=4)
    tile = np.zeros((1, 3, *plan.pictures[0]))
    return counted(processor.replace_image_token({"pixel_values": [tile[0]], "aspect_ratios": [plan.tiles]}, 0))


def lfm2(seen, values, size):
    plan, options = seen.plan(size), {key: values[key] for key in ("tile_size", "downsample_factor", "encoder_patch_size")}
    processor = made("lfm2_vl", "Lfm2VlProcessor", image_token="<image>", image_start_token="<s>", image_end_token="<e>")
    processor.image_thumbnail_token = "<t>"
    processor.image_processor = type("Pictures", (), {**options, "use_thumbnail": True})()
    inputs = {"image_rows": [plan.tiles[0]], "image_cols": [plan.tiles[1]], "image_sizes": [plan.pictures[-1]]}
    return counted(processor.replace_image_token(inputs, 0, use_thumbnail=True, use_image_special_tokens=True, **options))


def text_of_idefics3(seen, values, size):
    """Both what the processor counts and what it writes."""
    pictures = image_processor(values)
    length = (values["max_image_size"]["longest_edge"] // seen.patch // seen.content["scale_factor"]) ** 2
    processor = made("idefics3", "Idefics3Processor", image_processor=pictures, tokenizer=Words(), image_seq_len=length)
    processor.fake_image_token, processor.image_token, processor.global_image_tag = "<fake>", "<image>", "<global>"
    _, rows, columns = pictures.get_number_of_image_patches(*size)
    found = counted(processor.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0))
    assert sum(found) == processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"][0]
    return found


# model -> (image tokens, markers), or (all tokens, None), of transformers; markers that the chat template writes are 0 to it
PEERS = {
    "qwen2-vl": by_count("qwen2_vl", "Qwen2VLProcessor", 0),
    "qwen2.5-vl": by_count("qwen2_5_vl", "Qwen2_5_VLProcessor", 0),
    "qwen3-vl": by_count("qwen3_vl", "Qwen3VLProcessor", 0),
    "glm-4.1v": by_count("glm4v", "Glm4vProcessor", 0),
    "glm-ocr": by_count("glm46v", "Glm46VProcessor", 0),
    "internvl3": by_count("internvl", "InternVLProcessor", None, image_seq_length=256),
    "pixtral": by_count("pixtral", "PixtralProcessor", None, patch_size=16, spatial_merge_size=1),
    "mistral-small-3.1": by_count("pixtral", "PixtralProcessor", None, patch_size=14, spatial_merge_size=2),
    "paddleocr-vl": paddle,
    "kimi-k2.5": kimi,
    "idefics3": text_of_idefics3,
    "smolvlm": text_of_idefics3,
    "gemma-3": gemma3,
    "paligemma": paligemma,
    "gemma-4": gemma4,
    "llama-4": llama4,
    "lfm2-vl": lfm2,
}
OF_THE_TEMPLATE = {"qwen2-vl", "qwen2.5-vl", "qwen3-vl", "glm-4.1v", "glm-ocr", "paddleocr-vl", "kimi-k2.5"}


def test_every_kind_is_compared():
    # made as another is, or none
    left = {"qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm4v_moe", "glm46v", "smolvlm", "kimi_vl", "mllama"}
    assert {eye(name).content["model_type"] for name in PEERS} == set(KINDS) - left


@pytest.mark.parametrize("name", PEERS)
def test_tokens_are_the_processors(name):
    seen, values = eye(name), published.find_published(name).preprocessor
    compared = 0
    for size in sizes():
        try:
            ours = seen.look(size, macs=False)
        except InputError:
            with pytest.raises(ValueError):
                PEERS[name](seen, values, size)
            continue
        tokens, markers = PEERS[name](seen, values, size)
        if markers is None:
            assert ours.total == tokens, size
        else:
            own = 0 if name in OF_THE_TEMPLATE else sum(ours.markers.values())
            assert (ours.image_tokens, own) == (tokens, markers), size
        compared += 1
    assert compared > 290
