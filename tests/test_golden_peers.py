"""Goldens against the libraries that porters use: the recipes of docs/recipes.md, run as they stand."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from documents import code

import numpy_vit
from numpy_vit.cli import main
from numpy_vit.files.converted import Checkpoint, write_converted
from numpy_vit.files.tensorfile import read, tensor_of

from conftest import HERE

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
CONFIG = dict(
    image_size=[24, 40], patch_size=8, num_channels=3, hidden_size=30, num_hidden_layers=3, num_attention_heads=5,
    intermediate_size=44, hidden_act="gelu", layer_norm_eps=1e-12, qkv_bias=True,
)  # fmt: skip


def recipe(tmp_path, name, *arguments, prelude=""):
    script = tmp_path / name
    script.write_text(prelude + code("recipes.md", name))
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def where_the_weights_are(tmp_path, monkeypatch):
    """A manifest's weights are opened below the working folder only."""
    monkeypatch.chdir(tmp_path)


def golden(tmp_path, weights, size=(24, 40), batch=2):
    pixels = np.random.default_rng(8).normal(size=(batch, 3, *size)).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    arguments = ["golden", "record", "--weights", str(weights.relative_to(tmp_path)), "--pixels", str(tmp_path / "pixels.npy")]
    assert main([*arguments, "-o", str(tmp_path / "golden")]) == 0
    return tmp_path / "golden"


def checked(tmp_path, capsys, *options):
    """The exit status of a check, and what it says as data."""
    capsys.readouterr()
    status = main(["golden", "check", str(tmp_path / "golden"), str(tmp_path / "dump.safetensors"), "--json", *options])
    said = capsys.readouterr()
    assert said.err == ""
    return status, json.loads(said.out)


def worst(data):
    compared = [step for step in data["steps"] if step["run"]]
    return max(step["run"]["noises"] for step in compared), max(step["own"]["noises"] for step in compared)


@pytest.mark.parametrize("seed", range(3))
def test_transformers_passes_in_float32_and_bfloat16(tmp_path, capsys, seed):
    import upstream

    upstream.make(seed, True, labels=4, **CONFIG).save_pretrained(tmp_path / "model")
    folder = golden(tmp_path, tmp_path / "model")
    measured = {}
    for dtype in ("float32", "bfloat16", "float16"):
        recipe(tmp_path, "dump_transformers.py", tmp_path / "model", folder, tmp_path / "dump.safetensors", dtype)
        status, data = checked(tmp_path, capsys)
        measured[dtype] = worst(data)
        assert (status, data["format"], data["passed"]) == (0, dtype, True), data["first"]
        assert data["compared"] == 2 + 11 * 3 + 2
    print("transformers, noise floors from the golden and by itself:", measured)


CHANGED = [
    ({"layer_norm_eps": 1e-6}, "blocks.0.norm1", "eps-1e-06"),
    ({"hidden_act": "gelu_pytorch_tanh"}, "blocks.0.mlp.gelu", "activation-gelu_tanh"),
]


@pytest.mark.parametrize("change, step, mistake", CHANGED)
def test_transformers_with_one_thing_changed_fails_at_the_right_step(tmp_path, capsys, change, step, mistake):
    import upstream

    model = upstream.make(5, True, labels=4, **CONFIG)
    model.save_pretrained(tmp_path / "model")
    folder = golden(tmp_path, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **change}))
    recipe(tmp_path, "dump_transformers.py", tmp_path / "model", folder, tmp_path / "dump.safetensors")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    status, data = checked(tmp_path, capsys)
    assert status == 1
    assert data["first"]["step"] == step and data["first"]["verdict"] == "wrong"
    assert main(["golden", "diagnose", str(folder), str(tmp_path / "dump.safetensors"), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert [[m["name"] for m in f["explained"]["mistakes"]] for f in findings] == [[mistake]]
    assert findings[0]["step"] == step


TIMM = """
import torchvision_stub, sys, timm, torch
from safetensors.torch import save_file
torch.manual_seed(0)
model = timm.create_model("test_vit", num_classes=1000)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
save_file({name: value.contiguous() for name, value in model.state_dict().items()}, sys.argv[1])
print(model.patch_embed.img_size[0], model.patch_embed.patch_size[0], model.embed_dim, len(model.blocks),
      model.blocks[0].attn.num_heads, model.blocks[0].norm1.eps, model.blocks[0].mlp.act, model.global_pool)
"""


def converted(timm_file, target, config):
    """timm's tensors under our names, linear weights (in, out)."""
    theirs = {name: tensor.data for name, tensor in read(timm_file)[0].items()}
    ours = {
        "embed.projection.weight": theirs["patch_embed.proj.weight"].reshape(config.width, -1).T,
        "embed.projection.bias": theirs["patch_embed.proj.bias"],
        "embed.class_token": theirs["cls_token"][0, 0],
        "embed.positions": theirs["pos_embed"][0],
        "norm.weight": theirs["norm.weight"],
        "norm.bias": theirs["norm.bias"],
        "head.weight": theirs["head.weight"].T,
        "head.bias": theirs["head.bias"],
    }
    for n in range(config.depth):
        b, names = f"blocks.{n}.", {"attention.output": "attn.proj", "mlp.hidden": "mlp.fc1", "mlp.output": "mlp.fc2"}
        for part, rows in zip(("query", "key", "value"), np.split(np.arange(3 * config.width), 3), strict=True):
            ours[f"{b}attention.{part}.weight"] = theirs[f"{b}attn.qkv.weight"][rows].T
            ours[f"{b}attention.{part}.bias"] = theirs[f"{b}attn.qkv.bias"][rows]
        for our, their in names.items():
            ours[f"{b}{our}.weight"], ours[f"{b}{our}.bias"] = theirs[f"{b}{their}.weight"].T, theirs[f"{b}{their}.bias"]
        for norm in ("norm1", "norm2"):
            ours |= {f"{b}{norm}.{kind}": theirs[f"{b}{norm}.{kind}"] for kind in ("weight", "bias")}
    tensors = {name: tensor_of(np.ascontiguousarray(array)) for name, array in ours.items()}
    write_converted(target, Checkpoint(config, tensors, None, None, {"family": "test"}, []))


def test_timm(tmp_path, capsys):
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-W", "ignore", "-c", TIMM, str(tmp_path / "timm.safetensors")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "No module named 'timm'" in done.stderr:
        pytest.skip("timm is not installed")
    assert done.returncode == 0, done.stderr
    image, patch, width, depth, heads, eps, activation, pooling = done.stdout.split()
    assert (activation, pooling) == ("GELU(approximate='none')", "token")
    config = numpy_vit.variant("ViT-Ti/16").replace(
        image=(int(image), int(image)), patch=int(patch), width=int(width), depth=int(depth), heads=int(heads), eps=float(eps),
        mlp=read(tmp_path / "timm.safetensors")[0]["blocks.0.mlp.fc1.bias"].shape[0],
    )  # fmt: skip
    converted(tmp_path / "timm.safetensors", tmp_path / "converted.safetensors", config)
    folder = golden(tmp_path, tmp_path / "converted.safetensors", size=config.image, batch=1)
    arguments = ("test_vit", tmp_path / "timm.safetensors", folder, tmp_path / "dump.safetensors")
    recipe(tmp_path, "dump_timm.py", *arguments, prelude="import torchvision_stub\n")
    status, data = checked(tmp_path, capsys)
    print("timm", worst(data))
    assert status == 0, data["first"]
    assert data["compared"] == 12 * config.depth + 5


def test_onnx_runtime(tmp_path, capsys):
    import torch

    import upstream

    model = upstream.make(9, True, labels=4, **CONFIG).float()
    model.save_pretrained(tmp_path / "model")
    folder = golden(tmp_path, tmp_path / "model")
    model.set_attn_implementation("eager")
    torch.onnx.export(model, (torch.zeros(2, 3, 24, 40),), str(tmp_path / "vit.onnx"), dynamo=True, verbose=False)
    recipe(tmp_path, "dump_onnx.py", tmp_path / "vit.onnx", folder, tmp_path / "dump.safetensors")
    status, data = checked(tmp_path, capsys)
    print("onnx", worst(data))
    assert status == 0, data["first"]
    assert data["compared"] == 2 + 11 * 3 + 2


def test_vit_b16_of_transformers(tmp_path, capsys):
    """The full size, as transformers initialises it: passes in float32; eps 1e-6 and tanh GELU are told where they start."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(1)
    model = ViTForImageClassification(ViTConfig(num_labels=10, num_hidden_layers=3))
    model.save_pretrained(tmp_path / "model")
    folder = golden(tmp_path, tmp_path / "model", size=(224, 224), batch=1)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    measured = []
    for change, step in (({}, None), *(changed[:2] for changed in CHANGED)):
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **change}))
        recipe(tmp_path, "dump_transformers.py", tmp_path / "model", folder, tmp_path / "dump.safetensors")
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        status, data = checked(tmp_path, capsys)
        measured.append((change, worst(data)))
        assert (status, (data["first"] or {}).get("step")) == (0 if step is None else 1, step)
    print("ViT-B/16 with 3 blocks:", measured)
