"""Code that the documentation shows, for tests to run."""

import re

from conftest import REPOSITORY


def code(document, name):
    """The fenced block of docs/<document> whose first line is a comment with this file name."""
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (block,) = (b for b in blocks if b.split("\n", 1)[0] in (f"// {name}", f"# {name}"))
    return block


def commands(document, first_word):
    """The lines of the `sh` block of docs/<document> that begins with this."""
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    (block,) = (b for b in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if b.startswith(first_word))
    return block.strip().splitlines()
