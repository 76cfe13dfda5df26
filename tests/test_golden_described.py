"""A port's mistakes that no known mistake covers, described: from the dump to the page, in English and Chinese."""

import json
from pathlib import Path

import numpy as np
import port
import pytest

import numpy_vit
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.golden import report, report_page
from numpy_vit.golden.checking import check
from numpy_vit.golden.diagnosing import diagnose
from numpy_vit.golden.folder import Golden
from numpy_vit.golden.recording import record
from numpy_vit.models.seeded import uniform

from conftest import crooked_config


@pytest.fixture(scope="module")
def golden():
    config = crooked_config(depth=2)
    model = numpy_vit.random_model(config, seed=3, dtype="float64")
    pixels = np.asarray(uniform(3, "pixels", (2, 3, *config.image), "float64"))
    manifest, arrays = record(model, pixels, origin={"model": {"seed": 3}}, noise=["float32"])
    return Golden(Path("golden"), manifest, arrays), model


def checked(golden, step, change):
    """The check of a port that has this mistake in the result of a step; what comes after follows from it."""
    recorded, model = golden
    weights = {n: a.T if n.endswith(".weight") and a.ndim == 2 else a for n, a in model.tensors.items()}
    steps = {}

    def keep(name, array):
        if name == step:
            array[...] = change(array.copy(), steps)  # in place: the port goes on with it
        steps[name] = np.array(array, np.float32)

    port.run(recorded.arrays["pixels"], weights, model.config.to_dict(), (), keep)
    return check(recorded, {name: tensor_of(array) for name, array in steps.items()}, model=model)


def head_zeroed(x, steps):
    x[:, 1] = 0
    return x


def tokens_shifted(x, steps):
    x[:, 5:] = x[:, 4:-1].copy()
    return x


def channel_doubled(x, steps):
    x[..., 7] *= 2
    return x


def branch_tripled(x, steps):
    return x + 2 * steps["blocks.0.mlp.output"]


def clipped(x, steps):
    return np.clip(x, -0.25, 0.25)


def not_a_number(x, steps):
    x[:, 3] = np.nan
    return x


MISTAKES = [
    ("blocks.0.attention.context", head_zeroed, "constant", "head 1 of {H}: the numbers are 0", {"head": (1,)}),
    (
        "blocks.1.mlp.output",
        tokens_shifted,
        "shifted",
        "tokens 5 to {last} of {N}: each has the numbers of the one 1 before it",
        None,
    ),
    (
        "blocks.1.norm2",
        channel_doubled,
        "factor",
        "only in channel 7 of {D}: the numbers are the right ones times 2",
        {"channel": (7,)},
    ),
    ("blocks.0.residual2", branch_tripled, "input", "the difference is 2 times blocks.0.mlp.output", {}),
    ("blocks.1.attention.query", lambda x, steps: x[:, :, ::-1], "reversed", "the tokens are reversed", {}),
    ("blocks.0.mlp.hidden", clipped, "clipped", "the numbers are the right ones, cut below at -0.25 and above at 0.25", {}),
    ("blocks.0.norm1", not_a_number, "constant", "token 3 of {N}: the numbers are NaN", {"token": (3,)}),
]


@pytest.mark.parametrize("step, change, kind, text, places", MISTAKES)
def test_a_mistake_that_nobody_knew_is_described(golden, step, change, kind, text, places):
    result = checked(golden, step, change)
    (finding, *_) = [f for f in diagnose(result) if f.step == step]
    c = golden[1].config
    N = golden[0].arrays["norm"].shape[1]
    text = text.format(H=c.heads, D=c.width, N=N, last=N - 1)
    assert finding.best is None and finding.described[0].kind == kind, finding.described
    assert finding.described[0].text.startswith(text)
    assert places is None or finding.described[0].places == places
    said = report.diagnosis_text([finding], result, None, 1000)
    assert f"what differs: {text}" in said
    data = json.loads(report.as_json(report.diagnosis_data([finding], None)))["findings"][0]["described"]
    assert data[0]["kind"] == kind and data[0]["explains"] == 1
    assert {unit: tuple(at) for unit, at in data[0]["places"].items()} == dict(finding.described[0].places)
    english, chinese = report_page.finding_facts(finding)["described"][0]
    assert english == finding.described[0].text and chinese != english
    assert report_page.html(result, "d", findings=[finding])


def test_what_is_explained_is_not_described(golden):
    result = checked(golden, "pool", lambda x, steps: x)
    assert result.passed
    weights = {n: a.T if n.endswith(".weight") and a.ndim == 2 else a for n, a in golden[1].tensors.items()}
    steps = {}
    port.run(golden[0].arrays["pixels"], weights, golden[1].config.to_dict(), ("query bias missing",), steps.__setitem__)
    dump = {name: tensor_of(np.asarray(array, np.float32)) for name, array in steps.items()}
    (finding,) = diagnose(check(golden[0], dump, model=golden[1]))
    assert finding.best is not None and finding.described == ()
