"""Documents: every link to another file or heading of the repository leads somewhere. What lies on the web is not fetched."""

import re
from urllib.parse import unquote

import pytest

from numpy_vit import __version__

from conftest import REPOSITORY

DOCUMENTS = sorted({
    path
    for pattern in ("*.md", "docs/*.md", "notebooks/*.md", "weights/*.md")
    for path in REPOSITORY.glob(pattern)
})  # fmt: skip
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
CODE = re.compile(r"^(```+|~~~+).*?^\1[^\S\n]*$|`[^`\n]+`|<!--.*?-->", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def links(text):
    return [first or second for first, second in LINK.findall(CODE.sub("`code`", text))]


def anchors(text):
    """The anchors of a document's headings, as GitHub makes them; and those it sets by itself."""
    found, text = {}, re.sub(r"^(```+|~~~+).*?^\1[^\S\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    for heading in re.findall(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", text, re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = found[slug] = found.get(slug, -1) + 1
        names.add(f"{slug}-{number}" if number else slug)
    return names


def broken(path):
    """The links of a document that lead nowhere."""
    bad = []
    for link in links(path.read_text(encoding="utf-8")):
        if ELSEWHERE.match(link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        there = target.exists() and target.is_relative_to(REPOSITORY)
        if there and anchor:
            there = target.suffix == ".md" and anchor in anchors(target.read_text(encoding="utf-8"))
        if not there:
            bad.append(link)
    return bad


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(path):
    assert broken(path) == []


def test_there_are_documents_with_links():
    names = {str(path.relative_to(REPOSITORY).as_posix()) for path in DOCUMENTS}
    assert {"README.md", "docs/index.md", "notebooks/README.md", "weights/README.md", "CONTRIBUTING.md"} <= names
    assert sum(len(links(path.read_text(encoding="utf-8"))) for path in DOCUMENTS) > 40


def test_links_that_lead_nowhere_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "REPOSITORY", tmp_path)
    (tmp_path / "there.md").write_text("# A *heading*, `code`\n## Twice\n## Twice\n```\n# no heading\n```\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](there.md) [b](there.md#a-heading-code) [c](#page) [d](there.md#twice-1) ![e](https://example.org/x.png)\n"
        "[f](gone.md) [g](there.md#no-heading) [h](#gone) [i](../outside.md)\n`[j](gone)`\n```\n[k](gone)\n```\n"
        "[l]: gone.txt\n",
        encoding="utf-8",
    )
    assert broken(page) == ["gone.md", "there.md#no-heading", "#gone", "../outside.md", "gone.txt"]


def test_the_index_names_every_page():
    """The navigation of the site is made of these lists."""
    named = links((REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8"))
    pages = {path.name for path in DOCUMENTS if path.parent.name == "docs"} - {"index.md"}
    assert pages - set(named) == set()


def test_the_citation_is_of_this_version():
    text = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", text, re.MULTILINE) == [__version__]
