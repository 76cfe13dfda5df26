"""Position embeddings at another image size than they were learned for: the rules, by who uses them.

A rule resizes the grid of patch positions (rows, columns, D) like a picture. The class token has no place in the picture
and keeps its embedding.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .dispatch import dispatched

Array = Any


@dispatched
def resize_positions(positions: Array, old: tuple[int, int], new: tuple[int, int], rule: str) -> Array:
    """positions (1 + old rows * old columns, D) -> (1 + new rows * new columns, D), in the same dtype.

    The arithmetic is float64 throughout: this is done once per picture size and costs nothing.
    """
    class_position, grid = positions[:1], positions[1:].reshape(*old, -1)
    resized = RULES[rule](grid.astype(np.float64), new).astype(positions.dtype)
    return np.concatenate([class_position, resized.reshape(new[0] * new[1], -1)])


def bicubic(grid: Array, new: tuple[int, int]) -> Array:
    """Bicubic, a = -0.75, half-pixel centres, no antialiasing: transformers (ViT, DeiT, CLIP, SigLIP, BEiT, MAE,
    DINOv2), `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`.

    grid (rows, columns, D), new (rows, columns) -> (new rows, new columns, D).
    """
    rows, columns, _ = grid.shape
    down = cubic_weights(rows, new[0]) @ grid.reshape(rows, -1)  # (new rows, columns * D)
    return cubic_weights(columns, new[1]) @ down.reshape(new[0], columns, -1)  # (new rows, new columns, D)


def cubic_weights(old: int, new: int, a: float = -0.75) -> Array:
    """How much each of `old` points counts for each of `new` points: (new, old), rows sum to 1.

    Keys' cubic convolution (1981) with parameter `a`; beyond the border the border point is repeated.
    """
    source = (np.arange(new) + 0.5) * (old / new) - 0.5  # where each new point lies among the old ones
    below = np.floor(source)
    weights = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        distance = abs(source - (below + offset))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1  # distance <= 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a  # 1 < distance < 2
        neighbour = np.clip(below + offset, 0, old - 1).astype(int)
        np.add.at(weights, (np.arange(new), neighbour), np.where(distance <= 1, near, far))
    return weights


RULES: dict[str, Callable[[Array, tuple[int, int]], Array]] = {"bicubic": bicubic}
