"""Hugging Face checkpoints in all their spellings, and everything that can be wrong with one."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.convert.hf_vit import TABLE
from numpy_vit.files.tensorfile import Tensor, read, tensor_of, write

import hub_server
from conftest import DATA, relative_error

STORED = np.load(DATA / "classifier.npz")


@pytest.fixture
def folder(tmp_path):
    """A copy of the stored transformers checkpoint."""
    return shutil.copytree(DATA / "classifier", tmp_path / "model")


def rewrite(folder, change, file="model.safetensors"):
    tensors, metadata = read(folder / file)
    tensors = {name: Tensor(t.dtype, np.array(t.data)) for name, t in tensors.items()}
    tensors = change(tensors) or tensors
    write(folder / file, tensors, metadata)


def edit(folder, file="config.json", **changes):
    content = json.loads((folder / file).read_text())
    for key, value in changes.items():
        content.pop(key, None) if value is None else content.update({key: value})
    (folder / file).write_text(json.dumps(content))


def check(source):
    out = numpy_vit.load(source, dtype="float64")(STORED["pixels"])
    assert relative_error(out.last_hidden_state, STORED["norm"]) < 1e-12
    return out


def test_all_metadata_is_read(folder):
    checkpoint = convert(folder)
    assert checkpoint.notes == []
    config = checkpoint.config
    assert (config.image, config.patch, config.heads, config.eps, config.classes) == ((24, 40), 8, 5, 1e-12, 6)
    assert checkpoint.labels == [f"class {n}" for n in range(6)]
    assert (checkpoint.preprocess.size, checkpoint.preprocess.resample) == ((24, 40), "bicubic")
    assert checkpoint.source["name"] == "model"


def in_memory(tensors):
    """As transformers 5 names them in state_dict()."""
    renamed = {}
    for name, tensor in tensors.items():
        for rows in TABLE.by_name.values():
            for n in range(3):
                on_disk, memory = (rows[i].theirs.replace("{n}", str(n)) + "." for i in (0, -1))
                name = name.replace(on_disk, memory)
        renamed[name] = tensor
    assert any("layers.2.mlp.fc2.bias" in name for name in renamed)
    return renamed


def without_prefix(tensors):
    return {name.removeprefix("vit."): tensor for name, tensor in tensors.items()}


def without_head(tensors):
    return {name: tensor for name, tensor in tensors.items() if "classifier" not in name}


def with_pooler(tensors):
    rng = np.random.default_rng(0)
    pooler = {"weight": rng.normal(size=(9, 20)), "bias": rng.normal(size=9)}
    return tensors | {f"vit.pooler.dense.{k}": tensor_of(v) for k, v in pooler.items()}


@pytest.mark.parametrize(
    "changes", [[in_memory], [without_prefix], [without_head], [with_pooler], [in_memory, with_pooler, without_prefix]]
)
def test_every_naming(folder, changes):
    for change in changes:
        rewrite(folder, change)
    out = check(folder)
    assert (out.logits is None) == (without_head in changes)
    assert (out.pooler_output is None) == (with_pooler not in changes)
    if out.logits is not None:
        assert relative_error(out.logits, STORED["logits"]) < 1e-12
    if out.pooler_output is not None:
        pooler = with_pooler({})
        dense = pooler["vit.pooler.dense.weight"].data @ STORED["norm"][:, 0].T
        assert relative_error(out.pooler_output, np.tanh(dense.T + pooler["vit.pooler.dense.bias"].data)) < 1e-12


def test_mask_token_is_left_out_and_said(folder):
    rewrite(folder, lambda t: t | {"vit.embeddings.mask_token": tensor_of(np.zeros((1, 1, 20)))})
    assert "mask_token is left out" in convert(folder).notes[0]


def shard(folder):
    """As save_pretrained splits a large model."""
    tensors, metadata = read(folder / "model.safetensors")
    names = sorted(tensors)
    files = {f"model-0000{n + 1}-of-00003.safetensors": names[n::3] for n in range(3)}
    for file, part in files.items():
        write(folder / file, {name: tensors[name] for name in part}, metadata)
    (folder / "model.safetensors").unlink()
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sorted(files)


@pytest.mark.filterwarnings("ignore:.*tensors are left out")
def test_only_shards_with_tensors_of_the_model_are_read(folder):
    """The language model's need not even be there."""
    files = shard(folder)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["language_model.layers.0.mlp.weight"] = "model-00004-of-00004.safetensors"
    index.write_text(json.dumps(content))
    assert relative_error(check(folder).logits, STORED["logits"]) < 1e-12
    checkpoint = convert(folder)
    assert sorted(checkpoint.source["files"]) == files
    assert any("1 tensors are left out" in note for note in checkpoint.notes)
    content["weight_map"]["vit.embeddings.mask_token"] = files[0]
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match="has no tensor 'vit.embeddings.mask_token', though model.safetensors.index.json"):
        convert(folder)


def test_shards(folder):
    files = shard(folder)
    assert relative_error(check(folder).logits, STORED["logits"]) < 1e-12
    assert sorted(convert(folder).source["files"]) == files
    (folder / files[1]).unlink()
    with pytest.raises(InputError, match=f"{files[1]}: missing, though model.safetensors.index.json lists it"):
        convert(folder)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_an_index_that_points_elsewhere(folder, name):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(InputError, match="points outside the folder"):
        convert(folder)


def test_a_damaged_index(folder):
    shard(folder)
    for text in ("{", "[]", "{}", '{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(InputError, match="not a valid index"):
            convert(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 25}, r"'vit.*|tensor 'embeddings"),
        ({"num_hidden_layers": 2}, "is not used by the model of config.json"),
        ({"num_hidden_layers": 4}, "tensor 'encoder.layer.3.layernorm_before.weight' is missing"),
        ({"num_attention_heads": 3}, "3 heads do not divide the width 20"),
        ({"intermediate_size": 29}, r"'encoder.layer.0.intermediate.dense.weight' is \(28, 20\), config.json says \(29, 20\)"),
        ({"image_size": 24}, r"'embeddings.position_embeddings' is \(1, 16, 20\), config.json says \(1, 10, 20\)"),
        ({"image_size": [24, 7]}, "image width 7 is less than a patch of 8"),
        ({"num_channels": 1}, r"'embeddings.patch_embeddings.projection.weight' is"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not one of gelu"),
        ({"model_type": "swin"}, "of no known family .config.json says model_type 'swin'"),
        ({"qkv_bias": False}, "config.json says qkv_bias False, the tensors say True"),
        ({"id2label": {"0": "a"}}, "does not name the 6 classes"),
        ({"patch_size": [8, 4]}, "only square patches"),
        ({"layer_norm_eps": -1}, "eps is -1"),
        ({"hidden_size": "20"}, "width is '20'"),
    ],
)
def test_a_config_that_contradicts_the_tensors(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(InputError, match=message) as error:
        numpy_vit.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_what_the_config_does_not_say_is_said(folder):
    edit(folder, layer_norm_eps=None, hidden_act=None, id2label=None)
    notes = " / ".join(convert(folder).notes)
    assert "does not say layer_norm_eps: 1e-12, transformers' default for ViT, is used" in notes
    assert "does not say hidden_act: 'gelu'" in notes
    assert "no id2label" in notes
    with pytest.warns(UserWarning, match="does not say layer_norm_eps"):
        numpy_vit.load(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": 40}, ("squash", (40, 40))),
        ({"size": {"shortest_edge": 30}}, ("shortest_edge", 30)),
        ({"size": {"height": 8, "width": 16}}, ("squash", (8, 16))),
        ({"do_resize": False}, ("none", None)),
    ],
)
def test_every_spelling_of_size(folder, changes, expected):
    edit(folder, "preprocessor_config.json", **changes)
    preprocess = convert(folder).preprocess
    assert (preprocess.resize, preprocess.size) == expected


def test_preprocessor_files_of_every_age(folder):
    """The hub's oldest ViT files hold five keys; the rest is what transformers' class says."""
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}
    (folder / "preprocessor_config.json").write_text(json.dumps({**old, "feature_extractor_type": "ViTFeatureExtractor"}))
    checkpoint = convert(folder)
    assert (checkpoint.preprocess.resample, checkpoint.preprocess.scale) == ("bilinear", 1 / 255)
    assert checkpoint.notes == ["preprocessor_config.json does not say resample: 2, transformers' default, is used"]
    (folder / "preprocessor_config.json").write_text(json.dumps({**old, "image_processor_type": "CLIPImageProcessor"}))
    assert convert(folder).preprocess.resample == "bicubic"  # its default is another
    (folder / "preprocessor_config.json").write_text(json.dumps({**old, "image_processor_type": "ResNetImageProcessor"}))
    with pytest.raises(InputError, match="preprocessor_config.json"):
        convert(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"longest_edge": 3}),
        ("size", "big"),
        ("resample", 17),
        ("image_mean", [0.5]),
        ("image_std", 0),
        ("crop_size", 3),
    ],
)
def test_preprocessor_files_that_make_no_sense(folder, key, value):
    edit(folder, "preprocessor_config.json", **{key: value, "do_center_crop": key == "crop_size" and "yes"})
    if key == "crop_size":
        assert convert(folder).preprocess.crop == (3, 3)
        value = {"width": 3}
        edit(folder, "preprocessor_config.json", crop_size=value)
    with pytest.raises(InputError, match="preprocess"):
        convert(folder)


def test_a_model_without_preprocessing_says_so(folder):
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="no preprocessor_config.json"):
        model = numpy_vit.load(folder)
    with pytest.raises(InputError, match="does not say how pictures are prepared"):
        model.preprocess("x.png")
    assert numpy_vit.load(folder, preprocessor=DATA / "classifier" / "preprocessor_config.json").preprocess_policy


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(InputError, match="no model.safetensors in this folder"):
        numpy_vit.load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="pytorch_model.bin: is not a PyTorch checkpoint"):
        numpy_vit.load(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        numpy_vit.load(tmp_path / "absent")
    shutil.copy(DATA / "classifier" / "model.safetensors", tmp_path)
    with pytest.raises(InputError, match="no config.json beside the weights"):
        numpy_vit.load(tmp_path)
    for text in ("{", "[]", "\xff"):
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match=r"config\.json: "):
            numpy_vit.load(tmp_path)


def test_non_finite_weights_of_others(folder):
    def poison(tensors):
        tensors["vit.layernorm.bias"].data[3] = np.nan

    rewrite(folder, poison)
    with pytest.raises(InputError, match="'norm.bias' has NaN or infinite values"):
        numpy_vit.load(folder)


def test_a_dtype_that_is_none():
    for dtype in ("float16", "int8", "nonsense"):
        with pytest.raises(InputError, match="float32, float64 or portable"):
            numpy_vit.load(DATA / "classifier", dtype=dtype)


def test_hub_names_are_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--a-vit"
    shutil.copytree(DATA / "classifier", model / "snapshots" / "0123abc")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abc")
    assert relative_error(check("someone/a-vit").logits, STORED["logits"]) < 1e-12
    check("someone/a-vit@0123abc")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    for name in ("someone/another", "someone/a-vit@v2"):
        with pytest.raises(InputError, match=r"not in the local Hugging Face cache .*: install huggingface_hub"):
            numpy_vit.load(name)


@pytest.mark.peers
def test_hub_names_are_fetched(tmp_path):
    """huggingface_hub itself against a small server that speaks the hub's file URLs."""
    sharded = shutil.copytree(DATA / "classifier", tmp_path / "sharded")
    shard(sharded)
    models = {"someone/a-vit": DATA / "classifier", "someone/sharded": sharded, "someone/empty": tmp_path / "none"}
    models["someone/open-clip"] = DATA / "families" / "open_clip"
    with hub_server.serve(models) as (url, requests):
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_TOKEN": "secret-token"}

        def convert_in_a_process(name, **changes):
            command = [sys.executable, "-m", "numpy_vit", "convert", name, "-o", str(tmp_path / "out.safetensors")]
            return subprocess.run(command, env={**environment, **changes}, capture_output=True, text=True)

        for name in ("someone/a-vit", "someone/sharded"):
            done = convert_in_a_process(name)
            assert done.returncode == 0, done.stderr
            assert relative_error(check(tmp_path / "out.safetensors").logits, STORED["logits"]) < 1e-12
            assert numpy_vit.load(tmp_path / "out.safetensors").source["name"] == name
        assert any(token == "Bearer secret-token" for _, token in requests)
        before = len(requests)
        assert convert_in_a_process("someone/a-vit").returncode == 0  # now from the cache
        assert len(requests) == before
        assert convert_in_a_process("someone/open-clip").returncode == 0  # it has no config.json
        assert numpy_vit.load(tmp_path / "out.safetensors").config.projection == 16
        for name, message in (
            ("someone/empty", "has no config.json and no open_clip_config.json on the hub"),
            ("someone/absent", "someone/absent"),
        ):
            done = convert_in_a_process(name)
            assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
        done = convert_in_a_process("someone/third", HF_HUB_OFFLINE="1")
        assert done.returncode == 2 and "cannot be reached (offline?)" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"image_processor_type": "ConvNextImageProcessor"},
        {"crop_pct": 0.875},
        {"do_pad": True, "pad_size": {"height": 40, "width": 40}},
        {"rescale_offset": True},
        {"resample": []},
        {"resample": {}},
        {"size": True},
        {"crop_size": 3, "do_center_crop": "yes", "surprise": 1},
    ],
)
def test_preprocessing_that_is_not_understood_is_refused(folder, changes):
    edit(folder, "preprocessor_config.json", **changes)
    with pytest.raises(InputError, match="preprocess"):
        convert(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": []},
        {"hidden_act": {}},
        {"patch_size": [[1]]},
        {"patch_size": []},
        {"id2label": True},
        {"id2label": "12"},
        {"qkv_bias": "x"},
    ],
)
def test_config_values_of_the_wrong_kind(folder, changes):
    edit(folder, **changes)
    with pytest.raises(InputError):
        convert(folder)
    from numpy_vit.models.loading import find_config

    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError):
        find_config(str(folder))


def test_json_nested_too_deep(folder):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not valid JSON"):
        convert(folder)


# Keys of config.json


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": False}, "config.json: surprise False is not known"),
        ({"use_swiglu_ffn": True}, "use_swiglu_ffn True is not known"),
        ({"quantization_config": {"bits": 4}}, "quantization_config .* is not known"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads .* is not known"),
        ({"architectures": ["GitVisionModel"]}, "architectures names GitVisionModel, which is no vit"),
        ({"head_dim": 7}, "head_dim 7 is not hidden_size / heads"),
    ],
)
def test_keys_that_nobody_knows_are_refused(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(InputError, match=message):
        convert(folder)


def test_keys_that_change_nothing(folder):
    edit(
        folder,
        pruned_heads={},
        torch_dtype="float16",
        top_k=50,
        _commit_hash="x",
        auto_map={"AutoModel": "x"},
        is_decoder=False,
    )
    (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"is_decoder": false', '"use_cache": null')
    )
    check(folder)


# Prefixes and wrappers


@pytest.mark.parametrize(
    "wrapper",
    ["module.", "_orig_mod.", "module._orig_mod.", "net.", "ema.", "model_state_dict.", "model.vision_tower.", "a.b.c."],
)
def test_what_comes_before_all_names_is_found(folder, wrapper):
    rewrite(folder, lambda tensors: {wrapper + name: tensor for name, tensor in tensors.items()})
    checkpoint = convert(folder)
    assert checkpoint.notes == [f"the names begin with '{wrapper}vit.', which is left off"]
    assert relative_error(checkpoint.model("float64")(STORED["pixels"]).logits, STORED["logits"]) < 1e-12


def test_what_lies_elsewhere_is_left_out_and_said(folder):
    """A training checkpoint with an optimizer, a language model's numbers: another module's, by its name."""

    def change(tensors):
        found = {f"model.{name}": tensor for name, tensor in tensors.items()}
        extra = {"optimizer.state.0.exp_avg": np.zeros(3, "f4"), "model.language.norm.weight": np.zeros(4, "f4")}
        return found | {name: tensor_of(array) for name, array in extra.items()}

    rewrite(folder, change)
    checkpoint = convert(folder)
    assert relative_error(checkpoint.model("float64")(STORED["pixels"]).logits, STORED["logits"]) < 1e-12
    notes = " ".join(checkpoint.notes)
    assert "2 tensors are left out" in notes and "optimizer.state.0.exp_avg" in notes


def test_two_models_in_one_file_are_not_chosen_from(folder):
    rewrite(folder, lambda t: {f"{who}.{n}": x for who in ("model", "model_ema") for n, x in t.items()})
    with pytest.raises(InputError, match="under 'model.vit.' and 'model_ema.vit.': save the one that is meant"):
        convert(folder)


def test_a_tower_in_a_multimodal_config(folder):
    """config.json of another model around it: its vision_config is what counts."""
    inner = json.loads((folder / "config.json").read_text())
    for key in ("architectures", "id2label", "label2id"):
        inner.pop(key, None)
    outer = {"model_type": "some_llm", "architectures": ["SomeLLM"], "vision_config": inner, "text_config": {"x": 1}}
    (folder / "config.json").write_text(json.dumps(outer))
    rewrite(folder, without_head)
    checkpoint = convert(folder)
    assert relative_error(checkpoint.model("float64")(STORED["pixels"]).last_hidden_state, STORED["norm"]) < 1e-12
    assert "its vision_config, a vit" in " ".join(checkpoint.notes)
    outer["vision_config"] = {**inner, "model_type": "swin"}
    (folder / "config.json").write_text(json.dumps(outer))
    with pytest.raises(InputError, match="of no known family .config.json says model_type 'some_llm'"):
        convert(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "clip"}, "vision_config None: a clip's must be a table"),
        ({"model_type": "clip", "vision_config": None}, "vision_config None"),
        ({"model_type": "clip", "vision_config": 3}, "vision_config 3"),
        ({"model_type": "siglip"}, "vision_config None"),
        ({"model_type": "nonsense"}, "of no known family .config.json says model_type 'nonsense'; known"),
        ({}, "its config names no model_type and no architecture"),
        ({"model_type": "dpt", "is_hybrid": True}, "a hybrid dpt"),
    ],
)
def test_configs_alone_that_do_not_say_enough(content, message):
    from numpy_vit.convert import config_of
    from numpy_vit.convert.sources import Source

    with pytest.raises(InputError, match=message) as error:
        config_of(Source("config.json", False, [], {}, {}, content, None), [])
    assert "first tensor" not in str(error.value) and "nearest is" not in str(error.value)


def test_configs_of_timm_and_open_clip_alone():
    from numpy_vit.convert import config_of
    from numpy_vit.convert.sources import Source, open_source, read_json

    families = DATA / "families"
    for case, name in (("timm_eva02", "config.json"), ("timm_siglip", "config.json"), ("open_clip", "open_clip_config.json")):
        alone = Source(name, False, [], {}, {}, read_json(families / case / name), None)
        weights = next(
            f for f in (families / case).iterdir() if "expected" not in f.name and f.suffix in (".safetensors", ".pt")
        )
        assert config_of(alone, []) == convert(weights).config, case
    config = config_of(Source("config.json", False, [], {}, {}, {"architecture": "vit_base_patch16_224"}, None), [])
    assert (config.heads, config.width, config.classes, config.image) == (12, 768, 1000, (224, 224))
    assert open_source(families / "timm_eva02" / "model.safetensors").config["architecture"] == "eva02_base_patch14_224"


def test_labels_with_gaps_are_left_out(folder):
    """BEiT's of ImageNet-22k: as many names as classes, two numbers passed over."""
    edit(folder, id2label={str(n): f"class {n}" for n in (0, 1, 2, 4, 5, 7)})
    checkpoint = convert(folder)
    assert checkpoint.labels is None and "id2label counts with gaps" in " ".join(checkpoint.notes)


def test_a_preprocessor_without_a_type_is_that_of_the_model_type(folder):
    file = "preprocessor_config.json"
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}
    (folder / file).write_text(json.dumps(old))
    checkpoint = convert(folder)
    assert (checkpoint.preprocess.resample, checkpoint.preprocess.size) == ("bilinear", (224, 224))
    assert f"{file} does not say its type: ViTImageProcessor, as transformers has it for vit" in checkpoint.notes
    (folder / file).rename(folder / "absent.json")
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "X", "image_processor": old}))
    assert convert(folder).preprocess == checkpoint.preprocess


def test_defaults_are_not_said_to_be_the_files(folder):
    edit(folder, intermediate_size=None)
    with pytest.raises(
        InputError, match=r"config.json \(or transformers' default for intermediate_size, which it does not give\)"
    ):
        convert(folder)


def test_a_model_type_that_is_stated_is_not_guessed_from_names(tmp_path):
    weights = DATA / "families" / "timm_vit" / "model.safetensors"
    shutil.copy(weights, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "git"}))
    with pytest.raises(InputError, match="of no known family .config.json says model_type 'git'"):
        convert(tmp_path)


def test_decoders_of_training_are_left_out(folder):
    rewrite(
        folder,
        lambda t: {n: x for n, x in t.items() if "classifier" not in n} | {"decoder.0.weight": tensor_of(np.ones((3, 4)))},
    )
    assert "decoder.0.weight is left out" in " ".join(convert(folder).notes)
