"""The notebooks: their form, their twins, the numbers in their prose, and (marker `notebooks`) their code and exercises."""

import ast
import contextlib
import io
import os
import re
import sys
from decimal import Decimal

import numpy as np
import pytest

import notebook_form
from conftest import REPOSITORY

FOLDER = REPOSITORY / "notebooks"
ENGLISH = notebook_form.english_notebooks()
ALL = sorted(FOLDER.glob("*.ipynb"))
FENCED = re.compile(r"```python\n(.*?)```", re.DOTALL)
EXERCISE = re.compile(r"# Exercise (\d+\.\d+)\n")

every_notebook = pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
every_english_notebook = pytest.mark.parametrize("path", ENGLISH, ids=lambda path: path.name)


@pytest.fixture
def exercises(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import exercises

    yield exercises
    del sys.modules["exercises"]


# Form


def test_there_are_notebooks_each_with_a_twin():
    assert ENGLISH
    assert {*ENGLISH, *map(notebook_form.twin_of, ENGLISH)} == set(ALL)


@every_notebook
def test_it_is_kept_in_form(path):
    assert path.read_text(encoding="utf-8") == notebook_form.in_form(notebook_form.cells_of(path)), (
        "run python tests/notebook_form.py"
    )


@every_notebook
def test_it_says_what_one_will_be_able_to_do(path):
    chinese = path.name.endswith(notebook_form.TWIN)
    kind, first = notebook_form.cells_of(path)[0]
    assert kind == "markdown" and first.startswith("# ")
    assert ("学完这一本" if chinese else "After this notebook you can") in first
    abilities = re.findall(r"^- ", first, re.MULTILINE)
    assert 2 <= len(abilities) <= 4
    assert notebook_form.cells_of(path)[-1][0] == "markdown"


@every_english_notebook
def test_its_twin_differs_in_prose_alone(path):
    english, chinese = notebook_form.cells_of(path), notebook_form.cells_of(notebook_form.twin_of(path))
    assert [kind for kind, _ in english] == [kind for kind, _ in chinese]
    for number, ((kind, mine), (_, theirs)) in enumerate(zip(english, chinese, strict=True), 1):
        if kind == "code":
            assert mine == theirs, f"cell-{number:02}"
        else:
            assert FENCED.findall(mine) == FENCED.findall(theirs), f"cell-{number:02}: code in prose"
            assert re.search("[\u4e00-\u9fff]", theirs), f"cell-{number:02} is not in Chinese"
            headings = [re.findall(r"^#+ ", text, re.MULTILINE) for text in (mine, theirs)]
            assert headings[0] == headings[1], f"cell-{number:02}: headings"
            numbers = [sorted(map(Decimal, stated_numbers(text))) for text in (mine, theirs)]
            assert numbers[0] == numbers[1], f"cell-{number:02}: numbers"


@every_english_notebook
def test_its_exercises_have_stubs_and_solutions(path):
    notebook_number = path.name.split("-")[0]
    cells = notebook_form.cells_of(path)
    places = [n for n, (kind, text) in enumerate(cells) if kind == "code" and EXERCISE.match(text)]
    assert 3 <= len(places) <= 5
    for number, place in enumerate(places, 1):
        name = f"{notebook_number}.{number}"
        assert EXERCISE.match(cells[place][1])[1] == name
        stub, (kind_before, task), (kind_after, solution) = cells[place][1], cells[place - 1], cells[place + 1]
        assert (kind_before, kind_after) == ("markdown", "markdown")
        assert f"Exercise {name}" in task
        assert solution.startswith("<details><summary>Solution</summary>") and solution.rstrip().endswith("</details>")
        (block,) = FENCED.findall(solution)
        assert block.startswith(f"# Exercise {name}\n"), "a solution replaces the whole cell"
        assert checks_in(stub) == checks_in(block), "the solution is checked as the stub is"
        chinese = notebook_form.cells_of(notebook_form.twin_of(path))
        assert f"练习 {name}" in chinese[place - 1][1]
        assert chinese[place + 1][1].startswith("<details><summary>解答</summary>")


def checks_in(code):
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "check"]
    assert calls, "no check"
    return [ast.unparse(call) for call in calls]


def planted_in_modules(code):
    """Assignments to attributes of what the code imports: a run is changed with `change`, never by patching the package."""
    tree = ast.parse(code)
    imports = [alias for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    imported = {(alias.asname or alias.name).split(".")[0] for alias in imports}
    written = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return [ast.unparse(node) for node in written if ast.unparse(node).split(".")[0] in imported]


@every_english_notebook
def test_it_patches_no_module(path):
    cells = notebook_form.cells_of(path)
    code = [text for kind, text in cells if kind == "code"]
    solutions = [block for kind, text in cells if kind == "markdown" for block in FENCED.findall(text)]
    assert planted_in_modules("\n".join(code + solutions)) == []


def test_what_counts_as_patching_a_module():
    assert planted_in_modules("import a.b\nfrom c import d as e\na.b.f = 1\ne.g: int = 2\nx.y = e.z") == ["a.b.f", "e.g"]


# The numbers in the prose

NOT_RESULTS = [
    re.compile(pattern, re.DOTALL if "```" in pattern else 0)
    for pattern in (
        r"```.*?```",  # code
        r"`[^`\n]+`",
        r"\$\$?[^$]+\$\$?",  # formulas
        r"\]\([^)\s]+\)|<?https?://[^\s>)]+",  # links
        r"arXiv[ :]*\d{4}\.\d{4,5}",
        r"[\w.-]+(/[\w.-]+)*#\d+",  # issue numbers
        r"(?i:eq|eqs|equation|equations|section|sections|exercise|exercises|notebook|notebooks|table|figure)\.? \d[\d.]*",
        r"(?:式|第|练习|笔记本|表|图) ?\d[\d.]*",
        r"\((?:[^()]*, )?(?:19|20)\d\d\)|(?:19|20)\d\d ?年|\bin (?:19|20)\d\d\b",
        r"\d+ (?:minutes|分钟)",  # how long it takes to read
        r"ViT-\w+/\d+",  # names
        r"(?:Python|NumPy|Pillow) \d[\d.]*\d",
        r"ImageNet-\d+k",
    )
]
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w])")


def stated_numbers(markdown):
    """The numbers of two or more digits, or with a decimal, that prose states, without thousands separators."""
    for pattern in NOT_RESULTS:
        markdown = pattern.sub(" ", markdown)
    found = [number.strip(",").replace(",", "") for number in NUMBER.findall(re.sub("[\u4e00-\u9fff]", " ", markdown))]
    return [number for number in found if len(number) > 1]


def asserted_numbers(code):
    """The numbers that stand in the code's assert statements."""
    asserts = [ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Assert)]
    plain = [re.sub(r"(?<=\d)[_,](?=\d{3})", "", text) for text in asserts]
    return {Decimal(number.strip(",")) for text in plain for number in NUMBER.findall(text)}


@every_notebook
def test_numbers_in_its_prose_are_asserted(path):
    """In the code cell next before or next after the prose; or, for a solution, in its own code."""
    cells = notebook_form.cells_of(path)
    for n, (kind, text) in enumerate(cells):
        if kind == "code":
            continue
        before = next((code for kind, code in reversed(cells[:n]) if kind == "code"), "")
        after = next((code for kind, code in cells[n + 1 :] if kind == "code"), "")
        asserted = set().union(*map(asserted_numbers, [before, after, *FENCED.findall(text)]))
        missing = [number for number in stated_numbers(text) if Decimal(number) not in asserted]
        assert not missing, f"cell-{n + 1:02} states {missing}, which the code beside it does not assert"


def test_what_counts_as_a_stated_number():
    prose = """In eq. 5 of arXiv 2010.11929 (2020), `x / 64` and $\\sqrt{64}$; 86,567,656 parameters, 98.12 %, 1e-12, 7 heads,
    197 x 768, [here](https://a.b/123), ViT-B/16, float32, gupta-abhay#17, Exercise 1.12, 20 minutes; 第 12 节,共 196 块。"""
    assert stated_numbers(prose) == ["86567656", "98.12", "1e-12", "197", "768", "196"]
    assert asserted_numbers("assert x == 86_567_656\nassert f'{y:,.2f}' == '1,098.12', 17\nz = 196") == {
        Decimal(86567656),
        Decimal("1098.12"),
        Decimal(17),
    }


# Exercises


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        (..., 3, "not answered yet"),
        ((1, ...), (1, 2), "not answered yet"),
        (3, 3, "right"),
        (3.0, 3, "right"),
        (4, 3, "4 is not it"),
        ("3", 3, "A number is expected"),
        (True, 1, "A number is expected"),
        (1, True, "True or False is expected, not int"),
        (np.bool_(True), True, "right"),
        (False, True, "the other way round"),
        (" Rows ", "rows", "right"),
        ("columns", "rows", "'columns' is not it"),
        (5, "rows", "A string is expected"),
        ((1, "a"), (1, "a"), "right"),
        ((1, "b"), (1, "a"), "Value 2 of 2: 'b' is not it"),
        ((1,), (1, 2), "2 values are expected, not 1"),
        (np.ones(3), np.ones(3) + 1e-7, "right"),
        (np.ones(3), np.ones(3) + 1e-3, "differ by up to 0.001"),
        (np.ones(3), np.ones((3, 1)), "An array of shape (3, 1) is expected, not an array of shape (3,)"),
        (float("nan"), 1.0, "nan is not it"),
        ([[1], [1, 2]], np.ones(2), "An array of shape (2,) is expected"),
    ],
)
def test_check_says_what_it_sees(answer, expected, said, exercises, capsys):
    exercises.check(answer, expected, exercise="1.1", hint="Think.")
    printed = capsys.readouterr().out
    assert printed.startswith("Exercise 1.1: ") and said in printed
    assert ("Hint: Think." in printed) == ("right." not in printed and "not answered" not in printed)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (..., "not answered yet"),
        (lambda x: ..., "not answered yet"),
        (lambda x: None, "not answered yet"),
        (lambda x: x + x, "right"),
        (lambda x: x * x, "With input 2 of 2: 9 is not it"),
        (lambda: 1, "it raises TypeError"),
        (4, "A function is expected"),
    ],
)
def test_check_calls_functions(answer, said, exercises, capsys):
    exercises.check(answer, lambda x: 2 * x, exercise="1.1", inputs=[(2,), (3,)])
    assert said in capsys.readouterr().out


# Runs: with -m notebooks


@contextlib.contextmanager
def working_in(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(cells, **names):
    """Run code cells as one program, in the notebooks' folder -> what they printed."""
    printed = io.StringIO()
    names = {"__name__": "__main__", "display": lambda *things: None, **names}
    with working_in(FOLDER), contextlib.redirect_stdout(printed):
        for number, code in cells:
            exec(compile(code, f"cell-{number:02}", "exec"), names)
    return printed.getvalue()


def spoiled(answer):
    """The same kind of answer, and wrong."""
    if isinstance(answer, bool | np.bool_):
        return not answer
    if isinstance(answer, str):
        return answer + "?"
    if isinstance(answer, tuple | list):
        return (spoiled(answer[0]), *answer[1:])
    if callable(answer):
        return lambda *arguments: spoiled(answer(*arguments))
    return answer + 1 if np.asarray(answer).dtype.kind in "iu" else answer + np.max(np.abs(answer)) / 100 + 1e-30


@pytest.mark.notebooks
@every_english_notebook
def test_it_runs_with_its_solutions_which_are_accepted_and_wrong_ones_are_not(path, exercises):
    cells = list(enumerate(notebook_form.cells_of(path), 1))
    names = [EXERCISE.match(text)[1] for _, (kind, text) in cells if kind == "code" and EXERCISE.match(text)]
    unsolved = run([(number, text) for number, (kind, text) in cells if kind == "code"])
    assert re.findall(r"Exercise (\S+): not answered yet\.", unsolved) == names

    asked = []
    check = exercises.check

    def remembered(answer, *arguments, **named):
        asked.append((answer, arguments, named))
        check(answer, *arguments, **named)

    exercises.check = remembered  # what `from exercises import check` finds
    solved = [
        (number, FENCED.search(cells[number][1][1])[1] if EXERCISE.match(text) else text)
        for number, (kind, text) in cells
        if kind == "code"
    ]
    assert re.findall(r"Exercise (\S+): (.*)", run(solved)) == [(name, "right.") for name in names]

    assert len(asked) == len(names)
    for answer, arguments, named in asked:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            check(spoiled(answer), *arguments, **named)
        assert ": not yet. " in printed.getvalue() and "Hint: " in printed.getvalue(), printed.getvalue()
