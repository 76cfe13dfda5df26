"""The forward pass against what transformers computed (stored arrays, tests/make_upstream_arrays.py)."""

import pickle

import numpy as np
import pytest

import numpy_vit
from numpy_vit.config import POSITION_RULES
from numpy_vit.positions import RULES, resize_positions

from conftest import DATA, crooked_config, crooked_pixels, relative_error

EPS32 = np.finfo(np.float32).eps


@pytest.mark.parametrize("name", ["classifier", "backbone"])
@pytest.mark.filterwarnings("ignore:.*preprocessor_config")
def test_every_stored_step_of_transformers(name):
    """float64: every hidden state, attention map, the pooler and the logits within 1e-12 x max."""
    stored = np.load(DATA / f"{name}.npz")
    model = numpy_vit.load(DATA / name, dtype="float64")
    out = model(stored["pixels"], record=True, strict=True)
    compared = 0
    for step in stored.files:
        if step != "pixels":
            assert relative_error(out.steps[step], stored[step]) < 1e-12, step
            compared += 1
    assert compared == 2 * model.config.depth + 3
    assert [h.shape for h in out.hidden_states] == [stored["embed.positions"].shape] * (model.config.depth + 1)
    assert relative_error(out.attentions[-1], stored[f"blocks.{model.config.depth - 1}.attention.probs"]) < 1e-12
    assert relative_error(out.last_hidden_state, stored["norm"]) < 1e-12


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"])
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_float32_is_within_32_eps_of_float64_at_every_step(activation, pooling):
    config = crooked_config(activation=activation, pooling=pooling, depth=6)
    pixels = crooked_pixels(config, dtype="float32")
    fast = numpy_vit.random_model(config, seed=5)(pixels, record=True, strict=True)
    accurate = numpy_vit.random_model(config, seed=5, dtype="float64")(pixels, record=True, strict=True)
    for step, array in accurate.steps.items():
        assert fast.steps[step].dtype == np.float32
        assert relative_error(fast.steps[step], array) <= 32 * EPS32, step


def resized(grid, new, rule):
    """grid (rows, columns, D) -> (new rows, new columns, D)."""
    positions = np.concatenate([grid[0, :1], grid.reshape(-1, grid.shape[2])])
    return resize_positions(positions, grid.shape[:2], new, rule)[1:].reshape(*new, -1)


def test_the_config_knows_the_rules():
    assert set(POSITION_RULES) == {*RULES, "none"}


def test_positions_are_resized_as_torch_does():
    stored = np.load(DATA / "positions.npz")
    keys = [key for key in stored.files if key.endswith(".old")]
    assert len(keys) == 6
    for key in keys:
        expected = stored[key.replace("old", "new")]
        assert relative_error(resized(stored[key], expected.shape[:2], "bicubic"), expected) < 1e-12, key


def test_another_image_size_is_asked_for_not_assumed():
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    larger = np.random.default_rng(0).normal(size=(2, 3, 16, 12))
    with pytest.raises(numpy_vit.InputError, match=r"pixels are 16x12, the model takes 12x20"):
        model(larger)
    out = model(larger, resize_positions=True, record=["embed.*", "attentions"], strict=True)
    assert out.last_hidden_state.shape == (2, 13, 15)
    assert out.steps["embed.resized_positions"].shape == (13, 15)
    assert out.attentions[0].shape == (2, 5, 13, 13)
    assert np.array_equal(out.steps["embed.resized_positions"][0], model.tensors["embed.positions"][0])
    with pytest.raises(numpy_vit.InputError, match="not a multiple of the patch size 4"):
        model(larger[..., :11], resize_positions=True)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((3, 12, 20)), r"must be an array \(B, C, Y, X\) .* not \(3, 12, 20\): one picture is a batch of one"),
        (np.zeros((2, 12, 20, 3)), r"pixels have 12 channels, the model takes 3: channels come first"),
        ("picture.png", r"not 'picture.png': model.preprocess"),
        (None, r"not None: model.preprocess"),
        ({}, r"not a dict: model.preprocess"),
        (np.zeros((1, 1, 12, 20)), "pixels have 1 channels, the model takes 3"),
        (np.zeros((1, 3, 12, 20), np.uint8), "preprocess them first"),
        (np.zeros((0, 3, 12, 20)), "an empty batch"),
    ],
)
def test_pixels_that_do_not_fit(pixels, message):
    with pytest.raises(numpy_vit.InputError, match=message):
        numpy_vit.random_model(crooked_config())(pixels)


def test_recording():
    model = numpy_vit.random_model(crooked_config())
    pixels = crooked_pixels(model.config)
    assert model(pixels).steps == {}
    assert list(model(pixels, record="blocks.1.attention.probs").steps) == ["blocks.1.attention.probs"]
    assert list(model(pixels, record=["norm", "*.scores"]).steps) == [f"blocks.{n}.attention.scores" for n in range(3)] + [
        "norm"
    ]
    assert list(model(pixels, record=True).steps) == model.step_names()
    with pytest.raises(numpy_vit.InputError, match="no step is called 'atention.probs'"):
        model(pixels, record="atention.probs")
    out = model(pixels, record=["attentions", "hidden_states"])
    assert len(out.attentions) == 3 and len(out.hidden_states) == 4
    assert np.array_equal(out.hidden_states[-1], out.steps["blocks.2.residual2"])
    out = pickle.loads(pickle.dumps(model(pixels, record="attentions")))
    assert out.attentions[2].shape == (3, 5, 16, 16)
    with pytest.raises(numpy_vit.InputError, match='hidden_states were not kept: run model.pixels, record="hidden_states"'):
        out.hidden_states  # noqa: B018


def test_every_output_is_its_own_memory():
    model = numpy_vit.random_model(crooked_config())
    for record in (None, True):
        out = model(crooked_pixels(model.config), record=record)
        assert not np.may_share_memory(out.pooled, out.last_hidden_state)


def test_tensors_that_do_not_fit_the_config():
    model = numpy_vit.random_model(crooked_config())
    for changes, message in (
        ({"norm.weight": None}, "tensor 'norm.weight' is missing"),
        ({"norm.weight": np.zeros(3, np.float32)}, r"'norm.weight' is \(3,\), the config says \(15,\)"),
        ({"nrom.weight": np.zeros(15, np.float32)}, "'nrom.weight' is not used; did you mean 'norm.weight'"),
        ({"norm.weight": np.zeros(15)}, "all float32 or all float64"),
    ):
        tensors = {name: t for name, t in {**model.tensors, **changes}.items() if t is not None}
        with pytest.raises(numpy_vit.InputError, match=message):
            numpy_vit.ViT(model.config, tensors)


def test_the_trained_models_of_others(foreign):
    for name in ("libaohang_cifar10", "researchase_mnist_3class"):
        golden = np.load(foreign / name / "golden.npz")
        with pytest.warns(UserWarning, match="no preprocessor_config.json"):
            model = numpy_vit.load(foreign / name / "hf", dtype="float64")
        out = model(golden["pixel_values_f64"], strict=True)
        assert relative_error(out.logits, golden["logits_f64"]) < 1e-12, name


@pytest.mark.slow
def test_mnist_digits_0_to_2(foreign):
    """All 3,147 test pictures of 0, 1 and 2, through the model somebody else trained on them: at least 96 % right."""
    import gzip

    images = np.frombuffer(gzip.open(foreign / "images/mnist_t10k-images-idx3-ubyte.gz").read(), np.uint8, offset=16)
    labels = np.frombuffer(gzip.open(foreign / "images/mnist_t10k-labels-idx1-ubyte.gz").read(), np.uint8, offset=8)
    chosen = labels < 3
    pixels = (images.reshape(-1, 1, 28, 28)[chosen] / 255 - 0.1307) / 0.3081
    with pytest.warns(UserWarning, match="no preprocessor_config.json"):
        model = numpy_vit.load(foreign / "researchase_mnist_3class" / "hf")
    right = model(pixels).logits.argmax(axis=-1) == labels[chosen]
    assert chosen.sum() == 3147
    assert right.mean() >= 0.96


def test_a_record_that_is_none():
    model = numpy_vit.random_model(crooked_config())
    with pytest.raises(numpy_vit.InputError, match="record is 5"):
        model(crooked_pixels(model.config), record=5)
