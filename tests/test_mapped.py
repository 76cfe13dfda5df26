"""Home-made models through rename tables: the foreign trained models, and tables that make no sense."""

import json

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.files.converted import write_converted

from conftest import DATA, relative_error

MODELS = {
    "libaohang_cifar10": "original_vit_cifar10.npz",
    "libaohang_mnist": "original_vit_mnist.npz",
    "researchase_mnist_3class": "original_vit_mnist_3class.pt",
    "researchase_mnist_gpu": "original_vit_mnist_gpu.pt",
}


@pytest.mark.parametrize("name", MODELS)
def test_the_foreign_models_as_their_authors_saved_them(name, tmp_path, foreign):
    """One matrix for every head, ReLU, no last norm, heads wider than the model: all by a table of names."""
    folder = foreign / name
    golden = np.load(folder / "golden.npz")
    checkpoint = convert(folder / MODELS[name], rename=DATA / "maps" / f"{name}.json")
    write_converted(tmp_path / "m.safetensors", checkpoint)
    model = numpy_vit.load(tmp_path / "m.safetensors", dtype="float64")
    logits = model(golden["pixel_values_f64"], strict=True).logits
    assert relative_error(logits, golden["logits_f64"]) < 1e-12
    info = json.loads((folder / "info.json").read_text())
    stored = convert_sizes(folder / MODELS[name])
    assert sum(t.size for t in model.tensors.values()) == stored
    assert (model.config.inner_width, model.config.final_norm) == (info["inner"], "tokens" if info["final_norm"] else "none")
    assert (logits.argmax(axis=1) == golden["labels"]).mean() == info["acc_golden_subset"]


def convert_sizes(file):
    """How many numbers a file holds."""
    from numpy_vit.convert.sources import read_weights

    return sum(tensor.data.size for tensor in read_weights(file)[0].values())


@pytest.fixture
def home_made(tmp_path):
    """A small home-made model and its table."""
    rng = np.random.default_rng(0)
    shapes = {"patch.w": (48, 8), "patch.b": (8,), "pos": (1, 4, 8), "ln.g": (8,), "ln.b": (8,), "out.w": (8, 3), "out.b": (3,)}
    for n in (0, 1):
        shapes |= {f"{n}.{part}.{h}": (8, 4) for part in "qkv" for h in (0, 1)}
        shapes |= {f"{n}.o.w": (8, 8), f"{n}.o.b": (8,), f"{n}.up.w": (8, 12), f"{n}.up.b": (12,)}
        shapes |= {f"{n}.down.w": (12, 8), f"{n}.down.b": (8,), **{f"{n}.{i}.{e}": (8,) for i in (1, 2) for e in "gb"}}
    np.savez(
        tmp_path / "m.npz", **{name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}, step=np.int64(3)
    )
    names = {"embed.projection": "patch", "attention.output": "o", "mlp.hidden": "up", "mlp.output": "down", "head": "out"}
    tensors = {"embed.positions": "pos", "norm.weight": "ln.g", "norm.bias": "ln.b"}
    for ours, theirs in names.items():
        block = ours.startswith(("attention", "mlp"))
        for end in ("weight", "bias"):
            name = f"blocks.{{n}}.{ours}.{end}" if block else f"{ours}.{end}"
            tensors[name] = ("{n}." if block else "") + f"{theirs}.{end[0]}"
    tensors |= {f"blocks.{{n}}.norm{i}.{end}": f"{{n}}.{i}.{e}" for i in (1, 2) for end, e in (("weight", "g"), ("bias", "b"))}
    parts = {"query": "q", "key": "k", "value": "v"}
    tensors |= {f"blocks.{{n}}.attention.{part}.weight": f"{{n}}.{p}.{{h}}" for part, p in parts.items()}
    config = dict(image=8, patch=4, channels=3, heads=2, eps=1e-5, activation="silu", pooling="mean", position_rule="bicubic")
    content = {"layout": "in out", "config": config, "tensors": tensors, "left_out": ["step"]}

    def written(**changes):
        (tmp_path / "map.json").write_text(json.dumps({**content, **changes}))
        return tmp_path / "m.npz", tmp_path / "map.json", content

    return written


def test_a_home_made_model(home_made):
    file, table, _ = home_made()
    checkpoint = convert(file, rename=table)
    config = checkpoint.config
    assert (config.depth, config.mlp, config.class_token, config.qkv_bias, config.positions) == (2, 12, False, False, "all")
    arrays = np.load(file)
    joined = np.concatenate([arrays["1.k.0"], arrays["1.k.1"]], axis=1)
    assert np.array_equal(checkpoint.tensors["blocks.1.attention.key.weight"].data, joined)
    assert checkpoint.source["family"] == "mapped"


def test_what_does_not_fit_is_said_side_by_side(home_made):
    file, table, content = home_made()
    names = dict(content["tensors"])
    names["blocks.{n}.mlp.output.wieght"] = names.pop("blocks.{n}.mlp.output.weight")
    home_made(tensors=names)
    side_by_side = r"'blocks.0.mlp.output.weight' is missing; did you mean .*; missing: blocks.0.*; not used: blocks.0.*wieght"
    with pytest.raises(InputError, match=side_by_side):
        convert(file, rename=table)
    home_made(left_out=[])
    with pytest.raises(InputError, match="tensor 'step' is not used"):
        convert(file, rename=table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor": {}}, "unknown key 'tensor'; did you mean 'tensors'"),
        ({"tensors": {}}, "'tensors' must be a table"),
        ({"config": {"head": 3}}, "config: unknown field 'head'; did you mean 'heads'"),
        ({"config": {"heads": 10**9}}, "heads is 1000000000: it must be a whole number, 1 to 10,000"),
        ({"config": {"depth": "4"}}, "depth is '4'"),
        ({"layout": "sideways"}, "layout is one of"),
        ({"left_out": "step"}, "'left_out' must be a list"),
        ({"tensors": {"norm": 3}}, "'norm': give a name"),
        ({"tensors": {"norm": {"from": "x", "prat": 1}}}, "unknown key 'prat'"),
        ({"tensors": {"norm": {"from": "x", "part": [3, 3]}}}, r"part \[3, 3\] is not"),
        ({"tensors": {"norm": "x{n**9}"}}, "is not made of n, h, whole numbers"),
        ({"tensors": {"norm": "x{__import__('os')}"}}, "is not made of n, h, whole numbers"),
    ],
)
def test_tables_that_make_no_sense(home_made, changes, message):
    file, table, _ = home_made(**changes)
    with pytest.raises(InputError, match=message) as error:
        convert(file, rename=table)
    assert "\n" not in str(error.value)
