"""Pictures: what they show is what was computed, the right way up, and can be read."""

import numpy as np
import pytest
from PIL import Image

import numpy_vit
from numpy_vit import InputError, draw

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
