"""The operations against naive twins written from the formulas, and against properties that need no weights."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import numpy_vit
from numpy_vit import ops
from numpy_vit.arithmetic import primitives

from conftest import DATA, REPOSITORY, crooked_config, crooked_pixels, relative_error, without_simd

rng = np.random.default_rng(11)


def test_patchify_is_the_naive_loop():
    pixels = rng.normal(size=(2, 3, 8, 12))
    patches = ops.patchify(pixels, 4)
    assert patches.shape == (2, 6, 48)
    for b in range(2):
        for row in range(2):
            for column in range(3):
                naive = [pixels[b, c, 4 * row + py, 4 * column + px] for c in range(3) for py in range(4) for px in range(4)]
                assert np.array_equal(patches[b, 3 * row + column], naive)
    assert np.array_equal(ops.unpatchify(patches, 4, (8, 12)), pixels)


def test_projection_is_the_convolution_with_stride_P():
    pixels, kernel = rng.normal(size=(2, 3, 8, 12)), rng.normal(size=(5, 3, 4, 4))
    ours = ops.linear(ops.patchify(pixels, 4), kernel.reshape(5, -1).T)
    naive = np.zeros((2, 5, 2, 3))
    for row in range(2):
        for column in range(3):
            window = pixels[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            naive[:, :, row, column] = np.einsum("bcyx,dcyx->bd", window, kernel)
    assert relative_error(ours, naive.reshape(2, 5, 6).swapaxes(1, 2)) < 1e-14


def test_layer_norm_and_softmax_are_their_formulas():
    x = rng.normal(size=(2, 3, 7)) * 5 + 2
    weight, bias = rng.normal(size=7), rng.normal(size=7)
    for index in np.ndindex(2, 3):
        row = x[index]
        mean = sum(row) / 7
        variance = sum((v - mean) ** 2 for v in row) / 7
        normed = (row - mean) / math.sqrt(variance + 1e-3) * weight + bias
        assert relative_error(ops.layer_norm(x, weight, bias, 1e-3)[index], normed) < 1e-14
        exps = [math.exp(v) for v in row]
        assert relative_error(ops.softmax(x)[index], np.array(exps) / math.fsum(exps)) < 1e-15


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_does_not_overflow(dtype):
    assert np.array_equal(ops.softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], dtype)), [[1, 0], [0.5, 0.5]])
    assert np.array_equal(ops.softmax(np.array([[100.0, 100.0], [0.0, 0.0]], dtype)), [[0.5, 0.5], [0.5, 0.5]])
    assert np.isnan(ops.softmax(np.array([[np.nan, 0.0]], dtype))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [-1e4, -200, -39, -19, -1, 0, 1, 19, 39, 200, 1e4])
def test_softmax_does_not_depend_on_what_is_added_to_a_row(dtype, shift):
    """Whether the row's maximum is taken off or not; the numbers are such that adding them up rounds nothing."""
    x = rng.integers(-4, 5, size=(5, 300)) / 4
    exps = np.exp(x)
    expected = exps / exps.sum(axis=-1, keepdims=True)
    assert relative_error(ops.softmax((x + shift).astype(dtype)), expected) < 16 * np.finfo(dtype).eps
    mixed = (x + np.array([[shift], [0], [0], [-shift], [0]])).astype(dtype)
    assert relative_error(ops.softmax(mixed), expected) < 16 * np.finfo(dtype).eps


def test_rows_of_one_number():
    x = np.array([[0.0], [1.0], [2.0]])
    assert np.array_equal(ops.softmax(x), np.ones((3, 1)))
    assert np.array_equal(ops.layer_norm(x, np.ones(1), np.zeros(1), 1e-6), np.zeros((3, 1)))
    model = numpy_vit.random_model(crooked_config(image=(4, 4), class_token=False, pooling="mean"), dtype="float64")
    out = model(crooked_pixels(model.config), record="*.probs", strict=True)
    assert np.array_equal(out.attentions[0], np.ones((3, 5, 1, 1)))


def test_other_dtypes_and_no_rows():
    assert np.allclose(ops.softmax(np.full((1, 197), 8, np.float16)), 1 / 197, rtol=1e-2)
    assert np.allclose(ops.softmax(np.array([[-30, -30], [12, 12]], np.float16)), 0.5)
    for dtype in ("float32", "float64"):
        assert ops.softmax(np.zeros((0, 5), dtype)).shape == (0, 5)
        assert ops.softmax(np.array([[3e38, 0]], dtype)).tolist() == [[1, 0]]  # and no warning


def test_operations_as_a_learner_calls_them():
    """Integers, lists, keywords: the formula says what comes of them, and a narrower dtype is never kept in silence."""
    assert np.allclose(ops.softmax([1, 2, 3]), np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum())
    assert np.allclose(ops.softmax(np.array([1, 2, 3])), ops.softmax(x=np.array([1.0, 2.0, 3.0])), rtol=1e-15)
    x, w, b = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4), np.ones(4, int)
    assert np.array_equal(ops.linear(x, w, bias=b), x @ w + 1) and np.array_equal(ops.linear([1, 2, 3], w), [1, 2, 3] @ w)
    normed = ops.layer_norm([[1, 2, 6]], weight=np.ones(3), bias=np.zeros(3), eps=1e-6)
    assert np.allclose(normed.mean(), 0) and np.allclose(normed.var(), 1)
    assert np.allclose(ops.gelu([0, 1]), [0, 0.8413447460685429]) and np.allclose(ops.erf(1), math.erf(1))
    assert np.allclose(ops.relu([-1, 2]), [0, 2]) and np.allclose(ops.silu(x=np.array([0])), 0)
    mixed = ops.linear(x.astype("float32"), w.astype("float64"))
    assert mixed.dtype == np.float64  # which the step contract then catches
    assert ops.patchify(np.arange(32).reshape(1, 2, 4, 4), patch=2).shape == (1, 4, 8)


def test_overflow_in_a_layer_norm_is_said():
    with pytest.warns(RuntimeWarning, match="overflow"):
        ops.layer_norm(np.array([[1e20, 2e20, 0]], np.float32), np.ones(3, np.float32), np.zeros(3, np.float32), 1e-6)


@pytest.mark.parametrize("mean", [0, 10, 1000])
@pytest.mark.parametrize("width", [97, 768, 4096])
def test_float32_sums_are_as_accurate_as_numpys(mean, width):
    x = (rng.normal(size=(40, width)) + mean).astype(np.float32)
    true = x.astype(np.float64)
    eps = np.finfo("float32").eps
    for got, plain, exact in (
        (primitives.row_sum(x), x.sum(axis=-1, keepdims=True), true.sum(axis=-1, keepdims=True)),
        (primitives.row_products(x, x), (x * x).sum(axis=-1, keepdims=True), (true * true).sum(axis=-1, keepdims=True)),
    ):
        assert relative_error(got, exact) < 4 * relative_error(plain, exact) + 2 * eps


def test_fast_functions_are_the_plain_ones():
    x = rng.normal(size=(3, 5, 700)).astype(np.float32) * 10
    true = x.astype(np.float64)
    assert relative_error(primitives.row_sum(abs(x)), abs(true).sum(axis=-1, keepdims=True)) < 1e-6
    assert relative_error(primitives.row_products(x, x), (true * true).sum(axis=-1, keepdims=True)) < 1e-6
    for dtype, bound in (("float32", 8e-6), ("float64", 1e-15)):  # exp makes of an error of x a relative one
        got, expected = primitives.exp(x.astype(dtype)), np.exp(true)
        assert got.dtype == dtype and np.max(np.abs(got / expected - 1)) < bound
        out = np.empty_like(got)
        assert primitives.exp(x.astype(dtype), out) is out and np.array_equal(out, got)


def test_without_exp2():
    """On a processor where NumPy has no vectorised exp2 it is exp: the same tests, in a NumPy without AVX-512."""
    env = {**os.environ, **without_simd("AVX512", "X86_V4")}
    code = "from numpy_vit.arithmetic.primitives import *; import numpy as np; assert fast_power is np.exp and TO_FAST_POWER == 1.0"
    for words in (["-c", code], ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "float32 or softmax or fast", __file__]):
        done = subprocess.run([sys.executable, *words], env=env, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_attention_is_the_naive_loop():
    """One query at a time, one head at a time, from the paper's eq. 5 to 8."""
    vit = numpy_vit.random_model(crooked_config(depth=1), seed=2, dtype="float64")
    out = vit(crooked_pixels(vit.config), record=True)
    x, w = out.steps["blocks.0.norm1"], vit.weights.blocks[0].attention
    H, K = vit.config.heads, vit.config.head_dim
    assert H != K
    q, k, v = (x @ part.weight + part.bias for part in (w.query, w.key, w.value))
    heads = np.zeros_like(x)
    for b in range(len(x)):
        for h in range(H):
            part = slice(h * K, (h + 1) * K)
            for i in range(x.shape[1]):
                scores = [q[b, i, part] @ k[b, j, part] / math.sqrt(K) for j in range(x.shape[1])]
                probs = np.exp(scores) / math.fsum(np.exp(scores))
                heads[b, i, part] = sum(p * v[b, j, part] for j, p in enumerate(probs))
    assert relative_error(out.steps["blocks.0.attention.output"], heads @ w.output.weight + w.output.bias) < 1e-14


def test_tokens_are_a_set_without_positions():
    """Shuffle the patches and, without position embeddings, the patch tokens come out shuffled, the class token the same."""
    config = crooked_config()
    model = numpy_vit.random_model(config, dtype="float64")
    tensors = {**model.tensors, "embed.positions": np.zeros_like(model.tensors["embed.positions"])}
    model = numpy_vit.ViT(config, tensors)
    pixels = crooked_pixels(config)
    order = rng.permutation(config.tokens - 1)
    shuffled = ops.unpatchify(ops.patchify(pixels, 4)[:, order], 4, config.image)
    a, b = model(pixels).last_hidden_state, model(shuffled).last_hidden_state
    assert relative_error(b[:, 0], a[:, 0]) < 1e-13
    assert relative_error(b[:, 1:], a[:, 1:][:, order]) < 1e-13


def test_pictures_of_a_batch_do_not_see_each_other():
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(model.config, batch=4)
    together = model(pixels).logits
    assert relative_error(np.concatenate([model(pixels[i : i + 1]).logits for i in range(4)]), together) < 1e-13


def test_mean_pooling_leaves_the_class_token_out():
    model = numpy_vit.random_model(crooked_config(pooling="mean"), dtype="float64")
    out = model(crooked_pixels(model.config))
    assert relative_error(out.pooled, out.last_hidden_state[:, 1:].sum(axis=1) / 15) < 1e-14


def ulps(got, high, low):
    """How far `got` is from high + low, in units of the last place of float64."""
    with np.errstate(invalid="ignore", under="ignore"):
        return np.abs((got - high) - low) / np.maximum(np.spacing(np.abs(high)), 5e-324)


@pytest.mark.parametrize("name", ["gelu", "erf"])
def test_float64_is_within_4_ulp_of_the_true_value(name):
    """Against multiple-precision values (mpmath, stored), down to the smallest numbers there are."""
    stored = np.load(DATA / "special.npz")
    error = ulps(getattr(ops, name)(stored["x"]), stored[f"{name}.high"], stored[f"{name}.low"])
    assert error.max() <= 4, stored["x"][error.argmax()]


@pytest.mark.parametrize("name", ["gelu", "erf"])
def test_float32_is_within_4_ulp_of_x(name):
    stored = np.load(DATA / "special.npz")
    with np.errstate(over="ignore", under="ignore"):
        x = stored["x"].astype(np.float32)
    x = np.unique(np.concatenate([x[np.isfinite(x)], rng.normal(size=100_000).astype(np.float32) * 3]))
    true = getattr(ops, name)(x.astype(np.float64))  # itself within 4 ulp of float64
    unit = np.spacing(np.abs(x) if name == "gelu" else np.maximum(np.abs(true), 1e-38).astype(np.float32))
    error = np.abs(getattr(ops, name)(x) - true) / unit
    assert error.max() <= 4, x[error.argmax()]


def test_float64_gelu_agrees_with_math_erf_where_that_is_good():
    x = rng.normal(size=2000)
    naive = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    assert np.max(np.abs(ops.gelu(x) - naive)) < 1e-15
    assert np.max(np.abs(ops.erf(x) - [math.erf(v) for v in x])) < 3e-16


@pytest.mark.parametrize("name", list(ops.ACTIVATIONS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_keep_dtype_shape_and_limits(name, dtype):
    x = np.array([[-1e30, -50.0, -0.0], [0.0, 50.0, 1e30]], dtype)
    y = ops.ACTIVATIONS[name](x)
    assert y.dtype == x.dtype and y.shape == x.shape
    assert np.allclose(y, [[0, 0, 0], [0, 50, 1e30]], atol=1e-15)
    assert np.isnan(ops.ACTIVATIONS[name](np.array([np.nan], dtype))).all()


def test_activations_are_their_formulas():
    x = np.linspace(-6, 6, 401)
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    assert relative_error(ops.gelu_tanh(x), 0.5 * x * (1 + np.tanh(u))) < 1e-15
    assert relative_error(ops.quick_gelu(x), x / (1 + np.exp(-1.702 * x))) < 1e-15
    assert relative_error(ops.silu(x), x / (1 + np.exp(-x))) < 1e-15
    assert relative_error(ops.relu(x), x * (x > 0)) == 0


def test_gelu_takes_any_layout_and_size():
    x = rng.normal(size=(300, 400))  # more than one tile
    assert np.array_equal(ops.gelu(x.T), ops.gelu(x).T)
    assert np.array_equal(ops.gelu(x[::2, 1::3]), ops.gelu(x)[::2, 1::3])
    assert ops.gelu(np.zeros((0, 3))).shape == (0, 3)
