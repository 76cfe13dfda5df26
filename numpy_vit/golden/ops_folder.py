"""The folder of vectors for kernel writers: written whole or not at all; read with every hash verified.

`manifest.json` says of every case what it is; every array is a file of raw little-endian numbers; `index.txt` lists the arrays
and `parameters.txt` the parameters, for fscanf.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..arithmetic.formats import to_bits
from ..errors import InputError, about
from ..fields import is_number
from ..files.jsonfile import read_json
from ..files.outside import whole
from ..files.tensorfile import WRITTEN, Tensor
from .folder import DTYPES, MANIFEST, RAW, hold_fields, manifest_sha256, manifest_text, read_raw, sha256, whole_folder
from .ops_vectors import Case

Array = Any
FORMAT, VERSION = "numpy-vit ops", "1"
INDEX, PARAMETERS = "index.txt", "parameters.txt"
KINDS = {DTYPES[kind]: (suffix, kind) for suffix, kind in RAW.items() if kind not in ("I64", "I16", "U16")}  # dtype -> suffix
MOST_CASES, MOST_NUMBERS, MOST_AXES = 10_000, 1 << 20, 8
NAME, WORD = re.compile(r"[a-z0-9_.-]+(/[a-z0-9_.-]+){2}"), re.compile(r"[a-z][a-z0-9_]*")
HEAD = {"format": str, "version": str, "numpy_vit": str, "cases": list, "sha256": str}
CASE_FIELDS = {
    "name": str, "operation": str, "format": str, "formula": str, "about": str, "parameters": dict, "inputs": dict,
    "output": dict, "correctly_rounded": bool,
}  # fmt: skip
ARRAY_FIELDS = {"file": str, "dtype": str, "shape": list, "sha256": str}


class Vectors(NamedTuple):
    """A folder of vectors, read and verified."""

    manifest: dict[str, Any]
    arrays: dict[str, Array]  # "softmax/ties/float32/x" -> float64, of its shape

    @property
    def cases(self) -> list[dict[str, Any]]:
        return self.manifest["cases"]


# Written


def write_ops(folder: str | os.PathLike[str], cases: Iterable[Case]) -> dict[str, Any]:
    """Write a folder of vectors: all of it or, whatever happens, nothing; older vectors in its place are replaced.

    -> the manifest. Raises InputError where `folder` is something else, or cannot be written.
    """
    with whole_folder(Path(folder), ops_files) as part:
        rows = [written(part, case) for case in cases]
        manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "numpy_vit": __version__, "cases": rows}
        manifest["sha256"] = manifest_sha256(manifest)
        (part / MANIFEST).write_text(manifest_text(manifest, "cases"), encoding="utf-8")
        for name, text in texts(manifest).items():
            (part / name).write_bytes(text.encode())
    return manifest


def written(part: Path, case: Case) -> dict[str, Any]:
    """Write a case's arrays -> what the manifest says of it."""
    arrays = {**case.inputs, "y": (case.format, case.output)}
    if case.unit is not None:
        arrays["unit"] = ("float64", case.unit)
    entries = {}
    for key, (format, array) in arrays.items():
        stored = as_stored(array, format)
        file = file_name(case.name, key, format)
        (part / file).write_bytes(np.ascontiguousarray(stored).data)
        entries[key] = {"file": file, "dtype": format, "shape": list(stored.shape), "sha256": sha256(stored)}
    unit = {"unit": entries["unit"]} if "unit" in entries else {}
    return {
        "name": case.name, "operation": case.operation, "format": case.format, "formula": case.formula, "about": case.about,
        "parameters": plain(case.parameters), "inputs": {key: entries[key] for key in case.inputs}, "output": entries["y"],
        **unit, "correctly_rounded": case.correctly_rounded,
    }  # fmt: skip


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in parameters.items()}


def as_stored(array: Array, format: str) -> Array:
    """Numbers of a format, in float64, as its bits lie in a file."""
    if format == "bfloat16":
        return to_bits(array, format).astype("<u2")
    return np.asarray(array).astype(WRITTEN[KINDS[format][1]])


def file_name(case: str, array: str, format: str) -> str:
    return f"{case.replace('/', '.')}.{array}.{KINDS[format][0]}"


def texts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What C reads in place of the manifest: the arrays, and the parameters that are numbers, of every case."""
    index, parameters = [], []
    for case in manifest["cases"]:
        for key, entry in entries_of(case).items():
            shape = " ".join(map(str, entry["shape"]))
            index.append(f"{case['name']}/{key} {entry['dtype']} {len(entry['shape'])} {shape} {entry['file']}\n")
        for key, value in case["parameters"].items():
            words = value if isinstance(value, list) else [value]
            parameters.append(f"{case['name']} {key} {len(words)} {' '.join(map(spelled, words))}\n")
    return {INDEX: "".join(index), PARAMETERS: "".join(parameters)}


def spelled(value: float | int | str) -> str:
    return repr(value) if isinstance(value, int | float) else str(value)


def entries_of(case: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A case's arrays by name: its inputs, the result `y`, and `unit`."""
    unit = {"unit": case["unit"]} if "unit" in case else {}
    return {**case["inputs"], "y": case["output"], **unit}


# Read


def is_ops(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder says that it holds vectors of operations; all else is for whoever reads it to say."""
    path = Path(folder) / MANIFEST
    try:
        return path.is_file() and read_json(path).get("format") == FORMAT
    except InputError:
        return False


def ops_files(folder: Path) -> set[str]:
    """The files of a folder of vectors. Raises InputError unless it is whole and as it was written."""
    files = {entry["file"] for case in read_ops(folder).cases for entry in entries_of(case).values()}
    return {MANIFEST, INDEX, PARAMETERS, *files}


def read_ops(folder: str | os.PathLike[str]) -> Vectors:
    """Read a folder of vectors and verify every hash. Raises InputError for one that is not whole and as it was written."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise InputError(f"{folder}: has no {MANIFEST}: `numpy-vit golden ops -o DIR` writes vectors")
    manifest = read_json(path)
    with about(path):
        check_manifest(manifest)
    for name, text in texts(manifest).items():
        if whole(folder / name, len(text) + 1) != text.encode():
            raise InputError(f"{folder / name}: is not what was written: write the vectors again")
    arrays = {
        f"{case['name']}/{key}": read_array(folder, entry)
        for case in manifest["cases"]
        for key, entry in entries_of(case).items()
    }
    for case in manifest["cases"]:
        if "unit" in case and not (np.isfinite(unit := arrays[f"{case['name']}/unit"]) & (unit > 0)).all():
            raise InputError(f"{path}: case {case['name']}: its units must be above 0")
    return Vectors(manifest, arrays)


def read_array(folder: Path, entry: Mapping[str, Any]) -> Array:
    path = folder / entry["file"]
    tensor = read_raw(path, KINDS[entry["dtype"]][1])
    if tensor.data.size != math.prod(entry["shape"]):
        raise InputError(f"{path}: holds {tensor.data.size:,} numbers, not {entry['shape']}, as the manifest says")
    if sha256(tensor.data) != entry["sha256"]:
        raise InputError(f"{path}: is not what was written (its SHA-256 differs): write the vectors again")
    return numbers(tensor).reshape(entry["shape"])


def numbers(tensor: Tensor) -> Array:
    """A tensor in float64."""
    return tensor.to_float(np.float64)


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise InputError unless a manifest is what `golden ops` writes: every field of its type, every name a plain one."""
    if manifest.get("format") != FORMAT:
        raise InputError(f"is not the manifest of vectors (its format is not '{FORMAT}')")
    if manifest.get("version") != VERSION:
        raise InputError(f"has version {manifest.get('version')!r:.40}, this program reads {VERSION!r}: update one of them")
    hold_fields(manifest, HEAD)
    if manifest_sha256(manifest) != manifest["sha256"]:
        raise InputError("was changed after it was written (its SHA-256 differs): write the vectors again")
    cases = manifest["cases"]
    if not 0 < len(cases) <= MOST_CASES:
        raise InputError(f"lists {len(cases):,} cases: 1 to {MOST_CASES:,} are expected")
    for case in cases:
        if not isinstance(case, dict):
            raise InputError("cases must be JSON objects")
        with about(f"case {case.get('name')!r:.80}"):
            check_case(case)
    names = [case["name"] for case in cases]
    if len(set(names)) != len(names):
        raise InputError("lists a case twice")


def check_case(case: Mapping[str, Any]) -> None:
    hold_fields(case, CASE_FIELDS)
    if not NAME.fullmatch(case["name"]):
        raise InputError("a name is operation/case/format, in small letters")
    if not all(case[field].isprintable() for field in ("operation", "format", "formula", "about")):
        raise InputError("its operation, format, formula and about must be printable")
    for key, value in case["parameters"].items():
        words = value if isinstance(value, list) and 0 < len(value) <= MOST_AXES else [value]
        if not WORD.fullmatch(key) or not all(is_number(word) or is_word(word) for word in words):
            raise InputError(f"parameter {key!r:.40} must be a number or a word, or a few of them")
    for key, entry in entries_of(case).items():
        with about(f"array {key!r:.40}"):
            check_array(case["name"], key, entry)
    if case["output"]["dtype"] != case["format"]:
        raise InputError(f"its result is {case['output']['dtype']}, not {case['format']:.40}")
    if "unit" in case and (case["unit"]["dtype"], case["unit"]["shape"]) != ("float64", case["output"]["shape"]):
        raise InputError("its units must be float64, one for each number of the result")
    if {"y", "unit"} & set(case["inputs"]):
        raise InputError("no input is called y or unit")


def is_word(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", value))


def check_array(case: str, key: str, entry: Any) -> None:
    if not isinstance(entry, dict) or not WORD.fullmatch(key):
        raise InputError("must be a JSON object, its name small letters")
    hold_fields(entry, ARRAY_FIELDS)
    if entry["dtype"] not in KINDS:
        raise InputError(f"dtype {entry['dtype']!r:.40}: one of {', '.join(KINDS)}")
    shape = entry["shape"]
    whole_sizes = 0 < len(shape) <= MOST_AXES and all(type(size) is int and 0 < size <= MOST_NUMBERS for size in shape)
    if not whole_sizes or math.prod(shape) > MOST_NUMBERS:
        raise InputError(f"shape {shape!r:.80} must be whole numbers, {MOST_NUMBERS:,} numbers at most")
    if entry["file"] != file_name(case, key, entry["dtype"]):
        raise InputError(f"file {entry['file']!r:.80} is not what its file is called")
