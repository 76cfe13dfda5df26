"""What a check and a diagnosis may say, and what they may not: conventions, inheritance, budgets, second mistakes, names."""

import functools
import json
import re

import numpy as np
import port
import pytest
from test_golden import CONFIGS, golden_and_port, named, right_names

import numpy_vit
from numpy_vit import ops
from numpy_vit.arithmetic.rounded import round_to
from numpy_vit.cli import main
from numpy_vit.convert import FAMILIES
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.golden import conventions, diagnosing, report_page
from numpy_vit.golden.alignment import LAYERS, STEPS_OF, align, family_of_names, our_names
from numpy_vit.golden.checking import check, error
from numpy_vit.golden.diagnosing import diagnose
from numpy_vit.golden.folder import write_golden
from numpy_vit.golden.mistakes import mistakes
from numpy_vit.golden.recording import replay
from numpy_vit.golden.report import check_text, diagnosis_text
from numpy_vit.golden.report_zh import convention_in_chinese

from conftest import crooked_config


@functools.cache
def made(name="square"):
    return golden_and_port(CONFIGS[name], 3)


def arrays_of(dump):
    return {name: tensor.data for name, tensor in dump.items()}


def checked(arrays, name="square", model=True, **options):
    golden, itself, _ = made(name)
    dump = {step: tensor_of(np.ascontiguousarray(array)) for step, array in arrays.items()}
    return check(golden, dump, model=itself if model else None, **options)


def continued(changed, name="square"):
    """A float32 port's steps where some are given: all others are computed rightly from those."""
    golden, model, _ = made(name)
    narrow = numpy_vit.ViT(model.config, {n: np.asarray(a, np.float32) for n, a in model.tensors.items()})
    steps = {}
    pixels = np.asarray(golden.arrays["pixels"], np.float32)
    with np.errstate(all="ignore"):
        replay(narrow, pixels, changed, lambda n, a: steps.update({n: changed.get(n, np.asarray(a))}))
    return steps


# What is right in another way


@pytest.mark.parametrize("name", ["square", pytest.param("CLIP", marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", port.RIGHT)
def test_a_scale_that_is_folded_in_is_called_by_its_name(way, name):
    golden, model, run = made(name)
    for options in ({}, {"model": model}):
        found = check(golden, run(way), **options)
        assert found.passed and [c.name for c in found.conventions] == port.RIGHT[way]
        assert f"[{port.RIGHT[way][0]}] in every block" in check_text(found, 1000)
    assert not diagnose(found) and "By convention, and not wrong" in diagnosis_text([], found, None, 100)
    assert not check(golden, run(), model=model).conventions


@pytest.mark.parametrize("wrong", ["causal mask", "activation gelu_tanh", "order q v k", "values of the token before"])
def test_a_mistake_beside_a_folded_scale_is_found(wrong):
    golden, model, run = made()
    found = check(golden, run("prescaled", wrong), model=model)
    assert [c.name for c in found.conventions] == ["queries-by-1/sqrt(K)"] and named(diagnose(found)) <= right_names(
        wrong, model.config
    )


@pytest.mark.parametrize("wrong", ["queries scaled too", "scale missing", "multiplied by sqrt(K)", "base 2"])
def test_a_factor_that_was_not_meant_is_no_convention(wrong):
    golden, model, run = made()
    for options in ({}, {"model": model}):
        assert not check(golden, run(wrong), **options).conventions
    alone = {name: array for name, array in run("prescaled").items() if name == "blocks.1.attention.query"}
    assert not check(golden, alone, model=model).conventions  # nothing shows that it was meant


def test_conventions_on_the_command_line(tmp_path, capsys):
    golden, _, run = made()
    write_golden(tmp_path / "g", golden.manifest, golden.arrays)
    np.savez(tmp_path / "d.npz", **arrays_of(run("prescaled for exp2")))
    command = [str(tmp_path / "g"), str(tmp_path / "d.npz"), "--json"]
    for action in ("check", "diagnose"):
        assert main(["golden", action, *command]) == 0
        said = json.loads(capsys.readouterr().out)
        assert [c["name"] for c in said["conventions"]] == port.RIGHT["prescaled for exp2"]
        assert "powers of 2" in said["conventions"][0]["text"]


@pytest.mark.parametrize("of", ["queries", "keys", "scores"])
def test_conventions_are_on_the_page_in_both_languages(of):
    golden, _, run = made()
    among = conventions.factors(golden.config)[of == "scores"]
    for factor in among:
        text = conventions.sentence(of, factor)
        assert factor.split(" ")[0] in text and convention_in_chinese(text) not in (text, "")
    facts = report_page.page_facts(check(golden, run("prescaled")), "d")
    assert facts["conventions"][0]["name"] == port.RIGHT["prescaled"][0] and not facts["hollow"]


# Inherited, and by its own


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_inherited_where_the_inputs_explain_it(value):
    _, _, run = made()
    bad = arrays_of(run())["blocks.0.residual1"].copy()
    bad[0, 2, 3] = value
    found = checked(continued({"blocks.0.residual1": bad}))
    verdicts = {r.name: r.verdict for r in found.results}
    assert [name for name, verdict in verdicts.items() if verdict == "wrong"] == ["blocks.0.residual1"]
    assert verdicts["logits"] == "inherited" and not found.passed
    assert [f.step for f in diagnose(found)] == ["blocks.0.residual1"]
    fresh = continued({"blocks.0.residual1": bad})
    fresh["blocks.1.mlp.hidden"][1, 0, 0] = value  # of the other picture
    verdicts = {r.name: r.verdict for r in checked(fresh).results}
    assert verdicts["blocks.1.mlp.hidden"] == "wrong" and verdicts["blocks.1.norm2"] == "inherited"


@pytest.mark.parametrize("step, by", [("blocks.0.residual1", ("+", 3000)), ("blocks.1.attention.query", ("*", 300))])
def test_a_floor_follows_the_ports_own_inputs(step, by):
    """A norm of numbers that are nearly alike, and a softmax of large scores, round otherwise than the golden's."""
    _, _, run = made()
    right = arrays_of(run())[step]
    steps = continued({step: right + np.float32(by[1]) if by[0] == "+" else right * np.float32(by[1])})
    verdicts = {r.name: r.verdict for r in checked(steps).results}
    assert [name for name, verdict in verdicts.items() if verdict == "wrong"] == [step]
    steps["blocks.1.norm2"] = steps["blocks.1.norm2"] * np.float32(1.3)
    assert next(r for r in checked(steps).results if r.name == "blocks.1.norm2").verdict == "wrong"


def test_a_small_mistake_is_not_excused_by_a_large_one_before():
    golden, model, run = made()
    found = check(golden, run("BGR", "eps 1e-12", "activation gelu"), model=model)
    assert named(diagnose(found)) == {"bgr", "eps-1e-12", "activation-gelu"}


# Budgets, and what came near


def test_a_diagnosis_keeps_to_the_budget():
    golden, model, run = made()
    dump = run("activation gelu", "hidden bias missing")
    all_wrong = {f.step for f in diagnose(check(golden, dump, model=model))}
    assert all_wrong == {"blocks.0.mlp.hidden", "blocks.0.mlp.gelu"}
    found = check(golden, dump, model=model, budgets={"*.mlp.gelu": 0.5})
    assert {f.step for f in diagnose(found)} == {"blocks.0.mlp.hidden"}


@pytest.mark.slow
def test_what_is_within_a_budget_of_a_mistake_is_explained_by_it():
    _, _, run = made()
    steps = arrays_of(run("hidden bias missing"))
    for n in range(2):
        steps[f"blocks.{n}.mlp.hidden"] = steps[f"blocks.{n}.mlp.hidden"] * np.float32(1.0003)
    assert not named(diagnose(checked(steps))) & {"no-bias-mlp.hidden"}
    assert "no-bias-mlp.hidden" in named(diagnose(checked(steps, budgets={"*.mlp.hidden": 1e-3})))


@pytest.mark.parametrize("share, near", [(0.1, True), (0.3, False)])
def test_what_came_near_is_near_and_how_near_is_said(share, near):
    golden, _, run = made()
    steps = arrays_of(run("activation gelu"))
    gelu = steps["blocks.0.mlp.gelu"]
    noise = np.random.default_rng(0).normal(size=gelu.shape)
    noise *= share * np.linalg.norm(gelu - golden.arrays["blocks.0.mlp.gelu"]) / np.linalg.norm(noise)
    only = {"blocks.0.mlp.hidden": steps["blocks.0.mlp.hidden"], "blocks.0.mlp.gelu": (gelu + noise).astype("f4")}
    found = checked(only)
    (finding,) = diagnose(found)
    assert finding.best is None and bool(finding.nearest) is near
    assert ("% of the difference is left" in diagnosis_text([finding], found, None, 1000)) is near


@pytest.mark.parametrize("scale", [1e-5, *(pytest.param(scale, marks=pytest.mark.slow) for scale in (3e-6, 1e-4))])
def test_a_second_mistake_must_do_much_on_top_of_the_first(scale):
    """A first one that leaves noise, and any other that takes a little of it away: the other is not named."""
    _, _, run = made()
    steps = arrays_of(run("activation gelu"))
    rng = np.random.default_rng(1)
    steps = {n: a for n, a in steps.items() if n in ("blocks.0.mlp.hidden", "blocks.0.mlp.gelu", "blocks.0.mlp.output")}
    size = np.abs(steps["blocks.0.mlp.gelu"]).max()
    noisy = steps["blocks.0.mlp.gelu"] + scale * size * rng.normal(size=steps["blocks.0.mlp.gelu"].shape)
    assert named(diagnose(checked({**steps, "blocks.0.mlp.gelu": noisy.astype("f4")}))) <= {"activation-gelu"}


@pytest.mark.parametrize("share, so", [(0.6, False), (0.9, True)])
def test_a_second_mistake_leaves_at_most_half_of_what_the_first_leaves(share, so):
    """Exact GELU, and a part of the way to float16 weights before it: far on that way they are named too."""
    golden, model, _ = made()
    x = np.asarray(golden.arrays["blocks.0.norm2"])
    weight, bias = (np.asarray(model.tensors[f"blocks.0.mlp.hidden.{kind}"], np.float64) for kind in ("weight", "bias"))
    one, both = (ops.gelu.formula(x @ w + bias) for w in (weight, weight.astype(np.float16).astype(np.float64)))
    dump = {"blocks.0.norm2": x, "blocks.0.mlp.gelu": one + share * (both - one)}
    floor = checked(dump, format="float32").floors["blocks.0.mlp.gelu"]["step"]
    factor = 0.5 * error(both, one, floor).noises  # what is left is within it, what the first alone leaves is not
    found = named(diagnose(checked(dump, format="float32", factor=factor)))
    assert any("float16" in name for name in found) is so and (not so or "activation-gelu" in found)


UNKNOWN = {
    "positions at 0.9": ("embed.positions", lambda x, rng: 0.9 * x),
    "one head is zero": ("blocks.0.attention.context", lambda x, rng: x * (np.arange(x.shape[1]) != 1)[:, None, None]),
    "scores by a tenth more": ("blocks.0.attention.scores", lambda x, rng: 1.1 * x),
    "noise": ("blocks.1.mlp.hidden", lambda x, rng: x + 0.02 * rng.normal(size=x.shape)),
    "tokens in another order": ("blocks.1.norm1", lambda x, rng: x[:, rng.permutation(x.shape[1])]),
    "probabilities cut": ("blocks.1.attention.probs", lambda x, rng: np.where(x > 0.06, x, 0)),
    "clipped": ("blocks.0.mlp.output", lambda x, rng: np.clip(x, -0.1, 0.1)),
    "one channel": ("norm", lambda x, rng: x * (np.arange(x.shape[-1]) != 3)),
    "rank one": ("blocks.0.mlp.hidden", lambda x, rng: x.mean(-1, keepdims=True) + 0 * x),
    "logits shifted": ("logits", lambda x, rng: x + 0.1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nobody_knows_is_not_named(name):
    step, change = UNKNOWN[name]
    _, _, run = made()
    wrong = change(arrays_of(run())[step], np.random.default_rng(2)).astype("f4")
    found = checked(continued({step: wrong}))
    assert found.first.name == step
    assert not named(diagnose(found))


@pytest.mark.parametrize("mask", ["-inf", "-1e9"])
@pytest.mark.parametrize("wrong", ["causal mask", "last token masked"])
def test_a_mask_is_found_in_the_scores(wrong, mask):
    golden, model, _ = made()
    _, _, run = golden_and_port(CONFIGS["square"], 3, port_options={"mask": mask})
    findings = diagnose(check(golden, run(wrong), model=model))
    assert named(findings) <= right_names(wrong, model.config) and all(f.best for f in findings) and findings


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_one_operation_in_a_narrower_format_is_said_on_the_command_line(tmp_path, capsys, format):
    golden, model, _ = made()
    probs = {f"blocks.*.{n}": lambda x: round_to(format, x).astype(np.float64) for n in ("attention.probs",)}
    steps = model(golden.arrays["pixels"], record=True, change=probs).steps
    write_golden(tmp_path / "g", golden.manifest, golden.arrays)
    np.savez(tmp_path / "d.npz", **{name: np.asarray(a, np.float32) for name, a in steps.items()})
    assert main(["golden", "diagnose", str(tmp_path / "g"), str(tmp_path / "d.npz")]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert f"attention.probs alone is off as {format} would be, in every block: was that one operation" in out


def test_a_finding_says_in_which_blocks():
    golden, model, run = made()
    right, wrong = arrays_of(run()), arrays_of(run("activation gelu"))
    everywhere = check(golden, run("activation gelu"), model=model)
    assert [f.place for f in diagnose(everywhere)] == ["in every block"]
    one = continued({"blocks.0.mlp.gelu": wrong["blocks.0.mlp.gelu"]})
    (finding,) = diagnose(checked(one))
    assert finding.place == "in block 0" and right["blocks.1.mlp.gelu"].shape == one["blocks.1.mlp.gelu"].shape
    assert "shows in block 0" in diagnosis_text([finding], checked(one), None, 1000)


def test_only_what_can_change_the_step_is_tried(monkeypatch):
    golden, _, run = made()
    monkeypatch.setattr(diagnosing, "PAIRS_OF", 0)
    steps = arrays_of(run())
    steps["logits"] = np.float32(3) * steps["logits"]
    (finding,) = diagnose(checked(steps))
    assert finding.step == "logits" and finding.tried < 60 < len(mistakes(golden.config))


# Names


def test_a_dump_of_what_no_weight_has_touched_is_no_success(tmp_path, capsys):
    golden, _, run = made()
    write_golden(tmp_path / "g", golden.manifest, golden.arrays)
    steps = arrays_of(run())
    for names, status in ((["embed.patches"], 1), (["embed.patches", "embed.projection"], 0), (["logits"], 0)):
        np.savez(tmp_path / "d.npz", **{name: steps[name] for name in names})
        assert main(["golden", "check", str(tmp_path / "g"), str(tmp_path / "d.npz")]) == status
        out = " ".join(capsys.readouterr().out.split())
        assert ("No success: only embed.patches could be compared" in out) is bool(status)
        assert main(["golden", "diagnose", str(tmp_path / "g"), str(tmp_path / "d.npz")]) == status
        assert ("No success" in capsys.readouterr().out) is bool(status)


@pytest.mark.parametrize("name", ["square", "CLIP"])
@pytest.mark.parametrize("after_norm", [False, True])
def test_hidden_states_are_known(name, after_norm):
    """transformers' tuple: the embedded tokens, then each block's output; the last as it is, or after the last norm."""
    _, _, run = made(name)
    if after_norm and name == "CLIP":
        return  # it has no norm of all tokens
    steps = arrays_of(run())
    embedded = steps["embed.norm" if name == "CLIP" else "embed.positions"]
    last = steps["norm" if after_norm else "blocks.1.residual2"]
    dump = {"hidden_states.0": embedded, "hidden_states.1": steps["blocks.0.residual2"], "hidden_states.2": last}
    found = checked(dump, name)
    assert found.passed and found.compared == 3 and not found.unknown
    if after_norm:
        both = checked({**dump, "last_hidden_state": steps["norm"]}, name)
        assert both.passed and both.compared == 3
    dump["hidden_states.1"] = dump["hidden_states.1"] * np.float32(1.01)
    assert checked(dump, name).first.name == "blocks.0.residual2"


def layers(family):
    """The names of a family's layers -> our steps, as its own table has them."""
    found = {}
    for row in FAMILIES[family].table.rows:
        theirs = row.theirs.replace("{n}", "3")
        if LAYERS.fullmatch(row.ours) and "{end}" not in theirs and not re.search("layer_scale|merger", row.ours):
            found.setdefault(theirs, set()).add(STEPS_OF.get(row.ours, row.ours).replace("{n}", "3"))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dump_may_bear_the_names_of_any_family(family):
    names = layers(family)
    steps = set().union(*names.values()) | {"blocks.3.residual2", "blocks.3.attention.probs", "blocks.3.mlp.gelu"}
    assert sum(step.startswith("blocks.3.") for step in steps) >= 5
    meant = family_of_names(names)
    assert meant == ("moonvit" if family == "moonvit" else None)
    for theirs, ours in names.items():
        for name in (theirs, f"vision_tower.{theirs}", f"model.{theirs}"):
            targets = our_names(name, steps, meant)[1]
            assert set(targets) & ours, (name, targets, ours)
    block = {re.match(r".*?\D3(?=[./])", name)[0] for name, ours in names.items() if any(s.startswith("blocks.") for s in ours)}
    for name in block:
        assert our_names(name, steps, meant)[1] == ("blocks.3.residual2",), name


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("encoder.layers.encoder_layer_3.self_attention.0", "blocks.3.attention.output"),
        ("transformer.resblocks.3.attn.0", "blocks.3.attention.output"),
        ("encoder.layers.3.self_attn.1", "blocks.3.attention.probs"),
        ("transformer.resblocks.3.mlp.gelu", "blocks.3.mlp.gelu"),
        ("encoder.layers.3.mlp.activation_fn", "blocks.3.mlp.gelu"),
        ("Transformer.encoderblock_3.MlpBlock_3.__call__.0", "blocks.3.mlp.output"),
        ("Transformer/encoderblock_3/LayerNorm_0/__call__", "blocks.3.norm1"),
        ("visual.blocks.3.attn.proj", "blocks.3.attention.output"),
        ("text_model.encoder.layers.3.self_attn.q_proj", None),
    ],
)
def test_modules_that_hold_others(theirs, ours):
    steps = numpy_vit.random_model(crooked_config(depth=4)).step_names()
    assert our_names(theirs, steps)[1] == ((ours,) if ours else ())


def test_moonvits_norms_are_not_taken_for_ours():
    """It counts them from 0: its norm1 is the second."""
    golden, _, run = made()
    steps = run()
    theirs = {"blocks.0.norm0": "blocks.0.norm1", "blocks.0.norm1": "blocks.0.norm2", "blocks.0.mlp.fc0": "blocks.0.mlp.hidden",
              "blocks.0.mlp.fc1": "blocks.0.mlp.output"}  # fmt: skip
    aligned, unknown = align({name: steps[ours] for name, ours in theirs.items()}, golden.steps)
    assert {step: array.name for step, array in aligned.items()} == {
        ours: name for name, ours in theirs.items()
    } and not unknown
    assert check(golden, {name: steps[ours] for name, ours in theirs.items()}).passed
