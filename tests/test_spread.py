"""Threads, blocks and chunks change no number beyond rounding, hear every step, and pass on what fails."""

import os

import numpy as np
import pytest

import numpy_vit
from numpy_vit import ops, spread

from conftest import crooked_config, crooked_pixels


@pytest.fixture(params=[(1, False), (2, True), (3, True), (3, False)], ids=lambda p: f"{p[0]} threads{', own products' * p[1]}")
def threads(request, monkeypatch):
    """So many threads, as if the process had been started so."""
    ours = spread.Threads()
    ours.count, ours.own_products = request.param
    monkeypatch.setattr(spread, "THREADS", ours)
    yield ours
    if ours.pool is not None:
        ours.pool.shutdown()


def difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_a_batch_in_chunks_is_the_pictures_one_by_one(threads, batch, monkeypatch):
    monkeypatch.setattr("numpy_vit.model.CHUNK", 40)  # two or three pictures
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(model.config, batch=batch)
    heard = model(pixels, record=True)  # every step whole
    out = model(pixels)
    for name in ("last_hidden_state", "pooled", "logits"):
        assert getattr(out, name).shape == getattr(heard, name).shape
        assert difference(getattr(out, name), getattr(heard, name)) < 1e-13, name


def test_long_sequences_in_parts(threads, monkeypatch):
    monkeypatch.setattr(spread, "BLOCK", 64)
    monkeypatch.setattr(spread, "QUERIES", 7)
    monkeypatch.setattr(spread, "LEAST", 8)
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(model.config, batch=2)
    heard, out = model(pixels, record=True), model(pixels, strict=True)
    assert difference(out.last_hidden_state, heard.last_hidden_state) < 1e-13
    some = model(pixels, record="blocks.*.residual2")  # somebody listens, but not to scores
    assert difference(some.steps["blocks.0.residual2"], heard.steps["blocks.0.residual2"]) < 1e-13


def test_a_record_of_other_steps_does_not_hold_the_scores(monkeypatch):
    parted = []
    monkeypatch.setattr("numpy_vit.model.over_heads", lambda *asked: parted.append(1) or spread.over_heads(*asked))
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(model.config)
    for record, times in (("blocks.*.residual2", 3), ("blocks.1.attention.probs", 2), (True, 0), (lambda *heard: None, 0)):
        parted.clear()
        model(pixels, record=record)
        assert len(parted) == times, record


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_in_blocks(threads, dtype):
    x = np.random.default_rng(0).normal(size=(3, 701, 97)).astype(dtype)
    for function, rest in ((ops.softmax, ()), (ops.standardize, (1e-6,)), (ops.gelu, ()), (ops.quick_gelu, ()), (ops.relu, ())):
        whole = function(x[0, :1], *rest)
        blocks = function(x, *rest)
        assert blocks.dtype == x.dtype and difference(blocks[0, :1], whole) < 4 * np.finfo(dtype).eps, function
        again = x.copy()
        assert function(again, *rest, out=again) is again and np.array_equal(again, blocks), function
        turned = function(x.swapaxes(0, 1), *rest)  # not contiguous
        assert np.array_equal(turned, blocks.swapaxes(0, 1)), function
    w, b = np.random.default_rng(1).normal(size=(97, 203)).astype(dtype), np.arange(203, dtype=dtype)
    assert difference(ops.linear(x, w, b), (x.astype("float64") @ w.astype("float64") + b)) < 64 * np.finfo(dtype).eps


def test_a_failure_is_raised_and_stops_the_rest(threads):
    done = []

    def work(item):
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        spread.each(work, range(1000))
    assert len(done) < 1000
    spread.each(done.append, ["next"])
    assert done[-1] == "next"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork(monkeypatch):
    """A child has none of its parent's threads: it must not wait for them."""
    monkeypatch.setattr(spread.THREADS, "count", 2)
    monkeypatch.setattr(spread.THREADS, "own_products", True)
    spread.each(lambda item: None, range(4))
    child = os.fork()
    if child == 0:
        results = []
        spread.each(results.append, range(4))
        os._exit(0 if sorted(results) == [0, 1, 2, 3] else 1)
    assert os.waitpid(child, 0)[1] == 0
