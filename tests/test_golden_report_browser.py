"""The page of `golden check --html` in a real Chromium: `pytest -m browser`."""

import numpy as np
import pytest
from browsing import DESKTOP, Window, assert_quiet
from test_golden import SAMPLE, dump_of, record

from numpy_vit.cli import main

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
PHONE = (390, 844)
NASTY = "<img src=x onerror=alert(1)>"
SHOWN = "[...document.querySelectorAll('.step:not([hidden]) .name')].map(e => e.textContent)"
VISIBLE = "document.body.innerText"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert record(folder / "digits", "--weights", "digits", "--image", SAMPLE) == 0
    return folder


def page_of(folder, name, steps, *options):
    np.savez(folder / f"{name}.npz", **steps)
    target = folder / f"{name}.html"
    status = main(
        ["golden", "check", str(folder / "digits"), str(folder / f"{name}.npz"), "--brief", "--html", str(target), *options]
    )
    assert status in (0, 1)
    return target


@pytest.fixture(scope="module")
def wrong(folder):
    """A port with two mistakes, NaN in one step, one step missing, and an array of a nasty name."""
    steps = dump_of(folder / "digits", folder / "d.npz", "query bias missing", "mean pooling")
    steps["blocks.3.attention.probs"][0, 2, 5:9] = np.nan
    del steps["blocks.1.norm1"]
    return page_of(folder, "wrong", {**steps, NASTY: np.zeros(3, np.float32)})


@pytest.fixture(scope="module")
def right(folder):
    return page_of(folder, "right", dump_of(folder / "digits", folder / "d.npz"), "--lang", "zh")


def test_it_opens_without_a_message_and_asks_for_nothing(chromium, wrong, right):
    for page in (wrong, right):
        window = Window(chromium, page)
        for n in range(0, 91, 9):
            window.js("openStep(arguments[0])", n)
        window.click("#look")
        window.click("#language")
        assert_quiet(window)
        assert "`" not in window.js(VISIBLE) and "undefined" not in window.js(VISIBLE) and "{" not in window.js(VISIBLE)


def test_what_it_says(chromium, wrong):
    window = Window(chromium, wrong)
    said = window.js(VISIBLE)
    for text in (
        "FAILED", "90 of 91 steps compared", "blocks.0.attention.query: wrong by itself",
        "query has no bias [no-bias-attention.query]",
        "the mean of the patch tokens is taken instead of the class token", "NaN or infinite numbers", "what differs: ", NASTY,
    ):  # fmt: skip
        assert text in said, text
    assert window.js("document.images.length") == 0  # the nasty name is text
    window.click("#findings button")
    assert window.js("document.querySelector('.step[open] .name').textContent") == "blocks.0.attention.query"


def test_the_filter(chromium, wrong):
    window = Window(chromium, wrong)
    verdicts = window.js("STEPS.map(step => [step.name, step.verdict])")
    assert window.js(SHOWN) == [name for name, _ in verdicts]
    wanted = {
        "wrong": {"wrong"},
        "inherited": {"inherited"},
        "ok": {"ok"},
        "missing": {"missing"},
        "bad": {"wrong", "inherited"},
    }
    for key, verdict in wanted.items():
        window.click(f"[data-filter={key}]")
        expected = [name for name, v in verdicts if v in verdict]
        assert window.js(SHOWN) == expected and 0 < len(expected) < len(verdicts)
        assert window.js("[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.filter)") == [key]
        assert window.text("shown") == f"{len(expected)} of 91 steps shown"
    window.chromium.find_element("id", "search").send_keys("blocks.3.attention.")
    assert window.js(SHOWN) == [n for n, v in verdicts if v in wanted["bad"] and n.startswith("blocks.3.attention.")]
    window.click("#language")  # the choice stays
    assert len(window.js(SHOWN)) < 9 and "91 步" in window.text("shown")
    window.js("document.querySelector('#plot button').click()")  # a step that is not shown: the filter gives way
    assert len(window.js(SHOWN)) == 91 and window.js("document.activeElement.closest('.step').id") == "step-0"
    assert_quiet(window)


def test_heat_maps_and_their_scale(chromium, wrong):
    window = Window(chromium, wrong)
    n = window.js("STEPS.findIndex(step => step.name === 'blocks.3.attention.probs')")
    window.js("openStep(arguments[0])", n)
    pixel = (
        "(() => {const c = document.querySelectorAll('.step[open] .panels canvas')[arguments[0]],"
        " copy = document.createElement('canvas'), area = STEPS[arguments[1]].map;"
        " [copy.width, copy.height] = [c.width, c.height]; const d = copy.getContext('2d'); d.drawImage(c, 0, 0);"
        " const at = (arguments[2] * c.width + 3);"
        " return [[...d.getImageData(3, arguments[2], 1, 1).data].slice(0, 3),"
        " decode(area)[arguments[0] * c.width * c.height + at]]})()"
    )
    for look in ("light", "dark"):
        assert window.js("document.documentElement.dataset.look") == look
        colours = {}
        for panel, row in ((2, 3), (2, 20), (0, 10), (4, 0)):
            colour, code = window.js(pixel, panel, n, row)
            colours[code] = tuple(colour)
            assert colour == window.js("palette()[arguments[0]]", code)
        assert colours[255][0] < 50 < min(colours[255][1:])  # the NaN, in head 2, are of a hue that no number has
        assert len(set(colours.values())) == len(colours) > 1
        beyond = window.js("[4, 5, 6].map(decade => colourOf(decade).join())")
        assert len(set(beyond)) == 3  # what is past 10,000 floors is told apart
        window.click("#look")
    window.click(".step[open] .panels ~ button")  # least and largest number of this step at the ends of the scale
    colour, code = window.js(pixel, 0, n, 10)
    assert colour == window.js("palette(rangeOf(STEPS[arguments[0]].map))[arguments[1]]", n, code) != list(colours[code])
    assert "Colours: " in window.js(VISIBLE)
    canvas = window.chromium.find_element("css selector", ".step[open] .panels canvas")
    window.actions().move_to_element(canvas).perform()
    readout = window.js("document.querySelector('.readout').textContent")
    assert readout.startswith("head 0, token ") and readout.endswith(" noise floors")
    ticks = window.js("[...document.querySelectorAll('#scale span')].map(e => e.textContent)")
    assert ticks[0] == "at most 1" and "100" in ticks and len(ticks) >= 4


def test_languages_and_looks(chromium, wrong, right):
    window = Window(chromium, wrong)
    assert "Step by step" in window.js(VISIBLE) and "移植版本" not in window.js(VISIBLE)
    english = window.js("[...document.querySelectorAll('[aria-label]:not(.plot button)')].map(e => e.ariaLabel)")
    window.click("#language")
    shown = window.js(VISIBLE)
    assert "query 没有偏置" in shown and "自身有误" in shown and "Step by step" not in shown and "noise floor" not in shown
    assert window.js("document.documentElement.lang") == "zh-CN"
    chinese = window.js("[...document.querySelectorAll('[aria-label]:not(.plot button)')].map(e => e.ariaLabel)")
    assert len(english) >= 5 and not set(english) & set(chinese)
    assert "通过:误差在预算之内" in Window(chromium, right).js(VISIBLE)
    background = "getComputedStyle(document.body).backgroundColor"
    light = Window(chromium, wrong, media={"color-scheme": "light"}).js(background)
    dark = Window(chromium, wrong, media={"color-scheme": "dark"})
    assert dark.js(background) != light
    dark.click("#look")
    assert dark.js(background) == light


@pytest.mark.parametrize("tongue", ["en", "zh"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_is_off_the_edge(size, tongue, chromium, wrong):
    window = Window(chromium, wrong, size)
    if tongue == "zh":
        window.click("#language")
    window.js("document.querySelectorAll('.step').forEach(step => { step.open = true; })")
    assert window.js("document.querySelectorAll('.step .detail').length") == 91
    assert window.js("document.scrollingElement.scrollWidth") <= size[0]
    beyond = window.js(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.glance') && e.offsetParent"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 90))"
    )
    assert beyond == []
    shown = "(e => { const box = e.getBoundingClientRect(); return box.width > 60 && box.left >= 0; })"
    for part in ("name", "verdict", "run", "own", "thumb canvas"):  # every column, also on a phone
        assert window.js(f"{shown}(document.querySelector('.step .{part}'))"), part
    assert_quiet(window)


def test_the_focus_can_be_seen(chromium, wrong):
    from selenium.webdriver.common.keys import Keys

    window = Window(chromium, wrong)
    reached = set()
    for _ in range(45):
        window.actions().send_keys(Keys.TAB).perform()
        name, tag, outline = window.js(
            "[document.activeElement.id, document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached |= {name, tag}
        if tag != "BODY":
            assert outline not in ("none", ""), (name, tag)
    assert {"language", "look", "search", "SUMMARY"} <= reached
