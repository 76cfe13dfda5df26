"""The layers of setup.cfg hold, and what breaks them is noticed. Needs the extra `lint`: CI runs this beside the linters."""

import os
import shutil
import subprocess
import sys

import pytest

from conftest import REPOSITORY

pytest.importorskip("importlinter")

LINT = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"


@pytest.fixture
def copy(tmp_path):
    """The package and its contracts, to be spoilt."""
    shutil.copytree(REPOSITORY / "numpy_vit", tmp_path / "numpy_vit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "setup.cfg", tmp_path)
    return tmp_path


def lint(folder):
    """`lint-imports` there -> its exit status, and what it says."""
    result = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout + result.stderr


def append(path, line):
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def test_the_layers_hold(copy):
    status, said = lint(copy)
    assert status == 0, said
    assert "3 kept, 0 broken" in said


@pytest.mark.parametrize(
    ("module", "line", "names"),
    [
        # a circle inside one room, which no layer forbids
        ("files/outside.py", "from . import arrays", ["No cycles are allowed in numpy_vit.files", "outside"]),
        # the lowest knows the highest, in a function
        ("errors.py", "def late():\n    from . import cli", ["numpy_vit.errors -> numpy_vit.cli"]),
        # the paper knows of files
        ("model.py", "from .files import tensorfile", ["numpy_vit.model -> numpy_vit.files.tensorfile"]),
    ],
    ids=["circle", "upwards", "paper"],
)
def test_a_planted_one_is_caught(copy, module, line, names):
    append(copy / "numpy_vit" / module, line)
    status, said = lint(copy)
    assert status == 1, said
    for name in names:
        assert name in said


def test_a_module_without_a_layer_is_caught(copy):
    (copy / "numpy_vit" / "attic.py").write_text("from .cli import main\n", encoding="utf-8")
    status, said = lint(copy)
    assert status == 1 and "numpy_vit.attic" in said
