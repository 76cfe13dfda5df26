"""A real Chromium for the tests of pages, marked `browser`.

Needs the extra `browser` and Debian's packages chromium and chromium-driver.
"""

import json
import os
import shutil
import time

import pytest

DESKTOP, PHONE = (1280, 900), (360, 800)


@pytest.fixture(scope="module")
def chromium():
    """A Chromium without a window, and its driver."""
    browser, driver = (
        next(filter(None, map(shutil.which, names)), None)
        for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    )
    if not (browser and driver):
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason='no selenium: pip install -e ".[test,browser]"')
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    for flag in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", *sandbox):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


class Window:
    """A page in a window: what it shows, and what one does to it."""

    def __init__(self, chromium, page, size=DESKTOP, media=()):
        self.chromium, self.page = chromium, page
        width, height = size
        device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        media = {"reduced-motion": "reduce", **dict(media)}  # nothing is waited for; one test looks at the motion itself
        features = [{"name": f"prefers-{name}", "value": value} for name, value in media.items()]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        chromium.get("about:blank")
        self.logs()
        chromium.get(page.as_uri())

    def logs(self):
        """Console messages, and the addresses asked for, since the last look."""
        events = [json.loads(entry["message"])["message"] for entry in self.chromium.get_log("performance")]
        asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return self.chromium.get_log("browser"), [url for url in asked if not url.startswith("data:")]

    def js(self, code, *values):
        """What the code gives, after what is waiting to be drawn has been drawn."""
        drawn = (
            "const done = arguments[arguments.length - 1]; requestAnimationFrame(() => requestAnimationFrame(() => done()));"
        )
        self.chromium.execute_async_script(drawn)
        return self.chromium.execute_script(f"return {code}", *values)

    def wait_for(self, condition, seconds=20):
        """Wait until the code gives true."""
        end = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < end, condition

    def text(self, name):
        return self.js("document.getElementById(arguments[0]).textContent", name)

    def actions(self, kind="mouse"):
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        return ActionChains(self.chromium, duration=0, devices=[PointerInput(kind, kind)])

    def click(self, selector):
        element = self.chromium.find_element("css selector", selector)
        self.chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)  # not under the bar at the top
        element.click()


def assert_quiet(window):
    messages, asked = window.logs()
    assert messages == []
    assert asked == [window.page.as_uri()]
