"""The one reader of JSON: bounded in size, depth and numbers, and strict where Python's silently takes one of two."""

import itertools
import json
import os
import re
from types import NoneType
from typing import Any

from ..errors import InputError, about
from .outside import whole

LARGEST = 64 << 20  # bytes; 21,000 labels and a thousand shards are two million
DEEPEST = 64  # objects and lists within one another
LONGEST_NUMBER = 40  # digits
KINDS = {dict: "object", list: "list", str: "text", int: "number", float: "number", bool: "truth value", NoneType: "null"}


def parse_json(text: str | bytes, kinds: tuple[type, ...] = (dict,), *, halves: bool = False) -> Any:
    """JSON as data whose outermost value is of one of some kinds.

    Whole numbers have few digits, texts can be written as UTF-8 (unless `halves` of pairs are allowed, by which Python calls
    files whose names are in no encoding), no object says a name twice. Raises InputError, without a file's name, for anything
    else. It takes time and memory in proportion to the text.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = json.loads(text, object_pairs_hook=without_doubles, parse_int=whole_number)
        if deepest(text) > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} deep")
        if not halves and ("\\ud" in text or "\\uD" in text):  # half of a pair stands for no character
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise InputError("not valid JSON (nested too deep)") from error
    except UnicodeError as error:
        raise InputError(f"not valid JSON (text that is no Unicode: {error.reason})") from error  # type: ignore[attr-defined]
    except ValueError as error:
        raise InputError(f"not valid JSON ({error})") from error
    if not isinstance(content, kinds):
        raise InputError(f"a JSON {' or '.join(KINDS[kind] for kind in kinds)} is expected, not {described(content)}")
    return content


def json_text(value: Any) -> str:
    """A value as JSON for people and programs: other scripts as they are, control characters as JSON spells them."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return "\n".join(line if line.isprintable() else "".join(map(_spelled, line)) for line in text.split("\n"))


def _spelled(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError, which names the file, for anything else."""
    content = whole(path, LARGEST)
    with about(path):
        found: dict[str, Any] = parse_json(content)
        return found


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where it says a name twice, of which JSON readers silently take the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        double = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"'{double[:80]}' is there twice")
    return content


def whole_number(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def deepest(text: str) -> int:
    """How many objects and lists lie within one another, in valid JSON."""
    brackets = re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text))
    return max(itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)


def described(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    return KINDS[type(value)] if isinstance(value, dict | list) else f"{value!r:.40}"
