"""numpy-vit bench and what it measures with. Nothing here depends on how long anything takes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from options import OPTIONS, PLAIN

import numpy_vit
from numpy_vit.cli import benchmarking, main
from numpy_vit.cli.bench import print_model
from numpy_vit.config import ViTConfig
from numpy_vit.parameters import folded

from conftest import REPOSITORY


def test_the_report():
    """In a process of its own, since a BLAS reads its number of threads when NumPy is imported."""
    words = ["bench", "digits", "--batch", "2", "--repeat", "1", "--threads", "1", "--by-step", "--memory", "--json"]
    command, env = [sys.executable, "-m", "numpy_vit", *words], {**os.environ, "NUMPY_VIT_THREADS": "3"}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""  # quiet in a pipe
    report = json.loads(done.stdout)
    assert set(report) == {"machine", "dtype", "models"}
    assert report["machine"]["numpy"] == np.__version__ and report["machine"]["cpus"] >= 1
    assert report["machine"]["variables"]["OPENBLAS_NUM_THREADS"] == "1"
    assert report["machine"]["variables"]["NUMPY_VIT_THREADS"] == "1"  # --threads, not the variable
    (model,) = report["models"]
    (result,) = model["results"]
    traced = numpy_vit.trace(numpy_vit.load("digits"), batch=2)
    assert (result["batch"], result["rounds"], result["macs"]) == (2, 1, traced.macs)
    (seconds,), (products,) = (result["all_seconds"][key] for key in ("model", "products"))
    assert result["seconds"] == {"median": seconds, "low": seconds, "high": seconds}
    assert result["ratio_to_products"]["median"] == seconds / products
    assert result["pictures_per_second"] == pytest.approx(2 / seconds)
    assert result["gflops"] == pytest.approx(2 * traced.macs / seconds / 1e9)
    if sys.platform == "linux":  # other systems do not tell; a step of 2 x 65 x 192 float32 is 100 kB
        assert 200_000 < result["memory"] < 20_000_000
    names = list(dict.fromkeys(folded(row.name) for row in traced))
    assert [step["step"] for step in result["steps"]] == names
    assert sum(step["share"] for step in result["steps"]) == pytest.approx(1)
    assert sum(step["macs"] for step in result["steps"]) == traced.macs
    assert 0 < sum(step["seconds"] for step in result["steps"]) <= result["listening_seconds"]["median"]


def test_the_table_fits_80_columns(capsys):
    spread = {"median": 123.4567, "low": 111.1111, "high": 222.2222}
    steps = [{"step": "blocks.*.attention.context", "seconds": 100.0, "share": 1.0, "macs": 10**12}]
    result = {
        "batch": 256, "macs": 10**13, "rounds": 20, "seconds": spread, "pictures_per_second": 1234.5, "gflops": 1234.5,
        "products_seconds": spread, "ratio_to_products": {"median": 12.34}, "memory": 12_345_678_901,
        "listening_seconds": spread, "steps": steps,
    }  # fmt: skip
    config = numpy_vit.variant("ViT-L/16").to_dict()
    print_model({"model": "ViT-L/16", "weights": "seeded", "config": config, "parameters": 304_326_632, "results": [result]})
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "12345.7" in printed and "12.34" in printed and "111111..222222" in printed


@pytest.mark.parametrize("option", ["plain", *OPTIONS])
@pytest.mark.parametrize("threads", [1, 3])
def test_bare_products_are_those_of_the_trace(option, threads):
    """As many multiply-accumulates as the tracer counts, however they are divided; and every number of them is computed."""
    config = ViTConfig(**PLAIN).replace(**OPTIONS.get(option, {}))
    traced = numpy_vit.trace(config, batch=2, dtype="float64")
    bare = benchmarking.BareProducts(traced, threads)
    assert bare.macs == traced.macs
    assert sum(out.size * a.shape[-1] for share in bare.shares for a, b, out in share) == traced.macs
    for share in bare.shares:
        for _, _, out in share:
            out.fill(np.nan)
    bare()
    assert all(np.isfinite(out).all() and out.dtype == np.float64 for share in bare.shares for _, _, out in share)


def test_a_divided_product_is_the_product():
    for a_shape, b_shape in (((7, 5), (5, 3)), ((3, 5), (5, 8)), ((5, 4, 3), (5, 3, 4)), ((2, 3), (3, 1))):
        a, b = (np.random.default_rng(1).normal(size=shape) for shape in (a_shape, b_shape))
        out = np.full((*a_shape[:-1], b_shape[-1]), np.nan)
        for part in benchmarking.divided(a, b, out, 3):
            benchmarking.run_products([part])
        assert np.allclose(out, a @ b, rtol=1e-12)


def test_ratios_are_taken_round_by_round():
    """The second round met a machine half as fast: the ratio of medians would not be 2."""
    model, products = [2.0, 40.0, 6.0], [1.0, 20.0, 3.0]
    assert benchmarking.ratios(model, products) == [2, 2, 2]
    assert benchmarking.ratios([*model, 99.0], products) == [2, 2, 2]
    assert benchmarking.quartiles([1, 2, 3, 4, 100]) == {"median": 3, "low": 2, "high": 4}
    assert benchmarking.quartiles([5, 1, 9]) == {"median": 5, "low": 1, "high": 9}


def test_how_many_rounds():
    assert [benchmarking.wanted_rounds(n, 60.0) for n in (0, 1, 2)] == [3, 3, 3]
    assert benchmarking.wanted_rounds(3, 60.0) <= 3
    assert benchmarking.wanted_rounds(3, 3.0) == 10
    assert benchmarking.wanted_rounds(3, 0.001) == 20


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_memory_of_a_pass_is_seen():
    base = benchmarking.memory_in_use()
    found = benchmarking.pass_memory(lambda: np.ones(40_000_000, np.uint8), base)
    assert 39e6 < found < 60e6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ViT-Q/16"], "'ViT-Q/16' is no variant"),
        (["ViT-B/16", "ViT-Q/16"], "'ViT-Q/16' is no variant"),
        (["digits", "depth=2"], "digits: has weights"),
        (["ViT-B/16", "depth=0"], "depth"),
        (["--batch", "0"], "whole number"),
        (["--batch", "1,x"], "whole number"),
        (["--threads", "0"], "whole number"),
        (["--repeat", "-1"], "--repeat"),
    ],
)
def test_bad_input(words, message, run):
    status, out, err = run("bench", *words, "--json")
    assert status == 2 and out == ""
    assert message in err and "Traceback" not in err
    assert err.count("error: ") == 1


def test_ctrl_c_prints_what_was_measured(capsys, monkeypatch):
    rounds = benchmarking.measure

    def interrupted(model, measurement, *rest):
        if measurement.batch == 2:
            raise KeyboardInterrupt
        rounds(model, measurement, *rest)

    monkeypatch.setattr(benchmarking, "measure", interrupted)
    words = ["bench", "ViT-Ti/16", "depth=1", "image=32", "--repeat", "1", "--batch", "1,2"]
    assert main([*words, "--json"]) == 130
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["interrupted"] and [r["batch"] for r in report["models"][0]["results"]] == [1]
    assert "interrupted" in captured.err
    assert main(words) == 130
    assert "x products" in capsys.readouterr().out
