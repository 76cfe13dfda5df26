"""MoonViT (Kimi), PaddleOCR-VL, VideoLLaMA 3 and GLM, live: models of transformers, converted by us (`pytest -m peers`)."""

import json
import shutil

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.convert.sources import read_weights
from numpy_vit.files.tensorfile import tensor_of, write
from numpy_vit.models.loading import config_of_content

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = dict(hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=19, head_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0})  # fmt: skip
DEEPSEEK = dict(model_type="deepseek_v3", hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=2, vocab_size=19, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4,
                v_head_dim=4, first_k_dense_replace=1)  # fmt: skip
SIZES = dict(hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=3, patch_size=4)
GLM = dict(hidden_size=24, depth=3, num_heads=3, patch_size=4, image_size=30, out_hidden_size=16, intermediate_size=20)
QWEN2 = {"model_type": "qwen2", **{key: value for key, value in TEXT.items() if key != "rope_parameters"}}
ROPE = {"rope_parameters": {"rope_type": "axial", "rope_theta": 70.0}}
TABLE = {"pos_emb_height": 7, "pos_emb_width": 7}
# transformers' class, the family, the encoder's config, the language model's, the parent's; how many patches merge
CASES = {
    "kimi": ("Kimi_K25", "moonvit", {**SIZES, **TABLE}, DEEPSEEK, {"projection_hidden_size": 24}),
    "kimi, by three": ("Kimi_K25", "moonvit", {**SIZES, **TABLE, **ROPE, "merge_kernel_size": [3, 3], "hidden_act": "gelu"},
                       DEEPSEEK, {"projection_hidden_size": 24, "projection_layer_norm_eps": 1e-3}),
    "paddleocr-vl": ("PaddleOCRVL", "paddleocr-vl", {**SIZES, "image_size": 30}, TEXT, {}),
    "paddleocr-vl, one by one": ("PaddleOCRVL", "paddleocr-vl", {**SIZES, **ROPE, "image_size": 20, "spatial_merge_size": 1,
                                 "layer_norm_eps": 1e-4}, TEXT, {}),
    "video-llama-3": ("VideoLlama3", "video-llama-3", SIZES, QWEN2, {}),
    "video-llama-3, merged": ("VideoLlama3", "video-llama-3", {**SIZES, **ROPE}, QWEN2, {}),
    "glm-4v": ("Glm4v", "glm-4v", GLM, TEXT, {}),
    "glm-4v, biases": ("Glm4v", "glm-4v", {**GLM, **ROPE, "attention_bias": True, "spatial_merge_size": 3,
                                           "rms_norm_eps": 1e-3}, TEXT, {}),
    "glm-4v-moe": ("Glm4vMoe", "glm-4v", GLM, TEXT, {}),
    "glm-4.6v": ("Glm46V", "glm-4v", GLM, TEXT, {}),
    "glm-ocr": ("GlmOcr", "glm-ocr", GLM, TEXT, {}),
    "glm-ocr, no biases": ("GlmOcr", "glm-ocr", {**GLM, **ROPE, "attention_bias": False, "temporal_patch_size": 1}, TEXT, {}),
}  # fmt: skip
PICTURES = ((48, 24), (24, 72), (24, 48))


def built(case):
    import transformers

    name, _, vision, text, parent = CASES[case]
    config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text, attn_implementation="own_dtype",
                                                    **parent)  # fmt: skip
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)


def crooked(case, folder):
    """The model of a case, saved."""
    import multimodal_upstream as up

    model = up.crooked(lambda: built(case))
    up.saved(model, folder)
    if case.endswith("merged"):
        (folder / "preprocessor_config.json").write_text(json.dumps({
            "image_processor_type": "VideoLlama3ImageProcessor", "merge_size": 2, "patch_size": 4,
            "min_pixels": 64, "max_pixels": 6400}))  # fmt: skip
    return model


def tower_of(model):
    """The encoder, its blocks and its last norm."""
    inner = getattr(model, "model", model)
    tower = getattr(inner, "vision_tower", None) or getattr(inner, "visual", None) or getattr(inner, "vision_model", inner)
    trunk = getattr(tower, "vision_model", tower)
    blocks = getattr(trunk, "blocks", None) or getattr(trunk, "layers", None) or trunk.encoder.layers
    return tower, blocks, getattr(trunk, "final_layernorm", None) or trunk.post_layernorm


def rows_of(pixels, case, config):
    """Pixels as the processor of a case lays them, the grid, and upstream's order of the patches."""
    import multimodal_upstream as up
    import torch

    side = config.merger.side if config.merger and not case.startswith(("kimi", "paddle")) else 1
    frames = CASES[case][2].get("temporal_patch_size", 2) if case.startswith("glm") else 1
    rows, grid = up.blocks_of_merged(pixels, config.patch, side, frames)
    if not case.startswith("glm"):
        rows = rows.reshape(-1, config.channels, config.patch, config.patch)
    return rows, grid, up.block_order((grid[0, 1].item(), grid[0, 2].item()), side), torch.tensor([side])


def run(model, case, pixels, config):
    """Its outputs, tokens row by row."""
    import multimodal_upstream as up
    import torch

    rows, grid, order, side = rows_of(pixels, case, config)
    tower, blocks, norm = tower_of(model)
    heard, hooks = [], []
    hooks.append(blocks[0].register_forward_pre_hook(lambda module, given, named: heard.append(
        given[0] if given else named["hidden_states"]), with_kwargs=True))  # fmt: skip
    hooks += [layer.register_forward_hook(lambda module, given, out: heard.append(out)) for layer in (*blocks, norm)]
    extra = {"image_merge_sizes": side} if case.startswith("video") else {}
    with up.everything_in_float64(), torch.inference_mode():
        if tower is model:
            model(rows, grid_thw=grid)
        else:
            tokens = model.model.get_image_features(rows, image_grid_thw=grid, **extra).pooler_output[0]
    for hook in hooks:
        hook.remove()
    states = [up.in_order(x.reshape(-1, x.shape[-1]), order) for x in heard]
    outputs = {"hidden_states": states[:-1], "last_hidden_state": states[-1]}
    return outputs if tower is model else {**outputs, "image_tokens": tokens[None].numpy()}


@pytest.mark.parametrize("case", CASES)
def test_converted_encoders_agree(case, tmp_path):
    import multimodal_upstream as up

    model = crooked(case, tmp_path)
    error = up.agree(tmp_path, lambda pixels, config: run(model, case, pixels, config), PICTURES)
    print(f"{case}: {error:.1e}")
    checkpoint = convert(tmp_path)
    assert checkpoint.source["family"] == CASES[case][1]
    if not case.endswith("merged"):  # which is in no config.json
        assert config_of_content("", json.loads((tmp_path / "config.json").read_text()))[0] == checkpoint.config


@pytest.mark.parametrize("case", ["kimi", "paddleocr-vl", "video-llama-3", "glm-4v", "glm-ocr"])
def test_the_encoder_alone(case, tmp_path):
    """As transformers saves it: without what lies beside it, MoonViT's with heads by halves."""
    import multimodal_upstream as up

    model = crooked(case, tmp_path / "whole")
    tower, _, _ = tower_of(model)
    up.saved(tower, tmp_path / "tower")
    whole, alone = convert(tmp_path / "whole"), convert(tmp_path / "tower")
    assert whole.source["family"] == alone.source["family"] == CASES[case][1]
    glm = case.startswith("glm")  # its merger is in the encoder
    rope = "alternating_halves" if case == "kimi" else whole.config.rope
    wanted = whole.config.replace(merger=whole.config.merger if glm else None, image=alone.config.image, rope=rope)
    assert alone.config == wanted
    pixels = np.random.default_rng(5).normal(size=(1, 3, 24, 48))
    a, b = (m.model("float64")(pixels, record="hidden_states", resize_positions=True) for m in (whole, alone))
    for ours, theirs in zip([*a.hidden_states, a.last_hidden_state], [*b.hidden_states, b.last_hidden_state], strict=True):
        assert np.allclose(ours, theirs, rtol=0, atol=1e-12 * abs(ours).max())


def rewritten(folder, target, names, config):
    """A model with some tensors called otherwise, or left out (None), and config.json rewritten."""
    target.mkdir()
    tensors, _ = read_weights(folder / "model.safetensors")
    for old, new in names:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    write(target / "model.safetensors", tensors, {})
    content = json.loads((folder / "config.json").read_text())
    config(content)
    (target / "config.json").write_text(json.dumps(content))
    return tensors


def same(first, second):
    """Whether two checkpoints are one model."""
    assert first.config == second.config
    assert first.tensors.keys() == second.tensors.keys()
    assert all(np.array_equal(first.tensors[name].data, tensor.data) for name, tensor in second.tensors.items())


def moonshots_own(content):
    """Kimi K2.5's config.json as published."""
    vision = content["vision_config"]
    for plain in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads"):
        vision[f"vt_{plain}"] = vision.pop(plain)
    for axis in ("height", "width", "time"):
        vision[f"init_pos_emb_{axis}"] = vision.pop(f"pos_emb_{axis}")
    for gone in ("rope_parameters", "hidden_act", "model_type"):
        del vision[gone]
    vision |= {"merge_type": "sd2_tpool", "mm_hidden_size": 24, "mm_projector_type": "patchmerger",
               "pos_emb_type": "divided_fixed", "projector_hidden_act": "gelu", "projector_ln_eps": 1e-5,
               "text_hidden_size": 16, "video_attn_type": "spatial_temporal", "_attn_implementation": "eager"}  # fmt: skip
    del content["projection_layer_norm_eps"], content["projection_hidden_size"]


def kimi_vls(content):
    """Kimi-VL's config.json."""
    vision = content["vision_config"]
    for axis in ("height", "width"):
        vision[f"init_pos_emb_{axis}"] = vision.pop(f"pos_emb_{axis}")
    for gone in ("rope_parameters", "hidden_act", "pos_emb_time"):
        del vision[gone]
    vision["model_type"], content["model_type"] = "moonvit", "kimi_vl"
    del content["projection_layer_norm_eps"], content["projection_hidden_size"]


def test_moonshots_own_files(tmp_path):
    crooked("kimi", tmp_path / "whole")
    published = [("vision_tower.encoder.patch_embed", "vision_tower.patch_embed"), ("model.mm_projector", "mm_projector")]
    rewritten(tmp_path / "whole", tmp_path / "k25", published, moonshots_own)
    projector = [("mm_projector.proj.0", "multi_modal_projector.linear_1"), ("mm_projector.pre", "multi_modal_projector.pre"),
                 ("mm_projector.proj.2", "multi_modal_projector.linear_2")]  # fmt: skip
    rewritten(tmp_path / "whole", tmp_path / "vl", published + projector, kimi_vls)
    for theirs in ("k25", "vl"):
        same(convert(tmp_path / "whole"), convert(tmp_path / theirs))


def test_what_transformers_has_in_memory(tmp_path):
    """The whole model's names as they are there, with query and key by halves: the same tokens."""
    model = crooked("kimi", tmp_path / "whole")
    (tmp_path / "memory").mkdir()
    write(tmp_path / "memory" / "model.safetensors",
          {name: tensor_of(x.detach().numpy()) for name, x in model.state_dict().items()}, {})  # fmt: skip
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "memory")
    pixels = np.random.default_rng(5).normal(size=(1, 3, 24, 48))
    a, b = (numpy_vit.load(tmp_path / name, dtype="float64")(pixels).image_tokens for name in ("whole", "memory"))
    assert np.allclose(a, b, rtol=0, atol=1e-13 * abs(a).max())


def test_paddleocr_vls_published_config(tmp_path):
    """The language model's keys lie beside vision_config, whose model_type is the parent's; and tensors nobody uses."""
    crooked("paddleocr-vl", tmp_path / "whole")

    def published(content):
        content |= content.pop("text_config")
        content["model_type"] = content["vision_config"]["model_type"] = "paddleocr_vl"
        content["vision_config"] |= {"temporal_patch_size": 2, "tokens_per_second": 2}
        del content["vision_config"]["rope_parameters"]

    tensors = rewritten(tmp_path / "whole", tmp_path / "hub", [], published)
    inside = "visual.vision_model."
    unused = ("embeddings.packing_position_embedding.weight", "head.probe", "head.attention.in_proj_weight")
    write(tmp_path / "hub" / "model.safetensors",
          {**tensors, **{inside + name: tensor_of(np.ones((2, 24))) for name in unused}}, {})  # fmt: skip
    same(convert(tmp_path / "whole"), convert(tmp_path / "hub"))


REFUSED = [
    ("kimi", {"vision_config": {"merge_kernel_size": [2, 3]}}, "merge_kernel_size .2, 3. is not supported: two equal"),
    ("kimi", {"vision_config": {"merge_kernel_size": None}}, "merge_kernel_size None"),
    ("kimi", {"vision_config": {"pos_emb_width": 9}}, "a table of 7 x 9 positions is not supported"),
    ("kimi", {"vision_config": {"merge_type": "mean"}}, "merge_type 'mean' is not supported: sd2_tpool is"),
    ("kimi", {"vision_config": {"projector_hidden_act": None}}, "projector_hidden_act None is not supported"),
    ("kimi", {"vision_config": {"vt_hidden_size": 24}}, "vt_hidden_size beside hidden_size"),
    ("kimi", {"vision_config": {"qkv_hidden_size": 48}}, "qkv_hidden_size 48 is not known"),
    ("kimi", {"vision_config": {"text_hidden_size": 48}}, "text_hidden_size 48 is not supported: the language model has 16"),
    ("kimi", {"vision_config": {"projector_ln_eps": 0}}, "eps is 0: it must be a number above 0"),
    ("kimi", {"projection_hidden_size": 20}, "a projector of 20 numbers is not supported: the encoder has 24"),
    ("kimi", {"vision_config": None}, "vision_config None: must be a table"),
    ("kimi", {"text_config": None}, "text_config None: must be a table"),
    ("kimi", {"vision_config": {"rope_parameters": {"rope_type": "default", "rope_theta": False}}}, "rope_theta False"),
    ("paddleocr-vl", {"vision_config": {"image_size": 3}}, "image_size is not supported: it is less than a patch"),
    ("paddleocr-vl", {"vision_config": {"image_size": "30"}}, "image_size is '30': it must be a whole number"),
    ("paddleocr-vl", {"vision_config": {"spatial_merge_size": False}}, "spatial_merge_size is False"),
    ("paddleocr-vl", {"vision_config": {"layer_norm_eps": False}}, "eps is False"),
    ("paddleocr-vl", {"vision_config": {"model_type": "siglip_vision_model"}}, "of a kind of its own"),
    ("video-llama-3", {"vision_config": {"image_size": 24}}, "image_size 24 is not known"),
    ("video-llama-3", {"vision_config": {"hidden_act": False}}, "hidden_act False"),
    ("glm-4v", {"vision_config": {"hidden_act": "gelu"}}, "hidden_act 'gelu' is not supported: silu is"),
    ("glm-4v", {"vision_config": {"attention_bias": None}}, "attention_bias is None: it must be true or false"),
    ("glm-4v", {"vision_config": {"temporal_patch_size": False}}, "temporal_patch_size is False"),
    ("glm-4v", {"vision_config": {"head_dim": 8}}, "head_dim 8 is not known"),
    ("glm-ocr", {"vision_config": {"out_hidden_size": 0}}, "out_hidden_size is 0"),
    ("glm-ocr", {"vision_config": {"rope_parameters": {"rope_type": "yarn"}}}, "rope_type 'yarn' is not supported"),
]


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """config.json of the cases."""
    found = {}
    for case in {case for case, _, _ in REFUSED}:
        folder = tmp_path_factory.mktemp("case")
        crooked(case, folder)
        found[case] = (folder / "config.json").read_text()
    return found


@pytest.mark.parametrize(("case", "changes", "message"), REFUSED)
def test_what_is_refused(case, changes, message, contents):
    content = json.loads(contents[case])
    config_of_content("", content)
    for key, value in changes.items():
        content[key] = {**content[key], **value} if key == "vision_config" and value else value
    with pytest.raises(InputError, match=message) as error:
        config_of_content("", content)
    assert "\n" not in str(error.value)


def test_how_many_patches_are_one_token_is_for_the_processor_to_say(tmp_path):
    crooked("video-llama-3, merged", tmp_path)
    assert convert(tmp_path).config.image_tokens == convert(tmp_path).config.patches // 4
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"merge_size": 3}))
    with pytest.raises(InputError, match="merge_size 3 of preprocessor_config.json is not supported: 1 and 2 are"):
        convert(tmp_path)
