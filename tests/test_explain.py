"""numpy-vit explain: the page holds what the model computed, asks for nothing, and cannot be made to run what a file says."""

import json
import re

import numpy as np
import pytest
from explained import Page, saved
from options import OPTIONS, PLAIN
from PIL import Image
from test_draw import independent_rollout

import numpy_vit
from numpy_vit import InputError, ViTConfig
from numpy_vit.cli import main
from numpy_vit.explain import page as pages
from numpy_vit.pictures.draw import coloured
from numpy_vit.tracing.step_texts import EXPLANATIONS

import pictures
from conftest import REPOSITORY
from test_images import broken_pictures

SAMPLE = REPOSITORY / "weights" / "samples" / "3" / "0045-0.png"
WORD = re.compile(r'(\w+): \["((?:[^"\\]|\\.)*)",\s*"((?:[^"\\]|\\.)*)"\]')


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The text of the shipped model's page, and the same run in float64."""
    target = tmp_path_factory.mktemp("page") / "digits.html"
    assert main(["explain", str(SAMPLE), "-o", str(target), "--dtype", "float64"]) == 0
    model = numpy_vit.load(dtype="float64")
    return target.read_text(encoding="utf-8"), model, model(model.preprocess(SAMPLE), record=True)


def explained(tmp_path, config, *options, picture=None, labels=None):
    """The page of a model with seeded weights, and its float64 run on the same picture."""
    weights, target = saved(config, tmp_path / "model.safetensors", labels), tmp_path / "page.html"
    if picture is None:
        picture = tmp_path / "picture.png"
        pictures.draw(30, 50).save(picture)
    command = ["explain", str(picture), "-o", str(target), "--weights", str(weights), "--dtype", "float64", *options]
    assert main(command) == 0
    model = numpy_vit.load(weights, dtype="float64")
    return Page(target.read_text(encoding="utf-8")), model(model.preprocess(picture), record=True)


def assert_attention(page, out):
    """Every number of every map is the model's, as exactly as the page says."""
    facts = page.facts["attention"]
    for n, attention in enumerate(out.attentions):
        expected = attention[0] if facts["heads"] else attention[0].mean(axis=0, keepdims=True)
        expected = expected.reshape(-1, expected.shape[-1])
        got, off = page.weights(f"attention-{n}", len(expected))
        assert (np.abs(got - expected) <= off[:, None] * 1.001).all()
        assert np.allclose(off, expected.max(axis=1) / (2 * (256 ** facts["bytes"] - 1)))
    flow = independent_rollout([a[0] for a in out.attentions])
    got, off = page.weights("rollout", len(flow))
    assert (np.abs(got - flow) <= off[:, None] * 1.001).all()


def test_the_page_holds_the_models_attention(digits):
    text, _, out = digits
    page = Page(text)
    assert page.facts["attention"] == {"heads": 6, "of": 6, "bytes": 2, "pooling": False}
    assert_attention(page, out)


@pytest.mark.parametrize("option", OPTIONS)
def test_any_model_is_explained(option, tmp_path):
    """On a grid that is no square: with and without class token, registers, head, pooled by attention, ..."""
    config = ViTConfig(**{**PLAIN, **OPTIONS[option]})
    page, out = explained(tmp_path, config)
    assert page.facts["grid"] == list(config.grid)
    assert_attention(page, out)
    names = [english for english, _ in page.facts["special"]]
    assert len(names) == len(set(names)) == config.special_tokens
    if config.pooling == "map":
        got, off = page.weights("pooling", config.map_sizes["H"])
        assert (np.abs(got - out.steps["map.probs"][0, :, 0]) <= off[:, None] * 1.001).all()
    assert page.facts["vector"] == (None if out.pooled is None else out.pooled.shape[1])
    if out.logits is None:
        assert page.facts["best"] == [] and page.facts["embedding"] == (config.projection or None)
    else:
        logits = out.logits[0]
        assert page.facts["best"][0]["label"] == str(logits.argmax())
        assert page.facts["best"][0]["probability"] == pytest.approx(np.exp(logits.max()) / np.exp(logits).sum())


def test_every_step_is_told_with_the_numbers_of_the_run(digits):
    text, model, out = digits
    facts = Page(text).facts
    steps = facts["steps"]
    names = [s["name"] for s in steps["before"]]
    names += [f"blocks.{n}.{s['name']}" for n in range(model.config.depth) for s in steps["block"]]
    names += [s["name"] for s in steps["after"]]
    assert names == list(out.steps)
    for place, block in (("before", None), ("block", 0), ("block", 4), ("after", None)):
        for step in steps[place]:
            array = out.steps[step["name"] if block is None else f"blocks.{block}.{step['name']}"]
            assert step["shape"] == list(array.shape) and len(step["values"]) == (1 if block is None else 6)
            values = step["values"][block or 0]
            assert np.allclose(values, [array.min(), array.mean(), array.max()], rtol=1e-9, atol=1e-12)
            assert all(step["why"]) and step["why"][0] != step["why"][1] and step["formula"]
    assert facts["sizes"]["N"] == 65 and facts["best"][0]["label"] == "3" and len(facts["best"]) == 5


def test_an_image_of_another_size_and_another_language(tmp_path):
    target = tmp_path / "page.html"
    options = ["--size", "48x96", "--lang", "zh", "--top", "99"]
    assert main(["explain", str(SAMPLE), "-o", str(target), *options]) == 0
    page = Page(target.read_text(encoding="utf-8"))
    assert page.facts["grid"] == [6, 12] and page.facts["language"] == "zh" and len(page.facts["best"]) == 10
    assert ("html", {"lang": "zh-CN"}) in page.elements
    assert "resized" in " ".join(english for english, _ in page.facts["positions"])


def test_what_the_model_sees_of_the_picture(tmp_path):
    """The frame on the picture is what the crop leaves; a rest at the edge is in no patch."""
    picture = tmp_path / "wide.png"
    pictures.draw(40, 100).save(picture)
    policy = tmp_path / "preprocessor.json"
    policy.write_text(
        json.dumps(
            dict(
                do_resize=True,
                size={"shortest_edge": 40},
                resample=2,
                do_center_crop=True,
                crop_size={"height": 32, "width": 32},
                do_rescale=True,
                rescale_factor=1 / 255,
                do_normalize=True,
                image_mean=[0.5] * 3,
                image_std=[0.5] * 3,
                image_processor_type="CLIPImageProcessor",
            )
        )
    )
    config = ViTConfig(**{**PLAIN, "image": (32, 32), "patch": 5})
    page, _ = explained(tmp_path, config, "--preprocessor", str(policy), picture=picture)
    left, top, width, height = page.facts["picture"]["frame"]
    assert (left, top, width, height) == pytest.approx((34 / 100, 4 / 40, 32 / 100, 32 / 40))
    assert page.facts["picture"]["used"] == [30, 30] and page.facts["picture"]["size"] == [40, 100]
    assert "30 x 30" in page.facts["picture"]["preparation"][3][0]


# How much of a large model is kept


@pytest.mark.parametrize(
    ("model", "changes", "kept"),
    [
        ("ViT-Ti/16", {}, (True, 2)),
        ("ViT-B/16", {}, (True, 2)),
        ("ViT-L/16", {}, (True, 1)),
        ("ViT-L/16", {"image": (384, 384)}, (False, 2)),
        ("ViT-B/16", {"image": (512, 512)}, (False, 1)),
    ],
)
def test_what_fits(model, changes, kept):
    config = numpy_vit.variant(model).replace(**changes)
    assert pages.what_fits(config) == kept
    maps, N = config.depth * (config.heads if kept[0] else 1) + 1, config.tokens
    sample = pages.packed(np.ones((2, N)), pages.Kept(*kept))
    assert len(sample) / 2 * maps * N < 24_500_000


def test_too_large_a_model_is_refused():
    with pytest.raises(InputError, match="give a smaller --size"):
        pages.what_fits(numpy_vit.variant("ViT-B/16").replace(image=(1024, 1024)))


@pytest.mark.parametrize(
    ("limit", "kept", "said"), [(9_000, (True, 1), "8 bits"), (4_500, (False, 2), "the heads' mean alone")]
)
def test_what_does_not_fit_is_left_out_and_said(limit, kept, said, tmp_path, monkeypatch, capsys):
    config = ViTConfig(**{**PLAIN, "heads": 12})  # 25 maps of 16 x 16: 17,000 characters with two bytes
    monkeypatch.setattr(pages, "MAX_CHARACTERS", limit * 4 // 3)
    page, out = explained(tmp_path, config)
    assert (page.facts["attention"]["heads"], page.facts["attention"]["bytes"]) == (12 * kept[0], kept[1])
    assert_attention(page, out)
    assert said in capsys.readouterr().err


def test_rows_of_zeros_and_of_one_can_be_kept():
    for rows in (np.zeros((2, 7)), np.eye(7)):
        for kept in (pages.Kept(True, 2), pages.Kept(True, 1)):
            assert pages.packed(rows, kept)


# The page itself


def test_the_page_is_whole_and_asks_for_nothing(digits):
    text, _, _ = digits
    page = Page(text)  # whose tags close in order
    assert len(text.encode()) < 5_000_000
    policies = [a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none';") and "http" not in policies[0]
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "form", "base")
        for name in ("src", "srcset", "action", "data"):
            assert name not in attributes, (tag, attributes)
        assert attributes.get("href", "#").startswith(("#", "data:")), attributes
        assert not any(name.startswith("on") for name in attributes)
    for code in (*page.scripts, *page.styles):
        assert not re.search(r"https?://|//[\w.]+/|\bimport\b|fetch\(|XMLHttp|innerHTML|eval\(|document\.write", code)
    assert not re.search(r"url\((?!\$\{FACTS\.picture\.seen\})", text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'\$\("([\w-]+)"\)', text))
    assert used <= set(ids), used - set(ids)


def test_everything_is_said_in_both_languages(digits):
    page = Page(digits[0])
    counts = [sum(a.get("lang") == tongue for tag, a in page.elements if tag != "html") for tongue in ("en", "zh-CN")]
    assert counts[0] > 30 and counts[1] >= counts[0]
    scripts = "".join(page.scripts)
    blocks = re.findall(r"(?:const WORDS = |Object\.assign\(WORDS, )\{\n(.*?)\n\}", scripts, re.DOTALL)
    words = [entry for block in blocks for entry in WORD.findall(block)]
    assert len(blocks) == 4 and len(words) == sum(block.count(": [") for block in blocks) > 130
    assert len({key for key, _, _ in words}) == len(words)
    for key, english, chinese in words:
        assert english and chinese
        assert set(re.findall(r"{(\w+)}", english)) == set(re.findall(r"{(\w+)}", chinese)), key
    asked = set(re.findall(r'say\((?:\w+(?:\.\w+)?(?: === "?\w+"?)? \? )?"(\w+)"', scripts))
    assert len(asked) > 70 and asked <= {key for key, _, _ in words}, asked
    for operation in {entry.operation for entry in EXPLANATIONS.values()} - {"activation"}:
        assert operation in pages.OPERATIONS


def test_the_colours_are_those_of_the_drawings(digits):
    assert coloured(np.linspace(0, 1, 5)).tolist() == Page(digits[0]).facts["ramp"]


NASTY = "<img src=x onerror=alert(1)>{{attention}}</script>"


def test_names_and_labels_are_text_whatever_is_in_them(tmp_path):
    picture = tmp_path / "<img src=x onerror=alert(1)>{{attention}}.png"
    pictures.draw(30, 50).save(picture)
    labels = [NASTY, "</script><script>alert(1)</script>", "<!--<script>", "\u2028", "数字"]
    page, _ = explained(tmp_path, ViTConfig(**PLAIN), picture=picture, labels=labels)
    plain, _ = explained(tmp_path, ViTConfig(**PLAIN))
    kinds = [[tag for tag, _ in p.elements] for p in (page, plain)]
    assert kinds[0] == kinds[1] and len(page.scripts) == len(plain.scripts)
    assert page.facts["picture"]["name"] == picture.name
    assert {b["label"] for b in page.facts["best"]} == set(labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "x.png"], "x.png: the name must end in .html"),
        (["-o", "absent/x.html"], "there is no folder"),
        (["-o", "folder.html"], "it is a folder"),
        (["--top", "0"], "--top: '0': give a whole number, 1 or more"),
        (["--lang", "fr"], "'fr' is not one of en, zh"),
        (["--size", "60"], "image height 60 is not a multiple of the patch size 8"),
        (["--size", "640"], "are too many for a page: give a smaller --size"),
    ],
)
def test_explain_refuses(options, message, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    status, _, error = run("explain", SAMPLE, *([] if "-o" in options else ["-o", "x.html"]), *options)
    assert status == 2 and message in error and error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["folder.html"]


def test_explain_refuses_what_is_no_picture_before_it_reads_the_model(tmp_path, capsys):
    for name, message in {**broken_pictures(tmp_path), "absent.png": "no such file"}.items():
        command = ["explain", str(tmp_path / name), "-o", str(tmp_path / "x.html"), "--weights", "/no/such/model"]
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error and name in error and error.count("\n") == 1
    assert not (tmp_path / "x.html").exists()


def test_explain_refuses_a_model_that_does_not_say_how_pictures_are_prepared(tmp_path, capsys):
    backbone = str(REPOSITORY / "tests" / "data" / "backbone")
    assert main(["explain", str(SAMPLE), "-o", str(tmp_path / "x.html"), "--weights", backbone]) == 2
    assert "does not say how pictures are prepared" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_grey_pictures_and_huge_ones(tmp_path):
    picture = tmp_path / "large.jpg"
    Image.new("L", (1500, 1000), 90).save(picture)
    page, out = explained(tmp_path, ViTConfig(**{**PLAIN, "channels": 1}), picture=picture)
    assert_attention(page, out)
    assert page.facts["picture"]["size"] == [1000, 1500] and len(page.facts["picture"]["original"]) < 200_000
