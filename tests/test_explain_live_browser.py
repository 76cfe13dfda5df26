"""The page of `explain` that computes, in a real Chromium: `pytest -m browser`. Without one: test_explain_live.py."""

import itertools
import time

import numpy as np
import pytest
from browsing import DESKTOP, PHONE, assert_quiet
from explained import saved
from javascript_port import SWITCHES, assert_every_step_is_ok, checked
from options import PLAIN
from test_explain_browser import Explained

import numpy_vit
from numpy_vit import ViTConfig
from numpy_vit.cli import main
from numpy_vit.golden.folder import read_dump
from numpy_vit.ops import softmax

import pictures
from conftest import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
SAMPLES = sorted((REPOSITORY / "weights" / "samples").glob("*/*.png"))
SAMPLE = SAMPLES[3]
# Ten digits as strokes in a square of 8 x 8: a list of lines of (x, y)
DRAWN = [
    [[(4, 1), (2, 3), (2, 5), (4, 7), (6, 5), (6, 3), (4, 1)]],
    [[(3, 2), (4, 1), (4, 7)]],
    [[(2, 2), (4, 1), (6, 3), (2, 7), (6, 7)]],
    [[(2, 1), (6, 1), (4, 4), (6, 6), (2, 7)]],
    [[(3, 1), (2, 4), (6, 4)], [(5, 2), (5, 7)]],
    [[(6, 1), (2, 1), (2, 4), (5, 4), (5, 6), (2, 7)]],
    [[(5, 1), (2, 4), (3, 7), (6, 6), (5, 4), (2, 5)]],
    [[(2, 1), (6, 1), (3, 7)]],
    [[(4, 4), (2, 2), (4, 1), (6, 2), (4, 4), (2, 6), (4, 7), (6, 6), (4, 4)]],
    [[(6, 3), (3, 4), (3, 1), (6, 1), (6, 7)]],
]
HELPERS = (REPOSITORY / "tests" / "live_page.js").read_text("utf-8")
CHANGED = "live.after !== live.before"


class Live(Explained):
    """A page that computes."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.chromium.execute_script(HELPERS)

    def run(self, code, *values):
        """What asynchronous code gives."""
        return self.chromium.execute_async_script(
            f"const done = arguments[arguments.length - 1]; (async () => {{ {code} }})().then(done);", *values
        )

    def settled(self):
        """After what was done, once the page has computed and shown it."""
        self.wait_for("document.documentElement.dataset.run === 'live'")

    def probabilities(self, run="after"):
        return np.array(self.js(f"[...live.{run}.probabilities]"))

    def pixels(self):
        """What the model was given."""
        shape, data = self.js("[live.before.steps.pixels.shape, [...live.before.steps.pixels.data]]")
        return np.reshape(data, shape)

    def draw(self, lines, kind="mouse"):
        """Strokes with a pointer on the pad: lines of (x, y) in a square of 8 x 8."""
        pad = self.chromium.find_element("id", "pad")
        self.chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", pad)
        width, height = pad.size["width"], pad.size["height"]
        actions = self.actions(kind)
        for line in lines:
            for n, (x, y) in enumerate(line):
                actions.move_to_element_with_offset(pad, round((x / 8 - 0.5) * width), round((y / 8 - 0.5) * height))
                if n == 0:
                    actions.click_and_hold()
            actions.release()
        actions.perform()
        self.settled()

    def choose(self, name, value):
        from selenium.webdriver.support.ui import Select

        Select(self.chromium.find_element("id", name)).select_by_value(str(value))
        self.settled()

    def press_key(self, *keys):
        self.actions().send_keys(*keys).perform()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    target = tmp_path_factory.mktemp("live") / "page.html"
    assert main(["explain", str(SAMPLE), "-o", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def model():
    return numpy_vit.load(dtype="float64")


@pytest.fixture
def window(chromium, page):
    window = Live(chromium, page)
    yield window
    assert_quiet(window)


@pytest.fixture
def downloads(chromium, tmp_path):
    """A folder that files are saved to; `downloads(name)` waits for one."""
    chromium.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})

    def wait(name):
        end = time.monotonic() + 60
        while not (tmp_path / name).exists():
            assert time.monotonic() < end, name
            time.sleep(0.02)
        return tmp_path / name

    return wait


# The port


def test_golden_check_finds_every_step_right_with_and_without_each_switch(window, model, downloads, monkeypatch):
    """All samples and ten drawings in one batch."""
    assert window.run("return tested.takeAll(arguments[0])", DRAWN) == len(SAMPLES) + len(DRAWN) == 20
    answers = set()
    for name, (changes, _, _) in SWITCHES.items():
        file = f"{name}.safetensors".replace(" ", "_")
        window.run("tested.saveAll(arguments[0], arguments[1])", changes, file)
        path = downloads(file)
        dump = read_dump(path)
        path.unlink()
        pixels = dump["pixels"].data
        assert pixels.shape == (20, 3, 64, 64) and len({picture.tobytes() for picture in pixels}) == 20
        assert np.abs(pixels[: len(SAMPLES)] - model.preprocess(SAMPLES)).max() < 1e-6  # the model's own preprocessing
        assert_every_step_is_ok(checked(model, pixels, dump, name, monkeypatch), model)
        answers.add(dump["logits"].data.tobytes())
    assert len(answers) == len(SWITCHES)


def test_a_pass_takes_60_ms(window):
    """Of the page's own thread: the machine may have other work. The best of some, once the browser has compiled it."""
    pixels = "normalized(live.rgba, LIVE.preprocess)"
    ten = f"(() => {{ for (let n = 0; n < 10; n++) forward({pixels}, live.w, LIVE.config); }})()"
    window.chromium.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds():
        metrics = window.chromium.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")

    times = []
    for _ in range(6):
        before = seconds()
        window.js(ten)
        times.append((seconds() - before) / 10)
    window.chromium.execute_cdp_cmd("Performance.disable", {})
    assert 0.001 < min(times) < 0.060, times


def test_the_steps_saved_are_a_dump_for_golden_check(window, tmp_path, downloads):
    window.click("#save-steps")
    dump = downloads("steps.safetensors")
    assert main(["golden", "record", "--weights", "digits", "--image", str(SAMPLE), "-o", str(tmp_path / "golden")]) == 0
    assert main(["golden", "check", str(tmp_path / "golden"), str(dump)]) == 0
    window.click("#board button[data-key='headsOff'][data-value='1.2']")
    window.settled()
    dump.unlink()
    window.click("#save-steps")
    assert main(["golden", "check", str(tmp_path / "golden"), str(downloads("steps.safetensors"))]) == 1


# Pictures


def test_samples_drawings_and_files_are_computed(window, model, tmp_path):
    window.click("#samples button:nth-child(9)")
    window.settled()
    expected = model(model.preprocess(SAMPLES[7])).logits[0]
    assert np.abs(window.probabilities() - softmax(expected)).max() < 1e-6
    assert "sample 7" in window.text("lead") and f"The answer: {expected.argmax()}" in window.text("try-said")
    assert window.text("try-bars").startswith(str(expected.argmax()))
    for kind, digit in (("mouse", 1), ("touch", 7)):
        window.click("#pad-clear")
        blank = window.pixels()
        window.draw(DRAWN[digit], kind)
        assert np.abs(window.pixels() - blank).max() > 0.5
        assert window.probabilities().argmax() == digit and "a drawing" in window.text("lead")
    window.click("#pad-ink")
    assert "dark" in window.text("pad-ink")
    picture = tmp_path / "wide.png"
    pictures.draw(90, 137).save(picture)
    window.chromium.find_element("id", "pad-file").send_keys(str(picture))
    window.wait_for("FACTS.picture.name === 'wide.png'")
    window.settled()
    assert np.abs(window.pixels() - model.preprocess(picture)).max() < 2.1 / 255 / 0.5  # two roundings to 8 bits
    assert "90 × 137" in window.text("original-said") and "Approximate" in window.text("preparation")
    (tmp_path / "no.png").write_text("no picture")
    window.chromium.find_element("id", "pad-file").send_keys(str(tmp_path / "no.png"))
    window.wait_for("$('try-said').textContent.includes('no.png is no picture')")
    dropped = (
        "const canvas = make('canvas'); [canvas.width, canvas.height] = [8, 8];"
        "const blob = await new Promise(done => canvas.toBlob(done)), transfer = new DataTransfer();"
        "transfer.items.add(new File([blob], 'dropped.png'));"
        "$('try').dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, cancelable: true}));"
    )
    window.run(dropped)
    window.wait_for("FACTS.picture.name === 'dropped.png'")
    window.settled()
    assert np.allclose(window.pixels(), 1)  # what is transparent is put on white
    window.click("#samples button:first-child")
    window.settled()
    assert SAMPLE.name in window.text("lead")
    assert np.abs(window.probabilities() - softmax(model(model.preprocess(SAMPLE)).logits[0])).max() < 1e-6


def test_a_digit_is_drawn_by_keys_alone(window):
    from selenium.webdriver.common.keys import Keys

    window.js("$('pad').focus()")
    window.press_key(Keys.SPACE)
    assert window.text("pen-said") == "Pen down."
    window.press_key(*[Keys.ARROW_DOWN] * 14)
    window.press_key(Keys.SPACE)
    assert window.text("pen-said") == "Pen up."
    window.settled()
    assert window.probabilities().argmax() == 1 and "a drawing" in window.text("lead")
    before = window.pixels()
    window.press_key(*[Keys.ARROW_UP] * 5)
    window.settled()
    assert np.array_equal(window.pixels(), before)  # the pen is up


# Switches


def test_every_switch_changes_the_run_and_shows_both(window, model):
    plain = window.probabilities()
    switches = [
        ("headsOff", lambda: window.click("#board button[data-key='headsOff'][data-value='2.1']")),
        ("blocksOff", lambda: window.click("#board button[data-key='blocksOff'][data-value='3']")),
        ("residualsOff", lambda: window.click("#board button[data-key='residualsOff'][data-value='4']")),
        ("positionsOff", lambda: window.click("#switch-positions")),
        ("unscaled", lambda: window.click("#switch-scaled")),
        ("normAfter", lambda: window.click("#switch-after")),
        ("eps", lambda: window.choose("eps", "0.1")),
        ("activation", lambda: window.choose("activation", "relu")),
        ("order", lambda: window.click("#shuffle")),
        ("masked", lambda: window.point("gets-panel", 35, (8, 8), click=True)),
    ]
    assert {key for key, _ in switches} == set(window.js("Object.keys(NO_CHANGES)"))
    for key, act in switches:
        assert not window.js(CHANGED) and window.js("$('undo').hidden")
        act()
        window.settled()
        assert window.js(CHANGED) and window.js("changed()") == [key], key
        assert np.array_equal(window.probabilities("before"), plain)
        assert np.abs(window.probabilities() - plain).max() > 1e-4
        shown = window.js("$('try-bars').children[0].textContent")
        best = int(window.probabilities().argmax())
        assert f"{100 * plain[best]:.1f}" in shown.replace("−", "-") or plain[best] < 0.1, shown
        assert "→" in shown and "as it is" in window.text("try-said") and "(1)" in window.text("undo")
        assert window.js("getComputedStyle(document.querySelector('.of-after')).display") != "none"
        assert window.text("lens-after") != window.text("lens-before"), key
        assert float(window.js("FACTS.best[0].probability")) == pytest.approx(window.probabilities().max())
        window.click("#undo")
        window.settled()
    assert window.js("getComputedStyle(document.querySelector('.of-after')).display") == "none"
    window.click("#board button[data-key='headsOff'][data-value='0.0']")
    window.click("#board button[data-key='headsOff'][data-value='0.1']")
    window.settled()
    assert "(2)" in window.text("undo")
    window.click("#board button[data-key='headsOff'][data-value='0.1']")  # and on again
    window.settled()
    assert window.js("live.changes.headsOff") == ["0.0"]
    window.click("#undo-here")
    window.settled()
    assert np.array_equal(window.probabilities(), plain)


def test_lens_and_attention_side_by_side_are_those_of_both_models(window, model):
    window.click("#board button[data-key='blocksOff'][data-value='3']")
    window.choose("try-layer", 4)
    window.choose("try-head", 2)
    nothing = {"blocks.3.attention.output": np.zeros_like, "blocks.3.mlp.output": np.zeros_like}
    for which, change in (("before", {}), ("after", nothing)):
        out = model(model.preprocess(SAMPLE), record=True, change=change)
        token = np.stack([state[0, 0] for state in out.hidden_states])
        normed = (token - token.mean(axis=1, keepdims=True)) / np.sqrt(token.var(axis=1, keepdims=True) + 1e-12)
        normed = normed * model.tensors["norm.weight"] + model.tensors["norm.bias"]
        expected = softmax(normed @ model.tensors["head.weight"] + model.tensors["head.bias"])
        cells = window.js(
            f"[...$('lens-{which}').rows].slice(1).map(row => [...row.cells].slice(1).map(cell => Number(cell.textContent)))"
        )
        assert np.abs(np.array(cells) - 100 * expected).max() <= 0.501
        best = window.js(
            f"[...$('lens-{which}').rows].slice(1).map(row => [...row.cells].findIndex(c => c.matches('.best')) - 1)"
        )
        assert best == expected.argmax(axis=1).tolist()
        weights = np.array(window.js(f"[...liveRow(live.{which}, 4, 2, 0).weights]"))
        assert np.abs(weights - out.attentions[4][0, 2, 0]).max() < 1e-6
    first, second = (window.map_colours(f"#try-map-{which}") for which in ("before", "after"))
    assert not np.array_equal(first, second)
    # And the sections below show the model as it is changed.
    assert np.abs(window.weights(5, 1, 7) - out.attentions[5][0, 1, 7]).max() < 1e-6
    steps = window.text("steps-after")
    assert f"{out.logits.max():.4g}" in steps


def test_the_rollout_of_a_run_is_that_of_the_drawings(window, model):
    from numpy_vit.pictures.draw import rollout

    window.click("#samples button:nth-child(4)")
    window.settled()
    expected = rollout([a[0] for a in model(model.preprocess(SAMPLES[2]), record="attentions").attentions])
    assert np.abs(window.weights(0, "rollout", 5) - expected[5]).max() < 1e-6


def test_masks_by_keys_and_shuffling_again(window):
    from selenium.webdriver.common.keys import Keys

    window.js("$('gets-panel').focus()")
    window.press_key(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ENTER, Keys.ARROW_RIGHT, Keys.SPACE)
    window.settled()
    assert window.js("live.changes.masked") == [9, 10]
    window.press_key(Keys.ENTER)
    window.settled()
    assert window.js("live.changes.masked") == [9]
    orders = []
    for _ in range(2):
        window.click("#shuffle")
        window.settled()
        orders.append(window.js("live.changes.order"))
        assert sorted(orders[-1]) == list(range(64))
    assert orders[0] != orders[1]
    assert window.map_colours("#gets")[8:16, 8:16, :3].tolist() == [[[128, 128, 128]] * 8] * 8


# Cards


@pytest.mark.parametrize(
    "switch", ["none", "several", "norms after", "a residual off", "unscaled", "shuffled and masked", "SiLU"]
)
def test_what_a_card_lights_up_makes_the_number(switch, window):
    found = window.js("tested.originErrors(arguments[0])", SWITCHES[switch][0])
    assert len(found) > 78 and max(found.values()) < 2e-6, max(found.items(), key=lambda item: item[1])


def test_cards_open_show_and_follow_pointer_and_keys(window, model):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    names = window.js("[...document.querySelectorAll('.step .name')].map(name => name.textContent)")
    assert len(names) == 4 + 14 + 3
    for place, steps in window.js("Object.entries(FACTS.steps).map(([place, steps]) => [place, steps.map(step => step.name)])"):
        for name in steps:
            window.js("document.querySelector(`[data-step='${arguments[0]}/${arguments[1]}']`).click()", place, name)
            card = window.js("document.querySelector('.step.open').textContent")
            assert "model.py:" in card and f'step("{name.rsplit(".", 1)[-1]}"' in card and f"{name}[0, 0] = " in card
            assert window.js("document.querySelectorAll('.step.open math').length") == 1
            assert window.js("document.querySelectorAll('.step.open .lit').length") >= 1
    window.choose("block", 2)
    window.js("document.querySelector(\"[data-step='block/attention.scores']\").click()")
    Select(window.chromium.find_element("css selector", ".bench-head")).select_by_value("3")
    sheet = window.chromium.find_element("css selector", ".result .sheet")
    window.chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", sheet)
    width, height = sheet.size["width"], sheet.size["height"]
    window.actions().move_to_element_with_offset(
        sheet, round((20.5 / 65 - 0.5) * width), round((10.5 / 65 - 0.5) * height)
    ).perform()
    scores = model(model.preprocess(SAMPLE), record=True).steps["blocks.2.attention.scores"][0, 3]
    readout = window.js("document.querySelector('.bench .readout').textContent").replace("−", "-")
    assert f"attention.scores[10, 20] = {scores[10, 20]:.4g}" in readout and "row times row, 16 products" in readout
    rows = "[...document.querySelectorAll('.matrices figure:not(.result) .lit.row')]"
    lit = window.js(f"{rows}.map(lit => parseFloat(lit.style.top))")
    assert lit == pytest.approx([100 * 10 / 65, 100 * 20 / 65], abs=1e-3)
    window.js("document.querySelector('.result .scroll').focus()")
    window.press_key(Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    readout = window.js("document.querySelector('.bench .readout').textContent").replace("−", "-")
    assert f"attention.scores[11, 19] = {scores[11, 19]:.4g}" in readout
    small = window.js("document.querySelector('.result .sheet').offsetWidth")
    window.click(".bench .zoomIn")
    assert window.js("document.querySelector('.result .sheet').offsetWidth") == 2 * small
    window.click(".bench .zoomOut")
    assert window.js("document.querySelector('.result .sheet').offsetWidth") == small
    window.click("[data-step='block/attention.scores']")
    assert not window.js("document.querySelectorAll('.step.open').length")


def test_shapes_pass_from_card_to_card(window):
    """What a card says comes in is what another gives."""
    steps = window.js("FACTS.steps")
    shapes = {step["name"]: step["shape"] for place in steps.values() for step in place} | {"pixels": [1, 3, 64, 64]}
    for place in steps.values():
        for step in place:
            assert step["inputs"] and all(shapes[name] == shape for name, shape in step["inputs"]), step["name"]
    assert "attention.query 1 × 6 × 65 × 16" in window.js("$('steps-block').textContent")


# The tour


def test_the_tour_by_keys_alone(window):
    from selenium.webdriver.common.keys import Keys

    window.js("$('tour-start').focus()")
    window.press_key(Keys.ENTER)
    count = window.js("tourStops().length")
    assert 9 <= count <= 12 and window.js("document.activeElement.id") == "tour-next"
    said = []
    for n in range(count):
        said.append(window.text("tour-said"))
        assert f"{n + 1} of {count}" in window.text("tour-count")
        box = window.js(
            "(box => [box.top, box.bottom, innerHeight])(document.querySelector('.toured').getBoundingClientRect())"
        )
        assert box[0] < box[2] and box[1] > 0  # what is spoken of is in sight
        window.press_key(Keys.ARROW_RIGHT)
    assert len(set(said)) == count and window.js("$('tour').hidden") and window.js("document.activeElement.id") == "tour-start"
    window.press_key(Keys.ENTER)
    window.press_key(Keys.ARROW_RIGHT)
    window.press_key(Keys.ARROW_LEFT)
    assert window.text("tour-said") == said[0]
    window.press_key(Keys.ESCAPE)
    assert window.js("$('tour').hidden") and not window.js("document.querySelectorAll('.toured').length")


def test_the_tour_goes_on_by_itself_but_not_where_motion_is_unwanted(chromium, page):
    for motion, moves in (("reduce", False), ("no-preference", True)):
        window = Live(chromium, page, media={"reduced-motion": motion})
        window.click("#tour-start")
        assert bool(window.js("tour.timer")) == moves and window.js("$('tour-pause').hidden") != moves
    assert 90_000 < window.js("tourStops().length * STOP_MS") < 150_000  # about two minutes
    window.click("#tour-pause")
    assert window.js("tour.paused") and window.text("tour-pause") == "Go on"
    window.click("#tour-end")
    assert_quiet(window)


# Everyone can use it


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("tongue", ["en", "zh"])
def test_every_text_has_contrast(look, tongue, chromium, page):
    window = Live(chromium, page, media={"color-scheme": look})
    if tongue == "zh":
        window.click("#language")
    window.click("#switch-positions")
    window.js("document.querySelector(\"[data-step='block/attention.probs']\").click()")
    window.click("#tour-start")
    window.settled()
    found = window.js("tested.contrasts()")
    assert len(found) > 300
    assert [entry for entry in found if entry[0] < entry[1]] == []


def test_roles_names_and_focus(window):
    """What can be operated has a name and a role, a label says what a field is, and what is drawn alone has words beside it."""
    window.js("document.querySelector(\"[data-step='block/attention.scores']\").click()")
    assert window.js("tested.nameless()") == []
    assert window.js("[...document.querySelectorAll('img')].filter(image => !image.hasAttribute('alt')).length") == 0
    assert window.js("tested.silentCanvases()") == []
    assert window.js("[...document.querySelectorAll('[role=application]')].every(e => e.tabIndex === 0)")
    pressed = window.js("[...document.querySelectorAll('#board button')].map(e => e.getAttribute('aria-pressed'))")
    assert pressed == ["true"] * (6 * 8)
    levels = window.js("[...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    tree = window.chromium.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    wanted = {"button", "checkbox", "combobox", "link", "Canvas"}
    spoken = [node for node in tree if not node["ignored"] and node.get("role", {}).get("value") in wanted]
    assert len(spoken) > 100 and all(node.get("name", {}).get("value") for node in spoken)


def test_in_chinese_nothing_is_left_in_english(window):
    """Of what is said; names of steps, code and digits stay."""
    window.click("#language")
    window.click("#switch-scaled")
    window.js("document.querySelector(\"[data-step='block/mlp.gelu']\").click()")
    window.settled()
    for name in ("try", "steps-block", "steps-before", "steps-after", "attention", "answer"):
        text = window.js(f"$('{name}').innerText")
        words = {"the", "of", "and", "each", "every", "before", "after", "row", "times", "softmaxed", "block", "head", "what"}
        code = window.js("[...document.querySelectorAll('.code, .formula, code, .operation')].map(e => e.innerText)")
        for part in code:
            text = text.replace(part, "")
        assert not words & {word.strip(".,:;()").lower() for word in text.split()}, name
    assert "激活函数" in window.text("try-switches") and "非线性" in window.js("document.querySelector('.step.open').innerText")
    window.click("#tour-start")
    assert "画" in window.text("tour-said")


@pytest.mark.parametrize("tongue", ["en", "zh"])
def test_phone(tongue, chromium, page):
    window = Live(chromium, page, PHONE)
    if tongue == "zh":
        window.click("#language")
    window.draw(DRAWN[7], "touch")
    assert window.probabilities().argmax() == 7
    window.click("#board button[data-key='blocksOff'][data-value='2']")
    window.js("document.querySelector(\"[data-step='block/attention.context']\").click()")
    window.settled()
    assert window.js(CHANGED)
    assert window.js("document.scrollingElement.scrollWidth") <= 360
    window.click("#tour-start")
    box = window.js("(box => [box.left, box.right, box.bottom])($('tour').getBoundingClientRect())")
    assert box[0] >= 0 and box[1] <= 360 and box[2] <= 800
    assert_quiet(window)


def test_one_panel_fits_one_screen(window):
    """With something changed, which is when the panel is tallest."""
    window.click("#switch-positions")
    window.settled()
    window.js("scrollTo(0, 0)")
    cards = "[...document.querySelectorAll('.bench-grid > .card')]"
    assert window.js(f"Math.max(...{cards}.map(card => card.getBoundingClientRect().bottom))") <= DESKTOP[1]
    window.js("$('explorer').scrollIntoView({behavior: 'instant'})")
    assert window.js("document.querySelector('.maps').getBoundingClientRect().bottom") <= DESKTOP[1]


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_another_plain_model_on_an_oblong_grid(size, chromium, tmp_path):
    """Opened with a picture of another size than its own; it has no samples, and classes of long names."""
    config = ViTConfig(**{**PLAIN, "activation": "quick_gelu"})
    picture = tmp_path / "picture.png"
    pictures.draw(30, 50).save(picture)
    labels = ["a label without an end " * 4, "<img src=x onerror=alert(1)>", "x" * 60, "4", "5"]
    weights, target = saved(config, tmp_path / "model.safetensors", labels), tmp_path / "page.html"
    assert main(["explain", str(picture), "-o", str(target), "--weights", str(weights)]) == 0
    window = Live(chromium, target, size)
    model = numpy_vit.load(weights, dtype="float64")
    out = model(model.preprocess(picture))
    assert np.abs(window.probabilities() - softmax(out.logits[0])).max() < 1e-5
    assert window.js("document.scrollingElement.scrollWidth") <= size[0]
    window.draw(DRAWN[1])
    window.choose("activation", "gelu")
    window.point("gets-panel", 7, config.grid, click=True, kind="mouse" if size == DESKTOP else "touch")
    window.settled()
    assert window.js("live.changes.masked") == [7] and window.js(CHANGED)
    assert "(2)" in window.text("undo") and "trained" in window.text("activation")
    found = window.js("tested.originErrors({})")
    assert len(found) > 30 and max(found.values()) < 2e-6
    assert_quiet(window)


def test_the_page_says_how_close_it_is_to_numpy(window):
    said = window.text("agreement")
    assert float(said.rsplit("within ", 1)[1].split(" ")[0]) < 2e-6
