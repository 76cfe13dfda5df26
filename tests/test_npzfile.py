"""NumPy archives: every kind of array that checkpoints hold, and files that would do harm."""

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from numpy_vit import InputError
from numpy_vit.files.arrays import read_npy, read_npz


def npy(array=None, header=None, data=b""):
    """The bytes of an .npy file; with a header of one's own, a lying one."""
    if header is None:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, allow_pickle=True)
        return buffer.getvalue()
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_every_kind_of_number(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a/b/kernel": rng.normal(size=(3, 4)).astype("f4"),
        "double": rng.normal(size=5),
        "half": rng.normal(size=(2, 2)).astype("f2"),
        "fortran": np.asfortranarray(rng.normal(size=(3, 5)).astype("f4")),
        "step": np.int64(7),
        "empty": np.zeros((0, 3), "f4"),
        "complex": np.ones(2, "c8"),
        "the other end first": rng.normal(size=(2, 3)).astype(">f4"),
        "flags": np.array([True, False]),
        "unsigned": np.arange(3, dtype="u4"),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays, text=np.array("hello"), objects=np.array([{}], object))
        found = read_npz(tmp_path / "x.npz")
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            assert found[name].shape == array.shape and np.array_equal(found[name].data, array), name


def test_raw_bfloat16_as_jax_saves_it(tmp_path):
    bits = np.array([[0x3F80, 0xC000], [0x4049, 0x0001]], "<u2")
    np.savez(tmp_path / "x.npz", w=bits.view("V2"))
    tensor = read_npz(tmp_path / "x.npz")["w"]
    assert tensor.dtype == "BF16" and tensor.to_float(np.float32)[0].tolist() == [1.0, -2.0]


def test_stored_arrays_are_views_of_the_file(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones((100, 100), "f4"))
    data = read_npz(tmp_path / "x.npz")["w"].data
    while isinstance(data.base, np.ndarray):
        data = data.base
    assert not isinstance(data, np.ndarray) or not data.flags.owndata


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/numpy_vit_was_here",)


def objects(path):
    return archive(path, {"w.npy": npy(np.array([Bomb()], object))})


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s}"
HARM = {
    "objects": (objects, "holds Python objects, which are not unpickled"),
    "a pickle for an array": (lambda p: archive(p, {"w.npy": pickle.dumps(Bomb())}), "cannot be read"),
    "terabytes claimed": (
        lambda p: archive(p, {"w.npy": npy(None, HEADER % ("<f4", "(1000000, 1000000)"))}),
        "claims 1,000,000,000",
    ),
    "more than an address": (lambda p: archive(p, {"w.npy": npy(None, HEADER % ("<f4", "(9" + "0" * 40 + ",)"))}), "claims"),
    "negative": (lambda p: archive(p, {"w.npy": npy(None, HEADER % ("<f4", "(-1,)"), b"1234")}), "no possible shape"),
    "code in the header": (lambda p: archive(p, {"w.npy": npy(None, "__import__('os').system('id')")}), "cannot be read"),
    "a name that climbs": (lambda p: archive(p, {"../../w.npy": npy(np.ones(3))}), "points outside"),
    "an absolute name": (lambda p: archive(p, {"/etc/w.npy": npy(np.ones(3))}), "points outside"),
    "no zip": (lambda p: p.write_bytes(b"x" * 100) and p, "cannot be read"),
    "nothing": (lambda p: p.write_bytes(b"") or p, "cannot be read"),
    "texts alone": (lambda p: archive(p, {"w.npy": npy(np.array("x"))}), "has no arrays of numbers"),
    "of no size": (lambda p: archive(p, {"w.npy": npy(None, HEADER % ("|S0", "(-1,)"))}), "of type .S0, which is no number"),
    "times": (lambda p: archive(p, {"w.npy": npy(np.zeros(2, "M8[s]"))}), "which is no number"),
    "an endless header": (lambda p: archive(p, {"w.npy": npy(None, " " * 60_000)}), "cannot be read"),
}


@pytest.mark.parametrize("harm", HARM)
def test_harmful_files_are_refused_in_one_line(harm, tmp_path):
    make, message = HARM[harm]
    with pytest.raises(InputError, match=message) as error:
        read_npz(make(tmp_path / "x.npz"))
    assert "\n" not in str(error.value) and "x.npz" in str(error.value)
    assert not os.path.exists("/tmp/numpy_vit_was_here")


@pytest.mark.parametrize("suffix", ["npz", "pth"])
@pytest.mark.slow
def test_a_zip_bomb_costs_no_memory_and_writes_nothing(tmp_path, suffix):
    """20 MB that would be 20 GB: refused with less than half a gigabyte of address space to spare."""
    bomb = tmp_path / f"bomb.{suffix}"
    zeros = npy(np.zeros(1 << 28, "u1"))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        for n in range(3):
            with file.open(f"w{n}.npy" if suffix == "npz" else f"m/{'data.pkl' if n == 0 else f'data/{n}'}", "w") as member:
                member.write(zeros)

    def little_memory():
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = subprocess.run(
        [sys.executable, "-m", "numpy_vit", "convert", bomb, "-o", tmp_path / "out.safetensors"],
        capture_output=True,
        text=True,
        preexec_fn=little_memory,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "claims" in done.stderr
    assert os.listdir(tmp_path) == [bomb.name]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.slow
def test_conversion_holds_the_model_once(tmp_path, save):
    """The peak of a conversion, less that of one of almost nothing, is less than 1.3 times the file."""
    rng = np.random.default_rng(0)
    peaks = []
    for width in (8, 2048):
        arrays = {f"{n}.{part}.w": rng.normal(size=(width, width)).astype("f2") for n in "01" for part in "qkvomn"}
        arrays |= {f"{n}.{i}.{e}": np.ones(width, "f2") for n in "01" for i in "ab" for e in "gb"}
        arrays |= {"p.w": np.ones((48, width), "f2"), "p.b": np.ones(width, "f2"), "pos": np.ones((4, width), "f2")}
        arrays |= {"c": np.ones(width, "f2")}
        save(tmp_path / "m.npz", **arrays)
        names = {"attention.query": "q", "attention.key": "k", "attention.value": "v", "attention.output": "o"}
        tensors = {
            f"blocks.{{n}}.{ours}.weight": f"{{n}}.{part}.w"
            for ours, part in {**names, "mlp.hidden": "m", "mlp.output": "n"}.items()
        }
        tensors |= {
            f"blocks.{{n}}.norm{i}.{end}": f"{{n}}.{a}.{end[0] if end == 'bias' else 'g'}"
            for i, a in ((1, "a"), (2, "b"))
            for end in ("weight", "bias")
        }
        tensors |= {
            "embed.projection.weight": "p.w",
            "embed.projection.bias": "p.b",
            "embed.positions": "pos",
            "embed.class_token": "c",
        }
        config = dict(
            image=[4, 12], patch=4, channels=3, heads=2, eps=1e-6, activation="relu", pooling="class", position_rule="bicubic"
        )
        (tmp_path / "map.json").write_text(
            json.dumps({"layout": "in out", "norm_first": True, "config": config, "tensors": tensors})
        )
        command = ["convert", tmp_path / "m.npz", "--map", tmp_path / "map.json", "-o", tmp_path / "out.safetensors"]
        code = (
            "import resource, sys; from numpy_vit.cli import main; s = main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(s)"
        )
        done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(1024 * int(done.stdout))
    assert peaks[1] - peaks[0] < 1.3 * (tmp_path / "m.npz").stat().st_size


def test_an_array_of_its_own(tmp_path):
    """.npy files: views of the file, in C's and in Fortran's order."""
    for name, array in {"c": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3))}.items():
        np.save(tmp_path / f"{name}.npy", array)
        found = read_npy(tmp_path / f"{name}.npy")
        assert found.dtype == "F64" and np.array_equal(found.data, array) and not found.data.flags.owndata


def test_an_array_of_no_item_size_is_refused(foreign):
    """np.load(..., mmap_mode="r") divides by it: the process dies of SIGFPE."""
    with pytest.raises(InputError, match=r"zero_itemsize.npy: is of type .S0, which is no number"):
        read_npy(foreign / "malice" / "zero_itemsize.npy")
