"""What the README says is what happens."""

import re

import numpy as np
import pytest

import numpy_vit
from numpy_vit.cli import parser

from conftest import REPOSITORY

READMES = ["README.md", "README.zh-CN.md"]


def steps_of(readme):
    text = (REPOSITORY / readme).read_text(encoding="utf-8")
    return re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([A-Z0-9* -]+) \| ([\d x]+) \|$", text, re.MULTILINE)


def test_the_step_table_is_a_real_run_of_vit_b_16():
    seen = []
    model = numpy_vit.random_model("ViT-B/16")
    pixels = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    model(pixels, record=lambda name, array, dims: seen.append((name, dims, " x ".join(map(str, array.shape)))))
    expected = [row for row in seen if not re.match(r"blocks\.([1-9]|1\d)\.", row[0])]
    assert len(expected) == 21
    for readme in READMES:
        assert steps_of(readme) == expected, readme
    assert len([row for row in seen if row[0].startswith("blocks.")]) == 12 * 14


def commands_of(text):
    return re.findall(r"^(?:numpy-vit|python3 -m venv).*$", text, re.MULTILINE)


def test_both_languages_say_the_same():
    english, chinese = ((REPOSITORY / name).read_text(encoding="utf-8") for name in READMES)
    strip = [re.sub(r"  +.*", "", command) for command in commands_of(english)]
    assert strip == [re.sub(r"  +.*", "", command) for command in commands_of(chinese)]
    for pattern in (r"^#+ ", r"^```\w*$", r"^\| ", r"`[^`\n]+`"):
        counts = [len(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert counts[0] == counts[1], pattern


@pytest.mark.parametrize("readme", READMES)
def test_the_python_example_runs(readme, monkeypatch):
    text = (REPOSITORY / readme).read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if b.startswith("import numpy_vit"))
    monkeypatch.chdir(REPOSITORY)
    names = {}
    monkeypatch.setattr("builtins.print", lambda text: names.update(printed=text))
    exec(block, names)
    assert names["printed"] == "3"
    assert names["out"].steps["blocks.0.attention.scores"].shape == (1, 6, 65, 65)


def test_the_commands_it_lists_exist():
    actions = parser()._subparsers._group_actions[0].choices
    text = (REPOSITORY / "README.md").read_text()
    listed = re.findall(r"^numpy-vit (\w+) .*  \S", text, re.MULTILINE)
    assert sorted(set(listed)) == sorted(actions)
