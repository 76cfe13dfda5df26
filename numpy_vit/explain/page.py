"""The page of `numpy-vit explain`: one HTML file that walks a picture through a model, with the numbers of a real run.

The page is page.html, beside this file, with some things filled in: what is known of the run (JSON), every block's
attention (one text each, decoded when first looked at), and the language it opens in. It asks for nothing from outside.
The paper's own model, where it is small, is carried along (numpy_vit.explain.live) and computed in the page by vit.js: live.js
has what can be tried, cards.js the steps' arrays, tour.js the tour.

Attention is kept in whole numbers: each row of N weights has a scale, float32, and is codes * scale, the codes uint16, or
uint8 where that would be too much for a page. So a weight is exact to half a scale: to 1/131,070, or 1/510, of the largest
of its row. A text is base64 of the scales of all rows, then of their codes, both little-endian, head after head, query
after query. Sentences are pairs: English, Chinese.
"""

import base64
import html
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..config import ViTConfig
from ..errors import InputError
from ..parameters import parameter_count, place
from ..pictures.draw import RAMP, rollout
from ..pictures.images import Preprocess
from ..tracing.tracer import Row, statistics, trace
from ..windows import attention_names, whole_map
from ..writing.template import filled, script_data
from .code import as_facts, code_of_steps
from .equations import Equation, equation_of, math
from .live import Sample, computes, live_facts, packed_weights

Array = Any
Bilingual = tuple[str, str]  # in English, in Chinese
LANGUAGES = ("en", "zh")
MAX_CHARACTERS = 24_000_000  # characters of attention in a page
SCRIPTS = ("vit", "live", "cards", "tour")  # files beside page.html, put into it
MAX_SIDE = 720  # pixels of a side of the picture as it was given
OPERATIONS = {
    "patchify": "切成图块",
    "linear": "线性",
    "convolution": "卷积",
    "prepend": "前置",
    "as is": "原样",
    "resize": "缩放",
    "add": "相加",
    "layer norm": "层归一化",
    "matmul": "矩阵乘",
    "softmax": "softmax",
    "take token 0": "取第 0 个词元",
    "mean": "平均",
    "linear, tanh": "线性，tanh",
    "cosine": "余弦",
    "sine": "正弦",
    "sines and cosines": "正弦和余弦",
    "take": "取出",
    "rotate": "旋转",
    "look up": "查表",
    "multiply": "相乘",
    "take token 0, mean": "取第 0 个词元，平均",
    "rms norm": "RMS 归一化",
    "rms norm without scale": "不带缩放的 RMS 归一化",
    "norm": "归一化",
    "concatenate neighbours": "相邻词元相接",
    "activation": "激活函数",
    "shift and scale": "平移并缩放",
}


class Kept(NamedTuple):
    """How much of the attention a page keeps."""

    heads: bool  # every head, or the heads' mean alone
    bytes: int  # of a weight: 2 or 1

    @property
    def levels(self) -> int:
        """The largest code."""
        return 256**self.bytes - 1


def what_fits(config: ViTConfig) -> Kept:
    """The most that a page can keep of this model's attention. Raises InputError where it is too much whatever is left out."""
    for kept in (Kept(True, 2), Kept(True, 1), Kept(False, 2), Kept(False, 1)):
        maps = config.depth * (config.heads if kept.heads else 1) + 1  # and the rollout
        if maps * config.tokens * (config.tokens * kept.bytes + 4) * 4 / 3 <= MAX_CHARACTERS:
            return kept
    raise InputError(
        f"{config.depth} blocks of {config.tokens:,} x {config.tokens:,} weights are too many for a page: "
        "give a smaller --size, or use `numpy-vit attend`"
    )


def packed(rows: Array, kept: Kept) -> str:
    """Weights (..., N), none below 0 -> the text that the page decodes."""
    rows = np.asarray(rows, np.float64)
    scales = (rows.max(axis=-1) / kept.levels).astype("<f4")
    scales[scales == 0] = 1
    codes = np.minimum(np.rint(rows / scales[..., None]), kept.levels).astype(f"<u{kept.bytes}")
    return base64.b64encode(scales.tobytes() + codes.tobytes()).decode("ascii")


class Recording:
    """Listens to a run of one picture: keeps what each step's numbers are like, and the attention, a block at a time."""

    def __init__(self, kept: Kept, config: ViTConfig) -> None:
        self.kept = kept
        self.config = config
        self.maps = attention_names(config)  # of the blocks to come
        self.parts: dict[str, Array] = {}  # of the block at hand
        self.values: dict[str, dict[str, float]] = {}
        self.attention: list[str] = []  # packed, one a block
        self.pooling: str | None = None  # of a learned query, packed
        self.means: list[Array] = []  # (1, N, N), of the heads, one a block

    def __call__(self, name: str, array: Array, dims: str) -> None:
        array = np.asarray(array)
        self.values[name] = statistics(array)
        if name == "map.probs":
            self.pooling = packed(array[0, :, 0], self.kept)
        elif self.maps and name in self.maps[0]:
            self.parts[name] = array
            if len(self.parts) == len(self.maps[0]):
                attention = whole_map([self.parts[part] for part in self.maps.pop(0)], self.config)[0]
                self.parts = {}
                self.means.append(attention.mean(axis=0, dtype=np.float64)[None])
                self.attention.append(packed(attention if self.kept.heads else self.means[-1], self.kept))

    @property
    def telling(self) -> int:
        """The block to open with: where what the page opens with (the class token, or the patch in the middle) attends to the
        patches least evenly, in the heads' mean."""
        rows, columns = self.config.grid
        first = self.config.special_tokens
        query = 0 if first else rows // 2 * columns + columns // 2
        return max(range(len(self.means)), key=lambda block: unevenness(self.means[block][0, query, first:]))

    def rollout(self) -> str:
        """The flow through all blocks (numpy_vit.pictures.draw.rollout), packed."""
        return packed(rollout(self.means), self.kept)


def unevenness(weights: Array) -> float:
    """How far weights are from all being equal: the bits that they lack to the largest entropy. weights (G,) -> a number."""
    shares = weights / (weights.sum() or 1.0)
    return float(np.log2(len(shares)) + (shares * np.log2(np.maximum(shares, 1e-30))).sum())


def page(
    model: Any,
    pixels: Array,
    out: Any,
    recording: Recording,
    *,
    original: Image.Image,
    seen: Image.Image,
    name: str,
    source: str,
    best: Sequence[Mapping[str, Any]],
    language: str = "en",
    samples: Sequence[Sample] = (),
) -> str:
    """The page, as text.

    model, pixels, out   the run: a numpy_vit.ViT, its pixels (1, C, Y, X), what it gave
    recording            what listened to it
    original, seen       the picture as it was given, upright, and as the model sees it before its numbers are normalised
    name, source         of the picture, of the model
    best                 the likeliest classes, as the command `predict` has them; none for a model without a head
    samples              further pictures to choose on a page that computes
    """
    config = model.config.for_image(pixels.shape[2:])
    traced = trace(model.config, dtype=str(model.dtype), size=pixels.shape[2:])
    code = code_of_steps(model.config)
    equations = equations_of(traced.rows, code, config.activation)
    facts = {
        "picture": pictures_of(original, seen, name, model.preprocess_policy, config),
        "model": {"name": source, "parameters": parameter_count(config), "macs": traced.macs, "dtype": str(model.dtype)},
        "sizes": traced.sizes,
        "grid": config.grid,
        "special": special_tokens(config),
        "positions": positions_in_words(config, any(row.name == "embed.resized_positions" for row in traced)),
        "steps": steps_of(traced.rows, recording.values),
        "attention": {
            "heads": config.heads if recording.kept.heads else 0,
            "of": config.heads,
            "bytes": recording.kept.bytes,
            "pooling": 0 if recording.pooling is None else config.map_sizes["H"],
        },
        "ramp": RAMP,
        "pooled": pooling_in_words(config),
        "image_tokens": config.image_tokens,
        "vector": None if out.pooled is None else out.pooled.shape[-1],
        "best": [{key: b[key] for key in ("label", "probability", "logit")} for b in best],
        "embedding": None if out.image_embedding is None else int(out.image_embedding.shape[-1]),
        "language": language,
        "telling": recording.telling,
        "code": as_facts(code),
        "captions": {name: equation.caption for name, equation in equations.items()},
    }
    texts = {f"attention-{n}": text for n, text in enumerate(recording.attention)} | {"rollout": recording.rollout()}
    live = recording.kept.heads and computes(model, pixels.shape[2:], beside=sum(map(len, texts.values())))
    if live:
        facts["live"] = live_facts(model, [{"name": sample.name, "seen": data_url(sample.seen)} for sample in samples])
    if recording.pooling is not None:
        texts["pooling"] = recording.pooling
    if live:
        texts["weights"] = packed_weights(model)
    return filled(
        Path(__file__).with_name("page.html"),
        {
            **{script: Path(__file__).with_name(f"{script}.js").read_text(encoding="utf-8") for script in SCRIPTS},
            "equations": "\n".join(f'<template id="math-{name}">{math(e)}</template>' for name, e in equations.items()),
            "language": {"en": "en", "zh": "zh-CN"}[language],
            "title": html.escape(f"{name}: numpy-vit explain"),
            "facts": script_data(facts),
            "attention": "\n".join(f'<script type="text/plain" id="{key}">{text}</script>' for key, text in texts.items()),
        },
    )


# The picture


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    """A picture as text that an <img> shows."""
    file = io.BytesIO()
    image.save(file, format=kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def pictures_of(
    original: Image.Image, seen: Image.Image, name: str, policy: Preprocess | None, config: ViTConfig
) -> dict[str, Any]:
    """The picture as given and as seen, and what happens in between."""
    rows, columns = config.grid
    used = seen.crop((0, 0, columns * config.patch, rows * config.patch))  # a rest at the edge is in no patch
    small = original.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    assert policy is not None
    return {
        "name": name,
        "size": (original.height, original.width),
        "original": data_url(small, "PNG" if max(original.size) <= 256 else "JPEG"),
        "frame": frame(policy, original.height, original.width),
        "seen": data_url(used),
        "used": (used.height, used.width),
        "preparation": preparation(policy, original, seen, used),
    }


def frame(policy: Preprocess, height: int, width: int) -> tuple[float, ...]:
    """What the model sees of the picture: left, top, width and height, as fractions of the picture's."""
    Y, X = policy.target(height, width)
    rows, columns = (Y, X) if policy.crop is None else (min(policy.crop[0], Y), min(policy.crop[1], X))
    return (X - columns) / 2 / X, (Y - rows) / 2 / Y, columns / X, rows / Y


def preparation(policy: Preprocess, original: Image.Image, seen: Image.Image, used: Image.Image) -> list[Bilingual]:
    """What is done to the picture before it is numbers for the model, a sentence each."""
    Y, X = policy.target(original.height, original.width)
    size, way = f"{Y} x {X}", policy.resample
    colours = ("grey", "灰度") if policy.channels == 1 else ("RGB", "RGB")
    how = {
        "squash": ("whatever the proportions were", "不管原来的比例"),
        "shortest_edge": ("the shorter side first, in proportion", "按短边、保持比例"),
        "cover": ("in proportion, just covering the model's size", "保持比例，刚好盖住模型的尺寸"),
    }.get(policy.resize)
    done = [(f"Read, turned upright, made {colours[0]}.", f"读入，转正，转为{colours[1]}。")]
    if how is None:
        done.append(("Not resized.", "不缩放。"))
    elif (original.height, original.width) == (Y, X):
        done.append((f"It has the right size already: {size}.", f"尺寸本来就合适：{size}。"))
    else:
        done.append((f"Resized to {size} ({way}), {how[0]}.", f"缩放到 {size}（{way}），{how[1]}。"))
    if policy.crop is not None and policy.crop != (Y, X):
        cut = f"{policy.crop[0]} x {policy.crop[1]}"
        zeros = (", with zeros around", "，四周补零") if policy.crop[0] > Y or policy.crop[1] > X else ("", "")
        done.append((f"The middle {cut} is taken{zeros[0]}.", f"取中间 {cut}{zeros[1]}。"))
    if used.size != seen.size:
        whole = f"{used.height} x {used.width}"
        done.append((f"Only the {whole} that whole patches cover are used.", f"只用完整图块覆盖的 {whole}。"))
    if policy.scale is not None:
        share = f"1/{1 / policy.scale:g}"
        done.append((f"Each value, 0 to 255, times {share}.", f"每个 0 到 255 的值乘以 {share}。"))
    if policy.mean is not None and policy.std is not None:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (policy.mean, policy.std))
        subtracted = f"Minus the mean ({mean}), divided by the standard deviation ({std})."
        done.append((subtracted, f"减去均值（{mean}），除以标准差（{std}）。"))
    return done


# The tokens


def special_tokens(config: ViTConfig) -> list[Bilingual]:
    """The names of the tokens before the patches, in order."""
    names = [("class token", "类别词元")] if config.class_token else []
    names += [("distillation token", "蒸馏词元")] if config.distillation_token else []
    return names + [(f"register {n}", f"寄存器词元 {n}") for n in range(1, config.registers + 1)]


def positions_in_words(config: ViTConfig, resized: bool) -> list[Bilingual]:
    """How a token knows its position, a sentence for each way that the model has."""
    only = config.positions == "patches" or config.registers > 0
    whom = ("patch and class", "图块和类别") if config.positions == "all" else ("patch", "图块")
    sentences = (
        (
            config.positions not in ("none", "sincos"),
            f"To every {f'{whom[0]} ' if only else ''}token the learned vector of its position is added.",
            f"每个{whom[1] if only else ''}词元加上一个可学习的位置向量。",
        ),
        (
            config.positions == "sincos",
            "To every token sines and cosines of its row and column are added.",
            "每个词元加上其行和列的正弦和余弦。",
        ),
        (
            resized,
            "The grid of positions was resized: the picture has another size than in training.",
            "位置网格经过缩放：图像尺寸与训练时不同。",
        ),
        (
            config.rope != "none",
            "In every block the patches' queries and keys are rotated by angles of row and column (rotary positions).",
            "在每个编码器块里，图块的查询和键按其行和列的角度旋转（旋转位置）。",
        ),
        (
            config.rope_class_angle,
            "The class token's are rotated by learned angles.",
            "类别词元的查询和键按学出来的角度旋转。",
        ),
        (
            config.relative_positions,
            "In every block a learned number for every offset is added to the scores (relative positions).",
            "在每个编码器块里，分数加上与相对位置对应的可学习的数（相对位置）。",
        ),
    )
    return [(english, chinese) for there, english, chinese in sentences if there]


def pooling_in_words(config: ViTConfig) -> Bilingual:
    """Which vector stands for the picture."""
    return {
        "class": ("The class token stands for the picture.", "类别词元代表整张图片。"),
        "mean": (
            "The mean of the patch tokens stands for the picture.",
            "图块词元的平均值代表整张图片。",
        ),
        "class_and_mean": (
            "The class token and the mean of the patch tokens, one after the other, stand for the picture.",
            "类别词元与图块词元的平均值前后相接，代表整张图片。",
        ),
        "map": (
            "A learned query, the same for every picture, attends to all tokens (MAP pooling); what it gathers stands for "
            "the picture. Its map is among those of the attention above.",
            "一个可学习的、对每张图片都相同的查询关注所有词元（MAP 池化）；它收集到的代表整张图片。它的注意力图也在上面。",
        ),
        "query": (
            "A learned query, the same for every picture, attends to all tokens; what it gathers stands for the picture. Its "
            "map is among those of the attention above.",
            "一个可学习的、对每张图片都相同的查询关注所有词元；它收集到的代表整张图片。它的注意力图也在上面。",
        ),
        "none": (
            "No one vector stands for the picture: a language model sees all its tokens.",
            "没有一个向量代表整张图片：语言模型看到所有词元。",
        ),
    }[config.pooling]


# The steps


def steps_of(rows: Sequence[Row], values: Mapping[str, Mapping[str, float]]) -> dict[str, list[dict[str, Any]]]:
    """The steps before the blocks, of one block, and after; a block's step has the values of every block."""
    found: dict[str, dict[str, dict[str, Any]]] = {"before": {}, "block": {}, "after": {}}
    for row in rows:
        where = "block" if row.block is not None else "after" if found["block"] else "before"
        step = found[where].setdefault(row.local_name, step_of(row))
        step["values"].append([values[row.name][key] for key in ("min", "mean", "max")])
    return {where: list(steps.values()) for where, steps in found.items()}


def equations_of(rows: Sequence[Row], code: Collection[str], activation: str) -> dict[str, Equation]:
    """By name, the equations of the steps that a function of the paper computes: a later family's may be others."""
    found = {}
    for row in rows:
        biased = any(tensor.name.endswith(".bias") for tensor in row.weights)
        equation = equation_of(row.local_name, activation, biased=biased)
        if equation is not None and row.local_name in code:
            found[row.local_name] = equation
    return found


def step_of(row: Row) -> dict[str, Any]:
    """A step as the page shows it, yet without values."""
    return {
        "name": row.local_name,
        "part": row.part,
        "operation": (row.operation, OPERATIONS.get(row.operation, row.operation)),
        "dims": row.dims,
        "shape": row.shape,
        "formula": row.formula,
        "paper": row.paper,
        "why": (row.why, row.why_zh),
        "inputs": [[place(tensor.name)[1], tensor.shape] for tensor in row.inputs],
        "macs": row.macs,
        "values": [],
    }
