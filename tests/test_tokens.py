"""How many tokens a picture becomes, and the published models by name: against numbers that upstream's processors gave."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import numpy_vit
from numpy_vit import InputError
from numpy_vit.cli import main
from numpy_vit.config import is_variant
from numpy_vit.convert import timm_models
from numpy_vit.models import published
from numpy_vit.models.image_tokens import KINDS, SETTINGS, dry_macs, encoder_macs, eye, settings_for
from numpy_vit.models.loading import find_config
from numpy_vit.pictures.sizing import RULES

from conftest import DATA

FULL_HD, VGA = (1080, 1920), (480, 640)
# model -> (image tokens, all tokens) of a picture of 1080 x 1920 and of one of 480 x 640; from transformers 5.24's processors,
# run with the published preprocessor_config.json
COUNTS = {
    "qwen2-vl": ((2691, 2693), (391, 393)),
    "qwen2.5-vl": ((2691, 2693), (391, 393)),
    "qwen3-vl": ((2040, 2042), (300, 302)),
    "qwen3.5": ((2040, 2042), (300, 302)),
    "internvl3": ((2304, 2306), (3328, 3330)),
    "internvit-6b": ((2304, 2306), (3328, 3330)),
    "pixtral": ((2304, 2340), (1200, 1230)),
    "mistral-small-3.1": ((1705, 1736), (414, 432)),
    "kimi-k2.5": ((2691, 2695), (414, 418)),
    "idefics3": ((2197, 2227), (2197, 2227)),
    "smolvlm": ((832, 862), (832, 862)),
    "gemma-3": ((256, 260), (256, 260)),
    "paligemma": ((256, 256), (256, 256)),
    "paddleocr-vl": ((2691, 2693), (391, 393)),
    "glm-4.1v": ((2691, 2693), (391, 393)),
    "glm-ocr": ((2691, 2693), (391, 393)),
    "llama-4": ((2304, 2322), (720, 727)),
    "llama-3.2-vision": ((0, 1), (0, 1)),
    "gemma-4": ((264, 266), (266, 268)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name):
    for size, (tokens, total) in zip((FULL_HD, VGA), COUNTS[name], strict=True):
        found = numpy_vit.image_tokens(name, size)
        assert (found.image_tokens, found.total) == (tokens, total)


def test_every_kind_of_model_is_published_and_counted():
    types = {entry["config"]["model_type"] for entry in published.data("published.json")["entries"] if "config" in entry}
    # counted as another is, or below
    unpublished = {"qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe", "glm46v", "smolvlm", "kimi_vl", "lfm2_vl"}
    counted = {str(eye(name).content["model_type"]) for name in COUNTS}
    assert set(KINDS) - unpublished <= counted <= types


def test_what_becomes_of_a_picture():
    found = numpy_vit.image_tokens("smolvlm", FULL_HD)
    assert (found.resized, found.tiles, found.thumbnail) == ((1536, 2048), (3, 4), "last")
    assert found.pictures == ((512, 512),) * 13 and found.patches == 13 * 32 * 32
    assert found.markers == {
        "<fake_token_around_image>": 14, "<row_R_col_C>": 12, "<global-img>": 1, "\\n": 2, "\\n\\n": 1
    }  # fmt: skip
    llama = numpy_vit.image_tokens("llama-4", FULL_HD)
    assert (llama.resized, llama.tiles) == ((945, 1680), (3, 5))
    assert llama.markers["<|tile_x_separator|>"] == 12 and llama.markers["<|tile_y_separator|>"] == 3
    pixtral = numpy_vit.image_tokens("pixtral", FULL_HD)
    assert pixtral.resized == (576, 1024) and pixtral.markers == {"[IMG_BREAK]": 35, "[IMG_END]": 1}
    assert numpy_vit.image_tokens("llama-3.2-vision", VGA).tiles == (1, 2)


def test_lfm2_as_a_whole_and_in_tiles():
    whole, tiled = (numpy_vit.image_tokens("lfm2-vl", size) for size in (VGA, FULL_HD))
    assert whole.image_tokens == 13 * 18 and sum(whole.markers.values()) == 2
    assert tiled.tiles == (2, 4) and tiled.image_tokens == 8 * 256 + 12 * 21
    assert tiled.markers == {"<|image_start|>": 1, "<|img_row_R_col_C|>": 8, "<|img_thumbnail|>": 1, "<|image_end|>": 1}


def test_tiles_of_an_odd_number_of_patches_are_rounded_up(tmp_path):
    """LFM2-VL's processor counts ceil(33 / 2) tokens along a tile of 33 patches."""
    entry = published.find_published("lfm2-vl")
    (tmp_path / "config.json").write_text(json.dumps(entry.config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**entry.preprocessor, "tile_size": 528}))
    found = numpy_vit.image_tokens(tmp_path, FULL_HD)
    assert found.tiles == (2, 4) and found.image_tokens == 8 * 17 * 17 + 12 * 21


def test_an_encoder_alone_has_patches_and_no_language_model():
    found = numpy_vit.image_tokens("siglip2", FULL_HD)
    assert (found.resized, found.patches, found.image_tokens, found.total) == ((192, 336), 12 * 21, None, None)
    assert numpy_vit.image_tokens("siglip2", FULL_HD, max_num_patches=1024).patches == 24 * 42
    clip = numpy_vit.image_tokens("clip-l/14@336", FULL_HD)
    assert (clip.resized, clip.pictures, clip.patches) == ((336, 597), ((336, 336),), 576)
    assert clip.macs == numpy_vit.trace("clip-l/14@336").macs
    assert numpy_vit.image_tokens("ViT-B/16", FULL_HD).macs == 17_563_828_224


def test_macs_are_those_of_the_trace():
    found = numpy_vit.image_tokens("qwen2.5-vl", FULL_HD)
    assert found.macs == numpy_vit.trace("qwen2.5-vl", size=(1092, 1932)).macs


def test_the_trace_of_a_picture_is_at_the_size_that_is_seen(run):
    expected = numpy_vit.trace("qwen2.5-vl", size=(1092, 1932)).macs
    with pytest.warns(UserWarning, match="qwen2.5-vl-7b sees a picture of 1080x1920 at 1092x1932"):
        assert numpy_vit.trace("qwen2.5-vl", size=FULL_HD).macs == expected
    with pytest.warns(UserWarning, match="at 1092x1932"):
        assert numpy_vit.trace("qwen2.5-vl", image=FULL_HD).macs == expected
    for words in (["image=1080x1920"], ["--size", "1080x1920"]):
        status, out, err = run("trace", "qwen2.5-vl", *words, "--depth", "model")
        assert status == 0 and f"{expected:,}" in out
        assert err == "numpy-vit: note: qwen2.5-vl-7b sees a picture of 1080x1920 at 1092x1932\n"
    assert run("trace", "qwen2.5-vl", "image=1092x1932")[2] == ""
    assert run("trace", "qwen2.5-vl", "image=10x4000")[0] == 2


def test_macs_of_a_few_blocks_stand_for_all():
    for name in published.published_names():
        try:
            config = find_config(name)[0]
        except InputError:
            continue
        image = config.image if config.position_rule == "none" else (config.multiple * 5, config.multiple * 7)
        assert encoder_macs(config, image) == dry_macs(config, image), name


def test_a_merged_token_is_what_the_config_says():
    """Two descriptions of one fact: the counting table's, and the merger that the converter read."""
    for name in COUNTS:
        seen = eye(name)
        if seen.config is not None and seen.config.merger is not None and seen.kind is not None:
            assert seen.config.merger.side == seen.kind.side(seen.content), name
            for size in (FULL_HD, VGA):
                found = seen.look(size)
                assert found.image_tokens == sum(seen.config.for_image(picture).image_tokens for picture in found.pictures)


# Settings and budgets


def test_settings_stand_in_the_place_of_the_files():
    assert numpy_vit.image_tokens("qwen2.5-vl", FULL_HD, max_pixels=1280 * 28 * 28).image_tokens == 26 * 47
    with pytest.raises(InputError, match="no setting 'max_pixel'; did you mean 'max_pixels'"):
        numpy_vit.image_tokens("qwen2.5-vl", FULL_HD, max_pixel=1)
    with pytest.raises(InputError, match="nothing can be set"):
        numpy_vit.image_tokens("clip-l", FULL_HD, max_pixels=1)


BUDGETED = ["qwen2.5-vl", "qwen3-vl", "internvl3", "pixtral", "mistral-small-3.1", "siglip2", "idefics3", "smolvlm", "gemma-4",
            "kimi-k2.5", "llama-4", "lfm2-vl", "glm-ocr", "paddleocr-vl"]  # fmt: skip


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("budget", [300, 1000, 3000])
def test_a_budget_is_kept_and_not_far_from_used(name, budget):
    sizes = [FULL_HD, (3000, 2000), (4096, 4096)]
    settings = settings_for(name, sizes, budget)
    found = [numpy_vit.image_tokens(name, size, **settings) for size in sizes]
    counts = [row.patches if row.total is None else row.total for row in found]
    assert max(counts) <= budget
    if settings:
        before = [numpy_vit.image_tokens(name, size) for size in sizes]
        assert max(row.patches if row.total is None else row.total for row in before) > budget
        assert max(counts) > budget / 5


def test_what_cannot_be_set():
    assert settings_for("gemma-3", [FULL_HD], 256) is None
    assert settings_for("gemma-3", [FULL_HD], 260) == {}
    assert settings_for("internvl3", [FULL_HD], 257) is None
    assert settings_for("dinov2-b/14", [FULL_HD], 1369) == {} and settings_for("dinov2-b/14", [FULL_HD], 1368) is None


def test_every_setting_is_a_number_of_its_rule():
    from numpy_vit.pictures.sizing import arguments

    assert set(SETTINGS) <= set(RULES)
    for rule, names in SETTINGS.items():
        assert set(names.values()) <= set(arguments(rule))


# What is a model, what a size


def test_a_folder_as_published(tmp_path):
    entry = published.find_published("qwen2.5-vl")
    (tmp_path / "config.json").write_text(json.dumps(entry.config))
    with pytest.raises(InputError, match="no preprocessor_config.json"):
        numpy_vit.image_tokens(tmp_path, FULL_HD)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(entry.preprocessor))
    assert numpy_vit.image_tokens(tmp_path, FULL_HD).image_tokens == 2691
    changed = {**entry.preprocessor, "max_pixels": 1280 * 28 * 28}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(changed))
    assert numpy_vit.image_tokens(str(tmp_path), FULL_HD).image_tokens == 1222


def test_a_folder_whose_processor_says_the_patch(tmp_path):
    """Mistral 3: the image processor's own file has a patch of 14, the processor's doubles it."""
    entry = published.find_published("mistral-small-3.1")
    outer = {key: value for key, value in entry.preprocessor.items() if key != "image_processor"}
    (tmp_path / "config.json").write_text(json.dumps(entry.config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(entry.preprocessor["image_processor"]))
    (tmp_path / "processor_config.json").write_text(json.dumps(outer))
    assert numpy_vit.image_tokens(tmp_path, FULL_HD).total == 1736


def test_a_converted_file(tmp_path):
    found = numpy_vit.image_tokens("digits", FULL_HD)
    config = numpy_vit.load("digits").config
    assert (found.patches, found.image_tokens) == (config.patches, None)


def test_pictures_are_sizes(tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    expected = numpy_vit.image_tokens("qwen2.5-vl", VGA)
    for picture in (tmp_path / "a.png", Image.new("RGB", (640, 480)), np.zeros((480, 640, 3), np.uint8)):
        assert numpy_vit.image_tokens("qwen2.5-vl", picture) == expected


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        ("qwen2.5-vl", (10, 4000), "qwen2.5-vl-7b: a picture of 10x4000 pixels"),
        ("qwen2.5-vl", 448, "give \\(height, width\\)"),
        ("qwen2.5-vl", (1, 2, 3), "give \\(height, width\\)"),
        ("qwen2.5-vl", (0, 3), "picture height is 0"),
        ("qwen2.5vl", FULL_HD, "did you mean 'qwen2.5-vl'"),
        ("moonvit", FULL_HD, "^moonvit: preprocessor_config.json: 'KimiVLImageProcessor'"),
    ],
)
def test_refusals_are_one_line(model, size, message):
    with pytest.raises(InputError, match=message) as caught:
        numpy_vit.image_tokens(model, size)
    assert "\n" not in str(caught.value)


# Published models by name


def test_entries_are_whole():
    seen = set()
    for entry in published.data("published.json")["entries"]:
        names = [name.lower() for name in entry["names"]]
        assert not seen & set(names) and len(set(names)) == len(names), names
        seen |= set(names)
        assert not any(is_variant(name) for name in entry["names"])
        model = published.find_published(entry["names"][0])
        assert model.name == entry["names"][0] and len(model.source) > 20
        assert ("timm" in entry) != ("config" in entry)
        if "config" in entry:
            assert set(entry) == {"names", "config", "preprocessor", "source"}
            assert isinstance(entry["config"]["model_type"], str)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-VL-7B-Instruct", "QWEN2.5-VL", "qwen2.5-vl-7b"])
def test_names_are_alike(name):
    assert find_config(name) == find_config("qwen2.5-vl")


def test_other_libraries_names():
    base = numpy_vit.variant("ViT-B/16")
    assert find_config("vit_b_16")[0] == base.replace(eps=1e-6, position_rule="bicubic_corners")
    assert find_config("vit_base_patch16_224")[0].replace(position_rule="bicubic", eps=1e-12) == base
    assert find_config("vit_base_patch16_384")[0].image == (384, 384)
    assert find_config("vit_base_patch16_224.augreg_in21k")[0].classes == 21843
    assert find_config("timm/vit_base_patch16_224.augreg_in21k") == find_config("vit_base_patch16_224.augreg_in21k")
    assert find_config("google/vit-base-patch16-224")[0] == numpy_vit.variant("google/vit-base-patch16-224")
    assert find_config("facebook/dinov2-base") == find_config("dinov2_vitb14") == find_config("dinov2-b/14")
    assert numpy_vit.trace("dinov3-l/16").config.rope == "centred_halves"


def test_timm_weights_are_of_architectures():
    weights = published.data("timm_weights.json")
    table = timm_models.table()
    assert set(weights["weights"]) == set(table["models"]) and weights["timm"] == table["timm"]
    assert published.find_published("vit_base_patch16_224.no_such_tag") is None


def test_what_comes_first(tmp_path, monkeypatch):
    """A file or folder of that name, then a variant, then a cached hub name, then what is published."""
    monkeypatch.chdir(tmp_path)
    config = published.find_published("qwen2.5-vl").config
    shallow = {**config, "vision_config": {**config["vision_config"], "depth": 8, "fullatt_block_indexes": [7]}}
    snapshot = tmp_path / "hub" / "models--Qwen--Qwen2.5-VL-7B-Instruct" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (snapshot / "config.json").write_text(json.dumps(shallow))
    assert find_config("Qwen/Qwen2.5-VL-7B-Instruct")[0].depth == 32  # a config without its weights is no cached model
    cached = tmp_path / "hub" / "models--facebook--dinov2-base" / "snapshots" / "main"
    shutil.copytree(DATA / "classifier", cached)
    assert find_config("facebook/dinov2-base") == find_config(DATA / "classifier")
    folder = tmp_path / "qwen2.5-vl"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shallow))
    assert find_config("qwen2.5-vl")[0].depth == 8


def test_a_type_that_is_not_read_yet_is_refused_by_its_converter(monkeypatch):
    entry = {"names": ["seer"], "config": {"model_type": "seer"}, "preprocessor": None, "source": "nowhere"}
    monkeypatch.setitem(published.entries(), "seer", entry)
    with pytest.raises(InputError, match="seer: of no known family .*model_type 'seer'") as caught:
        find_config("seer")
    assert "\n" not in str(caught.value)


def test_data_files_are_packaged():
    setup = (Path(__file__).parent.parent / "setup.cfg").read_text()
    assert "models/data/*.json" in setup


# The command


def test_the_table(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run("tokens", "qwen2.5-vl", "siglip2", "1080x1920", "480x640")
    lines = out.splitlines()
    assert len([line for line in lines if line.startswith("qwen2.5-vl-7b ")]) == 2
    assert re.search(r"qwen2\.5-vl-7b +1080 x 1920 +1092 x 1932 +- +10,764 +2,691 +2 +2,693 +8,143\.3 G", out)
    assert re.search(r"siglip2-so400m/16-naflex +480 x 640 +224 x 288 +- +252 +- +- +- +108\.4 G", out)
    assert "sizes are height x width" in out and "<|vision_start|>, <|vision_end|>" in out


def test_pictures_settings_budget_and_json(run, tmp_path):
    picture = tmp_path / "a.jpg"
    Image.new("RGB", (1920, 1080)).save(picture)
    out = json.loads(run("tokens", "qwen2.5-vl", picture, "--json", "--budget", "1000", "max_pixels=1003520")[1])
    (row,) = out["rows"]
    assert (row["size"], row["image_tokens"], row["total"], row["tiles"]) == ([1080, 1920], 1222, 1224, [1, 1])
    (advice,) = out["budget"]
    assert advice == {"model": "qwen2.5-vl-7b", "at most": 1000, "set": {"max_pixels": 998 * 28 * 28}}
    _, text, _ = run("tokens", "qwen2.5-vl", "gemma-3", "1080x1920", "--budget", "200")
    assert f"qwen2.5-vl-7b: at most 200 tokens with max_pixels={198 * 28 * 28}" in text
    assert "gemma-3-4b: nothing that can be set brings these pictures to 200 tokens" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["qwen2.5-vl"], "no size or picture"),
        (["1080x1920"], "no model"),
        (["qwen2.5-vl", "448"], "give a size as HEIGHTxWIDTH"),
        (["qwen2.5-vl", "nosuch.jpg"], "no such picture"),
        (["qwen2.5-vl", "1080x1920", "max_pixels=many"], "a whole number"),
        (["qwen2.5-vl", "10x4000"], "a picture of 10x4000 pixels"),
    ],
)
def test_bad_usage_is_one_line(words, message, capsys):
    assert main(["tokens", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_the_list(run):
    _, out, _ = run("trace", "--list")
    assert re.search(r"^ViT-B/16 +12 x 768, 12 heads, patches of 16$", out, re.M)
    names = r"qwen2\.5-vl, Qwen/Qwen2\.5-VL-7B-Instruct"
    assert re.search(rf"^qwen2\.5-vl-7b +32 x 1280, 16 heads, patches of 14 +{names}$", out, re.M)
    rows = json.loads(run("trace", "--list", "--json")[1])
    assert {row["names"][0] for row in rows} >= {*numpy_vit.variants(), *published.published_names()}
    assert main(["trace", "--list", "ViT-B/16"]) == 2
