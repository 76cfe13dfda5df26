"""The files: a golden folder with its manifest, and the arrays that a port dumped.

A golden folder holds `manifest.json` and the steps, as one `steps.safetensors`, as `<step>.npy`, or as raw little-endian
numbers `<step>.f64` or `<step>.f32` (what C reads with fread; the shapes are in the manifest).
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import ViTConfig, from_plain
from ..errors import InputError, about
from ..files.tensorfile import STORED_AS, Tensor, read, tensor_of, write
from ..pictures.images import Preprocess

Array = Any
FORMAT, VERSION = "numpy-vit golden", "1"
MANIFEST, ALL_STEPS = "manifest.json", "steps.safetensors"
LAYOUTS = ("safetensors", "npy", "raw")
RAW = {"f64": "F64", "f32": "F32", "f16": "F16", "bf16": "BF16"}
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FIELDS = {
    "numpy_vit": str, "precision": str, "store": str, "layout": str, "model": dict, "weights_sha256": str, "config": dict,
    "sizes": dict, "steps": list, "sha256": str,
}  # fmt: skip
STEP_FIELDS = {
    "name": str, "operation": str, "formula": str, "inputs": list, "weights": list, "dims": str, "shape": list,
    "dtype": str, "file": str, "sha256": str, "largest": float, "noise": dict,
}  # fmt: skip


class Golden(NamedTuple):
    """A golden folder, read and verified."""

    folder: Path
    manifest: dict[str, Any]
    arrays: dict[str, Array]  # step -> float64 or float32

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The manifest's steps, in the order of execution; the first is the input, "pixels"."""
        return self.manifest["steps"]

    @property
    def config(self) -> ViTConfig:
        return ViTConfig.from_dict(self.manifest["config"])


def sha256(array: Array) -> str:
    """Of the little-endian bytes."""
    return hashlib.sha256(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data).hexdigest()


def weights_sha256(tensors: Mapping[str, Array], names: Any) -> str:
    """Of all weights, in the given order: each tensor's name, then its numbers as little-endian float64."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], "<f8").data)
    return digest.hexdigest()


def file_name(step: str, layout: str, dtype: str) -> str:
    """The file of a golden folder that a step is in."""
    if layout == "safetensors":
        return ALL_STEPS
    return f"{step}.npy" if layout == "npy" else f"{step}.f{np.dtype(dtype).itemsize * 8}"


def write_golden(folder: str | os.PathLike[str], manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a golden folder: all of it or, whatever happens, nothing. An older golden in its place is replaced.

    Raises InputError where `folder` is something else, or cannot be written.
    """
    with whole_folder(Path(folder)) as part:
        if manifest["layout"] == "safetensors":
            write(part / ALL_STEPS, {name: tensor_of(array) for name, array in arrays.items()}, {})
        for name, array in arrays.items():
            path = part / file_name(name, manifest["layout"], array.dtype)
            if path.suffix == ".npy":
                np.save(path, array)
            elif path.name != ALL_STEPS:
                array.astype(array.dtype.newbyteorder("<")).tofile(path)
        (part / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """Of everything in a manifest but this hash and our version, as JSON with sorted keys and no spaces."""
    content = {key: value for key, value in manifest.items() if key not in ("sha256", "numpy_vit")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest as JSON, one line a step, the same bytes for the same content."""
    head = {key: value for key, value in manifest.items() if key != "steps"}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    steps = ",\n".join("    " + json.dumps(step, ensure_ascii=False) for step in manifest["steps"])
    return "{\n  " + ",\n  ".join(lines) + ',\n  "steps": [\n' + steps + "\n  ]\n}\n"


def check_target(folder: str | os.PathLike[str]) -> None:
    """Raise InputError unless a golden folder can be written here: nothing there yet, an empty folder, or a golden."""
    name, folder = folder, Path(os.path.realpath(folder))
    if not str(name) or folder == Path.cwd():
        raise InputError(f"'{name}': give the name of a new folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{name}: is a file: give a folder")
    if folder.is_dir() and not {file.name for file in folder.iterdir()} <= files_of(folder):
        raise InputError(f"{name}: is a folder with other things in it: give a new one")
    if not folder.parent.is_dir():
        raise InputError(f"{name}: cannot be written (there is no folder {folder.parent})")
    try:
        os.rmdir(new_part(folder))
    except OSError as error:
        raise InputError(f"{name}: cannot be written ({error.strerror or error})") from error


def files_of(folder: Path) -> set[str]:
    """The files that belong to a golden folder, by its manifest; none where it has no manifest of a golden."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] == FORMAT:
            return {MANIFEST, *(step["file"] for step in manifest["steps"])}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        pass
    return set()


def new_part(folder: Path) -> Path:
    """A temporary folder beside a folder."""
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` when the block ends well and vanishes when it does not."""
    check_target(folder)
    folder = Path(os.path.realpath(folder))  # of a link, what it points to is replaced
    work = None
    try:
        work = new_part(folder)
        old, new = work / "old", work / "new"
        new.mkdir()
        yield new
        try:
            if folder.exists():
                os.replace(folder, old)
            os.replace(new, folder)
        except BaseException:
            if old.exists() and not folder.exists():
                os.replace(old, folder)
            raise
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def read_golden(folder: str | os.PathLike[str]) -> Golden:
    """Read a golden folder and verify every hash. Raises InputError for one that is not whole and as it was recorded."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (a golden is a folder with {MANIFEST}: `numpy-vit golden record`)")
    if not path.is_file():
        raise InputError(f"{folder}: is not a golden: it has no {MANIFEST}")
    with about(path):
        manifest = parse_manifest(path)
    arrays: dict[str, Array] = {}
    files: dict[str, dict[str, Tensor]] = {}
    for step in manifest["steps"]:
        name = step["name"]
        file = folder / step["file"]
        if file.name not in files:
            files[file.name] = read_arrays(file)
        found = files[file.name].get(name)
        if found is None:
            raise InputError(f"{file}: has no step '{name}', which the manifest lists: record the golden again")
        array = found.data
        if DTYPES[found.dtype] != step["dtype"] or array.size != int(np.prod(step["shape"])):
            raise InputError(f"{file}: step '{name}' is not {step['dtype']} {tuple(step['shape'])}, as the manifest says")
        if sha256(array) != step["sha256"]:
            raise InputError(f"{file}: step '{name}' is not what was recorded (its SHA-256 differs): record the golden again")
        arrays[name] = array.reshape(step["shape"])
    return Golden(folder, manifest, arrays)


def parse_manifest(path: Path) -> dict[str, Any]:
    """manifest.json as data, its fields and their types checked. Raises InputError."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not JSON ({error}): record the golden again") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"is not the manifest of a golden (its format is not '{FORMAT}')")
    if manifest.get("version") != VERSION:
        raise InputError(f"has version {manifest.get('version')!r}, this program reads {VERSION!r}: update one of them")
    hold_fields(manifest, FIELDS, "the manifest")
    if manifest_sha256(manifest) != manifest["sha256"]:
        raise InputError("was changed after it was recorded (its SHA-256 differs): record the golden again")
    ViTConfig.from_dict(manifest["config"])
    if manifest.get("preprocess") is not None:
        from_plain(Preprocess, manifest["preprocess"], "preprocess")
    if manifest["store"] not in ("float64", "float32"):
        raise InputError(f"store {manifest['store']!r}: float64 or float32")
    if not manifest["steps"]:
        raise InputError("lists no steps")
    for step in manifest["steps"]:
        if not isinstance(step, dict):
            raise InputError("steps must be JSON objects")
        name = step.get("name")
        hold_fields(step, STEP_FIELDS, f"step {name!r}")
        if not all(type(size) is int and size > 0 for size in step["shape"]):
            raise InputError(f"step {name!r}: shape {step['shape']} must be whole numbers")
        if Path(step["file"]).name != step["file"]:
            raise InputError(f"step {name!r}: file {step['file']!r} must be a plain name in the same folder")
        if len(step["shape"]) != len(step["dims"].split()):
            raise InputError(f"step {name!r}: shape {step['shape']} is not {step['dims']}")
        if not all(isinstance(earlier, str) for earlier in step["inputs"]):
            raise InputError(f"step {name!r}: inputs must be names of steps")
        for kind, floors in step["noise"].items():
            try:
                numbers = [float(floors[of][by]) for of in ("run", "step") for by in ("largest", "l2", "gain")]
            except (TypeError, KeyError, ValueError):
                numbers = [math.nan]
            if not all(math.isfinite(number) and number >= 0 for number in numbers):
                raise InputError(f"step {name!r}: noise of {kind!r} must have run and step, each with largest, l2 and gain")
        if step["noise"].keys() != manifest["steps"][0]["noise"].keys():
            raise InputError(f"step {name!r}: has noise floors of other formats than the first step")
    names = [step["name"] for step in manifest["steps"]]
    if len(set(names)) != len(names):
        raise InputError("lists a step twice")
    if names[0] != "pixels":
        raise InputError("must list the pixels first")
    return manifest


def hold_fields(values: Mapping[str, Any], fields: Mapping[str, type], what: str) -> None:
    for field, kind in fields.items():
        if field not in values:
            raise InputError(f"{what} has no '{field}'")
        if not isinstance(values[field], (int, float) if kind is float else kind):
            raise InputError(f"{what}: '{field}' must be a {kind.__name__}, not {values[field]!r:.40}")


# What a port dumped


def read_dump(place: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Every array of a port's dump: name -> Tensor.

    place   a .safetensors or .npz file, or a folder of those, of .npy files, or of raw little-endian .f64 .f32 .f16 .bf16
            files, each named after its step; raw numbers come without a shape

    Raises InputError for a place that is missing, empty or cannot be read.
    """
    if not str(place):
        raise InputError("an empty name is no dump")
    place = Path(place)
    if not place.exists():
        raise InputError(f"{place}: no such file or folder")
    if not place.is_dir():
        return read_arrays(place)
    suffixes = {".safetensors", ".npz", ".npy", *(f".{kind}" for kind in RAW)}
    found: dict[str, Tensor] = {}
    for file in sorted(place.iterdir()):
        if file.suffix in suffixes:
            for name, tensor in read_arrays(file).items():
                if name in found:
                    raise InputError(f"{place}: has '{name}' twice, in {file.name} and another file")
                found[name] = tensor
    if not found:
        raise InputError(f"{place}: no {', '.join(sorted(suffixes))} file in this folder")
    return found


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of one file, by the names in it, or by the file's name without its last suffix."""
    if path.suffix == ".safetensors":
        return read(path)[0]
    try:
        with warnings.catch_warnings(action="ignore"):
            if path.suffix == ".npz":
                with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                    return {name: as_tensor(archive[name]) for name in archive.files}
            if path.suffix == ".npy":
                return {path.stem: as_tensor(np.load(path, mmap_mode="r", allow_pickle=False))}
        if path.suffix[1:] in RAW:
            kind = RAW[path.suffix[1:]]
            size, item = path.stat().st_size, np.dtype(STORED_AS[kind]).itemsize
            if size == 0 or size % item:
                raise InputError(f"{path}: {size} bytes are no whole number of {DTYPES[kind]} numbers: the file is cut")
            return {path.stem: Tensor(kind, np.fromfile(path, STORED_AS[kind]))}
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}): the file is cut or damaged") from error
    known = ".safetensors, .npz, .npy or raw ." + " .".join(RAW)
    raise InputError(f"{path}: is not a dump: give a {known} file, or a folder of them")


def as_tensor(array: Array) -> Tensor:
    """An array as a Tensor; one that is no float keeps its dtype, for whoever wants it to say so."""
    kind = {"f8": "F64", "f4": "F32", "f2": "F16"}.get(array.dtype.str[1:])
    return Tensor(str(array.dtype), array) if kind is None else Tensor(kind, array.astype(STORED_AS[kind], copy=False))
