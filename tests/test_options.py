"""What other families add to the plain ViT: every option runs, is traced, recorded and stored as the plain model is.

Agreement with the families' own code is tested in test_families.py.
"""

import numpy as np
import pytest
from options import OPTIONS, PLAIN

import numpy_vit
from numpy_vit import InputError
from numpy_vit.config import ViTConfig
from numpy_vit.families import embedding_output
from numpy_vit.parameters import parameter_count, parameter_shapes
from numpy_vit.positions import distance_numbers
from numpy_vit.rotary import cos_sin, rotation_tables

from conftest import relative_error

every_option = pytest.mark.parametrize("option", OPTIONS)


def model_with(option, dtype="float64"):
    return numpy_vit.random_model(ViTConfig(**PLAIN).replace(**OPTIONS[option]), seed=3, dtype=dtype)


def pixels_of(config, batch=2):
    return np.random.default_rng(5).normal(size=(batch, config.channels, *config.image))


@every_option
def test_the_trace_is_the_run(option):
    model = model_with(option)
    seen = []
    model(pixels_of(model.config), record=lambda name, array, dims: seen.append((name, array.shape)), strict=True)
    traced = numpy_vit.trace(model.config, batch=2, dtype="float64")
    assert [(row.name, row.shape) for row in traced] == seen
    assert embedding_output(model.config) in model.step_names()
    learned = sum(tensor.size for name, tensor in model.tensors.items() if not name.endswith("frequencies"))
    assert traced.parameters == parameter_count(model.config) == learned
    assert "{" not in " ".join(row.formula + row.why + row.why_zh for row in traced)


@every_option
def test_every_precision(option):
    """float32 within its bound of float64, and portable equal to float64 but for rounding."""
    exact = model_with(option)
    pixels = pixels_of(exact.config)
    want = exact(pixels, record=True)
    for dtype, bound in (("float32", 32 * 2.0**-23), ("portable", 1e-13)):
        steps = model_with(option, dtype)(pixels, record=True).steps
        assert list(steps) == list(want.steps)
        for name, array in steps.items():
            assert relative_error(array, want.steps[name]) < bound, (dtype, name)


@every_option
def test_another_image_size(option):
    model = model_with(option)
    pixels = np.random.default_rng(6).normal(size=(2, 3, 24, 16))
    out = model(pixels, resize_positions=True)
    assert out.last_hidden_state.shape == (2, model.config.special_tokens + 24, 24)
    traced = numpy_vit.trace(model.config, batch=2, size=(24, 16))
    assert traced.rows[-1].shape[0] == 2


@every_option
def test_stored_and_loaded(option, tmp_path):
    from numpy_vit.files.converted import Checkpoint, read_converted, write_converted
    from numpy_vit.files.tensorfile import tensor_of

    model = model_with(option)
    tensors = {name: tensor_of(array) for name, array in model.tensors.items()}
    write_converted(tmp_path / "m.safetensors", Checkpoint(model.config, tensors, None, None, {}))
    assert read_converted(tmp_path / "m.safetensors").config == model.config
    again = numpy_vit.load(tmp_path / "m.safetensors", dtype="float64")
    pixels = pixels_of(model.config)
    assert np.array_equal(again(pixels).last_hidden_state, model(pixels).last_hidden_state)


@every_option
def test_every_tensor_matters(option):
    """Each tensor of the model, changed, changes what comes out; but the key's bias, which softmax takes out."""
    model = model_with(option)
    pixels = pixels_of(model.config, 1)

    def outputs(tensors):
        out = numpy_vit.ViT(model.config, tensors)(pixels)
        return np.concatenate(
            [
                np.ravel(x)
                for x in (out.pooled, out.logits, out.image_embedding, out.image_tokens, out.deepstack)
                if x is not None
            ]
        )

    before = outputs(model.tensors)
    for name, array in model.tensors.items():
        change = np.random.default_rng(7).normal(size=array.shape)
        same = relative_error(outputs({**model.tensors, name: array + 0.1 * change}), before) < 1e-12
        last = "key_norm.bias" if model.config.qk_norm else "key.bias"  # what is added to the keys last
        rotated = model.config.rope != "none" and not name.startswith("map.")
        bounded = model.config.clipped_linears and last == "key.bias" and name.startswith("blocks.")
        free = name.endswith(f"attention.{last}") and not rotated and not bounded
        assert same == free, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_token": False}, "pooling 'class' needs a class token"),
        ({"distillation_head": True}, "needs a distillation token"),
        ({"pre_logits": True}, "pre_logits needs a pooler"),
        ({"rope": "centred_halves", "rope_grid": (2, 2)}, "counts no rows and columns"),
        ({"rope": "centred_halves", "inner": 18}, "heads of 4, 8"),
        ({"without_bias": "heed"}, "without_bias"),
        ({"without_bias": ("mlp.gate",)}, "mlp.gate, which is not there"),
        ({"relative_positions": True, "registers": 2}, "relative positions"),
        ({"registers": -1}, "registers is -1"),
        ({"layer_scale": 1}, "layer_scale is 1: it must be true or false"),
        ({"positions": "some"}, "positions 'some' is not one of all, patches, axes, sincos, none"),
        ({"positions": "none", "rope": "index_halves", "position_grid": (4, 4)}, "position_grid says for which patches"),
        ({"position_grid": (0, 4)}, "height is 0"),
    ],
)
def test_senseless_options_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        ViTConfig(**{**PLAIN, **changes})


def test_a_plain_config_says_nothing_of_options():
    plain = ViTConfig(**PLAIN)
    assert set(plain.to_dict()) == set(PLAIN)
    assert ViTConfig.from_dict(plain.to_dict()) == plain
    assert "special" not in " ".join(parameter_shapes(plain))


@pytest.mark.peers
def test_cosines_and_sines_are_right_to_the_last_bit():
    import mpmath as mp

    mp.mp.dps = 50
    places, frequencies = (0.0, -0.75, 1 / 3, 15.0, -1.0), (1.0, 6.283185307179586, 1e-4, 0.1778279410038923)
    table = cos_sin(places, frequencies)
    for i, place in enumerate(places):
        for j, frequency in enumerate(frequencies):
            angle = mp.mpf(place * frequency)
            assert (table[0, i, j], table[1, i, j]) == (float(mp.cos(angle)), float(mp.sin(angle)))


def test_rotation_makes_scores_depend_on_distance_alone():
    """The same query and key everywhere: what they make depends only on how many rows and columns are between."""
    from numpy_vit.rotary import rotate

    for rope, grid in (("centred_halves", None), ("index_pairs", (3, 4))):
        cos, sin = rotation_tables(np.array([1.0, 0.3]), (3, 4), rope, grid)
        q, k = (np.broadcast_to(np.random.default_rng(n).normal(size=8), (1, 1, 13, 8)) for n in (1, 2))
        scores = (rotate(q, cos, sin, rope) @ rotate(k, cos, sin, rope).swapaxes(-1, -2))[0, 0]
        numbers = distance_numbers((3, 4))
        for number in np.unique(numbers[1:, 1:]):
            same = scores[1:, 1:][numbers[1:, 1:] == number]
            assert np.ptp(same) < 1e-12
        assert np.unique(np.round(scores[1, 1:], 9)).size == 12  # and on nothing less


def test_what_no_patch_covers_is_not_used():
    """SigLIP so400m has 384 pixels in patches of 14: 27 x 27 of them, and 6 pixels over, as torch's convolution has it."""
    config = ViTConfig(**PLAIN).replace(image=(14, 21), depth=1)
    assert (config.grid, config.patches, config.tokens) == ((3, 5), 15, 16)
    model = numpy_vit.random_model(config, dtype="float64")
    pixels = pixels_of(config)
    whole = model(pixels, record=True, strict=True)
    smaller = numpy_vit.ViT(config.replace(image=(12, 20)), model.tensors)(pixels[:, :, :12, :20])
    assert np.array_equal(whole.logits, smaller.logits)
    assert numpy_vit.trace(config)[0].shape == (1, 15, 48)
    with pytest.raises(InputError, match="not a multiple of the patch size"):
        numpy_vit.trace(config, image=(14, 21))
