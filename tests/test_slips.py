"""Wrong calls, as they happen: each is answered by what was given and what to do, in one short line."""

import io

import numpy as np
import pytest
from PIL import Image

import numpy_vit
from numpy_vit import Embedder, InputError, NumpyVitError, ViT, ViTConfig
from numpy_vit.errors import LONGEST

from conftest import DATA, crooked_config

PICTURE = Image.new("RGB", (8, 8))
PROBS = "blocks.0.attention.probs"


class Foreign:
    """Another library's model or config: to print it takes pages."""

    def __repr__(self):
        return "Foreign(\n" + "weights, " * 5000 + ")"


class Tensor:
    """Another library's array, which NumPy cannot read (bfloat16, one that requires gradients, one on a GPU)."""

    shape, dtype = (1, 3, 64, 64), "torch.bfloat16"

    def __array__(self, *_, **__):
        raise TypeError("Got unsupported ScalarType BFloat16")

    def detach(self):
        return self


@pytest.fixture(scope="module")
def model():
    return numpy_vit.load()


@pytest.fixture(scope="module")
def pixels():
    return np.zeros((1, 3, 64, 64), np.float32)


# The call -> a part of what was given, and a part of what to do.
SLIPS = {
    "a path for pixels": (lambda m, p: m("x.png"), "not 'x.png'", "model.preprocess"),
    "nothing for pixels": (lambda m, p: m(None), "not None", "model.preprocess"),
    "a picture for pixels": (lambda m, p: m(PICTURE), "PIL.Image", "model.preprocess"),
    "pictures for pixels": (lambda m, p: m([PICTURE]), "uint8", "model.preprocess"),
    "paths for pixels": (lambda m, p: m(["x.png"]), "(1,)", "preprocess them first"),
    "bytes for pixels": (lambda m, p: m((255 * p).astype(np.uint8)), "uint8", "preprocess them first"),
    "channels last": (lambda m, p: m(p.transpose(0, 2, 3, 1)), "64 channels", "transpose(0, 3, 1, 2)"),
    "no batch": (lambda m, p: m(p[0]), "(3, 64, 64)", "pixels[None]"),
    "no batch, channels last": (lambda m, p: m(p[0].transpose(1, 2, 0)), "(64, 64, 3)", "transpose(2, 0, 1)[None]"),
    "a tensor NumPy cannot read": (lambda m, p: m(Tensor()), "torch.bfloat16", "float().cpu().numpy()"),
    "another size": (lambda m, p: m(p[:, :, :32]), "32x64", "resize_positions=True"),
    "pixels that overflow": (lambda m, p: m(p + np.float32(1e38)), "1e+38", "-3 to 3"),
    "pixels that are no numbers": (lambda m, p: m(p * np.nan), "NaN", "model.preprocess"),
    "an option misspelt": (lambda m, p: m(p, recrd=True), "recrd", ""),
    "options by position": (lambda m, p: m(p, True), "3 were given", ""),
    "record: a name misspelt": (lambda m, p: m(p, record=PROBS[:-1]), PROBS[:-1], f"did you mean '{PROBS}'"),
    "record: a number": (lambda m, p: m(p, record=3), "record is 3", "give True, a step's name"),
    "record: an array": (lambda m, p: m(p, record=p), "float32", "give True, a step's name"),
    "record: a name of pages": (lambda m, p: m(p, record="x" * 5000), "xxx", "model.step_names()"),
    "change: no dictionary": (lambda m, p: m(p, change=np.tanh), "ufunc", "give a dictionary"),
    "change: an array": (lambda m, p: m(p, change={PROBS: p}), "float32", "give a function"),
    "change: gives nothing": (lambda m, p: m(p, change={PROBS: lambda a: None}), "None", "must return an array (1, 6, 65, 65)"),
    "change: another shape": (lambda m, p: m(p, change={PROBS: lambda a: a[0]}), "(6, 65, 65)", "expected (B=1 H=6"),
    "hidden states unasked": (lambda m, p: m(p).hidden_states, "not kept", 'record="hidden_states"'),
    "preprocess: bytes": (lambda m, p: m.preprocess(b"\x89PNG" * 999), "bytes", "io.BytesIO"),
    "preprocess: an open file": (lambda m, p: m.preprocess(io.BytesIO(b"123")), "BytesIO", "PIL.Image.open"),
    "preprocess: floats": (lambda m, p: m.preprocess(p[0, 0]), "float32 (64, 64)", "model(pixels)"),
    "preprocess: channels first": (lambda m, p: m.preprocess(np.zeros((3, 8, 9), np.uint8)), "(3, 8, 9)", "transpose(1, 2, 0)"),
    "preprocess: a batch": (lambda m, p: m.preprocess(np.zeros((2, 8, 8, 3), np.uint8)), "(2, 8, 8, 3)", "list(array)"),
    "preprocess: a tensor": (lambda m, p: m.preprocess(Tensor()), "Tensor", "tensor.numpy()"),
    "preprocess: a dictionary": (lambda m, p: m.preprocess({"image": "x.png"}), "a dict", "give a path"),
    "load: a variant": (lambda m, p: numpy_vit.load("ViT-B/16"), "ViT-B/16", "random_model"),
    "load: weights": (lambda m, p: numpy_vit.load({"weight": Foreign()}), "a dict", "a file, a folder or a hub name"),
    "load: a model": (lambda m, p: numpy_vit.load(Foreign()), "Foreign", "a file, a folder or a hub name"),
    "load: a dtype": (lambda m, p: numpy_vit.load(dtype="float16"), "float16", "float32, float64 or portable"),
    "load: a device": (lambda m, p: numpy_vit.load("digits", device="cuda"), "device", ""),
    "variant: none": (lambda m, p: numpy_vit.variant("ViT-22B"), "ViT-22B", "known: ViT-Ti/16, S/32"),
    "variant: a config": (lambda m, p: numpy_vit.variant(Foreign()), "Foreign", "the name of a published variant"),
    "random_model: a number": (lambda m, p: numpy_vit.random_model(3), "is 3", "give a ViTConfig"),
    "random_model: a seed": (lambda m, p: numpy_vit.random_model(m.config, seed=0.5), "seed is 0.5", "a whole number"),
    "trace: weights": (lambda m, p: numpy_vit.trace({"weight": Foreign()}), "a dict", "give a ViTConfig"),
    "trace: a field misspelt": (lambda m, p: numpy_vit.trace(depht=2), "depht", "did you mean 'depth'"),
    "trace: a size": (lambda m, p: numpy_vit.trace(size="224x224"), "'224x224'", "(height, width)"),
    "Embedder: a model": (lambda m, p: Embedder(Foreign()), "Foreign", "numpy_vit.load"),
    "Embedder: an output": (lambda m, p: Embedder(what="cls"), "'cls'", "pooled, image_embedding"),
    "Embedder: a size": (lambda m, p: Embedder(size="8"), "'8'", "(height, width)"),
    "ViT: weights": (lambda m, p: ViT(m.config, None), "None", "numpy_vit.load"),
    "ViT: a config": (lambda m, p: ViT(Foreign(), m.tensors), "Foreign", "numpy_vit.ViTConfig"),
    "ViT: lists": (lambda m, p: ViT(m.config, {"head.bias": [1.0]}), "[1.0]", "a NumPy array"),
    "ViTConfig: a field misspelt": (lambda m, p: ViTConfig.from_dict({"head": 3}), "head", "did you mean 'heads'"),
    "parameter_count: a model": (lambda m, p: numpy_vit.parameter_count(Foreign()), "Foreign", "give a ViTConfig"),
    "set_threads: none": (lambda m, p: numpy_vit.set_threads(0), "0", "from 1 on"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_a_wrong_call_is_answered(slip, model, pixels, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    call, given, todo = SLIPS[slip]
    with pytest.raises((NumpyVitError, TypeError)) as caught:
        call(model, pixels)
    said = str(caught.value)
    assert len(said) < 200 and "\n" not in said
    assert given in said and todo in said, said
    assert todo or caught.type is TypeError  # Python's own


def test_forty():
    assert len(SLIPS) >= 40


def test_no_message_is_longer_than_a_screen(run, tmp_path):
    long = "9" * 100_000
    (tmp_path / "config.json").write_text('{"model_type": "vit", "' + long + '": 1, "hidden_size": "' + long + '"}')
    for words in (
        ["trace", long],
        ["trace", f"{long}=1"],
        ["trace", "ViT-B/16", f"width={long[:400]}"],
        ["trace", "ViT-B/16", f"image={long[:4000]}"],
        ["trace", "ViT-B/16", "--batch", long],
        ["trace", "--" + long],
        ["trace", tmp_path / "config.json"],
        ["predict", "--weights", long],
        [long],
    ):
        status, out, err = run(*words)
        assert status == 2 and not out and len(err.splitlines()) == 1, words[0]
        assert len(err) < LONGEST + 100, (len(err), err[:80])


def test_what_a_message_leaves_out_is_the_middle():
    said = str(InputError("file.json: " + "x" * 5000 + ": give another"))
    assert said.startswith("file.json: xxx") and " [...] " in said and said.endswith(": give another")
    assert str(InputError("a\nb\x1b[2J")) == r"a b\x1b[2J"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_largest_pixels_that_are_taken_do_not_overflow(dtype):
    """From 1e18 on the variance of float32 tokens is infinite: layer norm makes zeros of them, and logits finite ones."""
    config = crooked_config()
    small = np.random.default_rng(0).uniform(-1, 1, (2, 3, *config.image))
    small.flat[0] = 1
    model, accurate = numpy_vit.random_model(config, dtype=dtype), numpy_vit.random_model(config, dtype="float64")
    with np.errstate(all="raise", under="ignore"):
        logits = model((1e6 * small).astype(dtype)).logits
    reference = accurate(1e6 * small).logits
    assert np.abs(logits - reference).max() < 1e-5 * np.abs(reference).max()
    for wrong in (1.1e6, -1.1e6, np.inf, np.nan):
        small.flat[7] = wrong / 1e6
        with pytest.raises(InputError, match="pixels (are as large as|hold NaN or infinite)"):
            model((1e6 * small).astype(dtype))


@pytest.mark.parametrize("block", [64, 1 << 18])
def test_what_is_heard_is_not_written_again(block, monkeypatch):
    """BEiT: each of the arrays around softmax is what it is, whichever of them is asked for; in tiles and whole."""
    monkeypatch.setattr("numpy_vit.arithmetic.parallel.BLOCK", block)
    config = crooked_config(relative_positions=True, positions="none")
    model = numpy_vit.random_model(config)
    pixels = np.random.default_rng(0).normal(size=(2, 3, *config.image)).astype(np.float32)
    whole = {}
    model(pixels, record=lambda name, array, dims: whole.update({name: array.copy()}))
    for name in ("scores", "biased_scores", "probs", "query", "context"):
        alone = model(pixels, record=f"blocks.*.attention.{name}").steps
        assert len(alone) == config.depth
        for step, array in alone.items():
            assert np.allclose(array, whole[step], rtol=1e-5, atol=1e-6), step


def test_trace_takes_what_the_command_takes():
    from numpy_vit.models.loading import find_config

    folder = DATA / "classifier"
    config, _ = find_config(folder / "config.json")

    class Theirs:
        """As transformers' configs and models are."""

        def to_dict(self):
            import json

            return json.loads((folder / "config.json").read_text())

    class TheirModel:
        config = Theirs()

    for source in (folder, str(folder), folder / "config.json", Theirs(), TheirModel(), numpy_vit.load(folder), config):
        assert numpy_vit.trace(source).config == config
    assert numpy_vit.trace("digits").config == numpy_vit.load().config
    assert numpy_vit.trace("ViT-B/16").parameters == numpy_vit.parameter_count("ViT-B/16") == 86_567_656
    with pytest.raises(InputError, match="'nowhere' is no variant, file, folder or cached hub name"):
        numpy_vit.trace("nowhere")


def test_computed_frequencies_are_not_counted_as_learned():
    config = ViTConfig(
        image=(224, 224), patch=16, channels=3, width=1024, depth=24, heads=16, mlp=4096, classes=0, pooler=0, eps=1e-5,
        activation="gelu", pooling="class", position_rule="bicubic", qkv_bias=True, without_bias=("attention.key",),
        registers=4, positions="none", rope="centred_halves", layer_scale=True,
    )  # fmt: skip
    assert numpy_vit.parameter_count(config) == numpy_vit.trace(config).parameters == 303_128_576  # DINOv3 ViT-L/16


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_what_transformers_and_torch_give(model, pixels):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    theirs = transformers.ViTForImageClassification(config)
    assert numpy_vit.trace(theirs).parameters == theirs.num_parameters()
    assert numpy_vit.trace(config).parameters == transformers.ViTModel(config).num_parameters()  # no architecture is named
    for wrong in (config, theirs, theirs.state_dict()):
        for call in (numpy_vit.load, Embedder, numpy_vit.random_model, lambda weights: ViT(model.config, weights)):
            with pytest.raises(InputError) as caught:
                call(wrong)
            assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)
    tensor = torch.tensor(pixels)
    assert np.array_equal(model(tensor).logits, model(pixels).logits)
    for wrong in (tensor.bfloat16(), tensor.clone().requires_grad_()):
        with pytest.raises(InputError, match=r"pixels.detach\(\).float\(\).cpu\(\).numpy\(\) is one"):
            model(wrong)
        assert np.array_equal(model(wrong.detach().float().cpu().numpy()).logits, model(pixels).logits)
