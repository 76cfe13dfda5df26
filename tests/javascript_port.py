"""What the page of `explain` may change in its model, and the same change made in NumPy: for tests of vit.js."""

import functools
from pathlib import Path

import numpy as np

from numpy_vit import ViT
from numpy_vit.golden import recording
from numpy_vit.golden.checking import check
from numpy_vit.golden.folder import Golden

ORDER = [int(n) for n in np.random.default_rng(5).permutation(64)]


class Changed(ViT):
    """A model in which some steps are changed, whoever runs it and whatever else they change."""

    def __init__(self, config, tensors, own, **rest):
        super().__init__(config, tensors, **rest)
        # Written as patterns, so that a caller's change of the same step does not take their place but comes after them.
        self.own = {f"?{name[1:]}": function for name, function in own.items()}

    def run(self, pixels, *, record=None, change=None, strict=False):
        return super().run(pixels, record=record, change={**self.own, **(change or {})}, strict=strict)


def without_head(head):
    def change(context):
        context[:, head] = 0
        return context

    return change


def without_patches(*patches):
    def change(rows):
        rows[:, list(patches)] = 0
        return rows

    return change


def branch_alone(branch):
    return lambda array, run: run[f"{run.step.rsplit('.', 1)[0]}.{branch}.output"]


def unscaled(array, run):
    block = run.step.removesuffix(".scores")
    return run[f"{block}.query"] @ run[f"{block}.key"].swapaxes(-1, -2)


def nothing(array):
    return np.zeros_like(array)


# name -> what is given to vit.js; the config's changes; the steps' changes
SWITCHES = {
    "none": ({}, {}, {}),
    "a head off": ({"headsOff": ["2.1"]}, {}, {"blocks.2.attention.context": without_head(1)}),
    "a block off": ({"blocksOff": [3]}, {}, {"blocks.3.attention.output": nothing, "blocks.3.mlp.output": nothing}),
    "a residual off": (
        {"residualsOff": [1]},
        {},
        {"blocks.1.residual1": branch_alone("attention"), "blocks.1.residual2": branch_alone("mlp")},
    ),
    "positions off": ({"positionsOff": True}, {}, {"embed.positions": lambda array, run: run["embed.tokens"]}),
    "masked": ({"masked": [9, 27, 28]}, {}, {"embed.patches": without_patches(9, 27, 28)}),
    "shuffled": ({"order": ORDER}, {}, {"embed.patches": lambda rows: rows[:, ORDER]}),
    "shuffled and masked": (
        {"order": ORDER, "masked": [9]},
        {},
        {"embed.patches": lambda rows: without_patches(9)(rows[:, ORDER])},
    ),
    "unscaled": ({"unscaled": True}, {}, {"blocks.*.attention.scores": unscaled}),
    "eps": ({"eps": 0.1}, {"eps": 0.1}, {}),
    "tanh GELU": ({"activation": "gelu_tanh"}, {"activation": "gelu_tanh"}, {}),
    "quick GELU": ({"activation": "quick_gelu"}, {"activation": "quick_gelu"}, {}),
    "SiLU": ({"activation": "silu"}, {"activation": "silu"}, {}),
    "ReLU": ({"activation": "relu"}, {"activation": "relu"}, {}),
    "norms after": ({"normAfter": True}, {"norm_places": "after"}, {}),
    "several": (
        {"headsOff": ["0.0", "0.5"], "blocksOff": [4], "positionsOff": True, "eps": 1e-3},
        {"eps": 1e-3},
        {
            "blocks.0.attention.context": lambda context: without_head(0)(without_head(5)(context)),
            "blocks.4.attention.output": nothing,
            "blocks.4.mlp.output": nothing,
            "embed.positions": lambda array, run: run["embed.tokens"],
        },
    ),
}


def checked(model, pixels, dump, switch, monkeypatch):
    """`golden check` of a dump of vit.js with a switch, against a golden of the same pixels with the same change in NumPy.

    model   in float64
    """
    _, fields, own = SWITCHES[switch]
    golden_model = Changed(model.config.replace(**fields), model.tensors, own)
    manifest, arrays = recording.record(golden_model, pixels, noise=[])
    with monkeypatch.context() as patch:  # the noise floor is the changed model's, too: of one picture, as it takes long
        patch.setattr(recording, "ViT", functools.partial(Changed, own=own))
        measured, _ = recording.record(golden_model, pixels[:1], noise=["float32"])
    for step, of_one in zip(manifest["steps"], measured["steps"], strict=True):
        step["noise"] = of_one["noise"]
    return check(Golden(Path("golden"), manifest, arrays), dump, format="float32", model=golden_model)


def assert_every_step_is_ok(result, model):
    """Every step was there, was run again, and is within float32's noise."""
    wrong = [(r.name, r.verdict, r.run and r.run.noises, r.own and r.own.noises) for r in result.results if r.verdict != "ok"]
    assert not wrong and result.passed and not result.unknown and not result.replayed, wrong
    assert result.compared == len(result.golden.steps) > 12 * model.config.depth
