"""The site of these pages, by Sphinx:  pip install -e ".[docs]" && sphinx-build -W --keep-going docs build/site

The pages are plain Markdown that also reads on its own. What only the site has is made here: its navigation (from the lists
of index.md), and a reference of all modules from their docstrings (written to docs/api, which git ignores).
"""

import inspect
import pkgutil
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
API = DOCS / "api"
sys.path.insert(0, str(DOCS.parent))

import numpy_vit  # noqa: E402

project = "numpy_vit"
author = "the numpy_vit authors"
copyright = f"2026, {author}"
version = release = numpy_vit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["README*"]
root_doc = "index"
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
suppress_warnings = ["misc.highlighting_failure"]  # listings of two columns, in no one language
html_theme = "furo"
html_title = f"numpy_vit {version}"
html_copy_source = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]

ROOMS = ["arithmetic", "tracing", "pictures", "models", "files", "convert", "golden"]  # the commands have --help


def write_api(app):
    """A page for the modules at the top of the package, and one for each room."""
    shutil.rmtree(API, ignore_errors=True)
    API.mkdir()
    top = [name for _, name, package in pkgutil.iter_modules(numpy_vit.__path__) if not package and name != "__main__"]
    write_page("reference", "The reference", [f"numpy_vit.{name}" for name in in_reading_order(top)])
    for room in ROOMS:
        folder = Path(numpy_vit.__path__[0], room)
        if folder.is_dir():
            modules = [name for _, name, _ in pkgutil.iter_modules([str(folder)])]
            write_page(room, f"{room}/", [f"numpy_vit.{room}", *(f"numpy_vit.{room}.{name}" for name in modules)])
    names = [name for name in numpy_vit.__all__ if name != "__version__"]
    rows = [f"| {{py:{role(name)}}}`~{where(name)}` | {first_line(getattr(numpy_vit, name))} |" for name in names]
    text = ["# Public names", "", "What `import numpy_vit` offers.", "", "| name | what it is |", "|---|---|", *rows, ""]
    (API / "public.md").write_text("\n".join(text), encoding="utf-8")


def in_reading_order(names):
    first = ["model", "ops", "steps", "config", "parameters", "positions", "rotary", "families", "vit", "lens"]
    return sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name))


def write_page(page, title, modules):
    text = [f"# {title}", ""]
    for module in modules:
        text += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "```", ""]
    (API / f"{page}.md").write_text("\n".join(text), encoding="utf-8")


def role(name):
    return "mod" if inspect.ismodule(getattr(numpy_vit, name)) else "obj"


def where(name):
    thing = getattr(numpy_vit, name)
    return thing.__name__ if inspect.ismodule(thing) else f"{thing.__module__}.{thing.__qualname__}"


def first_line(thing):
    return (thing.__doc__ or "").strip().split("\n")[0].replace("|", "\\|")


def prepare_page(app, docname, source):
    """What a page says of files beside docs/ becomes plain text (the site has no such pages); index.md gets its navigation."""
    text = re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", source[0])
    source[0] = text + navigation(text) if docname == root_doc else text


def navigation(index):
    """A toctree for each list of index.md under its heading, and one of the reference. A page in none of them is an error."""
    sections = [
        (section.split("\n", 1)[0], re.findall(r"^- \[[^\]]+\]\((\w[^)#/]*)\.md\)", section, re.MULTILINE))
        for section in index.split("\n## ")[1:]
    ]
    rooms = [f"api/{room}" for room in ROOMS if (API / f"{room}.md").exists()]
    trees = [*sections, ("Reference", ["api/public", "api/reference", *rooms])]
    return "".join(
        "\n\n".join(["", "```{toctree}\n:hidden:\n:caption: " + caption, "\n".join(pages) + "\n```\n"])
        for caption, pages in trees
        if pages
    )


def as_rst(app, what, name, thing, options, lines):
    """Docstrings are plain text with Markdown's backticks: what is aligned stays as it is, all else is escaped."""
    converted = []
    for block in "\n".join(lines).strip().split("\n\n"):
        if re.search(r"^ {2,}\S|\S {2,}\S", block, re.MULTILINE):
            converted += [".. code-block:: text", "", *(f"    {line}" for line in block.split("\n")), ""]
        else:
            text = "".join(
                f"``{part}``" if i % 2 else re.sub(r"([\\*|_<>`])", r"\\\1", part)
                for i, part in enumerate(re.split(r"`+([^`]+)`+", block))
            )
            converted += [*re.sub(r"(?<!\n)\n- ", "\n\n- ", f"\n{text}", count=1).strip("\n").split("\n"), ""]
    lines[:] = converted


def short_names(app, what, name, thing, options, signature, returned):
    """Where a default is not Python ("<factory>"), Sphinx leaves its marks for shortened names in the signature."""
    return (signature.replace("~", ""), returned) if "~" in (signature or "") else None


def skip(app, what, name, thing, skipped, options):
    """The fields of a NamedTuple say nothing of themselves."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    app.connect("builder-inited", write_api)
    app.connect("source-read", prepare_page)
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("autodoc-process-signature", short_names)
    app.connect("autodoc-skip-member", skip)
