"""Attention in windows: the grid of patches is cut up, every window attends to itself, and the grid is put together again.

As in Swin (arXiv 2103.14030), without its shift: Qwen2.5-VL in all blocks but a few. Windows are cut from the top left. What
is left over at the right and bottom edge makes windows that are smaller, so that there are up to four kinds of them; those of
one kind go through attention together, as if they were pictures of a batch. No N x N mask, and no N x N scores. SAM and ViTDet
fill those at the edges up with tokens of zeros instead, which are queried like others and thrown away.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from . import model
from .config import ViTConfig
from .groups import Windows
from .steps import Array, Step


class Part(NamedTuple):
    """A part of the grid that is cut into windows of one size."""

    name: str  # the steps in these windows have it before their names
    rows: slice
    columns: slice
    window: tuple[int, int]  # patches down and across


def parts(grid: tuple[int, int], side: int) -> list[list[Part]]:
    """The parts of a grid (rows, columns), as they lie: whole windows, and beside and below them what is left over."""
    names = {(True, True): "windows", (True, False): "right_windows", (False, True): "bottom_windows"}
    return [
        [
            Part(names.get((down == side, across == side), "corner_window"), rows, columns, (down, across))
            for columns, across in pieces(grid[1], side)
        ]
        for rows, down in pieces(grid[0], side)
    ]


def pieces(size: int, side: int) -> list[tuple[slice, int]]:
    """What of one axis is cut into whole windows, and the rest: (where, the size of its windows) each."""
    whole = size // side * side
    return [(part, n) for part, n in ((slice(0, whole), side), (slice(whole, size), size - whole)) if part.start < part.stop]


def in_windows(step: Step, grid: tuple[int, int], windows: Windows, fillers: Sequence[Array]) -> Step:
    """The same contract, in which queries meet only the keys of their own window.

    fillers   query, key and value of a token of zeros, (H, 1, K) each: what padded windows are filled up with
    """
    whole = padded(grid, windows)

    def attend(query: Array, key: Array, value: Array, inner: Step) -> Array:
        filled = [filled_up(x, grid, whole, filler) for x, filler in zip((query, key, value), fillers, strict=True)]

        def of_part(part: Part) -> Array:
            cut = [windows_of(x, whole, part) for x in filled]
            sizes = {**step.sizes, "B": cut[0].shape[0], "N": cut[0].shape[2]}
            below = inner.under(part.name).having(sizes=sizes, fitting=set(), uses=step.uses, ways=step.ways)
            return put_back(below.into("", model.attend, *cut), len(query), part)

        rows = [np.concatenate([of_part(part) for part in row], axis=3) for row in parts(whole, windows.side)]
        return np.concatenate(rows, axis=2)[:, :, : grid[0], : grid[1]].reshape(*query.shape)

    return standing_in(step, attend)


def padded(grid: tuple[int, int], windows: Windows) -> tuple[int, int]:
    """The rows and columns that are cut into windows: those of the grid, or where they are padded whole windows' of them."""
    if not windows.padded:
        return grid
    down, across = (-(-n // windows.side) * windows.side for n in grid)
    return down, across


def filled_up(x: Array, grid: tuple[int, int], whole: tuple[int, int], filler: Array) -> Array:
    """x (B, H, rows * columns, K) with `filler` (H, 1, K) at the right and bottom, up to the whole rows and columns."""
    if whole == grid:
        return x
    B, H, _, K = x.shape
    x, (rows, columns) = x.reshape(B, H, *grid, K), grid
    if whole[1] > columns:
        x = np.concatenate([x, filling(filler, (B, H, rows, whole[1] - columns, K))], axis=3)
    if whole[0] > rows:
        x = np.concatenate([x, filling(filler, (B, H, whole[0] - rows, whole[1], K))], axis=2)
    return x.reshape(B, H, whole[0] * whole[1], K)


def filling(filler: Array, shape: tuple[int, ...]) -> Array:
    """(H, 1, K) everywhere in (B, H, rows, columns, K)."""
    return np.broadcast_to(filler[:, :, None], shape)


def standing_in(step: Step, attend: Callable[..., Array]) -> Step:
    """The same contract with another function for attention, which calls the one that it stands for itself."""
    ways = {function: way for function, way in step.ways.items() if function is not model.attend}
    return step.having(uses={**step.uses, model.attend: attend}, ways=ways)


def attention_names(config: ViTConfig) -> list[tuple[str, ...]]:
    """The steps that hold each block's attention: one, or one for every kind of window."""
    found = []
    for n in range(config.depth):
        windows = config.windows_of(n)
        kinds = [f"{part.name}." for part in kinds_of(config.grid, windows)] if windows else [""]
        found.append(tuple(f"blocks.{n}.attention.{kind}probs" for kind in kinds))
    return found


def whole_map(maps: Sequence[Array], config: ViTConfig) -> Array:
    """A block's attention of its steps (`attention_names`) as one map: (B, H, N, N), 0 from one window to another.

    What goes to the tokens that windows are filled up with is left out.
    """
    if len(maps) == 1 and maps[0].shape[-1] == config.tokens:
        return maps[0]
    numbers = windows_in_numbers(config)
    batch = len(maps[0]) // len(numbers[0])
    whole = np.zeros((batch, config.heads, config.tokens, config.tokens), maps[0].dtype)
    for some, of_windows in zip(numbers, maps, strict=True):
        own = of_windows.reshape(batch, len(some), *of_windows.shape[1:])
        for window, tokens in enumerate(some):
            there = np.flatnonzero(tokens >= 0)
            whole[:, :, tokens[there][:, None], tokens[there]] = own[:, window][:, :, there[:, None], there]
    return whole


def tokens_of_windows(config: ViTConfig, block: int) -> list[Array]:
    """The numbers of the tokens that meet in each of a block's steps of attention (`attention_names`): (windows, n) each.

    -1 are tokens that windows are filled up with.
    """
    if config.windows_of(block) is None:
        return [np.arange(config.tokens)[None]]
    return windows_in_numbers(config)


def windows_in_numbers(config: ViTConfig) -> list[Array]:
    """For each kind of window, the patches of every one of its windows, by number: (windows, n) each; -1 are zeros."""
    assert config.windows is not None
    grid = padded(config.grid, config.windows)
    every = filled_up(np.arange(config.patches).reshape(1, 1, -1, 1), config.grid, grid, np.full((1, 1, 1), -1))
    return [windows_of(every, grid, part)[:, 0, :, 0] for part in kinds_of(config.grid, config.windows)]


def kinds_of(grid: tuple[int, int], windows: Windows) -> list[Part]:
    """The parts of a grid that have windows of one size each."""
    return [part for row in parts(padded(grid, windows), windows.side) for part in row]


def windows_of(x: Array, grid: tuple[int, int], part: Part) -> Array:
    """The windows of a part of the grid. x (B, H, rows * columns, K) -> (B * windows, H, patches of a window, K)."""
    B, H, _, K = x.shape
    x = x.reshape(B, H, *grid, K)[:, :, part.rows, part.columns]
    _, _, rows, columns, _ = x.shape
    down, across = part.window
    x = x.reshape(B, H, rows // down, down, columns // across, across, K).transpose(0, 2, 4, 1, 3, 5, 6)
    return x.reshape(B * (rows // down) * (columns // across), H, down * across, K)


def put_back(x: Array, batch: int, part: Part) -> Array:
    """The inverse of windows_of. x (B * windows, H, patches of a window, K) -> (B, H, rows, columns, K) of this part."""
    _, H, _, K = x.shape
    rows, columns = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
    down, across = part.window
    x = x.reshape(batch, rows // down, columns // across, H, down, across, K).transpose(0, 3, 1, 4, 2, 5, 6)
    return x.reshape(batch, H, rows, columns, K)
