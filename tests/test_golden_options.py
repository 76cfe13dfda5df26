"""Goldens of models with the options of other families: correct runs pass, and each option's mistakes are named."""

import json

import numpy as np
import pytest
from options import OPTIONS, PLAIN

import numpy_vit
from numpy_vit.config import ViTConfig
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.golden.checking import check, model_of
from numpy_vit.golden.diagnosing import Bench, diagnose
from numpy_vit.golden.folder import Golden
from numpy_vit.golden.mistakes import Variation, applicable, both, mistakes, option_mistakes
from numpy_vit.golden.recording import record
from numpy_vit.models.seeded import uniform

from conftest import HERE


def dumped(arrays):
    return {name: tensor_of(np.asarray(array, np.float32)) for name, array in arrays.items()}


@pytest.mark.parametrize("option", OPTIONS)
def test_right_runs_pass_and_mistakes_are_named(option):
    config = ViTConfig(**PLAIN).replace(**{**OPTIONS[option], "depth": 1})
    model = numpy_vit.random_model(config, 5, "portable")
    pixels = uniform(5, "pixels", (2, 3, *config.image), "float64")
    manifest, arrays = record(model, pixels, origin={"model": {"seed": 5}})
    golden = Golden(HERE, json.loads(json.dumps(manifest)), arrays)
    again = model_of(golden)
    right = dumped(numpy_vit.random_model(config, 5)(pixels.astype(np.float32), record=True).steps)
    checked = check(golden, right, model=again)
    assert checked.passed and not diagnose(checked)

    bench = Bench(checked)
    bench.port = {}  # every step goes on from the one before
    last = list(right)[-1]
    for mistake in applicable(config, option_mistakes(config)):
        steps = {}
        bench.replay(
            mistake.change(Variation(config)), None, last, lambda name, array, steps=steps: steps.update({name: array})
        )
        found = diagnose(check(golden, dumped(steps), model=again))
        assert mistake.name in {m.name for f in found if f.best for m in f.best.mistakes}, mistake.name
    assert len({mistake.name for mistake in mistakes(config)}) == len(mistakes(config))


DEGENERATE = dict(heads=1, depth=1, channels=1, patch=1, image=(1, 6), classes=1)


@pytest.mark.parametrize("larger", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "option",
    ["plain", "nothing twice", *(pytest.param(o, marks=[pytest.mark.slow] if n % 4 else []) for n, o in enumerate(OPTIONS))],
)
def test_what_is_tried_changes_something(option, larger):
    """A mistake that a model cannot have is not among those tried: the more there are, the less a fit says."""
    config = ViTConfig(**PLAIN).replace(**OPTIONS.get(option, DEGENERATE if option == "nothing twice" else {}))
    size = (config.image[0] + config.multiple, config.image[1]) if larger else config.image
    model = numpy_vit.random_model(config, 5, "float64")
    pixels = uniform(5, "pixels", (1, config.channels, *size), "float64")
    manifest, arrays = record(model, pixels, noise=["float32"], origin={"model": {"seed": 5}})
    golden = Golden(HERE, manifest, arrays)
    bench = Bench(check(golden, dumped(arrays), model=model))
    bench.port = {}  # every step goes on from the one before
    last = list(arrays)[-1]

    def run_with(*several):
        steps = {}
        run = both(*(mistake.change for mistake in several))(Variation(config))
        with np.errstate(all="ignore"):
            bench.replay(run, None, last, lambda name, array: steps.update({name: array}))
        return steps

    right = run_with()
    for mistake in mistakes(config, size=size):
        wrong = run_with(mistake)
        assert any(name in wrong and not np.array_equal(array, wrong[name]) for name, array in right.items()), mistake.name
    if option == "no class token":
        tried = {mistake.name for mistake in mistakes(config, size=size)}
        assert not tried & {"class-token-zero", "class-token-last", "positions-shifted", "pooling-class", "pooling-all"}
