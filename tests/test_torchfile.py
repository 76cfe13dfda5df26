"""PyTorch checkpoints without torch: what torch saved is read, and nothing in them is run."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

import numpy_vit
from numpy_vit.cli import main
from numpy_vit.convert.torchfile import first, read_torch
from numpy_vit.files.tensorfile import read

from conftest import DATA, calls_within, relative_error


class Storage:
    """Pickled as torch pickles a storage: by a persistent id."""

    def __init__(self, kind, key, count):
        self.pid = ("storage", kind, key, "cpu", count)


class Global:
    """Pickled as a global of this name."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class TorchPickler(pickle._Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None

    def save_global_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    dispatch = pickle._Pickler.dispatch | {Global: save_global_name}


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


def save_call(pickler, value):
    pickler.save(value.function)
    pickler.save(value.arguments)
    pickler.write(pickle.REDUCE)


class Built:
    """An object that is made, and then given a state."""

    def __init__(self, made, state):
        self.made, self.state = made, state


def save_built(pickler, value):
    pickler.save(value.made)
    pickler.save(value.state)
    pickler.write(pickle.BUILD)


TorchPickler.dispatch[Call] = save_call
TorchPickler.dispatch[Built] = save_built
FLOAT = Global("torch", "FloatStorage")


def tensor(key, count, size, stride, offset=0, kind=FLOAT):
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, Storage(kind, key, count), offset, size, stride, False, None)


def checkpoint(path, state, storages, compression=zipfile.ZIP_STORED, protocol=2):
    data = io.BytesIO()
    TorchPickler(data, protocol).dump(state)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data.getvalue())
        archive.writestr("archive/version", "3\n")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def test_views_of_storages(tmp_path):
    x = np.arange(12, dtype="<f4")
    state = {
        "whole": tensor("0", 12, (3, 4), (4, 1)),
        "model": {"transposed": tensor("0", 12, (4, 3), (1, 4)), "row": tensor("0", 12, (4,), (1,), 8)},
        "half": tensor("1", 2, (2,), (1,), kind=Global("torch", "BFloat16Storage")),
        "steps": tensor("2", 1, (), (), kind=Global("torch", "LongStorage")),
        "epoch": 7,
    }
    bits = np.array([0x3F80, 0x4000], "<u2").tobytes()
    path = checkpoint(tmp_path / "a.pth", state, {"0": x.tobytes(), "1": bits, "2": struct.pack("<q", 5)})
    found = read_torch(path)
    assert list(found) == ["whole", "model.transposed", "model.row", "half", "steps"]
    assert np.array_equal(found["whole"].data, x.reshape(3, 4)) and np.array_equal(
        found["model.transposed"].data, x.reshape(3, 4).T
    )
    assert np.array_equal(found["model.row"].data, x[8:]) and found["half"].to_float("float32").tolist() == [1, 2]
    assert found["steps"].dtype == "I64" and found["steps"].data == 5


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_code_in_a_pickle_is_refused_by_name_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for state, name in (
        ({"a": Evil()}, f"{os.name}.system"),
        ({"a": Call(Global("builtins", "eval"), "open('executed', 'w')")}, "builtins.eval"),
        ({"a": Call(Global("subprocess", "Popen"), "touch executed")}, "subprocess.Popen"),
        ({"a": Call(Global("torch", "load"), "x")}, "torch.load"),
    ):
        path = checkpoint(tmp_path / "evil.pth", state, {})
        with pytest.raises(numpy_vit.InputError, match=rf"evil.pth: its pickle wants {name}"):
            read_torch(path)
    assert os.listdir(tmp_path) == ["evil.pth"]


WRONG = {
    "beyond the storage": tensor("0", 12, (4, 4), (4, 1)),
    "a stride of terabytes": tensor("0", 12, (2, 2), (2**50, 1)),
    "a size of terabytes": tensor("0", 12, (2**40,), (0,)),
    "a negative offset": tensor("0", 12, (2,), (1,), -4),
    "a negative size": tensor("0", 12, (-1,), (1,)),
    "no storage": Call(Global("torch._utils", "_rebuild_tensor_v2"), "0", 0, (1,), (1,)),
    "a storage that is missing": tensor("9", 12, (1,), (1,)),
    "text for a size": tensor("0", 12, ("a",), (1,)),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_lie(tmp_path, name):
    path = checkpoint(tmp_path / "a.pth", {"a": WRONG[name]}, {"0": np.arange(12, dtype="<f4").tobytes()})
    with pytest.raises(numpy_vit.InputError, match=r"a\.pth: "):
        read_torch(path)


def test_files_that_are_no_checkpoints(tmp_path):
    good = checkpoint(tmp_path / "good.pth", {"a": tensor("0", 3, (3,), (1,))}, {"0": np.zeros(3, "<f4").tobytes()})
    content = good.read_bytes()
    bomb = checkpoint(tmp_path / "bomb.pth", {"a": tensor("0", 3, (3,), (1,))}, {"0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 100_000
    with zipfile.ZipFile(tmp_path / "big.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(70_000_000))
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    for name, data, message in (
        ("cut", content[:-30], "cannot be read"),
        ("short", content[:10], "cannot be read"),
        ("plain", pickle.dumps({"a": 1}), "is not a PyTorch checkpoint"),
        ("nothing", b"", "is not a PyTorch checkpoint"),
    ):
        (tmp_path / f"{name}.pth").write_bytes(data)
        with pytest.raises(numpy_vit.InputError, match=f"{name}.pth: .*{message}"):
            read_torch(tmp_path / f"{name}.pth")
    for name, message in (
        ("bomb", "missing or compressed"),
        ("big", "claims to hold 70,000,000"),
        ("other", "without a data.pkl"),
    ):
        with pytest.raises(numpy_vit.InputError, match=f"{name}.pth: .*{message}"):
            read_torch(tmp_path / f"{name}.pth")
    checkpoint(tmp_path / "empty.pth", {"epoch": 3}, {})
    with pytest.raises(numpy_vit.InputError, match="has no tensors"):
        read_torch(tmp_path / "empty.pth")


EXTRAS = {
    "a counter": Call(Global("collections", "Counter"), {3: 1}),
    "a dtype": Global("torch", "float16"),
    "a device": Call(Global("torch", "device"), "cuda", 0),
    "options": Call(Global("argparse", "Namespace")),
    "bytes": b"abc",
    "a byte array": bytearray(b"abc"),
    "a set": {1, 2},
    "a frozen set": frozenset({1}),
    "a path": Call(Global("pathlib", "PosixPath"), "a", "b"),
    "a complex number": 1j,
    "a long number": 2**80,
    "a tuple for a key": {(0, "a"): 1},
    "nothing": None,
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", EXTRAS)
def test_what_lies_beside_the_weights(tmp_path, name, protocol):
    """What torch.load(weights_only=True) takes, and training programs' options, are taken, and left out."""
    state = {"w": tensor("0", 3, (3,), (1,)), "extra": EXTRAS[name], "lightning": [EXTRAS[name]]}
    path = checkpoint(tmp_path / "a.pth", state, {"0": np.arange(3, dtype="<f4").tobytes()}, protocol=protocol)
    found = read_torch(path)
    assert list(found) == ["w"] and found["w"].data.tolist() == [0, 1, 2]


def pickled(*opcodes):
    return b"\x80\x02" + b"".join(opcodes) + b"."


def nested_tuples(depth):
    return b"K\x01" + b"2\x86" * depth  # DUP, TUPLE2: each holds the one before twice


ATTACKS = {
    "a place in the memo for which a list of gigabytes is made": (pickled(b"}", b"r\xff\xff\xff\x0f"), "has no tensors"),
    "a key that takes for ever to hash": (pickled(b"}", nested_tuples(100), b"K\x01s"), "keys that are neither"),
    "a storage's key likewise": (pickled(nested_tuples(100), b"Q"), "not that of a storage"),
    "attributes of our functions": (
        pickled(b"ctorch._utils\n_rebuild_parameter\nN}X\x0c\0\0\0__defaults__K\x01\x85s\x86b"),
        "changes torch._utils._rebuild_parameter, which is no data",
    ),
    "a number of gigabytes": (pickled(b"\x8b\xff\xff\xff\x7f"), "a whole number of"),
    "a text of gigabytes": (pickled(b"X\xff\xff\xff\xff"), "is cut"),
    "a text of a negative length": (pickled(b"T\xff\xff\xff\xff"), "is cut"),
    "what is not there": (pickled(b"s"), "takes what is not there"),
    "what was there before a mark": (pickled(b"}(K\x01s"), "takes what is not there"),
    "never an end": (b"\x80\x02" + b"}" * 100, "is cut"),
    "too many of everything": (b"\x80\x02" + b"}" * 2_000_001, "more than 2,000,000 opcodes"),
    "an instance": (pickled(b"(ios\nsystem\n"), r"opcode b'i' at byte 3"),
    "a registered extension": (pickled(b"\x82\x01"), "the opcode"),
    "dicts without end": (pickled(b"}q\0X\x01\0\0\0ah\0s"), "nested more than 50 deep"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_opcodes_are_looked_at_before_they_are_done(tmp_path, name):
    data, message = ATTACKS[name]
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", data)
    defaults = first.__defaults__
    with pytest.raises(numpy_vit.InputError, match=rf"a\.pth: .*{message}"):
        read_torch(tmp_path / "a.pth")
    assert first.__defaults__ is defaults


@pytest.mark.parametrize("name", ["hash", "pid", "laughs", "laughs2", "memo", "dicts", "pollute"])
def test_malicious_files(foreign, name):
    """Files that made other readers hang, or take all memory: refused after a few steps."""

    def refused():
        with pytest.raises(numpy_vit.InputError, match=rf"{name}\.pth: "):
            read_torch(foreign / "malice" / f"{name}.pth")

    assert calls_within(refused) < 50_000


def legacy(path, state, storages, little=True):
    """As torch wrote before 1.6: `storages` are key -> (count, bytes)."""
    with open(path, "wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little, "protocol_version": 1001}, state, list(storages)):
            TorchPickler(file, 2).dump(part)
        for count, content in storages.values():
            file.write(struct.pack("<q", count) + content)
    return path


def test_legacy_files(tmp_path):
    state = {"model": {"w": tensor("7", 6, (2, 3), (3, 1)), "t": tensor("7", 6, (3, 2), (1, 3))}, "epoch": 3}
    state["h"] = tensor("8", 2, (2,), (1,), kind=Global("torch", "HalfStorage"))
    storages = {"7": (6, np.arange(6, dtype="<f4").tobytes()), "8": (2, np.ones(2, "<f2").tobytes())}
    found = read_torch(legacy(tmp_path / "a.pth", state, storages))
    assert list(found) == ["model.w", "model.t", "h"] and found["h"].dtype == "F16"
    assert found["model.w"].data.tolist() == [[0, 1, 2], [3, 4, 5]] and found["model.t"].data[2].tolist() == [2, 5]
    whole = (tmp_path / "a.pth").read_bytes()
    wrong = {
        "is cut": whole[:-1],
        "big-endian": legacy(tmp_path / "b.pth", state, storages, little=False).read_bytes(),
        "not that of its tensors": legacy(tmp_path / "b.pth", state, {"7": storages["7"]}).read_bytes(),
        "storage '7' is cut": legacy(tmp_path / "b.pth", state, {"7": (2**60, b""), "8": storages["8"]}).read_bytes(),
        "its pickle": whole[:100],
    }
    for message, content in wrong.items():
        (tmp_path / "b.pth").write_bytes(content)
        with pytest.raises(numpy_vit.InputError, match=rf"b\.pth: .*{message}"):
            read_torch(tmp_path / "b.pth")


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_extras_and_legacy_files_as_torch_saves_them(tmp_path):
    import argparse
    import collections
    import pathlib

    import torch

    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": net.state_dict(), "optimizer": optimizer.state_dict(), "args": argparse.Namespace(path=pathlib.Path("a")),
        "counter": collections.Counter("ab"), "device": torch.device("cuda:0"), "dtype": torch.bfloat16, "set": {1, 2},
        "bytes": b"ab", "size": torch.Size([1, 2]), "default": collections.defaultdict(list), "number": np.float64(0.5),
        "array": np.ones(3), "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "sparse": torch.eye(2).to_sparse(), "complex": torch.ones(2, dtype=torch.complex64), "range": slice(1, 2),
        "layout": torch.strided, "random": torch.get_rng_state(), "unsigned": torch.ones(2, dtype=torch.uint16),
    }  # fmt: skip
    for new in (True, False):
        for protocol in (2, 4) if new else (2,):
            path = tmp_path / f"{new}{protocol}.pth"
            torch.save(state, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
            found = read_torch(path)
            for name, value in net.state_dict().items():
                assert np.array_equal(found[f"model.{name}"].data, value.numpy()), (name, path)
            assert np.array_equal(found["random"].data, state["random"].numpy()) and found["complex"].dtype == "C64"
            assert np.array_equal(found["optimizer.state.0.exp_avg"].data, optimizer.state_dict()["state"][0]["exp_avg"])


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_what_torch_saves(tmp_path):
    """Every dtype, shared and strided storages, parameters, nested dicts: as torch.load gives them."""
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 5)
    state = {
        "plain": torch.randn(2, 3),
        "strided": base.T,
        "slice": base[2:4, 1:],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(4)),
        "nested": {
            "double": torch.randn(3, dtype=torch.float64),
            "half": torch.randn(3).half(),
            "bf16": torch.randn(9).bfloat16(),
        },
        "ints": torch.arange(4),
        "flags": torch.tensor([True, False]),
        "epoch": 3,
    }
    torch.save(state, tmp_path / "a.pth")
    found = read_torch(tmp_path / "a.pth")
    flat = {**{k: v for k, v in state.items() if torch.is_tensor(v)}, **{f"nested.{k}": v for k, v in state["nested"].items()}}
    assert found.keys() == flat.keys()
    for name, value in flat.items():
        ours = found[name]
        numbers = ours.to_float(np.float64) if ours.dtype in ("F64", "F32", "F16", "BF16") else ours.data
        assert np.array_equal(numbers, value.detach().double().numpy()) and numbers.shape == tuple(value.shape), name


def hugging_face_folder(tmp_path):
    """The stored transformers model with its weights as torch would save them."""
    stored, _ = read(DATA / "classifier" / "model.safetensors")
    (tmp_path / "config.json").write_bytes((DATA / "classifier" / "config.json").read_bytes())
    state, storages = {}, {}
    for name, array in stored.items():
        data = array.to_float("float32")
        strides = tuple(step // data.itemsize for step in data.strides)
        state[name] = tensor(name, data.size, data.shape, strides)
        storages[name] = data.tobytes()
    checkpoint(tmp_path / "pytorch_model.bin", state, storages)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*preprocessor_config")
def test_a_folder_with_pytorch_model_bin(tmp_path, capsys):
    """The same model, number for number, as from safetensors; and through `convert`."""
    folder = hugging_face_folder(tmp_path)
    pixels = np.load(DATA / "classifier.npz")["pixels"]
    expected = numpy_vit.load(DATA / "classifier", dtype="float64")(pixels).logits
    assert relative_error(numpy_vit.load(folder, dtype="float64")(pixels).logits, expected) < 1e-14
    assert main(["convert", str(folder), "-o", str(tmp_path / "c.safetensors")]) == 0
    out = numpy_vit.load(tmp_path / "c.safetensors", dtype="portable")(pixels).logits
    assert np.array_equal(out, numpy_vit.load(DATA / "classifier", dtype="portable")(pixels).logits)
    capsys.readouterr()
    (folder / "pytorch_model.bin").write_bytes(b"PK" + bytes(100))
    assert main(["convert", str(folder), "-o", str(tmp_path / "d.safetensors")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "d.safetensors").exists()


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives(tmp_path):
    """As OpenAI publishes CLIP: the parameters are read, the code beside them is not."""
    import torch

    class Visual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 8, 4, 4, bias=False)
            self.proj = torch.nn.Parameter(torch.randn(8, 5))
            self.blocks = torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, 8))

        def forward(self, x):
            return self.blocks(self.conv1(x).flatten(2).mean(-1)) @ self.proj

    model = Visual().half()
    torch.jit.trace(model.float(), torch.randn(1, 3, 8, 8)).save(str(tmp_path / "m.pt"))
    found = read_torch(tmp_path / "m.pt")
    state = model.state_dict()
    assert set(found) == set(state)
    for name, tensor in state.items():
        assert np.array_equal(found[name].data, tensor.numpy()), name
