"""The recipes of docs/recipes.md for ports in narrow arithmetics, run as they stand."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from documents import blocks, code, commands
from litert_graphs import RESOLVERS, Graph

import numpy_vit
from numpy_vit.arithmetic import litert
from numpy_vit.cli import main
from numpy_vit.files.tensorfile import read

from conftest import HERE, REPOSITORY

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
CONFIG = dict(
    image_size=[24, 40], patch_size=8, num_channels=3, hidden_size=30, num_hidden_layers=3, num_attention_heads=5,
    intermediate_size=44, hidden_act="gelu", layer_norm_eps=1e-12, qkv_bias=True,
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def script(name):
    with open(name, "w") as file:
        file.write(code("recipes.md", name))


def follow(first, statuses=()):
    """Run the commands of a block of the recipes -> what each says to stdout; `statuses` of those that do not end with 0."""
    said, statuses = [], dict(statuses)
    for command in commands("recipes.md", first):
        words = command.split()
        if words[0] == "numpy-vit":
            assert main(words[1:]) == statuses.get(words[2], 0), command
        else:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), str(REPOSITORY)))}
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, env=environment)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
    return said


def compared(text):
    """How many steps a check compared, and how many were right."""
    return tuple(map(int, re.search(r"(\d+) of \d+ steps compared, (\d+) right", text).groups()))


# ONNX Runtime


def test_onnx_runtime_static(capsys):
    pytest.importorskip("onnxruntime")
    script("onnx_static.py")
    follow("numpy-vit golden record --weights digits --arithmetic int8-onnx -o measured")
    assert compared(capsys.readouterr().out) == (4, 4)
    dump = dict(np.load("dump.npz"))
    assert dump["blocks.0.mlp.hidden"].dtype == np.int8 and len(np.unique(dump["blocks.0.mlp.hidden"])) > 100
    dump["blocks.0.mlp.hidden"][0, 3, 5] += 1
    np.savez("dump.npz", **dump)
    assert main(["golden", "check", "golden", "dump.npz"]) == 1


def test_onnx_runtime_dynamic(capsys):
    """With uint8 weights exact everywhere; with int8 weights where the processor adds them up without saturating."""
    pytest.importorskip("onnxruntime")
    from test_integers_peers import saturates_here

    script("onnx_dynamic.py")
    (text,) = (text for text in blocks("docs/recipes.md", "json") if "zero point a tensor" in text)
    with open("uint8-dynamic.json", "w") as file:
        file.write(text)
    follow("numpy-vit golden record --weights digits --arithmetic uint8-dynamic.json")
    assert compared(capsys.readouterr().out) == (4, 4)
    follow("numpy-vit golden record --weights digits --arithmetic int8-dynamic", {"check": int(saturates_here())})
    assert compared(capsys.readouterr().out) == ((4, 2) if saturates_here() else (4, 4))


# LiteRT


def mlp_layer(golden, step, weight_of):
    """A FULLY_CONNECTED in the grids of a golden, as a .tflite file has it."""
    with open(f"{golden}/manifest.json") as file:
        grids = json.load(file)["grids"]
    tensors = numpy_vit.load("digits").tensors
    weight, scale_w = litert.quantise_weight(tensors[f"{weight_of}.weight"])
    (scale_x, zero_x), (scale_y, zero_y) = (grids[name][:2] for name in ("blocks.0.norm2", step))
    bias, scale_b = litert.quantise_bias(tensors[f"{weight_of}.bias"], scale_x, scale_w)
    graph = Graph()
    inputs = [
        graph.tensor((65, weight.shape[0]), np.int8, scale_x, zero_x, name="serving_x:0"),
        graph.tensor(weight.T.shape, np.int8, scale_w, 0, weight.T),
        graph.tensor(bias.shape, np.int32, scale_b, 0, bias),
    ]
    y = graph.tensor((65, weight.shape[1]), np.int8, scale_y, zero_y, name="StatefulPartitionedCall:0")
    return graph.operation("FULLY_CONNECTED", inputs, [y], 5, "FullyConnected").content()


@pytest.mark.parametrize(("numerics", "arithmetic"), [("reference", "int8-litert"), ("xnnpack", "int8-litert-xnnpack")])
def test_litert(capsys, numerics, arithmetic):
    pytest.importorskip("ai_edge_litert")
    from test_litert_peers import has_avx2

    if numerics == "xnnpack" and not has_avx2():
        pytest.skip("other processors have other kernels of XNNPACK")
    lines = commands("recipes.md", "numpy-vit golden record --weights model --arithmetic int8-litert")
    script("dump_litert.py")
    with open("names.json", "w") as file:
        json.dump({"serving_x:0": "blocks.0.norm2", "StatefulPartitionedCall:0": "blocks.0.mlp.hidden"}, file)
    for line in lines:
        words = line.replace("--weights model", "--weights digits").replace("int8-litert ", f"{arithmetic} ").split()
        words = [RESOLVERS[numerics] if word == "BUILTIN_REF" else word for word in words]
        if words[0] == "numpy-vit":
            assert main(words[1:]) == 0, line
            if words[-1] == "measured":
                with open("model.tflite", "wb") as file:
                    file.write(mlp_layer("measured", "blocks.0.mlp.hidden", "blocks.0.mlp.hidden"))
        else:
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    assert compared(capsys.readouterr().out) == (2, 2)


# torch


def test_torch_in_bfloat16_and_autocast(capsys):
    import upstream

    pytest.importorskip("transformers")
    upstream.make(3, True, labels=4, **CONFIG).save_pretrained("model")
    np.save("pixels.npy", np.random.default_rng(8).normal(size=(2, 3, 24, 40)).astype(np.float32))
    for name in ("dump_transformers.py", "dump_autocast.py"):
        script(name)
    for arithmetic, dump in (("bfloat16", "bf16.safetensors"), ("autocast", "autocast.safetensors")):
        follow(f"numpy-vit golden record --weights model --pixels pixels.npy --arithmetic {arithmetic}")
        assert compared(capsys.readouterr().out) == (37, 37)
        dtypes = {tensor.dtype for tensor in read(dump)[0].values()}
        assert "BF16" in dtypes and (dtypes == {"BF16"}) == (arithmetic == "bfloat16")
    from safetensors.torch import load_file, save_file

    steps = load_file("bf16.safetensors")
    (norm,) = (name for name in steps if name.endswith("layers.1.layernorm_before"))
    steps[norm] = steps[norm] * 1.05
    save_file(steps, "bf16.safetensors")
    assert main(["golden", "check", "golden-bf16", "bf16.safetensors", "--brief"]) == 1
    assert "blocks.1.norm1: wrong by itself" in capsys.readouterr().out
