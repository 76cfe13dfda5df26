"""Pages that are one file and load nothing: a template with what is known filled in."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .text import clean


def filled(template: Path, parts: Mapping[str, str]) -> str:
    """The template with every {{name}} replaced, in one go: what is put in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template.read_text(encoding="utf-8"))


def script_data(facts: Mapping[str, Any]) -> str:
    """Plain data as JSON to stand in a <script>: no text in it can end the script. What is not finite is null."""
    return json.dumps(clean(facts), allow_nan=False).replace("<", "\\u003c")
