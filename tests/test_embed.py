"""embed and eval on many pictures: read ahead of the computing, and an interrupted embed that goes on where it stopped."""

import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import numpy_vit
from numpy_vit.cli import main, partial, running
from numpy_vit.cli.common import Progress, duration, speed
from numpy_vit.cli.running import Runner
from numpy_vit.errors import InputError
from numpy_vit.pictures.images import Preprocess

import pictures
from conftest import DATA

CLASSIFIER = str(DATA / "classifier")
# What is asked for below is the logits: a small model's differ in the last bit with the size of the batch.
WORDS = ("--weights", CLASSIFIER, "--what", "logits")
BATCH, REST = 4, 2  # small batches, so that the tests are fast
COUNT = 2 * BATCH + REST
IN_SMALL_BATCHES = f"""
import sys
from numpy_vit.cli import common, embed, main, partial, running
common.BATCH = running.BATCH = embed.BATCH = partial.BATCH = {BATCH}
"""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    for module in ("common", "running", "embed", "partial"):
        monkeypatch.setattr(f"numpy_vit.cli.{module}.BATCH", BATCH)


@pytest.fixture
def folder(tmp_path):
    """Different small pictures, so many that they make two batches and a half."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(COUNT):
        pictures.draw(20 + 3 * n, 60 - 4 * n).save(folder / f"{n:03}.png")
    return folder


@pytest.fixture
def embed(capsys):
    """Runs embed -> (status, what it says)."""

    def embed(*words):
        status = main(["embed", *map(str, words), *WORDS])
        captured = capsys.readouterr()
        assert captured.out == ""
        return status, captured.err

    return embed


@pytest.fixture
def computed(monkeypatch):
    """The sizes of the batches that are computed."""
    sizes = []
    call = Runner.__call__

    def counted(self, pixels, record=None):
        sizes.append(len(pixels))
        return call(self, pixels, record)

    monkeypatch.setattr(Runner, "__call__", counted)
    return sizes


def interrupt(monkeypatch, after):
    """Ctrl-C while a batch is computed, `after` others. Works once."""
    call = Runner.__call__
    left = [after]

    def run(self, pixels, record=None):
        if not left[0]:
            monkeypatch.setattr(Runner, "__call__", call)
            raise KeyboardInterrupt
        left[0] -= 1
        return call(self, pixels, record)

    monkeypatch.setattr(Runner, "__call__", run)


def one_by_one(paths):
    """The logits as they were before there were threads: picture after picture, batch after batch."""
    model = numpy_vit.load(CLASSIFIER)
    parts = []
    for start in range(0, len(paths), BATCH):
        parts.append(model(np.concatenate([model.preprocess(path) for path in paths[start : start + BATCH]])).logits)
    return np.concatenate(parts)


def in_one_go(embed, tmp_path, *images, suffix=".npz"):
    """The bytes that an uninterrupted run writes."""
    target = tmp_path / f"whole{suffix}"
    embed(*images, "-o", target)
    content = target.read_bytes()
    target.unlink()
    return content


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_the_bits_depend_on_the_batch(folder):
    """Else the tests below could not tell a batch that is put together in another way."""
    paths = sorted(folder.iterdir())[:BATCH]
    model = numpy_vit.load(CLASSIFIER)
    assert not same_bits(one_by_one(paths), np.concatenate([model(model.preprocess(path)).logits for path in paths]))


def test_reading_goes_on_while_a_batch_is_computed(folder, embed, tmp_path, monkeypatch):
    read = Preprocess.__call__
    ahead = threading.Event()
    begun = []

    def watched(self, image, dtype):
        begun.append(image)
        if len(begun) > BATCH + 2:
            ahead.set()
        return read(self, image, dtype)

    call = Runner.__call__

    def waits(self, pixels, record=None):
        assert ahead.wait(20), "nothing is read while the first batch is computed"
        return call(self, pixels, record)

    monkeypatch.setattr(Preprocess, "__call__", watched)
    monkeypatch.setattr(Runner, "__call__", waits)
    assert embed(folder, "-o", tmp_path / "o.npz")[0] == 0
    assert len(begun) == COUNT


def test_reading_ahead_is_bounded():
    """With an endless list, and readers that never wait, only so many are read before somebody asks."""
    seen = []

    def endless():
        n = 0
        while True:
            seen.append(n)
            yield n
            n += 1

    reading = running.read_ahead(lambda n: n * n, endless())
    assert [(n, square.result()) for n, square in (next(reading) for _ in range(5))] == [(n, n * n) for n in range(5)]
    assert len(seen) <= 5 + running.AHEAD
    reading.close()


def test_order_and_bits_are_those_of_a_sequential_run(folder, embed, tmp_path, monkeypatch):
    """Though the readers finish the wrong way round."""
    monkeypatch.setattr(running, "READERS", 2)
    read = Preprocess.__call__
    paths = sorted(folder.iterdir())
    finished = {path: threading.Event() for path in paths}

    def backwards(self, image, dtype):
        number = paths.index(image)
        if number % 2 == 0:
            finished[paths[number + 1]].wait(20)
        pixels = read(self, image, dtype)
        finished[image].set()
        return pixels

    expected = one_by_one(paths)
    monkeypatch.setattr(Preprocess, "__call__", backwards)
    assert embed(folder, "-o", tmp_path / "o.npz")[0] == 0
    stored = np.load(tmp_path / "o.npz")
    assert list(stored["images"]) == list(map(str, paths))
    assert same_bits(stored["embeddings"], expected)


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (MemoryError(), 2), (InputError("no"), 2), (TypeError("no"), 70)]
)
def test_no_reader_stays_behind(error, status, folder, tmp_path, monkeypatch, capsys):
    def fails(self, pixels, record=None):
        raise error

    monkeypatch.setattr(Runner, "__call__", fails)
    assert main(["embed", str(folder), "-o", str(tmp_path / "o.npz"), *WORDS]) == status
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
    assert sorted(os.listdir(tmp_path)) == ["pictures"]  # nothing was done, so nothing is kept


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
def test_an_interrupted_run_goes_on(suffix, folder, embed, computed, tmp_path, monkeypatch):
    whole = in_one_go(embed, tmp_path, folder, suffix=suffix)
    target = tmp_path / f"o{suffix}"
    target.write_bytes(b"what was there before")
    interrupt(monkeypatch, after=1)
    status, err = embed(folder, "-o", target)
    assert status == 130 and "interrupted" in err and f"keeps {BATCH} of {COUNT} pictures" in err
    assert target.read_bytes() == b"what was there before"
    del computed[:]
    status, err = embed(folder, "-o", target)
    assert status == 0 and f"resuming: {BATCH} of {COUNT} pictures are done" in err
    assert computed == [BATCH, REST]
    assert target.read_bytes() == whole
    assert re.search(rf"{COUNT} pictures, logits {COUNT} x 6; {COUNT - BATCH} pictures in \d+\.\d s, \d+ pictures/s$", err)
    assert sorted(os.listdir(tmp_path)) == [target.name, "pictures"]


KILLED = (
    IN_SMALL_BATCHES
    + """
import os, signal
append = partial.Partial._append
left = [int(sys.argv[1])]

def killed(self, file, data):
    left[0] -= 1
    if not left[0]:
        append(self, file, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return append(self, file, data)

partial.Partial._append = killed
main(sys.argv[2:])
"""
)


# Written are: what run it is; then rows, their line, rows, their line, ...
@pytest.mark.parametrize(("writes", "batches"), [(4, 1), (7, 2)])
@pytest.mark.slow
def test_a_killed_run_goes_on(writes, batches, folder, embed, tmp_path):
    """SIGKILL with half a batch's rows, or half its line, written; a few hundred pictures, as links."""
    for n in range(COUNT, 200):
        os.link(folder / f"{n % COUNT:03}.png", folder / f"{n:03}.png")
    words = ["embed", str(folder), "-o", str(tmp_path / "o.npz"), *WORDS]
    done = subprocess.run([sys.executable, "-c", KILLED, str(writes), *words], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["o.npz.partial", "pictures"]
    status, err = embed(folder, "-o", tmp_path / "o.npz")
    assert status == 0 and f"resuming: {min(batches, (writes - 1) // 2) * BATCH} of 200 pictures" in err
    assert same_bits(np.load(tmp_path / "o.npz")["embeddings"], one_by_one(sorted(folder.iterdir())))
    assert sorted(os.listdir(tmp_path)) == ["o.npz", "pictures"]


def test_a_run_of_one_batch_that_was_killed_is_done_again(folder, embed, tmp_path):
    """It does not say which model it was of, so that it need not be read twice: that is no other model."""
    for path in sorted(folder.iterdir())[BATCH:]:
        path.unlink()
    whole = in_one_go(embed, tmp_path, folder)
    for writes in (1, 2, 3):
        words = ["embed", str(folder), "-o", str(tmp_path / "o.npz"), *WORDS]
        done = subprocess.run([sys.executable, "-c", KILLED, str(writes), *words], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL and (tmp_path / "o.npz.partial").is_dir(), done.stderr
        status, err = embed(folder, "-o", tmp_path / "o.npz")
        assert status == 0 and "resuming" not in err, err
        assert (tmp_path / "o.npz").read_bytes() == whole and not (tmp_path / "o.npz.partial").exists()


def left_behind(embed, folder, tmp_path, monkeypatch, after=2):
    """The sidecar of a run that was interrupted after some batches."""
    interrupt(monkeypatch, after)
    assert embed(folder, "-o", tmp_path / "o.npz")[0] == 130
    return tmp_path / "o.npz.partial"


def test_whatever_a_crash_leaves_of_the_sidecar(folder, embed, tmp_path, monkeypatch):
    """Journal and rows cut, zeroed or altered anywhere: the result is the same, or the run refuses and says so."""
    whole = in_one_go(embed, tmp_path, folder)
    kept = left_behind(embed, folder, tmp_path, monkeypatch)
    journal, rows = ((kept / name).read_bytes() for name in ("journal", "rows"))
    header = journal.index(b"\n") + 1
    line = journal.index(b"\n", header) + 1
    half = len(rows) // 2
    cases = {
        "all of it": (journal, rows, 2),
        "no rows": (journal, b"", 0),
        "no line": (journal[:header], rows, 0),
        "nothing": (b"", b"", 0),
        "rows cut": (journal, rows[:-1], 1),
        "rows with zeros": (journal, rows[:half] + bytes(half), 1),
        "rows altered": (journal, bytes([rows[0] ^ 1]) + rows[1:], 0),
        "line cut": (journal[: line - 1], rows, 0),
        "last line cut": (journal[:-1], rows, 1),
        "last line zeros": (journal[:line] + bytes(len(journal) - line), rows, 1),
        "more rows": (journal, rows + b"half a batch", 2),
        "another line": (journal + b'{"pictures": 3}\n', rows, 2),
    }
    for name, (some_journal, some_rows, batches) in cases.items():
        kept.mkdir(exist_ok=True)
        (kept / "journal").write_bytes(some_journal)
        (kept / "rows").write_bytes(some_rows)
        status, err = embed(folder, "-o", tmp_path / "o.npz")
        assert status == 0, (name, err)
        assert (f"resuming: {batches * BATCH} of" in err) == (batches > 0), (name, err)
        assert (tmp_path / "o.npz").read_bytes() == whole, name
        assert not kept.exists()


def changed(folder, number):
    pictures.draw(33, 44).save(folder / f"{number:03}.png")
    os.utime(folder / f"{number:03}.png", ns=(0, number))


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda folder: pictures.draw(9, 9).save(folder / "zzz.png"), 2),  # one more at the end
        (lambda folder: pictures.draw(9, 9).save(folder / "005a.png"), 1),  # in the middle: the batches after it are others
        (lambda folder: pictures.draw(9, 9).save(folder / "000a.png"), 0),
        (lambda folder: changed(folder, 5), 1),
        (lambda folder: changed(folder, COUNT - 1), 2),
        (lambda folder: (folder / "003.png").unlink(), 0),
        (lambda folder: (folder / "005.png").write_bytes(b""), 1),  # unreadable now
        (lambda folder: None, 2),
    ],
)
def test_pictures_that_came_went_or_changed(change, kept, folder, embed, computed, tmp_path, monkeypatch):
    left_behind(embed, folder, tmp_path, monkeypatch)
    change(folder)
    del computed[:]
    status, err = embed(folder, "-o", tmp_path / "o.npz")
    assert (f"resuming: {kept * BATCH} of" in err) == (kept > 0)
    assert ("are computed again" in err) == (kept < 2)
    readable = len(list(folder.iterdir())) - (status == 2)
    assert sum(computed) == readable - kept * BATCH
    found = (tmp_path / "o.npz").read_bytes()
    assert found == in_one_go(embed, tmp_path, folder)


def test_a_short_last_batch_is_computed_again_where_pictures_follow(folder, embed, tmp_path, monkeypatch):
    """Killed between the last batch, of one picture, and the result; then the list grows."""
    for path in sorted(folder.iterdir())[2 * BATCH + 1 :]:
        path.rename(tmp_path / path.name)
    with monkeypatch.context() as patch:
        patch.setattr("numpy_vit.cli.embed.write_result", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert embed(folder, "-o", tmp_path / "o.npz")[0] == 130
    for path in sorted(tmp_path.glob("*.png")):
        path.rename(folder / path.name)
    assert f"resuming: {2 * BATCH} of {COUNT}" in embed(folder, "-o", tmp_path / "o.npz")[1]
    assert same_bits(np.load(tmp_path / "o.npz")["embeddings"], one_by_one(sorted(folder.iterdir())))


def test_a_run_that_was_killed_before_its_last_step_only_writes(folder, embed, computed, tmp_path, monkeypatch):
    whole = in_one_go(embed, tmp_path, folder)
    with monkeypatch.context() as patch:
        patch.setattr("numpy_vit.cli.embed.write_result", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert embed(folder, "-o", tmp_path / "o.npz")[0] == 130
    del computed[:]
    assert embed(folder, "-o", tmp_path / "o.npz")[0] == 0
    assert computed == [] and (tmp_path / "o.npz").read_bytes() == whole


def test_unreadable_pictures_are_reported_by_every_run(folder, embed, computed, tmp_path, monkeypatch):
    bad = folder / "002a.png"
    bad.write_bytes(b"")
    left_behind(embed, folder, tmp_path, monkeypatch)
    status, err = embed(folder, "-o", tmp_path / "o.npz")
    assert status == 2 and err.count(f"{bad}: the file is empty") == 1 and err.rstrip().endswith("1 unreadable")
    assert f"resuming: {2 * BATCH} of {COUNT + 1}" in err
    good = [path for path in sorted(folder.iterdir()) if path != bad]
    assert same_bits(np.load(tmp_path / "o.npz")["embeddings"], one_by_one(good))
    # Who removes it loses nothing of what was done.
    os.unlink(tmp_path / "o.npz")
    left_behind(embed, folder, tmp_path, monkeypatch)
    bad.unlink()
    del computed[:]
    status, err = embed(folder, "-o", tmp_path / "o.npz")
    assert status == 0 and computed == [REST] and "1 unreadable" not in err
    assert same_bits(np.load(tmp_path / "o.npz")["embeddings"], one_by_one(good))
    # Who mends it gets it.
    bad.write_bytes(b"")
    left_behind(embed, folder, tmp_path, monkeypatch)
    pictures.draw(12, 13).save(bad)
    assert embed(folder, "-o", tmp_path / "o.npz")[0] == 0
    assert same_bits(np.load(tmp_path / "o.npz")["embeddings"], one_by_one(sorted(folder.iterdir())))


def test_npy_keeps_what_is_done_until_the_pictures_are_mended(folder, embed, computed, tmp_path):
    (folder / "002a.png").write_bytes(b"")
    status, err = embed(folder, "-o", tmp_path / "o.npy")
    assert status == 2 and "mend or remove it and run it again" in err and not (tmp_path / "o.npy").exists()
    (folder / "002a.png").unlink()
    del computed[:]
    assert embed(folder, "-o", tmp_path / "o.npy")[0] == 0 and computed == []
    assert same_bits(np.load(tmp_path / "o.npy"), one_by_one(sorted(folder.iterdir())))


def test_strict_stops_at_the_first_unreadable_picture(folder, embed, computed, tmp_path):
    for name in ("005a.png", "006a.png"):
        (folder / name).write_bytes(b"")
    status, err = embed(folder, "-o", tmp_path / "o.npz", "--strict")
    assert status == 2 and not (tmp_path / "o.npz").exists() and computed == [BATCH]
    assert err.count("error") == 1 and err.endswith(f"error: {folder}/005a.png: the file is empty (0 bytes)\n")
    for name in ("005a.png", "006a.png"):
        (folder / name).unlink()
    assert embed(folder, "-o", tmp_path / "o.npz", "--strict")[0] == 0
    assert computed == [BATCH, BATCH, REST]
    # Also at one that an earlier run passed over.
    (folder / "002a.png").write_bytes(b"")
    shutil.copy(folder / "000.png", folder / "zzz.png")
    (folder / "zzz.png").write_bytes(b"")
    assert embed(folder, "-o", tmp_path / "o.npy")[0] == 2
    status, err = embed(folder, "-o", tmp_path / "o.npy", "--strict")
    assert status == 2 and err.count("error") == 1 and "002a.png: the file is empty" in err


def test_strict_eval(folder, capsys):
    (folder / "005a.png").write_bytes(b"")
    folder.rename(folder.parent / "3")
    words = ["eval", str(folder.parent), "--weights", CLASSIFIER]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert f"{COUNT} pictures, 1 classes" in captured.out
    assert captured.err.count("005a.png") == 1 and captured.err.rstrip().endswith("1 unreadable")
    assert main([*words, "--strict"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "005a.png: the file is empty" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--what", "pooled"], "was begun with what logits, not pooled"),
        (["--dtype", "float64"], "was begun with dtype float32, not float64"),
        (["--size", "32x24"], "was begun with size None, not [32, 24]"),
        (["--weights", "other"], "was begun with another model"),
        (["--preprocessor", "clip"], "was begun with another model"),
    ],
)
def test_another_run_is_refused_or_begins_anew(words, message, folder, embed, computed, tmp_path, monkeypatch, capsys):
    shutil.copytree(CLASSIFIER, tmp_path / "other")
    with open(tmp_path / "other" / "model.safetensors", "r+b") as file:  # one bit of one weight
        file.seek(-4, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-4, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    kept = left_behind(embed, folder, tmp_path, monkeypatch)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    monkeypatch.chdir(tmp_path)
    words = ["embed", str(folder), "-o", str(tmp_path / "o.npz"), *WORDS, *words]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert message in err and "--restart" in err and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    del computed[:]
    assert main([*words, "--restart"]) == 0
    assert sum(computed) == COUNT and not kept.exists()


def test_another_number_of_threads_is_another_run(folder, embed, tmp_path, monkeypatch):
    """Threads share out the pictures of a batch, and a last bit may depend on how."""
    from numpy_vit.arithmetic.parallel import THREADS

    left_behind(embed, folder, tmp_path, monkeypatch)
    monkeypatch.setattr(THREADS, "free", lambda products: 3)
    assert "was begun with threads 1, not 3" in embed(folder, "-o", tmp_path / "o.npz")[1]


def test_one_process_at_a_time(folder, embed, tmp_path, monkeypatch):
    """The second is refused while the first is at work, and has lost nothing afterwards."""
    call = Runner.__call__
    said = []

    def second(self, pixels, record=None):
        if not said:
            code = "import sys; from numpy_vit.cli import main; sys.exit(main(sys.argv[1:]))"
            words = ["embed", folder, "-o", tmp_path / "o.npz", *WORDS, "--restart"]
            done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
            said.append((done.returncode, done.stderr))
        return call(self, pixels, record)

    monkeypatch.setattr(Runner, "__call__", second)
    assert embed(folder, "-o", tmp_path / "o.npz")[0] == 0
    ((status, err),) = said
    assert status == 2 and "another numpy-vit is writing it" in err and err.count("\n") == 1
    assert same_bits(np.load(tmp_path / "o.npz")["embeddings"], one_by_one(sorted(folder.iterdir())))


def test_a_folder_of_that_name_that_is_not_ours(folder, embed, tmp_path):
    other = tmp_path / "o.npz.partial"
    for name, content, message in (
        ("rows", b"mine", "is not an unfinished"),
        ("notes.txt", b"mine", "is not an unfinished"),
        ("journal", b"Dear diary,\n", "its journal is not one, or damaged"),
    ):
        other.mkdir()
        (other / name).write_bytes(content)
        for words in ([], ["--restart"]):
            status, err = embed(folder, "-o", tmp_path / "o.npz", *words)
            assert status == 2 and message in err and err.count("\n") == 1, err
        assert (other / name).read_bytes() == content
        shutil.rmtree(other)
    other.write_bytes(b"a file")
    assert "cannot be written" in embed(folder, "-o", tmp_path / "o.npz")[1]


def test_a_disk_that_is_full_in_the_middle(folder, embed, tmp_path, monkeypatch):
    """What is done stays, and is used when there is room again."""
    whole = in_one_go(embed, tmp_path, folder)
    code = IN_SMALL_BATCHES + "sys.exit(main(sys.argv[1:]))"
    limit = 1000  # bytes: two batches' rows fit, the journal's first lines do not
    words = ["embed", folder, "-o", tmp_path / "o.npz", *WORDS]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "o.npz.partial: cannot be written (File too large)" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert embed(folder, "-o", tmp_path / "o.npz")[0] == 0
    assert (tmp_path / "o.npz").read_bytes() == whole


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal(folder, tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    interrupt(monkeypatch, after=1)
    words = ["embed", str(folder), "-o", str(tmp_path / "o.npz"), *WORDS]
    assert main(words) == 130 and main(words) == 0
    shown = screen.getvalue().split("\r\x1b[K")
    assert f"0/{COUNT} pictures" in shown
    assert [text for text in shown if re.fullmatch(rf"{2 * BATCH}/{COUNT} pictures, \d+ pictures/s, \d s left", text)], shown
    assert (
        f"{BATCH}/{COUNT} pictures" in shown
    )  # where the second run begins: no speed yet, and none from the first run's pictures
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    Progress(1000).show(500)
    assert max(map(len, screen.getvalue().split("\r\x1b[K"))) < 20


def test_speeds_and_durations():
    assert [speed(rate) for rate in (0.312, 4.26, 42.4, 1234)] == [
        "0.31 pictures/s", "4.3 pictures/s", "42 pictures/s", "1234 pictures/s",
    ]  # fmt: skip
    assert [duration(s) for s in (0, 42.4, 130, 3600, 11100)] == ["0 s", "42 s", "2 min", "60 min", "3 h 05 min"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_an_interrupted_command_keeps_what_is_done(tmp_path, how):
    big = tmp_path / "pictures"
    big.mkdir()
    pictures.draw(600, 600).save(big / "0.png")
    for n in range(1, 600):
        os.link(big / "0.png", big / f"{n}.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "numpy_vit", "embed", big, "-o", tmp_path / "out.npz", "--weights", CLASSIFIER],
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and these tests may be one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journal = tmp_path / "out.npz.partial" / "journal"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    lines = err.splitlines()
    assert re.search(r"out.npz.partial: keeps \d+ of 600 pictures; the same command goes on from there", lines[0])
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert lines[1:] == ["numpy-vit: error: interrupted; no file was left half-written"]
    else:
        assert process.returncode == 128 + signal.SIGTERM and len(lines) == 1
    assert sorted(os.listdir(tmp_path)) == ["out.npz.partial", "pictures"]
    assert sorted(os.listdir(journal.parent)) == ["journal", "rows"]


def test_the_lock_goes_with_the_process(tmp_path):
    """A file that its last owner has removed is not taken for one's own."""
    with open(tmp_path / "journal", "a+b") as first, open(tmp_path / "journal", "a+b") as second:
        assert partial.locked(first) and not partial.locked(second)
        first.close()
        assert partial.locked(second)
        (tmp_path / "journal").unlink()
        assert not partial.locked(second)
