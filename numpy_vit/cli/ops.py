"""numpy-vit golden ops: vectors for kernel writers; and the check of a port's results against them."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError, about
from .common import FAILED, OK, note, refuse, terminal_width, wants_colour
from .options import add_output


def add_parser(actions: Any) -> argparse.ArgumentParser:
    command = actions.add_parser(
        "ops",
        help="small awkward inputs of every operation and the right answers",
        description="Write vectors for kernel writers: for every operation small awkward inputs, and the right answers "
        "in float64, float32, float16, bfloat16, or in integers; readable from C.",
        epilog="numpy-vit golden check DIR DUMP judges a port's results in ulp. docs/golden.md says how they are named.",
    )
    add_output(command, "DIR", "the folder to write")
    command.add_argument("--force", action="store_true", help="replace the vectors that are there")
    return command


def run(arguments: argparse.Namespace) -> int:
    from ..golden.folder import MANIFEST, check_target
    from ..golden.ops_folder import ops_files, write_ops
    from ..golden.ops_vectors import all_cases

    check_target(arguments.output, ops_files)
    if (Path(arguments.output) / MANIFEST).exists() and not arguments.force:
        raise InputError(f"{arguments.output}: has vectors already: give another folder, or --force to replace them")
    manifest = write_ops(arguments.output, all_cases())
    operations = {case["operation"] for case in manifest["cases"]}
    note(f"{arguments.output}: {len(manifest['cases'])} cases of {len(operations)} operations")
    return OK


def run_check(arguments: argparse.Namespace) -> int:
    from ..files.jsonfile import json_text
    from ..golden import ops_checking as checking
    from ..golden.folder import read_dump
    from ..golden.ops_folder import read_ops

    for option in ("map", "port_dtype", "budget", "weights", "html", "junit"):
        refuse((getattr(arguments, option) is not None, f"--{option.replace('_', '-')}: vectors of operations have none"))
    factor = checking.FACTOR if arguments.factor is None else arguments.factor
    refuse((not 0 < factor < float("inf"), f"--factor {factor:g}: it must be a number above 0"))
    vectors = read_ops(arguments.golden)
    dump = read_dump(arguments.dump)
    with about(arguments.dump):
        checked = checking.check_ops(vectors, dump, factor)
    unknown = checking.first_unknown(checked, [case["name"] for case in vectors.cases])
    if unknown:
        note(f"{arguments.dump}: {unknown}")
    arguments.verdict = OK if checked.passed else FAILED
    if arguments.json:
        print(json_text(checking.check_data(checked)))
    else:
        print(checking.check_text(checked, terminal_width(), wants_colour(), arguments.brief))
    missing = [result.name for result in checked.results if result.verdict == checking.MISSING]
    if arguments.complete and missing:
        note(f"{arguments.dump}: {len(missing)} cases are missing, the first is {missing[0]}")
        return FAILED
    return arguments.verdict
