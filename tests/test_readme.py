"""What the README and the pages that it leads to say is what happens."""

import re

import numpy as np
import pytest
from documents import blocks

import numpy_vit
from numpy_vit.cli import parser

import notebook_form
from conftest import REPOSITORY

READMES = ["README.md", "README.zh-CN.md"]
LEARNING = ["docs/learning.md", "docs/learning.zh-CN.md"]
PAGES = ["README", "docs/learning", "docs/porting", "docs/tracing", "docs/checkpoints"]


def read(path):
    return (REPOSITORY / path).read_text(encoding="utf-8")


# Both languages


def commands_of(text):
    return re.findall(r"^(?:numpy-vit|python3 -m venv).*$", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_say_the_same(page):
    english, chinese = read(f"{page}.md"), read(f"{page}.zh-CN.md")
    strip = [re.sub(r"  +.*", "", command) for command in commands_of(english)]
    assert strip == [re.sub(r"  +.*", "", command) for command in commands_of(chinese)]
    for pattern in (r"^#+ ", r"^```\w*$", r"^\| ", r"`[^`\n]+`"):
        counts = [len(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert counts[0] == counts[1], pattern
    name = page.split("/")[-1]
    assert f"]({name}.zh-CN.md)" in english and f"]({name}.md)" in chinese, "no link between the twins"


# The table of steps, and the table of files


def steps_of(page):
    return re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([A-Z0-9* -]+) \| ([\d x]+) \|$", read(page), re.MULTILINE)


@pytest.mark.slow
def test_the_step_table_is_a_real_run_of_vit_b_16():
    seen = []
    model = numpy_vit.random_model("ViT-B/16")
    pixels = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    model(pixels, record=lambda name, array, dims: seen.append((name, dims, " x ".join(map(str, array.shape)))))
    expected = [row for row in seen if not re.match(r"blocks\.([1-9]|1\d)\.", row[0])]
    assert len(expected) == 21
    assert len(seen) == 12 * 14 + 7
    for page in LEARNING:
        assert steps_of(page) == expected, page
        assert "12 * 14 + 7" in read(page)


@pytest.mark.parametrize("page", LEARNING)
def test_the_files_to_read_are_there(page):
    rows = re.findall(r"^\| (`[^|]+/[^|]*`) \|", read(page), re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([^`]+)`", row)]
    assert len(paths) > 10
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


# The examples


def example(page, start):
    """The one Python block that starts with this."""
    (block,) = (b for b in blocks(page, "python") if b.startswith(start))
    return block


def run(block, monkeypatch, **names):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("builtins.print", lambda text: names.update(printed=text))
    exec(block, names)
    return names


@pytest.mark.parametrize("page", READMES)
def test_the_python_example_runs(page, monkeypatch):
    names = run(example(page, "import numpy_vit"), monkeypatch)
    assert names["printed"] == "3"
    assert names["out"].steps["blocks.0.attention.scores"].shape == (1, 6, 65, 65)
    assert f".macs  # {numpy_vit.trace('ViT-B/16').macs}" in read(page)


@pytest.mark.parametrize("page", READMES)
def test_the_example_that_changes_a_step_runs(page, monkeypatch):
    names = run(example(page, "import numpy_vit"), monkeypatch)
    before = names["out"]
    names = run(example(page, "def without_head_2"), monkeypatch, **names)
    changed = names["changed"]
    assert [array.shape for array in changed.attentions] == [(1, 6, 65, 65)] * 6
    for n, (mine, theirs) in enumerate(zip(changed.attentions, before.attentions, strict=True)):
        assert np.array_equal(mine, theirs) == (n < 3)
    assert not changed.attentions[3][:, 2].any()
    kept = [head for head in range(6) if head != 2]
    assert np.array_equal(changed.attentions[3][:, kept], before.attentions[3][:, kept])


@pytest.mark.parametrize("page", ["docs/tracing.md", "docs/tracing.zh-CN.md"])
def test_the_tracing_example_runs(page, monkeypatch):
    assert run(example(page, "import numpy_vit"), monkeypatch)["trace"].sizes["B"] == 8


def test_the_lines_that_architecture_quotes_are_the_models():
    quoted = blocks("docs/architecture.md", "python")
    lines = [line.split("  #")[0].strip() for line in read("numpy_vit/model.py").splitlines()]
    assert quoted and [block for block in quoted if block.strip() not in lines] == []


# The same in 27 lines


def the_27_lines(page):
    return example(page, "from math import erf\n")


def test_the_27_lines_are_the_model():
    names = {}
    exec(the_27_lines("README.md"), names)
    model = numpy_vit.load("digits", dtype="float64")
    pixels = model.preprocess(sorted((REPOSITORY / "weights" / "samples").glob("*/*.png")))
    assert pixels.dtype == np.float64 and len(pixels) == 10
    logits, mine = model(pixels).logits, names["vit"](pixels, REPOSITORY / "weights" / "digits.safetensors")
    assert mine.dtype == np.float64
    assert np.abs(mine - logits).max() <= 1e-12 * np.abs(logits).max()


def test_they_are_27_lines_and_fit_a_screen():
    lines = the_27_lines("README.md").splitlines()
    assert len([line for line in lines if line.strip()]) == 27
    assert len(lines) <= 40 and max(map(len, lines)) <= 104


def test_they_are_the_same_in_chinese_and_in_notebook_4():
    block = the_27_lines("README.md")
    assert the_27_lines("README.zh-CN.md") == block
    for path in (REPOSITORY / "notebooks").glob("4-*.ipynb"):
        assert ("code", block.strip()) in notebook_form.cells_of(path), path.name


# The commands


def test_the_commands_it_lists_exist():
    actions = parser()._subparsers._group_actions[0].choices
    listed = re.findall(r"^numpy-vit (\w+) .*  \S", read("README.md"), re.MULTILINE)
    assert sorted(set(listed)) == sorted(actions)


@pytest.mark.parametrize("end", [r"pytest -q -n 2", r"notebooks/\*.ipynb", "numpy-vit predict"])
def test_continuous_integration_finds_its_commands(end):
    assert re.search(rf"^python3 -m venv .*{end}$", read("README.md"), re.MULTILINE)
