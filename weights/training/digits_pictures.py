"""Pictures of handwritten digits for the shipped model: what is in them and how they are made.

A picture is 64 x 64 RGB. One digit of scikit-learn's `load_digits` (8 x 8, written by hand; the test part of
"Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
CC BY 4.0) is enlarged to 32..48 pixels, tilted a little, coloured, and put anywhere on a textured background.
The place and the size vary so that attention has something to find.

Every picture is a function of (source digit, seed) alone: NumPy's PCG64 and Pillow draw it.
Held-out pictures come from source digits that no training picture shows.

    python weights/training/digits_pictures.py FOLDER        # the held-out pictures, as FOLDER/<digit>/<source>-<placement>.png

Needs scikit-learn (extra `peers`).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64  # pixels, both ways
SMALLEST, LARGEST = 32, 48  # the digit's box, pixels
PLACEMENTS = 3  # pictures per held-out source digit
SPLIT_SEED = 20260101


def source_digits():
    """scikit-learn's 1,797 digits: images (1797, 8, 8) in 0..1, labels (1797,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images / 16.0, data.target


def split(labels):
    """Indices of the training and the held-out source digits: one in five of each class is held out."""
    rng = np.random.default_rng(SPLIT_SEED)
    held_out = []
    for digit in range(10):
        indices = rng.permutation(np.flatnonzero(labels == digit))
        held_out.extend(indices[: len(indices) // 5])
    held_out = np.sort(np.array(held_out))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def texture(rng):
    """A textured background: two colours mixed by cloudy noise of three grain sizes and faint stripes."""
    mix = np.zeros((SIZE, SIZE))
    for cells, strength in ((3, 0.5), (9, 0.3), (27, 0.2)):
        noise = Image.fromarray(rng.random((cells, cells), dtype=np.float32) - np.float32(0.5))
        mix += strength * np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    angle, wave = rng.uniform(0, np.pi), rng.uniform(5, 16)
    y, x = np.mgrid[:SIZE, :SIZE]
    mix += rng.uniform(0, 0.15) * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wave)
    base = rng.uniform(0.15, 0.85, 3)
    other = np.clip(base + rng.uniform(-0.35, 0.35, 3), 0, 1)
    return base + (other - base) * (mix[..., None] + 0.5) + rng.normal(0, 0.02, (SIZE, SIZE, 3))


def ink(background, rng):
    """A colour that stands out from the background by at least 0.4 in brightness."""
    weights = np.array([0.299, 0.587, 0.114])
    brightness = float((background @ weights).mean())
    while True:
        colour = rng.uniform(0, 1, 3)
        if abs(float(colour @ weights) - brightness) > 0.4:
            return colour


def picture(digit, seed, sides=(SMALLEST, LARGEST)):
    """One picture and where its digit is.

    digit (8, 8) in 0..1 -> (SIZE, SIZE, 3) uint8, box (top, left, bottom, right) in pixels.
    """
    rng = np.random.default_rng(seed)
    background = texture(rng)
    side = int(rng.integers(sides[0], sides[1] + 1))
    top, left = (int(v) for v in rng.integers(0, SIZE - side + 1, 2))
    # Two empty source pixels around the digit, so that a tilted stroke is not cut off at the border.
    padded = Image.fromarray(np.pad(digit, 2).astype(np.float32))
    large = padded.resize((side * 12 // 8, side * 12 // 8), Image.Resampling.BICUBIC)
    large = large.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR)
    edge = (large.width - side) // 2
    stroke = np.zeros((SIZE, SIZE))
    stroke[top : top + side, left : left + side] = np.asarray(large)[edge : edge + side, edge : edge + side]
    stroke = np.clip(1.4 * stroke - 0.15, 0, 1)[..., None]
    image = background * (1 - stroke) + ink(background, rng) * stroke
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), (top, left, top + side, left + side)


def held_out_pictures():
    """Yields (source index, placement, label, picture, box) of all held-out pictures, in a fixed order."""
    images, labels = source_digits()
    for index in split(labels)[1]:
        for placement in range(PLACEMENTS):
            pixels, box = picture(images[index], [int(index), placement, 1])
            yield int(index), placement, int(labels[index]), pixels, box


def main(folder):
    count = 0
    for index, placement, label, pixels, _ in held_out_pictures():
        path = Path(folder, str(label), f"{index:04d}-{placement}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        count += 1
    print(f"{count} held-out pictures in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
