"""The command line as a user meets it: results, exit status, one-line errors, nothing half-written."""

import contextlib
import errno
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import numpy_vit
from numpy_vit.cli import main, parsed
from numpy_vit.cli.common import check_output

import pictures
from conftest import DATA, REPOSITORY, relative_error
from test_images import broken_pictures

CLASSIFIER = str(DATA / "classifier")
BACKBONE = str(DATA / "backbone")


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must fail: status 2, one line that says `message`, and no file more than before."""

    def refused(*words, message):
        before = sorted(tmp_path.rglob("*"))
        status, out, err = run(*words)
        assert status == 2, (out, err)
        assert message in err, err
        errors = [line for line in err.splitlines() if line.startswith("numpy-vit: error: ")]
        assert len(errors) == 1 and "Traceback" not in err, err
        assert sorted(tmp_path.rglob("*")) == before
        return out

    return refused


@pytest.fixture
def folder(tmp_path):
    """Pictures in class folders: three, and one more below."""
    for name, shape in (("class 0/a.png", (30, 50)), ("class 0/b.jpg", (60, 20)), ("3/deep/c.webp", (24, 40))):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.draw(*shape).save(path)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def test_predict(run, folder):
    status, out, err = run("predict", folder / "class 0" / "a.png", "--weights", CLASSIFIER, "--top", 2)
    assert status == 0 and err == ""
    model = numpy_vit.load(CLASSIFIER)
    logits = model(model.preprocess(folder / "class 0" / "a.png")).logits[0]
    best = int(logits.argmax())
    assert out.startswith(f"{folder}/class 0/a.png  class {best} ") and out.count("%") == 2


def test_the_first_command_anybody_gives(run):
    """Short names, and a remark on the one sample of ten that is misread; of another model's labels nothing is remarked."""
    status, out, err = run("predict")
    lines = out.splitlines()
    assert status == 0 and "named after the digit on them" in err and len(lines) == 10
    for digit, line in enumerate(lines):
        answer = re.match(rf"{digit}/\d+-0\.png  (\d) \d+\.\d %, ", line)[1]
        assert (f"wrong, it is a {digit}" in line) == (answer != str(digit)), line
    assert sum("wrong" in line for line in lines) == 1
    assert "wrong" not in run("predict", "--weights", CLASSIFIER)[1]
    assert all(os.path.isfile(row["image"]) for row in json.loads(run("predict", "--json")[1]))


def test_predict_json_and_folders(run, folder):
    status, out, _ = run("predict", folder, "--weights", CLASSIFIER, "--json", "--top", 6, "--strict", "--dtype", "float64")
    rows = json.loads(out)
    assert status == 0 and [os.path.basename(row["image"]) for row in rows] == ["c.webp", "a.png", "b.jpg"]
    for row in rows:
        assert abs(sum(entry["probability"] for entry in row["top"]) - 1) < 1e-12
        assert [entry["logit"] for entry in row["top"]] == sorted((entry["logit"] for entry in row["top"]), reverse=True)


def test_predict_goes_on_after_a_bad_picture(run, folder):
    (folder / "bad.png").write_bytes(b"")
    status, out, err = run("predict", folder, "--weights", CLASSIFIER)
    assert status == 2 and len(out.splitlines()) == 3
    assert err == f"numpy-vit: error: {folder}/bad.png: the file is empty (0 bytes)\n"
    status, out, _ = run("predict", folder, "--weights", CLASSIFIER, "--json")
    assert status == 2 and sum("error" in row for row in json.loads(out)) == 1


def test_predict_at_another_size(run, folder):
    status, out, _ = run("predict", folder / "class 0" / "a.png", "--weights", CLASSIFIER, "--size", "32x24")
    assert status == 0 and out


def test_predict_refuses(refused, folder, tmp_path):
    picture = folder / "class 0" / "a.png"
    refused("predict", picture, "--weights", tmp_path / "absent.safetensors", message="no such file or folder")
    refused("predict", picture, "--weights", BACKBONE, message="does not say how pictures are prepared")
    refused("predict", tmp_path / "absent.png", "--weights", CLASSIFIER, message="absent.png: no such file or folder")
    refused(
        "predict",
        picture,
        "--weights",
        CLASSIFIER,
        "--size",
        "30x30",
        message="image height 30 is not a multiple of the patch size 8",
    )
    (tmp_path / "empty").mkdir()
    refused("predict", tmp_path / "empty", "--weights", CLASSIFIER, message="no picture in this folder")


def test_bad_usage(run):
    for words in (
        ["predict", "--size", "axb"],
        ["predict", "--dtype", "int8"],
        ["predict", "--top", "0"],
        ["nonsense"],
        [],
        ["embed", "x.png"],
    ):
        status, out, err = run(*words)
        assert status == 2 and out == "" and err.startswith("numpy-vit") and err.count("\n") == 1 and "--help)" in err


def test_the_commands_in_the_documents_are_understood(capsys):
    """Every option they use is there, under the name they use."""
    documents = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("weights/*.md")]
    lines = [line for path in documents for line in path.read_text(encoding="utf-8").splitlines()]
    for path in REPOSITORY.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        lines += [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    found = []
    for line in lines:
        inline = re.findall(r"`numpy-vit ([^`]+)`", line)
        for words in inline or re.findall(r"^\s*(?:[$!] *)?numpy-vit (.+?)(?:  .*| [>|] .*)?$", line):
            if not re.search(r"\.\.\.|…|\[|^\w+$|^golden \w+$|[A-Z]{4}", words):  # a summary, or the mere name of a command
                found.append(words)
                with contextlib.suppress(SystemExit):
                    parsed(shlex.split(words, comments=True))
                said = capsys.readouterr().err
                assert not said or "arguments are required" in said, words
    assert len(found) > 25


def test_the_nearest_is_suggested(run):
    for words, nearest in (
        (["predct"], "predict"),
        (["golden", "chekc"], "check"),
        (["golden", "check", "a", "b", "--jsno"], "--json"),
        (["predict", "--sise", "32"], "--size"),
        (["predict", "--dtype", "flaot64"], "float64"),
    ):
        status, _, err = run(*words)
        assert status == 2 and f"did you mean '{nearest}'?" in err and err.count("\n") == 1


def test_every_broken_picture(refused, tmp_path):
    for name, message in broken_pictures(tmp_path).items():
        refused("predict", tmp_path / name, "--weights", CLASSIFIER, message=message)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
def test_embed(run, folder, tmp_path, suffix):
    target = tmp_path / f"out{suffix}"
    status, out, err = run("embed", folder, "-o", target, "--weights", CLASSIFIER)
    assert (status, out) == (0, "") and "3 pictures, pooled 3 x 20" in err
    model = numpy_vit.load(CLASSIFIER)
    paths = [folder / "3/deep/c.webp", folder / "class 0/a.png", folder / "class 0/b.jpg"]
    expected = model(model.preprocess(paths)).pooled
    if suffix == ".npy":
        found = np.load(target)
    elif suffix == ".npz":
        stored = np.load(target)
        found = stored["embeddings"]
        assert list(stored["images"]) == list(map(str, paths))
    else:
        from safetensors import safe_open

        with safe_open(target, "np") as stored:
            found = stored.get_tensor("embeddings")
            assert json.loads(stored.metadata()["images"]) == list(map(str, paths))
    assert np.array_equal(found, expected)
    assert sorted(os.listdir(tmp_path)) == sorted([target.name, "pictures"])


def test_embed_other_outputs(run, refused, folder, tmp_path):
    for what, shape in (("last_hidden_state", (3, 16, 20)), ("logits", (3, 6))):
        assert run("embed", folder, "-o", tmp_path / "o.npy", "--weights", CLASSIFIER, "--what", what)[0] == 0
        assert np.load(tmp_path / "o.npy").shape == shape
    refused(
        "embed",
        folder,
        "-o",
        tmp_path / "p.npy",
        "--weights",
        CLASSIFIER,
        "--what",
        "pooler_output",
        message="has no pooler_output",
    )
    refused("embed", folder, "-o", tmp_path / "p.txt", "--weights", CLASSIFIER, message="the name must end in")
    refused("embed", folder, "-o", tmp_path / "no/p.npy", "--weights", CLASSIFIER, message="there is no folder")
    refused("embed", folder, "-o", "/proc/p.npy", "--weights", CLASSIFIER, message="cannot be written")


def test_eval(run, refused, folder, tmp_path):
    (folder / "notes.txt").unlink()
    status, out, err = run("eval", folder, "--weights", CLASSIFIER, "--json")
    assert status == 0 and re.fullmatch(r"numpy-vit: note: 3 pictures in 0\.\d s, \d+ pictures/s\n", err), err
    model = numpy_vit.load(CLASSIFIER)
    paths = [folder / "3/deep/c.webp", folder / "class 0/a.png", folder / "class 0/b.jpg"]
    order = np.argsort(-model(model.preprocess(paths)).logits, axis=1)
    right = order == np.array([[3], [0], [0]])
    found = json.loads(out)
    assert found == {"pictures": 3, "unreadable": 0, "top1": right[:, 0].mean(), "top5": right[:, :5].any(1).mean()}
    names = tmp_path / "names.txt"
    names.write_text("class 0\nb\nc\n3\ne\nf\n")
    assert json.loads(run("eval", folder, "--weights", CLASSIFIER, "--json", "--classes", names)[1]) == found
    names.write_text("a\n")
    refused("eval", folder, "--weights", CLASSIFIER, "--classes", names, message="1 lines, the model has 6 classes")
    os.rename(folder / "class 0", folder / "clas 0")
    refused(
        "eval", folder, "--weights", CLASSIFIER, message="one class of the model is called 'clas 0'; did you mean 'class 0'"
    )
    refused("eval", tmp_path / "absent", "--weights", CLASSIFIER, message="no such folder")
    (tmp_path / "bare").mkdir()
    refused("eval", tmp_path / "bare", "--weights", CLASSIFIER, message="no class folders")


def test_convert_and_inspect(run, tmp_path):
    target = tmp_path / "out.safetensors"
    status, out, err = run("convert", CLASSIFIER, "-o", target)
    assert (status, out) == (0, "") and "hf-vit (config.json says model_type 'vit'), 13,150 parameters" in err
    first = target.read_bytes()
    assert run("convert", CLASSIFIER, "-o", target)[0] == 0  # again, over itself
    assert target.read_bytes() == first
    status, out, err = run("inspect", target, "--tensors")
    assert (status, err) == (0, "")
    for text in ("numpy-vit 1", "13,150", "class 0", "blocks.2.attention.key.bias", "squash", "model.safetensors"):
        assert text in out
    assert json.loads(run("inspect", target, "--json")[1])["config"]["heads"] == 5
    status, out, err = run("inspect", CLASSIFIER)
    assert status == 0 and "config.json says model_type 'vit'" in out
    status, out, err = run("inspect", BACKBONE)
    assert status == 0 and "no preprocessor_config.json" in out
    status, _, err = run("convert", BACKBONE, "-o", target)
    assert status == 0 and "note: no preprocessor_config.json" in err


def test_inspect_says_what_an_unknown_file_holds(run, tmp_path):
    from numpy_vit.files.tensorfile import tensor_of, write

    write(tmp_path / "other.safetensors", {"some.weight": tensor_of(np.ones((2, 3)))}, {})
    status, out, _ = run("inspect", tmp_path / "other.safetensors", "--tensors")
    assert status == 0 and "of no known family" in out and "some.weight" in out


def test_convert_refuses(refused, tmp_path, run):
    refused("convert", CLASSIFIER, "-o", tmp_path / "out.bin", message="the name must end in .safetensors")
    refused("convert", tmp_path / "absent", "-o", tmp_path / "out.safetensors", message="no such file or folder")
    refused("convert", CLASSIFIER, "-o", tmp_path / "no" / "out.safetensors", message="cannot be written")
    source = shutil.copytree(CLASSIFIER, tmp_path / "model")
    refused("convert", source, "-o", source / "model.safetensors", message="is the source itself")
    (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-5])
    refused("convert", source, "-o", tmp_path / "out.safetensors", message="not a valid safetensors file")
    run("convert", CLASSIFIER, "-o", tmp_path / "out.safetensors")
    refused("convert", tmp_path / "out.safetensors", "-o", tmp_path / "again.safetensors", message="already a converted file")


def test_where_a_file_cannot_be_made(tmp_path, monkeypatch):
    """What is replaced needs a place beside it; a device or a pipe is there already."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    check_output("/dev/null")
    with pytest.raises(numpy_vit.InputError, match="Permission denied"):
        check_output(str(tmp_path / "page.html"))


def test_a_full_disk(refused, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused("convert", CLASSIFIER, "-o", tmp_path / "out.safetensors", message="the disk is full; nothing was written")


def test_a_file_size_limit(tmp_path):
    """The system's own refusal in the middle of a write."""
    done = subprocess.run(
        [sys.executable, "-m", "numpy_vit", "convert", CLASSIFIER, "-o", tmp_path / "out.safetensors"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "File too large" in done.stderr and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_standard_output_on_a_full_disk():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "numpy_vit", "inspect", CLASSIFIER], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.decode().count("\n") == 1 and b"No space left" in done.stderr


def test_a_reader_that_stops_early():
    done = subprocess.run(
        f"{sys.executable} -m numpy_vit inspect --tensors {CLASSIFIER} | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == "" and done.stdout.count("\n") == 1


def test_debug_shows_the_traceback(run, tmp_path):
    status, _, err = run("inspect", tmp_path / "absent", "--debug")
    assert status == 2 and "Traceback" in err and err.splitlines()[-1].startswith("numpy-vit: error: ")


def test_our_own_mistake_is_not_the_users(run, monkeypatch):
    """Status 70, and one line that says how to report it."""
    monkeypatch.setattr("numpy_vit.cli.inspect.describe", lambda file: {}["never"])
    for words in (["inspect", "digits"], ["inspect", "digits", "--debug"]):
        status, out, err = run(*words)
        assert (status, out) == (70, "") and ("Traceback" in err) == ("--debug" in words)
        last = err.splitlines()[-1]
        assert last.startswith("numpy-vit: error: a bug in numpy-vit") and "KeyError: 'never'" in last and "report" in last
    for error in (numpy_vit.InputError, numpy_vit.ShapeError, numpy_vit.InvariantError):
        assert issubclass(error, numpy_vit.NumpyVitError) and issubclass(error, ValueError)


@pytest.mark.parametrize("words", [["inspect", "digits"], ["inspect", "absent"], ["trace", "--nonsense"]])
def test_signals_and_streams_are_left_as_they_were(words, capfd):
    """In the main thread and in another, where no signal can be handled."""

    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [*handlers, sys.stdout, sys.stdout.errors, sys.stderr, sys.stderr.errors]

    before, expected = state(), 0 if words[1] == "digits" else 2
    assert main(words) == expected and state() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, words).result() == expected
    assert state() == before
    errors = capfd.readouterr().err
    assert "Traceback" not in errors and errors.count("error: ") == (2 if expected else 0)


def test_closed_streams_stay_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["inspect", "digits"]) == 0 and main(["inspect", "absent"]) == 2
    assert sys.stdout is None and sys.stderr is None


def test_a_full_disk_leaves_standard_output_as_it_was():
    """main() in another program: what could not be written is gone, and later output goes where it went before."""
    code = (
        "import os, sys; from numpy_vit.cli import main; full = os.fstat(1).st_rdev; status = main(['inspect', 'digits'])\n"
        "sys.stderr.write(f'{status} {os.fstat(1).st_rdev == full}')"
    )
    with open("/dev/full", "w") as full:
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, env=buffered)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "2 True", done.stderr


STARTING = """
import runpy, signal, sys

class Interrupt:  # Ctrl-C while this module is being imported
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[0]:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv.pop(0)
runpy.run_module("numpy_vit", run_name="__main__", alter_sys=False)
"""


@pytest.mark.parametrize("module", ["numpy_vit.cli", "argparse", "numpy_vit.cli.trace", "numpy", "numpy.linalg", "PIL"])
def test_ctrl_c_while_it_starts(module):
    """At whatever import: one line, status 130, no traceback."""
    done = subprocess.run(
        [sys.executable, "-c", STARTING, module, "predict"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("numpy-vit: error: interrupted") and "Traceback" not in done.stderr


def test_a_background_job_ignores_ctrl_c():
    done = subprocess.run(
        [sys.executable, "-c", STARTING, "numpy_vit.cli.trace", "inspect", "digits"],
        capture_output=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 0 and b"error" not in done.stderr


def test_what_is_imported_before_ctrl_c_is_heard():
    """What the interpreter itself needs; not argparse, not even typing: each is a moment in which a traceback may come."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import numpy_vit.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, REPOSITORY], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"typing", "contextlib", "argparse", "numpy"}
    ours = {"numpy_vit", "numpy_vit.__main__", "numpy_vit.arithmetic", "numpy_vit.arithmetic.threads"}
    assert {name for name in loaded if name.startswith("numpy_vit")} == ours


# SIGKILL before or after a call of this name, the first or a later one.
KILLED = """
import os, signal, sys
from numpy_vit.cli import main
name, when, nth, *words = sys.argv[1:]
place, _, attribute = name.rpartition(".")
module = __import__(place)
real, calls = getattr(module, attribute), []
def killed(*given, **options):
    calls.append(given)
    if when == "before" and len(calls) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*given, **options)
    if when == "after" and len(calls) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(module, attribute, killed)
sys.exit(main(words))
"""
MOMENTS = [("tempfile.mkstemp", "before"), ("tempfile.mkstemp", "after"), ("os.fsync", "before"), ("os.replace", "before"),
           ("os.replace", "after")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("words", "suffix"),
    [
        (["convert", str(CLASSIFIER)], ".safetensors"),
        (["embed", "samples"], ".npz"),
        (["explain", "samples/a.png"], ".html"),
    ],
    ids=["convert", "embed", "explain"],
)
def test_a_killed_command_loses_nothing(words, suffix, there, run, tmp_path, monkeypatch):
    """kill -9 at each moment of writing: the target is as it was or whole, nothing else is touched, and again all is well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").mkdir()
    for name in "abc":
        Image.new("RGB", (40, 30), "red").save(tmp_path / f"samples/{name}.png")
    assert run(*words, "-o", f"whole{suffix}")[0] == 0
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    for n, (name, when) in enumerate(MOMENTS):
        place = tmp_path / str(n)
        place.mkdir()
        target, other = place / f"out{suffix}", place / "thesis.txt"
        other.write_text("mine")
        if there:
            target.write_text("of yesterday")
        done = subprocess.run([sys.executable, "-c", KILLED, name, when, "1", *words, "-o", str(target)], capture_output=True)
        assert done.returncode == -signal.SIGKILL, (name, when, done.stderr)
        if (name, when) == MOMENTS[-1]:
            assert target.read_bytes() == whole
        else:
            assert (target.read_text() == "of yesterday") if there else not target.exists()
        assert other.read_text() == "mine"
        status, _, stderr = run(*words, "-o", str(target))
        assert (status, target.read_bytes()) == (0, whole), (name, when, stderr)
        assert not (place / f"out{suffix}.partial").exists()


def test_importing_costs_nothing_but_definitions():
    """No NumPy, no Pillow, no safetensors, no family of checkpoints, until needed; never an optional extra."""
    heavy = ["numpy", "PIL", "safetensors", "numpy_vit.convert.table", "torch", "transformers", "huggingface_hub"]
    for statement, allowed in (
        ("import numpy_vit", set()),
        ("import numpy_vit.cli", set()),
        ("import numpy_vit.model, numpy_vit.ops", {"numpy"}),
        ("import numpy_vit; numpy_vit.variant('ViT-B/16'); numpy_vit.random_model", {"numpy"}),
        ("import numpy_vit; numpy_vit.load()", {"numpy", "PIL", "safetensors"}),
    ):
        code = f"{statement}\nimport sys\nprint(*[name for name in {heavy} if name in sys.modules])"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert set(loaded) <= allowed, statement


def test_a_small_model_needs_no_second_thread(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from numpy_vit.cli.sharing import SMALL_MODEL, share_threads

    large = tmp_path / "large"
    large.mkdir()
    with open(large / "model.safetensors", "wb") as file:
        file.truncate(SMALL_MODEL)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    for arguments, blas, own in (
        ({"weights": "digits"}, "1", None),
        ({"weights": CLASSIFIER}, "1", None),
        ({"weights": str(large)}, None, "3"),  # limit_blas, before NumPy is imported, sees to the BLAS
        ({"weights": str(large / "model.safetensors")}, None, "3"),
        ({"weights": str(large), "dtype": "portable"}, None, None),
        ({"weights": "google/vit-base-patch16-224"}, None, "3"),
        ({"with_values": [str(large), "a.png"]}, None, "3"),
        ({"model": ["ViT-B/16"], "with_values": None}, "1", None),
        ({"model": ["digits"], "threads": 5}, None, "5"),
    ):
        monkeypatch.setattr(os, "environ", {})
        share_threads(SimpleNamespace(**arguments))
        assert os.environ.get("OPENBLAS_NUM_THREADS") == blas, arguments
        assert os.environ.get("NUMPY_VIT_THREADS") == own, arguments
    monkeypatch.setattr(os, "environ", {"OPENBLAS_NUM_THREADS": "2"})
    share_threads(SimpleNamespace(weights="digits"))
    assert os.environ["OPENBLAS_NUM_THREADS"] == "2"
    share_threads(SimpleNamespace(weights=str(large)))
    assert os.environ["NUMPY_VIT_THREADS"] == "2"


def test_names():
    assert set(numpy_vit.__all__) <= set(dir(numpy_vit))
    for name in numpy_vit.__all__:
        getattr(numpy_vit, name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        numpy_vit.nonsense  # noqa: B018


def test_version():
    done = subprocess.run([sys.executable, "-m", "numpy_vit", "--version"], capture_output=True, text=True)
    assert done.stdout == f"numpy-vit {numpy_vit.__version__}\n"


def test_a_model_that_gives_no_numbers_is_not_believed(refused, folder, tmp_path):
    """Finite weights that overflow: NaN is never a result."""
    from numpy_vit.convert import convert
    from numpy_vit.files.converted import Checkpoint, write_converted
    from numpy_vit.files.tensorfile import tensor_of

    checkpoint = convert(CLASSIFIER)
    for name, value, message in (
        ("head.weight", np.float32(3e38), "NaN or infinite numbers"),
        ("norm.bias", 1e300, "too large for float32"),
    ):
        tensors = dict(checkpoint.tensors)
        tensors[name] = tensor_of(np.full(tensors[name].shape, value))
        write_converted(folder / "bad.safetensors", Checkpoint(**{**vars(checkpoint), "tensors": tensors}))
        refused("predict", folder / "class 0/a.png", "--weights", folder / "bad.safetensors", message=message)


def test_a_preprocessor_for_a_converted_file(run, refused, folder, tmp_path):
    from numpy_vit.convert import convert
    from numpy_vit.files.converted import write_converted

    write_converted(tmp_path / "bare.safetensors", convert(BACKBONE))
    words = ("embed", folder, "-o", tmp_path / "o.npz", "--weights", tmp_path / "bare.safetensors")
    refused(*words, message="does not say how pictures are prepared")
    grey = tmp_path / "grey.json"
    grey.write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 8}, "image_mean": 0.5, "image_std": 0.5}'
    )
    assert run(*words, "--preprocessor", grey)[0] == 0
    assert np.load(tmp_path / "o.npz")["embeddings"].shape == (3, 12)


def test_npy_has_no_names_so_nothing_may_be_missing(refused, run, folder, tmp_path):
    (folder / "bad.png").write_bytes(b"")
    status, _, err = run("embed", folder, "-o", tmp_path / "o.npy", "--weights", CLASSIFIER)
    assert status == 2 and ".npy holds no names" in err and not (tmp_path / "o.npy").exists()
    status, _, _ = run("embed", folder, "-o", tmp_path / "o.npz", "--weights", CLASSIFIER)
    assert status == 2 and len(np.load(tmp_path / "o.npz")["images"]) == 3


def test_odd_names(refused, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("predict", "", message="an empty name is no picture")
    refused("inspect", "", message="names no model")
    os.mkfifo("pipe.png")
    refused("predict", "pipe.png", "--weights", CLASSIFIER, message="pipe.png: not a regular file")
    os.mkdir("digits")  # the shipped model stays what it is
    assert run("inspect", "digits")[0] == 0
    (tmp_path / "two\nlines.png").write_bytes(b"x")
    refused("predict", "two\nlines.png", "--weights", CLASSIFIER, message="two lines.png: not a picture")


def test_ambiguous_class_names(refused, folder, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("class 0\nb\nb\n3\ne\nf\n")
    refused("eval", folder, "--weights", CLASSIFIER, "--classes", names, message="a name stands there twice")


def test_names_of_classes_are_read_as_all_files_are(refused, run, folder, tmp_path, monkeypatch):
    """Regular, in UTF-8 and of bounded size: `eval --classes` and `convert --labels` alike."""
    names = tmp_path / "names.txt"
    commands = (("eval", folder, "--weights", CLASSIFIER, "--classes", names),
                ("convert", CLASSIFIER, "-o", tmp_path / "c.safetensors", "--labels", names))  # fmt: skip

    def both(message):
        for words in commands:
            refused(*words, message=f"names.txt: {message}")

    both("no such file")
    names.write_bytes("é\n".encode("latin-1"))
    both("is no text in UTF-8")
    names.write_text("<!doctype html><html>")
    both("is a web page")
    names.write_text("class 0\nb\nc\n3\ne\nf\n", encoding="utf-8-sig")
    (folder / "notes.txt").unlink()
    assert [run(*words)[0] for words in commands] == [0, 0]
    assert numpy_vit.load(tmp_path / "c.safetensors").labels[0] == "class 0"
    monkeypatch.setattr("numpy_vit.files.outside.LARGEST_TEXT", 5)
    both("is larger than 5 bytes")
    names.unlink()
    names.mkdir()
    both("is a folder")
    if hasattr(os, "mkfifo"):
        names.rmdir()
        os.mkfifo(names)
        both("not a regular file")


def test_eval_never_guesses_between_classes():
    from types import SimpleNamespace

    from numpy_vit.cli.evaluate import class_numbers

    def numbers(*labels):
        return class_numbers(SimpleNamespace(config=SimpleNamespace(classes=len(labels)), labels=list(labels)), None)

    assert numbers("crane", "tench, Tinca tinca", "Crane") == {"0": 0, "1": 1, "2": 2, "tench, tinca tinca": 1, "tench": 1}
    assert numbers("1", "2", "0") == {"1": 0, "2": 1, "0": 2}


def test_closed_streams():
    for close, status in ((">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)):
        done = subprocess.run(
            f"{sys.executable} -m numpy_vit trace --depth model {close}", shell=True, capture_output=True, text=True
        )
        assert done.returncode == status and "Traceback" not in done.stderr


def test_names_the_terminal_cannot_show():
    command = [sys.executable, "-m", "numpy_vit", "trace", "--explain", "--lang", "zh"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "\\u" in done.stdout


def test_converting_what_does_not_say_all(run, refused, tmp_path):
    """A file without heads: asked for, not guessed; then told; then back as a Hugging Face folder."""
    source, target = DATA / "families" / "torchvision" / "weights.pth", tmp_path / "out.safetensors"
    refused("convert", source, "-o", target, message="torchvision ViT: the file cannot tell heads: say so on the command line")
    refused("convert", source, "haeds=3", "-o", target, message="did you mean 'heads'?")
    refused("convert", source, "heads=three", "-o", target, message="heads=three: a number is expected")
    refused("convert", source, "heads=5", "-o", target, message="5 heads do not divide the width 24")
    refused("convert", source, "--family", "tochvision", "-o", target, message="did you mean 'torchvision'?")
    refused("convert", source, "--family", "timm", "heads=3", "-o", target, message="no pos_embed")
    refused("convert", source, "--map", source, "--family", "timm", "-o", target, message="do not go together")
    assert list(tmp_path.iterdir()) == []
    status, out, err = run("convert", source, "heads=3", "-o", target)
    assert (status, out) == (0, "") and "its tensors are named so: conv_proj.weight" in err and "eps 1e-06" in err
    status, out, _ = run("inspect", source)
    assert status == 0 and "torchvision" in out and "cannot tell heads" in out
    (tmp_path / "told.json").write_text('{"heads": 3}')
    assert run("convert", source, "--config", tmp_path / "told.json", "-o", tmp_path / "again.safetensors")[0] == 0
    assert (tmp_path / "again.safetensors").read_bytes() == target.read_bytes()
    status, _, err = run("convert", target, "--to", "hf", "-o", tmp_path / "hf")
    assert status == 0 and sorted(p.name for p in (tmp_path / "hf").iterdir())[0] == "config.json"
    refused("convert", target, "--to", "hf", "-o", tmp_path / "hf", message="is there already and not empty")
    with pytest.warns(UserWarning, match="no preprocessor_config.json"):  # transformers' crop rounds otherwise
        a, b = (numpy_vit.load(path, dtype="float64") for path in (target, tmp_path / "hf"))
    pixels = np.random.default_rng(0).normal(size=(1, 3, 12, 12))
    assert relative_error(a(pixels).logits, b(pixels).logits) < 1e-14
