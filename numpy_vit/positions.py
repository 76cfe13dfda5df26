"""Position embeddings at another image size than they were learned for: the rules, by who uses them.

A rule resizes the grid of patch positions (rows, columns, D) like a picture. The class token has no place in the picture
and keeps its embedding. BEiT's tables of relative positions are resized likewise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .ops import operation
from .rotary import cos_sin

Array = Any


@operation
def resize_positions(positions: Array, old: tuple[int, int], new: tuple[int, int], rule: str) -> Array:
    """positions (S + old rows * old columns, D) -> (S + new rows * new columns, D), in the same dtype.

    The first S positions, the class token's mostly, stay as they are. The arithmetic is float64 throughout: this is done
    once per picture size and costs nothing.
    """
    special = len(positions) - old[0] * old[1]
    special_positions, grid = positions[:special], positions[special:].reshape(*old, -1)
    rows, columns = axis_weights(old, new, rule)
    down = rows @ grid.astype(np.float64).reshape(old[0], -1)  # (new rows, columns * D)
    resized = columns @ down.reshape(new[0], old[1], -1)  # (new rows, new columns, D)
    return np.concatenate([special_positions, resized.reshape(new[0] * new[1], -1).astype(positions.dtype)])


def axis_weights(old: tuple[int, int], new: tuple[int, int], rule: str) -> tuple[Array, Array]:
    """How much each old row counts for each new one, (new rows, old rows); and likewise for columns."""
    whole = (max(new), max(new)) if rule in CROPPED else new
    rows, columns = (RULES[rule](*sizes)[:wanted] for *sizes, wanted in zip(old, whole, new, strict=True))
    return rows, columns


def with_rows_of_zeros(positions: Array, before: int, count: int) -> Array:
    """Positions for tokens that have none: `count` rows of zeros before row `before`. (n, D) -> (n + count, D)."""
    zeros = np.broadcast_to(np.zeros((), positions.dtype), (count, positions.shape[1]))
    return np.concatenate([positions[:before], zeros, positions[before:]])


def axis_positions(rows: Array, columns: Array) -> Array:
    """Positions of patches that have one for their row and one for their column (Gemma 4). (h, D), (w, D) -> (h*w, D)."""
    return (rows[:, None] + columns).reshape(len(rows) * len(columns), -1)


@operation
def sincos_positions(frequencies: Array, grid: tuple[int, int]) -> Array:
    """Positions that nobody learned: sines and cosines of a patch's column, then of its row. (D/4,), (h, w) -> (h*w, D).

    "Attention Is All You Need" (arXiv 1706.03762), section 3.5, for two axes; in this order in MAE and AIMv2.
    """
    cos, sin = cos_sin(tuple(map(float, range(max(grid)))), tuple(frequencies.tolist()))
    places = np.concatenate([sin, cos], axis=-1)  # (rows or columns, D/2)
    shape = *grid, places.shape[-1]
    columns, rows = np.broadcast_to(places[: grid[1]], shape), np.broadcast_to(places[: grid[0], None], shape)
    both = np.concatenate([columns, rows], axis=-1)
    return both.reshape(grid[0] * grid[1], -1).astype(frequencies.dtype)


# Relative positions


def distance_numbers(grid: tuple[int, int]) -> Array:
    """Which row of BEiT's table holds the number for each pair of tokens: (N, N), the class token first.

    One row for every distance (rows, columns) between two patches, from one corner of the grid to the other, and three for
    the class token: to a patch, from a patch, to itself. microsoft/unilm, beit/modeling_finetune.py, Attention.
    """
    rows, columns = grid
    row, column = (axis.reshape(-1) for axis in np.indices(grid))
    down, right = row[:, None] - row + rows - 1, column[:, None] - column + columns - 1
    distances = (2 * rows - 1) * (2 * columns - 1)
    numbers = np.empty((rows * columns + 1,) * 2, np.intp)
    numbers[1:, 1:] = down * (2 * columns - 1) + right
    numbers[0], numbers[:, 0], numbers[0, 0] = distances, distances + 1, distances + 2
    return numbers


def relative_bias(table: Array, grid: tuple[int, int]) -> Array:
    """What is added to the scores. table (distances, H) -> (H, N, N)."""
    return table[distance_numbers(grid)].transpose(2, 0, 1)


def resize_distances(table: Array, old: tuple[int, int], new: tuple[int, int], rule: str) -> Array:
    """BEiT's table for another grid. (old distances, H) -> (new distances, H); the class token's three rows stay."""
    (r, c), (new_r, new_c) = old, new
    resized = resize_positions(table[:-3], (2 * r - 1, 2 * c - 1), (2 * new_r - 1, 2 * new_c - 1), rule)
    return np.concatenate([resized, table[-3:]])


@operation
def resize_axis(table: Array, size: int) -> Array:
    """A table of distances along one axis, (2*old - 1, K), for `size` patches: (2*size - 1, K), linearly between its rows."""
    if len(table) == 2 * size - 1:
        return table
    return (RULES["bilinear"](len(table), 2 * size - 1) @ table.astype(np.float64)).astype(table.dtype)


def axis_scores(query: Array, table: Array, grid: tuple[int, int], axis: int) -> Array:
    """Every query times what is learned for its distance to each row (axis 0) or column (1).

    query (B, H, rows * columns, K), table (2*n - 1, K) for the axis of n patches -> (B, H, rows * columns, n). MViTv2 (arXiv
    2112.01526), "decomposed" relative positions; ViTDet (arXiv 2203.16527) has them without pooling.
    """
    B, H, N, K = query.shape
    place = np.arange(grid[axis])
    learned = table[place[:, None] - place + grid[axis] - 1].swapaxes(1, 2)  # (n of the query, K, n of the key)
    cells = query.reshape(B, H, *grid, K)
    if axis == 0:
        return (cells @ learned).reshape(B, H, N, -1)
    return (cells.swapaxes(2, 3) @ learned).swapaxes(2, 3).reshape(B, H, N, -1)


# A kernel says how much a point counts by its distance, and how far it reaches.
Kernel = Callable[[Array], Array]


def linear(distance: Array) -> Array:
    """A triangle, reaching 1."""
    return np.maximum(1 - distance, 0)


def cubic(a: float) -> Kernel:
    """Keys' cubic convolution (1981), reaching 2: PIL and antialiasing torch have a = -0.5, plain torch a = -0.75."""

    def kernel(distance: Array) -> Array:
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1  # distance <= 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a  # 1 < distance < 2
        return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))

    return kernel


def interpolation(kernel: Kernel, source: Array, old: int) -> Array:
    """How much each of `old` points counts at each of the places `source` among them: (new, old), rows sum to 1.

    Beyond the border the border point is repeated.
    """
    below = np.floor(source)
    weights = np.zeros((len(source), old))
    for offset in (-1, 0, 1, 2):
        neighbour = np.clip(below + offset, 0, old - 1).astype(int)
        np.add.at(weights, (np.arange(len(source)), neighbour), kernel(abs(source - (below + offset))))
    return weights


def half_pixel(old: int, new: int) -> Array:
    """Where each new point lies among the old ones: both grids cover the same area (align_corners=False)."""
    return (np.arange(new) + 0.5) * (old / new) - 0.5


def half_pixel_dino(old: int, new: int) -> Array:
    """DINO adds 0.1 to the new size before it computes the scale, against rounding; so the grid is a little off."""
    return (np.arange(new) + 0.5) * (old / (new + 0.1)) - 0.5


def corners(old: int, new: int) -> Array:
    """The corner points coincide (align_corners=True)."""
    return np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)


def geometric(old: int, new: int) -> Array:
    """Linear between points that lie the farther apart the farther from the middle: (new, old), rows sum to 1.

    BEiT's tables of distances: near distances keep their places, and q, the ratio of the steps, is such that the outermost
    points meet. timm, layers/pos_embed_rel.py, resize_rel_pos_bias_table, after microsoft/unilm, beit/run_class_finetuning.py.
    """
    if old == 1:
        return np.ones((new, 1))
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q ** (old // 2)) / (1 - q) > new // 2 else (q, high)
    steps = np.concatenate([[1.0], np.cumsum(q ** np.arange(1, old // 2)) + 1])[: old // 2]
    points = np.concatenate([-steps[::-1], [0], steps])
    wanted = np.arange(new) - float(new // 2)
    left = np.clip(np.searchsorted(points, wanted, side="right") - 1, 0, len(points) - 2)
    share = np.clip((wanted - points[left]) / (points[left + 1] - points[left]), 0, 1)  # beyond the border the border counts
    weights = np.zeros((new, old))
    weights[np.arange(new), left], weights[np.arange(new), left + 1] = 1 - share, share
    return weights


def nearest(old: int, new: int) -> Array:
    """Each new point takes the old one in whose place it begins: (new, old), a 1 in every row.

    That is number i * old // new, but where rounding puts a place just before or behind an edge: transformers counts both in
    float32 (models/idefics2, Idefics2VisionEmbeddings), and of 70 old points 25 new ones are placed so.
    """
    edges = (1 / old + np.arange(old - 1) * (1 / old)).astype(np.float32)
    places = np.arange(new, dtype=np.float32) * (np.float32(1) / np.float32(new))
    weights = np.zeros((new, old))
    weights[np.arange(new), np.searchsorted(edges, np.minimum(places, np.float32(1 - 1e-6)), side="right")] = 1
    return weights


def antialiased(kernel: Kernel, reach: int, old: int, new: int) -> Array:
    """As `interpolation`, with the kernel widened where points get fewer; beyond the border nothing counts: (new, old)."""
    scale = old / new
    wide = max(scale, 1.0)
    centre = (np.arange(new)[:, None] + 0.5) * scale
    point = np.arange(old)
    inside = (point >= np.floor(centre - reach * wide + 0.5)) & (point < np.floor(centre + reach * wide + 0.5))
    weights = np.where(inside, kernel(abs(point - centre + 0.5) / wide), 0.0)
    return weights / weights.cumsum(axis=1)[:, -1:]  # cumsum adds in one order on every machine


RULES: dict[str, Callable[[int, int], Array]] = {
    # transformers (ViT, DeiT, CLIP, SigLIP, BEiT, MAE, DINOv2), DeiT, MAE: interpolate(mode="bicubic")
    "bicubic": lambda old, new: interpolation(cubic(-0.75), half_pixel(old, new), old),
    # timm; DINOv2 with registers: interpolate(mode="bicubic", antialias=True)
    "bicubic_antialias": lambda old, new: antialiased(cubic(-0.5), 2, old, new),
    # DINO, DINOv2 without registers (torch hub): interpolate(mode="bicubic", scale_factor=(new + 0.1) / old)
    "bicubic_dino": lambda old, new: interpolation(cubic(-0.75), half_pixel_dino(old, new), old),
    # torchvision's interpolate_embeddings: interpolate(mode="bicubic", align_corners=True)
    "bicubic_corners": lambda old, new: interpolation(cubic(-0.75), corners(old, new), old),
    # timm, when it loads Google's .npz files: interpolate(mode="bilinear")
    "bilinear": lambda old, new: interpolation(linear, half_pixel(old, new), old),
    # Google's vision_transformer and big_vision: scipy.ndimage.zoom(order=1)
    "bilinear_corners": lambda old, new: interpolation(linear, corners(old, new), old),
    # timm's BEiT: distances from the middle
    "linear_geometric": geometric,
    # Idefics 2 and 3, SmolVLM: buckets
    "nearest": nearest,
    # SigLIP 2: interpolate(mode="bilinear", antialias=True)
    "bilinear_antialias": lambda old, new: antialiased(linear, 1, old, new),
    # RADIO: interpolate(mode="bilinear") to a square, and cropped
    "bilinear_cropped": lambda old, new: interpolation(linear, half_pixel(old, new), old),
}
"""Rule -> the weights of `old` points for `new` points along one axis: (new, old), rows sum to 1."""
CROPPED = ("bilinear_cropped",)
"""Rules that make a square as large as the longer side, of which the left and upper part counts."""
