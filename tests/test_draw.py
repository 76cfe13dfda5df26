"""Pictures: what they show is what was computed, the right way up, and can be read."""

import numpy as np
import pytest
from PIL import Image

import numpy_vit
from numpy_vit import InputError
from numpy_vit.cli import main
from numpy_vit.pictures import draw

from conftest import REPOSITORY, crooked_config

SAMPLE = REPOSITORY / "weights" / "samples" / "3" / "0045-0.png"
CONFIG = crooked_config()  # 24 x 40 pixels, patches of 8: 3 rows, 5 columns


def luminance(colours):
    """Of sRGB colours, relative (IEC 61966-2-1)."""
    linear = np.where(colours <= 10.31, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_colours_grow_lighter_all_the_way():
    """For print and for every kind of colour-blindness: order is in the lightness, not the hue."""
    light = luminance(draw.coloured(np.linspace(0, 1, 200)).astype(float))
    assert (np.diff(light) > 0).mean() > 0.97 and (np.diff(light) >= -1e-9).all() and light[-1] / light[0] > 20
    assert draw.coloured(np.ones(3)).tolist() == [[124, 123, 120]] * 3  # nothing to tell apart


def independent_rollout(attentions):
    """By its definition, element by element, in einsum."""
    total = None
    for a in attentions:
        step = 0.5 * a.mean(0) + 0.5 * np.eye(a.shape[-1])
        total = step if total is None else np.einsum("ij,jk->ik", step, total)
    return total


def test_rollout():
    rng = np.random.default_rng(0)
    attentions = rng.dirichlet(np.ones(7), size=(4, 3, 7))
    flow = draw.rollout(attentions)
    assert np.allclose(flow, independent_rollout(attentions), atol=1e-14) and np.allclose(flow.sum(axis=1), 1)
    backwards = draw.rollout(attentions[::-1])
    assert not np.allclose(flow, backwards)
    # one token asks all of token 2 in the first block, and token 4 all of that one in the second: 4 has some of 2
    first, second = np.eye(7)[None].copy(), np.eye(7)[None].copy()
    first[0, 1], second[0, 4] = np.eye(7)[2], np.eye(7)[1]
    assert draw.rollout([first, second])[4, 2] == 0.25 and draw.rollout([second, first])[4, 2] == 0
    for wrong in ([], [np.ones((2, 3))], [np.ones((1, 3, 3)), np.ones((1, 4, 4))]):
        with pytest.raises(InputError):
            draw.rollout(wrong)


@pytest.mark.parametrize("place", [(0, 0), (0, 4), (2, 0), (1, 3)])
def test_what_is_attended_to_is_bright_at_its_place(place):
    """On a grid that is no square, so that rows and columns cannot be swapped unnoticed."""
    weights = np.zeros(CONFIG.tokens)
    weights[1 + place[0] * 5 + place[1]] = 0.7
    weights[0] = 9.0  # the class token's own share is not of the picture
    picture = np.asarray(draw.attention_overlay(Image.new("RGB", (40, 24), "black"), weights, CONFIG, strength=1.0), float)
    rows, columns = picture.shape[0] // 3, picture.shape[1] // 5
    assert rows == columns
    cells = luminance(picture).reshape(3, rows, 5, columns).mean(axis=(1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == place
    assert sorted(cells.ravel())[-2] < 0.2 * cells.max()


def test_maps_of_a_real_run_are_the_attention_of_its_steps():
    model = numpy_vit.load()
    config = model.config
    image = Image.open(SAMPLE)
    out = model(model.preprocess(image), record=["blocks.*.attention.probs"])
    probs = out.steps["blocks.2.attention.probs"][0]
    assert np.array_equal(draw.token_map(probs[1, 0], config), probs[1, 0, 1:].reshape(config.grid))
    gallery = draw.head_gallery(image, probs, config)
    assert gallery.width > 4 * 224 and gallery.height > 224
    asked = draw.head_gallery(image, probs, config, query=10)
    assert asked.size == gallery.size and asked.tobytes() != gallery.tobytes()
    flow = draw.rollout([a[0] for a in out.attentions])
    assert np.allclose(flow.sum(axis=1), 1)
    grid = draw.patch_grid(image, config)
    assert grid.width >= 224 and min(grid.size) > 200
    assert draw.position_similarity(np.asarray(model.tensors["embed.positions"]), config).width > 300


def test_similarity():
    vectors = np.array([[1.0, 0], [0, 2], [-3, 0], [1, 1], [0, 0]])
    expected = [[1, 0, -1, 0.5**0.5, 0], [0, 1, 0, 0.5**0.5, 0]]
    assert np.allclose(draw.similarity(vectors)[:2], expected)
    picture = draw.similarity_matrix(np.array([[1.0, -1.0]]), cell=10)
    assert picture.size == (20, 10)
    assert [picture.getpixel((x, 5)) for x in (5, 15)] == [draw.RAMP[-1], draw.RAMP[0]]


def test_senseless_drawings_are_refused():
    image = Image.new("RGB", (8, 8))
    for wrong in (
        lambda: draw.token_map(np.ones(3), CONFIG),
        lambda: draw.head_gallery(image, np.ones((2, 3, 3)), CONFIG),
        lambda: draw.head_gallery(image, np.ones((2, 16, 16)), CONFIG, query=16),
        lambda: draw.attention_overlay(image, np.ones(16), CONFIG, query=(3, 0)),
        lambda: draw.similarity_matrix(np.ones(3)),
    ):
        with pytest.raises(InputError, match="draw: "):
            wrong()


def test_a_model_without_a_class_token():
    config = CONFIG.replace(class_token=False, pooling="mean")
    probs = np.full((2, 15, 15), 1 / 15)
    assert draw.head_gallery(Image.new("RGB", (40, 24)), probs, config, query=0).width > 224


def test_a_huge_picture_makes_no_huge_drawing():
    assert max(draw.patch_grid(Image.new("RGB", (9000, 100)), CONFIG).size) < 5000


# numpy-vit attend


def test_attend(tmp_path, capsys):
    target = tmp_path / "out.png"
    sizes = {}
    for options in (
        [],
        ["--rollout"],
        ["--layer", "0"],
        ["--layer", "-1", "--head", "2"],
        ["--query", "3,5"],
        ["--size", "64x96"],
    ):
        assert main(["attend", str(SAMPLE), "-o", str(target), *options]) == 0
        with Image.open(target) as picture:
            sizes[" ".join(options)] = picture.size
    assert sizes[""][0] > sizes["--layer 0"][0] > sizes["--rollout"][0] >= 224
    assert sizes["--layer -1 --head 2"] == sizes["--rollout"]
    assert "out.png" in capsys.readouterr().err


def test_attend_draws_the_rollout_of_the_run(tmp_path):
    target = tmp_path / "out.png"
    assert main(["attend", str(SAMPLE), "-o", str(target), "--rollout"]) == 0
    model = numpy_vit.load()
    out = model(model.preprocess(SAMPLE), record="attentions")
    expected = independent_rollout(np.stack([a[0] for a in out.attentions]))[0]
    image = Image.fromarray(model.preprocess_policy.resize_and_crop(SAMPLE))
    drawn = draw.attention_overlay(image, expected, model.config, f"rollout, {model.config.depth} blocks")
    with Image.open(target) as picture:
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(drawn)).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "x.jpg"], "the name must end in .png"),
        (["--layer", "9"], "--layer 9: there are"),
        (["--head", "6"], "--head 6: there are 6, from 0 to 5"),
        (["--query", "8,0"], "the patches are 8 x 8, counted from 0"),
        (["--query", "first"], "give row and column of a patch"),
        (["--rollout", "--layer", "1"], "leave --layer and --head out"),
        (["-o", "absent/x.png"], "there is no folder"),
    ],
)
def test_attend_refuses(options, message, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    status, _, error = run("attend", SAMPLE, *([] if "-o" in options else ["-o", "x.png"]), *options)
    assert status == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_attend_finds_the_digit():
    """The rollout of the class token, inside the digit's box against outside, over the shipped samples."""
    model = numpy_vit.load()
    ratios = []
    for file in sorted((REPOSITORY / "weights" / "samples").glob("*/*.png")):
        seen = model.preprocess_policy.resize_and_crop(file).astype(float)
        paper = np.median(seen.reshape(-1, 3), axis=0)
        ink = np.linalg.norm(seen - paper, axis=2) > 60
        patches = ink.reshape(8, 8, 8, 8).any(axis=(1, 3))
        rows, columns = (np.flatnonzero(patches.any(axis=axis)) for axis in (1, 0))
        box = np.zeros((8, 8), bool)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        flow = draw.rollout([a[0] for a in model(model.preprocess(file), record="attentions").attentions])[0]
        values = draw.token_map(flow, model.config)
        if not box.all():
            ratios.append(values[box].mean() / values[~box].mean())
    assert len(ratios) >= 10 and np.median(ratios) > 2 and np.mean(np.array(ratios) > 1.2) > 0.9, ratios


@pytest.mark.parametrize("way", ["dinov3", "augreg", "big_vision"])
def test_attend_where_pictures_are_not_resized_by_pillow(way, tmp_path):
    """Such pictures are floats before they are normalised, and are drawn all the same."""
    target = tmp_path / "out.png"
    assert main(["attend", str(SAMPLE), "-o", str(target), "--preprocessor", way]) == 0
    with Image.open(target) as picture:
        assert picture.width > 224


def test_blocks_are_named_as_in_step_names():
    names = [draw.block_label(number, 24) for number in (0, 1, 2, 3, 10, 11, 12, 20, 21, 23)]
    assert names[0] == "blocks.0 (1st of 24)" and names[-1] == "blocks.23 (24th of 24)"
    places = [name.split("(")[1].split()[0] for name in names]
    assert places == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "24th"]


@pytest.mark.parametrize(
    "options, label", [((), "blocks.5 (6th of 6)"), (("--layer", "0", "--head", "2"), "blocks.0 (1st of 6), head 2")]
)
def test_attend_names_the_block(options, label, run, tmp_path, monkeypatch):
    said = []
    labelled = draw.labelled
    monkeypatch.setattr(draw, "labelled", lambda image, text: said.append(text) or labelled(image, text))
    assert run("attend", SAMPLE, "-o", tmp_path / "a.png", *options)[0] == 0
    assert label in said
