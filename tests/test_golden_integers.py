"""Ports in integers: a right one passes to the last code, and each mistake is found, and named or described.

The port is tests/integer_port.py, which shares no code with the package.
"""

import functools
import json
import os
import re

import integer_port
import numpy as np
import pytest
import safetensors.numpy

import numpy_vit
from numpy_vit.cli import main
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.golden.folder import SUMS, Golden, manifest_sha256, read_golden, write_golden
from numpy_vit.golden.integer_mistakes import explain
from numpy_vit.golden.narrow_checking import check_narrow
from numpy_vit.golden.narrow_diagnosing import diagnose_narrow
from numpy_vit.golden.recording import record
from numpy_vit.models.narrow import NarrowViT, calibrate, chosen
from numpy_vit.vit import ViT

from conftest import REPOSITORY, crooked_config, crooked_pixels

SAMPLES = REPOSITORY / "weights" / "samples"
MODELS = ("crooked", "mean", "digits")
KINDS = ("onnx", "litert")
FIELDS = ("patch", "heads", "eps", "depth", "pooling", "class_token")


@functools.cache
def portable(name):
    """A portable model and its pixels."""
    if name == "digits":
        model = numpy_vit.load(dtype="portable")
        return model, np.asarray(model.preprocess([SAMPLES / "3" / "0045-0.png"]))
    changes = dict(depth=2)
    if name == "mean":
        changes = dict(pooling="mean", class_token=False, pooler=0, depth=1, image=(16, 16), width=48, heads=4, mlp=96)
    config = crooked_config(**changes)
    return numpy_vit.random_model(config, seed=5, dtype="portable"), crooked_pixels(config)


@functools.cache
def golden(name, kind):
    """A golden in int8, and its model in float64."""
    model, pixels = portable(name)
    arithmetic = chosen(f"int8-{kind}")
    grids = calibrate(model, lambda: [pixels], arithmetic)
    manifest, arrays = record(NarrowViT(model, arithmetic, grids), pixels, store="float32", noise=())
    tensors = {key: np.asarray(tensor, np.float64) for key, tensor in model.tensors.items()}
    return Golden("golden", manifest, arrays), ViT(model.config, tensors)


def dumped(name, kind, *wrong):
    recorded, model = golden(name, kind)
    config = {field: getattr(model.config, field) for field in FIELDS}
    return integer_port.run(recorded.arrays["pixels"], model.tensors, recorded.manifest["grids"], config, kind, wrong)


def checked(name, kind, dump):
    recorded, model = golden(name, kind)
    return check_narrow(recorded, {step: tensor_of(array) for step, array in dump.items()}, model=model)


# A planted mistake -> how the names of those that are right for it begin; [] for one that can only be described.
PLANTED = {
    "rounded away from zero": ["int-round-away"], "rounded half up": ["int-round-up"], "rounded up": ["int-round-ceil"],
    "rounded half to even": ["int-round-even"], "rounded down": ["int-round-floor"], "truncated": ["int-round-truncate"],
    "rounded twice": ["int-fixed-double"], "rounded once in fixed point": ["int-fixed-single"],
    "sums wrap at 16 bits": ["int-sums-wrap-16"], "sums wrap at 18 bits": ["int-sums-wrap-18"],
    "sums saturate at 16 bits": ["int-sums-saturate-16"], "bias after the sums are cut": ["int-sums-saturate-16-before-bias"],
    "partial sums saturate at 16 bits": ["int-saturate16"], "pairs saturate at 16 bits": ["int-pairs16"],
    "pairs of uint8 saturate": ["int-pairs-unsigned"], "lowest 8 bits of sums cut off": ["int-sums-cut-8"],
    "lowest 4 bits of sums cut off": ["int-sums-cut-4"], "last term left out": ["int-term-last"],
    "first term left out": ["int-term-first"], "weights of one scale": ["int-weights-per-tensor"],
    "weights along the wrong axis @ attention.query": ["int-weights-wrong-axis"],
    "largest scale for all": ["int-one-scale-largest"], "mean scale for all": ["int-one-scale-mean"],
    "first scale for all": ["int-one-scale-first"], "scale of the column before": ["int-scale-rolled+1"],
    "scale of the next column": ["int-scale-rolled-1"], "scales reversed": ["int-scales-reversed"],
    "scales of powers of two": ["int-scale-power"], "weights unsigned": ["int-weights-unsigned"],
    "weights 128 too large": ["int-weights-offset"], "weights of four bits": ["int-weights-4-bits"],
    "weights transposed": ["int-weights-transposed", "int-weights-reshaped"], "bias missing": ["int-bias-missing"],
    "bias doubled": ["int-bias-twice"], "bias negated": ["int-bias-negated"], "bias without a scale": ["int-bias-unscaled"],
    "bias in the input's scale": ["int-bias-by-input"], "bias in the weights' scale": ["int-bias-by-weights"],
    "bias in the output's scale": ["int-bias-by-output"], "bias of the column before": ["int-bias-rolled+1"],
    "bias of the next column": ["int-bias-rolled-1"], "bias in 8 bits": ["int-bias-8-bits"], "bias in 12 bits": ["int-bias-12"],
    "bias wraps at 8 bits": ["int-bias-wraps-8"], "bias after requantising": ["int-bias-late"],
    "bias in an eighth of its unit": ["int-bias-shift+3"], "input zero point missing": ["int-input-zero-missing"],
    "input zero point of the wrong sign": ["int-input-zero-sign"], "input zero point one too large": ["int-input-zero-off+1"],
    "input zero point one too small": ["int-input-zero-off-1"], "input zero point twice": ["int-input-zero-twice"],
    "other zero point missing": ["int-other-zero-missing"], "other zero point of the wrong sign": ["int-other-zero-sign"],
    "output zero point missing": ["int-zero-missing"], "output zero point of the wrong sign": ["int-zero-sign"],
    "output zero point one too large": ["int-zero-off+1"], "output zero point one too small": ["int-zero-off-1"],
    "zero point before rounding": ["int-zero-first"], "cut before the zero point": ["int-cut-first"],
    "output doubled": ["int-shift-2"], "output halved": ["int-shift-0.5"], "multiplier of 15 bits": ["int-multiplier-15"],
    "multiplier of 8 bits": ["int-multiplier-8"], "multiplier a power of two": ["int-multiplier-power"],
    "scale of what goes in missing": ["int-input-scale-missing"], "scale of another step": ["int-input-scale-other"],
    "saturates at -127": ["int-symmetric"], "saturates at 126": ["int-cut-1"], "saturates at 7 bits": ["int-cut-7-bits"],
    "wraps around": ["int-wrapped"], "rectified": ["int-rectified"], "multiplied by the scale": ["int-unscaled"],
    "1/sqrt(K) missing": ["int-factor-missing"], "1/sqrt(K) twice": ["int-factor-twice"],
    "codes added without scales": ["int-sum-unscaled"], "first scale for both": ["int-sum-one-scale"],
    "second scale for both": ["int-sum-other-scale"], "scales swapped": ["int-sum-swapped"],
    "each rounded before the sum": ["int-sum-rounded-first"], "each cut before the sum": ["int-sum-cut-first"],
    "zero points not subtracted in the sum": ["int-sum-zeros-missing"], "second operand left out": ["int-sum-second-missing"],
    "first operand left out": ["int-sum-first-missing"], "difference for the sum": ["int-sum-difference"],
    "table of 128 entries": ["int-table-128"], "table of 64 entries": ["int-table-64"], "table of 32 entries": ["int-table-32"],
    "table of 64 middle entries": ["int-table-64"], "table read unsigned": ["int-table-unsigned"],
    "table one entry off": ["int-table-off+1"], "tanh GELU": ["activation-gelu_tanh"],
    "quick GELU": ["activation-quick_gelu"], "ReLU for GELU": ["activation-relu"],
    "softmax without the maximum's scale": ["int-softmax-unscaled"], "softmax over queries": ["softmax-over-queries"],
    "softmax of base 2": ["int-softmax-base-2"],
    "probabilities in units of 1/128": ["int-softmax-units-128", "int-shift-0.5"], "softmax in float16": [],
    "float16 in the norm": [], "float16 before quantising": ["int-before-float16"], "eps 1e-3": ["eps-"],
    "eps 1e-5": ["eps-1e-05"], "unbiased variance": ["norm-unbiased"], "norm without scale": ["norm-no-scale"],
    "norm without shift": ["norm-no-shift"], "positions missing": ["positions-missing"], "positions shifted": ["positions-"],
    "patch rows (py,px,c)": ["patch-rows"], "query and key swapped": ["int-weights-of-"],
    "key and value swapped": ["int-weights-of-"], "heads merged (K,H)": ["int-heads-merged-kh"],
    "heads merged without transposing": ["int-heads-merged-unmoved"], "second token pooled": ["int-token-1"],
    "mean of one too many": [],
}  # fmt: skip
QUICK = (
    "truncated @ mlp.hidden", "sums wrap at 16 bits", "pairs of uint8 saturate", "mean scale for all @ attention.value",
    "weights along the wrong axis @ attention.query", "bias in the output's scale @ logits", "bias after requantising",
    "input zero point of the wrong sign @ embed.projection", "saturates at -127", "1/sqrt(K) missing",
    "each rounded before the sum", "table of 64 entries", "eps 1e-3 @ norm1", "key and value swapped",
)  # fmt: skip
LAYERS = ("attention.query", "attention.output", "mlp.hidden", "logits")


def sorted_out(name, kind, planted):
    """ "named", "partly" (some of the steps), "located", "none" (the mistake changes nothing) or "wrong", and why."""
    expected = PLANTED.get(planted) or PLANTED[planted.partition(" @ ")[0]]
    dump, correct = dumped(name, kind, planted), dumped(name, kind)
    if all(np.array_equal(dump[step], array) for step, array in correct.items() if not step.endswith(SUMS)):
        return "none", ""
    result = checked(name, kind, dump)
    changed = [step.name for step in result.results if step.codes is not None and step.codes.differ]
    if result.passed:  # where a norm's numbers lie next to ties, either code is right
        assert not changed
        return "none", ""
    findings = diagnose_narrow(result)
    explained = [finding for finding in findings if finding.best is not None]
    for finding in explained:
        names = [mistake.name for tried in (finding.best, *finding.equals) for mistake in tried.mistakes]
        if not any(found.startswith(begin) for found in names for begin in expected):
            return "wrong", f"{finding.step}: {names}"
    described = all(step.codes.meaning for step in result.results if step.codes is not None and step.codes.differ)
    assert described and len(findings) >= 1
    if len(explained) == len(findings):
        return "named", ""
    return ("partly" if explained else "located"), [finding.step for finding in findings if finding.best is None]


# What is right passes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_right_port_passes(name, kind):
    dump = dumped(name, kind)
    result = checked(name, kind, dump)
    assert result.passed and not result.unknown and not any(step.verdict == "missing" for step in result.results)
    assert all(step.codes is None or step.codes.differ == 0 for step in result.results)
    recorded, _ = golden(name, kind)
    for step, array in dump.items():
        if recorded.arrays[step].dtype == np.int32:  # sums are exact whatever lies next to ties
            assert np.array_equal(array, recorded.arrays[step]), step
    assert diagnose_narrow(result) == []


def test_real_numbers_and_uint8_are_codes_too():
    recorded, _ = golden("crooked", "onnx")
    dump = dumped("crooked", "onnx")
    real = {step: recorded.real(step).astype("f") if not step.endswith(SUMS) else array for step, array in dump.items()}
    assert checked("crooked", "onnx", real).passed
    unsigned = {step: (array + 128.0).astype("u1") if not step.endswith(SUMS) else array for step, array in dump.items()}
    assert checked("crooked", "onnx", unsigned).passed
    bits = {step: array.view("u1") if array.dtype == np.int8 else array for step, array in dump.items()}
    assert checked("crooked", "onnx", bits).passed
    unsigned["norm"] = unsigned["norm"] ^ 1
    assert [step.name for step in checked("crooked", "onnx", unsigned).results if not step.fits] == ["norm", "pool"]


def test_a_code_next_to_a_tie_may_be_either_and_no_other():
    """A norm is computed in float32: a number within its noise of a tie may become either code; one that is not, may not."""
    result = checked("crooked", "onnx", dumped("crooked", "onnx"))
    case = result.cases["blocks.0.norm1"]
    real = case.real + case.grid.zero
    assert np.abs(np.abs(case.real - np.rint(case.real)) - 0.5).min() > 1e-6
    place = np.unravel_index(np.abs(real - np.floor(real) - 0.5).argmin(), real.shape)
    other = 2 * np.floor(real[place]) + 1 - case.right[place]
    dump = dumped("crooked", "onnx")
    dump["blocks.0.norm1"] = dump["blocks.0.norm1"].copy()
    dump["blocks.0.norm1"][place] = other
    step = next(s for s in checked("crooked", "onnx", dump).results if s.name == "blocks.0.norm1")
    assert step.codes.differ == 1  # this one is near a tie, and not so near
    case.port = dump["blocks.0.norm1"].astype(float)
    case.unrounded = case.unrounded + 0.0
    case.unrounded[place] = (np.floor(case.real[place]) + 0.5) * case.grid.scale
    assert case.wrong().sum() == 0
    case.port[place] = case.right[place] + 2
    assert case.wrong().sum() == 1


# Mistakes


@pytest.mark.parametrize("planted", QUICK)
def test_a_mistake_is_named(planted):
    kind = "litert" if planted in ("each rounded before the sum", "table of 64 entries") else "onnx"
    assert sorted_out("crooked", kind, planted) == ("named", "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_every_mistake_is_found(name, kind):
    """None named wrongly, at least 85 of 100 named in every step, and of the others it is said what they look like.

    (Every third, and of the digits model, which takes ten times as long, every tenth; EVERY_MISTAKE in the environment takes
    them all.)
    """
    counts, rest = {}, []
    some = list(PLANTED)[:: 1 if "EVERY_MISTAKE" in os.environ else 10 if name == "digits" else 3]
    for planted in some:
        word, why = sorted_out(name, kind, planted)
        counts[word] = counts.get(word, 0) + 1
        if word in ("wrong", "located", "partly"):
            rest.append((word, planted, why))
    print(name, kind, counts, rest)
    had = sum(count for word, count in counts.items() if word != "none")
    assert not counts.get("wrong") and had >= 0.7 * len(some), rest
    assert counts["named"] >= 0.85 * had, rest


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_a_mistake_in_one_layer_is_named_there(layer):
    counts, rest = {}, []
    of_products = [p for p, names in PLANTED.items() if " @ " not in p and names and names[0].startswith("int-")]
    for planted in of_products[LAYERS.index(layer) :: len(LAYERS)]:  # each in one of the layers
        word, why = sorted_out("crooked", "onnx", f"{planted} @ {layer}")
        counts[word] = counts.get(word, 0) + 1
        if word not in ("none", "named"):
            rest.append((word, planted, why))
    print(layer, counts, rest)
    assert not counts.get("wrong") and counts["named"] >= 0.85 * (sum(counts.values()) - counts.get("none", 0)), rest


MEANINGS = {
    "output zero point one too large @ mlp.hidden": ("mlp.hidden", r"everywhere \+1: another zero point"),
    "saturates at 7 bits @ norm1": ("norm1", r"nothing is above 63 or below -64, and what should be is cut off there"),
    "truncated @ norm2": ("norm2", r"off by one in .* %|one too"),
    "output halved @ norm2": ("norm2", r"all are 0\.(49|50)\d* times what they should be: another scale"),
    "float16 in the norm": ("norm1", r"all within .* of a tie: .* as float16"),
    "bias of the column before @ mlp.output": ("mlp.output", r"every column is off by a number of its own"),
    "rounded down @ mlp.output": ("mlp.output", r"one too small: cut off instead of rounded"),
}


@pytest.mark.parametrize("planted", MEANINGS)
def test_what_a_pattern_means(planted):
    short, words = MEANINGS[planted]
    result = checked("crooked", "onnx", dumped("crooked", "onnx", planted))
    codes = next(step.codes for step in result.results if step.name == f"blocks.0.{short}")
    assert codes.differ and len(codes.meaning) == 1
    assert re.search(words, codes.meaning[0]), codes.meaning


def test_few_codes_next_to_ties_are_no_proof():
    """One code that is off by one next to a tie: fewer bits of the multiplier would do it, and many other things."""
    result = checked("crooked", "onnx", dumped("crooked", "onnx", "multiplier of 15 bits @ blocks.0.attention.key"))
    (wrong,) = (step for step in result.results if step.verdict == "wrong")
    assert 0 < wrong.codes.differ < 4 and "int-multiplier-15" in [found.name for found in explain(result.cases[wrong.name])[0]]
    (finding,) = diagnose_narrow(result)
    assert finding.best is None and finding.step == "blocks.0.attention.key"


# On the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("integers") / "golden"
    recorded, _ = golden("crooked", "onnx")
    origin = {"seed": 5, "name": "test"}
    manifest = {**recorded.manifest, "model": origin}
    write_golden(place, {**manifest, "sha256": manifest_sha256(manifest)}, recorded.arrays)
    return place


def test_check_and_diagnose(folder, tmp_path, capsys):
    assert read_golden(folder).arithmetic.name == "int8-onnx"
    dump = tmp_path / "dump.safetensors"
    safetensors.numpy.save_file(dumped("crooked", "onnx"), dump)
    assert main(["golden", "check", str(folder), str(dump)]) == 0
    assert main(["golden", "diagnose", str(folder), str(dump)]) == 0
    assert "Nothing to diagnose" in capsys.readouterr().out
    safetensors.numpy.save_file(dumped("crooked", "onnx", "bias doubled @ mlp.hidden"), dump)
    assert main(["golden", "check", str(folder), str(dump)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "blocks.0.mlp.hidden" in said and "codes differ" in said
    assert main(["golden", "diagnose", str(folder), str(dump), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["steps"] == ["blocks.0.mlp.hidden", "blocks.1.mlp.hidden"]
    assert [mistake["name"] for mistake in finding["explained"]["mistakes"]] == ["int-bias-twice"]
    assert main(["golden", "check", str(folder), str(dump), "--html", str(tmp_path / "page.html")]) == 1
    assert "int-bias-twice" in (tmp_path / "page.html").read_text()
