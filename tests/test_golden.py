"""Goldens: recorded the same everywhere, checked against a port that shares no code with us, and its mistakes named."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

import documents
import golden_manifests
import numpy as np
import port
import pytest
import safetensors.numpy

import numpy_vit
from numpy_vit.arithmetic.rounded import FORMATS, round_to, rounded_tensors
from numpy_vit.cli import main
from numpy_vit.files.tensorfile import Tensor, tensor_of
from numpy_vit.golden.checking import check, model_of
from numpy_vit.golden.diagnosing import diagnose
from numpy_vit.golden.folder import Golden, manifest_sha256, read_dump, read_golden
from numpy_vit.golden.mistakes import mistakes
from numpy_vit.golden.recording import record as recorded
from numpy_vit.models.seeded import uniform
from numpy_vit.positions import resize_positions

from conftest import HERE, REPOSITORY, crooked_config

SAMPLE = REPOSITORY / "weights" / "samples" / "3" / "0045-0.png"
CONFIGS = {
    "crooked": crooked_config(depth=2),
    "mean": crooked_config(activation="gelu_tanh", eps=1e-12, pooling="mean", width=24, heads=3, mlp=40, pooler=0, depth=1),
    "square": crooked_config(image=(16, 16), width=48, heads=4, mlp=96, depth=2, eps=1e-5, activation="quick_gelu"),
    "DINOv2": crooked_config(image=(12, 16), width=24, heads=4, mlp=40, depth=2, layer_scale=True, pooler=0),
    "CLIP": crooked_config(
        image=(16, 12), width=24, heads=3, mlp=36, depth=2, eps=1e-5, activation="quick_gelu", pre_norm=True, classes=0,
        pooler=0, final_norm="pooled", projection=7, without_bias=("embed.projection",),
    ),
}  # fmt: skip


TINY = ["--model", "ViT-Ti/16", "image=8x12", "patch=4", "width=6", "heads=2", "mlp=5", "depth=1", "classes=3"]


# Recording


@pytest.mark.parametrize("name", golden_manifests.NAMES)
def test_the_stored_manifests_are_reproduced_to_the_letter(name):
    """Hashes, shapes, formulas and noise floors of every step; only our version may be another."""
    made, stored = json.loads(json.dumps(golden_manifests.manifest(name))), golden_manifests.stored(name)
    assert made.pop("numpy_vit") and stored.pop("numpy_vit")
    assert made == stored


def record(folder, *options):
    return main(["golden", "record", "-o", str(folder), *map(str, options)])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / "digits"
    assert record(folder, "--weights", "digits", "--image", SAMPLE) == 0
    return folder


@pytest.fixture
def tiny(tmp_path):
    assert record(tmp_path / "tiny", *TINY) == 0
    return tmp_path / "tiny"


def test_every_layout_holds_the_same_numbers(tmp_path, tiny):
    steps = safetensors.numpy.load_file(tiny / "steps.safetensors")
    manifest = json.loads((tiny / "manifest.json").read_text())
    for layout in ("npy", "raw"):
        assert record(tmp_path / layout, *TINY, "--format", layout, "--noise", "none") == 0
        other = json.loads((tmp_path / layout / "manifest.json").read_text())
        for step, entry in zip(other["steps"], manifest["steps"], strict=True):
            assert (step["name"], step["sha256"], step["shape"]) == (entry["name"], entry["sha256"], entry["shape"])
            file = tmp_path / layout / step["file"]
            values = np.load(file) if layout == "npy" else np.fromfile(file, "<f8").reshape(step["shape"])
            assert np.array_equal(values, steps[step["name"]])
        assert sorted(os.listdir(tmp_path / layout)) == sorted(["manifest.json", *(step["file"] for step in other["steps"])])
    assert record(tmp_path / "half", *TINY, "--store", "float32", "--steps", "blocks.0.attention.*", "--steps", "logits") == 0
    half = read_golden(tmp_path / "half")
    assert [step["name"] for step in half.steps][1:] == [f"blocks.0.attention.{n}" for n in (
        "query", "key", "value", "scores", "probs", "context", "output")] + ["logits"]  # fmt: skip
    assert all(np.array_equal(array, steps[name].astype(np.float32)) for name, array in half.arrays.items())


def test_a_manifest_says_what_each_step_is(digits):
    steps = {step["name"]: step for step in json.loads((digits / "manifest.json").read_text())["steps"]}
    scores = steps["blocks.2.attention.scores"]
    assert scores["operation"] == "matmul" and scores["dims"] == "B H N N" and scores["shape"] == [1, 6, 65, 65]
    assert scores["inputs"] == ["blocks.2.attention.query", "blocks.2.attention.key"]
    assert steps["blocks.2.mlp.hidden"]["weights"] == ["blocks.2.mlp.hidden.weight", "blocks.2.mlp.hidden.bias"]
    assert next(iter(steps)) == "pixels" and list(steps)[-1] == "logits"


def test_a_golden_is_replaced_whole_or_not_at_all(tmp_path, tiny, capsys):
    before = (tiny / "manifest.json").read_bytes()
    assert record(tiny, "--model", "ViT-Ti/16", "depth=0", "--force") == 2
    assert record(tiny, "--model", "ViT-Ti/16", "depth=1", "--steps", "blocks.0.attn", "--force") == 2
    assert "no step is called 'blocks.0.attn'" in capsys.readouterr().err
    assert (tiny / "manifest.json").read_bytes() == before
    (tmp_path / "web").mkdir()  # a folder with a manifest.json of something else
    (tmp_path / "web" / "manifest.json").write_text('{"name": "extension"}')
    (tiny / "notes.txt").write_text("mine")
    for folder in (tmp_path / "web", tiny):
        assert record(folder, "--weights", "digits") == 2
        assert "a folder with other things in it" in capsys.readouterr().err
    (tiny / "notes.txt").unlink()
    shutil.rmtree(tmp_path / "web")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    assert record(tmp_path / "mine", "--weights", "digits") == 2
    assert "a folder with other things in it" in capsys.readouterr().err
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]
    small = ("--weights", "digits", "--noise", "none", "--steps", "logits")
    assert record(tiny, *small) == 2
    assert "tiny: has a golden already: give another folder, or --force to replace it\n" in capsys.readouterr().err
    assert (tiny / "manifest.json").read_bytes() == before
    assert record(tiny, *small, "--force") == 0
    assert sorted(os.listdir(tmp_path)) == ["mine", "tiny"]
    assert len(read_golden(tiny).steps) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "which model"),
        (["--weights", "digits", "--model", "ViT-B/16"], "give one of them"),
        (["--model", "ViT-B/17"], "is no variant"),
        (["--model", "ViT-B/16", "--image", "cat.png"], "--image needs a model"),
        (["--weights", "digits", "--image", "no.png"], "no.png"),
        (["--weights", "digits", "--pixels", "no.npy"], "no.npy: no such file"),
        (["--weights", "digits", "--size", "65x64"], "not a multiple"),
        (["--weights", "digits", "--noise", "float8"], "float8"),
        (["--weights", "digits", "--batch", "0"], "--batch: '0': give a whole number"),
        (["--weights", "digits", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_options_to_record(tmp_path, capsys, options, message):
    assert record(tmp_path / "golden", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_pixels_from_a_file(tmp_path, capsys):
    np.save(tmp_path / "pixels.npy", uniform(1, "x", (2, 3, 64, 80)))
    assert record(tmp_path / "g", "--weights", "digits", "--pixels", tmp_path / "pixels.npy", "--noise", "none") == 0
    golden = read_golden(tmp_path / "g")
    assert golden.arrays["pixels"].shape == (2, 3, 64, 80) and "embed.resized_positions" in golden.arrays
    for wrong, message in ((np.zeros((3, 64, 64)), "must be (B, C, Y, X)"), (np.full((1, 3, 64, 64), np.nan), "NaN")):
        np.save(tmp_path / "pixels.npy", wrong)
        assert record(tmp_path / "h", "--weights", "digits", "--pixels", tmp_path / "pixels.npy") == 2
        assert message in capsys.readouterr().err


# The noise floor


def test_rounding_to_narrow_formats():
    """Against NumPy's own float16, and bfloat16 by its definition: 8 bits, ties to even, infinity beyond the largest."""
    x = np.random.default_rng(0).normal(size=10_000).astype(np.float32) * np.float32(10) ** np.arange(-4, 4, 8 / 10_000)
    x = x.astype(np.float32)
    assert np.array_equal(round_to("float16", x), x.astype(np.float16).astype(np.float32))
    mantissa, exponent = np.frexp(x.astype(np.float64))
    assert np.array_equal(round_to("bfloat16", x), np.ldexp(np.rint(mantissa * 256), exponent - 8))
    special = np.array([np.inf, -np.inf, np.nan, 3.4e38, 1.00390625, 1.01171875, 0.0, -0.0], np.float32)
    expected = [np.inf, -np.inf, np.nan, np.inf, 1.0, 1.015625, 0.0, -0.0]
    assert np.array_equal(round_to("bfloat16", special), np.float32(expected), equal_nan=True)


# Checking


def out_in(model):
    """A model's tensors as the little port wants them: linear weights (out, in)."""
    arrays = {name: np.asarray(array) for name, array in model.tensors.items()}
    return {name: a.T if name.endswith("weight") and "norm" not in name else a for name, a in arrays.items()}


def golden_and_port(config, seed, size=None, port_options=None):
    """A golden in memory, its model, and a function that runs the little port with mistakes."""
    model = numpy_vit.random_model(config, seed, "portable")
    pixels = uniform(seed, "pixels", (2, 3, *(size or config.image)), "float64")
    manifest, arrays = recorded(model, pixels, origin={"model": {"seed": seed}})
    golden = Golden(HERE, json.loads(json.dumps(manifest)), arrays)
    weights = out_in(model)
    values = dataclasses.asdict(config) | (port_options or {})
    if size:
        grid = size[0] // config.patch, size[1] // config.patch
        values["resized"] = lambda p, other: resize_positions(p, config.grid, grid, "bilinear" if other else "bicubic")

    def run(*wrong):
        steps = {}
        with np.errstate(all="ignore"):
            port.run(pixels, weights, values, wrong, lambda name, array: steps.update({name: np.asarray(array, np.float32)}))
        return {name: tensor_of(array) for name, array in steps.items()}

    return golden, model_of(golden), run


def named(findings):
    return {mistake.name for finding in findings if finding.best for mistake in finding.best.mistakes}


def right_names(planted, config):
    return {name.format(last=config.depth - 1) for name in port.PLANTED[planted]}


def makes_a_difference(planted, config):
    own = {f"activation {config.activation}", f"eps {config.eps:g}"}
    of_blocks = {"weights of blocks reversed", "blocks backwards", "last block not taken"} if config.depth == 1 else set()
    tiny_eps = {"eps outside the root"} if config.eps < 1e-9 else set()
    no_head = {name for name in port.PLANTED if name.startswith("head ") or "logits" in name} if not config.classes else set()
    no_bias = {"projection bias missing"} if "embed.projection" in config.without_bias else set()
    no_norm = {"last norm in every block", "last block not taken"} if config.final_norm != "tokens" else set()
    return planted not in {*own, *of_blocks, *tiny_eps, *no_head, *no_bias, *no_norm, "positions by another rule"}


@pytest.mark.parametrize(
    "name, every",
    [("mean", 6), ("DINOv2", 12), ("CLIP", 12), *(pytest.param(name, 1, marks=pytest.mark.slow, id=name) for name in CONFIGS)],
)
def test_every_planted_mistake_is_named_and_no_correct_port_is_accused(name, every):
    """All of them; in the default tests one in four."""
    config, right = CONFIGS[name], []
    golden, model, run = golden_and_port(config, seed=len(name))
    assert check(golden, run(), model=model).passed
    planted = [wrong for wrong in port.PLANTED if makes_a_difference(wrong, config)][::every]
    for wrong in planted:
        checked = check(golden, run(wrong), model=model)
        assert not checked.passed, wrong
        findings = diagnose(checked)
        if all(f.best for f in findings) and named(findings) and named(findings) <= right_names(wrong, config):
            right.append(wrong)
    assert len(planted) >= 90 // every
    assert len(right) >= 0.95 * len(planted), set(planted) - set(right)


def test_positions_resized_by_another_rule():
    golden, model, run = golden_and_port(CONFIGS["crooked"], 3, size=(16, 28))
    assert check(golden, run(), model=model).passed
    assert named(diagnose(check(golden, run("positions by another rule"), model=model))) == {"positions-bilinear"}


def test_positions_missing_at_another_image_size():
    golden, model, run = golden_and_port(CONFIGS["crooked"], 3, size=(16, 28))
    for wrong in ("positions missing", "positions shifted"):
        steps = run(wrong)
        steps["embed.resized_positions"] = tensor_of(golden.arrays["embed.resized_positions"].astype(np.float32))
        assert named(diagnose(check(golden, steps, model=model))) == set(port.PLANTED[wrong])


@pytest.mark.slow
def test_noise_on_few_numbers_is_never_explained():
    """Two numbers in bfloat16 fit one of some hundred ways soon enough: that is no finding."""
    golden, model, _ = golden_and_port(crooked_config(classes=1, pooler=0, depth=1), 5)
    rng = np.random.default_rng(0)
    exact = golden.arrays["logits"][:2]
    for scale in (0.05, 0.1, 0.2, 0.5, 1.0):
        wrong = golden.arrays["logits"] + scale * rng.normal(size=golden.arrays["logits"].shape) * np.abs(exact).max()
        bits = (np.ascontiguousarray(wrong, "<f4").view("<u4") >> 16).astype("<u2")
        assert not named(diagnose(check(golden, {"logits": Tensor("BF16", bits)}, model=model))), scale


def test_one_array_of_another_dtype_does_not_change_the_budget(digits):
    golden = read_golden(digits)
    model = model_of(golden)
    exact = model(golden.arrays["pixels"], record=True).steps
    steps = {name: tensor_of(array.astype(np.float32)) for name, array in exact.items()}
    steps["embed.patches"] = Tensor("F16", steps["embed.patches"].data.astype(np.float16))
    checked = check(golden, steps, model=model)
    assert checked.format == "float32" and checked.passed
    steps["norm"] = tensor_of(steps["norm"].data * np.float32(1.0001))
    assert check(golden, steps, model=model).first.name == "norm"
    wide = {name: tensor_of(array.astype(np.float32).astype(np.float64)) for name, array in exact.items()}
    wide["norm"] = tensor_of(exact["norm"])
    assert check(golden, wide, model=model).format == "float32"
    assert check(golden, {name: tensor_of(array) for name, array in exact.items()}, model=model).format == "float64"


def test_several_mistakes_at_once():
    golden, model, run = golden_and_port(CONFIGS["crooked"], 1)
    wrong = ("BGR", "eps 1e-05", "order q v k", "activation gelu_tanh", "final norm missing")
    findings = diagnose(check(golden, run(*wrong), model=model))
    assert all(f.best for f in findings)
    assert named(findings) == {"bgr", "eps-1e-05", "qkv-order-qvk", "activation-gelu_tanh", "final-norm-missing"}


@pytest.mark.slow
def test_a_sparse_dump_is_diagnosed_over_the_gaps():
    golden, model, run = golden_and_port(CONFIGS["square"], 2)
    for wrong in ("scale missing", "packing (H,3,K)", "post-norm", "norm without shift"):
        blocks = {name: tensor for name, tensor in run(wrong).items() if name.endswith("residual2")}
        checked = check(golden, blocks, model=model)
        assert checked.first.verdict == "wrong" and checked.first.span == ("pixels",)
        assert named(diagnose(checked)) == set(port.PLANTED[wrong]), wrong
    pair = {"logits": run("activation gelu", "norm without scale")["logits"]}
    assert named(diagnose(check(golden, pair, model=model))) == {"activation-gelu", "norm-no-scale"}


@pytest.mark.slow
def test_what_nothing_explains_is_said_to_be_unexplained():
    golden, model, run = golden_and_port(CONFIGS["crooked"], 4)
    steps = run()
    steps["blocks.1.mlp.output"] = tensor_of(steps["blocks.1.mlp.output"].data * np.float32(1.01))
    checked = check(golden, steps, model=model)
    assert checked.first.name == "blocks.1.mlp.output"
    finding = diagnose(checked)[0]
    assert finding.best is None and finding.tried > 20
    steps["logits"] = tensor_of(np.full_like(steps["logits"].data, np.nan))
    checked = check(golden, steps, model=model)
    assert {r.name: r.verdict for r in checked.results}["logits"] == "wrong"
    assert diagnose(checked)[-1].tried == 0


def test_every_mistake_can_be_run_and_changes_something():
    """Each entry of the table, on a model where it applies, gives other numbers than the right forward pass."""
    from numpy_vit.golden.diagnosing import Bench

    golden, model, run = golden_and_port(CONFIGS["square"], 6, size=(20, 24))
    bench = Bench(check(golden, {"logits": run()["logits"], "pooler": run()["pooler"]}, model=model))
    for mistake in mistakes(golden.config, size=(20, 24)):
        errors = bench.errors((mistake,), None, ["pooler", "logits"])
        if re.fullmatch("(no-bias|bias-twice|bias-subtracted)-attention.key|bias-attention.key-of-.*", mistake.name):
            continue  # softmax takes the key's bias out of everything
        worst = max((errors[name].noises for name in ("pooler", "logits") if name in errors), default=0)
        assert worst > (1 if "eps-1e-12" in mistake.name else 4), mistake.name


@pytest.mark.parametrize("format", FORMATS)
def test_correct_ports_in_every_format_pass(digits, format):
    golden = read_golden(digits)
    model = model_of(golden)
    narrow = numpy_vit.ViT(model.config, rounded_tensors(format, model.tensors))
    steps = narrow(round_to(format, golden.arrays["pixels"]), record=True).steps
    checked = check(golden, {name: tensor_of(array) for name, array in steps.items()}, format=format, model=model)
    assert checked.passed and checked.compared == len(steps)
    if format != "float32":  # and not at a better one's budget
        assert not check(golden, {name: tensor_of(array) for name, array in steps.items()}, model=model).passed


@pytest.mark.slow
def test_a_golden_of_some_steps_accuses_no_correct_port(tmp_path, digits):
    assert (
        record(tmp_path / "some", "--weights", "digits", "--image", SAMPLE, "--steps", "*.residual2", "--steps", "*.gelu") == 0
    )
    dump_of(digits, tmp_path / "good.npz")
    dump_of(digits, tmp_path / "bad.npz", "scale by D")
    assert main(["golden", "check", str(tmp_path / "some"), str(tmp_path / "good.npz")]) == 0
    golden = read_golden(tmp_path / "some")
    findings = diagnose(check(golden, read_dump(tmp_path / "bad.npz"), model=model_of(golden)))
    assert named(findings) == {"scale-by-D"}


def test_errors_that_only_add_up_are_not_blamed_on_a_step(digits):
    golden = read_golden(digits)
    model = model_of(golden)
    exact = model(golden.arrays["pixels"], record=True).steps
    steps = {name: tensor_of(array.astype(np.float32)) for name, array in exact.items()}
    steps["blocks.0.residual2"] = tensor_of(steps["blocks.0.residual2"].data * np.float32(1.001))
    from numpy_vit.golden.recording import replay

    given = {"blocks.0.residual2": steps["blocks.0.residual2"].data.astype(np.float64)}
    replay(model, golden.arrays["pixels"], given, lambda name, array: steps.update(
        {name: tensor_of(np.asarray(array, np.float32))}) if name != "blocks.0.residual2" else None)  # fmt: skip
    verdicts = {r.name: r.verdict for r in check(golden, steps, model=model).results}
    assert [name for name, verdict in verdicts.items() if verdict == "wrong"] == ["blocks.0.residual2"]
    assert verdicts["blocks.1.norm1"] in ("ok", "inherited") and verdicts["blocks.1.residual2"] == "inherited"
    without = check(golden, steps)
    assert {r.verdict for r in without.results} == {"ok", "unclear"} and without.first.name == "blocks.0.residual2"


# The command line


def dump_of(golden, path, *wrong):
    model = model_of(read_golden(golden))
    weights = out_in(model)
    steps = {}
    pixels = read_golden(golden).arrays["pixels"]
    port.run(
        pixels,
        weights,
        model.config.to_dict(),
        wrong,
        lambda name, a: steps.update({name: np.asarray(a, np.float32)}),
    )
    np.savez(path, **steps)
    return steps


def test_check_and_diagnose_from_the_command_line(tmp_path, digits, capsys):
    dump_of(digits, tmp_path / "good.npz")
    dump_of(digits, tmp_path / "bad.npz", "activation quick_gelu")
    command = ["golden", "check", str(digits)]
    assert main([*command, str(tmp_path / "good.npz"), "--complete"]) == 0
    out = capsys.readouterr().out
    assert "Within budget." in out and "91 of 91 steps compared, 91 right" in out
    html, junit = tmp_path / "report.html", tmp_path / "report.xml"
    assert main([*command, str(tmp_path / "bad.npz"), "--brief", "--html", str(html), "--junit", str(junit)]) == 1
    out = capsys.readouterr().out
    assert "First step out of budget: blocks.0.mlp.gelu: wrong by itself" in out
    assert out.startswith("step") and out.splitlines()[1].startswith("blocks.0.mlp.gelu")
    page = html.read_text()
    assert "activation-quick_gelu" in page and page.count('"codes": "') == 91 and "://" not in page
    suite = xml.etree.ElementTree.parse(junit).getroot()
    assert len(suite) == 91 and int(suite.get("failures")) == sum(case.find("failure") is not None for case in suite) > 50
    assert main([*command, str(tmp_path / "bad.npz"), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["first"]["step"] == "blocks.0.mlp.gelu" and not data["passed"]
    assert main(["golden", "diagnose", str(digits), str(tmp_path / "bad.npz")]) == 1
    out = capsys.readouterr().out
    assert out.startswith("1. blocks.0.mlp.gelu and 5 more steps: GELU is the quick approximation")
    assert "\n2." not in out
    assert main(["golden", "diagnose", str(digits), str(tmp_path / "good.npz")]) == 0
    assert "Nothing to diagnose" in capsys.readouterr().out


def test_budgets_and_mappings(tmp_path, digits, capsys):
    steps = dump_of(digits, tmp_path / "d.npz", "activation gelu_tanh")
    command = ["golden", "check", str(digits), str(tmp_path / "d.npz")]
    (tmp_path / "budget.json").write_text(json.dumps({"blocks.0.*": 1e-3, "*": 1e-2}))
    assert main([*command, "--budget", str(tmp_path / "budget.json")]) == 0
    (tmp_path / "budget.json").write_text(json.dumps({"norm": 1e-9, "*": 1e-2}))
    assert main([*command, "--budget", str(tmp_path / "budget.json")]) == 1
    assert main([*command, "--factor", "1e9"]) == 0
    capsys.readouterr()
    (tmp_path / "budget.json").write_text('{"norm": 1, "norm": 2}')
    assert main([*command, "--budget", str(tmp_path / "budget.json")]) == 2
    assert "'norm' is there twice" in capsys.readouterr().err
    np.savez(tmp_path / "e.npz", layer_norm_0=steps["blocks.0.norm1"], out=steps["logits"], other=np.zeros(3, np.float32))
    (tmp_path / "map.json").write_text(json.dumps({"layer_norm_0": "blocks.0.norm1"}))
    assert main([*command[:3], str(tmp_path / "e.npz"), "--map", str(tmp_path / "map.json")]) == 0
    said = capsys.readouterr()
    assert "1 of 91 steps compared" in said.out and "'out' and" not in said.err and "'out', 'other'" in said.err
    assert main([*command[:3], str(tmp_path / "e.npz"), "--map", str(tmp_path / "map.json"), "--complete"]) == 1


def test_a_mapping_has_a_line_for_every_block(tmp_path, digits, capsys):
    steps = dump_of(digits, tmp_path / "d.npz", "activation gelu_tanh")
    theirs = {f"m.layer.{n}.ln": steps[f"blocks.{n}.norm1"] for n in range(6)}
    np.savez(tmp_path / "e.npz", out=steps["norm"], **theirs)
    command = ["golden", "check", str(digits), str(tmp_path / "e.npz"), "--map", str(tmp_path / "map.json")]

    def said(**mapping):
        (tmp_path / "map.json").write_text(json.dumps(mapping))
        status = main(command)
        captured = capsys.readouterr()
        return status, captured.out if status < 2 else captured.err

    status, out = said(**{"m.layer.{n}.ln": "blocks.{n}.norm1", "out": "norm"})
    assert status < 2 and "7 of 91 steps compared" in out
    for wrong, message in (
        ({"m.layer.{n}.ln": "blocks.0.norm1"}, "on one side alone: write it on both"),
        ({"m.layer.*.ln": "blocks.*.norm1"}, "write {n} for the number of the block"),
        ({"m.layer.{n}.ln": "blocks.{n}.norm9"}, "no such step in any block; did you mean 'blocks.{n}.norm"),
        ({"m.layer.{n}.nl": "blocks.{n}.norm1"}, "names 'm.layer.0.nl', which the dump does not have; did you mean"),
        ({"m.layer.0.ln": "block.0.norm1"}, "which the golden does not have; did you mean 'blocks.0.norm1'?"),
    ):
        status, err = said(**wrong)
        assert status == 2 and message in err and len(err.splitlines()) == 1


def shapes_of(golden):
    return {step["name"]: step["shape"] for step in json.loads((golden / "manifest.json").read_text())["steps"]}


BAD_DUMPS = {
    "no common step": (lambda s: {"foo": s["norm"], "bar": s["pool"]}, "no array of the dump is a step"),
    "mis-shaped": (lambda s: {"norm": s["norm"][:, :5]}, "has shape (1, 5, 96), the step is B N D = (1, 65, 96)"),
    "wrong heads": (lambda s: {(q := "blocks.0.attention.query"): s[q].reshape(1, 3, 65, 32)}, "the step is B H N K"),
    "integers": (lambda s: {"norm": s["norm"].astype(np.int32)}, "is int32: dump float16, float32 or float64"),
    "empty": (lambda s: {}, "has no arrays"),
    "only pixels": (lambda s: {"pixels": s["pixels"]}, "no array of the dump is a step"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DUMPS)
def test_bad_dumps(tmp_path, digits, capsys, name):
    change, message = BAD_DUMPS[name]
    steps = safetensors.numpy.load_file(digits / "steps.safetensors")
    np.savez(tmp_path / "d.npz", **change(steps))
    assert main(["golden", "check", str(digits), str(tmp_path / "d.npz")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_cut_and_missing_dumps(tmp_path, digits, capsys):
    steps = safetensors.numpy.load_file(digits / "steps.safetensors")
    np.savez(tmp_path / "d.npz", **steps)
    (tmp_path / "d.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:100_000])
    np.save(tmp_path / "norm.npy", steps["norm"])
    (tmp_path / "norm.npy").write_bytes((tmp_path / "norm.npy").read_bytes()[:1000])
    safetensors.numpy.save_file(steps, tmp_path / "d.safetensors")
    (tmp_path / "d.safetensors").write_bytes((tmp_path / "d.safetensors").read_bytes()[:5000])
    (tmp_path / "norm.f32").write_bytes(b"abc")
    (tmp_path / "pool.f32").write_bytes(b"")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for file in ("d.npz", "norm.npy", "d.safetensors", "norm.f32", "pool.f32", "text.txt", "empty", "none", "objects.npy"):
        assert main(["golden", "check", str(digits), str(tmp_path / file)]) == 2, file
        error = capsys.readouterr().err
        assert file in error and error.count("\n") == 1 and "bug" not in error, error


def test_a_nan_never_passes(tmp_path, digits, capsys):
    steps = safetensors.numpy.load_file(digits / "steps.safetensors")
    for value in (np.nan, np.inf):
        steps["norm"] = steps["norm"].copy()
        steps["norm"][0, 3, 4] = value
        np.savez(tmp_path / "d.npz", **steps)
        for options in ([], ["--factor", "1e300"], ["--json"]):
            assert main(["golden", "check", str(digits), str(tmp_path / "d.npz"), *options]) == 1
        (tmp_path / "budget.json").write_text('{"*": 1e300}')
        assert main(["golden", "check", str(digits), str(tmp_path / "d.npz"), "--budget", str(tmp_path / "budget.json")]) == 1


def tamper(folder, change, hash_again=True):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    if hash_again:
        manifest["sha256"] = manifest_sha256(manifest)
    path.write_text(json.dumps(manifest))


def test_a_changed_manifest_is_noticed(tmp_path, digits, capsys):
    for change in (lambda m: m["config"].update(eps=1e-3), lambda m: m["steps"][5]["noise"]["float32"]["run"].update(l2=9.0)):
        shutil.copytree(digits, tmp_path / "g", dirs_exist_ok=True)
        tamper(tmp_path / "g", change, hash_again=False)
        assert main(["golden", "check", str(tmp_path / "g"), str(digits / "steps.safetensors")]) == 2
        assert "was changed after it was recorded" in capsys.readouterr().err


BAD_GOLDENS = {
    "hash": (lambda m: m["steps"][5].update(sha256="0" * 64), "is not what was recorded (its SHA-256 differs)"),
    "shape": (lambda m: m["steps"][5].update(shape=[1, 65, 95]), "is (1, 65, 95): its model's is (1, 65, 96)"),
    "shape without end": (lambda m: m["steps"][5].update(shape=[2**32, 2**32, 1]), "whole numbers, 1 to 1,000,000"),
    "missing step": (lambda m: m["steps"][5].update(name="blocks.0.normal"), "'blocks.0.normal' is none of its model's"),
    "text for a number": (lambda m: m["steps"][5].update(largest="big"), "'largest' must be a float, not 'big'"),
    "truth for a number": (lambda m: m["steps"][5]["noise"]["float32"]["run"].update(l2=True), "must have run and step"),
    "a huge number": (lambda m: m["steps"][5].update(largest=10**400), "a whole number of 401 digits"),
    "weights": (lambda m: m["steps"][5].update(weights=[3]), "weights of tensors"),
    "terminal": (lambda m: m["steps"][5].update(dims="B N \x9b31mD"), "must be printable"),
    "pixels": (lambda m: m["steps"][0].update(shape=[1, 4, 64, 64]), "(B, 3, Y, X) is expected"),
    "twice": (lambda m: m["steps"].append(m["steps"][5]), "lists a step twice"),
    "field": (lambda m: m["steps"][5].pop("noise"), "has no 'noise'"),
    "type": (lambda m: m["steps"][5].update(shape="big"), "'shape' must be a list"),
    "version": (lambda m: m.update(version="9"), "version '9'"),
    "format": (lambda m: m.update(format="photo"), "not the manifest of a golden"),
    "config": (lambda m: m["config"].pop("eps"), "missing eps"),
    "path": (lambda m: m["steps"][5].update(file="../../etc/passwd"), "must be a plain name"),
    "no steps": (lambda m: m["steps"].clear(), "lists no steps"),
    "noise": (lambda m: m["steps"][5]["noise"]["float32"].pop("run"), "must have run and step"),
    "noise infinite": (lambda m: m["steps"][5]["noise"]["float32"]["run"].update(l2=1e999), "must have run and step"),
    "noise no object": (lambda m: m["steps"][5]["noise"].update(float32=3), "must have run and step"),
    "noise of others": (lambda m: m["steps"][5]["noise"].pop("float16"), "of other formats"),
    "store": (lambda m: m.update(store="x"), "store 'x'"),
    "inputs": (lambda m: m["steps"][5].update(inputs=[["a"]]), "inputs must be names"),
    "no pixels": (lambda m: m["steps"].pop(0), "must list the pixels first"),
    "flat": (lambda m: m["steps"][5].update(shape=[6240]), "is not B N D"),
    "preprocess": (lambda m: m.update(preprocess={"mean": "x"}), "preprocess"),
    "noise missing": (lambda m: [s["noise"].clear() for s in m["steps"]], "has no noise floor of float32"),
}


@pytest.mark.parametrize("name", BAD_GOLDENS)
def test_tampered_goldens(tmp_path, digits, capsys, name):
    change, message = BAD_GOLDENS[name]
    shutil.copytree(digits, tmp_path / "g")
    np.savez(tmp_path / "d.npz", norm=safetensors.numpy.load_file(digits / "steps.safetensors")["norm"].astype(np.float32))
    tamper(tmp_path / "g", change)
    assert main(["golden", "check", str(tmp_path / "g"), str(tmp_path / "d.npz")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_goldens_that_are_none(tmp_path, digits, capsys):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "manifest.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for folder, message in (("json", "not valid JSON"), ("empty", "is not a golden"), ("none", "no such folder")):
        assert main(["golden", "check", str(tmp_path / folder), str(SAMPLE)]) == 2
        assert message in capsys.readouterr().err


def test_a_golden_whose_model_is_gone_is_checked_without_it(tmp_path, digits, capsys):
    dump_of(digits, tmp_path / "d.npz", "scale missing")
    shutil.copytree(digits, tmp_path / "g")
    tamper(tmp_path / "g", lambda m: m["model"].update(weights="gone.safetensors"))
    assert main(["golden", "check", str(tmp_path / "g"), str(tmp_path / "d.npz")]) == 1
    out = capsys.readouterr().out
    assert "No step was run again" in out and "First step out of budget: blocks.0.attention.scores" in out
    assert main(["golden", "diagnose", str(tmp_path / "g"), str(tmp_path / "d.npz")]) == 2
    assert "gone.safetensors" in capsys.readouterr().err
    assert main(["golden", "diagnose", str(tmp_path / "g"), str(tmp_path / "d.npz"), "--weights", "digits"]) == 1
    assert "scale-missing" in capsys.readouterr().out
    tamper(tmp_path / "g", lambda m: m.update(weights_sha256="0" * 64))
    assert main(["golden", "check", str(tmp_path / "g"), str(tmp_path / "d.npz"), "--weights", "digits"]) == 2
    assert "other weights" in capsys.readouterr().err


def test_layouts_of_a_port_are_understood(digits, tmp_path):
    """No batch axis, heads side by side or behind the tokens, raw numbers; names of transformers' and timm's modules."""
    golden = read_golden(digits)
    steps = {name: np.asarray(array, np.float32) for name, array in golden.arrays.items()}
    query = steps["blocks.0.attention.query"]
    side = query.swapaxes(1, 2).reshape(1, 65, 96)
    fused = np.concatenate(
        [steps[f"blocks.1.attention.{p}"].swapaxes(1, 2).reshape(65, 96) for p in ("query", "key", "value")], axis=-1
    )
    projection = steps["embed.projection"].swapaxes(1, 2).reshape(1, 96, 8, 8)
    for dump in (
        {"blocks.0.attention.query": query[0]},
        {"blocks.0.attention.query": side},
        {"blocks.0.attention.query": side[0]},
        {"blocks.0.attention.query": query.swapaxes(1, 2)},
        {"blocks.0.attention.query": query.ravel()},
        {"vit.encoder.layer.0.attention.attention.query": side},
        {"vit.layers.0.attention.q_proj": side},
        {"blocks.1.attn.qkv": fused},
        {"patch_embed.proj": projection, "module.embeddings.patch_embeddings.projection": projection},
        {
            "patch_embed": steps["embed.projection"].reshape(1, 8, 8, 96),
            "blocks.2.attn.attn_drop": steps["blocks.2.attention.probs"],
        },
        {"model.vit.blocks.0.mlp.gelu": steps["blocks.0.mlp.gelu"]},
        {"vit.layers.0.mlp.activation_fn": steps["blocks.0.mlp.gelu"], "blocks.0": steps["blocks.0.residual2"]},
    ):
        checked = check(golden, {name: tensor_of(np.ascontiguousarray(array)) for name, array in dump.items()})
        assert checked.passed and checked.compared >= 1 and not checked.unknown, list(dump)
    (tmp_path / "norm.f16").write_bytes(golden.arrays["norm"].astype("<f2").tobytes())
    (tmp_path / "pool.bf16").write_bytes(
        (round_to("bfloat16", golden.arrays["pool"]).view("<u4") >> 16).astype("<u2").tobytes()
    )
    checked = check(golden, read_dump(tmp_path))
    assert checked.passed and {r.dtype for r in checked.results if r.run} == {"float16", "bfloat16"}


# The documentation


def compiled(tmp_path, main_file):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Werror", "-o", tmp_path / "program", main_file, "-lm"], check=True, cwd=tmp_path
    )
    return tmp_path / "program"


GENERATOR = """#include <stdio.h>
#include "seeded.c"
int main(void) {
    const char *names[] = {"pixels", "embed.class_token", "blocks.3.attention.query.weight"};
    const uint64_t seeds[] = {0, 1, 18446744073709551615u};
    for (int n = 0; n < 3; n++) for (int s = 0; s < 3; s++) for (int i = 0; i < 1000; i++)
        printf("%.17g\\n", seeded(tensor_key(seeds[s], names[n]), i));
}
"""


def test_the_documented_generators_make_our_numbers(tmp_path):
    names, seeds = ("pixels", "embed.class_token", "blocks.3.attention.query.weight"), (0, 1, 2**64 - 1)
    ours = np.concatenate([uniform(seed, name, (1000,), "float64") for name in names for seed in seeds])
    scope = {}
    exec(documents.code("golden.md", "seeded.py"), scope)
    plain = [scope["seeded"](scope["tensor_key"](seed, name), i) for name in names for seed in seeds for i in range(1000)]
    assert np.array_equal(ours, plain)
    (tmp_path / "seeded.c").write_text(documents.code("golden.md", "seeded.c"))
    (tmp_path / "main.c").write_text(GENERATOR)
    printed = subprocess.run([compiled(tmp_path, "main.c")], capture_output=True, text=True, check=True).stdout
    assert np.array_equal(ours, np.array(printed.split(), float))


def test_the_documented_rules_make_the_seeded_model():
    """Every tensor by the table of docs/golden.md."""
    scope = {}
    exec(documents.code("golden.md", "seeded.py"), scope)
    model = numpy_vit.random_model(crooked_config(depth=1), seed=9)
    for name, tensor in model.tensors.items():
        key = scope["tensor_key"](9, name)
        x = np.array([scope["seeded"](key, i) for i in range(tensor.size)]).reshape(tensor.shape)
        if name.endswith(".bias"):
            x = x / 64
        elif "norm" in name:
            x = 1 + x / 8
        else:
            x = x / 16 if name.endswith(".weight") else x / 8
        assert np.array_equal(tensor, x), name


SMALL = "ViT-Ti/16 image=24x40 patch=8 width=30 heads=5 mlp=44 depth=2 classes=7"  # of the recipes


def test_the_c_recipe(tmp_path, monkeypatch, capsys):
    """docs/recipes.md: record, compile, run, check, as the commands stand there."""
    monkeypatch.chdir(tmp_path)
    for document, name in (("golden.md", "seeded.c"), ("recipes.md", "first_steps.c")):
        (tmp_path / name).write_text(documents.code(document, name))
    compiled(tmp_path, "first_steps.c")
    for command in documents.commands("recipes.md", f"numpy-vit golden record --model {SMALL} --format"):
        words = command.split()
        if words[0] == "numpy-vit":
            assert main(words[1:]) == 0, command
        else:
            subprocess.run(words, check=True, capture_output=True)
    assert "2 of 35 steps compared, 2 right" in capsys.readouterr().out


def test_the_int8_recipe_in_c(tmp_path, monkeypatch, run):
    """As the commands stand in docs/recipes.md: exact; and found where the kernel rounds otherwise."""
    monkeypatch.chdir(tmp_path)
    for document, name in (("golden.md", "seeded.c"), ("recipes.md", "int8_linear.c")):
        (tmp_path / name).write_text(documents.code(document, name))
    compiled(tmp_path, "int8_linear.c")
    for command in documents.commands("recipes.md", f"numpy-vit golden record --model {SMALL} --arithmetic int8-onnx"):
        words = command.split()
        if words[0] == "numpy-vit":
            status, said, error = run(*words[1:])
            assert status == 0, (command, error)
        else:
            subprocess.run(words, check=True, capture_output=True)
    assert "3 of 36 steps compared, 3 right" in said
    source = (tmp_path / "int8_linear.c").read_text()
    (tmp_path / "int8_linear.c").write_text(source.replace("rintf((float)sum * multiplier)", "floorf((float)sum * multiplier)"))
    compiled(tmp_path, "int8_linear.c")
    subprocess.run([tmp_path / "program", "integers", "codes"], check=True)
    status, said, _ = run("golden", "check", "integers", "codes")
    said = " ".join(said.split())  # whatever the terminal's width
    assert status == 1 and "3 of 36 steps compared, 2 right, 1 wrong by themselves" in said
    assert "First step out of budget: blocks.0.mlp.hidden: " in said and "cut off instead of rounded" in said


def test_the_core_needs_no_golden():
    code = "import sys, numpy_vit; numpy_vit.load(); assert not any('golden' in name for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_damaged_archives(tmp_path, digits, capsys):
    """What NumPy and zipfile raise for these is of a dozen kinds; the user sees one line."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "member.npz", "w") as archive:
        archive.writestr("norm.txt", "hello")
        archive.writestr("pool.npy", "not an array")
    np.savez_compressed(tmp_path / "deflate.npz", norm=np.random.default_rng(0).normal(size=(1, 65, 96)))
    content = bytearray((tmp_path / "deflate.npz").read_bytes())
    content[2000:3000] = bytes(1000)
    (tmp_path / "deflate.npz").write_bytes(content)
    (tmp_path / "norm.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((  \n" + bytes(100))
    (tmp_path / "huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9), }".ljust(128)
        + b"\n"
    )
    for file in ("member.npz", "deflate.npz", "norm.npy", "huge.npy"):
        assert main(["golden", "check", str(digits), str(tmp_path / file)]) == 2
        error = capsys.readouterr().err
        assert "bug" not in error and error.count("\n") == 1, error
    np.savez(tmp_path / "names.npz", **{"evil\n\x1b[31m": np.zeros(3), "norm": np.zeros((1, 65, 96)), "counter": np.arange(3)})
    assert main(["golden", "check", str(digits), str(tmp_path / "names.npz"), "--brief"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "\x1b" not in error


def test_a_reader_that_stops_early_does_not_change_the_verdict(tmp_path, digits):
    dump_of(digits, tmp_path / "bad.npz", "scale missing")
    command = f"'{sys.executable}' -m numpy_vit golden check '{digits}' '{tmp_path}/bad.npz' --json"
    shell = ["bash", "-c", f"{command} | head -c 10; exit ${{PIPESTATUS[0]}}"]
    assert subprocess.run(shell, cwd=REPOSITORY, capture_output=True).returncode == 1


def test_links_and_pipes_are_written_to_not_replaced(tmp_path, digits):
    from numpy_vit.files.tensorfile import replacing

    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link").symlink_to("real.txt")
    with replacing(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with replacing(tmp_path / "pipe") as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through" and not (tmp_path / "pipe").is_file()
    os.close(reader)
    (tmp_path / "there").mkdir()
    (tmp_path / "g").symlink_to("there")
    assert record(tmp_path / "g", *TINY, "--noise", "none") == 0
    assert (tmp_path / "g").is_symlink() and (tmp_path / "there" / "manifest.json").is_file()


def test_an_interrupted_replacement_keeps_the_older_golden(tmp_path, tiny, monkeypatch):
    before = (tiny / "manifest.json").read_bytes()
    replace, calls = os.replace, []

    def interrupted(a, b):
        replace(a, b)
        calls.append(b)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("numpy_vit.golden.folder.os.replace", interrupted)
    monkeypatch.setattr("numpy_vit.golden.folder.exchanged", lambda new, old: False)  # as on systems without that call
    assert record(tiny, "--force", "--weights", "digits", "--noise", "none", "--steps", "logits") == 130
    assert (tiny / "manifest.json").read_bytes() == before and os.listdir(tmp_path) == ["tiny"]


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("vision_model.encoder.layers.3.self_attn.q_proj", "blocks.3.attention.query"),  # CLIP, SigLIP
        ("vision_model.encoder.layers.3.mlp.fc2", "blocks.3.mlp.output"),
        ("vision_model.encoder.layers.3", "blocks.3.residual2"),
        ("visual_projection", "image_embedding"),
        ("encoder.layer.0.norm1", "blocks.0.norm1"),  # DINOv2
        ("encoder.layer.0.layer_scale1", "blocks.0.layer_scale1"),
        ("encoder.layers.encoder_layer_2.ln_1", "blocks.2.norm1"),  # torchvision
        ("transformer.resblocks.1.mlp.c_fc", "blocks.1.mlp.hidden"),  # OpenAI
        ("heads.head", "logits"),
        ("post_layernorm", "norm"),  # or "pooled_norm", where the model has that
        ("blocks.1.attn.q_norm", "blocks.1.attention.query"),  # likewise
    ],
)
def test_names_of_the_families_that_convert(theirs, ours):
    from numpy_vit.golden.alignment import our_names

    config = crooked_config(depth=4, layer_scale=True, projection=6)
    assert our_names(theirs, numpy_vit.random_model(config).step_names())[1] == (ours,)
    other = numpy_vit.random_model(config.replace(final_norm="pooled", qk_norm=True)).step_names()
    instead = {"post_layernorm": "pooled_norm", "blocks.1.attn.q_norm": "blocks.1.attention.query_norm"}
    assert our_names(theirs, other)[1] == (instead.get(theirs, ours),)
