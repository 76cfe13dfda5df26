"""The step contract: it must catch what it promises to catch, under `python -O` too."""

import subprocess
import sys

import numpy as np
import pytest

import numpy_vit
from numpy_vit import model, ops
from numpy_vit.steps import Step, evaluate

from conftest import crooked_config, crooked_pixels


def test_letters_are_bound_once_and_held():
    step = Step({"D": 4}, np.float32)
    x = np.zeros((2, 5, 4), np.float32)
    assert step("first", x, "B N D") is x
    assert step.sizes == {"D": 4, "B": 2, "N": 5}
    with pytest.raises(numpy_vit.ShapeError, match=r"step attention.scores: expected \(B=2 N=5 N=5\), got \(2, 5, 4\)"):
        step.under("attention")("scores", x, "B N N")


@pytest.mark.parametrize("dims", ["B N", "B N D D", "B D N", "3 N D", "B N-1 D", "B N D*2"])
def test_wrong_dimensions_raise(dims):
    step = Step({"D": 4, "N": 5}, np.float32)
    with pytest.raises(numpy_vit.ShapeError):
        step("x", np.zeros((2, 5, 4), np.float32), dims)


def test_dtype_is_part_of_the_contract():
    """NumPy 2 makes float64 of float32 / np.sqrt(64)."""
    with pytest.raises(numpy_vit.ShapeError, match="step x: expected dtype float32, got float64"):
        Step({}, np.dtype("float32"))("x", np.zeros(3), "N")


def test_expressions():
    assert evaluate("C*P*P", {"C": 3, "P": 16}) == 768
    assert evaluate("N-1", {"N": 197}) == 196
    assert evaluate("12", {}) == 12


def test_python_O_does_not_strip_the_checks():
    code = "import numpy as np\nfrom numpy_vit.steps import Step\nStep({'N': 2}, np.float32)('x', np.zeros(3, np.float32), 'N')"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert "ShapeError: step x: expected (N=2), got (3,)" in done.stderr


PLANTED = {
    "heads not split": ("split_heads", lambda x, heads: x, "blocks.0.attention.query"),
    "heads as (K, H)": ("split_heads", lambda x, heads: x.reshape(*x.shape[:2], -1, heads).swapaxes(1, 2), "attention.query"),
    "no class token": ("prepend", lambda token, x: x, "embed.tokens"),
    "float64 creeps in": ("softmax", lambda x: ops.softmax(x) * np.ones(1), "blocks.0.attention.probs"),
    "tokens averaged away": ("layer_norm", lambda *norm: ops.layer_norm(*norm).mean(axis=1), "blocks.0.norm1"),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_planted_shape_mistakes_are_named(mistake, monkeypatch):
    name, wrong, where = PLANTED[mistake]
    monkeypatch.setattr(model, name, wrong)
    vit = numpy_vit.random_model(crooked_config())
    with pytest.raises(numpy_vit.ShapeError, match=where):
        vit(crooked_pixels(vit.config))


def norm_with(standard):
    """A layer norm whose standardized tokens are standard(x, eps)."""
    return lambda x, weight, bias, eps: standard(x, eps) * weight + bias


def standardized(x, eps):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


SQUARE_MISTAKES = {
    "softmax over the wrong axis": (
        "softmax",
        lambda x: ops.softmax(x.swapaxes(-1, -2)).swapaxes(-1, -2),
        "attention.probs",
    ),
    "softmax without the sum": ("softmax", np.exp, "attention.probs"),
    "unbiased variance": (
        "layer_norm",
        norm_with(lambda x, eps: (x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True)),
        "blocks.0.norm1",
    ),
    "mean not subtracted": (
        "layer_norm",
        norm_with(lambda x, eps: x / np.sqrt(x.var(-1, keepdims=True) + eps)),
        "blocks.0.norm1",
    ),
    "eps of another family": ("layer_norm", norm_with(lambda x, eps: standardized(x, 0.1)), "blocks.0.norm1"),
    "a norm of something else": ("layer_norm", lambda x, *rest: ops.layer_norm(x[:, ::-1], *rest), "blocks.0.norm1"),
    "a norm without its shift": ("layer_norm", lambda x, w, b, eps: ops.layer_norm(x, w, 0 * b, eps), "blocks.0.norm1"),
    "patches by column": (
        "patchify",
        lambda x, P: ops.patchify(x.swapaxes(2, 3), P),
        "embed.patches",
    ),
}


@pytest.mark.parametrize("mistake", SQUARE_MISTAKES)
def test_mistakes_of_the_right_shape_break_an_invariant(mistake, monkeypatch):
    name, wrong, where = SQUARE_MISTAKES[mistake]
    vit = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(vit.config)
    monkeypatch.setattr(model, name, wrong)
    vit(pixels)  # the shapes alone do not tell
    with pytest.raises(numpy_vit.InvariantError, match=where):
        vit(pixels, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [0, 1e3])
def test_a_right_model_is_never_accused(dtype, offset):
    vit = numpy_vit.random_model(crooked_config(activation="silu", pooling="mean"), seed=3, dtype=dtype)
    vit(crooked_pixels(vit.config, dtype=dtype) + offset, strict=True)
    vit(np.zeros((1, 3, 12, 20), dtype), strict=True)


def test_every_step_is_announced_in_order():
    seen = []
    vit = numpy_vit.random_model(crooked_config(depth=2))
    vit(crooked_pixels(vit.config), record=lambda name, array, dims: seen.append(name))
    block = [
        "norm1",
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.scores",
        "attention.probs",
        "attention.context",
        "attention.output",
        "residual1",
        "norm2",
        "mlp.hidden",
        "mlp.gelu",
        "mlp.output",
        "residual2",
    ]
    expected = ["embed.patches", "embed.projection", "embed.tokens", "embed.positions"]
    expected += [f"blocks.{n}.{name}" for n in range(2) for name in block] + ["norm", "pool", "pooler", "logits"]
    assert seen == expected == vit.step_names()
