"""Whole checkpoints of transformers with a tower that we run, loaded straight from the folder (`pytest -m peers`)."""

import inspect
import json

import numpy as np
import pytest

import numpy_vit
import numpy_vit.models.loading
from numpy_vit import InputError
from numpy_vit.convert import convert_source
from numpy_vit.convert.hugging_face import ACTIVATIONS
from numpy_vit.convert.hugging_face_config import CLASSES, COPIES, ENCODERS, INSIDE, OF_ONE_CLASS, OWN_TOWERS, TOWERS
from numpy_vit.convert.sources import open_source

from conftest import relative_error

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=99,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
SIZES = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, image_size=20, patch_size=4)
DINOV2 = {**{k: v for k, v in SIZES.items() if k != "intermediate_size"}, "mlp_ratio": 3}
OBLONG = {**SIZES, "image_size": (12, 20)}
CLIP, SIGLIP = {**SIZES, "model_type": "clip_vision_model"}, {**SIZES, "model_type": "siglip_vision_model"}
NO_HEAD = {**SIGLIP, "vision_use_head": False}
LLAMA, QWEN2 = {**TEXT, "model_type": "llama"}, {**TEXT, "model_type": "qwen2"}
GEMMA = {**TEXT, "model_type": "gemma", "head_dim": 8}
COHERE2 = {**TEXT, "model_type": "cohere2", "layer_types": ["full_attention"]}
GEMMA3 = {**TEXT, "head_dim": 8, "layer_types": ["full_attention"]}
PLAIN = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
BERT = {**PLAIN, "model_type": "bert"}
NEXT = {"image_grid_pinpoints": [[20, 20]]}
BACKBONE = {"out_indices": [1, 2, 3]}
NECK = dict(neck_hidden_sizes=[4, 4, 4], fusion_hidden_size=4, reassemble_factors=[4, 2, 1], reassemble_hidden_size=24)
DEPTH = {**NECK, "head_hidden_size": 4}
PALIGEMMA = dict(model_type="paligemma", vision_config=NO_HEAD, text_config=GEMMA, projection_dim=16)


def both(vision, text, **others):
    return {"vision_config": vision, "text_config": text, **others}


# class: (config class, what it is made with); the tower is the first module of whose kind `inner` speaks
READ = {
    "AltCLIPModel": ("AltCLIPConfig", both(SIZES, {**PLAIN, "project_dim": 16}, projection_dim=7)),
    "AriaForConditionalGeneration": (
        "AriaConfig",
        both({**SIZES, "model_type": "idefics3_vision"}, {**TEXT, "moe_num_experts": 2}, projector_patch_to_query_dict={25: 4}),
    ),
    "AyaVisionForConditionalGeneration": ("AyaVisionConfig", both(NO_HEAD, COHERE2, downsample_factor=1)),
    "CHMv2ForDepthEstimation": (
        "CHMv2Config",
        {
            "backbone_config": {**OBLONG, "model_type": "dinov3_vit", "num_register_tokens": 2, **BACKBONE},
            "post_process_channels": [4, 4, 4],
            "fusion_hidden_size": 4,
            "reassemble_factors": [4, 2, 1],
            "head_hidden_size": 4,
        },
    ),
    "ChineseCLIPModel": ("ChineseCLIPConfig", both(SIZES, PLAIN, projection_dim=7)),
    "CLIPModel": ("CLIPConfig", both(SIZES, PLAIN, projection_dim=7)),
    "CLIPSegModel": ("CLIPSegConfig", both(SIZES, PLAIN, projection_dim=7)),
    "CLIPSegForImageSegmentation": (
        "CLIPSegConfig",
        both(
            SIZES,
            PLAIN,
            projection_dim=7,
            extract_layers=[0, 1],
            reduce_dim=8,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=8,
        ),
    ),
    "Cohere2VisionForConditionalGeneration": (
        "Cohere2VisionConfig",
        both(NO_HEAD, COHERE2, downsample_factor=1, alignment_intermediate_size=8),
    ),
    "ColPaliForRetrieval": ("ColPaliConfig", {"vlm_config": PALIGEMMA, "embedding_dim": 5}),
    "ColModernVBertForRetrieval": (
        "ColModernVBertConfig",
        {
            "vlm_config": {
                "model_type": "modernvbert",
                **both(
                    NO_HEAD, {**PLAIN, "model_type": "modernbert", "cls_token_id": 1, "sep_token_id": 2}, pixel_shuffle_factor=1
                ),
            },
            "embedding_dim": 5,
        },
    ),
    "DeepseekVLForConditionalGeneration": ("DeepseekVLConfig", both(NO_HEAD, LLAMA)),
    "DeepseekVLHybridForConditionalGeneration": (
        "DeepseekVLHybridConfig",
        both(
            NO_HEAD,
            LLAMA,
            high_res_vision_config=dict(
                model_type="sam_vision_model",
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=32,
                patch_size=4,
                output_channels=4,
                mlp_dim=8,
                global_attn_indexes=[0],
                window_size=2,
            ),
        ),
    ),
    "DepthAnythingForDepthEstimation": (
        "DepthAnythingConfig",
        {"backbone_config": {**DINOV2, "model_type": "dinov2", **BACKBONE}, **DEPTH},
    ),
    "DPTForDepthEstimation": (
        "DPTConfig",
        {**SIZES, "backbone_out_indices": [0, 1, 2, 2], "neck_hidden_sizes": [4, 4, 4, 4], "fusion_hidden_size": 4},
    ),
    "DPTForDepthEstimation dinov2": (
        "DPTConfig",
        {
            "backbone_config": {**DINOV2, "model_type": "dinov2", "reshape_hidden_states": False, **BACKBONE},
            "neck_hidden_sizes": [4, 4, 4],
            "fusion_hidden_size": 4,
            "reassemble_factors": [4, 2, 1],
            "neck_ignore_stages": [],
        },
    ),
    "FlavaModel": ("FlavaConfig", dict(image_config=SIZES, text_config=PLAIN, multimodal_config=PLAIN, projection_dim=7)),
    "FlavaForPreTraining": (
        "FlavaConfig",
        dict(
            image_config=OBLONG,
            text_config=PLAIN,
            multimodal_config=PLAIN,
            projection_dim=7,
            image_codebook_config=dict(hidden_size=4, vocab_size=9, num_blocks_per_group=1),
        ),
    ),
    "Gemma3ForConditionalGeneration": ("Gemma3Config", both(NO_HEAD, GEMMA3, mm_tokens_per_image=25)),
    "Granite4VisionForConditionalGeneration": (
        "Granite4VisionConfig",
        both({**CLIP, "hidden_size": 192}, TEXT, deepstack_layer_map=[[1, 0]], downsample_rate="5/5", **NEXT),
    ),
    "Idefics2ForConditionalGeneration": (
        "Idefics2Config",
        both(
            SIZES,
            {**TEXT, "model_type": "mistral"},
            perceiver_config=dict(
                resampler_n_latents=2, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=4, num_key_value_heads=1
            ),
        ),
    ),
    "Idefics3ForConditionalGeneration": ("Idefics3Config", both(SIZES, LLAMA, scale_factor=1)),
    "LlavaForConditionalGeneration": ("LlavaConfig", both(CLIP, LLAMA)),
    "LlavaForConditionalGeneration siglip": ("LlavaConfig", both(SIGLIP, LLAMA)),
    "LlavaForConditionalGeneration dinov2": ("LlavaConfig", both({**DINOV2, "model_type": "dinov2"}, LLAMA)),
    "LlavaForConditionalGeneration vit": ("LlavaConfig", both({**OBLONG, "model_type": "vit"}, LLAMA)),
    "LlavaForConditionalGeneration beit": (
        "LlavaConfig",
        both({**SIZES, "use_relative_position_bias": True, "model_type": "beit"}, LLAMA),
    ),
    "LlavaNextForConditionalGeneration": ("LlavaNextConfig", both(CLIP, LLAMA, **NEXT)),
    "LlavaNextVideoForConditionalGeneration": ("LlavaNextVideoConfig", both(CLIP, LLAMA, **NEXT)),
    "LlavaOnevisionForConditionalGeneration": ("LlavaOnevisionConfig", both(NO_HEAD, QWEN2, **NEXT)),
    "MetaClip2Model": ("MetaClip2Config", both(SIZES, PLAIN, projection_dim=7)),
    "ModernVBertModel": (
        "ModernVBertConfig",
        both(NO_HEAD, {**PLAIN, "model_type": "modernbert", "cls_token_id": 1, "sep_token_id": 2}, pixel_shuffle_factor=1),
    ),
    "PaliGemmaForConditionalGeneration": ("PaliGemmaConfig", both(NO_HEAD, GEMMA, projection_dim=16)),
    "PI0ForConditionalGeneration": ("PI0Config", {"vlm_config": PALIGEMMA, "dit_config": {**GEMMA, "num_key_value_heads": 1}}),
    "PromptDepthAnythingForDepthEstimation": (
        "PromptDepthAnythingConfig",
        {"backbone_config": {**DINOV2, "model_type": "dinov2", **BACKBONE}, **DEPTH},
    ),
    "ShieldGemma2ForImageClassification": (
        "ShieldGemma2Config",
        both(NO_HEAD, {**GEMMA3, "model_type": "gemma3_text"}, mm_tokens_per_image=25),
    ),
    "SiglipModel": ("SiglipConfig", both(SIZES, PLAIN)),
    "SmolVLMForConditionalGeneration": ("SmolVLMConfig", both(SIZES, LLAMA, scale_factor=1)),
    "T5Gemma2ForConditionalGeneration": (
        "T5Gemma2Config",
        dict(encoder=both(NO_HEAD, GEMMA3, mm_tokens_per_image=25), decoder=GEMMA3),
    ),
    "UltraVBertModel": ("UltraVBertConfig", both(NO_HEAD, PLAIN)),
    "VideoLlavaForConditionalGeneration": ("VideoLlavaConfig", both(CLIP, LLAMA)),
    "VipLlavaForConditionalGeneration": ("VipLlavaConfig", both(CLIP, LLAMA, vision_feature_layers=[-2, -1])),
    "VisionEncoderDecoderModel": (
        "VisionEncoderDecoderConfig",
        dict(encoder={**OBLONG, "model_type": "vit"}, decoder={**BERT, "is_decoder": True, "add_cross_attention": True}),
    ),
    "VisionTextDualEncoderModel": (
        "VisionTextDualEncoderConfig",
        both({**OBLONG, "model_type": "vit"}, BERT, projection_dim=7),
    ),
    "VisionTextDualEncoderModel clip": ("VisionTextDualEncoderConfig", both(CLIP, BERT, projection_dim=7)),
    "ZoeDepthForDepthEstimation": (
        "ZoeDepthConfig",
        {
            "backbone_config": {
                **SIZES,
                "model_type": "beit",
                "use_relative_position_bias": True,
                "reshape_hidden_states": False,
                "out_indices": [0, 1, 2, 3],
            },
            "neck_hidden_sizes": [4, 4, 4, 4],
            "fusion_hidden_size": 4,
            "bottleneck_features": 4,
            "num_relative_features": 4,
            "bin_embedding_dim": 4,
            "patch_transformer_hidden_size": 4,
            "patch_transformer_num_attention_heads": 2,
            "patch_transformer_intermediate_size": 4,
            "num_patch_transformer_layers": 1,
            "num_attractors": [2, 2, 2, 2],
        },
    ),
    "UperNetForSemanticSegmentation": (
        "UperNetConfig",
        {
            "backbone_config": {**SIZES, "model_type": "beit", "use_relative_position_bias": True, "out_indices": [0, 1, 2, 3]},
            "hidden_size": 4,
        },
    ),
    "Lfm2VlForConditionalGeneration": (
        "Lfm2VlConfig",
        both(
            {
                **{k: v for k, v in SIZES.items() if k != "image_size"},
                "num_patches": 25,
                "vision_use_head": False,
                "model_type": "siglip2_vision_model",
            },
            {**TEXT, "model_type": "lfm2", "layer_types": ["full_attention"]},
            downsample_factor=1,
        ),
    ),
    "Siglip2Model": (
        "Siglip2Config",
        both({**{k: v for k, v in SIZES.items() if k != "image_size"}, "num_patches": 25}, PLAIN),
    ),
}
PROJECTORS = ("multi_modal_projector.", "connector.")  # read too, by families that give a language model's tokens
IN_FLOAT32 = ("Dinov2", "Siglip2")  # so they resize positions, whatever the model's dtype
PLACES = ("vision_tower", "image_tower", "vision_model", "image_model", "backbone", "dpt", "encoder")


def made(kind, config, values):
    """A crooked model of transformers'."""
    import transformers

    import upstream

    return upstream.crooked(getattr(transformers, kind)(getattr(transformers, config)(**values)), 0)


def tower_of(model):
    """Its module that sees pictures, in float64."""
    import upstream

    parts = dict(reversed([(name.split(".")[-1], part) for name, part in model.named_modules()]))
    tower = next(parts[place] for place in PLACES if place in parts).double()
    upstream.exact_rotation(tower)
    return tower


def theirs(tower, pixels, resized):
    """The outputs of the tower alone."""
    import torch

    takes = inspect.signature(tower.forward).parameters
    Y, X = pixels.shape[2] // 4, pixels.shape[3] // 4
    values, options = torch.from_numpy(pixels), {}
    if "patch_attention_mask" in takes:
        options["patch_attention_mask"] = torch.ones(len(pixels), Y, X, dtype=torch.bool)
    if "spatial_shapes" in takes:  # SigLIP 2: the patches themselves, rows of (py, px, c)
        values = values.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(len(pixels), Y * X, -1)
        options["pixel_attention_mask"] = torch.ones(len(pixels), Y * X, dtype=torch.long)
        options["spatial_shapes"] = torch.tensor([[Y, X]] * len(pixels))
    kinds = "".join(kind.__name__ for kind in type(tower).__mro__)
    asks = "interpolate_pos_encoding" in takes or any(name in kinds for name in ("CLIP", "Siglip", "ViT"))
    if resized and asks and "spatial_shapes" not in takes:
        options["interpolate_pos_encoding"] = True
    with torch.inference_mode():
        return tower(values, output_hidden_states=True, **options)


def compare(model, tower, image):
    """The worst of all hidden states, and of the last one normed where the tower gives it."""
    pixels = np.random.default_rng(1).normal(size=(2, 3, *image))
    resized = image != model.config.image
    ours, reference = model(pixels, record="hidden_states", resize_positions=resized), theirs(tower, pixels, resized)
    assert len(ours.hidden_states) == len(reference.hidden_states) == 4
    pairs = list(zip(ours.hidden_states, reference.hidden_states, strict=True))
    if getattr(reference, "last_hidden_state", None) is not None:  # a backbone gives maps of features
        pairs.append((ours.last_hidden_state, reference.last_hidden_state))
    return max(relative_error(a, b.numpy()) for a, b in pairs)


class Watched:
    """A tensor of a file that notes when its numbers are asked for."""

    def __init__(self, name, tensor, read):
        self.name, self.tensor, self.read = name, tensor, read
        self.dtype, self.shape = tensor.dtype, tensor.shape

    @property
    def data(self):
        self.read.add(self.name)
        return self.tensor.data

    def to_float(self, dtype):
        self.read.add(self.name)
        return self.tensor.to_float(dtype)


def read_from(folder):
    """What is read of a folder's tensors to make the model: name -> numbers."""
    opened, read = open_source(folder), set()
    tensors = dict(opened.tensors)
    opened.tensors = {name: Watched(name, tensor, read) for name, tensor in tensors.items()}
    convert_source(opened).model("float64")
    return {name: tensors[name].data for name in read}


BESIDE = {"visual_projection.weight"}  # CLIP's image_embedding


@pytest.mark.parametrize("case", READ)
def test_the_tower_of_a_whole_checkpoint(case, tmp_path):
    model = made(case.split()[0], *READ[case])
    model.save_pretrained(tmp_path)
    numbers = {p.detach().numpy().tobytes() for p in tower_of(model).float().parameters()}
    ours, tower = numpy_vit.load(tmp_path, dtype="float64"), tower_of(model)
    assert compare(ours, tower, ours.config.image) < 1e-12
    if ours.config.image == (20, 20):  # theirs cannot resize the positions of any but a square grid
        assert compare(ours, tower, (12, 28)) < (1e-6 if type(tower).__name__.startswith(IN_FLOAT32) else 1e-12)
    read = read_from(tmp_path)
    others = [name for name, data in read.items() if name.split("clip.")[-1] not in BESIDE and data.tobytes() not in numbers]
    others = [name for name in others if not any(projector in name for projector in PROJECTORS)]
    assert not others and len(read) >= len(numbers) - 4  # of a head, a mask token, a pooler not needed


def rewritten(folder, *sections, **changes):
    """Something else in the config.json of a folder."""
    file = folder / "config.json"
    config = part = json.loads(file.read_text())
    for section in sections:
        part = part[section]
    part.update(changes)
    file.write_text(json.dumps(config))


def tower_config_alone(folder, **changes):
    """config.json as somebody writes it who takes the tower for another: no class named, no key that tells."""
    file = folder / "config.json"
    part = json.loads(file.read_text())["vision_config"]
    odd = ("crop_size", "feature_layer", "rope_parameters", "spatial_merge_size", "architectures")
    file.write_text(json.dumps({key: value for key, value in part.items() if key not in odd} | changes))


OTHERS = {
    "git": ("GitForCausalLM", "GitConfig", {"vision_config": SIZES, **PLAIN}, "clip"),
    "phi4_multimodal": ("Phi4MultimodalForCausalLM", "Phi4MultimodalConfig",
                        {"vision_config": {**SIZES, "crop_size": 20}, **TEXT, "audio_config": dict(
                            hidden_size=8, num_blocks=1, num_attention_heads=2, intermediate_size=8, ext_pw_out_channel=8,
                            nemo_conv_channels=8, input_size=16)}, "siglip"),
    "paddleocr_vl": ("PaddleOCRVLForConditionalGeneration", "PaddleOCRVLConfig",
                     both(SIZES, {**TEXT, "head_dim": 8, "rope_parameters": {
                         "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}), "siglip"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_a_tower_of_another_kind_is_refused_whatever_its_config_is_made_to_say(case, tmp_path):
    kind, config, values, claimed = OTHERS[case]
    made(kind, config, values).save_pretrained(tmp_path)
    original = (tmp_path / "config.json").read_text()

    def refused():
        with pytest.raises(InputError) as error:
            numpy_vit.load(tmp_path)
        (tmp_path / "config.json").write_text(original)
        assert "\n" not in str(error.value)
        return str(error.value)

    if case in OWN_TOWERS:
        if case != "paddleocr_vl":  # which has a family of its own
            assert f"'{case}', of its vision_config '{case}" in refused()
        rewritten(tmp_path, "vision_config", model_type=f"{claimed}_vision_model")
        assert f"the vision_config of a {case} is of a kind of its own" in refused()
    else:
        rewritten(tmp_path, "vision_config", model_type=f"{claimed}_vision_model")
        assert convert_source(open_source(tmp_path)).source["family"] == f"hf-{case}"
    rewritten(tmp_path, model_type=claimed, architectures=None)
    assert f"as a {case}'s tower" in refused()
    tower_config_alone(tmp_path, model_type=f"{claimed}_vision_model", vision_use_head=False)
    assert f"as a {case}'s tower" in refused()


DINOV2_PART = {**DINOV2, "model_type": "dinov2"}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "depth_pro", "image_model_config": DINOV2_PART, "patch_model_config": DINOV2_PART},
         r"several towers \(image_model_config, patch_model_config\): save the one that is meant"),
        ({"model_type": "llava", "vision_config": {"model_type": "hiera"}}, "'llava', of its vision_config 'hiera'"),
        ({"model_type": "dpt", "is_hybrid": True, **SIZES}, "a hybrid dpt"),
        ({"model_type": "groupvit", "vision_config": CLIP}, "a groupvit is of a kind of its own"),
    ],
)  # fmt: skip
def test_what_is_not_read_says_why(config, why):
    with pytest.raises(InputError, match=why):
        numpy_vit.trace(write(config))


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(config):
    """A config.json in the test's folder."""
    with open("config.json", "w") as file:
        json.dump(config, file)
    return "config.json"


BESIDE_IT = {"text_config": {"hidden_size": 8}, "mm_tokens_per_image": 49, "scale_factor": 7}  # what image tokens need


@pytest.mark.parametrize("kind", [None, "the model's own"])
@pytest.mark.parametrize("case", sorted(INSIDE))
def test_a_tower_whose_type_is_not_said_is_transformers_default(case, kind):
    """Its type, and every size that config.json does not give, are those that transformers takes."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    key = "image_config" if case == "flava" else "vision_config"
    reference = getattr(CONFIG_MAPPING[case](**{key: {}}), key)
    assert reference.model_type == INSIDE[case]
    part = (
        {"hidden_size": reference.hidden_size} if kind is None else {"hidden_size": reference.hidden_size, "model_type": case}
    )
    config, _ = numpy_vit.models.loading.find_config(write({"model_type": case, key: part, **BESIDE_IT}))
    found = (config.depth, config.heads, config.mlp, config.patch, config.eps)

    def theirs(*names):
        return next(getattr(reference, name) for name in names if hasattr(reference, name))

    ratio = getattr(reference, "mlp_ratio", 0)
    mlp = int(reference.hidden_size * ratio) if ratio else theirs("intermediate_size", "d_ff")
    patch = reference.patch_size if hasattr(reference, "patch_size") else (reference.patch_embed_hidden_size // 3) ** 0.5
    assert found == (reference.num_hidden_layers, reference.num_attention_heads, mlp, patch, reference.layer_norm_eps)
    assert ACTIVATIONS[theirs("hidden_act", "dense_act_fn")] == config.activation


def test_which_towers_are_of_a_class_of_their_own():
    """As the installed transformers has it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    own, known = set(), set()
    for name in CONFIG_MAPPING:
        parts = getattr(CONFIG_MAPPING[name], "sub_configs", None) or {}
        for key in [key for key in TOWERS if key in parts and name not in COPIES and name not in CLASSES]:
            kind = parts[key].__name__ != "AutoConfig" and parts[key].model_type
            if kind:
                (known if kind in COPIES or kind in CLASSES or kind in ENCODERS else own).add(name)
    assert (own, known) == (OWN_TOWERS, set(OF_ONE_CLASS))
