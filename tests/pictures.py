"""Pictures drawn by formula, and the sizes and policies they are tested with."""

import numpy as np
from PIL import Image

SHAPES = ((61, 83), (90, 37), (24, 40))  # height, width
POSITION_SIZES = (
    ((14, 14), (24, 24)),
    ((14, 14), (9, 9)),
    ((7, 7), (7, 5)),
    ((3, 5), (8, 4)),
    ((5, 4), (1, 9)),
    ((1, 1), (3, 2)),
)
POLICIES = {
    "squash-bilinear": {"size": {"height": 24, "width": 40}, "resample": 2},
    "squash-bicubic": {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.485, 0.456, 0.406]},
    "edge-crop": {
        "size": {"shortest_edge": 36},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 31, "width": 32},
        "image_std": [0.229, 0.224, 0.225],
    },
    "crop-larger": {
        "size": {"shortest_edge": 20},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": 33, "width": 30},
    },
}


def draw(height, width):
    """An RGB picture with smooth colour, a sharp edge and fine stripes."""
    y, x = np.mgrid[:height, :width]
    red = 255 * x // max(width - 1, 1)
    green = np.where((x - y) % 7 < 3, 40, 210)
    blue = (127 + 120 * np.sin(0.3 * y + 0.05 * x * y / 9)).astype(int)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))
