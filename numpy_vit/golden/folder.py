"""The files: a golden folder with its manifest, and the arrays that a port dumped.

A golden folder holds `manifest.json` and the steps, as one `steps.safetensors`, as `<step>.npy`, or as raw little-endian
numbers `<step>.f64` or `<step>.f32` (what C reads with fread; the shapes are in the manifest).
"""

import contextlib
import ctypes
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from ..arithmetic.named import Arithmetic, Grid, arithmetic_from
from ..arithmetic.narrow import reals
from ..config import DIGITS, MAX_SIZE, ViTConfig
from ..convert.hub import is_hub_name
from ..errors import InputError, about, nearest
from ..fields import from_plain, is_number
from ..files.arrays import read_npy, read_npz
from ..files.jsonfile import described, read_json
from ..files.outside import regular
from ..files.tensorfile import WRITTEN, Tensor, part_of, read, tensor_of, unwritable, write_to
from ..pictures.images import Preprocess
from ..tracing.tracer import trace

Array = Any
FORMAT, VERSION = "numpy-vit golden", "1"
IN_INTEGERS = "2"  # the version of a golden in a narrow arithmetic (numpy_vit.arithmetic.named)
SUMS = ".sums"  # after a step's name: the int32 sums that it was requantised from
MANIFEST, ALL_STEPS = "manifest.json", "steps.safetensors"
LAYOUTS = ("safetensors", "npy", "raw")
WHOLE = {"I8": "int8", "U8": "uint8", "I16": "int16", "U16": "uint16", "I32": "int32", "I64": "int64"}
RAW = {"f64": "F64", "f32": "F32", "f16": "F16", "bf16": "BF16", **{kind.lower(): kind for kind in WHOLE}}
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", **WHOLE}
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
    arrays: dict[str, Array]  # step -> float64 or float32; of a golden in integers its codes

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The manifest's steps, in the order of execution; the first is the input, "pixels"."""
        return self.manifest["steps"]

    @property
    def config(self) -> ViTConfig:
        return ViTConfig.from_dict(self.manifest["config"])

    @property
    def arithmetic(self) -> Arithmetic | None:
        """The narrow arithmetic it was recorded in, or None."""
        plain = self.manifest.get("arithmetic")
        return None if plain is None else arithmetic_from(plain, "")

    @property
    def grids(self) -> dict[str, Grid]:
        """The grids of the steps that are kept in integers; also of those that were not recorded."""
        return {name: Grid(*values) for name, values in self.manifest.get("grids", {}).items()}

    def real(self, name: str) -> Array:
        """A step's real numbers, as float64."""
        array = np.asarray(self.arrays[name], np.float64)
        return reals(array, self.grids[name]) if self.arrays[name].dtype.kind in "iu" and name in self.grids else array


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
    kind = np.dtype(dtype)
    return f"{step}.npy" if layout == "npy" else f"{step}.{kind.kind}{kind.itemsize * 8}"


def write_golden(folder: str | os.PathLike[str], manifest: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a golden folder: all of it or, whatever happens, nothing. An older golden in its place is replaced.

    Raises InputError where `folder` is something else, or cannot be written.
    """
    with whole_folder(Path(folder)) as part:
        if manifest["layout"] == "safetensors":
            with open(part / ALL_STEPS, "wb") as file:
                write_to(file, {name: tensor_of(array) for name, array in arrays.items()}, {})
        for name, array in arrays.items():
            path = part / file_name(name, manifest["layout"], array.dtype)
            if path.name != ALL_STEPS:
                with open(path, "wb") as file:
                    write_array(file, np.ascontiguousarray(array, array.dtype.newbyteorder("<")), path.suffix)
        (part / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")


def write_array(file: BinaryIO, array: Array, suffix: str) -> None:
    """A contiguous array as .npy, or its numbers alone. (np.save does not say why it could not: a full disk, say.)"""
    if suffix == ".npy":
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
    file.write(array.data)


def manifest_sha256(manifest: Mapping[str, Any]) -> str:
    """Of everything in a manifest but this hash and our version, as JSON with sorted keys and no spaces."""
    content = {key: value for key, value in manifest.items() if key not in ("sha256", "numpy_vit")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def manifest_text(manifest: Mapping[str, Any], listed: str = "steps") -> str:
    """The manifest as JSON, one line a step (or whatever else it lists), the same bytes for the same content."""
    head = {key: value for key, value in manifest.items() if key != listed}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in manifest[listed])
    return "{\n  " + ",\n  ".join(lines) + f',\n  "{listed}": [\n' + rows + "\n  ]\n}\n"


def golden_files(folder: Path) -> set[str]:
    """The files of a golden folder. Raises InputError unless it is whole and as it was recorded."""
    return {MANIFEST, *(step["file"] for step in read_golden(folder).steps)}


def check_target(folder: str | os.PathLike[str], files: Callable[[Path], set[str]] = golden_files) -> None:
    """Raise InputError unless a golden can be written here: nothing there yet, an empty folder, or a golden as recorded.

    files   reads and verifies what may be replaced, and says which files it is
    """
    name, folder = folder, Path(os.path.realpath(folder))
    if not str(name) or folder == Path.cwd():
        raise InputError(f"'{name}': give the name of a new folder")
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{name}: is a file: give a folder")
    if folder.is_dir() and any(folder.iterdir()):
        check_replaceable(folder, name, files)
    if not folder.parent.is_dir():
        raise InputError(f"{name}: cannot be written (there is no folder {folder.parent})")
    try:
        os.rmdir(new_part(folder))
    except OSError as error:
        raise unwritable(name, error) from error


def check_replaceable(folder: Path, name: str | os.PathLike[str], files: Callable[[Path], set[str]]) -> None:
    """Raise InputError for a folder that is no golden, whole and as it was recorded, with nothing beside it.

    What a manifest lists is not believed: it may come from elsewhere, and name what is the user's own.
    """
    other = f"{name}: is a folder with other things in it: give a new one"
    try:
        ours = files(folder)
    except InputError as error:
        raise InputError(f"{other} (as a golden, {error})") from error
    if any(entry.name not in ours or not entry.is_file() or entry.is_symlink() for entry in folder.iterdir()):
        raise InputError(other)


def new_part(folder: Path) -> Path:
    """A temporary folder beside a folder."""
    return Path(tempfile.mkdtemp(prefix=part_of(folder), suffix=".part", dir=folder.parent))


@contextlib.contextmanager
def whole_folder(folder: Path, files: Callable[[Path], set[str]] = golden_files) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` when the block ends well and vanishes when it does not."""
    check_target(folder, files)
    name, folder = folder, Path(os.path.realpath(folder))  # of a link, what it points to is replaced
    work = None
    try:
        work = new_part(folder)
        new = work / "new"
        new.mkdir()
        yield new
        if not folder.exists():
            os.replace(new, folder)
        elif not exchanged(new, folder):
            old = work / "old"
            try:
                os.replace(folder, old)
                os.replace(new, folder)
            except BaseException:
                if old.exists() and not folder.exists():
                    os.replace(old, folder)
                raise
    except OSError as error:
        raise unwritable(name, error) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def exchanged(new: Path, old: Path) -> bool:
    """Let two folders change places at once, so that there is one of them whenever the program may be killed.

    False where the system has no such call (Linux has: renameat2 with RENAME_EXCHANGE); nothing is done then.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here = -100  # AT_FDCWD
    return rename(here, os.fsencode(new), here, os.fsencode(old), 2) == 0


def read_golden(folder: str | os.PathLike[str]) -> Golden:
    """Read a golden folder and verify every hash. Raises InputError for one that is not whole and as it was recorded."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder (a golden is a folder with {MANIFEST}: `numpy-vit golden record`)")
    if not os.path.lexists(path):
        raise InputError(f"{folder}: is not a golden: it has no {MANIFEST}")
    manifest = read_json(path)
    with about(path):
        check_manifest(manifest)
    manifest["model"] = trusted(manifest["model"])
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
        if DTYPES.get(found.dtype) != step["dtype"] or array.size != math.prod(step["shape"]):
            raise InputError(f"{file}: step '{name}' is not {step['dtype']} {tuple(step['shape'])}, as the manifest says")
        if sha256(array) != step["sha256"]:
            raise InputError(f"{file}: step '{name}' is not what was recorded (its SHA-256 differs): record the golden again")
        arrays[name] = array.reshape(step["shape"])
    return Golden(folder, manifest, arrays)


def trusted(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of its model, without weights that are not opened because a file from elsewhere says so.

    The shipped model is, and a relative path to what lies below the working folder. No other place of this machine, nothing of
    another, and nothing is fetched: for those --weights is asked.
    """
    weights = origin.get("weights")
    if not isinstance(weights, str):
        return {key: value for key, value in origin.items() if key != "weights"}
    parts = PureWindowsPath(weights)  # which knows both kinds of slashes, and drives
    below = not (parts.drive or parts.root or ".." in parts.parts or weights.startswith("~"))
    plain = not is_hub_name(weights) or parts.suffix or os.path.exists(weights)
    if weights == DIGITS or (below and plain):
        return dict(origin)
    return {key: value for key, value in origin.items() if key != "weights"} | {"elsewhere": weights}


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise InputError unless a manifest is what `golden record` writes: every field of its type, every step its model's."""
    if manifest.get("format") != FORMAT:
        raise InputError(f"is not the manifest of a golden (its format is not '{FORMAT}')")
    if manifest.get("version") not in (VERSION, IN_INTEGERS):
        raise InputError(f"has version {manifest.get('version')!r}, this program reads {VERSION!r}: update one of them")
    hold_fields(manifest, FIELDS)
    if manifest_sha256(manifest) != manifest["sha256"]:
        raise InputError("was changed after it was recorded (its SHA-256 differs): record the golden again")
    config = ViTConfig.from_dict(manifest["config"])
    if manifest["version"] == IN_INTEGERS:
        check_arithmetic(manifest)
    if manifest.get("preprocess") is not None:
        from_plain(Preprocess, manifest["preprocess"], "preprocess")
    if manifest["store"] not in ("float64", "float32"):
        raise InputError(f"store {manifest['store']!r}: float64 or float32")
    if manifest["layout"] not in LAYOUTS:
        raise InputError(f"layout {manifest['layout']!r}: one of {', '.join(LAYOUTS)}")
    if not manifest["steps"]:
        raise InputError("lists no steps")
    for step in manifest["steps"]:
        if not isinstance(step, dict):
            raise InputError("steps must be JSON objects")
        with about(f"step {step.get('name')!r:.80}"):
            check_step(step, manifest["layout"])
            if step["noise"].keys() != manifest["steps"][0]["noise"].keys():
                raise InputError("has noise floors of other formats than the first step")
    names = [step["name"] for step in manifest["steps"]]
    if len(set(names)) != len(names):
        raise InputError("lists a step twice")
    if names[0] != "pixels":
        raise InputError("must list the pixels first")
    check_shapes(manifest["steps"], config)


def check_step(step: Mapping[str, Any], layout: str) -> None:
    """Raise InputError unless a manifest's step is what `golden record` writes."""
    hold_fields(step, STEP_FIELDS)
    if not all(type(size) is int and 0 < size <= MAX_SIZE for size in step["shape"]) or not step["shape"]:
        raise InputError(f"shape {step['shape']!r:.80} must be whole numbers, 1 to {MAX_SIZE:,}")
    if step["dtype"] not in DTYPES.values():
        raise InputError(f"dtype {step['dtype']!r:.40}: one of {', '.join(DTYPES.values())}")
    if Path(step["file"]).name != step["file"]:
        raise InputError(f"file {step['file']!r} must be a plain name in the same folder")
    if step["dtype"] == "bfloat16" or step["file"] != file_name(step["name"], layout, step["dtype"]):
        raise InputError(f"file {step['file']!r:.80} is not what a golden's file is called")
    if len(step["shape"]) != len(step["dims"].split()):
        raise InputError(f"shape {step['shape']} is not {step['dims']}")
    if not all(isinstance(name, str) for name in (*step["inputs"], *step["weights"])):
        raise InputError("inputs must be names of steps, weights of tensors")
    if not all(text.isprintable() for text in (step["name"], step["dims"], step["operation"], step["formula"])):
        raise InputError("its name, dims, operation and formula must be printable")
    for kind, floors in step["noise"].items():
        if not (isinstance(floors, dict) and floors.keys() == {"run", "step"} and all(map(are_floors, floors.values()))):
            raise InputError(f"noise of {kind!r:.40} must have run and step, each with largest, l2 and gain")


def check_arithmetic(manifest: Mapping[str, Any]) -> None:
    """Raise InputError unless the manifest of a narrow golden says in which arithmetic, and what its integers stand for."""
    hold_fields(manifest, {"arithmetic": dict, "grids": dict})
    arithmetic = arithmetic_from(manifest["arithmetic"], "")
    for name, grid in manifest["grids"].items():
        whole = isinstance(grid, list) and len(grid) == 4 and is_number(grid[0]) and all(type(n) is int for n in grid[1:])
        if not whole or not 0 < grid[0] < 1e30 or not -(2**15) <= grid[2] <= grid[1] <= grid[3] < 2**16:
            raise InputError(f"grids: '{name:.60}' must be [scale, zero point, lowest, highest code], not {grid!r:.80}")
    for step in manifest["steps"]:
        name, whole = step.get("name"), step.get("dtype") in WHOLE.values()
        if whole and name not in manifest["grids"] and not str(name).endswith(SUMS):
            raise InputError(f"step {name!r:.80} is {step['dtype']}: its scale and zero point are missing")
        if whole and arithmetic.steps is None:
            raise InputError(f"step {name!r:.80} is {step['dtype']}, and the arithmetic keeps no step in integers")


def are_floors(values: Any) -> bool:
    """Whether these are noise floors: three numbers, 0 or more."""
    right = isinstance(values, dict) and values.keys() == {"largest", "l2", "gain"}
    return right and all(type(number) in (int, float) and 0 <= number < math.inf for number in values.values())


def check_shapes(steps: Sequence[Mapping[str, Any]], config: ViTConfig) -> None:
    """Raise InputError unless the steps are some of the model's, with the shapes they have for these pixels."""
    shape = tuple(steps[0]["shape"])
    if len(shape) != 4 or shape[1] != config.channels:
        raise InputError(f"the pixels are {shape}: (B, {config.channels}, Y, X) is expected")
    shapes = {"pixels": shape, **{row.name: row.shape for row in trace(config, batch=shape[0], size=shape[2:])}}
    shapes |= {name + SUMS: shape for name, shape in shapes.items()}
    for step in steps:
        if step["name"] not in shapes:
            raise InputError(f"step '{step['name']}' is none of its model's{nearest(step['name'], shapes)}")
        if tuple(step["shape"]) != shapes[step["name"]]:
            raise InputError(f"step '{step['name']}' is {tuple(step['shape'])}: its model's is {shapes[step['name']]}")


def hold_fields(values: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    """Raise InputError unless every field is there, and of its type."""
    for field, kind in fields.items():
        if field not in values:
            raise InputError(f"has no '{field}'")
        number = kind is float and isinstance(values[field], int) and not isinstance(values[field], bool)
        if not isinstance(values[field], kind) and not number:
            raise InputError(f"'{field}' must be a {kind.__name__}, not {described(values[field])}")


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
    """The arrays of one file, by the names in it, or by the file's name without its last suffix. Raises InputError."""
    if path.suffix == ".safetensors":
        return read(path)[0]
    if path.suffix == ".npz":
        return read_npz(path)
    if path.suffix == ".npy":
        return {path.stem: read_npy(path)}
    if path.suffix[1:] in RAW:
        return {path.stem: read_raw(path, RAW[path.suffix[1:]])}
    known = ".safetensors, .npz, .npy or raw ." + " .".join(RAW)
    raise InputError(f"{path}: is not a dump: give a {known} file, or a folder of them")


def read_raw(path: Path, kind: str) -> Tensor:
    """A file of nothing but little-endian numbers, as one row of them."""
    with about(path):
        size, item = regular(path).st_size, np.dtype(WRITTEN[kind]).itemsize
        if size == 0 or size % item:
            raise InputError(f"{size} bytes are no whole number of {DTYPES[kind]} numbers: the file is cut")
        try:
            return Tensor(kind, np.fromfile(path, WRITTEN[kind]))
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror or error})") from error
