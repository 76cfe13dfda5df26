"""Whatever comes from outside has a type, a bound and an end: JSON, names, pipes, goldens, journals, pictures."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import hub
from numpy_vit.convert.sources import read_weights
from numpy_vit.errors import printable
from numpy_vit.files.arrays import read_npz
from numpy_vit.files.converted import read_converted, write_converted
from numpy_vit.files.jsonfile import json_text, parse_json, read_json, without_doubles
from numpy_vit.files.tensorfile import Tensor, read, replacing, write
from numpy_vit.golden.folder import manifest_sha256, read_arrays, read_golden

from conftest import DATA, REPOSITORY, calls_within

CLASSIFIER = DATA / "classifier"
TINY = ("--model", "ViT-Ti/16", "depth=1", "image=32", "width=12", "heads=3", "mlp=9", "classes=4", "--noise", "none")

# JSON

WRONG_JSON = {
    "a list": ("[1]", "a JSON object is expected, not list"),
    "nothing": ("", "not valid JSON"),
    "cut": ('{"a": ', "not valid JSON"),
    "a name twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is there twice"),
    "deep": ('{"a": ' * 70 + "1" + "}" * 70, "nested more than 64 deep"),
    "deeper than Python": ("[" * 100_000, "nested too deep"),
    "a huge number": ('{"eps": ' + "9" * 5000 + "}", "a whole number of 5000 digits"),
    "half a character": ('{"a": "\\ud800"}', "no Unicode"),
    "Latin": (b'{"a": "\xe9"}', "no Unicode"),
}


@pytest.mark.parametrize("name", WRONG_JSON)
def test_json_that_is_refused(tmp_path, name):
    text, message = WRONG_JSON[name]
    (tmp_path / "c.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=rf"c\.json: .*{message}") as error:
        read_json(tmp_path / "c.json")
    assert len(str(error.value)) < 400


def test_json_that_is_taken():
    text = '\ufeff{"a": [1, 2.5, -3, 1e300, true, null, "\\ud83d\\ude00 {[{[ \\" \\\\"], "b": {}}'
    assert parse_json(text.encode()) == {"a": [1, 2.5, -3, 1e300, True, None, '😀 {[{[ " \\'], "b": {}}
    assert parse_json('"\\udcff"', (str,), halves=True) == "\udcff"
    assert parse_json("[" * 64 + "]" * 64, (list,))


def test_json_takes_time_in_proportion_to_its_length():
    """200,000 keys, of which the last is there twice, took minutes: each was compared with all others."""
    text = "{" + ", ".join(f'"key {n}": 1' for n in range(200_000)) + ', "key 199999": 2}'
    with pytest.raises(InputError, match="'key 199999' is there twice"):
        parse_json(text)
    looks = 0

    class Key(str):
        def __hash__(self):
            nonlocal looks
            looks += 1
            return str.__hash__(self)

        def __eq__(self, other):
            nonlocal looks
            looks += 1
            return str.__eq__(self, other)

    with pytest.raises(ValueError, match="'999' is there twice"):
        without_doubles([(Key(n), n) for n in (*range(1000), 999)])
    assert looks < 10 * 1000


def test_many_tensors_are_read_in_time_in_proportion(tmp_path):
    empty = Tensor("F32", np.zeros(0, "<f4"))

    def refused(count, message="of no known family"):
        write(tmp_path / "a.safetensors", {f"tensor {n}": empty for n in range(count)}, {})
        with pytest.raises(InputError, match=message):
            numpy_vit.load(tmp_path / "a.safetensors")

    refused(60_000, "more than 50,000 tensors")
    refused(10)  # what is made at the first use
    few, many = (calls_within(lambda count=count: refused(count)) for count in (200, 800))
    assert many < 5 * few


# Messages and terminals


def test_messages_are_short_and_printable(tmp_path):
    evil = "\x1b[2J\x9b31m\u202e\n" + "x" * 100_000
    for text in (str(InputError(f"{evil}: is wrong")), str(InputError(f"a.json: {evil}: do something"))):
        assert text.isprintable() and len(text) < 1100 and "\\x1b[2J\\x9b31m\\u202e" in text
    assert str(InputError(f"a.json: {evil}: do something")).endswith("x: do something")
    (tmp_path / "config.json").write_text(json.dumps({evil: 1, "model_type": evil}))
    shutil.copy(CLASSIFIER / "model.safetensors", tmp_path)
    with pytest.raises(InputError) as error:
        numpy_vit.load(tmp_path)
    assert str(error.value).isprintable() and len(str(error.value)) < 1100
    assert printable("Größe 猫 (a)") == "Größe 猫 (a)" and printable("\udcff") == "\\udcff"


def test_json_for_terminals():
    value = {"a\x9b\u202e": ["é 猫", "\x1b", "\U000e0001"], "b": 1.5}
    text = json_text(value)
    assert all(line.isprintable() for line in text.split("\n")) and "é 猫" in text and json.loads(text) == value


def test_labels_and_names_with_control_characters(tmp_path, run):
    model = numpy_vit.random_model(numpy_vit.load().config)
    from numpy_vit.files.converted import Checkpoint
    from numpy_vit.files.tensorfile import tensor_of

    tensors = {name: tensor_of(array) for name, array in model.tensors.items()}
    labels = [f"\x9b{n}\u202e" for n in range(10)]
    source = {"name": "\udcff", "\x1b]0;title\x07": "b"}
    path = tmp_path / "a.safetensors"
    write_converted(path, Checkpoint(model.config, tensors, numpy_vit.load().preprocess_policy, labels, source))
    assert read_converted(path).labels == labels
    sample = REPOSITORY / "weights" / "samples" / "3" / "0045-0.png"
    commands = [("inspect", path), ("predict", sample, "--weights", path)]
    for words in commands:
        for options in ((), ("--json",)):
            status, out, err = run(*words, *options)
            assert status == 0 and all(line.isprintable() for line in (out + err).split("\n")), (words, out)


# Files that are something else

KINDS = {
    "model.safetensors": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "pytorch_model.bin": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "model.npz": (b"<!DOCTYPE html><html>Not found</html>", "a web page.*/resolve/"),
    "model.pth": (b"\n<HTML><body>", "a web page"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file.*numpy.savez"),
    "model.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(50), "an ONNX graph.*checkpoint it was exported from"),
    "model.pkl": (b"\x80\x04\x95" + bytes(50), "a Python pickle, which is a program and is not run"),
    "model.msgpack": (b"\x81\xa6params" + bytes(50), "Flax's msgpack"),
    "model.gguf": (b"GGUF\x03" + bytes(50), "a GGUF file"),
    "model.safetensors.gz": (gzip.compress(b"x" * 1000), "compressed with gzip"),
    "model.txt": (b"hello, world, this is a text", "only .safetensors"),
    "model.pt": (b"", "not a PyTorch checkpoint"),
}


@pytest.mark.parametrize("name", KINDS)
def test_other_files_are_named_with_the_way_out(tmp_path, name):
    content, message = KINDS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        read_weights(tmp_path / name)


def test_weights_are_told_by_their_content(tmp_path):
    """Not by their name: training programs call theirs .ckpt, .pth.tar, or nothing at all."""
    tensors, _ = read(CLASSIFIER / "model.safetensors")
    for name in ("a.bin", "a.ckpt", "a"):
        shutil.copy(CLASSIFIER / "model.safetensors", tmp_path / name)
        assert read_weights(tmp_path / name)[0].keys() == tensors.keys()
    np.savez(tmp_path / "b.npz", w=np.ones(3))
    os.rename(tmp_path / "b.npz", tmp_path / "b.pth")
    assert list(read_weights(tmp_path / "b.pth")[0]) == ["w"]


def test_a_tensor_of_another_dtype_is_no_reason_to_refuse_a_file(tmp_path):
    header = {
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "ids": {"dtype": "I64", "shape": [1, 2], "data_offsets": [8, 24]},
        "small": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [24, 26]},
    }
    text = json.dumps(header).encode()
    body = np.ones(2, "<f4").tobytes() + np.arange(2, dtype="<i8").tobytes() + b"\0\0"
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    found, _ = read(tmp_path / "a.safetensors")
    assert found["w"].data.tolist() == [1, 1] and found["ids"].data.tolist() == [[0, 1]] and found["small"].dtype == "F8_E4M3"


@pytest.mark.parametrize(
    "source, message",
    [
        ({"weight": np.ones(1000)}, "model is a dict: give a file"),
        (numpy_vit.load(), "model is a numpy_vit.ViT: give a file"),
        (None, "model is None: give a file"),
        (b"a", "model is b'a': give a file"),
        ("", "an empty name names no model"),
        ("ViT-B/16", "names a size, not weights"),
    ],
)
def test_what_names_no_weights(source, message):
    with pytest.raises(InputError, match=message) as error:
        numpy_vit.load(source)
    assert len(str(error.value)) < 200


# Pipes, links, folders


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_are_not_waited_for(tmp_path):
    (tmp_path / "model").mkdir()
    shutil.copy(CLASSIFIER / "model.safetensors", tmp_path / "model")
    os.mkfifo(tmp_path / "model" / "config.json")
    for name in ("w.safetensors", "w.pth", "w.npz", "d.npy", "d.f32", "c.json"):
        os.mkfifo(tmp_path / name)

    def refused():
        for read_it in (
            lambda: numpy_vit.load(tmp_path / "model"),
            *(lambda name=name: read_weights(tmp_path / name) for name in ("w.safetensors", "w.pth", "w.npz")),
            *(lambda name=name: read_arrays(tmp_path / name) for name in ("w.npz", "d.npy", "d.f32")),
            lambda: read_json(tmp_path / "c.json"),
        ):
            with pytest.raises(InputError, match="not a regular file"):
                read_it()
        return True

    alarm = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("waited for a pipe")))
    signal.alarm(30)
    try:
        assert refused()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, alarm)


def test_links_that_lead_back_to_themselves(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="loop: is a link that leads back to itself"):
        read_json(tmp_path / "loop")
    with (
        pytest.raises(InputError, match=r"loop: cannot be written \(it is a link that leads back"),
        replacing(tmp_path / "loop"),
    ):
        pass
    with pytest.raises(InputError, match="is a folder, a file is expected"):
        read_json(tmp_path)
    with pytest.raises(InputError, match="is no file name"):
        read_json("a\0b")
    assert os.listdir(tmp_path) == ["loop"]


def test_long_names_can_be_written(tmp_path):
    """The temporary name beside it is short, whatever the target's own."""
    path = tmp_path / ("x" * 240 + ".safetensors")
    write(path, {"w": Tensor("F32", np.ones(2, "<f4"))}, {})
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\)"):
        write(tmp_path / ("y" * 300), {}, {})


def test_an_embed_of_a_long_name_can_be_interrupted(tmp_path):
    from numpy_vit.cli.partial import folder_of

    for length in (10, 247, 248, 251):
        folder = folder_of(str(tmp_path / ("é" * (length // 2 - 2) + "x" * (length % 2) + ".npz")))
        folder.mkdir()
        assert folder.parent == tmp_path and (length > 247 or folder.name.endswith(".npz.partial"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full here")
def test_a_full_disk_is_said_of_the_target(tmp_path):
    with pytest.raises(InputError, match="^/dev/full: the disk is full"):
        write("/dev/full", {"w": Tensor("F32", np.ones(100_000, "<f4"))}, {})


def test_nobody_at_home(monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda name: name)  # what Python gives where nobody is known
    assert hub.cache_folder().parts[0] == "~"


# Archives


def test_dumps_grow_within_bounds(tmp_path):
    """3 MB that would be 2.3 GB."""
    np.savez_compressed(tmp_path / "d.npz", norm=np.zeros(10_000_000, "f8"))
    assert (tmp_path / "d.npz").stat().st_size < 100_000
    with pytest.raises(InputError, match="claims to hold"):
        read_arrays(tmp_path / "d.npz")


def test_a_member_that_is_there_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive, pytest.warns(UserWarning):
        for _ in range(2):
            archive.writestr("a.npy", b"x")
    with pytest.raises(InputError, match="has 'a.npy' twice"):
        read_npz(tmp_path / "d.npz")


def test_dumps_of_no_item_size(foreign):
    with pytest.raises(InputError, match="is of type .S0, which is no number"):
        read_arrays(foreign / "malice" / "zero_itemsize.npy")


# Goldens


@pytest.fixture
def golden(tmp_path, run):
    assert run("golden", "record", "-o", tmp_path / "g", "--steps", "logits", "--format", "npy", *TINY)[0] == 0
    return tmp_path / "g"


def tamper(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    manifest["sha256"] = manifest_sha256(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def named(*files):
    """A manifest that claims the user's own files as a golden's."""

    def change(manifest):
        manifest["steps"] = [{**manifest["steps"][0], "file": file, "name": file.removesuffix(".npy")} for file in files]

    return change


@pytest.mark.parametrize("change", [named("thesis.txt", "photos"), named("thesis.npy"), lambda m: None])
def test_a_foreign_manifest_deletes_nothing(golden, run, change):
    """`golden record -o` once believed a manifest that lay there, and removed whatever it named."""
    (golden / "thesis.txt").write_text("years of work")
    np.save(golden / "thesis.npy", np.ones(3))
    (golden / "photos").mkdir()
    (golden / "photos" / "cat.png").write_text("a cat")
    tamper(golden, change)
    before = sorted(os.listdir(golden))
    status, _, err = run("golden", "record", "-o", golden, "--steps", "logits", *TINY)
    assert status == 2 and "a folder with other things in it" in err
    assert sorted(os.listdir(golden)) == before and (golden / "photos" / "cat.png").read_text() == "a cat"


def test_a_damaged_golden_is_not_replaced(golden, run):
    np.save(golden / "logits.npy", np.ones((1, 4)))
    assert run("golden", "record", "-o", golden, "--steps", "logits", *TINY)[0] == 2
    assert np.load(golden / "logits.npy").tolist() == [[1, 1, 1, 1]]


def test_a_link_in_a_golden_is_not_followed_to_be_replaced(golden, run, tmp_path):
    shutil.move(golden / "logits.npy", tmp_path / "mine.npy")
    (golden / "logits.npy").symlink_to(tmp_path / "mine.npy")
    assert run("golden", "record", "-o", golden, "--steps", "logits", *TINY)[0] == 2
    assert (tmp_path / "mine.npy").is_file()


@pytest.mark.parametrize(
    "place, opened",
    [
        ("digits", True), ("models/vit.safetensors", True), ("vit.safetensors", True), ("/etc/passwd", False),
        ("../vit", False), ("someone/vit", False), ("someone/vit@main", False), ("~/vit", False), ("//host/vit", False),
        (r"\\host\share\vit", False), (r"C:\vit", False), (r"..\vit", False), (3, False), (None, False),
    ],
)  # fmt: skip
def test_weights_are_not_opened_because_a_manifest_says_so(golden, place, opened):
    """What lies elsewhere is asked for (--weights), and nothing is fetched."""
    tamper(golden, lambda m: m.update(model={"weights": place}))
    assert read_golden(golden).manifest["model"].get("weights") == (place if opened else None)


def test_a_golden_is_there_whenever_the_program_is_killed(tmp_path, golden):
    """Two names change places in one call: there is no moment without a golden."""
    from numpy_vit.golden.folder import exchanged

    other = tmp_path / "other"
    other.mkdir()
    if not exchanged(other, golden):
        pytest.skip("this system has no such call")
    assert os.listdir(golden) == [] and (other / "manifest.json").is_file()


def test_mappings_count_blocks(tmp_path, run):
    model = ("--model", "ViT-Ti/16", "depth=2", *TINY[3:-1], "float32")
    assert run("golden", "record", "-o", tmp_path / "g", *model, "--steps", "*norm1")[0] == 0
    arrays = read_golden(tmp_path / "g").arrays
    np.savez(tmp_path / "d.npz", **{f"layer.{n}.ln": arrays[f"blocks.{n}.norm1"].astype("f4") for n in (0, 1)})
    words = ("golden", "check", tmp_path / "g", tmp_path / "d.npz", "--map", tmp_path / "map.json", "--json")
    for theirs, ours, expected in (
        ("layer.{n}.ln", "blocks.{n}.norm1", 2),
        ("layer.1.ln", "blocks.1.norm1", 1),
        ("layer.{n}.l", "blocks.{n}.norm1", "which the dump does not have"),
        ("layer.{n}.ln", "blocks.0.norm1", "write it on both"),
    ):
        (tmp_path / "map.json").write_text(json.dumps({theirs: ours}))
        status, out, err = run(*words)
        if isinstance(expected, int):
            assert status == 0 and json.loads(out)["compared"] == expected
        else:
            assert status == 2 and expected in err


# Journals

JOURNALS = {
    "texts for numbers": {"size": "8"},
    "a negative size": {"size": -4},
    "terabytes": {"size": 2**60, "shape": [1, 2**57]},
    "another count": {"shape": [7, 3]},
    "no shape": {"shape": 3},
    "stamps that are none": {"pictures": [["a.png", "1", 2]]},
    "failures that are none": {"failed": [3]},
    "failures without a reason": {"failed": [[["a.png", 1, 2], 3]]},
}


@pytest.mark.parametrize("name", JOURNALS)
def test_lines_of_a_journal_that_nobody_wrote(name):
    from numpy_vit.cli.partial import batch_of

    line = {"pictures": [["a.png", 1, 2]], "failed": [[["b.png", 1, 2], "cut"]], "shape": [1, 3], "size": 12, "crc": 5}
    batch = batch_of(line, 100)
    assert batch.pictures == [("a.png", 1, 2)] and batch.failed == [(("b.png", 1, 2), "cut")] and batch.size == 12
    changed = batch_of({**line, **JOURNALS[name]}, 100)
    assert changed is None or name == "terabytes"


def test_links_in_an_unfinished_embed_are_not_written_through(tmp_path, run):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "o.npz.partial").mkdir()
    (tmp_path / "o.npz.partial" / "journal").write_text("")
    (tmp_path / "o.npz.partial" / "rows").symlink_to(tmp_path / "thesis.txt")
    samples = REPOSITORY / "weights" / "samples"
    status, _, err = run("embed", samples, samples, "-o", tmp_path / "o.npz")
    assert status == 2 and "is not an unfinished" in err and (tmp_path / "thesis.txt").read_text() == "years of work"


# Pictures and processes


def test_no_other_program_is_started_for_a_picture(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    os.rename(tmp_path / "a.eps", tmp_path / "a.png")
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(InputError, match="not a picture that Pillow can read"):
        numpy_vit.load().preprocess([tmp_path / "a.png"])
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tiff")
    os.rename(tmp_path / "a.tiff", tmp_path / "b.png")
    assert numpy_vit.load().preprocess([tmp_path / "b.png"]).shape == (1, 3, 64, 64)


def test_sixteen_bits_are_rounded_as_before_in_less_memory():
    from numpy_vit.pictures.images import _to_8_bits

    every = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(every / 257).astype(np.uint8)
    assert np.array_equal(_to_8_bits(every), expected) and np.array_equal(_to_8_bits(every.astype(">u2")), expected)
    assert np.array_equal(_to_8_bits(np.array([[-5, 70_000]], np.int32)), [[0, 255]])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore")
def test_a_child_can_load_what_another_thread_was_loading():
    from numpy_vit.models import embedder

    with embedder._loading:
        child = os.fork()
        if child == 0:
            os._exit(0 if embedder._loading.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert isinstance(embedder._loading, type(threading.Lock()))
