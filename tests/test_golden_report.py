"""The page of `golden check --html`: what it says is what the check and the diagnosis say."""

import base64
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import port
import pytest
from options import OPTIONS, PLAIN

import numpy_vit
from numpy_vit import ViTConfig
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.golden import report_page
from numpy_vit.golden.checking import check
from numpy_vit.golden.diagnosing import diagnose
from numpy_vit.golden.folder import Golden
from numpy_vit.golden.mistakes import mistakes
from numpy_vit.golden.recording import record
from numpy_vit.golden.report_zh import TEXTS, in_chinese
from numpy_vit.models.seeded import uniform

from conftest import REPOSITORY, crooked_config

TEMPLATE = REPOSITORY / "numpy_vit" / "golden" / "report.html"
NASTY = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def golden():
    config = crooked_config(depth=2)
    model = numpy_vit.random_model(config, seed=3, dtype="float64")
    pixels = np.asarray(uniform(3, "pixels", (3, 3, *config.image), "float64"))
    origin = {"model": {"seed": 3, "name": "crooked"}}
    manifest, arrays = record(model, pixels, origin=origin)
    return Golden(Path("golden"), manifest, arrays), model


def dumped(golden, *wrong):
    """The steps of the tests' own port, with mistakes planted."""
    recorded, model = golden
    weights = {n: a.T if n.endswith(".weight") and a.ndim == 2 else a for n, a in model.tensors.items()}
    steps = {}
    port.run(recorded.arrays["pixels"], weights, model.config.to_dict(), wrong, steps.__setitem__)
    return {name: np.asarray(array, np.float32) for name, array in steps.items()}


def checked(golden, steps, model=True):
    return check(golden[0], {name: tensor_of(array) for name, array in steps.items()}, model=golden[1] if model else None)


def facts_of(page):
    return json.loads(re.search(r'<script type="application/json" id="facts">(.*?)</script>', page, re.DOTALL)[1])


def cells_of(step):
    area = step["map"]
    return np.frombuffer(base64.b64decode(area["codes"]), np.uint8).reshape(area["panels"], area["rows"], area["columns"])


def test_every_step_is_there_with_the_numbers_of_the_check(golden):
    result = checked(golden, dumped(golden, "activation quick_gelu"))
    facts = facts_of(report_page.html(result, "dump.npz"))
    assert [step["name"] for step in facts["steps"]] == [r.name for r in result.results]
    for step, r in zip(facts["steps"], result.results, strict=True):
        assert (step["verdict"], tuple(step["shape"])) == (r.verdict, r.shape)
        assert step["run"] == dataclasses.asdict(r.run) and step["own"] == dataclasses.asdict(r.own)
        assert tuple(step["worst"]) == r.worst and step["values"] == [r.golden, r.port]
    assert facts["steps"][facts["first"]]["name"] == result.first.name == "blocks.0.mlp.gelu"
    assert not facts["passed"] and facts["findings"] is None


def test_a_heat_map_shows_how_many_floors_each_cell_is_off(golden):
    steps = dumped(golden)
    recorded = golden[0]
    exact = recorded.arrays["blocks.1.residual1"]
    floor = checked(golden, steps).floors["blocks.1.residual1"]["run"]["largest"] * np.abs(exact).max()
    planted = exact.copy()  # of the middle picture
    planted[1, 4, 7] += 3 * floor
    planted[1, 5, 2] -= 5_000 * floor
    planted[1, 6, 1] += 2e6 * floor
    planted[1, 2, 0] = np.nan
    result = checked(golden, {**{k: v.astype(np.float64) for k, v in steps.items()}, "blocks.1.residual1": planted})
    step = next(s for s in facts_of(report_page.html(result, "d"))["steps"] if s["name"] == "blocks.1.residual1")
    cells = cells_of(step)[0]
    assert step["map"]["picture"] == 1 and cells.shape == exact.shape[1:] and step["map"]["letters"] == ["N", "D"]
    scale = floor / checked_floor(result, "blocks.1.residual1", exact)  # the format, and so the floor, may have changed
    for place, floors in {(4, 7): 3, (5, 2): 5_000, (6, 1): 2e6}.items():
        assert 0 <= cells[place] / report_page.CODES - np.log10(max(floors * scale, 1)) <= 1 / report_page.CODES
    assert cells[2, 0] == report_page.NOT_FINITE and np.count_nonzero(cells) == 4


def checked_floor(result, name, exact):
    return result.floors[name]["run"]["largest"] * np.abs(exact).max()


def test_heads_have_a_map_each_and_no_error_is_lost_in_a_smaller_map(golden):
    result = checked(golden, dumped(golden, "heads split (K,H)"))
    facts = facts_of(report_page.html(result, "d"))
    steps = {step["name"]: step for step in facts["steps"]}
    probs = steps["blocks.1.attention.probs"]
    assert cells_of(probs).shape[0] == golden[1].config.heads and probs["map"]["heads"]
    assert steps["embed.patches"]["map"]["panels"] == 1
    assert steps["pool"]["map"]["rows"] == 1
    largest = max(step["run"]["noises"] for step in facts["steps"])
    assert facts["decades"] >= np.log10(largest) and facts["decades"] >= max(cells_of(s).max() for s in facts["steps"]) / 12
    wide = np.zeros((700, 900))
    for place in ((0, 0), (699, 899), (350, 1), (3, 777)):
        wide[place] = 1
        small = report_page.coarse(wide, 64, 128)
        assert small.shape == (64, 128) and small.max() == 1
        wide[place] = 0


def test_the_diagnosis_is_included_in_both_languages(golden):
    result = checked(golden, dumped(golden, "query bias missing"))
    findings = diagnose(result)
    facts = facts_of(report_page.html(result, "d", findings=findings, suspected=None, language="zh"))
    assert len(facts["findings"]) == len(findings) >= 1 and facts["language"] == "zh"
    best = facts["findings"][0]["best"]
    assert best["names"] == ["no-bias-attention.query"] and best["texts"] == [["query has no bias", "query 没有偏置"]]
    assert facts["findings"][0]["step"] == "blocks.0.attention.query"


def test_without_a_model_it_says_why(golden):
    result = checked(golden, dumped(golden, "query bias missing"), model=False)
    facts = facts_of(report_page.html(result, "d"))
    assert facts["not_replayed"] == "no model was given" and facts["steps"][0]["own"] is None


def test_every_known_mistake_has_a_chinese_text():
    used = set()
    configs = [ViTConfig(**{**PLAIN, **options}) for options in OPTIONS.values()]
    configs += [crooked_config(pooling=pooling, image=image) for pooling in ("class", "mean") for image in ((12, 20), (16, 16))]
    configs += [crooked_config(pooler=15)]
    texts = {m.text for c in configs for size in (None, (c.image[0] + 4, c.image[1])) for m in mistakes(c, size=size)}
    for english in texts:
        chinese = in_chinese(english)
        assert chinese != english and "{" not in chinese, english
        used |= {pattern for pattern in TEXTS if re.fullmatch(pattern, english)}
    assert not set(TEXTS) - used, "texts of mistakes that there are not"


def test_foreign_texts_cannot_leave_their_place(golden):
    steps = dumped(golden)
    result = checked(golden, {**steps, NASTY: np.zeros(3, np.float32)})
    page = report_page.html(result, f"{NASTY}.npz")
    assert "<img" not in page and page.count("</script>") == TEMPLATE.read_text(encoding="utf-8").count("</script>")
    facts = facts_of(page)
    assert facts["unknown"] == [NASTY] and facts["dump"] == f"{NASTY}.npz"


def test_the_template_loads_nothing_and_every_sentence_has_two_languages():
    text = TEMPLATE.read_text(encoding="utf-8")
    assert "://" not in text and "@import" not in text and not re.search(r"\ssrc=", text) and "innerHTML" not in text
    assert "default-src 'none'" in text
    words = text[text.index("const WORDS = {") : text.index("let tongue")]
    entries = re.findall(r'(\w+): \[("(?:[^"\\]|\\.)*"),\s*("(?:[^"\\]|\\.)*")\]', words)
    assert len(entries) == words.count(": [") > 60
    for name, english, chinese in entries:
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", chinese)), name
        assert "`" not in english + chinese, name
    keys = {name for name, _, _ in entries}
    script = text[text.index("let tongue") :]
    assert set(re.findall(r'say\("(\w+)"', script)) <= keys
    assert not {name for name in keys if len(re.findall(rf"\b{name}\b", text)) < 2 and not name.startswith("letter")}
    english, chinese = (len(re.findall(f'<(?:span|p) lang="{tongue}"', text)) for tongue in ("en", "zh-CN"))
    assert english == chinese > 8
