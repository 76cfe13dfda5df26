"""Draws digits.png, the picture on top of the README, from a run of the shipped model.

python docs/images/make_digits.py
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import numpy_vit
from numpy_vit.files.converted import shipped
from numpy_vit.ops import softmax
from numpy_vit.pictures import draw

SIDE = 256
DIGIT = "3/0045-0.png"


def answer(labels, probs):
    """The likeliest classes as bars."""
    sheet = Image.new("RGB", (SIDE, SIDE), draw.PAPER)
    pen, letters = ImageDraw.Draw(sheet), draw.font(17)
    for line, n in enumerate(np.argsort(-probs)[:5]):
        y = 14 + line * 48
        pen.text((8, y), labels[n], fill=draw.INK, font=letters)
        pen.rectangle((32, y, 32 + max(2, round(150 * probs[n])), y + 22), fill=(31, 75, 143))
        pen.text((38 + round(150 * probs[n]), y), f"{100 * probs[n]:.1f} %", fill=draw.INK, font=letters)
    return sheet


def main():
    model = numpy_vit.load("digits")
    config, path = model.config, shipped("samples") / DIGIT
    image = Image.open(path).convert("RGB")
    out = model(model.preprocess(path), record="blocks.*.attention.probs")
    maps = np.stack([out.steps[f"blocks.{n}.attention.probs"][0] for n in range(config.depth)])
    grid = draw.patch_grid(image, config)
    patches = grid.crop((0, grid.height - grid.width, grid.width, grid.height)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    attention = draw.attention_overlay(image, draw.rollout(maps)[0], config).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    panels = {
        f"{config.image[0]} x {config.image[1]} pixels": image.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
        f"{config.patches} patches, {config.tokens} tokens": patches,
        "where the class token looks": attention,
        f"the answer: {model.labels[out.logits[0].argmax()]}": answer(model.labels, softmax(out.logits)[0]),
    }
    sheet = draw.beside([draw.labelled(panel, title) for title, panel in panels.items()])
    sheet.quantize(128).save(Path(__file__).with_name("digits.png"), optimize=True)


if __name__ == "__main__":
    main()
