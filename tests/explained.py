"""Pages of `numpy-vit explain` taken apart, and models saved to be explained, for tests."""

import base64
import json
from html.parser import HTMLParser

import numpy as np

import numpy_vit
from numpy_vit.files.converted import Checkpoint, write_converted
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.pictures.images import Preprocess

VOID = {"meta", "link", "img", "br", "input", "hr"}
PREPROCESS = dict(resize="squash", resample="bilinear", crop=None, scale=1 / 255)


class Page(HTMLParser):
    """The elements of a page, and what its scripts hold. Fails where tags do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.scripts, self.styles = [], [], [], []
        self.texts = {}  # id -> text
        self.feed(text)
        self.close()
        assert not self.open, self.open
        self.facts = json.loads(self.texts["facts"])

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, (tag, self.open[-1:], self.getpos())
        self.open.pop()

    def handle_data(self, data):
        if not self.open:
            assert not data.strip()
            return
        tag, attributes = self.open[-1]
        if "id" in attributes:
            self.texts[attributes["id"]] = self.texts.get(attributes["id"], "") + data
        if tag == "script" and attributes.get("type") is None:
            self.scripts.append(data)
        if tag == "style":
            self.styles.append(data)

    def weights(self, name, rows):
        """(rows, N) weights, and for each row how far off they may be."""
        raw = base64.b64decode(self.texts[name], validate=True)
        tokens, size = self.facts["sizes"]["N"], self.facts["attention"]["bytes"]
        assert len(raw) == rows * (4 + tokens * size)
        scales = np.frombuffer(raw[: 4 * rows], "<f4").astype(float)
        codes = np.frombuffer(raw[4 * rows :], f"<u{size}").reshape(rows, tokens)
        return codes * scales[:, None], scales / 2


def saved(config, path, labels=None):
    """A file of a model with seeded weights; attention is made less even than theirs would be."""
    made = numpy_vit.random_model(config)
    tensors = {
        name: tensor_of(np.ascontiguousarray(array * 6 if "query" in name or "key" in name else array))
        for name, array in made.tensors.items()
    }
    channels = config.channels
    preprocess = Preprocess(channels=channels, size=config.image, mean=(0.5,) * channels, std=(0.25,) * channels, **PREPROCESS)
    write_converted(path, Checkpoint(config, tensors, preprocess, labels, {"family": "random"}))
    return path
