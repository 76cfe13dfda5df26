"""The shipped model and its samples."""

import json

import numpy_vit
from numpy_vit.cli import main
from numpy_vit.files.converted import shipped
from numpy_vit.parameters import parameter_count

from conftest import REPOSITORY


def test_the_file_says_everything():
    path = shipped("digits.safetensors")
    assert path.stat().st_size <= 3_000_000
    model = numpy_vit.load(REPOSITORY / "weights" / "digits.safetensors")
    assert model.labels == [str(n) for n in range(10)]
    assert model.config.channels == 3 and min(model.config.grid) >= 8
    accuracy = model.source["accuracy"]
    assert accuracy["right"] / accuracy["pictures"] >= 0.97
    assert "CC BY 4.0" in model.source["data"] and "train_digits.py" in model.source["made by"]
    readme = (REPOSITORY / "weights" / "README.md").read_text()
    assert f"{accuracy['right']} of {accuracy['pictures']}" in readme
    assert f"{parameter_count(model.config):,} parameters" in readme


def test_predict_without_arguments_classifies_the_samples(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--json", "--strict"]) == 0
    rows = json.loads(capsys.readouterr().out)
    truth = [row["image"].replace("\\", "/").split("/")[-2] for row in rows]
    assert truth == [str(n) for n in range(10)]
    assert sum(row["top"][0]["label"] == digit for row, digit in zip(rows, truth, strict=True)) >= 9
    assert main(["predict"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_eval_of_the_samples(capsys):
    assert main(["eval", str(shipped("samples"))]) == 0
    assert "10 pictures, 10 classes" in capsys.readouterr().out


def test_float32_and_float64_say_the_same():
    paths = sorted(shipped("samples").rglob("*.png"))
    fast, accurate = (numpy_vit.load(dtype=dtype) for dtype in ("float32", "float64"))
    a, b = (model(model.preprocess(paths), strict=True).logits for model in (fast, accurate))
    assert (a.argmax(axis=1) == b.argmax(axis=1)).all()
    assert abs(a - b).max() <= 32 * 2**-23 * abs(b).max()
