"""Narrow arithmetics: each against a computation written out again; calibration; descriptions; what is refused; commands."""

import functools
import json
import math
import os
import re
import struct
import subprocess
import sys

import golden_manifests
import numpy as np
import pytest

import numpy_vit
from numpy_vit.arithmetic.named import Arithmetic, Numbers, arithmetic_from, arithmetic_named, named
from numpy_vit.cli import main
from numpy_vit.config import Windows
from numpy_vit.errors import InputError
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.golden.folder import Golden, manifest_sha256, manifest_text, read_golden
from numpy_vit.golden.narrow_checking import check_narrow
from numpy_vit.golden.recording import record
from numpy_vit.models.narrow import NarrowViT, calibrate, chosen, read_grids
from numpy_vit.vit import ViT

from conftest import REPOSITORY, crooked_config, crooked_pixels

SAMPLES = REPOSITORY / "weights" / "samples"
FAMILIES = {
    "paper": dict(depth=2),
    "CLIP": dict(pre_norm=True, activation="quick_gelu", depth=1),
    "RMS, rotary, gated": dict(
        norm="rms", rope="centred_halves", positions="none", gated_mlp=True, activation="silu", width=20, heads=5, depth=1
    ),
    "windows": dict(windows=Windows(side=2), class_token=False, pooling="mean", pooler=0, depth=2),
    "MAP": dict(pooling="map", class_token=False, pooler=0, depth=1, activation="gelu_tanh"),
    "EVA": dict(mlp_norm=True, context_norm=True, layer_scale=True, depth=1),
    "BEiT": dict(relative_positions=True, positions="none", depth=1),
}
WIDE = dict(image=(8, 12), width=32, heads=2, mlp=64, depth=1, pooler=0)  # ggml's blocks fit


@functools.cache
def narrowed(name, **changes):
    """A small model in an arithmetic, its pixels, and its steps."""
    config = crooked_config(**changes)
    model, pixels = numpy_vit.random_model(config, seed=7, dtype="portable"), crooked_pixels(config, batch=2)
    arithmetic = arithmetic_named(name) if isinstance(name, str) else name
    narrow = NarrowViT(model, arithmetic, calibrate(model, lambda: [pixels], arithmetic))
    return narrow, pixels, narrow(pixels, record=True).steps


def bf16(x):
    """To bfloat16, ties to even, by its bits."""
    flat = [struct.unpack("<I", struct.pack("<f", float(v)))[0] for v in np.ravel(x)]
    kept = [(bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000 for bits in flat]
    return np.array([struct.unpack("<f", struct.pack("<I", bits))[0] for bits in kept], np.float64).reshape(np.shape(x))


def tf32(x):
    """10 bits of mantissa, ties away from zero."""
    flat = [struct.unpack("<I", struct.pack("<f", float(v)))[0] for v in np.ravel(x)]
    return np.array(
        [struct.unpack("<f", struct.pack("<I", (bits + 0x1000) & 0xFFFFE000))[0] for bits in flat], np.float64
    ).reshape(np.shape(x))


# Every arithmetic, every family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", named())
def test_every_arithmetic_runs_every_family(name, family):
    """Its numbers are finite, not far from the exact ones, and those the arithmetic has."""
    narrow, pixels, steps = narrowed(name, **FAMILIES[family])
    exact = narrow.original(pixels, record=True).steps
    assert list(steps) == list(exact)
    worst = {
        "float8-e5m2": 0.6,
        "mxfp4": 1.0,
        "nvfp4": 0.8,
        "q4_0": 0.8,
        "int4": 0.8,
        "mxfp4-weights": 0.9,
        "nvfp4-weights": 0.8,
    }
    for step, array in steps.items():
        assert np.isfinite(array).all(), step
    last = list(steps)[-1]
    error = np.linalg.norm(steps[last] - exact[last]) / np.linalg.norm(exact[last])
    assert 0 < error < worst.get(name, 0.3), error
    if name == "bfloat16":
        assert all(np.array_equal(bf16(array), array) for step, array in steps.items() if "rope_" not in step)
    for step, grid in narrow.grids.items():
        if step in steps and step != "pool" and not step.startswith("embed.rope_"):
            codes = steps[step] / grid.scale + grid.zero
            whole = (
                np.abs(codes - np.rint(codes)).max() < 1e-3 and codes.min() > grid.low - 0.5 and codes.max() < grid.high + 0.5
            )
            assert whole or not narrow.arithmetic.is_kept_in_integers(step), step


# Each against a computation of its own


def by_itself(x, step, weights, rounded, products=None):
    """One linear layer: x W + b, operands rounded, the sum in float64 and rounded once."""
    w, b = weights
    total = (np.asarray(x, np.float64) @ w).astype(np.float32).astype(np.float64)
    return rounded((total + b).astype(np.float32).astype(np.float64))


def test_bfloat16_step_by_step():
    """Every operation from the bfloat16 results before it, rounded once."""
    narrow, _, s = narrowed("bfloat16", depth=1)
    w = {name: bf16(np.asarray(array)) for name, array in narrow.original.tensors.items()}
    K = s["blocks.0.attention.query"].shape[-1]
    b, found = "blocks.0.", {}
    d = s["embed.positions"] - s["embed.positions"].mean(-1, keepdims=True)
    normed = d / np.sqrt((d * d).mean(-1, keepdims=True) + 1e-6)
    found["norm1"] = bf16(normed * w[b + "norm1.weight"] + w[b + "norm1.bias"])
    scores = np.float32(s[b + "attention.query"] @ s[b + "attention.key"].swapaxes(-1, -2))
    found["attention.scores"] = bf16(bf16(scores) * K**-0.5)
    e = np.exp(s[b + "attention.scores"] - s[b + "attention.scores"].max(-1, keepdims=True))
    found["attention.probs"] = bf16(e / e.sum(-1, keepdims=True))
    found["attention.context"] = bf16(np.float32(s[b + "attention.probs"] @ s[b + "attention.value"]))
    found["residual1"] = bf16(s["embed.positions"] + s[b + "attention.output"])
    h = s[b + "mlp.hidden"]
    found["mlp.gelu"] = bf16(h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2))))
    found["mlp.output"] = by_itself(s[b + "mlp.gelu"], "", (w[b + "mlp.output.weight"], w[b + "mlp.output.bias"]), bf16)
    for step, array in found.items():
        assert np.array_equal(array, s[b + step]), step


def test_tf32_rounds_what_goes_in_away_from_zero():
    narrow, _, s = narrowed("tf32", depth=1)
    layer = "blocks.0.mlp.output"
    w, b = (np.asarray(narrow.original.tensors[f"{layer}.{part}"], np.float64) for part in ("weight", "bias"))
    expected = by_itself(tf32(s["blocks.0.mlp.gelu"]), "", (tf32(w), np.float32(b)), np.float32)
    assert np.array_equal(expected, s[layer])
    assert np.array_equal(np.float32(s["blocks.0.mlp.gelu"]), s["blocks.0.mlp.gelu"])


def test_float16_sums_by_a_loop():
    narrow, _, s = narrowed("float16-sums", depth=1)
    layer, x = "blocks.0.attention.output", s["blocks.0.attention.context"].transpose(0, 2, 1, 3).reshape(2, -1, 15)
    w, b = (np.asarray(narrow.original.tensors[f"{layer}.{part}"]).astype(np.float16) for part in ("weight", "bias"))
    total = np.zeros((*x.shape[:2], 15), np.float16)
    for k in range(15):
        total = (total + (x[..., k, None].astype(np.float16) * w[k]).astype(np.float16)).astype(np.float16)
    expected = (total.astype(np.float32) + b.astype(np.float32)).astype(np.float16)
    assert np.array_equal(expected.astype(float), s[layer])


def test_autocast_casts_as_torch_does():
    """Products take and give bfloat16; norms take bfloat16 or float32 and give the same; a sum of both is float32."""
    _, _, s = narrowed("autocast", depth=1)
    b = "blocks.0."
    for step in ("attention.query", "attention.scores", "attention.probs", "attention.context", "mlp.hidden", "mlp.gelu"):
        assert np.array_equal(bf16(s[b + step]), s[b + step]), step
    for step in ("embed.positions", b + "norm1", b + "residual1", b + "norm2", b + "residual2", "norm"):
        assert np.array_equal(np.float32(s[step]), s[step]) and not np.array_equal(bf16(s[step]), s[step]), step
    _, _, cuda = narrowed("autocast-cuda", depth=1)
    assert not np.array_equal(bf16(cuda[b + "attention.probs"]), cuda[b + "attention.probs"])


@pytest.mark.parametrize("name, top", [("float8-e4m3", 448.0), ("float8-e5m2", 57344.0)])
def test_float8_has_one_scale_a_tensor(name, top):
    import ml_dtypes  # an extra of the peers: skipped without it

    dtype = {"float8-e4m3": ml_dtypes.float8_e4m3fn, "float8-e5m2": ml_dtypes.float8_e5m2}[name]
    narrow, _, s = narrowed(name, depth=1)
    layer, x = "blocks.0.mlp.output", s["blocks.0.mlp.gelu"]
    w, b = (np.asarray(narrow.original.tensors[f"{layer}.{part}"], np.float64) for part in ("weight", "bias"))
    scales = [np.float32(np.abs(array).max() / top) for array in (x, w)]
    x8, w8 = ((a.astype("f") / scale).astype(dtype).astype(np.float64) for a, scale in zip((x, w), scales, strict=True))
    total = ((x8 @ w8).astype("f") * np.float32(np.float64(scales[0]) * scales[1])).astype("f")
    assert np.array_equal((total + b.astype("f")).astype(float), s[layer])


try:
    import ml_dtypes  # noqa: F401
except ImportError:
    test_float8_has_one_scale_a_tensor = pytest.mark.skip(reason="ml_dtypes is not installed")(
        test_float8_has_one_scale_a_tensor
    )


def fp4(x):
    """The nearest of float4 E2M1's numbers, of two as near the one with an even last bit."""
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    distance = np.abs(np.abs(x)[..., None] - values)
    nearest = np.where(distance == distance.min(-1, keepdims=True), np.arange(8) % 2, 2).argmin(-1)
    return np.copysign(values[nearest], x)


def test_mxfp4_blocks():
    narrow, _, s = narrowed("mxfp4", **WIDE)
    layer, x = "blocks.0.mlp.output", s["blocks.0.mlp.gelu"]
    w, b = (np.asarray(narrow.original.tensors[f"{layer}.{part}"], np.float64) for part in ("weight", "bias"))

    def blocks(a):  # along the last axis
        parts = a.reshape(*a.shape[:-1], -1, 32)
        scale = 2.0 ** (np.floor(np.log2(np.abs(parts).max(-1, keepdims=True))) - 2)
        return (fp4(parts / scale) * scale).reshape(a.shape)

    expected = np.float32(np.float32(blocks(x) @ blocks(w.T).T) + np.float32(b))
    assert np.array_equal(expected.astype(float), s[layer])


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_ggml_products_by_loops(name):
    narrow, _, s = narrowed(name, **WIDE)
    layer, x = "blocks.0.mlp.output", s["blocks.0.mlp.gelu"].astype("f")
    w, b = (np.asarray(narrow.original.tensors[f"{layer}.{part}"]).astype("f") for part in ("weight", "bias"))

    def q8(block):
        d = np.abs(block).max() / np.float32(127)
        q = np.array([math.copysign(math.floor(abs(float(v * (np.float32(1) / d))) + 0.5), v) for v in block])
        return q, np.float32(np.float16(d))

    def q4(block):
        largest = max(block, key=abs)
        d = largest / np.float32(-8)
        return np.array([min(15, int(v * (np.float32(1) / d) + np.float32(8.5))) - 8 for v in block]), np.float32(np.float16(d))

    for row in np.ndindex(2, 3):
        for column in (0, 7, 31):
            total = np.float32(0)
            for n in range(2):
                part = slice(32 * n, 32 * n + 32)
                (qx, dx), (qw, dw) = q8(x[row][part]), (q4 if name == "q4_0" else q8)(w[part, column])
                whole = np.float32(qx @ qw)
                total = total + (whole * dw * dx if name == "q4_0" else whole * (dx * dw))
            assert float(np.float32(total + b[column])) == s[layer][(*row, column)]


def test_int8_dynamic_by_plain_code():
    narrow, _, s = narrowed("int8-dynamic", depth=1)
    layer, x = "blocks.0.mlp.output", s["blocks.0.mlp.gelu"].astype("f")
    w, b = (np.asarray(narrow.original.tensors[f"{layer}.{part}"]).astype("f") for part in ("weight", "bias"))
    scale = (max(x.max(), np.float32(0)) - min(x.min(), np.float32(0))) / np.float32(255)
    zero = int(np.rint(-min(x.min(), np.float32(0)) / scale))
    q = np.clip(np.rint(x / scale) + zero, 0, 255).astype(int)
    columns = np.abs(w).max(0) / np.float32(127)
    qw = np.clip(np.rint(w / columns), -127, 127).astype(int)
    whole = (q - zero) @ qw
    assert np.array_equal((whole.astype("f") * (scale * columns) + b).astype(float), s[layer])


def test_int4_groups_and_weights_alone():
    narrow, _, s = narrowed("int4", depth=1)
    layer, x = "blocks.0.mlp.output", s["blocks.0.mlp.gelu"]
    w, b = (np.asarray(narrow.original.tensors[f"{layer}.{part}"], np.float64) for part in ("weight", "bias"))
    scale = np.float16(np.abs(w).max(0) / 7).astype(float)
    expected = by_itself(x, "", (np.clip(np.rint(w / scale), -8, 7) * scale, np.float32(b)), np.float32)
    assert np.array_equal(expected, s[layer])


OWN = {
    "steps": {"format": "int8", "rounding": "up", "symmetric": False},
    "weights": {"format": "int8", "per": "tensor", "scale": "power of two"},
    "accumulator": "int16",
    "overflow": "saturate",
    "fixed": {"*.probs": [0.0078125, 0]},
    "skip": ["logits"],
}


def test_an_arithmetic_of_ones_own():
    """Powers of two, a saturating accumulator of 16 bits, half up, probabilities in units of 1/128."""
    narrow, _, s = narrowed.__wrapped__(arithmetic_from(OWN, "own"), depth=1)
    grids, layer = narrow.grids, "blocks.0.mlp.hidden"
    w, b = (np.asarray(narrow.original.tensors[f"{layer}.{part}"], np.float64) for part in ("weight", "bias"))
    scale = 2.0 ** np.ceil(np.log2(np.abs(w).max() / 127))
    qw = np.clip(np.rint(w / scale), -127, 127)
    of, to = grids["blocks.0.norm2"], grids[layer]
    q = np.rint(s["blocks.0.norm2"] / of.scale)
    total = np.broadcast_to(np.clip(np.rint(b / np.float32(of.scale * scale)), -32768, 32767), (*q.shape[:2], 22)).copy()
    for k in range(15):
        total = np.clip(total + q[..., k, None] * qw[k], -32768, 32767)
    codes = np.clip(np.floor(total * (of.scale * scale / to.scale) + 0.5) + to.zero, -128, 127)
    assert np.array_equal(codes, np.rint(s[layer] / to.scale) + to.zero)
    assert grids["blocks.0.attention.probs"][:2] == (2.0**-7, 0)
    assert not np.array_equal(np.rint(s["logits"] / grids["logits"].scale), s["logits"] / grids["logits"].scale)


def test_one_hash_for_every_arithmetic():
    """As they are stored; under other kernels, threads and processors too (test_portable.py, reproduce_elsewhere.sh)."""
    stored = json.loads(golden_manifests.ARITHMETICS.read_text(encoding="utf-8"))
    assert golden_manifests.in_every_arithmetic() == stored and list(stored) == list(named())


# Calibration


def by_hand(rule, x, numbers):
    """low, high of a step's numbers."""
    if rule == "min-max":
        return min(x.min(), 0), max(x.max(), 0)
    if rule == "percentile":
        return np.quantile(x, 0.00005, method="lower"), np.quantile(x, 0.99995, method="higher")
    best = None
    for share in np.linspace(1, 0.05, 96):
        low, high = x.min() * share, x.max() * share
        low, high = min(low, 0), max(high, 0)
        scale = (high - low) / 255
        zero = np.clip(np.rint(-128 - low / scale), -128, 127)
        error = ((np.clip(np.rint(x / scale) + zero, -128, 127) - zero) * scale - x) ** 2
        best = min(best or (np.inf, 0), (error.sum(), share))
    return x.min() * best[1], x.max() * best[1]


@pytest.mark.parametrize("rule", ["min-max", "percentile", "error"])
def test_calibration_against_all_numbers(rule):
    config = crooked_config(depth=1)
    model = numpy_vit.random_model(config, seed=7, dtype="float64")
    batches = [crooked_pixels(config, batch=3, seed=seed) for seed in (1, 2)]
    arithmetic = arithmetic_named("int8-onnx")
    grids = calibrate(model, lambda: batches, arithmetic, rule)
    steps = [model(pixels, record=True).steps for pixels in batches]
    for name, grid in grids.items():
        if name.endswith("probs"):
            assert grid[:2] == (float(np.float32(1 / 255)), -128)
            continue
        x = np.concatenate([s[name].ravel() for s in steps])
        low, high = by_hand(rule, x, arithmetic.steps)
        scale = (max(high, 0) - min(low, 0)) / 255
        tolerance = {"min-max": 1e-6, "percentile": 0.002, "error": 0.06}[rule]
        assert abs(grid.scale / scale - 1) < tolerance, (name, grid.scale, scale)
        assert abs(grid.zero - np.clip(np.rint(-128 - min(low, 0) / scale), -128, 127)) <= (0 if rule == "min-max" else 8)


def test_calibration_refuses():
    model = numpy_vit.random_model(crooked_config(depth=1), dtype="float64")
    with pytest.raises(InputError, match="calibration 'best': one of min-max, percentile, error"):
        calibrate(model, list, arithmetic_named("int8-onnx"), "best")
    with pytest.raises(InputError, match="no picture to calibrate with"):
        calibrate(model, list, arithmetic_named("int8-onnx"))
    assert calibrate(model, list, arithmetic_named("bfloat16")) == {}
    with pytest.raises(InputError, match="no scale is known for step embed.patches: calibrate it"):
        NarrowViT(model, arithmetic_named("int8-onnx"))


# Descriptions


@pytest.mark.parametrize("name", named())
def test_a_description_says_all(name):
    arithmetic = named()[name]
    assert arithmetic.about.endswith(".") and arithmetic_from(json.loads(json.dumps(arithmetic.to_plain())), "") == arithmetic
    page = (REPOSITORY / "docs" / "arithmetics.md").read_text()
    assert re.search(rf"`{re.escape(name)}`", page) or name.startswith("int8-litert-") or name.endswith("-weights")


INT8 = {"format": "int8"}
BAD = {
    "tensors": ("float7", "tensors 'float7'"),
    "weights": ({"format": "int9"}, "format 'int9'"),
    "inputs": ({"format": "int8", "rounding": "odd"}, "rounding 'odd'"),
    "attention": ({"format": "int8", "saturation": "none"}, "saturation 'none'"),
    "steps": ({"format": "float16"}, "steps: integers, with one scale a tensor"),
    "fixed": ({"logits": [0, 0]}, r"fixed: 'logits' must be \[scale above 0"),
    "results": ({"sums": "float32"}, "results of 'sums'"),
    "skip": ("logits", "skip must be a list"),
    "accumulator": ("int1", "accumulator 'int1'"),
    "overflow": ("never", "overflow 'never'"),
    "requantise": ("twice", "requantise 'twice'"),
    "multiplier_bits": (1, "multiplier_bits 1"),
    "about": (7, "about must be printable text"),
    "name": ("\x1b", "name must be printable text"),
}


@pytest.mark.parametrize("field", BAD)
def test_a_wrong_field_is_named(field):
    value, message = BAD[field]
    with pytest.raises(InputError, match=message) as caught:
        arithmetic_from({field: value}, "own")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"wieghts": INT8}, "wieghts"),
        ([], "a JSON object"),
        ({"weights": "int8"}, "weights"),
        ({"weights": {"format": "int8", "per": "row"}}, "per 'row'"),
        ({"weights": {"format": "int8", "per": "block"}}, "block 0"),
        ({"weights": {"format": "int8", "block": 8}}, "block 8"),
        ({"weights": {"format": "int8", "scale": "e7"}}, "scale 'e7'"),
        ({"weights": {"format": "int8", "symmetric": 1}}, "symmetric"),
        ({"weights": {}}, "format"),
        ({"steps": INT8}, "weights must be integers too"),
        ({"steps": INT8, "weights": INT8}, "accumulator: an integer's"),
        ({"accumulator": "int32"}, "accumulator: an integer's"),
        ({"results": {"norms": "int8"}}, "results of norms"),
        ({"fixed": [1]}, "fixed must be a JSON object"),
        ({"skip": [1]}, "skip must be a list of steps"),
    ],
)
def test_what_does_not_go_together_is_refused(values, message):
    with pytest.raises(InputError, match=message) as caught:
        arithmetic_from(values, "own")
    assert "\n" not in str(caught.value)


def test_names_are_suggested(tmp_path):
    with pytest.raises(InputError, match="int8-onx.*int8-onnx"):
        chosen("int8-onx")
    (tmp_path / "mine.json").write_text(json.dumps(OWN))
    assert chosen(str(tmp_path / "mine.json")).name == "mine"
    (tmp_path / "bad.json").write_text('{"tensors": "float7"}')
    with pytest.raises(InputError, match=r"bad\.json.*tensors 'float7'"):
        chosen(str(tmp_path / "bad.json"))
    assert Arithmetic("x").to_plain() == {"name": "x"} and Numbers("int4").range == (-7, 7)


# Scales


def test_scales_from_a_file(tmp_path):
    narrow, _, _ = narrowed("int8-onnx", depth=1)
    names, file = narrow.original.step_names(), tmp_path / "scales.json"
    plain = {name: {"scale": grid.scale, "zero_point": grid.zero} for name, grid in narrow.grids.items()}
    file.write_text(json.dumps(plain))
    assert read_grids(file, narrow.arithmetic, names) == narrow.grids
    file.write_text(json.dumps({name: v for name, v in plain.items() if not name.endswith("probs")}))
    assert read_grids(file, narrow.arithmetic, names) == narrow.grids  # these are fixed
    for change, message in (
        ({"norm": {"scale": 0, "zero_point": 0}}, "'norm' must have a scale above 0"),
        ({"norm": {"scale": "1", "zero_point": 0}}, "'norm' must have a scale"),
        ({"norm": {"scale": 1.0, "zero_point": 128}}, "zero_point from -128 to 127"),
        ({"norm": {"scale": 1.0, "zero_point": 0.5}}, "zero_point from -128 to 127"),
        ({"norm": 1.0}, "'norm' must have"),
        ({"norm3": {"scale": 1.0}}, "no step is called 'norm3'"),
    ):
        file.write_text(json.dumps({**plain, **change}))
        with pytest.raises(InputError, match=message) as caught:
            read_grids(file, narrow.arithmetic, names)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    file.write_text(json.dumps({"norm": plain["norm"]}))
    with pytest.raises(InputError, match=r"has no scale for \d+ steps, the first is embed.patches"):
        read_grids(file, narrow.arithmetic, names)
    with pytest.raises(InputError, match="keeps no step in integers"):
        read_grids(file, arithmetic_named("bfloat16"), names)


# Goldens


TINY = ["--model", "ViT-Ti/16", "image=8x12", "patch=4", "width=6", "heads=2", "mlp=5", "depth=1", "classes=3"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrow") / "golden"
    assert main(["golden", "record", *TINY, "--arithmetic", "int8-onnx", "-o", str(folder)]) == 0
    return folder


def tampered(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    manifest.pop("sha256")
    return {**manifest, "sha256": manifest_sha256(manifest)}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m: m.pop("arithmetic"), "has no 'arithmetic'"),
        (lambda m: m.pop("grids"), "has no 'grids'"),
        (lambda m: m.update(arithmetic=[]), "'arithmetic' must be a dict"),
        (lambda m: m["arithmetic"].update(requantise="other"), "requantise 'other'"),
        (lambda m: m["grids"].pop("norm"), "step 'norm' is int8: its scale and zero point are missing"),
        (lambda m: m["grids"].update(norm=[0.5, 0, -128]), r"grids: 'norm' must be \[scale"),
        (lambda m: m["grids"].update(norm=[-0.5, 0, -128, 127]), r"grids: 'norm' must be \[scale"),
        (lambda m: m["grids"].update(norm=[0.5, 200, -128, 127]), r"grids: 'norm' must be \[scale"),
        (lambda m: m["grids"].update(norm=[0.5, 0.0, -128, 127]), r"grids: 'norm' must be \[scale"),
        (lambda m: m["grids"].update(norm=None), r"grids: 'norm' must be \[scale"),
        (lambda m: m["steps"][-1].update(dtype="int32"), "is not int32"),
        (lambda m: m["steps"][-1].update(dtype="int3"), "dtype 'int3'"),
        (lambda m: m.update(arithmetic={"name": "bfloat16", "tensors": "bfloat16"}), "keeps no step in integers"),
        (lambda m: m.update(version="3"), "has version '3'"),
    ],
)
def test_a_manifest_that_was_tampered_with(recorded, tmp_path, change, message):
    folder = tmp_path / "golden"
    folder.mkdir()
    (folder / "steps.safetensors").write_bytes((recorded / "steps.safetensors").read_bytes())
    (folder / "manifest.json").write_text(manifest_text(tampered(recorded, change)))
    with pytest.raises(InputError, match=message) as caught:
        read_golden(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["int8-litert", "autocast"])
def test_every_family_is_recorded_and_checked(name, family, tmp_path):
    narrow, pixels, steps = narrowed(name, **FAMILIES[family])
    manifest, arrays = record(narrow, pixels, store="float32", noise=())
    model = ViT(narrow.config, {key: np.asarray(tensor, np.float64) for key, tensor in narrow.original.tensors.items()})
    golden = Golden("golden", manifest, arrays)
    dump = {step: tensor_of(np.asarray(golden.real(step), "f") if step in steps else array) for step, array in arrays.items()}
    result = check_narrow(golden, dump, model=model)
    assert result.passed and all(step.own is not None or step.codes is not None for step in result.results), [
        step for step in result.results if not step.fits
    ][:2]


def test_store_and_noise_are_not_for_narrow_goldens():
    narrow, pixels, _ = narrowed("int8-onnx", depth=1)
    for options in (dict(store="float64", noise=()), dict(store="float32", noise=("float32",))):
        with pytest.raises(InputError, match="compared exactly"):
            record(narrow, pixels, **options)


@pytest.mark.parametrize("layout", ["npy", "raw"])
def test_every_layout_holds_integers(tmp_path, recorded, layout):
    folder = tmp_path / layout
    assert main(["golden", "record", *TINY, "--arithmetic", "int8-onnx", "--format", layout, "-o", str(folder)]) == 0
    one, other = read_golden(recorded), read_golden(folder)
    assert one.arrays.keys() == other.arrays.keys()
    assert all(
        np.array_equal(array, other.arrays[name]) and array.dtype == other.arrays[name].dtype
        for name, array in one.arrays.items()
    )
    assert one.arrays["norm"].dtype == np.int8 and one.arrays["logits.sums"].dtype == np.int32
    assert main(["golden", "check", str(recorded), str(folder)]) == 0


# Commands


REFUSED = [
    (["eval", "DIGITS", "--arithmetic", "int8-onnx"], "needs scales: give --calibrate DIR"),
    (["eval", "DIGITS", "--arithmetic", "int8-onx"], "int8-onnx"),
    (["eval", "DIGITS", "--calibrate", "DIGITS"], "--calibrate goes with --arithmetic"),
    (["eval", "DIGITS", "--scales", "x"], "--scales goes with --arithmetic"),
    (["eval", "DIGITS", "--arithmetic", "bfloat16", "--calibrate", "DIGITS"], "it needs no scales"),
    (["eval", "DIGITS", "--arithmetic", "int8-onnx", "--calibrate", "DIGITS", "--scales", "x"], "give one of them"),
    (["eval", "DIGITS", "--arithmetic", "int8-onnx", "--calibration", "error", "--scales", "x"], "the scales are given"),
    (["eval", "DIGITS", "--arithmetic", "int8-onnx", "--scales", "no.json"], "no.json"),
    (["golden", "record", *TINY, "--arithmetic", "int8-onnx", "--calibrate", "DIGITS", "-o", "OUT"], "give --weights"),
    (["golden", "record", *TINY, "--arithmetic", "int8-onnx", "--store", "float64", "-o", "OUT"], "compared exactly"),
    (["golden", "record", *TINY, "--arithmetic", "int8-onnx", "--noise", "float32", "-o", "OUT"], "compared exactly"),
    (["golden", "sensitivity", "no-such-folder"], "no-such-folder"),
    (["golden", "sensitivity", "DIGITS", "--limit", "0"], "--limit: 1 or more"),
    (["golden", "sensitivity", "DIGITS", "--limit", "1", "--steps", "blocks.9.*"], "nothing that int8-onnx narrows is called"),
    (["golden", "sensitivity", "DIGITS", "--picture", "no/such/place.svg"], "no/such/place.svg"),
]


@pytest.mark.parametrize("words, message", REFUSED, ids=lambda value: None if isinstance(value, list) else value[:30])
def test_what_is_refused(run, tmp_path, words, message):
    words = [{"DIGITS": SAMPLES, "OUT": tmp_path / "out"}.get(word, word) for word in words]
    status, out, error = run(*words)
    assert status == 2 and message in error and out == "" and error.count("error:") == 1
    assert not (tmp_path / "out").exists()


def some(folder, count=1):
    """A folder of a few of the digits, by class."""
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
        for file in sorted((SAMPLES / str(digit)).iterdir())[:count]:
            (folder / str(digit) / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.slow
def test_accuracy_that_is_left(run, tmp_path):
    folder = some(tmp_path / "digits")
    status, out, _ = run("eval", folder, "--arithmetic", "int8-onnx", "--calibrate", folder, "--json")
    assert status == 0 and json.loads(out)["pictures"] == 10 and json.loads(out)["top1"] >= 0.9
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"weights": {"format": "int2", "per": "tensor"}}))
    status, out, _ = run("eval", folder, "--arithmetic", own, "--json")
    assert status == 0 and json.loads(out)["top1"] <= 0.6  # 2 bits: -1, 0, 1


def test_sensitivity_finds_what_is_clipped(run, tmp_path):
    """One step whose scale was cut to an eighth is the noisiest of all."""
    folder = some(tmp_path / "digits")
    model = numpy_vit.load(dtype="float64")
    batches = [np.asarray(model.preprocess(path)) for path in sorted(folder.rglob("*.png"))]
    grids = calibrate(model, lambda: batches, arithmetic_named("int8-onnx"))
    clipped = "blocks.3.residual1"
    plain = {
        name: {"scale": grid.scale / (12 if name == clipped else 1), "zero_point": grid.zero} for name, grid in grids.items()
    }
    (tmp_path / "scales.json").write_text(json.dumps(plain))
    words = [
        "golden",
        "sensitivity",
        folder,
        "--scales",
        tmp_path / "scales.json",
        "--steps",
        "blocks.3.norm1",
        "--steps",
        "blocks.[23].resid*1",
    ]
    words += ["--steps", "blocks.3.mlp.hidden.weight"]
    status, out, _ = run(*words, "--json", "--limit", "3")
    found = json.loads(out)
    assert status == 0 and found["arithmetic"] == "int8-onnx" and found["pictures"] == 3
    assert min(found["steps"], key=lambda row: row["snr"])["name"] == clipped
    assert [row["name"] for row in found["steps"]] == [
        "blocks.2.residual1", "blocks.3.norm1", "blocks.3.residual1", "blocks.3.mlp.hidden.weight",
    ]  # fmt: skip
    status, out, _ = run(*words, "--limit", "2", "--picture", tmp_path / "picture.svg")
    assert status == 0 and f"Leave these in more bits first: {clipped}" in " ".join(out.split())
    import xml.etree.ElementTree

    svg = xml.etree.ElementTree.parse(tmp_path / "picture.svg")
    assert any(clipped in (title.text or "") for title in svg.iter("{http://www.w3.org/2000/svg}title"))


def test_after_ctrl_c_nothing_is_left(run, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("numpy_vit.models.narrow.calibrate", stop)
    status, _, error = run("golden", "record", *TINY, "--arithmetic", "int8-onnx", "-o", tmp_path / "golden")
    assert status == 130 and "Traceback" not in error and os.listdir(tmp_path) == []
    assert run("golden", "sensitivity", SAMPLES, "--limit", "1")[0] == 130


def test_who_stops_reading_stops_it():
    """`... | head -1`: no traceback."""
    command = f"{sys.executable} -m numpy_vit golden sensitivity {SAMPLES} --limit 1 --steps 'blocks.0.norm1' | head -1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert "Traceback" not in done.stderr and done.stdout.count("\n") == 1
