"""numpy-vit inspect: what a weights file is."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files.jsonfile import json_text
from .common import OK, printable
from .options import add

if TYPE_CHECKING:
    from ..convert.sources import Source


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "inspect",
        help="say what a weights file is",
        description="Say what a converted file, a Hugging Face folder or a hub name is: config, preprocessing, labels, "
        "origin; for a foreign one also what conversion would make of it.",
    )
    command.add_argument("file", metavar="FILE", help="a converted file, a Hugging Face folder, or a hub name")
    command.add_argument("--tensors", action="store_true", help="list every tensor")
    add(command, "--json")
    return command


def run(arguments: argparse.Namespace) -> int:
    facts = describe(arguments.file)
    if not arguments.tensors:
        facts.pop("tensors")
    if arguments.json:
        print(json_text(facts))
        return OK
    for name, value in facts.items():
        if isinstance(value, dict):
            print(name)
            for key, entry in value.items():
                print(f"  {printable(key):<14} {printable(_plain(entry))}")
        else:
            print(f"{name:<16} {printable(_plain(value))}")
    return OK


def describe(file: str) -> dict[str, Any]:
    """Everything `inspect` prints, as data."""
    from ..convert import recognise
    from ..convert.sources import open_source
    from ..files.converted import FORMAT
    from ..models.loading import checkpoint_of
    from ..parameters import parameter_count

    opened = open_source(file)
    facts: dict[str, Any] = {"file": file}
    if opened.metadata.get("format") == FORMAT:
        facts["format"] = f"{FORMAT} {opened.metadata.get('version')}"
    else:
        try:
            family, why = recognise(opened)
            facts |= {"format": "foreign", "family": family, "recognised by": why}
        except InputError as error:
            facts |= {"format": "foreign", "family": "unknown", "why": str(error)}
    checkpoint = None
    if facts.get("family") != "unknown":
        try:
            checkpoint = checkpoint_of(opened)
        except InputError as error:
            if facts["format"] != "foreign":
                raise
            facts |= {"to convert it": str(error), "its tensors tell": inferred(opened)}
    if checkpoint is not None:
        facts |= {"parameters": parameter_count(checkpoint.config), "config": checkpoint.config.to_dict()}
        facts["preprocess"] = checkpoint.preprocess.to_dict() if checkpoint.preprocess else None
        facts |= {"labels": checkpoint.labels, "source": checkpoint.source}
        if checkpoint.notes:
            facts["notes"] = checkpoint.notes
    facts["dtypes"] = sorted({tensor.dtype for tensor in opened.tensors.values()})
    facts["tensors"] = {name: [tensor.dtype, *tensor.shape] for name, tensor in opened.tensors.items()}
    return facts


def inferred(source: "Source") -> dict[str, Any]:
    """What the tensors of a foreign file tell of its model."""
    from ..convert import family_of

    return {name: value for name, value in family_of(source).reading(source, []).seen.items() if value}


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        shown = [str(v) for v in value[:10]]
        return ", ".join(shown) + (f", ... ({len(value)} in all)" if len(value) > 10 else "")
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return "-" if value is None else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
