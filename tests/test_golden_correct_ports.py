"""Ports that are right, each computed otherwise: none is accused, and what is no float32 is called what it is."""

import numpy as np
import pytest

import numpy_vit
from numpy_vit.arithmetic.named import arithmetic_named
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.golden.checking import check
from numpy_vit.golden.diagnosing import Suspected, diagnose, suspicion
from numpy_vit.golden.folder import Golden
from numpy_vit.golden.recording import record
from numpy_vit.models.narrow import NarrowViT, calibrate

from conftest import crooked_config, crooked_pixels

CONFIG = crooked_config(depth=2)
MODEL = numpy_vit.random_model(CONFIG, seed=3, dtype="float64")
PIXELS = crooked_pixels(CONFIG, batch=2).astype(np.float64)


@pytest.fixture(scope="module")
def golden():
    manifest, arrays = record(MODEL, PIXELS, noise=("float32", "float16", "bfloat16", "int8-onnx", "mxfp8"))
    return Golden(None, manifest, arrays)


def dump_in(name):
    """Every step of a port in a narrow arithmetic, as float32."""
    arithmetic = arithmetic_named(name)
    model = NarrowViT(MODEL, arithmetic, calibrate(MODEL, lambda: [PIXELS], arithmetic))
    return {step: tensor_of(x.astype(np.float32)) for step, x in model(PIXELS, record=True).steps.items()}


@pytest.mark.parametrize(
    "name",
    [
        "tf32",
        "int8-onnx",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("bfloat16", "float16", "autocast", "mxfp8")),
    ],
)
def test_what_it_was_computed_in(name, golden):
    """Stored as float32, taken for float32: no mistake is named, and the arithmetic is."""
    checked = check(golden, dump_in(name), model=MODEL)
    assert not checked.passed
    named = {m.name for finding in diagnose(checked) if finding.best for m in finding.best.mistakes}
    assert named <= {f"all-weights-{name}"}  # which is true, and only a part of it
    assert suspicion(checked) == Suspected(name)


@pytest.mark.parametrize("name", ["bfloat16", "float16", "int8-onnx", "mxfp8"])
def test_in_its_own_arithmetic_it_is_right(name, golden):
    assert check(golden, dump_in(name), model=MODEL, format=name).passed


f32 = np.float32


def online_softmax(scores):
    """Row sums kept as FlashAttention keeps them: block after block, with the largest so far."""
    largest, total = np.full(scores.shape[:-1], -np.inf, f32), np.zeros(scores.shape[:-1], f32)
    for start in range(0, scores.shape[-1], 5):
        block = scores[..., start : start + 5]
        higher = np.maximum(largest, block.max(-1))
        total = total * np.exp(largest - higher) + np.exp(block - higher[..., None]).sum(-1, dtype=f32)
        largest = higher
    return np.exp(scores - largest[..., None]) / total[..., None]


def welford(x, weight, bias, eps):
    """Mean and variance in one pass."""
    mean, square = np.zeros(x.shape[:-1], f32), np.zeros(x.shape[:-1], f32)
    for n in range(x.shape[-1]):
        by = x[..., n] - mean
        mean = mean + by / f32(n + 1)
        square = square + by * (x[..., n] - mean)
    return (x - mean[..., None]) / np.sqrt(square / f32(x.shape[-1]) + f32(eps))[..., None] * weight + bias


def in_pieces(x, weight, bias=0):
    """Sums split along the inner axis, as a tiled kernel has them."""
    parts = [x[..., n : n + 7] @ weight[n : n + 7] for n in range(0, x.shape[-1], 7)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total + bias


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True, dtype=f32)


def base_two(x):
    e = np.exp2((x - x.max(-1, keepdims=True)) * f32(np.log2(np.e)))
    return e / e.sum(-1, keepdims=True, dtype=f32)


def norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True, dtype=f32)
    return centred / np.sqrt((centred * centred).mean(-1, keepdims=True, dtype=f32) + f32(eps)) * weight + bias


def by_squares(x, weight, bias, eps):
    """E[x^2] - E[x]^2, in float64 as careful ports do."""
    y = x.astype(np.float64)
    mean, square = y.mean(-1, keepdims=True), (y * y).mean(-1, keepdims=True)
    return ((y - mean) / np.sqrt(square - mean * mean + eps)).astype(f32) * weight + bias


def linear(x, weight, bias=0):
    return x @ weight + bias


def bias_first(x, weight, bias=0):
    """As an accumulator that starts with the bias: in float64, rounded at the end."""
    return (x.astype(np.float64) @ weight + bias).astype(f32)


def gelu(x):
    from math import erf

    return (f32(0.5) * x * (1 + np.vectorize(erf)(x / np.sqrt(2)).astype(f32))).astype(f32)


def gelu_by_parts(x):
    """x * Phi(x) by the complementary error function, as libraries with an erfc have it."""
    from math import erfc

    return (x * f32(0.5) * np.vectorize(erfc)(-x / np.sqrt(2)).astype(f32)).astype(f32)


PLAIN = {"softmax": softmax, "norm": norm, "linear": linear, "gelu": gelu, "scale": "scores", "heads": "all"}
PORTS = {
    "plain": {},
    "online softmax": {"softmax": online_softmax},
    "softmax in base two": {"softmax": base_two},
    "Welford's norm": {"norm": welford},
    "norm by squares in float64": {"norm": by_squares},
    "products in tiles": {"linear": in_pieces},
    "sums in float64": {"linear": bias_first},
    "GELU by erfc": {"gelu": gelu_by_parts},
    "scale folded into the query": {"scale": "query"},
    "half of the scale in query and key each": {"scale": "both"},
    "keys scaled instead": {"scale": "key"},
    "head by head": {"heads": "each"},
    "all of it": {"softmax": online_softmax, "norm": welford, "linear": in_pieces, "gelu": gelu_by_parts, "scale": "query"},
}


def port(softmax, norm, linear, gelu, scale, heads):
    """A float32 port of the crooked model: step -> array."""
    w, c, steps = {name: t.astype(f32) for name, t in MODEL.tensors.items()}, CONFIG, {}
    x = PIXELS.astype(f32)
    B, C, Y, X = x.shape
    P, D, H = c.patch, c.width, c.heads
    x = x.reshape(B, C, Y // P, P, X // P, P).transpose(0, 2, 4, 1, 3, 5).reshape(B, -1, C * P * P)
    steps["embed.patches"] = x
    x = steps["embed.projection"] = linear(x, w["embed.projection.weight"], w["embed.projection.bias"])
    x = steps["embed.tokens"] = np.concatenate([np.broadcast_to(w["embed.class_token"], (B, 1, D)), x], axis=1)
    x = steps["embed.positions"] = x + w["embed.positions"]
    for n in range(c.depth):

        def at(name, n=n):
            return [w[f"blocks.{n}.{name}.weight"], w[f"blocks.{n}.{name}.bias"]]

        def keep(name, array, n=n):
            steps[f"blocks.{n}.{name}"] = array
            return array

        y = keep("norm1", norm(x, *at("norm1"), c.eps))
        split = lambda part, y=y, at=at: linear(y, *at(f"attention.{part}")).reshape(B, -1, H, D // H).swapaxes(1, 2)  # noqa: E731
        q, k, v = (split(part) for part in ("query", "key", "value"))
        factor = f32((D // H) ** -0.5)
        q = q * {"query": factor, "both": np.sqrt(factor)}.get(scale, f32(1))
        k = k * {"key": factor, "both": np.sqrt(factor)}.get(scale, f32(1))
        for name, array in (("query", q), ("key", k), ("value", v)):
            keep(f"attention.{name}", array)
        if heads == "each":
            scores = np.stack([q[:, h] @ k[:, h].swapaxes(-1, -2) * factor for h in range(H)], axis=1)
        else:
            scores = q @ k.swapaxes(-1, -2) * (factor if scale == "scores" else f32(1))
        probs = keep("attention.probs", softmax(keep("attention.scores", scores)).astype(f32))
        context = keep("attention.context", probs @ v)
        x = keep(
            "residual1", x + keep("attention.output", linear(context.swapaxes(1, 2).reshape(B, -1, D), *at("attention.output")))
        )
        y = keep("mlp.gelu", gelu(keep("mlp.hidden", linear(keep("norm2", norm(x, *at("norm2"), c.eps)), *at("mlp.hidden")))))
        x = keep("residual2", x + keep("mlp.output", linear(y, *at("mlp.output"))))
    x = steps["norm"] = norm(x, w["norm.weight"], w["norm.bias"], c.eps)
    steps["logits"] = linear(x[:, 0], w["head.weight"], w["head.bias"])
    return steps


@pytest.mark.parametrize("name", PORTS)
def test_right_ports_are_not_accused(name, golden):
    steps = port(**{**PLAIN, **PORTS[name]})
    dump = {step: tensor_of(np.ascontiguousarray(x, f32)) for step, x in steps.items()}
    checked = check(golden, dump, model=MODEL)
    assert checked.passed, [(r.name, r.verdict) for r in checked.results if not r.fits]
    assert bool(checked.conventions) == ("scale" in PORTS[name])
    assert diagnose(checked) == []


def test_bfloat16_stored_as_float32_is_not_a_mistake_of_one_step(golden):
    checked = check(golden, dump_in("bfloat16"), model=MODEL, format="bfloat16")
    assert checked.passed and diagnose(checked) == []
