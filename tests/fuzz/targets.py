"""What is given the inputs: each target makes one valid input after another, changes it, and has it read."""

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

import numpy_vit
from numpy_vit.cli import main
from numpy_vit.cli.partial import Partial
from numpy_vit.convert import convert
from numpy_vit.convert.sources import read_weights
from numpy_vit.files.converted import Checkpoint, read_converted, write_converted
from numpy_vit.files.tensorfile import read, tensor_of, write
from numpy_vit.golden.alignment import align, read_mapping
from numpy_vit.golden.checking import check, model_of, read_budgets
from numpy_vit.golden.folder import manifest_sha256, manifest_text, read_dump, read_golden, write_golden
from numpy_vit.golden.recording import record
from numpy_vit.models.loading import open_checkpoint

from . import mutations as m

DATA = Path(__file__).parents[1] / "data"
CONFIG = dict(
    image=(8, 12), patch=4, channels=3, width=8, depth=1, heads=2, mlp=6, classes=3, pooler=0, eps=1e-6, activation="gelu",
    pooling="class", position_rule="bicubic", qkv_bias=True,
)  # fmt: skip
TORCH_NAMES = ("FloatStorage", "HalfStorage", "LongStorage", "BFloat16Storage")


class Materials:
    """Valid inputs, made once, in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.work = folder / "work"
        self.model = numpy_vit.random_model(numpy_vit.ViTConfig(**CONFIG))
        self.folders = [*sorted(path for path in (DATA / "families").iterdir() if path.is_dir()), DATA / "classifier"]
        digits = numpy_vit.load()
        self.policy = digits.preprocess_policy
        tensors = {name: tensor_of(array) for name, array in self.model.tensors.items()}
        preprocess = numpy_vit.Preprocess.from_dict({**self.policy.to_dict(), "size": [8, 12]})
        write_converted(
            folder / "converted", Checkpoint(self.model.config, tensors, preprocess, ["a", "b", "c"], {"family": "x"})
        )
        arrays = {"w": np.ones((2, 3), "f4"), "a/b": np.arange(4.0), "n": np.int64(3), "h": np.ones((1, 2), "f2")}
        np.savez(folder / "npz", **arrays)
        np.savez_compressed(folder / "npz2", **arrays)
        np.save(folder / "npy", np.arange(6, dtype="f4").reshape(2, 3))
        write(folder / "safetensors", {name: tensor_of(array) for name, array in list(arrays.items())[:2]}, {"a": "b"})
        self.torch, self.legacy = torch_zip(self.model.tensors), torch_legacy(self.model.tensors)
        theirs = {name: f"x/{name}".replace("blocks.0.", "0.") for name in self.model.tensors}
        np.savez(
            folder / "mapped.npz", **{"x/y1": np.ones(2)}, **{theirs[name]: array for name, array in self.model.tensors.items()}
        )
        lines = {name.replace("blocks.0.", "blocks.{n}."): of.replace("/0.", "/{n}.") for name, of in theirs.items()}
        told = ("image", "patch", "channels", "heads", "eps", "activation", "pooling", "position_rule")
        self.map = {
            "layout": "in out",
            "norm_first": True,
            "config": {key: CONFIG[key] for key in told},
            "tensors": lines,
            "left_out": ["x/y*"],
        }
        portable = numpy_vit.random_model(self.model.config, dtype="portable")
        pixels = np.ones((1, 3, 8, 12))
        self.manifest, self.arrays = record(portable, pixels, noise=("float32",), origin={"model": {"seed": 0}, "input": {}})
        write_golden(folder / "golden", self.manifest, self.arrays)
        self.golden = read_golden(folder / "golden")
        self.dump = {name: array.astype("f4") for name, array in self.arrays.items()}
        self.pictures = [picture(form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")]

    def fresh(self):
        """An empty folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        return self.work


def picture(form):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 14, 3), np.uint8)).save(file, form)
    return file.getvalue()


class Pickler(pickle._Pickler):
    """Tensors as torch pickles them."""

    def persistent_id(self, value):
        return value[1:] if isinstance(value, tuple) and value[:1] == ("!storage",) else None

    def save_tensor(self, array):
        self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
        self.save(("storage", Named("torch", "FloatStorage"), array.key, "cpu", array.size, *array.view))
        self.write(b"QK\0")
        for part in (array.shape, tuple(step // 4 for step in array.strides), False):
            self.save(part)
        self.write(b"ccollections\nOrderedDict\n)RtR")

    def save_named(self, value):
        self.write(f"c{value.module}\n{value.name}\n".encode())


class Named:
    def __init__(self, module, name):
        self.module, self.name = module, name


class Stored:
    def __init__(self, key, array, view):
        self.key, self.view, self.size, self.shape, self.strides = key, view, array.size, array.shape, array.strides


Pickler.dispatch = pickle._Pickler.dispatch | {Stored: Pickler.save_tensor, Named: Pickler.save_named}


def pickled(value):
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def state_of(tensors, view):
    state = {name: Stored(str(n), array, view) for n, (name, array) in enumerate(tensors.items())}
    return {"model": state, "epoch": 3, "args": {"lr": 0.1, "betas": (0.9, 0.99), "dtype": Named("torch", "float16")}}


def torch_zip(tensors):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled(state_of(tensors, ())))
        for n, array in enumerate(tensors.values()):
            archive.writestr(f"a/data/{n}", array.tobytes())
        archive.writestr("a/byteorder", "little")
    return file.getvalue()


def torch_legacy(tensors):
    """The five pickles, and the storages."""
    parts = (
        0x1950A86A20F9469CFC6C,
        1001,
        {"little_endian": True},
        state_of(tensors, (None,)),
        [str(n) for n in range(len(tensors))],
    )
    storages = [struct.pack("<q", array.size) + array.tobytes() for array in tensors.values()]
    return [pickled(part) for part in parts], b"".join(storages)


# The targets: (materials, random numbers) -> what is done


def safetensors(of, rng):
    path = of.fresh() / "a.safetensors"
    path.write_bytes(m.change_safetensors(rng, (of.folder / "safetensors").read_bytes()))
    return lambda: [tensor.is_finite() for tensor in read_weights(path)[0].values()]


def converted(of, rng):
    path = of.fresh() / "a.safetensors"
    path.write_bytes(m.change_safetensors(rng, (of.folder / "converted").read_bytes()))
    return lambda: run_model(read_converted(path).model())


def run_model(model):
    if np.prod(model.config.image) < 10_000 and model.config.channels < 10:
        model(np.zeros((1, model.config.channels, *model.config.image), "f4"))


def npz(of, rng):
    path = of.fresh() / "a.npz"
    path.write_bytes(m.change_npz(rng, (of.folder / rng.choice(("npz.npz", "npz2.npz"))).read_bytes()))
    return lambda: read_weights(path)


def npy(of, rng):
    folder = of.fresh()
    (folder / "a.npy").write_bytes(m.change_npy(rng, (of.folder / "npy.npy").read_bytes()))
    return lambda: read_dump(folder)


def torch(of, rng):
    path = of.fresh() / "a.pth"
    path.write_bytes(m.change_torch(rng, of.torch))
    return lambda: [tensor.data.sum() for tensor in read_weights(path)[0].values()]


def legacy(of, rng):
    parts, storages = list(of.legacy[0]), of.legacy[1]
    n = rng.choice((0, 1, 2, 3, 3, 3, 3, 4, 4))
    parts[n] = m.change_pickle(rng, parts[n])
    data = b"".join(parts) + storages
    path = of.fresh() / "a.pth"
    path.write_bytes(m.change_bytes(rng, data) if rng.random() < 0.2 else data)
    return lambda: [tensor.data.sum() for tensor in read_weights(path)[0].values()]


def folder(of, rng):
    """A foreign model as published: one of its files changed."""
    source, place = rng.choice(of.folders), of.fresh() / "m"
    shutil.copytree(source, place)
    path = rng.choice([path for path in sorted(place.iterdir()) if path.name != "about.json"])
    change_file(rng, path)
    weights = [p for p in place.iterdir() if p.suffix in (".npz", ".pth", ".pt", ".safetensors")]
    told = rng.choice(({}, {"heads": 2}, {"heads": 4, "eps": 1e-6, "activation": "gelu", "image": 16, "pooling": "mean"}))
    given = rng.choice((place, *weights))
    return lambda: convert(given, told=told) if rng.random() < 0.5 else open_checkpoint(given)


def change_file(rng, path):
    data = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(m.json_bytes(rng, m.change_json(rng, json.loads(data))))
    else:
        change = {".safetensors": m.change_safetensors, ".npz": m.change_npz, ".pth": m.change_torch, ".pt": m.change_torch}
        path.write_bytes(change.get(path.suffix, m.change_bytes)(rng, data))


def preprocessor(of, rng):
    content = json.loads((DATA / "classifier" / "preprocessor_config.json").read_text())
    path = of.fresh() / "p.json"
    path.write_bytes(m.json_bytes(rng, m.change_json(rng, content)))
    shown = Image.new("RGB", (40, 30))

    def run():
        policy = open_checkpoint(DATA / "classifier", preprocessor=path).preprocess
        if (
            policy is not None
            and (policy.size is None or np.max(policy.size) < 2000)
            and (not policy.crop or max(policy.crop) < 2000)
        ):
            policy([shown])

    return run


def mapped(of, rng):
    """A home-made model: its map changed, or its weights."""
    path, weights = of.fresh() / "map.json", of.work / "mapped.npz"
    data, lines = (of.folder / "mapped.npz").read_bytes(), rng.random() < 0.7
    path.write_bytes(m.json_bytes(rng, m.change_json(rng, of.map) if lines else of.map, 0.1 * lines))
    weights.write_bytes(data if lines else m.change_npz(rng, data))
    return lambda: convert(weights, rename=path)


def index(of, rng):
    place = of.fresh() / "m"
    shutil.copytree(DATA / "classifier", place)
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    (place / "model.safetensors").rename(place / names[0])
    write(place / names[1], {"x": tensor_of(np.ones(2))}, {})
    listed = dict.fromkeys(read(place / names[0])[0], names[0])
    content = {"metadata": {"total_size": 3}, "weight_map": {"x": names[1], **listed}}
    (place / "model.safetensors.index.json").write_bytes(m.json_bytes(rng, m.change_json(rng, content)))
    return lambda: open_checkpoint(place)


def golden(of, rng):
    """A manifest whose hash fits; it is checked with a dump."""
    manifest = m.change_json(rng, of.manifest)
    place = of.fresh() / "g"
    place.mkdir()
    shutil.copy(of.folder / "golden" / "steps.safetensors", place)
    if isinstance(manifest, dict):
        with contextlib.suppress(Exception):
            manifest["sha256"] = manifest_sha256(manifest)
    try:
        text = manifest_text(manifest)
    except Exception:
        text = json.dumps(manifest)
    (place / "manifest.json").write_text(text, errors="replace")
    dump = {name: tensor_of(array) for name, array in of.dump.items()}

    def run():
        read = read_golden(place)
        check(read, dump, model=model_of(read) if rng.random() < 0.3 else None)

    return run


def dump(of, rng):
    place = of.fresh() / "d.npz"
    file = io.BytesIO()
    names = {name: array for name, array in of.dump.items() if rng.random() < 0.5}
    np.savez(file, **names)
    changed, lines, limits = rng.randrange(3), {name: name for name in list(names)[:3]}, {"*": 1.0, "logits": 0.5}
    place.write_bytes(m.change_npz(rng, file.getvalue()) if changed == 0 else file.getvalue())
    mapping, budgets = of.work / "map.json", of.work / "budget.json"
    mapping.write_bytes(m.json_bytes(rng, m.change_json(rng, lines) if changed == 1 else lines, 0.1 * (changed == 1)))
    budgets.write_bytes(m.json_bytes(rng, m.change_json(rng, limits) if changed == 2 else limits, 0.1 * (changed == 2)))

    def run():
        found = read_dump(place)
        align(found, of.golden.steps)
        told = {"mapping": read_mapping(mapping), "budgets": read_budgets(budgets)}
        check(of.golden, found, **(told if changed else {}))

    return run


def journal(of, rng):
    pictures = [of.fresh() / f"{n}.png" for n in range(3)]
    for path in pictures:
        path.write_bytes(b"x")
    run = {"what": "pooled", "dtype": "float32", "image": None, "model": "abc"}
    place = of.work / "o.npz.partial"
    with quiet():
        with Partial(place, run, pictures) as partial:
            partial.add(pictures[:2], np.ones((2, 4), "f4"), {pictures[2]: "cut"})
            partial.keep = True
        lines = (place / "journal").read_bytes().splitlines(keepends=True)
    n = rng.randrange(len(lines))
    lines[n] = m.json_bytes(rng, m.change_json(rng, json.loads(lines[n]))) + b"\n"
    if rng.random() < 0.3:
        lines[n] = m.change_bytes(rng, lines[n])
    (place / "journal").write_bytes(b"".join(lines))
    if rng.random() < 0.3:
        (place / "rows").write_bytes(m.change_bytes(rng, (place / "rows").read_bytes()))

    def resume():
        with Partial(place, run, pictures) as again:
            if again.batches:
                again.rows("f4")

    return resume


def images(of, rng):
    path = of.fresh() / "a.png"
    path.write_bytes(m.change_bytes(rng, rng.choice(of.pictures)))
    return lambda: of.policy([path])


COMMANDS = (
    "predict samples --weights converted.safetensors --top 2", "predict samples --json", "inspect converted.safetensors --json",
    "inspect model --tensors", "trace ViT-Ti/16 depth=2", "trace ViT-B/16 image=384 --json", "trace model",
    "convert model -o out.safetensors", "convert mapped.npz --map map.json -o out.safetensors",
    "embed samples -o out.npz", "embed samples -o out.safetensors --what logits", "attend samples/a.png -o out.png",
    "explain samples/a.png -o out.html", "eval folders", "golden check golden dump.npz", "golden check golden dump.npz --json",
    "golden diagnose golden dump.npz",
    "golden record --model ViT-Ti/16 depth=1 width=12 heads=3 mlp=9 image=32 --noise none -o out",
)  # fmt: skip
OPTIONS = """--weights --size 8x12 0x0 1e9 -1 --dtype float64 portable --strict --preprocessor imagenet no-such-file -- - = a=b
depth=0 heads=10000000000000000000000 --debug --help é --top 0 --with-values --diff --depth --format csv --restart --config
--family timm --steps * --factor nan --budget --brief --html out.html samples/a.png a.json"""
POOL = (*" ".join(COMMANDS).split(), *OPTIONS.split(), "", "\udcff", "\x1b[2J")


def command_line(of, rng):
    place = of.fresh()
    (place / "samples").mkdir()
    for name in ("samples/a.png", "samples/b.png", "folders/a/x.png", "folders/b/x.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(of.pictures[0])
    for name, source in (("converted.safetensors", "converted"), ("mapped.npz", "mapped.npz")):
        shutil.copy(of.folder / source, place / name)
    shutil.copytree(DATA / "classifier", place / "model")
    shutil.copytree(of.folder / "golden", place / "golden")
    (place / "map.json").write_text(json.dumps(of.map))
    words = m.change_words(rng, rng.choice(COMMANDS).split(" "), POOL)
    if "dump.npz" in words:
        np.savez(place / "dump.npz", **{name: array for name, array in of.dump.items() if rng.random() < 0.8})
    if "bench" in words:  # which takes its time
        words.remove("bench")

    def run():
        offline = mock.patch.dict(os.environ, HF_HUB_OFFLINE="1")  # a misspelt file may look like a name of the hub
        with contextlib.chdir(place), offline, quiet() as (_, err):
            try:
                status = main(words)
            except SystemExit as stop:
                status = stop.code
        said = err.getvalue()
        if status not in (0, 1, 2, 3, 130) or "(a bug" in said or ("Traceback" in said and "--debug" not in words):
            raise AssertionError(f"status {status} of {words}: {said[-500:]}")

    return run


@contextlib.contextmanager
def quiet():
    """What is written to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


TARGETS = {
    target.__name__: target
    for target in (
        safetensors, converted, npz, npy, torch, legacy, folder, preprocessor, mapped, index, golden, dump, journal, images,
        command_line,
    )
}  # fmt: skip
