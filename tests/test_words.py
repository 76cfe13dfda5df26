"""Chinese texts keep to docs/glossary.md, and to one way of punctuation."""

import ast
import re

import pytest

from numpy_vit.tracing.step_texts import EXPLANATIONS

import notebook_form
from conftest import REPOSITORY

HAN = "[\u4e00-\u9fff]"
# What is no prose: code, formulas, the targets of links, tags.
NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\$\$?[^$\n]+\$\$?|\]\([^)\s]+\)|<?https?://[^\s>)]+|<[^>\n]+>", re.DOTALL)
RULES = {
    "块 alone: 图块 or 编码器块": "(?<!图)(?<!编码器)(?<!模)块",
    "层 for a block: 编码器块": r"第 ?\w+ ?层|(?<!\w)\d+ ?层|[每各一上下前后]层(?!归)|层层|十二层",
    "token is 词元, and 词元（token） where it is introduced": r"(?<![（\w-])tokens?(?![）\w])",
    "a picture is counted 张": "[一这每十整] ?幅|\\d ?幅",
    "ASCII mark after Chinese": f"{HAN}[*”）》]*[,;:!?(]|{HAN}[*”）》]*\\.(?![A-Za-z0-9/])",
    "ASCII mark before Chinese": f"[,.;:!?)][*“（《]*{HAN}",
    "ASCII quotes around Chinese": f'"{HAN}|{HAN}"',
    "ASCII parentheses around Chinese": rf"\([^()\n]*{HAN}[^()\n]*\)",
    "*emphasis*: bold instead": rf"(?<![*\\])\*(?![*\s])[^*\n]*{HAN}[^*\n]*\*(?!\*)",
}


def forbidden_words():
    """{forbidden Chinese word: the English term} of the glossary's table."""
    glossary = (REPOSITORY / "docs" / "glossary.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.*?) ?\| .*\|$", glossary, re.MULTILINE)
    return {word: english for english, _, words in rows[1:] for word in words.split("、") if word}


FORBIDDEN = forbidden_words()


def complaints(text):
    """What in a Chinese text (Markdown or plain) does not keep to the glossary and the punctuation."""
    prose = NOT_PROSE.sub("`", text)
    found = [f"{word} for {english!r}" for word, english in FORBIDDEN.items() if word in prose]
    for rule, pattern in RULES.items():
        found += [f"{rule}: ...{prose[max(0, m.start() - 12) : m.end() + 8]!r}" for m in re.finditer(pattern, prose)]
    return found


def strings_of(path):
    """The Chinese string literals of a Python file, with a number for whatever f-strings fill in."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "7" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def chinese_texts():
    """(where, text) of everything in Chinese that a reader sees."""
    for folder in (".", "docs", "notebooks"):
        for path in sorted((REPOSITORY / folder).glob("*.zh-CN.md")):
            yield str(path.relative_to(REPOSITORY)), path.read_text("utf-8")
    for path in sorted((REPOSITORY / "notebooks").glob(f"*{notebook_form.TWIN}")):
        yield path.name, "\n\n".join(text for kind, text in notebook_form.cells_of(path) if kind == "markdown")
    yield "step_texts.py", "\n".join(explanation.why_zh for explanation in EXPLANATIONS.values())
    explain = REPOSITORY / "numpy_vit" / "explain"
    yield "page.py", "\n".join(text for text in strings_of(explain / "page.py") if re.search(HAN, text))
    yield "equations.py", "\n".join(text for text in strings_of(explain / "equations.py") if re.search(HAN, text))
    for path in (explain / "page.html", *sorted(explain.glob("*.js"))):
        page = path.read_text("utf-8")
        said = re.findall(r'lang="zh-CN"[^>]*>(.*?)</(?:span|p)>', page)
        said += [text for text in re.findall(r'"((?:[^"\\]|\\.)*)"', page) if re.search(HAN, text)]
        if said:
            yield path.name, "\n".join(re.sub(r"\{\w+\}", "7", text) for text in said)


@pytest.mark.parametrize(("where", "text"), [pytest.param(*both, id=both[0]) for both in chinese_texts()])
def test_chinese_keeps_to_the_glossary(where, text):
    assert len(re.findall(HAN, text)) > 100
    assert complaints(text) == []


@pytest.mark.parametrize(
    "text",
    [
        *("把图切成小块", "每个 token", "黄金数值", "第 3 层", "每层一个", "一个块", "编码器层", "学来的向量", "一幅画"),
        *("你好,世界", "形状 (宽)", "一个*头*", "形状:宽", "96 个数", '"词元"', "词元, 图块", "词元.", "B,图块", "图块(patch)"),
    ],
)
def test_what_it_notices(text):
    assert complaints(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "图块、编码器块与模块",
            "层归一化，线性层（N x D）",
            "**行**",
            "`a, 词元`",
            "(N, K) 乘 (K, N)",
            "见[第 3 本](3.ipynb)",
        ),
        *("词元（token）", "每层归一化", "一次 `f(a, b)`：好", "3.5 倍。"),
    ],
)
def test_what_it_lets_pass(text):
    assert complaints(text) == []


def test_the_glossary_is_read():
    glossary = (REPOSITORY / "docs" / "glossary.md").read_text("utf-8")
    for english, chinese in [("patch", "图块"), ("token", "词元"), ("pooling", "池化"), ("forward pass", "前向传播")]:
        assert f"| {english} | {chinese} |" in glossary
    assert len(FORBIDDEN) > 40


@pytest.mark.parametrize("path", notebook_form.english_notebooks(), ids=lambda path: path.name)
def test_twin_notebooks_link_to_each_other(path):
    twin = notebook_form.twin_of(path)
    assert f"\n[简体中文]({twin.name})\n" in notebook_form.cells_of(path)[0][1]
    assert f"\n[English]({path.name})\n" in notebook_form.cells_of(twin)[0][1]
    wrong = [link for kind, text in notebook_form.cells_of(twin) for link in re.findall(r"\]\((\d-[^)]+)\)", text)]
    assert {link for link in wrong if not link.endswith(notebook_form.TWIN)} == {path.name}, "only that link leads to English"
