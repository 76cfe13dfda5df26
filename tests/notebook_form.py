"""The one form that notebooks are kept in, so that a diff shows what was changed and nothing else.

    python tests/notebook_form.py        # after editing notebooks in Jupyter: rewrites them in that form

It clears outputs and the metadata that Jupyter adds, numbers the cells, and copies the English notebooks' code into their
Chinese twins, whose prose stays as it is. JSON as nbformat writes it.
"""

import json
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "notebooks"
TWIN = ".zh-CN.ipynb"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def english_notebooks():
    return sorted(path for path in FOLDER.glob("*.ipynb") if not path.name.endswith(TWIN))


def twin_of(path):
    return path.with_name(path.stem + TWIN)


def cells_of(path):
    """[("markdown" or "code", text)] of a notebook file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def in_form(cells):
    """[("markdown" or "code", text)] -> the text of a notebook file."""
    notebook = {"cells": [], "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
    for number, (kind, text) in enumerate(cells, 1):
        cell = {"cell_type": kind, "id": f"cell-{number:02}", "metadata": {}, "source": text.strip().splitlines(keepends=True)}
        notebook["cells"].append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def with_code_of(english, chinese):
    """The Chinese cells with the code of the English ones, where their kinds line up."""
    if [kind for kind, _ in english] != [kind for kind, _ in chinese]:
        raise ValueError("the cells do not line up with the English ones: add or remove cells first")
    return [theirs if theirs[0] == "code" else mine for theirs, mine in zip(english, chinese, strict=True)]


def main():
    for path in english_notebooks():
        english, twin = cells_of(path), twin_of(path)
        path.write_text(in_form(english), encoding="utf-8")
        if twin.exists():
            try:
                twin.write_text(in_form(with_code_of(english, cells_of(twin))), encoding="utf-8")
            except ValueError as error:
                raise SystemExit(f"{twin.name}: {error}") from error


if __name__ == "__main__":
    main()
