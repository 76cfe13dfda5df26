"""Weights files: what is written is read back, and whatever is wrong with a file is said in one line."""

import json
import os
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.convert.to_hugging_face import write_hugging_face
from numpy_vit.files.converted import Checkpoint, read_converted, shipped, write_converted
from numpy_vit.files.tensorfile import Tensor, read, replacing, tensor_of, write

import ml_bits
from conftest import DATA, REPOSITORY, crooked_config, crooked_pixels


def checkpoint(**changes):
    model = numpy_vit.random_model(crooked_config(), seed=1)
    tensors = {name: tensor_of(array) for name, array in model.tensors.items()}
    labels = [f"class {n}" for n in range(7)]
    return Checkpoint(**{**dict(config=model.config, tensors=tensors, preprocess=None, labels=labels, source={}), **changes})


def test_round_trip(tmp_path):
    converted = convert(DATA / "classifier")
    write_converted(tmp_path / "a.safetensors", converted)
    back = read_converted(tmp_path / "a.safetensors")
    assert (back.config, back.preprocess, back.labels) == (converted.config, converted.preprocess, converted.labels)
    assert back.source == converted.source
    assert back.source["family"] == "hf-vit" and len(back.source["files"]["model.safetensors"]) == 64
    for name, tensor in converted.tensors.items():
        assert np.array_equal(tensor.data, back.tensors[name].data)
    # The safetensors library reads it too.
    library = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert np.array_equal(library["blocks.1.mlp.hidden.weight"], converted.tensors["blocks.1.mlp.hidden.weight"].data)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in "ab":
        write_converted(tmp_path / f"{name}.safetensors", convert(DATA / "classifier"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_float32_weights_stay_in_the_memory_map(tmp_path):
    write_converted(tmp_path / "a.safetensors", checkpoint())
    read = read_converted(tmp_path / "a.safetensors")
    model = read.model()
    assert all(np.shares_memory(array, read.tensors[name].data) for name, array in model.tensors.items())
    assert not any(array.flags.owndata or array.flags.writeable for array in model.tensors.values())
    assert numpy_vit.load(tmp_path / "a.safetensors", dtype="float64").dtype == np.float64


SAME_BITS = """
import sys
import numpy as np
import numpy_vit

one, other = (numpy_vit.load(source, dtype=sys.argv[3]) for source in sys.argv[1:3])
transposed = {name: np.asfortranarray(array) for name, array in one.tensors.items()}
pixels = one.preprocess(sys.argv[4:])
for batch in (1, 2, len(pixels)):  # a product with one row is another of the BLAS's functions
    expected = one(pixels[:batch], record=True)
    for model in (other, numpy_vit.ViT(one.config, transposed)):
        out = model(pixels[:batch], record=True)
        wrong = [name for name, array in expected.steps.items() if not np.array_equal(array, out.steps[name])]
        assert not wrong, (batch, wrong)
        for name in ("pooled", "logits"):
            assert np.array_equal(getattr(model(pixels[:batch]), name), getattr(one(pixels[:batch]), name)), (batch, name)
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["", "Haswell", "SkylakeX", "Nehalem"])
def test_one_model_gives_the_same_bits_from_every_container(kernel, dtype, tmp_path):
    converted = shipped("digits.safetensors")
    write_hugging_face(tmp_path / "hf", read_converted(converted))  # weights (out, in): read as transposed views
    pictures = sorted(shipped("samples").glob("*/*.png"))
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_CORETYPE": kernel} if kernel else {}
    command = [sys.executable, "-c", SAME_BITS, converted, tmp_path / "hf", dtype, *pictures]
    done = subprocess.run([*map(str, command)], env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode == -signal.SIGILL:
        pytest.skip(f"this CPU has not the instructions of {kernel}")
    assert done.returncode == 0, done.stderr


def test_narrow_floats_are_read_exactly(tmp_path):
    """bfloat16 and float16, every bit pattern, against the widening done by hand."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    tensors = {"bf16": Tensor("BF16", bits), "f16": Tensor("F16", bits.view(np.float16))}
    write(tmp_path / "a.safetensors", tensors, {})
    back, _ = read(tmp_path / "a.safetensors")
    for name, widen in (("bf16", ml_bits.bfloat16), ("f16", ml_bits.float16)):
        values = back[name].to_float(np.float32)
        expected = np.array([widen(int(b)) for b in bits])
        with np.errstate(invalid="ignore"):  # signalling NaNs
            assert np.array_equal(values.astype(np.float64), expected, equal_nan=True), name


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_a_model_in_another_dtype(tmp_path, dtype):
    def stored(array):
        if dtype == "BF16":
            return Tensor("BF16", (array.view(np.uint32) >> 16).astype(np.uint16))
        return Tensor(dtype, array.astype({"F16": np.float16, "F64": np.float64}[dtype]))

    plain = checkpoint()
    narrow = checkpoint(tensors={name: stored(tensor.data) for name, tensor in plain.tensors.items()})
    write_converted(tmp_path / "a.safetensors", narrow)
    model = numpy_vit.load(tmp_path / "a.safetensors")
    assert model.dtype == np.float32
    pixels = crooked_pixels(model.config)
    reference = plain.model()(pixels).logits
    assert np.max(np.abs(model(pixels).logits - reference)) / np.max(np.abs(reference)) < 0.03


def rewrite(path, change):
    """Change the header of a safetensors file as a damaged or dishonest writer might."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    body = raw[8 + length :]
    header, body = change(header, body) or (header, body)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def header_lies():
    def offsets(header, body):
        header["norm.bias"]["data_offsets"][1] += 4

    def shape(header, body):
        header["norm.bias"]["shape"] = [3, 5, 7]

    def terabytes(header, body):
        header["norm.bias"] = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}

    def dtype(header, body):
        header["norm.bias"]["dtype"] = "F99"

    def overlap(header, body):
        header["norm.bias"]["data_offsets"] = header["norm.weight"]["data_offsets"]

    return {f.__name__: f for f in (offsets, shape, terabytes, dtype, overlap)}


@pytest.mark.parametrize("lie", header_lies())
def test_a_lying_header(tmp_path, lie):
    path = tmp_path / "a.safetensors"
    write_converted(path, checkpoint())
    rewrite(path, header_lies()[lie])
    with pytest.raises(InputError, match=r"a\.safetensors: not a valid safetensors file") as error:
        numpy_vit.load(path)
    assert "\n" not in str(error.value)


def damaged_files(path):
    whole = path.read_bytes()
    return {
        "cut": whole[:-1],
        "cut in the header": whole[:100],
        "eight bytes": whole[:8],
        "empty": b"",
        "a huge header": struct.pack("<Q", 1 << 60) + whole[8:],
        "no JSON": whole[:8] + b"x" * 50 + whole[58:],
        "text": b"hello, this is a text\n",
        "extra bytes": whole + b"\0" * 8,
    }


def test_damaged_files(tmp_path):
    path = tmp_path / "a.safetensors"
    write_converted(path, checkpoint())
    for name, content in damaged_files(path).items():
        (tmp_path / "b.safetensors").write_bytes(content)
        message = r"b\.safetensors: (not a valid safetensors file|is empty)"
        with pytest.raises(InputError, match=message):
            print(name, numpy_vit.load(tmp_path / "b.safetensors"))


def write_raw(path, tensors, metadata):
    write(path, tensors, metadata)
    return path


def metadata_of(one):
    import dataclasses

    values = {"config": dataclasses.asdict(one.config), "preprocess": None, "labels": one.labels, "source": {}}
    return {"format": "numpy-vit", "version": "1", **{k: json.dumps(v) for k, v in values.items()}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("norm.bias"), "tensor 'norm.bias' is missing"),
        (
            lambda t, m: t.update({"nrom.bias": t["norm.bias"]}),
            "'nrom.bias' is not used by this model; did you mean 'norm.bias'",
        ),
        (lambda t, m: t.update({"norm.bias": tensor_of(np.ones(16, np.float32))}), r"is \(16,\), the config says \(15,\)"),
        (lambda t, m: t.update({"norm.bias": tensor_of(np.full(15, np.nan, np.float32))}), "has NaN or infinite"),
        (lambda t, m: t.update({"norm.bias": tensor_of(np.full(15, -np.inf))}), "has NaN or infinite"),
        (lambda t, m: t.update({"norm.bias": Tensor("BF16", np.full(15, 0x7FC0, np.uint16))}), "has NaN or infinite"),
        (lambda t, m: m.update(version="2"), "file version '2'"),
        (lambda t, m: m.pop("config"), "the metadata has no 'config'"),
        (lambda t, m: m.update(config="{"), "the metadata's config: not valid JSON"),
        (lambda t, m: m.update(config="[]"), "the metadata's config: a JSON object is expected, not list"),
        (lambda t, m: m.update(source='{"a": 1, "a": 2}'), "the metadata's source: .*'a' is there twice"),
        (lambda t, m: m.update(labels='["\\ud800"]'), "the metadata's labels: .* no Unicode"),
        (lambda t, m: m.update(config=m["config"].replace("1e-06", "9" * 400)), "the metadata's config: .* of 400 digits"),
        (lambda t, m: t.update({"norm.bias": Tensor("F64", np.zeros((), np.float64))}), r"is \(\), the config says \(15,\)"),
        (lambda t, m: m.update(config=m["config"].replace('"heads": 5', '"heads": 4')), "4 heads do not divide"),
        (lambda t, m: m.update(config=m["config"].replace('"depth": 3', '"depth": 4')), "blocks.3.norm1.weight' is missing"),
        (lambda t, m: m.update(labels='["a"]'), "1 labels for 7 classes"),
        (lambda t, m: m.update(labels="[1]"), "labels must be a list of names"),
        (lambda t, m: m.update(preprocess='{"channels": 3}'), "preprocess: missing resize"),
        (lambda t, m: m.update(preprocess="3"), "preprocess: a JSON object or null is expected, not 3"),
    ],
)
def test_converted_files_that_are_wrong(tmp_path, change, message):
    one = checkpoint()
    tensors, metadata = dict(one.tensors), metadata_of(one)
    read_converted(write_raw(tmp_path / "right.safetensors", tensors, metadata))
    change(tensors, metadata)
    path = write_raw(tmp_path / "a.safetensors", tensors, metadata)
    with pytest.raises(InputError, match=message) as error:
        numpy_vit.load(path)
    assert str(path) in str(error.value)


def test_a_writer_that_is_interrupted_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.safetensors"
    target.write_bytes(b"old")
    for failure in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(failure), replacing(target) as file:
            file.write(b"half")
            raise failure
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_wrong_model_is_not_written(tmp_path):
    broken = checkpoint(labels=["one"])
    with pytest.raises(InputError, match="1 labels for 7 classes"):
        write_converted(tmp_path / "a.safetensors", broken)
    assert os.listdir(tmp_path) == []


def test_unwritable_targets(tmp_path):
    for target, message in (
        (tmp_path / "absent" / "a.safetensors", "cannot be written .No such file"),
        (tmp_path, "it is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            write_converted(target, checkpoint())


def test_seeded_weights_are_the_documented_generator():
    """SplitMix64 as published, number by number in Python integers."""
    from numpy_vit.models import seeded

    mask = (1 << 64) - 1

    def mix(z):
        z = (z + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF  # the published first output of SplitMix64 with seed 0
    start = seeded.key(5, "norm.weight")
    naive = [((mix((start + i * 0x9E3779B97F4A7C15) & mask) >> 43) - (1 << 20)) * 2.0**-20 for i in range(70_000)]
    assert np.array_equal(seeded.uniform(5, "norm.weight", (70_000,), "float64"), naive)
    assert np.array_equal(seeded.uniform(5, "norm.weight", (70_000,)), naive)
    a, b = (numpy_vit.random_model(crooked_config(), seed=seed) for seed in (0, 1))
    assert not np.array_equal(a.tensors["norm.weight"], b.tensors["norm.weight"])
    assert np.array_equal(numpy_vit.random_model(crooked_config()).tensors["head.bias"], a.tensors["head.bias"])
