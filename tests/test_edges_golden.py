"""The thresholds of goldens from both sides: what is let pass by a hair, and what is not."""

import dataclasses
import functools
import json
import math

import numpy as np
import port
import pytest
from test_golden import golden_and_port, named, out_in

import numpy_vit
from numpy_vit import InputError, ops
from numpy_vit.arithmetic.rounded import EPS, round_to, rounded_tensors
from numpy_vit.files.tensorfile import Tensor, tensor_of
from numpy_vit.golden import diagnosing, report_page
from numpy_vit.golden.checking import check
from numpy_vit.golden.diagnosing import Suspected, diagnose, place, suspicion
from numpy_vit.golden.mistakes import mistakes
from numpy_vit.golden.recording import record, replay

from conftest import crooked_config


@functools.cache
def made(seed=2):
    """A golden, its model, and all steps in float64, exact."""
    config = crooked_config(image=(16, 16), width=48, heads=4, mlp=96, depth=2, eps=1e-5, activation="quick_gelu")
    golden, model, run = golden_and_port(config, seed)
    return golden, model, run


def exact(*names):
    golden, *_ = made()
    arrays = {name: array for name, array in golden.arrays.items() if name != "pixels"}
    return {name: arrays[name] for name in names or arrays}


def checked(arrays, format="float32", **options):
    golden, *_ = made()
    return check(golden, {name: tensor_of(np.asarray(array)) for name, array in arrays.items()}, format=format, **options)


def result(found, name):
    return next(r for r in found.results if r.name == name)


def rough(like, seed=0):
    """A random array of this shape, of size 1."""
    noise = np.random.default_rng(seed).normal(size=like.shape)
    return noise / np.linalg.norm(noise)


def off_by(noises, name, among, what="run", **options):
    """`among` with one step off so far that its error is `noises` noise floors, by what a check says of it."""

    def moved(by):
        return {**among, name: among[name] + by * np.linalg.norm(among[name]) * rough(among[name])}

    by = 1e-4
    for _ in range(2):
        by *= noises / getattr(result(checked(moved(by), **options), name), what).noises
    return moved(by)


# How far off a port may be


def test_four_noise_floors_are_allowed_and_no_more():
    steps = exact("logits")
    below, above = (checked(off_by(noises, "logits", steps)) for noises in (3.9, 4.1))
    assert below.passed and result(below, "logits").verdict == "ok"
    assert not above.passed and result(above, "logits").verdict == "unclear"


def test_four_noise_floors_of_one_step_too():
    _, model, _ = made()
    name = "blocks.1.mlp.hidden"
    below, above = (checked(off_by(n, name, exact(), "own", model=model), model=model) for n in (3.9, 4.1))
    assert result(below, name).verdict == "ok"
    assert result(above, name).verdict == (
        "wrong" if result(above, name).run.against(above.floors[name]["step"]).noises > 4 else "ok"
    )


def test_a_factor_of_the_users_own():
    steps = off_by(10, "logits", exact("logits"))
    assert not checked(steps, factor=9.8).passed and checked(steps, factor=10.2).passed


def test_a_budget_from_both_sides():
    steps = exact("logits")
    size = abs(steps["logits"]).max()
    steps["logits"] = steps["logits"].copy()
    steps["logits"].flat[0] += 0.01 * size
    assert checked(steps, budgets={"logits": 0.0101}).passed and not checked(steps, budgets={"logits": 0.0099}).passed


def test_float64_has_float64s_noise_not_float32s():
    steps = off_by(1.0, "logits", exact("logits"))
    assert checked(steps).passed and not checked(steps, format="float64").passed
    ratio = result(checked(steps, format="float64"), "logits").run.noises
    assert math.isclose(ratio, EPS["float32"] / EPS["float64"], rel_tol=1e-6)


@pytest.mark.parametrize("name", ["blocks.0.mlp.output", "norm"])
def test_too_small_as_a_whole_is_as_wrong_as_too_large(name):
    _, model, _ = made()
    found = [result(checked({**exact(), name: exact()[name] * (1 + by)}, model=model), name) for by in (1e-5, -1e-5)]
    larger, smaller = (r.own for r in found)
    assert larger.gain > 0 > smaller.gain
    assert math.isclose(larger.noises, smaller.noises, rel_tol=1e-2)
    assert larger.noises > 1.5 * larger.l2 / checked(exact()).floors[name]["step"]["l2"]  # the gain is what tells


def test_of_equally_common_dtypes_the_narrowest_counts():
    golden, *_ = made()
    for wide, narrow in (("F32", "F16"), ("F64", "F32"), ("F64", "F16")):
        kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
        dump = {
            name: Tensor(t, array.astype(kind[t]))
            for t, (name, array) in zip((wide, narrow), exact("norm", "logits").items(), strict=True)
        }
        assert check(golden, dump).format == {"F32": "float32", "F16": "float16"}[narrow], (wide, narrow)


def floors_as_documented(step, format, of):
    """docs/golden.md: as measured, widened by 1 + 6 / sqrt(count), never below one unit of the format."""
    count, noise = math.prod(step["shape"]), step["noise"][format][of]
    floor = {by: max(noise[by] * (1 + 6 / math.sqrt(count)), 2 * EPS[format]) for by in ("largest", "l2")}
    chance = floor["l2"] if of == "run" else max(EPS[format], 2 * floor["l2"] / math.sqrt(count))
    return {**floor, "gain": max(noise["gain"], chance)}


def in_floors(error, floor):
    return max(error.largest / floor["largest"], error.l2 / floor["l2"], abs(error.gain) / floor["gain"])


@pytest.mark.parametrize("format", ["float32", "float16"])
def test_floors_are_widened_where_there_are_few_numbers(format):
    golden, model, _ = made()
    steps = {name: array + 1e-3 * np.linalg.norm(array) * rough(array) for name, array in exact().items()}
    found = checked(steps, format=format, model=model)
    for step in golden.steps[1:]:
        r = result(found, step["name"])
        assert math.isclose(r.run.noises, in_floors(r.run, floors_as_documented(step, format, "run")), rel_tol=1e-9), step[
            "name"
        ]
        assert math.isclose(r.own.noises, in_floors(r.own, floors_as_documented(step, format, "step")), rel_tol=1e-9), step[
            "name"
        ]


def test_a_step_run_again_over_a_gap_is_allowed_the_noise_of_a_run():
    golden, model, _ = made()
    name = "blocks.1.residual2"
    steps = off_by(1, name, exact("blocks.0.residual2", name), model=model)
    r, step = result(checked(steps, model=model), name), next(s for s in golden.steps if s["name"] == name)
    assert r.span == ("blocks.0.residual2",)
    assert math.isclose(r.own.noises, in_floors(r.own, floors_as_documented(step, "float32", "run")), rel_tol=1e-9)


# Names


HOOKS = {
    "vit.encoder.layer.0.output.dense": "blocks.0.mlp.output",
    "encoder.layer.1.output": "blocks.1.residual2",
    "encoder.layer.1": "blocks.1.residual2",
    "encoder.layer.1.attention.output.dense": "blocks.1.attention.output",
    "encoder.layer.0.intermediate.dense": "blocks.0.mlp.hidden",
    "encoder.layer.0.intermediate.intermediate_act_fn": "blocks.0.mlp.gelu",
    "encoder.layer.0.layernorm_after": "blocks.0.norm2",
    "blocks.0.attn.norm": "blocks.0.attention.context",
    "blocks.1.attn.proj": "blocks.1.attention.output",
    "blocks.1.ls1": "blocks.1.attention.output",
    "blocks.1.mlp.fc1": "blocks.1.mlp.hidden",
    "blocks.1.mlp.act": "blocks.1.mlp.gelu",
    "blocks.1.mlp": "blocks.1.mlp.output",
    "blocks.1.attn.attn_drop": "blocks.1.attention.probs",
    "patch_embed": "embed.projection",
    "head_drop": "pool",
}


@pytest.mark.parametrize("theirs, ours", HOOKS.items())
def test_what_a_hook_sees_is_the_step_it_is(theirs, ours):
    golden, *_ = made()
    found = check(golden, {theirs: tensor_of(golden.arrays[ours])})
    assert {r.name for r in found.results if r.theirs} == {ours} and found.passed


def test_of_names_for_the_same_step_the_first_counts():
    """Of modules one inside another, hooks see the inner one first: what comes after it may be another step."""
    golden, *_ = made()
    ours = golden.arrays["blocks.0.attention.output"]
    found = check(golden, {"blocks.0.attn.proj": tensor_of(ours), "blocks.0.ls1": tensor_of(ours * 2)})
    assert found.passed and result(found, "blocks.0.attention.output").theirs == "blocks.0.attn.proj"


def test_a_mapping_gives_a_step_once():
    golden, *_ = made()
    dump = {name: tensor_of(golden.arrays["logits"]) for name in "ab"}
    assert check(golden, dump, mapping={"b": "logits"}).passed
    with pytest.raises(InputError, match="gives step 'logits' twice"):
        check(golden, dump, mapping={"a": "logits", "b": "logits"})


@pytest.mark.parametrize("shape", [(2, 17, 145), (2, 17, 1), (3,), ()])
def test_query_key_and_value_in_one_array_that_has_no_three_parts(shape):
    golden, *_ = made()
    with pytest.raises(InputError, match="blocks.0.attn.qkv"):
        check(golden, {"blocks.0.attn.qkv": tensor_of(np.zeros(shape))})


# Recording


def test_a_model_that_overflows_makes_no_golden():
    config = crooked_config(depth=1)
    model = numpy_vit.random_model(config, 0, "portable")
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        tensors = {**model.tensors, "head.bias": np.full(7, bad).view(type(model.tensors["head.bias"]))}
        broken = numpy_vit.ViT(config, tensors)
        pixels = np.zeros((1, 3, 12, 20))
        if bad == 1e300:
            record(broken, pixels, noise=())
            continue
        with pytest.raises(InputError, match="step logits has NaN or infinite numbers"):
            record(broken, pixels, noise=())


def test_what_overflows_in_a_narrow_format_has_all_the_noise_there_is():
    """100,000 is beyond float16: its error is the number itself, not nothing."""
    config = crooked_config(depth=1)
    pixels = np.full((1, 3, 12, 20), 1e5)
    manifest, _ = record(numpy_vit.random_model(config, 0, "portable"), pixels, noise=("float16", "bfloat16"))
    steps = {step["name"]: step["noise"] for step in json.loads(json.dumps(manifest))["steps"]}
    assert steps["embed.patches"]["float16"]["run"] == {"largest": 1.0, "l2": 1.0, "gain": 1.0}
    assert 0 < steps["embed.patches"]["bfloat16"]["run"]["largest"] < 0.01


# Diagnosing


@functools.cache
def small():
    """A golden of few numbers, its model, and what the little port makes of it."""
    config = crooked_config(image=(8, 12), width=16, heads=4, mlp=20, depth=1, eps=1e-5, activation="quick_gelu", pooler=0)
    return golden_and_port(config, 2)


STEP, PLANTED, NAME = "blocks.0.attention.scores", "scale missing", "scale-missing"


def towards_the_mistake(share, extra=0.0):
    """All steps up to one, which is `share` of the way from right to what a mistake makes of it, and `extra` beside it."""
    golden, model, _ = small()
    names = [name for name in golden.arrays if name != "pixels"]
    steps = {name: np.array(golden.arrays[name]) for name in names[: names.index(STEP) + 1]}
    wrong = {}
    values = dataclasses.asdict(model.config)
    port.run(golden.arrays["pixels"], out_in(model), values, (PLANTED,), lambda name, array: wrong.update({name: array}))
    target = steps[STEP] + share * (wrong[STEP] - steps[STEP])
    steps[STEP] = target + extra * np.linalg.norm(target) * rough(target)
    return {name: tensor_of(array) for name, array in steps.items()}


def own_noises(steps):
    golden, model, _ = small()
    return result(check(golden, steps, model=model, format="float32"), STEP).own.noises


def explained(steps, **options):
    golden, model, _ = small()
    found = check(golden, steps, model=model, format="float32", **options)
    assert result(found, STEP).verdict == "wrong"
    return NAME in named(diagnose(found))


@pytest.mark.parametrize("share, so", [(0.48, False), (0.53, True)])
def test_a_mistake_explains_what_it_brings_twice_as_near(share, so, monkeypatch):
    """Half way to the mistake, which makes the scores twice as large, its error in their noise is half of the right one's."""
    monkeypatch.setattr(diagnosing, "mistakes", lambda *a, **k: [m for m in mistakes(*a, **k) if m.name == NAME])
    factor = 0.3 * own_noises(towards_the_mistake(1.0))  # so that it is within noise of the mistake in both cases
    assert explained(towards_the_mistake(share), factor=factor) is so


@pytest.mark.parametrize("noises, so", [(3, True), (15, True), (18, False)])
def test_a_wrong_models_own_noise_is_allowed_up_to_four_times(noises, so):
    """Where what is left is less than a thousandth of the mistake; a correct step has but the factor, 4, itself."""
    unit = 1e-4 / own_noises(towards_the_mistake(0.0, 1e-4))
    assert explained(towards_the_mistake(1.0, noises * unit)) is so


@pytest.mark.parametrize("share, told_apart", [(0.490, False), (0.485, True)])
def test_explanations_that_are_as_near_within_a_twentieth_are_both_given(share, told_apart):
    """Between exact and tanh GELU, which bfloat16 cannot tell apart, where quick GELU would be right."""
    golden, model, _ = small()
    names = [name for name in golden.arrays if name != "pixels"]
    steps = {name: golden.arrays[name] for name in names[: names.index("blocks.0.mlp.gelu") + 1]}
    hidden = steps["blocks.0.mlp.hidden"]
    steps["blocks.0.mlp.gelu"] = (1 - share) * ops.gelu.formula(hidden) + share * ops.gelu_tanh.formula(hidden)
    dump = {name: tensor_of(np.asarray(array)) for name, array in steps.items()}
    found = check(golden, dump, model=model, format="bfloat16", factor=0.5)
    (finding,) = diagnose(found)
    several = [mistake.name for tried in (finding.best, *finding.equals) for mistake in tried.mistakes]
    assert sorted(several) == ["activation-gelu"] + ["activation-gelu_tanh"] * (not told_apart)


def rounded_run(format, *, kind=None, factor=1.0):
    """All steps as a model computes them in a format, saved as float32; or only those of one kind of step."""
    golden, model, _ = made()
    narrow = numpy_vit.ViT(model.config, rounded_tensors(format, model.tensors))
    if kind is None:
        arrays = narrow(round_to(format, golden.arrays["pixels"]), record=True).steps
    else:
        change = {f"blocks.*.{kind}": lambda x: round_to(format, x).astype(np.float64)}
        arrays = model(golden.arrays["pixels"], record=True, change=change).steps
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


@pytest.mark.parametrize("format", ["float16", "bfloat16"])
def test_a_dump_that_is_a_narrower_formats_work(format):
    _, model, _ = made()
    for options in ({}, {"model": model}):
        assert suspicion(checked(rounded_run(format), **options)) == Suspected(format)
    few = {name: array for name, array in rounded_run(format).items() if name.endswith("residual2")}
    assert suspicion(checked(few)) is None  # two steps are no pattern
    steps = rounded_run(format)
    first = steps["blocks.0.residual2"]
    steps["blocks.0.residual2"] = first + np.float32(20) * (first - exact("blocks.0.residual2")["blocks.0.residual2"])
    assert suspicion(checked(steps)) is None  # nor is one that it would not have made
    golden, model, _ = made()
    given = {n: a.astype(np.float64) for n, a in rounded_run(format).items() if n.startswith(("embed.", "blocks.0."))}
    steps = {}  # and nor are those where the later blocks are right by themselves
    replay(model, golden.arrays["pixels"], given, lambda n, a: steps.update({n: np.asarray(given.get(n, a), np.float32)}))
    assert suspicion(checked(steps, model=model)) is None


def test_one_operation_in_a_narrower_format_is_called_that():
    _, model, _ = made()
    found = suspicion(checked(rounded_run("bfloat16", kind="attention.probs"), model=model))
    assert found == Suspected("bfloat16", "attention.probs")
    steps = exact()
    larger = {name: array * 1.002 for name, array in steps.items() if name.endswith("mlp.output")}
    assert suspicion(checked({**steps, **larger}, model=model)) is None  # a factor is no rounding
    one = {"blocks.0.attention.probs": round_to("bfloat16", steps["blocks.0.attention.probs"])}
    assert suspicion(checked({**steps, **one}, model=model)) is None  # nor is it in block 1


def test_a_mistake_within_a_formats_noise_is_not_called_that_format():
    golden, model, run = made()
    for wrong in ("activation gelu", "eps 1e-06", "hidden bias missing"):
        assert suspicion(check(golden, run(wrong), model=model, format="float32")) is None, wrong


@pytest.mark.parametrize(
    "steps, dumped, said",
    [
        ([3], range(12), "in block 3"),
        ([0, 1, 2, 5], range(12), "in blocks 0 to 2, 5"),
        (range(12), range(12), "in every block"),
        ([3, 7], [3, 7], "in every block of the dump (3, 7)"),
        ([0], [0], ""),
    ],
)
def test_every_block_is_said_only_where_those_looked_at_agree(steps, dumped, said):
    def name(numbers):
        return [f"blocks.{n}.mlp.gelu" for n in numbers]

    assert place(name(steps), [*name(dumped), "logits", "blocks.20.norm1"]) == said
    assert place(["logits"], name(dumped)) == ""


@pytest.mark.parametrize("noise, cells, powers", [(1.0, None, 4), (10.0**4, None, 4), (10**4.2, None, 5), (10**7.0, None, 7),
                                                  (1.0, 4.01, 5), (1.0, 6.0, 6), ("inf", 4.5, 5), (0.5, 3.9, 4)])  # fmt: skip
def test_the_pages_scale_reaches_the_largest_error_of_it(noise, cells, powers):
    step = {"run": {"noises": noise}, "own": None}
    step |= {} if cells is None else {"map": {"largest": cells * report_page.CODES}}
    for of in ("run", "own"):
        assert report_page.decades([{of: step["run"], **{k: v for k, v in step.items() if k == "map"}}]) == powers
