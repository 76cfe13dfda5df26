"""Pictures of what a Vision Transformer does, drawn with Pillow: patch grids, attention maps, head galleries, similarities,
and what numpy_vit.lens finds.

Every function returns a PIL image. Colours run from dark blue over grey to yellow: lightness rises all the way, so that they
can be told apart by the colour-blind and in print. What a picture shows is computed by functions of its own (`token_map`,
`rollout`, `similarity`), which return arrays.
"""

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..config import ViTConfig
from ..errors import InputError, printable, shortened

Array = Any
RAMP = ((0, 32, 77), (66, 78, 108), (124, 123, 120), (188, 175, 102), (255, 234, 70))  # dark blue, grey, yellow
INK, PAPER, LINE = (20, 20, 20), (255, 255, 255), (255, 255, 255)
FRAME = (232, 89, 12)  # of no colour of the ramp
MAX_SIDE = 4096  # pixels of a drawing
LONGEST_ROW, MOST_ROWS = 30, 100  # characters of a row's name; rows of classes


# What is drawn


def token_map(weights: Array, config: ViTConfig) -> Array:
    """One number for every token, or patch -> the patches' numbers in their grid. (N,) or (G,) -> (rows, columns)."""
    rows, columns = config.grid
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or weights.size not in (config.tokens, config.patches):
        raise InputError(
            f"draw: one number for each of {config.tokens} tokens or {config.patches} patches is expected, "
            f"not an array of shape {weights.shape}"
        )
    return weights[weights.size - config.patches :].reshape(rows, columns)


def rollout(attentions: Sequence[Array]) -> Array:
    """How much of every input token is in every output token, through all blocks: (N, N), rows sum to 1.

    attentions: L arrays (H, N, N), first block first. In a block half of a token is what it was, the residual, and half what
    attention brings, the heads' mean; blocks follow one another, so their matrices are multiplied, later ones from the left.
    (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", arXiv 2005.00928.)
    """
    if not len(attentions):
        raise InputError("draw: no attention maps")
    tokens = np.shape(attentions[0])[-1]
    flow = np.eye(tokens)
    for attention in attentions:
        heads = np.asarray(attention, np.float64)
        check_maps(heads, tokens)
        mixed = (heads.mean(axis=0) + np.eye(tokens)) / 2
        flow = mixed @ flow
    return flow


def check_maps(heads: Array, tokens: int) -> None:
    """Raise InputError unless these are attention maps of so many tokens: (H, N, N)."""
    if heads.ndim != 3 or heads.shape[1:] != (tokens, tokens):
        raise InputError(f"draw: attention maps must be (H, N, N) = (H, {tokens}, {tokens}), not {heads.shape}")


def similarity(vectors: Array) -> Array:
    """The cosine of the angle between every two of n vectors: (n, D) -> (n, n), 1 on the diagonal."""
    vectors = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths == 0, 1, lengths)
    return directions @ directions.T


# Colours and letters


def coloured(values: Array, low: float | None = None, high: float | None = None) -> Array:
    """Numbers -> colours, (...) -> (..., 3) uint8: `low` is dark blue, `high` yellow; else the minimum and the maximum."""
    values = np.asarray(values, np.float64)
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(values.shape, 0.5)
    places = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(share, places, [colour[c] for colour in RAMP]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def font(size: int) -> Any:
    """Pillow's own font; its one small size where Pillow was built without FreeType."""
    try:
        return ImageFont.load_default(size)
    except (ImportError, TypeError):
        return ImageFont.load_default()


def labelled(image: Image.Image, text: str) -> Image.Image:
    """The same picture with a line of text above it."""
    size = max(12, min(20, image.width // 12))
    letters = font(size)
    height = size + 8
    sheet = Image.new("RGB", (max(image.width, int(letters.getlength(text)) + 8), image.height + height), PAPER)
    ImageDraw.Draw(sheet).text((4, 2), text, fill=INK, font=letters)
    sheet.paste(image, (0, height))
    return sheet


def block_label(number: int, depth: int) -> str:
    """A block by its number in step names, which count from 0, and its place: "blocks.5 (6th of 6)"."""
    place = number + 1
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"blocks.{number} ({place}{ending} of {depth})"


def in_rows(images: Sequence[Image.Image], columns: int, gap: int = 6) -> Image.Image:
    """Pictures of one size in rows, on paper."""
    width, height = max(image.width for image in images), max(image.height for image in images)
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), PAPER)
    for n, image in enumerate(images):
        sheet.paste(image, (gap + n % columns * (width + gap), gap + n // columns * (height + gap)))
    return sheet


def beside(images: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """Pictures side by side on paper, aligned at the top."""
    sheet = Image.new("RGB", (sum(i.width + gap for i in images) + gap, max(i.height for i in images) + 2 * gap), PAPER)
    x = gap
    for image in images:
        sheet.paste(image, (x, gap))
        x += image.width + gap
    return sheet


def stacked(images: Sequence[Image.Image], gap: int = 8) -> Image.Image:
    """Pictures one below the other on paper, aligned at the left."""
    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height + gap for i in images) - gap), PAPER)
    y = 0
    for image in images:
        sheet.paste(image, (0, y))
        y += image.height + gap
    return sheet


def enlarged(image: Image.Image, grid: tuple[int, int], minimum: int = 224) -> tuple[Image.Image, int]:
    """The picture at a size that its grid of patches divides, at least `minimum` wide or high, and a patch's side in pixels."""
    rows, columns = grid
    side = max(1, math.ceil(max(minimum, image.width, image.height) / max(rows, columns)))
    side = max(1, min(side, MAX_SIDE // max(rows, columns)))
    return image.convert("RGB").resize((columns * side, rows * side), Image.Resampling.BICUBIC), side


# The pictures


def patch_grid(image: Image.Image, config: ViTConfig, gap: int = 3) -> Image.Image:
    """The picture cut into the model's patches, numbered row by row where there is room."""
    rows, columns = config.grid
    whole, side = enlarged(image, config.grid)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + gap) + gap), PAPER)
    draw, letters = ImageDraw.Draw(sheet), font(max(9, side // 4))
    for n in range(rows * columns):
        y, x = divmod(n, columns)
        place = gap + x * (side + gap), gap + y * (side + gap)
        sheet.paste(whole.crop((x * side, y * side, (x + 1) * side, (y + 1) * side)), place)
        if side >= 24:
            draw.text((place[0] + 2, place[1] + 1), str(n), fill=LINE, font=letters, stroke_width=1, stroke_fill=INK)
    return labelled(sheet, f"{rows} x {columns} patches of {config.patch} x {config.patch} pixels")


def attention_overlay(
    image: Image.Image,
    weights: Array,
    config: ViTConfig,
    label: str = "",
    strength: float = 0.65,
    query: tuple[int, int] | None = None,
    high: float | None = None,
) -> Image.Image:
    """The picture with one number for every patch laid over it as a colour, from 0 (dark) to the largest (yellow).

    weights    (N,) for all tokens, of which the patches' are shown, or (G,)
    strength   of the colours, 0 to 1
    query      (row, column) of a patch to be framed: the one that asks
    high       what is yellow, to compare pictures; without it the largest weight
    """
    values = token_map(weights, config)
    whole, side = enlarged(image, config.grid)
    colours = Image.fromarray(coloured(values, 0.0, high)).resize(whole.size, Image.Resampling.NEAREST)
    sheet = Image.blend(whole.convert("L").convert("RGB"), colours, strength)
    if query is not None:
        row, column = query
        if not (0 <= row < config.grid[0] and 0 <= column < config.grid[1]):
            raise InputError(f"draw: there is no patch ({row}, {column}) in a grid of {config.grid[0]} x {config.grid[1]}")
        box = column * side, row * side, (column + 1) * side - 1, (row + 1) * side - 1
        ImageDraw.Draw(sheet).rectangle(box, outline=LINE, width=max(2, side // 8))
    return labelled(sheet, label) if label else sheet


def head_gallery(image: Image.Image, probs: Array, config: ViTConfig, query: int = 0, columns: int = 4) -> Image.Image:
    """What every head of one block attends to from one token (0, the class token). probs (H, N, N)."""
    probs = np.asarray(probs)
    check_maps(probs, config.tokens)
    if not 0 <= query < config.tokens:
        raise InputError(f"draw: there is no token {query}, only 0 to {config.tokens - 1}")
    first = config.special_tokens
    asked = divmod(query - first, config.grid[1]) if query >= first else None
    images = [
        attention_overlay(image, head[query], config, f"head {n}: at most {head[query, first:].max():.2f}", query=asked)
        for n, head in enumerate(probs)
    ]
    return in_rows(images, min(columns, len(images)))


def similarity_matrix(values: Array, label: str = "", cell: int | None = None) -> Image.Image:
    """A matrix of -1 to 1 as colours: dark blue -1, grey 0, yellow 1. values (n, m)."""
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(f"draw: a matrix (n, m) is expected, not an array of shape {values.shape}")
    cell = cell or max(1, 400 // max(values.shape))
    picture = Image.fromarray(coloured(values, -1.0, 1.0))
    picture = picture.resize((values.shape[1] * cell, values.shape[0] * cell), Image.Resampling.NEAREST)
    return labelled(picture, label) if label else picture


def position_similarity(positions: Array, config: ViTConfig) -> Image.Image:
    """For every patch a little map: how similar its position embedding is to every other's. positions (N, D) or (G, D)."""
    rows, columns = config.grid
    vectors = np.asarray(positions)[len(positions) - config.patches :]
    maps = similarity(vectors).reshape(rows * columns, rows, columns)
    cell = max(1, 640 // (rows * columns))
    images = [similarity_matrix(m, cell=cell) for m in maps]
    return labelled(in_rows(images, columns, gap=3), "how similar each patch's position is to the others'")


# What numpy_vit.lens finds


def lens_map(shares: Array, labels: Sequence[str] | None = None, top: int = 6) -> Image.Image:
    """The logit lens of one picture: a row for each class, a column for the embedding and for every block.

    shares (L + 1, O), rows summing to 1: softmax of a picture's logit_lens. Of the classes, `top` are shown: the last block's
    likeliest first, then those that have most anywhere. In every column the likeliest of all classes is framed.
    """
    shares = np.asarray(shares, np.float64)
    if shares.ndim != 2 or 0 in shares.shape or (labels is not None and len(labels) != shares.shape[1]):
        raise InputError(f"draw: shares (L + 1, O), and O labels, are expected, not an array of shape {shares.shape}")
    classes = classes_shown(shares, top)
    names = [str(labels[n]) if labels else str(n) for n in classes]
    best = shares.argmax(axis=1)
    framed = {(row, int(column)) for row, n in enumerate(classes) for column in np.flatnonzero(best == n)}
    columns = ["embed", *(f"block {n}" for n in range(len(shares) - 1))]
    cells = [[f"{100 * share:.0f} %" for share in shares[:, n]] for n in classes]
    return table(shares[:, classes].T, cells, names, columns, (0.0, 1.0), framed)


def classes_shown(shares: Array, top: int) -> list[int]:
    """The last row's likeliest, and those with the largest shares anywhere, in the order of the last row."""
    last = int(shares[-1].argmax())
    most = np.argsort(-shares.max(axis=0), kind="stable")
    chosen = [last, *(int(n) for n in most if n != last)][: max(1, min(top, MOST_ROWS))]
    return sorted(chosen, key=lambda n: (-shares[-1, n], n))


def attribution_map(heads: Array, mlps: Array) -> Image.Image:
    """What every head and MLP has added to a logit: a row for each block. heads (L, H), mlps (L,)."""
    heads, mlps = np.asarray(heads, np.float64), np.asarray(mlps, np.float64)
    if heads.ndim != 2 or 0 in heads.shape or mlps.shape != heads.shape[:1]:
        raise InputError(f"draw: heads (L, H) and mlps (L,) are expected, not arrays of shapes {heads.shape} and {mlps.shape}")
    values = np.concatenate([heads, mlps[:, None]], axis=1)
    largest = float(abs(values).max())
    rows = [f"block {n}" for n in range(len(values))]
    columns = [*(f"head {n}" for n in range(heads.shape[1])), "MLP"]
    return table(values, [[f"{value:+.2f}" for value in row] for row in values], rows, columns, (-largest, largest), set())


def attribution_bars(parts: Mapping[str, float], width: int = 420) -> Image.Image:
    """Numbers by name as bars from a line at 0: to the right, yellow, what is above it; to the left, blue, what is below."""
    if not parts:
        raise InputError("draw: no parts")
    letters, height = font(13), 24
    space = 16 + max(int(letters.getlength(name)) for name in parts)
    numbers = 8 + max(int(letters.getlength(f"{value:+.2f}")) for value in parts.values())
    least, most = min(0.0, *parts.values()), max(0.0, *parts.values())
    scale = max(width - space - 2 * numbers, 60) / ((most - least) or 1.0)
    zero = space + numbers - least * scale
    sheet = Image.new("RGB", (int(space + 2 * numbers + (most - least) * scale) + 4, len(parts) * height + 8), PAPER)
    draw = ImageDraw.Draw(sheet)
    for n, (name, value) in enumerate(parts.items()):
        top = 4 + n * height
        draw.text((8, top + 3), name, fill=INK, font=letters)
        ends = sorted((zero, zero + value * scale))
        draw.rectangle((ends[0], top + 3, ends[1], top + height - 4), fill=RAMP[-1] if value > 0 else RAMP[0])
        text = f"{value:+.2f}"
        beside = ends[1] + 4 if value >= 0 else ends[0] - 4 - letters.getlength(text)
        draw.text((beside, top + 3), text, fill=INK, font=letters)
    draw.line((zero, 2, zero, sheet.height - 3), fill=INK, width=1)
    return sheet


def table(
    values: Array,
    cells: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    ends: tuple[float, float],
    framed: Container[tuple[int, int]],
) -> Image.Image:
    """Numbers (n, m) as coloured cells with text in them, named rows and columns, some cells framed."""
    letters, gap = font(13), 2
    rows = [shortened(printable(text), LONGEST_ROW) for text in rows]
    room = max(int(letters.getlength(text)) for text in (*columns, *(text for row in cells for text in row)))
    wide, high = room + 14, 26
    left = 16 + max(int(letters.getlength(text)) for text in rows)
    sheet = Image.new("RGB", (left + len(columns) * (wide + gap) + 8, high + len(rows) * (high + gap) + 8), PAPER)
    draw, colours = ImageDraw.Draw(sheet), coloured(values, *ends)
    for m, text in enumerate(columns):
        draw.text((left + m * (wide + gap) + wide / 2, high / 2), text, fill=INK, font=letters, anchor="mm")
    for n, name in enumerate(rows):
        top = high + n * (high + gap)
        draw.text((8, top + high / 2), name, fill=INK, font=letters, anchor="lm")
        for m, text in enumerate(cells[n]):
            box = (left + m * (wide + gap), top, left + m * (wide + gap) + wide - 1, top + high - 1)
            colour = tuple(int(channel) for channel in colours[n, m])
            draw.rectangle(box, fill=colour)
            ink = INK if sum(colour) > 350 else LINE  # where both contrast alike
            draw.text((box[0] + wide / 2, top + high / 2), text, fill=ink, font=letters, anchor="mm")
            if (n, m) in framed:
                draw.rectangle((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline=FRAME, width=3)
    return sheet
