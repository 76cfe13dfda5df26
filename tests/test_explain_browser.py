"""The page of `numpy-vit explain` in a real Chromium: `pytest -m browser`.

Needs the extra `browser` and Debian's packages chromium and chromium-driver.
"""

import numpy as np
import pytest
from browsing import DESKTOP, PHONE, Window, assert_quiet
from explained import saved
from options import OPTIONS, PLAIN

import numpy_vit
from numpy_vit import ViTConfig
from numpy_vit.cli import main
from numpy_vit.pictures.draw import coloured, rollout

import pictures
from conftest import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
SAMPLE = REPOSITORY / "weights" / "samples" / "3" / "0045-0.png"
NASTY = "<img src=x onerror=alert(1)>"
READ = """canvas => {  // from a copy: Chromium warns of canvases that are read again and again
  const copy = document.createElement("canvas"), {width, height} = canvas;
  Object.assign(copy, {width, height});
  copy.getContext("2d").drawImage(canvas, 0, 0);
  return [height, width, ...copy.getContext("2d").getImageData(0, 0, width, height).data];
}"""


class Explained(Window):
    """A page of `explain`; if it computes, once it has."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.wait_for("!LIVE || document.documentElement.dataset.run === 'live'")

    def state(self):
        layer, head, query = self.js("(({layer, head, query}) => [layer, head, query])($('explorer').dataset)")
        return int(layer), int(head) if head.isdigit() else head, int(query)

    def point(self, name, patch, grid, click=False, kind="mouse"):
        """Move the pointer over a patch of a picture, or click, or tap it."""
        element = self.chromium.find_element("id", name)
        self.chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        rows, columns = grid
        width, height = element.size["width"], element.size["height"]
        x = (patch % columns + 0.5) / columns * width - width / 2
        y = (patch // columns + 0.5) / rows * height - height / 2
        actions = self.actions(kind).move_to_element_with_offset(element, round(x), round(y))
        (actions.click() if click or kind == "touch" else actions).perform()

    def press(self, *keys, inside="asking"):
        element = self.chromium.find_element("id", inside)
        self.chromium.execute_script("arguments[0].focus({preventScroll: true})", element)
        for key in keys:
            element.send_keys(key)

    def weights(self, layer, head, query):
        return np.array(self.js("[...attentionRow(...arguments).weights]", layer, head, query))

    def map_colours(self, selector="#answering canvas"):
        rows, columns, *values = self.js(f"({READ})(document.querySelector(arguments[0]))", selector)
        return np.reshape(values, (rows, columns, 4))


def page_of(folder, weights=None, picture=SAMPLE, *options):
    """A page on disk, and the attention (L, H, N, N) of the same run."""
    target = folder / "page.html"
    chosen = ["--weights", str(weights)] if weights else []
    assert main(["explain", str(picture), "-o", str(target), *chosen, *options]) == 0
    model = numpy_vit.load(weights) if weights else numpy_vit.load()
    out = model(model.preprocess(picture), record="*probs")
    return target, np.stack([a[0] for a in out.attentions]), model.config, out


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("digits"))


def assert_shown(window, attentions, config):
    """What is to be seen is the attention of the run, for the head, block and query that the page says it shows."""
    layer, head, query = window.state()
    if head == "rollout":
        expected = rollout(list(attentions))[query]
    else:
        expected = attentions[layer].mean(axis=0)[query] if head == "mean" else attentions[layer, head, query]
    assert np.abs(window.weights(layer, head, query) - expected).max() <= attentions[layer, :, query].max() / 131_070 * 1.01
    patches = expected[config.special_tokens :].reshape(config.grid)
    shown = window.text("highest")
    assert abs(float(shown) - patches.max()) <= 10.0 ** -len(shown.split(".")[1])
    for n, line in enumerate(window.js("[...$('shares').children].map(item => item.textContent)")[: config.special_tokens]):
        assert abs(float(line.split()[-1]) - expected[n]) <= 10.0 ** -len(line.split(".")[1])
    got = window.map_colours()[..., :3]
    assert np.abs(got - coloured(patches, 0.0, patches.max()).astype(int)).max() <= 4  # they are half transparent
    return patches


def most_telling(attentions):
    """The block where the class token attends to the patches least evenly: its entropy is smallest."""
    rows = attentions.mean(axis=1)[:, 0, 1:].astype(float)
    shares = rows / rows.sum(axis=1, keepdims=True)
    return int((shares * np.log(shares)).sum(axis=1).argmax())


def assert_in_view(window, name):
    """The whole element is seen, below the bar at the top."""
    top, bottom, bar, height = window.js(
        "(box => [box.top, box.bottom, document.querySelector('.bar').offsetHeight, innerHeight])"
        "(document.getElementById(arguments[0]).getBoundingClientRect())",
        name,
    )
    assert bar <= top and bottom <= height, (top, bottom)


def test_it_opens_without_a_message_and_asks_for_nothing(chromium, digits):
    window = Explained(chromium, digits[0])
    assert "0045-0.png" in window.text("lead") and "digits" in window.text("lead")
    window.js("$('matrix').scrollIntoView()")
    window.press("l", "r", "c")
    window.click("#language")
    window.click("#look")
    assert window.js("document.images.length") >= 5
    assert window.js("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert_quiet(window)


def test_the_pointer_chooses_the_query_and_reads_weights(chromium, digits):
    page, attentions, config, _ = digits
    window = Explained(chromium, page)
    opening = most_telling(attentions)
    assert window.state() == (opening, "mean", 0)
    assert_shown(window, attentions, config)
    window.press("l", *"l" * ((5 - opening - 1) % 6))
    for patch in (27, 0, 63, 40):
        window.point("asking", patch, config.grid)
        assert window.state() == (5, "mean", 1 + patch)
        assert_shown(window, attentions, config)
    assert "patch 40 (row 5, column 0)" in window.text("asking-said")
    window.point("asking", 40, config.grid, click=True)  # held: the way to the map does not change it
    window.point("asking", 47, config.grid)
    assert window.state()[2] == 41
    for patch in (3, 50):
        window.point("answering", patch, config.grid)
        shown = window.js("document.querySelector('#readout b').textContent")
        expected = attentions[5, :, 41, 1 + patch].mean()
        assert abs(float(shown) - expected) <= 10.0 ** -len(shown.split(".")[1]), (shown, expected)
        assert f"patch {patch} " in window.text("readout")
    from selenium.webdriver.common.keys import Keys

    window.press(Keys.ESCAPE)
    window.point("asking", 47, config.grid)
    assert window.state()[2] == 48
    assert_quiet(window)


def test_keys_choose_query_block_and_head(chromium, digits):
    from selenium.webdriver.common.keys import Keys

    page, attentions, config, _ = digits
    window = Explained(chromium, page)
    window.js("choose({layer: 5})")
    window.press(Keys.ARROW_RIGHT)
    assert window.state()[2] == 1  # from the class token to the first patch
    window.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    assert window.state() == (5, "mean", 1 + 9)
    window.press(Keys.ARROW_UP, Keys.ARROW_UP)  # not beyond the edge
    assert window.state()[2] == 2
    seen = set()
    for keys, expected in (
        ("l", (0, "mean", 2)), ("h", (0, 0, 2)), ("h", (0, 1, 2)), ("ll", (2, 1, 2)), ("LLL", (5, 1, 2)), ("HH", (5, 5, 2)),
        ("m", (5, "mean", 2)), ("r", (5, "rollout", 2)), ("c", (5, "rollout", 0)), ("h", (5, 0, 0)),
    ):  # fmt: skip
        window.press(*keys)
        assert window.state() == expected
        seen.add(assert_shown(window, attentions, config).tobytes())
    assert len(seen) == 10
    window.js("$('cut').focus()")
    window.press(Keys.ARROW_LEFT, inside="cut")
    assert "patch 35" in window.text("closeup-said")
    window.press("l", inside="cut")  # letters are for the maps
    assert window.state() == (5, 0, 0)
    assert_quiet(window)


def test_selects_chips_and_the_overview_choose_too(chromium, digits):
    from selenium.webdriver.support.ui import Select

    page, attentions, config, _ = digits
    window = Explained(chromium, page)
    Select(window.chromium.find_element("id", "layer")).select_by_value("2")
    Select(window.chromium.find_element("id", "head")).select_by_value("4")
    window.point("asking", 20, config.grid)
    assert window.state() == (2, 4, 21)
    assert_shown(window, attentions, config)
    window.js("$('matrix').scrollIntoView()")
    small = window.map_colours("#matrix canvas[data-layer='3'][data-head='1']")[..., :3]
    expected = attentions[3, 1, 21, 1:].reshape(8, 8)
    assert np.abs(small - coloured(expected, 0.0, expected.max()).astype(int)).max() <= 2
    assert window.js("document.querySelectorAll('#matrix canvas').length") == 6 * 7 + 1
    window.click("#matrix canvas[data-layer='3'][data-head='1']")
    assert window.state() == (3, 1, 21)
    assert_in_view(window, "answering")
    window.click("#chips button")
    assert window.state() == (3, 1, 0) and window.js("$('chips').children[0].ariaPressed") == "true"
    before = window.text("steps-block")
    Select(window.chromium.find_element("id", "block")).select_by_value("5")
    assert window.text("steps-block") != before
    assert_quiet(window)


def test_languages_and_looks(chromium, digits):
    window = Explained(chromium, digits[0])
    shown = "document.body.innerText"
    background = "getComputedStyle(document.body).backgroundColor"
    assert "Where it looks" in window.js(shown) and "它看哪里" not in window.js(shown)
    english = window.js("[...document.querySelectorAll('[aria-label]')].map(e => e.ariaLabel)")
    window.click("#language")
    assert "它看哪里" in window.js(shown) and "Where it looks" not in window.js(shown)
    assert window.js("document.documentElement.lang") == "zh-CN"
    chinese = window.js("[...document.querySelectorAll('[aria-label]')].map(e => e.ariaLabel)")
    assert len(english) >= 6 and not set(english) & (set(chinese) - {"Switch to English"})
    window.click("#language")
    assert "Where it looks" in window.js(shown)
    light = window.js(background)
    window.click("#look")
    assert window.js(background) != light
    window.click("#look")
    assert window.js(background) == light
    dark = Explained(chromium, digits[0], media={"color-scheme": "dark"})
    assert dark.js(background) != light
    for motion, expected in (("reduce", "auto"), ("no-preference", "smooth")):
        window = Explained(chromium, digits[0], media={"reduced-motion": motion})
        assert window.js("getComputedStyle(document.documentElement).scrollBehavior") == expected


def test_the_focus_can_be_seen(chromium, digits):
    from selenium.webdriver.common.keys import Keys

    window = Explained(chromium, digits[0])
    reached = []
    for _ in range(180):
        window.actions().send_keys(Keys.TAB).perform()
        name, outline = window.chromium.execute_script(
            "return [document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.append(name)
        if window.chromium.execute_script("return document.activeElement !== document.body"):
            assert outline not in ("none", ""), name
    assert {"language", "look", "cut", "block", "layer", "head", "asking", "answering"} <= set(reached)


@pytest.mark.parametrize("tongue", ["en", "zh"])
def test_phone_width(tongue, chromium, digits):
    page, attentions, config, _ = digits
    window = Explained(chromium, page, PHONE)
    if tongue == "zh":
        window.click("#language")
    assert window.js("document.scrollingElement.scrollWidth") <= 360
    window.point("asking", 42, config.grid, kind="touch")
    assert window.state()[2] == 43
    assert_shown(window, attentions, config)
    assert not window.js("$('answering').offsetHeight")  # the map lies on the picture that is tapped
    assert np.array_equal(window.map_colours("#asking canvas"), window.map_colours())
    window.click("#tap-read")
    window.point("asking", 12, config.grid, kind="touch")
    assert window.state()[2] == 43 and "12" in window.text("readout")
    window.click("#tap-ask")
    window.point("asking", 20, config.grid, kind="touch")
    assert window.state()[2] == 21
    window.click("#matrix canvas[data-layer='5'][data-head='5']")
    assert window.state() == (5, 5, 21)
    assert_shown(window, attentions, config)
    assert_in_view(window, "asking")
    assert_quiet(window)


@pytest.mark.parametrize("option", ["MAP", "MAP with a head", "registers", "no class token", "distilled"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_other_models_on_an_oblong_grid(option, size, chromium, tmp_path):
    config = ViTConfig(**{**PLAIN, **OPTIONS[option]})
    picture = tmp_path / f"{NASTY}.png"
    pictures.draw(30, 50).save(picture)
    labels = ["</script><script>alert(1)</script>", NASTY, "a label without an end " * 9, "x" * 120, "5"][: config.classes]
    weights = saved(config, tmp_path / "model.safetensors", labels or None)
    page, attentions, _, out = page_of(tmp_path, weights, picture)
    window = Explained(chromium, page, size)
    assert window.js("document.scrollingElement.scrollWidth") <= size[0]
    assert_shown(window, attentions, config)
    window.point("asking", 9, config.grid)
    assert window.state()[2] == config.special_tokens + 9
    assert_shown(window, attentions, config)
    assert NASTY in window.text("lead") and window.js("document.querySelectorAll('img[src=x]').length") == 0
    window.press("c")
    assert window.state()[2] == (0 if config.special_tokens else 9)
    if config.pooling == "map":
        window.js(f"choose({{layer: {config.depth - 1}}})")
        window.press("l")
        assert window.state()[0] == config.depth and "learned" in window.text("asking-said")
        expected = out.steps["map.probs"][0, :, 0].mean(axis=0)
        assert np.abs(window.weights(config.depth, "mean", 0) - expected).max() < 1e-5
        window.point("asking", 3, config.grid)  # a patch asks in a block, not here
        assert window.state()[0] == config.depth - 1
    assert ("no classification head" in window.text("answer")) == (out.logits is None)
    assert_quiet(window)


def test_vit_base(chromium, tmp_path):
    config = numpy_vit.variant("ViT-B/16")
    weights = saved(config, tmp_path / "base.safetensors")
    page, attentions, _, _ = page_of(tmp_path, weights)
    assert page.stat().st_size < 25_000_000
    window = Explained(chromium, page)
    assert_shown(window, attentions, config)
    window.point("asking", 100, config.grid)
    window.js("choose({layer: 11})")
    window.press("h", "h", "l")
    assert window.state() == (0, 1, 101)
    assert_shown(window, attentions, config)
    window.js("$('matrix').scrollIntoView()")
    corner = "#matrix canvas[data-layer='11'][data-head='11']"
    while not window.map_colours(corner)[..., 3].any():  # drawn a few at a time
        assert window.js("performance.now()") < 30_000
    expected = attentions[11, 11, 101, 1:].reshape(14, 14)
    assert np.abs(window.map_colours(corner)[..., :3] - coloured(expected, 0.0, expected.max()).astype(int)).max() <= 2
    assert_quiet(window)


def test_what_is_left_out_is_said(chromium, tmp_path, monkeypatch):
    from numpy_vit.explain import page as pages

    monkeypatch.setattr(pages, "MAX_CHARACTERS", 6_000)
    config = ViTConfig(**{**PLAIN, "heads": 12})
    page, attentions, _, _ = page_of(tmp_path, saved(config, tmp_path / "model.safetensors"))
    window = Explained(chromium, page, PHONE)
    assert_shown(window, attentions, config)
    window.press("l")
    assert_shown(window, attentions, config)
    assert "12 heads" in window.text("accuracy") and window.js("document.scrollingElement.scrollWidth") <= 360
    assert window.js("$('head').options.length") == 2
    assert_quiet(window)
