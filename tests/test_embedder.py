"""numpy_vit.Embedder: small when pickled, the same numbers in every process; and the example that spreads it with Dask."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from options import OPTIONS, PLAIN
from PIL import Image

import numpy_vit
from numpy_vit import Embedder, InputError
from numpy_vit.config import ViTConfig
from numpy_vit.convert import convert
from numpy_vit.files.converted import shipped, write_converted
from numpy_vit.models import embedder, loading
from numpy_vit.pictures.images import SUFFIXES

import pictures
from conftest import DATA, REPOSITORY

CLASSIFIER = DATA / "classifier"
BACKBONE = DATA / "backbone"


@pytest.fixture
def paths(tmp_path):
    found = []
    for n in range(5):
        found.append(tmp_path / f"{n}.png")
        pictures.draw(30 + n, 50 - n).save(found[-1])
    return found


@pytest.fixture(autouse=True)
def nothing_loaded():
    embedder.loaded.cache_clear()


def test_every_kind_of_batch(paths):
    model = numpy_vit.load(CLASSIFIER)
    expected = model(model.preprocess(paths)).pooled
    embed = Embedder(CLASSIFIER)
    arrays = [np.asarray(Image.open(path)) for path in paths]
    for batch in (paths, list(map(str, paths)), [Image.open(path) for path in paths], arrays, iter(paths)):
        found = embed(batch)
        assert found.tobytes() == expected.tobytes() and found.shape == (5, 20) and found.dtype == np.float32
    assert embed(model.preprocess(paths)).tobytes() == expected.tobytes()
    assert embed(paths[0]).shape == (1, 20)
    for dtype in ("float32", "portable"):  # no view, which would keep all tokens in memory
        assert Embedder(CLASSIFIER, dtype=dtype)(paths[:2]).base is None


@pytest.mark.filterwarnings("ignore:.*bare.safetensors")  # what its preprocessor file leaves out
def test_options(paths, tmp_path):
    model = numpy_vit.load(CLASSIFIER, dtype="float64")
    out = model(model.preprocess(paths))
    assert np.array_equal(Embedder(CLASSIFIER, dtype="float64", what="logits")(paths), out.logits)
    assert np.array_equal(Embedder(CLASSIFIER, dtype="float64", what="last_hidden_state")(paths), out.last_hidden_state)
    larger = model(model.preprocess_policy.at_image_size((40, 24))(paths, "float64"), resize_positions=True).pooled
    for weights in (str(CLASSIFIER), model):
        options = {} if weights is model else {"dtype": "float64"}
        assert np.array_equal(Embedder(weights, size=(40, 24), **options)(paths), larger)
    assert Embedder(CLASSIFIER, size=40).size == (40, 40)
    assert Embedder().model.config.classes == 10  # the shipped model
    write_converted(tmp_path / "bare.safetensors", convert(BACKBONE))
    with pytest.raises(InputError, match="does not say how pictures are prepared"):
        Embedder(tmp_path / "bare.safetensors")(paths)
    told = Embedder(CLASSIFIER, preprocessor=CLASSIFIER / "preprocessor_config.json")
    assert np.array_equal(told(paths), Embedder(CLASSIFIER)(paths))
    grey = tmp_path / "grey.json"
    grey.write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 12, "width": 8}, "image_mean": 0.5, "image_std": 0.5}'
    )
    assert Embedder(tmp_path / "bare.safetensors", preprocessor=grey)(paths).shape == (5, 12)
    pooler = Embedder(tmp_path / "bare.safetensors", what="pooler_output")
    pixels = np.random.default_rng(0).normal(size=(2, pooler.model.config.channels, *pooler.model.config.image))
    assert np.array_equal(pooler(pixels), pooler.model(pixels).pooler_output)


def test_what_is_refused(paths, tmp_path):
    for options, message in (
        ({"what": "vectors"}, "what 'vectors' is not one of pooled"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"size": (0, 3)}, "give \\(height, width\\)"),
        ({"size": "32"}, "give \\(height, width\\)"),
        ({"weights": 3}, "weights are 3: give a file"),
        ({"weights": numpy_vit.load(), "dtype": "float32"}, "a loaded model has its dtype"),
    ):
        with pytest.raises(InputError, match=message):
            Embedder(**options)
    for embed, batch, message in (
        (Embedder(tmp_path / "absent"), paths, "absent: no such file or folder"),
        (Embedder(CLASSIFIER, what="pooler_output"), paths, "this model has no pooler_output"),
        (Embedder(CLASSIFIER, size=(30, 30)), paths, "not a multiple of the patch size"),
        (Embedder(CLASSIFIER), [*paths, tmp_path / "gone.png"], "gone.png: no such file"),
        (Embedder(CLASSIFIER), [], "no picture given"),
        (Embedder(CLASSIFIER), np.full((1, 3, *numpy_vit.load(CLASSIFIER).config.image), np.nan), "NaN or infinite"),
    ):
        with pytest.raises(InputError, match=message) as error:
            embed(batch)
        assert "\n" not in str(error.value)
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # it comes back from another process


def test_no_output_may_be_other_than_numbers():
    """Whichever is asked for: an embedding that overflows where the last hidden state does not."""
    model = numpy_vit.random_model(ViTConfig(**{**PLAIN, **OPTIONS["CLIP"]}))
    pixels = np.random.default_rng(0).normal(size=(1, 3, 12, 20)).astype(np.float32)
    assert embedder.outputs(model, pixels, name="clip").image_embedding.shape == (1, 7)
    tensors = {**model.tensors, "projection.weight": np.full_like(model.tensors["projection.weight"], 3e38)}
    with pytest.raises(InputError, match="clip: gives NaN or infinite numbers"):
        embedder.outputs(numpy_vit.ViT(model.config, tensors), pixels, name="clip")


def test_pickled_it_is_small_and_copies_share_one_model(paths):
    embed = Embedder(CLASSIFIER)
    assert len(pickle.dumps(embed)) < 400 + len(str(CLASSIFIER))
    expected = embed(paths)
    assert len(pickle.dumps(embed)) < 400 + len(str(CLASSIFIER))  # after a call as well
    again = pickle.loads(pickle.dumps(embed))
    assert again == embed and hash(again) == hash(embed) and np.array_equal(again(paths), expected)
    assert again.model is embed.model is Embedder(CLASSIFIER, what="logits", size=40).model is copy.deepcopy(embed).model
    assert Embedder(CLASSIFIER, dtype="float64").model is not embed.model
    weight = Embedder().model.tensors["head.weight"]
    assert not weight.flags.owndata and not weight.flags.writeable  # the file's memory map, shared by all processes


def test_threads_load_it_once(monkeypatch):
    loads = []
    load = loading.load
    monkeypatch.setattr(loading, "load", lambda *words, **options: loads.append(words) or load(*words, **options))
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: Embedder(CLASSIFIER).model, range(8)))
    assert len(loads) == 1 and all(model is models[0] for model in models)


def test_a_loaded_model_works_here_and_is_not_pickled(paths):
    model = numpy_vit.load(CLASSIFIER)
    embed = Embedder(model)
    assert embed.model is model and np.array_equal(embed(paths), Embedder(CLASSIFIER)(paths))
    with pytest.raises(InputError, match="cannot be pickled: make it from the model's file"):
        pickle.dumps(embed)


def test_in_a_spawned_process_with_another_working_folder(paths, tmp_path, monkeypatch):
    """Unpickling loads nothing, NumPy least of all; a relative name means the file it meant."""
    monkeypatch.chdir(CLASSIFIER.parent)
    embed = Embedder("classifier", what="logits")
    code = """
import pickle, sys
embed = pickle.load(sys.stdin.buffer)
early = [name for name in ("numpy", "PIL", "safetensors") if name in sys.modules]
pickle.dump((early, embed(sys.argv[1:])), sys.stdout.buffer)
"""
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)],
        input=pickle.dumps(embed),
        capture_output=True,
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr.decode()
    early, found = pickle.loads(done.stdout)
    assert early == [] and found.tobytes() == embed(paths).tobytes()


@pytest.mark.peers
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_dask_gives_the_same_bits(suffix, tmp_path):
    """docs/dask_embed.py on the shipped samples, four times over, in a local cluster of two processes."""
    pytest.importorskip("distributed")
    samples = [path for path in sorted(shipped("samples").rglob("*")) if path.suffix in SUFFIXES]
    (tmp_path / "pictures").mkdir()
    for n in range(4 * len(samples)):
        os.symlink(samples[n % len(samples)].absolute(), tmp_path / "pictures" / f"{n:02}.png")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    folder, target, sequential = (str(tmp_path / name) for name in ("pictures", f"dask{suffix}", f"one{suffix}"))
    example = [sys.executable, str(REPOSITORY / "docs/dask_embed.py"), folder, "-o", target, "--processes", "2"]
    done = subprocess.run(example, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0 and f"{4 * len(samples)} pictures" in done.stderr, done.stderr
    command = [sys.executable, "-m", "numpy_vit", "embed", folder, "-o", sequential]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    found, expected = np.load(target), np.load(sequential)
    if suffix == ".npy":
        found, expected = {"embeddings": found}, {"embeddings": expected}
    else:
        assert list(found["images"]) == list(expected["images"])
    assert found["embeddings"].dtype == expected["embeddings"].dtype
    assert found["embeddings"].tobytes() == expected["embeddings"].tobytes()
    # A picture that cannot be read: one line, status 1, the old result as it was.
    (tmp_path / "pictures" / "zz.png").write_bytes(b"")
    before = Path(target).read_bytes()
    done = subprocess.run(example, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].endswith("zz.png: the file is empty (0 bytes)")
    assert Path(target).read_bytes() == before


WORKERS = """
import os
from dask.distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        print(*client.run(os.environ.get, "OPENBLAS_NUM_THREADS").values())
"""


@pytest.mark.peers
def test_dask_starts_processes_with_one_blas_thread(tmp_path):
    """docs/embedding.md says so; and that what is set already stays."""
    pytest.importorskip("distributed")
    (tmp_path / "workers.py").write_text(WORKERS)
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    for given, expected in (({}, "1 1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2 2")):
        command = [sys.executable, str(tmp_path / "workers.py")]
        done = subprocess.run(command, capture_output=True, text=True, env={**environment, **given}, timeout=300)
        assert done.stdout.split() == expected.split(), done.stderr
