"""`model(pixels, change=...)`: what a function gives goes on in the step's place, and nothing else is otherwise."""

import math
import re

import numpy as np
import pytest
from options import OPTIONS, PLAIN

import numpy_vit
from numpy_vit import InputError, ShapeError
from numpy_vit.config import ViTConfig

from conftest import crooked_config, crooked_pixels


def model_and_pixels(dtype="float64", **changes):
    model = numpy_vit.random_model(crooked_config(**changes), seed=1, dtype=dtype)
    return model, crooked_pixels(model.config, batch=2)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def outputs(out):
    names = ("last_hidden_state", "pooled", "pooler_output", "logits", "image_embedding")
    return {name: getattr(out, name) for name in names if getattr(out, name) is not None}


# A step by itself


@pytest.mark.parametrize("dtype", ["float32", "float64", "portable"])
@pytest.mark.parametrize("option", ["plain", *OPTIONS])
def test_a_step_replaced_by_itself_changes_no_bit(option, dtype):
    config = ViTConfig(**PLAIN).replace(**OPTIONS.get(option, {}))
    model = numpy_vit.random_model(config, seed=2, dtype=dtype)
    pixels = crooked_pixels(config, batch=2)
    right = model(pixels, record=True)
    called = []

    def itself(array, run):
        called.append(run.step)
        return array

    for change in ({"*": lambda array: array}, {"*": lambda array: np.array(array)}, {"*": itself}):
        for out in (model(pixels, change=change, record=True), model(pixels, change=change)):
            assert all(same_bits(array, outputs(right)[name]) for name, array in outputs(out).items())
            assert all(same_bits(array, right.steps[name]) for name, array in out.steps.items())
        assert not out.steps
    assert called == model.step_names() * 2


# Against the formulas, written once more


def normed(x, w, name, eps):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / (variance + eps) ** 0.5 * w[f"{name}.weight"] + w[f"{name}.bias"]


def dense(x, w, name):
    return np.einsum("...i,ij->...j", x, w[f"{name}.weight"]) + w[f"{name}.bias"]


def by_hand(model, pixels, without=(), residual=None):
    """The crooked model's logits and pooler, without some of its parts: ("head", block, head), ("attention", block),
    ("mlp", block), ("class token", block); `residual`: (block, array) goes on from there."""
    w, c = model.tensors, model.config
    B, P, K = len(pixels), c.patch, c.width // c.heads
    rows = [
        pixels[:, :, top : top + P, left : left + P].reshape(B, -1)
        for top in range(0, c.image[0], P)
        for left in range(0, c.image[1], P)
    ]
    x = dense(np.stack(rows, axis=1), w, "embed.projection")
    class_token = np.tile(w["embed.class_token"], (B, 1, 1))
    x = np.concatenate([class_token, x], axis=1) + w["embed.positions"]
    for n in range(c.depth):
        y = normed(x, w, f"blocks.{n}.norm1", c.eps)
        query, key, value = (dense(y, w, f"blocks.{n}.attention.{part}") for part in ("query", "key", "value"))
        heads = []
        for h in range(c.heads):
            q, k, v = (part[..., h * K : (h + 1) * K] for part in (query, key, value))
            e = np.exp(np.einsum("bik,bjk->bij", q, k) / math.sqrt(K))
            context = np.einsum("bij,bjk->bik", e / e.sum(-1, keepdims=True), v)
            heads.append(context * (("head", n, h) not in without))
        attended = dense(np.concatenate(heads, axis=-1), w, f"blocks.{n}.attention.output")
        x = x + attended * (("attention", n) not in without)
        hidden = dense(normed(x, w, f"blocks.{n}.norm2", c.eps), w, f"blocks.{n}.mlp.hidden")
        hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
        x = x + dense(hidden, w, f"blocks.{n}.mlp.output") * (("mlp", n) not in without)
        if ("class token", n) in without:
            x[:, 0] = 0
        if residual and residual[0] == n:
            x = residual[1]
    pooled = normed(x, w, "norm", c.eps)[:, 0]
    return dense(pooled, w, "head"), np.tanh(dense(pooled, w, "pooler"))


def zeroed(*index):
    def change(array):
        array[index] = 0
        return array

    return change


ALL = slice(None)
REMOVED = {
    "nothing": ((), {}),
    "a head's context": ([("head", 1, 3)], {"blocks.1.attention.context": zeroed(ALL, 3)}),
    "a head's attention": ([("head", 1, 3)], {"blocks.1.attention.probs": zeroed(ALL, 3)}),
    "a head of every block": (
        [("head", n, 0) for n in range(3)],
        {"blocks.*.attention.value": zeroed(ALL, 0)},
    ),
    "attention of a block": ([("attention", 2)], {"blocks.2.attention.output": np.zeros_like}),
    "the MLP of a block": ([("mlp", 0)], {"blocks.0.mlp.output": np.zeros_like}),
    "a whole block": (
        [("attention", 1), ("mlp", 1)],
        {"blocks.1.residual2": lambda array, run: run["blocks.0.residual2"]},
    ),
    "the class token's row": ([("class token", 0)], {"blocks.0.residual2": zeroed(ALL, 0)}),
}


@pytest.mark.parametrize("what", REMOVED)
def test_what_is_zeroed_is_gone(what):
    without, change = REMOVED[what]
    model, pixels = model_and_pixels()
    out, (logits, pooler) = model(pixels, change=change), by_hand(model, pixels, without)
    for got, expected in ((out.logits, logits), (out.pooler_output, pooler)):
        assert np.abs(got - expected).max() <= 1e-12 * np.abs(expected).max()
    if without:
        assert np.abs(out.logits - model(pixels).logits).max() > 1e-3  # else it would show nothing


def test_another_residual_goes_on():
    model, pixels = model_and_pixels()
    other = np.random.default_rng(3).normal(size=(2, model.config.tokens, model.config.width))
    out = model(pixels, change={"blocks.1.residual2": lambda array: other})
    expected, _ = by_hand(model, pixels, residual=(1, other))
    assert np.abs(out.logits - expected).max() <= 1e-12 * np.abs(expected).max()


def test_at_another_image_size():
    """Steps that are there at other sizes alone, and the changed embedding goes on."""
    model, pixels = model_and_pixels()
    larger = np.concatenate([pixels, pixels[:, :, :4]], axis=2)
    changed = {"embed.resized_positions": lambda array, run: array * 2 + 0 * run["embed.positions"][0]}
    out = model(larger, change=changed, record="embed.*", resize_positions=True)
    plain = model(larger, record="embed.*", resize_positions=True)
    assert np.array_equal(out.steps["embed.resized_positions"], 2 * plain.steps["embed.resized_positions"])
    added = out.steps["embed.positions"] - out.steps["embed.tokens"]
    assert np.abs(added - out.steps["embed.resized_positions"]).max() < 1e-14
    with pytest.raises(InputError, match=r"change: no step is called 'embed.resized_positions'"):
        model(pixels, change=changed)


# What a function sees


def test_earlier_steps_and_weights_can_be_looked_at():
    model, pixels = model_and_pixels()
    right = model(pixels, record=True)
    seen = {}

    def look(array, run):
        seen.update({name: run[name] for name in ("blocks.0.residual2", "blocks.1.norm1", "blocks.1.mlp.hidden.weight")})
        for array_seen in seen.values():
            with pytest.raises(ValueError, match="read-only"):
                array_seen[...] = 0
        for name in ("blocks.1.mlp.gelu", "blocks.1.mlp.output", "logits"):  # not there yet
            with pytest.raises(InputError, match=f"run\\['{name}'\\]: no earlier step or weight has this name"):
                run[name]
        with pytest.raises(InputError, match="; did you mean 'blocks.0.residual2'"):
            run["blocks.0.residuel2"]
        assert run.step == "blocks.1.mlp.gelu"
        return array

    model(pixels, change={"blocks.1.mlp.gelu": look})
    for name in ("blocks.0.residual2", "blocks.1.norm1"):
        assert same_bits(seen.pop(name), right.steps[name])
    assert np.array_equal(seen["blocks.1.mlp.hidden.weight"], model.tensors["blocks.1.mlp.hidden.weight"])
    assert model.tensors["blocks.1.mlp.hidden.weight"].flags.writeable  # the model's own is as it was


def test_earlier_steps_are_seen_as_they_were_changed():
    model, pixels = model_and_pixels()
    right = model(pixels, record=True).steps["blocks.0.mlp.output"]
    change = {
        "blocks.0.norm1": lambda array: array * 0 + 7,
        "blocks.0.attention.output": lambda array, run: array * 0 + run["blocks.0.norm1"],
    }
    out = model(pixels, change=change, record="blocks.0.*")
    assert (out.steps["blocks.0.attention.output"] == 7).all() and not same_bits(out.steps["blocks.0.mlp.output"], right)


def test_functions_that_are_told_of_the_run():
    """By what they require: an optional second argument is the caller's own."""
    model, pixels = model_and_pixels()
    right = model(pixels).logits

    class Method:
        def one(self, array):
            return array

        def two(self, array, run):
            return array + 0 * run["embed.positions"].sum()

    for function in (lambda array, scale=1.0: array * scale, np.copy, np.asarray, np.positive, Method().one, Method().two):
        assert np.abs(model(pixels, change={"norm": function}).logits - right).max() < 1e-13


def test_several_functions_for_one_step_in_their_order():
    model, pixels = model_and_pixels()
    right = model(pixels, record="norm").steps["norm"]
    plus, twice = (lambda array: array + 1), (lambda array, run: array * 2)
    for change, expected in (
        ({"nor*": plus, "norm": twice}, (right + 1) * 2),
        ({"norm": twice, "nor*": plus}, right * 2 + 1),
    ):
        assert same_bits(model(pixels, change=change, record="norm").steps["norm"], expected)


# What is recorded


@pytest.mark.parametrize("strict", [False, True])
def test_record_sees_the_changed_array(strict):
    model, pixels = model_and_pixels()
    heard = {}
    change = {"blocks.1.attention.output": lambda array: array * 0.5}
    right = model(pixels, record=True).steps
    out = model(pixels, change=change, record=True, strict=strict)
    model(pixels, change=change, record=lambda name, array, dims: heard.update({name: array.copy()}))
    some = model(pixels, change=change, record=["blocks.1.attention.output", "hidden_states"])
    for steps in (out.steps, heard, some.steps):
        assert same_bits(steps["blocks.1.attention.output"], right["blocks.1.attention.output"] * 0.5)
        assert same_bits(steps["blocks.0.residual2"], right["blocks.0.residual2"])
        assert same_bits(steps["blocks.2.residual2"], out.steps["blocks.2.residual2"])
    assert out.steps.keys() == heard.keys() and some.hidden_states[2] is some.steps["blocks.1.residual2"]
    assert not same_bits(out.steps["blocks.1.residual1"], right["blocks.1.residual1"])


@pytest.mark.parametrize("two", [False, True])
def test_writing_to_an_array_alters_no_other(two):
    """Some steps are views of others: the pooled vector of the last norm, a head of all queries."""
    model, pixels = model_and_pixels()

    def write(array, run=None):
        array[...] = 0.25
        return array

    def write_and_look(array, run):
        return write(array)

    right = model(pixels, record=True).steps
    before = {name: array.copy() for name, array in model.tensors.items()}
    for name in model.step_names():
        out = model(pixels, change={name: write_and_look if two else write}, record=True).steps
        earlier = model.step_names()[: model.step_names().index(name)]
        assert all(same_bits(out[other], right[other]) for other in earlier), name
        assert (out[name] == 0.25).all()
    assert out.keys() == right.keys()
    assert all(same_bits(array, before[name]) for name, array in model.tensors.items())
    assert np.array_equal(pixels, crooked_pixels(model.config, batch=2))


def test_what_was_changed_in_one_run_is_not_in_the_next():
    model, pixels = model_and_pixels()
    right = model(pixels, record=True)
    model(pixels, change={"*": lambda array: array * 0})
    assert all(same_bits(array, right.steps[name]) for name, array in model(pixels, record=True).steps.items())


# What is refused


@pytest.mark.parametrize(
    "result, error, message",
    [
        (lambda x: x[:, :1], ShapeError, r"step blocks.0.norm1: expected \(B=2 N=16 D=15\), got \(2, 1, 15\)"),
        (lambda x: x[0], ShapeError, r"step blocks.0.norm1: expected \(B=2 N=16 D=15\), got \(16, 15\)"),
        (lambda x: x.astype("float32"), ShapeError, "step blocks.0.norm1: expected dtype float64, got float32"),
        (lambda x: x.astype("complex128"), ShapeError, "step blocks.0.norm1: expected dtype float64, got complex128"),
        (lambda x: None, InputError, r"change\['blocks.0.norm1'\] gave None: it must return an array \(2, 16, 15\)"),
        (lambda x: 0.0, InputError, r"change\['blocks.0.norm1'\] gave 0.0"),
        (lambda x: x.tolist(), InputError, r"change\['blocks.0.norm1'\] gave a list"),
    ],
)
@pytest.mark.parametrize("pattern", ["blocks.0.norm1", "blocks.*.norm1"])
def test_what_is_no_such_array(result, error, message, pattern):
    model, pixels = model_and_pixels()
    with pytest.raises(error, match=message):
        model(pixels, change={pattern: result})
    with pytest.raises(error, match=message):
        model(pixels, change={pattern: lambda array, run: result(array)})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"blocks.0.attention.prob": np.copy}, "change: no step is called 'blocks.0.attention.prob'; did you mean "
         "'blocks.0.attention.probs'?"),
        ({"blocks.9.*": np.copy}, "change: no step is called 'blocks.9.*'"),
        ({"": np.copy}, "change: no step is called ''"),
        ({3: np.copy}, "change: no step is called 3"),
        ({"norm": None}, "change['norm'] is None: give a function"),
        ({"norm": np.zeros(3)}, "change['norm'] is a numpy.ndarray (3,) of float64: give a function"),
    ],
)  # fmt: skip
def test_what_names_no_step_or_is_no_function(change, message):
    model, pixels = model_and_pixels()
    ran = []
    with pytest.raises(InputError, match=re.escape(message)):
        model(pixels, change={"embed.patches": ran.append, **change})
    assert not ran  # refused before anything is computed


def test_an_error_of_the_function_is_its_own():
    model, pixels = model_and_pixels()
    with pytest.raises(ZeroDivisionError):
        model(pixels, change={"norm": lambda array: 1 / 0})
