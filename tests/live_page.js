// What tests/test_explain_live_browser.py asks of a page that computes, beside its own functions.

window.tested = {
  // All samples and the drawings (lines of points in a square of 8 x 8), as the model sees them -> their number
  async takeAll(drawn) {
    this.taken = [];
    for (const button of [...$("samples").children].slice(1)) await this.take(() => button.click());
    for (let n = 0; n < drawn.length; n++) await this.take(() => {
      if (n === drawn.length / 2) $("pad-ink").click();
      clearPad();
      for (const line of drawn[n]) {
        pad.pen = null;
        for (const [x, y] of line) stroke(x / 8 * $("pad").width, y / 8 * $("pad").height);
      }
    });
    return this.taken.length;
  },
  async take(act) {
    const before = live.rgba;
    act();
    while (live.rgba === before || pad.waiting || computing) await new Promise(requestAnimationFrame);
    this.taken.push(Uint8ClampedArray.from(live.rgba.data));
  },

  // Every step of a run of all of them with something changed, one batch, saved as a file
  saveAll(changes, file) {
    const together = {};
    this.taken.forEach((data, n) => {
      const pixels = normalized({...live.rgba, data}, LIVE.preprocess);
      const steps = forward(pixels, live.w, LIVE.config, {...NO_CHANGES, ...changes});
      for (const [name, {shape, data}] of Object.entries(steps)) {
        together[name] ??= array([this.taken.length, ...shape.slice(1)]);
        together[name].data.set(data, n * data.length);
      }
    });
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([safetensors(together)]));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 5000);
  },

  // By step, the largest difference between a number and the one computed again from what the card lights up
  originErrors(changes) {
    const at = {w: live.w, config: LIVE.config, changes: {...NO_CHANGES, ...changes}, head: LIVE.config.heads - 2};
    at.steps = forward(normalized(live.rgba, LIVE.preprocess), at.w, at.config, at.changes);
    const worst = {};
    for (const name of Object.keys(at.steps).filter(name => name !== "pixels")) {
      const [, number, local] = name.match(/^(?:blocks\.(\d+)\.)?(.*)$/), matrix = stepMatrix(at.steps, name, at.head);
      const high = matrix.data.reduce((most, x) => Math.max(most, Math.abs(x)), 0) || 1;
      worst[name] = 0;
      for (let n = 0; n < 60; n++) {
        const i = n * 7 % matrix.rows, j = n * 31 % matrix.columns, own = {...at, block: number === undefined ? null : Number(number)};
        const again = computedAgain(originOf(local, i, j, own), own, j);
        worst[name] = Math.max(worst[name], Math.abs(again - matrix.data[i * matrix.columns + j]) / high);
      }
    }
    return worst;
  },

  // [contrast, contrast wanted by WCAG 2, text] of every text that is shown
  contrasts() {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = colour => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
      return [r, g, b, a / 255];
    };
    const ground = element => {
      const own = rgba(getComputedStyle(element).backgroundColor);
      if (own[3] === 1 || !element.parentElement) return own;
      const below = ground(element.parentElement);
      return [...[0, 1, 2].map(n => own[n] * own[3] + below[n] * (1 - own[3])), 1];
    };
    const linear = c => c / 255 <= .03928 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
    const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
      const unseen = "script, style, noscript, template, option, :disabled";
      if (!text || !element.checkVisibility() || element.closest(unseen)) continue;
      const style = getComputedStyle(element), size = parseFloat(style.fontSize);
      const large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
      const [high, low] = [light(rgba(style.color)), light(ground(element))].sort((x, y) => y - x);
      found.push([(high + .05) / (low + .05), large ? 3 : 4.5, text.slice(0, 60)]);
    }
    return found;
  },

  // What can be operated and has no name
  nameless() {
    const operated = [...document.querySelectorAll("button, a[href], input, select, [tabindex], [role=application]")];
    const named = element => element.getAttribute("aria-label")
      || $(element.getAttribute("aria-labelledby"))?.textContent
      || element.innerText?.trim() || element.querySelector("img[alt]:not([alt=''])")
      || [...element.labels ?? []].some(label => label.innerText.trim());
    return operated.filter(element => element.checkVisibility() && !named(element)).map(element => element.outerHTML.slice(0, 100));
  },

  // Canvases that nothing is said of
  silentCanvases() {
    const spoken = "[aria-hidden=true], [role=application]";
    return [...document.querySelectorAll("canvas")].filter(canvas => canvas.checkVisibility() && !canvas.closest(spoken)).map(canvas => canvas.outerHTML);
  },
};
