"""vit.js, the forward pass of the page of `explain`, and what a page that computes carries.

In a browser: test_explain_live_browser.py.
"""

import base64
import dataclasses
import json
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest
from explained import Page, saved
from javascript_port import SWITCHES, assert_every_step_is_ok, checked
from options import OPTIONS, PLAIN
from PIL import Image

import numpy_vit
from numpy_vit import ViTConfig
from numpy_vit.cli import main
from numpy_vit.explain import code, equations, live
from numpy_vit.golden.folder import read_dump
from numpy_vit.ops import erf
from numpy_vit.parameters import parameter_shapes

import pictures
from conftest import REPOSITORY

SAMPLES = sorted((REPOSITORY / "weights" / "samples").glob("*/*.png"))
SCRIPT = REPOSITORY / "numpy_vit" / "explain" / "vit.js"


def node(folder, program, **data):
    """What a program for Node.js prints, as JSON; it has vit.js as `vit` and the data as `data`."""
    if shutil.which("node") is None:
        pytest.skip("no Node.js: the tests in a browser run the same script")
    (folder / "data.json").write_text(json.dumps(data))
    head = f"""
const vit = require({json.dumps(str(SCRIPT))}), fs = require("fs"), data = JSON.parse(fs.readFileSync("data.json"));
const w = data.weights && vit.unpacked(data.weights, data.shapes);
const pixels = data.pixels && {{shape: data.pixels.shape, data: new Float32Array(data.pixels.data)}};
"""
    (folder / "program.js").write_text(head + program)
    done = subprocess.run(["node", "program.js"], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def given(model, pixels):
    """A model and pixels as vit.js takes them."""
    pixels = np.asarray(pixels, np.float32)
    return {
        "weights": live.packed_weights(model),
        "shapes": {name: list(shape) for name, shape in parameter_shapes(model.config).items()},
        "config": model.config.to_dict(),
        "pixels": {"shape": list(pixels.shape), "data": pixels.ravel().tolist()},
    }


RUN = """
for (const [name, changes] of Object.entries(data.switches)) {
  const steps = vit.forward(pixels, w, data.config, {...vit.NO_CHANGES, ...changes});
  fs.writeFileSync(`${name}.safetensors`, vit.safetensors(steps));
}
console.log("0");"""


def float32_model(config, seed):
    """A model with seeded weights that float32 holds exactly, in float64."""
    tensors = numpy_vit.random_model(config, seed=seed, dtype="float64").tensors
    return numpy_vit.ViT(config, {name: array.astype(np.float32).astype(np.float64) for name, array in tensors.items()})


def test_every_step_is_numpys(tmp_path, monkeypatch):
    model = numpy_vit.load(dtype="float64")
    pixels = model.preprocess(SAMPLES[4]).astype(np.float32)
    node(tmp_path, RUN, **given(model, pixels), switches={"none": {}})
    dump = read_dump(tmp_path / "none.safetensors")
    assert_every_step_is_ok(checked(model, pixels, dump, "none", monkeypatch), model)


def test_every_step_is_numpys_with_and_without_each_switch(tmp_path, monkeypatch):
    """Of a smaller model, with as many blocks, heads and patches as the shipped one: in the browser it is that one."""
    sizes = dict(image=(8, 32), patch=2, width=24, depth=6, heads=6, mlp=42, classes=7)
    model = float32_model(ViTConfig(**{**PLAIN, **sizes}), 2)
    pixels = np.random.default_rng(1).normal(size=(1, 3, 8, 32)).astype(np.float32)
    switches = {name: changes for name, (changes, _, _) in SWITCHES.items()}
    node(tmp_path, RUN, **given(model, pixels), switches=switches)
    seen = set()
    for name in SWITCHES:
        dump = read_dump(tmp_path / f"{name}.safetensors")
        assert_every_step_is_ok(checked(model, pixels, dump, name, monkeypatch), model)
        seen.add(dump["logits"].data.tobytes())
    assert len(seen) == len(SWITCHES)  # each of them changes the answer


def test_a_switch_that_is_not_made_in_numpy_is_noticed(tmp_path, monkeypatch):
    model = numpy_vit.load(dtype="float64")
    pixels = model.preprocess(SAMPLES[4]).astype(np.float32)
    node(tmp_path, RUN, **given(model, pixels), switches={"off": {"headsOff": ["2.1"]}})
    result = checked(model, pixels, read_dump(tmp_path / "off.safetensors"), "none", monkeypatch)
    assert not result.passed and result.first.name == "blocks.2.attention.context" and result.first.verdict == "wrong"


@pytest.mark.parametrize(
    "changes", [{}, {"qkv_bias": False}, {"heads": 2, "mlp": 33, "activation": "quick_gelu", "classes": 2}]
)
def test_every_step_of_a_crooked_model(changes, tmp_path, monkeypatch):
    """More columns than rows, odd widths, another number of heads than channels."""
    config = ViTConfig(**{**PLAIN, **changes})
    model = float32_model(config, 3)
    pixels = np.random.default_rng(1).normal(size=(1, 3, 12, 20)).astype(np.float32)
    node(tmp_path, RUN, **given(model, pixels), switches={"none": {}})
    dump = read_dump(tmp_path / "none.safetensors")
    assert_every_step_is_ok(checked(model, pixels, dump, "none", monkeypatch), model)


def test_the_logit_lens_is_norm_and_head_after_every_block(tmp_path):
    model = numpy_vit.load(dtype="float64")
    pixels = model.preprocess(SAMPLES[5]).astype(np.float32)
    lens = node(
        tmp_path,
        "const lens = vit.logitLens(vit.forward(pixels, w, data.config), w, data.config);"
        "console.log(JSON.stringify(lens.map(row => [...row])));",
        **given(model, pixels),
    )
    out = model(pixels, record=True)
    scale, shift = model.tensors["norm.weight"], model.tensors["norm.bias"]
    for found, state in zip(lens, out.hidden_states, strict=True):
        token = state[0, 0]
        normed = (token - token.mean()) / np.sqrt(token.var() + model.config.eps) * scale + shift
        expected = normed @ model.tensors["head.weight"] + model.tensors["head.bias"]
        assert np.abs(np.array(found) - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(np.array(lens[-1]) - out.logits[0]).max() < 1e-5


def test_erf(tmp_path):
    x = np.concatenate([np.linspace(-7, 7, 4001), [0, 1e-8, -1e-8, 40, -40]])
    found = node(tmp_path, "console.log(JSON.stringify(data.x.map(vit.erf)));", x=x.tolist())
    assert np.abs(np.array(found) - erf(x)).max() < 1.2e-7


def rgba(picture):
    """A picture as a canvas has it."""
    picture = picture.convert("RGBA")
    return {"width": picture.width, "height": picture.height, "data": np.asarray(picture).ravel().tolist()}


def from_node(tmp_path, call, cases):
    """What vit.js makes of each case's picture: (Y, X, RGBA) each."""
    program = f"""
    const found = data.cases.map(({{picture, ...c}}) => {{
      picture.data = Uint8ClampedArray.from(picture.data);
      const {{height, width, data}} = {call};
      return {{height, width, data: [...data]}};
    }});
    console.log(JSON.stringify(found));"""
    for found in node(tmp_path, program, cases=cases):
        yield np.reshape(found["data"], (found["height"], found["width"], 4))


def test_pictures_are_resized_as_pillow_does(tmp_path):
    """Within a level: Pillow's weights are whole numbers."""
    sizes = [((97, 61), (64, 64)), ((31, 50), (64, 48)), ((256, 256), (64, 64)), ((20, 20), (20, 20))]
    wanted = [(*both, kind) for both in sizes for kind in ("bilinear", "bicubic")]
    cases = [
        {"picture": rgba(pictures.draw(*before)), "rows": after[0], "columns": after[1], "kind": kind}
        for before, after, kind in wanted
    ]
    found = from_node(tmp_path, "vit.resized(picture, c.columns, c.rows, c.kind)", cases)
    for (before, (rows, columns), kind), array in zip(wanted, found, strict=True):
        resample = getattr(Image.Resampling, kind.upper())
        expected = np.asarray(pictures.draw(*before).convert("RGBA").resize((columns, rows), resample))
        assert np.abs(array - expected.astype(int)).max() <= 1, (before, rows, columns, kind)


def test_pictures_are_prepared_as_numpy_does(tmp_path):
    """Shorter side first, and the middle of what is larger, or smaller, by an odd number too."""
    plain = dataclasses.replace(numpy_vit.load().preprocess_policy, resize="shortest_edge", size=24)
    wanted = [
        (size, dataclasses.replace(plain, crop=crop, crop_rounding=rounding))
        for size in [(40, 67), (67, 40), (24, 24), (20, 31)]
        for crop in [None, (23, 25), (24, 24), (30, 21), (37, 50)]
        for rounding in ("down", "even")
    ]
    cases = [
        {"picture": rgba(pictures.draw(*size)), "policy": {field: getattr(policy, field) for field in live.PREPARED}}
        for size, policy in wanted
    ]
    for (size, policy), array in zip(wanted, from_node(tmp_path, "vit.prepared(picture, c.policy)", cases), strict=True):
        expected = policy.resize_and_crop(pictures.draw(*size))
        assert array.shape[:2] == expected.shape[:2]
        assert np.abs(array[..., :3] - expected.astype(int)).max() <= 1, (size, policy)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_normalised_as_numpy_does(channels, tmp_path):
    picture = pictures.draw(20, 12)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels]
    unsized = dataclasses.replace(numpy_vit.load().preprocess_policy, resize="none", size=None)
    policy = dataclasses.replace(unsized, channels=channels, mean=mean, std=std)
    found = node(
        tmp_path,
        "console.log(JSON.stringify([...vit.normalized(data.picture, data.policy).data]));",
        picture=rgba(picture),
        policy=policy.to_dict(),
    )
    assert np.abs(np.reshape(found, (channels, 20, 12)) - policy(picture)[0]).max() < 1e-6


# What a page carries


def page_of(tmp_path, config=None, *options, picture=SAMPLES[3]):
    target = tmp_path / "page.html"
    weights = [] if config is None else ["--weights", str(saved(config, tmp_path / "model.safetensors"))]
    assert main(["explain", str(picture), "-o", str(target), *weights, *options]) == 0
    return Page(target.read_text("utf-8"))


def test_the_page_of_the_shipped_model_carries_it_and_the_samples(tmp_path):
    page = page_of(tmp_path)
    model, facts = numpy_vit.load(), page.facts["live"]
    assert (tmp_path / "page.html").stat().st_size < 5_000_000
    shapes = {name: tuple(shape) for name, shape in facts["shapes"].items()}
    assert list(shapes.items()) == list(parameter_shapes(model.config).items())
    numbers = np.concatenate([model.tensors[name].ravel() for name in shapes])
    assert page.texts["weights"] == live.packed_weights(model)
    assert np.frombuffer(base64.b64decode(page.texts["weights"]), "<f4").tobytes() == numbers.tobytes()
    assert [sample["name"] for sample in facts["samples"]] == [path.parent.name for path in SAMPLES]
    assert facts["labels"] == model.labels and facts["preprocess"]["size"] == [64, 64]


@pytest.mark.parametrize("option", OPTIONS)
def test_only_the_papers_model_computes(option):
    config = ViTConfig(**{**PLAIN, **OPTIONS[option]})
    assert live.is_plain(config) == (option == "no such option")


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"])
def test_the_papers_model_computes_whatever_its_activation(activation, tmp_path):
    config = ViTConfig(**{**PLAIN, "activation": activation})
    assert live.is_plain(config)
    picture = tmp_path / "picture.png"
    pictures.draw(30, 50).save(picture)
    page = page_of(tmp_path, config, picture=picture)
    assert page.facts["live"]["config"]["activation"] == activation and page.facts["live"]["samples"] == []


def test_a_page_that_does_not_compute_shows_the_recorded_run(tmp_path):
    assert "live" not in page_of(tmp_path, None, "--size", "48x96").facts  # positions are resized: not the weights in the file
    assert not live.computes(numpy_vit.random_model("ViT-Ti/16"), (224, 224))  # 23 MB
    digits = numpy_vit.load()
    assert live.computes(digits, (64, 64), beside=900_000) and not live.computes(digits, (64, 64), beside=1_000_000)


def test_the_lines_shown_are_those_of_the_source(tmp_path):
    """Each is found where it is said to be, and a step's own line names it."""
    config = numpy_vit.load().config
    found = code.code_of_steps(config)
    names = {numpy_vit.parameters.place(name)[1] for name in numpy_vit.load().step_names()}
    assert set(found) == names
    for name, parts in found.items():
        assert f'step("{name.rsplit(".", 1)[-1]}"' in parts[0].code and parts[0].file == "model.py"
        for part in parts:
            lines = (REPOSITORY / "numpy_vit" / part.file).read_text("utf-8").splitlines()
            assert part.code.splitlines()[0].strip() == lines[part.first - 1].strip()
            assert {line.strip() for line in part.code.splitlines()} <= {line.strip() for line in lines}
    assert found["attention.probs"][1].code.startswith("def softmax(") and '"""' not in found["attention.probs"][1].code
    silu = code.code_of_steps(config.replace(activation="silu"))
    assert silu["mlp.silu"][1].code.startswith("def silu(")


@pytest.mark.parametrize("option", OPTIONS)
def test_no_lines_are_shown_of_a_function_that_did_not_run(option):
    config = ViTConfig(**{**PLAIN, **OPTIONS[option]})
    replaced = {function.__name__ for function in numpy_vit.families.uses(config.replace(activation="gelu"))}
    shown = code.code_of_steps(config)
    assert ("norm1" in shown) == ("encoder_block" not in replaced and "forward" not in replaced)
    assert ("mlp.hidden" in shown) == (not {"mlp", "forward"} & replaced)
    assert ("attention.query" in shown) == (not {"multi_head_attention", "forward"} & replaced)


def test_every_step_of_the_papers_model_has_an_equation_in_both_languages():
    for activation in ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu"):
        config = ViTConfig(**{**PLAIN, "activation": activation})
        for row in numpy_vit.trace(config).rows:
            equation = equations.equation_of(row.local_name, activation)
            assert equation is not None and all(equation.caption), row.name
            tree = ElementTree.fromstring(equations.math(equation))
            assert {node.tag for node in tree.iter()} <= {
                "math", "mrow", "mi", "mn", "mo", "msub", "msup", "msubsup", "mfrac", "msqrt", "munder",
            }  # fmt: skip
            count = {"msub": 2, "msup": 2, "msubsup": 3, "mfrac": 2, "munder": 2}
            assert all(len(node) == count[node.tag] for node in tree.iter() if node.tag in count), row.name
    assert equations.equation_of("layer_scale1", "gelu") is None
    for name in ("embed.projection", "attention.query", "attention.output", "mlp.hidden", "mlp.output", "logits"):
        with_bias, without = (equations.equation_of(name, "gelu", biased=biased).mathml for biased in (True, False))
        assert "<mi>b</mi>" in with_bias and "<mi>b</mi>" not in without and ">+</mo>" not in without
        assert with_bias.count("<mrow>") == without.count("<mrow>") + 1


def test_no_equation_is_shown_of_what_another_family_computes_otherwise(tmp_path):
    picture = tmp_path / "picture.png"
    pictures.draw(30, 50).save(picture)
    page = page_of(tmp_path, ViTConfig(**{**PLAIN, **OPTIONS["norms before and after"]}), picture=picture)
    assert "norm1" not in page.facts["captions"] and "mlp.hidden" in page.facts["captions"]
    assert ("template", {"id": "math-norm1"}) not in page.elements and "live" not in page.facts
