"""Code that the documentation shows, for tests to run."""

import re

from conftest import REPOSITORY


def blocks(path, language):
    """The fenced blocks of this language in a document, its path from the repository's root."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def code(document, name):
    """The fenced block of docs/<document> whose first line is a comment with this file name."""
    (block,) = (b for b in blocks(f"docs/{document}", r"\w+") if b.split("\n", 1)[0] in (f"// {name}", f"# {name}"))
    return block


def commands(document, first_word):
    """The lines of the `sh` block of docs/<document> that begins with this."""
    (block,) = (b for b in blocks(f"docs/{document}", "sh") if b.startswith(first_word))
    return block.strip().splitlines()
