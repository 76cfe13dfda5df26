"""Published ViT files as they really are, one row a case: each loads with its outputs compared, or is refused for its reason.

Nothing is downloaded: the rows rebuild, in small, what published files were seen to hold (tests/published.py has the means).
The sections are those of the survey they come from, whose numbers stand in brackets: 1 Hugging Face weights, 2 config.json,
3 preprocessor_config.json, 4 PyTorch files, 5 CLIP's files, 6 Google's .npz, 7 what is rightly refused; and 8, of our own
imagination.
"""

import dataclasses
import sys
from typing import Any

import numpy as np
import published as p
import pytest
import test_torchfile as pickles
from published import (
    as_npz,
    as_safetensors,
    as_torch,
    beside,
    cached,
    extra,
    file,
    indexed,
    inside,
    must_be,
    no_file,
    option,
    preprocessor,
    renamed,
    rounded,
    says,
    says_not,
    sharded,
    source,
    told,
    without,
)  # fmt: skip

from numpy_vit import InputError
from numpy_vit.convert import convert, timm_models
from numpy_vit.convert.preprocessing import CLIP, HALF, IMAGENET


@dataclasses.dataclass
class Row:
    section: int
    name: str
    base: str
    steps: tuple[p.Step, ...]
    refused: str = ""  # a part of the message
    notes: str = ""  # or of what is said of it
    labels: Any = ...  # or the class names that come out, if they are not the base's
    pictures: dict[str, Any] = dataclasses.field(default_factory=dict)  # or fields of Preprocess


ROWS: list[Row] = []


def row(section: int, name: str, base: str, *steps: p.Step, **outcome: Any) -> None:
    ROWS.append(Row(section, name, base, steps, **outcome))


IDS_77 = np.arange(77)[None]
IDS_16 = np.arange(16)[None]
TEXT = extra(
    text_model__embeddings__token_embedding__weight=(9, 4), text_model__final_layer_norm__weight=(4,),
    text_projection__weight=(7, 4),
)  # fmt: skip
TWO_TOWERS = (TEXT, extra(logit_scale=()), inside("clip", text_config={"model_type": "clip_text_model"}, projection_dim=7))
SIGLIP_TOWERS = (
    extra(text_model__head__weight=(4, 4), logit_scale=(1,), logit_bias=(1,)),
    inside("siglip", text_config={"model_type": "siglip_text_model"}),
    says(architectures=["SiglipModel"]),
)
CLIP_MODEL = says(architectures=["CLIPModel"])
BEIT_INDEX = "relative_position_index"
TABLES = r"(.*\.)?relative_position_bias_table"


def shared_table(draft):
    """One table for all blocks, as before fine-tuning."""
    for tensors, pattern, one in (
        (draft.tensors, r"(.*encoder\.)layer\.\d+\.attention\.attention\.(relative_position_bias\..*_table)", r"\1\2"),
        (draft.tensors, r"blocks\.\d+\.attn\.(relative_position_bias_table)", r"rel_pos_bias.\1"),
    ):
        for name in list(tensors):
            if p.re.fullmatch(pattern, name):
                tensors[p.re.sub(pattern, one, name)] = tensors.pop(name)
    names = [name for name in draft.expected.tensors if name.endswith("relative_positions")]
    draft.expected.tensors = draft.expected.tensors | dict.fromkeys(names, draft.expected.tensors[names[-1]])


PRETRAINED_BEIT = (
    shared_table,
    renamed(r"^(?!layernorm)", "beit."),
    extra(lm_head__weight=(9, 24), lm_head__bias=(9,), beit__embeddings__mask_token=(1, 1, 24)),
    indexed(TABLES, BEIT_INDEX),
    says(architectures=["BeitForMaskedImageModeling"], use_relative_position_bias=False,
         use_shared_relative_position_bias=True, use_mask_token=True, vocab_size=9),
)  # fmt: skip
# ViTForMaskedImageModeling, and the decoders of others
MIM = (
    renamed("^", "vit."),
    extra(decoder__0__weight=(48, 24, 1, 1), decoder__0__bias=(48,), vit__embeddings__mask_token=(1, 1, 24)),
    says(architectures=["ViTForMaskedImageModeling"], encoder_stride=4),
)


# fmt: off


def hugging_face_weights() -> None:
    row(1, "CLIP of both towers with position_ids (27)", "clip projected", *TWO_TOWERS, CLIP_MODEL,
        extra(text_model__embeddings__position_ids=IDS_77, vision_model__embeddings__position_ids=IDS_16))
    row(1, "SigLIP of both towers with position_ids (31)", "siglip", *SIGLIP_TOWERS,
        extra(text_model__embeddings__position_ids=IDS_77, vision_model__embeddings__position_ids=IDS_16))
    row(1, "SigLIP's picture tower with position_ids (32)", "siglip", extra(vision_model__embeddings__position_ids=IDS_16))
    row(1, "image_encoder with position_ids (34, C2)", "clip projected", extra(vision_model__embeddings__position_ids=IDS_16))
    row(1, "the same without a projection", "clip", extra(vision_model__embeddings__position_ids=IDS_16))
    row(1, "position_ids of one axis, without a prefix", "clip", renamed(r"^vision_model\.", ""),
        extra(embeddings__position_ids=np.arange(16)))
    row(1, "CLIP of both towers, as saved since 4.31", "clip projected", *TWO_TOWERS, CLIP_MODEL)
    row(1, "CLIP's logit_scale is ()", "clip projected", *TWO_TOWERS, CLIP_MODEL, extra(logit_scale=()))
    row(1, "SigLIP's logit_scale and logit_bias are (1,)", "siglip", *SIGLIP_TOWERS)
    row(1, "BEiT with relative_position_index in every block (17)", "beit", indexed(TABLES, BEIT_INDEX))
    row(1, "BEiT before fine-tuning: one table, its index, lm_head, mask_token (19, 58)", "beit pretrained", *PRETRAINED_BEIT)
    row(1, "timm's BEiT with relative_position_index (57)", "timm_beit", indexed(TABLES, BEIT_INDEX))
    row(1, "BEiT's index in pytorch_model.bin (18)", "beit", indexed(TABLES, BEIT_INDEX), as_torch("pytorch_model.bin"))
    row(1, "CLIP's position_ids in pytorch_model.bin (20)", "clip", extra(vision_model__embeddings__position_ids=IDS_16),
        as_torch("pytorch_model.bin"))
    row(1, "SigLIP's position_ids in pytorch_model.bin (28)", "siglip", extra(vision_model__embeddings__position_ids=IDS_16),
        as_torch("pytorch_model.bin"))
    row(1, "an integer tensor in the text tower (69)", "clip projected", *TWO_TOWERS, CLIP_MODEL,
        extra(text_model__embeddings__token_type_ids=IDS_77))
    row(1, "a truth value in the text tower (B20)", "clip projected", *TWO_TOWERS, CLIP_MODEL,
        extra(text_model__attn_mask=np.ones((2, 2), bool)))
    row(1, "an integer tensor that is needed", "vit", extra(vit__embeddings__cls_token=np.ones((1, 1, 24), int)),
        refused="is I64: weights are")
    row(1, "a classifier: head beside, trunk under vit. (1)", "vit")
    row(1, "a classifier without any prefix, as convert --to hf writes it", "vit", renamed(r"^vit\.", ""))
    row(1, "a backbone without prefix and with pooler: google/vit-*-in21k", "vit pooler")
    row(1, "a backbone without pooler: DINO", "vit backbone")
    row(1, "a masked-image model with decoder.0 (61)", "vit backbone", *MIM)
    row(1, "MAE of pre-training: vit.* and decoder.*", "vit backbone", renamed("^", "vit."),
        extra(decoder__mask_token=(1, 1, 8), decoder__decoder_pred__weight=(48, 8), decoder__decoder_pos_embed=(1, 16, 8)),
        says(model_type="vit_mae", architectures=["ViTMAEForPreTraining"], mask_ratio=0.75, norm_pix_loss=False,
             decoder_hidden_size=8))
    row(1, "MAE's encoder alone", "vit backbone", says(model_type="vit_mae", architectures=["ViTMAEModel"]))
    row(1, "DINOv2 with mask_token (1, D)", "dinov2", extra(embeddings__mask_token=(1, 24)))
    row(1, "DINOv2's classifier", "dinov2 classifier", extra(dinov2__embeddings__mask_token=(1, 24)))
    row(1, "DINOv2 with registers and mask_token", "dinov2 registers", extra(embeddings__mask_token=(1, 24)))
    row(1, "DINOv3: layer.N as on the hub (24)", "dinov3")
    row(1, "DINOv3: model.layer.N as in memory (25)", "dinov3", renamed(r"^layer\.", "model.layer."))
    row(1, "DINOv3 with inv_freq (26)", "dinov3", extra(rope_embeddings__inv_freq=(2,)))
    row(1, "DeiT, classifier", "deit")
    row(1, "DeiT with teacher: cls_classifier, distillation_classifier", "deit teacher")
    row(1, "DeiT of masked-image training", "deit", without(r"classifier\..*"), must_be(classes=0),
        extra(decoder__0__weight=(48, 24, 1, 1), deit__embeddings__mask_token=(1, 1, 24)),
        says(architectures=["DeiTForMaskedImageModeling"]))
    row(1, "metadata: none", "vit", as_safetensors())
    row(1, "metadata: {'format': 'pt'}", "vit", as_safetensors(format="pt"))
    row(1, "metadata: {'format': 'flax'}, and more", "vit", as_safetensors(format="flax", license="mit"))
    row(1, "third parties' F16 (60)", "vit", rounded("F16"))
    row(1, "third parties' BF16 (B26)", "clip projected", rounded("BF16"))
    row(1, "a folder with pytorch_model.bin alone (B22)", "clip projected", as_torch("pytorch_model.bin"))
    row(1, "the same beside tf_model.h5 and flax_model.msgpack", "clip projected", as_torch("pytorch_model.bin"),
        file("tf_model.h5", b"\x89HDF\r\n"), file("flax_model.msgpack", b"\x80"))
    row(1, "a cached hub name with pytorch_model.bin alone (B25, C1)", "clip projected", as_torch("pytorch_model.bin"),
        cached("openai/clip-vit-base-patch32"))
    row(1, "a cached hub name with model.safetensors beside a .bin", "vit", cached("google/vit-base-patch16-224"),
        file("pytorch_model.bin", b"not looked at"))
    row(1, "a sharded pytorch_model.bin with its index (7, F4)", "clip projected", sharded(".bin"))
    row(1, "the same as a cached hub name", "clip projected", sharded(".bin"),
        cached("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"))
    row(1, "a shard of it is missing", "clip projected", sharded(".bin", missing=True),
        refused="missing, though pytorch_model.bin.index.json lists it")
    row(1, "one shard named alone (68)", "clip projected", sharded(".bin"), source("pytorch_model-00001-of-00002.bin"),
        refused="is one of 2 files that hold a model together: give their folder")
    row(1, "sharded safetensors with their index: DINOv3 7B", "dinov3", sharded(".safetensors"))
    row(1, "a shard of these is missing", "dinov3", sharded(".safetensors", missing=True), refused="lists it: download it too")
    row(1, "Hugging Face's and open_clip's files side by side: laion/*", "clip projected",
        file("open_clip_pytorch_model.bin", b"not looked at"), file("open_clip_config.json", {"model_cfg": {"embed_dim": 7}}))
    row(1, "num_batches_tracked (74)", "vit", extra(head__num_batches_tracked=np.array(5)))


OLD_VIT = ("qkv_bias", "pooler_output_size", "pooler_act", "dtype", "encoder_stride")
GENERATION = dict(
    top_k=50, top_p=1.0, is_decoder=False, temperature=1.0, num_beams=1, max_length=20, min_length=0, do_sample=False,
    bad_words_ids=None, bos_token_id=None, eos_token_id=None, id2label={"0": "LABEL_0", "1": "LABEL_1"},
    label2id={"LABEL_0": 0, "LABEL_1": 1}, return_dict=True, torchscript=False, use_bfloat16=False, pruned_heads={},
    _name_or_path="", tie_word_embeddings=True, transformers_version="4.16.0.dev0", dropout=0.0, torch_dtype=None,
    typical_p=1.0, remove_invalid_values=False, cross_attention_hidden_size=None, prefix=None, problem_type=None,
)  # fmt: skip
NAMES_WITH_GAPS = {str(n): f"class {n}" for n in (0, 1, 2, 4, 6)}
TIMM_TOP = ("architecture", "num_features", "num_classes", "global_pool")


def old_timm(draft):
    """All keys of pretrained_cfg at the top, beside architecture and num_features."""
    found = draft.files["config.json"]
    draft.files["config.json"] = {**{k: found[k] for k in (*TIMM_TOP, "model_args")}, **found["pretrained_cfg"]}


def config_dict(**changes):
    """vision_config_dict with all of vision_config, and these changes."""

    def change(draft):
        config = draft.files["config.json"]
        config["vision_config_dict"] = {**config["vision_config"], **changes}

    return change


def config_files() -> None:
    row(2, "ViT of 2021: no qkv_bias, pooler, dtype, num_labels", "vit", says_not(*OLD_VIT),
        says(transformers_version="4.6.0.dev0", attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
             initializer_range=0.02))
    row(2, "ViT of 2022: torch_dtype", "vit", says_not("dtype"), says(torch_dtype="float32", encoder_stride=16))
    row(2, "ViT of today", "vit", says(dtype="float32", transformers_version="5.24.0", pooler_act="tanh",
        pooler_output_size=24))
    row(2, "an in21k backbone that lists 21,843 labels", "vit pooler", says(id2label={str(n): f"n{n}" for n in range(21_843)}))
    row(2, "an in21k backbone that lists none", "vit pooler", says_not("id2label", "label2id"))
    row(2, "BEiT fine-tuned: pool_scales, segmentation_indices, legacy keys", "beit",
        says(pool_scales=[1, 2, 3, 6], segmentation_indices=[3, 5, 7, 11], vocab_size=8192, use_auxiliary_head=True,
             use_shared_relative_position_bias=False, use_mask_token=False, drop_path_rate=0.1))
    row(2, "BEiT fine-tuned: these may be missing", "beit", says_not("dtype"))
    row(2, "BEiT's 21,841 names with two numbers left out (G1)", "beit", says(id2label=NAMES_WITH_GAPS), labels=None,
        notes="id2label counts with gaps")
    row(2, "CLIP with all the keys of text generation, transformers_version null", "clip projected", says(**GENERATION),
        *TWO_TOWERS, CLIP_MODEL, says(transformers_version=None, logit_scale_init_value=2.6592, initializer_factor=1.0))
    row(2, "CLIP: text_config_dict and vision_config_dict null", "clip projected", *TWO_TOWERS, CLIP_MODEL,
        says(text_config_dict=None, vision_config_dict=None))
    row(2, "CLIP: vision_config_dict has the sizes again", "clip projected", *TWO_TOWERS, CLIP_MODEL, config_dict(),
        says(text_config_dict={"hidden_size": 4}))
    row(2, "CLIP: vision_config_dict says otherwise, and wins", "clip projected", *TWO_TOWERS, CLIP_MODEL,
        config_dict(layer_norm_eps=1e-3), must_be(eps=1e-3))
    row(2, "CLIP: vision_config_dict alone (29)", "clip projected", *TWO_TOWERS, CLIP_MODEL, config_dict(),
        says_not("vision_config"))
    row(2, "CLIP: vision_config null beside it", "clip projected", *TWO_TOWERS, CLIP_MODEL, config_dict(),
        says(vision_config=None))
    row(2, "CLIP without any vision_config", "clip projected", *TWO_TOWERS, CLIP_MODEL, says_not("vision_config"),
        refused="vision_config None: a clip's must be a table of sizes")
    row(2, "CLIP without num_channels, as the oldest", "clip projected", says_not("num_channels"), *TWO_TOWERS, CLIP_MODEL,
        notes="does not say num_channels: 3")
    row(2, "CLIP's projection_dim only around the towers", "clip projected", says_not("projection_dim"), *TWO_TOWERS,
        CLIP_MODEL)
    row(2, "SigLIP: a sparse vision_config", "siglip", says_not("hidden_act", "layer_norm_eps", "num_channels"), *SIGLIP_TOWERS,
        notes="does not say hidden_act: 'gelu_pytorch_tanh'")
    row(2, "SigLIP: a size it leaves out is not that of these weights", "siglip", says_not("hidden_size"), *SIGLIP_TOWERS,
        refused="transformers' default for")
    row(2, "SigLIP so400m: the patch does not divide the image, 384 // 14 = 27", "siglip ragged")
    row(2, "SigLIP 2 of fixed size says siglip", "siglip", *SIGLIP_TOWERS)
    row(2, "SigLIP 2 NaFlex with num_patches", "siglip square", naflex,
        says(model_type="siglip2_vision_model", num_patches=16, architectures=["Siglip2VisionModel"]), says_not("image_size"),
        must_be(position_rule="bilinear_antialias", any_size=True))
    row(2, "SigLIP 2 NaFlex: num_patches is no square", "siglip square", naflex, says_not("image_size"),
        says(model_type="siglip2_vision_model", num_patches=15, architectures=["Siglip2VisionModel"]), refused="num_patches 15")
    row(2, "timm's config of today", "timm_vit", pictures=dict(size=(13, 17), crop=(12, 16)))
    row(2, "timm's distilled DeiT: crop_pct .9, as its config says", "timm_deit_distilled",
        pictures=dict(size=(13, 17), crop=(12, 16)))
    row(2, "timm's with label_names (B17)", "timm_vit", says(label_names=p.LABELS), labels=p.LABELS)
    row(2, "timm's with label_names and label_descriptions", "timm_vit",
        says(label_names=p.LABELS, label_descriptions={name: name.upper() for name in p.LABELS}), labels=p.LABELS)
    row(2, "timm's label_names as a table", "timm_vit", says(label_names={str(n): name for n, name in enumerate(p.LABELS)}),
        labels=p.LABELS)
    row(2, "timm's label_names with gaps", "timm_vit", says(label_names=NAMES_WITH_GAPS), labels=None,
        notes="label_names does not name the 5 classes one by one")
    row(2, "timm's old config: all side by side (38)", "timm_vit", old_timm, pictures=dict(size=(13, 17), crop=(12, 16)))
    row(2, "timm's old config with labels", "timm_vit", old_timm, says(labels=p.LABELS), labels=p.LABELS)
    row(2, "timm's config as transformers' wrapper saves it", "timm_vit",
        says(model_type="timm_wrapper", architectures=["TimmWrapperForImageClassification"], torch_dtype="float32",
             initializer_range=0.02, transformers_version="4.48.0"))
    row(2, "timm's config without model_args is another model's", "timm_vit", says_not("model_args"), refused="the tensors say")
    row(2, "auto_map of a repository with code of its own (E5)", "vit", says(auto_map={"AutoModel": "modeling.X"}))
    row(2, "a number as text (B9)", "vit", says(hidden_size="24"), refused="'24'")
    row(2, "an id2label with too few names (B16)", "vit", says(id2label={"0": "a", "1": "b"}),
        refused="does not name the 5 classes")
    row(2, "no id2label", "vit", says_not("id2label", "label2id"), labels=None, notes="no id2label")
    row(2, "num_labels beside id2label", "vit", says(num_labels=5, problem_type="single_label_classification"))
    row(2, "dtype bfloat16 of float32 weights", "vit", says(dtype="bfloat16"))
    row(2, "no config.json beside the weights", "vit", no_file("config.json"), refused="no config.json beside the weights")


def naflex(draft):
    """The patch projection as a linear layer of (py, px, c) rows."""
    name = "vision_model.embeddings.patch_embedding.weight"
    data = draft.tensors[name].data
    draft.tensors[name] = p.tensor_of(np.ascontiguousarray(data.transpose(0, 2, 3, 1)).reshape(len(data), -1))


OLDEST = dict(do_normalize=True, do_resize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3, size=224)
OLD_CLIP = dict(crop_size=224, do_center_crop=True, do_normalize=True, do_resize=True, image_mean=list(CLIP.mean),
                image_std=list(CLIP.std), resample=3, size=224)  # fmt: skip
NEW_CLIP = {**OLD_CLIP, "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_convert_rgb": True,
            "do_rescale": True, "rescale_factor": 1 / 255}  # fmt: skip
AS_CLIP = dict(resize="shortest_edge", size=224, crop=(224, 224), resample="bicubic", mean=CLIP.mean, std=CLIP.std)
AS_VIT = dict(resize="squash", size=(224, 224), crop=None, resample="bilinear", mean=HALF.mean, scale=1 / 255)
DEIT = dict(OLDEST, image_mean=list(IMAGENET.mean), image_std=list(IMAGENET.std), size=256, crop_size=224, do_center_crop=True,
            resample=3)  # fmt: skip
AS_DEIT = dict(resize="squash", size=(256, 256), crop=(224, 224), resample="bicubic", mean=IMAGENET.mean)
SIGLIP = dict(do_convert_rgb=None, do_normalize=True, do_rescale=True, do_resize=True, image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
              processor_class="SiglipProcessor", resample=3, rescale_factor=1 / 255,
        size={"height": 224, "width": 224})  # fmt: skip
AS_SIGLIP = dict(resize="squash", size=(224, 224), crop=None, resample="bicubic", mean=HALF.mean)
NULLS = dict.fromkeys(("crop_size", "device", "disable_grouping", "do_center_crop", "do_convert_rgb", "input_data_format",
                       "return_tensors", "default_to_square"))  # fmt: skip
DINOV3 = dict(NULLS, data_format="channels_first", do_normalize=True, do_rescale=True, do_resize=True, resample=2,
              image_mean=list(IMAGENET.mean), image_std=list(IMAGENET.std), size={"height": 224, "width": 224},
              rescale_factor=1 / 255)  # fmt: skip
NAFLEX = dict(SIGLIP, max_num_patches=256, patch_size=16)
del NAFLEX["size"]
VALID_KEYS = ["images", "do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "return_tensors"]


def preprocessors() -> None:
    row(3, "the oldest ViT's", "vit", preprocessor(**OLDEST, resample=2, feature_extractor_type="ViTFeatureExtractor"),
        pictures=AS_VIT)
    row(3, "ViT's without any type (2)", "vit", preprocessor(**OLDEST, resample=2), pictures=AS_VIT,
        notes="does not say its type: ViTImageProcessor")
    row(3, "ViT's without a type and without resample (16)", "vit", preprocessor(**OLDEST), pictures=AS_VIT,
        notes="does not say resample: 2")
    row(3, "ViT's with a type and without resample (B13)", "vit",
        preprocessor(**OLDEST, feature_extractor_type="ViTFeatureExtractor"), pictures=AS_VIT)
    row(3, "image_processor_type ViTFeatureExtractor, of 4.25", "vit",
        preprocessor(**OLDEST, resample=2, image_processor_type="ViTFeatureExtractor"), pictures=AS_VIT)
    row(3, "ViT's of 4.26 to 5", "vit",
        preprocessor(**{**OLDEST, "size": {"height": 224, "width": 224}}, do_rescale=True, rescale_factor=1 / 255,
                            resample=2, image_processor_type="ViTImageProcessor"), pictures=AS_VIT)
    row(3, "ViT's of 5: Fast, with nulls", "vit",
        preprocessor(**NULLS, **{**OLDEST, "size": {"height": 224, "width": 224}}, data_format="channels_first",
                            resample=2, image_processor_type="ViTImageProcessorFast"), pictures=AS_VIT)
    row(3, "DeiT's", "deit", preprocessor(**DEIT, feature_extractor_type="DeiTFeatureExtractor"), pictures=AS_DEIT)
    row(3, "DeiT's without any type", "deit", preprocessor(**DEIT), pictures=AS_DEIT)
    row(3, "CLIP's: ints, CLIPFeatureExtractor", "clip",
        preprocessor(**OLD_CLIP, feature_extractor_type="CLIPFeatureExtractor"),
        pictures=AS_CLIP)
    row(3, "CLIP's: image_processor_type CLIPFeatureExtractor", "clip",
        preprocessor(**OLD_CLIP, image_processor_type="CLIPFeatureExtractor", feature_extractor_type=None), pictures=AS_CLIP)
    row(3, "CLIP's of both towers, without a type", "clip projected", *TWO_TOWERS, CLIP_MODEL, preprocessor(**OLD_CLIP),
        pictures=AS_CLIP)
    row(3, "CLIP's with _valid_processor_keys, of 4.38", "clip",
        preprocessor(**NEW_CLIP, image_processor_type="CLIPImageProcessor", _valid_processor_keys=VALID_KEYS), pictures=AS_CLIP)
    row(3, "CLIP's of today", "clip", preprocessor(**NEW_CLIP, image_processor_type="CLIPImageProcessorFast"), pictures=AS_CLIP)
    row(3, "BEiT's: a crop it does not make", "beit",
        preprocessor(**OLDEST, crop_size=224, do_center_crop=False, resample=2,
        feature_extractor_type="BeitFeatureExtractor"), pictures={**AS_VIT, "resample": "bilinear"})
    row(3, "BEiT's bicubic", "beit",
        preprocessor(**OLDEST, crop_size=224, do_center_crop=False, resample=3, reduce_labels=False,
                            feature_extractor_type="BeitFeatureExtractor"), pictures={**AS_VIT, "resample": "bicubic"})
    row(3, "MAE's", "vit backbone", says(model_type="vit_mae", architectures=["ViTMAEModel"]),
        preprocessor(**{**OLDEST, "image_mean": list(IMAGENET.mean), "image_std": list(IMAGENET.std)}, do_rescale=True,
                     resample=2, image_processor_type="ViTImageProcessor"), pictures={**AS_VIT, "mean": IMAGENET.mean})
    row(3, "DINOv2's: BitImageProcessor", "dinov2",
        preprocessor(**{**NEW_CLIP, "size": {"shortest_edge": 256}, "image_mean": list(IMAGENET.mean),
                               "image_std": list(IMAGENET.std)}, image_processor_type="BitImageProcessor"),
        pictures={**AS_CLIP, "size": 256, "mean": IMAGENET.mean, "std": IMAGENET.std})
    row(3, "DINOv3's: Fast, all the call's options as nulls", "dinov3",
        preprocessor(**DINOV3, image_processor_type="DINOv3ViTImageProcessorFast"),
        pictures=dict(AS_VIT, mean=IMAGENET.mean, arithmetic="torch"))
    row(3, "SigLIP's", "siglip", preprocessor(**SIGLIP, image_processor_type="SiglipImageProcessor"), pictures=AS_SIGLIP)
    row(3, "NaFlex's, as published (F1)", "siglip", preprocessor(**NAFLEX, image_processor_type="Siglip2ImageProcessorFast"),
        pictures=dict(resize="none", size=None, crop=None, mean=HALF.mean))
    row(3, "NaFlex's way out (F2)", "siglip square", naflex, says_not("image_size"),
        says(model_type="siglip2_vision_model", num_patches=16, architectures=["Siglip2VisionModel"]),
        must_be(position_rule="bilinear_antialias", any_size=True), option(preprocessor="siglip"),
        preprocessor(**NAFLEX, image_processor_type="Siglip2ImageProcessorFast"), pictures={**AS_SIGLIP, "size": (16, 16)})
    row(3, "processor_config.json alone, of CLIP (36)", "clip",
        file("processor_config.json", {"processor_class": "CLIPProcessor",
                                              "image_processor": {**NEW_CLIP, "image_processor_type": "CLIPImageProcessor"}}),
        pictures=AS_CLIP)
    row(3, "processor_config.json alone, of SigLIP", "siglip",
        file("processor_config.json", {"processor_class": "SiglipProcessor",
                                              "image_processor": {**SIGLIP, "image_processor_type": "SiglipImageProcessor"}}),
        pictures=AS_SIGLIP)
    row(3, "preprocessor_config.json beside a processor_config.json without image_processor", "siglip",
        preprocessor(**SIGLIP, image_processor_type="SiglipImageProcessor"),
        file("processor_config.json", {"processor_class": "SiglipProcessor"}), pictures=AS_SIGLIP)
    row(3, "processor_config.json in a hub name's cache", "clip",
        cached("someone/clip"), file("processor_config.json",
        {"image_processor": {**NEW_CLIP, "image_processor_type": "CLIPImageProcessor"}}), pictures=AS_CLIP)
    row(3, "no file at all", "vit", pictures=None, notes="does not say how pictures are prepared")
    row(3, "crop_pct, of timm's (E1)", "vit", preprocessor(**OLDEST, resample=2, crop_pct=0.9),
        refused="crop_pct 0.9 is not supported")
    row(3, "do_pad (E4)", "vit", preprocessor(**OLDEST, resample=2, do_pad=True), refused="do_pad True is not supported")
    row(3, "resample as a text, 'bicubic' (D)", "vit", preprocessor(**OLDEST, resample="bicubic"),
        refused="'bicubic' is not a Pillow")
    row(3, "a class that does other steps", "vit", preprocessor(**OLDEST, image_processor_type="ConvNextImageProcessor"),
        refused="in a way of its own")


def trained(state):
    """What main_finetune.py of MAE, BEiT and their kin save."""
    return beside("model", optimizer=p.moments, lr_scheduler={"last_epoch": 3}, epoch=299, scaler={"scale": 65536.0},
                  args=p.namespace(lr=1e-3, output_dir=pickles.Call(pickles.Global("pathlib", "PosixPath"), "out")))(state)


def dino_full(state):
    """DINO's *_full_checkpoint.pth."""
    other = {name: halved(call) for name, call in state.items()}
    return {"student": {f"module.backbone.{n}": c for n, c in other.items()},
            "teacher": {f"backbone.{n}": c for n, c in state.items()}, "optimizer": p.moments(state), "epoch": 100,
            "args": p.namespace(arch="vit_small"), "dino_loss": {"center": next(iter(state.values()))},
            "fp16_scaler": {"scale": 1024.0}}


def halved(call):
    """Another tensor of the same shape: its numbers in the same storage, all of them the first one."""
    storage, offset, size, *rest = call.arguments
    return pickles.Call(call.function, storage, offset, size, tuple(0 for _ in size), *rest[1:])


def numpy_extras(state):
    scalar = pickles.Global("numpy.core.multiarray", "scalar")
    dtype = pickles.Call(pickles.Global("numpy", "dtype"), "f8", 0, 1)
    return {"model": state, "best_acc": pickles.Call(scalar, dtype, b"\0" * 8)}


def with_name(name):
    return lambda state: {"state_dict": state, "name": name}


def linear_projection(draft):
    """(D, C, P, P) as (D, P*P*C): what timm's checkpoint_filter_fn reshapes."""
    tensor = draft.tensors["patch_embed.proj.weight"]
    draft.tensors["patch_embed.proj.weight"] = p.tensor_of(tensor.data.reshape(len(tensor.data), -1).copy())


def nan_key_bias(draft):
    """bias_mask as initialised, and the key's bias anything: NaN."""
    for name in [name for name in draft.tensors if name.endswith("attn.qkv.bias")]:
        bias = draft.tensors[name].data.copy()
        third = len(bias) // 3
        bias[third : 2 * third] = np.nan
        draft.tensors[name] = p.tensor_of(bias)
        draft.tensors[name + "_mask"] = p.tensor_of(np.full(len(bias), np.nan, np.float32))


def exact_periods(draft):
    """Periods in float32, as torch.hub's models have them."""
    data = draft.tensors["rope_embed.periods"].to_float(np.float32)
    draft.tensors["rope_embed.periods"] = p.tensor_of(data.copy())


HALF_TIMM = (as_torch("m.pth"), no_file("config.json"), told(heads=3, image=(12, 16)))


def pytorch_files() -> None:
    row(4, "legacy .pth, a flat state dict (6)", "dino", as_torch("m.pth", legacy=True))
    row(4, "legacy pytorch_model.bin (40)", "vit", as_torch("pytorch_model.bin", legacy=True))
    row(4, "legacy, float16 (63)", "vit", rounded("F16"), as_torch("pytorch_model.bin", legacy=True))
    row(4, "legacy .bin with integers (B21)", "clip", extra(vision_model__embeddings__position_ids=IDS_16),
        as_torch("pytorch_model.bin", legacy=True))
    row(4, "legacy {'model': ...}, of torch 1.5", "deit facebook", as_torch("m.pth", beside("model"), legacy=True))
    row(4, "timm's file with its config.json", "timm_vit", as_torch("pytorch_model.bin"))
    row(4, "timm's release file beside a config.json", "timm_vit", as_torch("jx_vit_base_p16_224-80ecf9dd.pth", legacy=True))
    row(4, "timm's file without it, heads told", "timm_vit", *HALF_TIMM)
    row(4, "timm's pre_logits.fc, the tanh layer (41)", "timm_vit", *HALF_TIMM,
        pre_logits, extra(pre_logits__fc__weight=(24, 24), pre_logits__fc__bias=(24,)))
    row(4, "timm leaves pre_logits.fc out where its config names the model", "timm_vit",
        extra(pre_logits__fc__weight=(24, 24), pre_logits__fc__bias=(24,)), notes="pre_logits.fc")
    row(4, "torchvision's flat state dict", "torchvision", as_torch("vit_b_16-c867db91.pth"))
    row(4, "torchvision's before 0.12", "torchvision_old", as_torch("m.pth"))
    row(4, "DeiT's {'model': ...}, with distillation", "deit facebook", as_torch("m.pth", beside("model")))
    row(4, "DeiT-3's, positions without the class token", "deit3", as_torch("m.pth", beside("model")))
    row(4, "a training file: optimizer, scaler, epoch, args as Namespace (47, B5)", "deit3", as_torch("m.pth", trained))
    row(4, "the same, legacy", "deit3", as_torch("m.pth", trained, legacy=True))
    row(4, "model and model_ema side by side (42)", "deit3",
        as_torch("m.pth", lambda state: {"model": state, "model_ema": {n: halved(c) for n, c in state.items()}}),
        refused="under 'model.' and 'model_ema.': save the one that is meant")
    row(4, "state_dict and state_dict_ema side by side (B6)", "dino",
        as_torch("m.pth", lambda state: {"state_dict": state, "state_dict_ema": {n: halved(c) for n, c in state.items()}}),
        refused="under 'state_dict.' and 'state_dict_ema.'")
    row(4, "model_ema alone (F6)", "deit3", as_torch("m.pth", beside("model_ema", epoch=3)), notes="begin with 'model_ema.'")
    row(4, "{'state_dict': {'module....'}}, of timm's train.py", "dino", renamed("^", "module."),
        as_torch("m.pth", beside("state_dict", epoch=3, arch="vit_base", version=2)))
    row(4, "_orig_mod., of torch.compile (43)", "dino", renamed("^", "_orig_mod."), as_torch("m.pth"))
    row(4, "module._orig_mod.", "dino", renamed("^", "module._orig_mod."), as_torch("m.pth"))
    row(4, "DINO's pretrain.pth: the backbone alone", "dino", as_torch("dino_deitsmall16_pretrain.pth"))
    row(4, "DINO's full_checkpoint.pth: the teacher's backbone (48)", "dino", as_torch("m.pth", dino_full), notes="left out")
    row(4, "DINOv2's pretrain.pth with mask_token", "dinov2 facebook", as_torch("dinov2_vits14_pretrain.pth"))
    row(4, "DINOv2's with registers", "dinov2_reg", as_torch("dinov2_vits14_reg4_pretrain.pth"))
    row(4, "DINOv2's giant", "dinov2_giant", as_torch("m.pth"))
    row(4, "DINOv2's linear head, apart", "dinov2 facebook", without("(?!cls_token).*"), as_torch("m.pth"),
        refused="of no known family")
    row(4, "MAE's mae_pretrain: the encoder alone", "mae", without(r"decoder_.*|mask_token"), option(family="mae"),
        as_torch("m.pth", beside("model")))
    row(4, "MAE's mae_visualize, with decoder and mask_token", "mae", as_torch("m.pth", beside("model")))
    row(4, "MAE's training file", "mae", as_torch("checkpoint-399.pth", trained))
    row(4, "MAE fine-tuned: fc_norm, no norm", "mae_finetuned", as_torch("m.pth", beside("model")))
    row(4, "DINOv3's: an image is asked for (53)", "dinov3 facebook", as_torch("m.pth"), nothing_told(),
        refused="the file cannot tell image, heads")
    row(4, "DINOv3's, told: periods in bfloat16 (B1)", "dinov3 facebook", as_torch("m.pth"))
    row(4, "DINOv3's: bias_mask and key bias are NaN (54, B2)", "dinov3 facebook", nan_key_bias, as_torch("m.pth"))
    row(4, "DINOv3's periods in float32", "dinov3 facebook", exact_periods, as_torch("m.pth"))
    row(4, "DINOv3 7B's local_cls_norm", "dinov3 facebook", extra(local_cls_norm__weight=(24,), local_cls_norm__bias=(24,)),
        as_torch("m.pth"))
    row(4, "DINOv3's with a gated MLP", "dinov3_swiglu", as_torch("m.pth"))
    row(4, "EUPE's projectors beside DINOv3's", "dinov3 facebook", extra(projectors__a__0__weight=(4, 24)), as_torch("m.pth"))
    row(4, "BEiT's {'model': ...}", "beit unilm", as_torch("m.pth", beside("model")))
    row(4, "BEiT v2's {'module': ...}", "beit unilm", as_torch("m.pth", beside("module")))
    row(4, "BEiT of pre-training: lm_head, mask_token, one table (58)", "beit unilm", shared_table,
        extra(lm_head__weight=(9, 24), lm_head__bias=(9,), mask_token=(1, 1, 24)), as_torch("m.pth", beside("model")))
    for key in ("model_ema", "model", "module", "state_dict"):
        row(4, f"EVA-02's {{'{key}': ...}}", "eva02", as_torch("m.pt", beside(key)))
    row(4, "EVA-02 of pre-training: lm_head, mask_token (61)", "eva02",
        extra(lm_head__weight=(9, 24), lm_head__bias=(9,), mask_token=(1, 1, 24)), as_torch("m.pt", beside("module")))
    row(4, "EVA-02 of pre-training: norm, for fc_norm, sees all tokens (B8)", "eva02", renamed("^fc_norm", "norm"),
        must_be(final_norm="tokens", pooling="class"), norm_for_fc_norm, as_torch("m.pt", beside("module")))
    row(4, "a best accuracy as NumPy's number (49)", "dino", as_torch("m.pth", numpy_extras))
    row(4, "a dtype beside the model (72)", "dino",
        as_torch("m.pth", beside("model", dtype=pickles.Global("torch", "float16"))))
    row(4, "a device beside the model", "dino",
        as_torch("m.pth", beside("model", device=pickles.Call(pickles.Global("torch", "device"), "cuda", 0))))
    row(4, "a defaultdict beside the model (73)", "dino",
        as_torch("m.pth", beside("model", log=pickles.Call(pickles.Global("collections", "defaultdict")))))
    row(4, "model_best.pth.tar (75)", "dino", as_torch("model_best.pth.tar", beside("state_dict", epoch=1, best_acc1=0.5)))
    row(4, "last.ckpt, of Lightning (76)", "dino", renamed("^", "model."),
        as_torch("last.ckpt", beside("state_dict", callbacks={}, hyper_parameters={"lr": 1e-3},
        **{"pytorch-lightning_version": "2"})))
    row(4, "a patch projection as a linear layer (B28)", "dino", linear_projection, as_torch("m.pth"),
        refused="the file cannot tell patch")
    row(4, "the same, patch and image told", "dino", linear_projection, as_torch("m.pth"), told(patch=4, channels=3))
    row(4, "a pickled module (71)", "dino",
        as_torch("m.pth", lambda state: pickles.Call(pickles.Global("timm.models.vit", "ViT"))),
        refused="its pickle wants timm.models.vit.ViT, which no state dict needs and which is not run")
    row(4, "num_batches_tracked of a head beside", "dino", extra(head__bn__num_batches_tracked=np.array(3)), as_torch("m.pth"))


def pre_logits(draft):
    """What comes out has the tanh layer of these tensors (extra's quarter)."""
    draft.expected.config = draft.expected.config.replace(pooler=24, pre_logits=True)
    quarter = {"pooler.weight": (24, 24), "pooler.bias": (24,)}
    draft.expected.tensors = draft.expected.tensors | {n: p.tensor_like(shape) for n, shape in quarter.items()}


def norm_for_fc_norm(draft):
    tensors = {f"norm.{end}": draft.tensors[f"norm.{end}"] for end in ("weight", "bias")}
    draft.expected.tensors = draft.expected.tensors | tensors


def nothing_told():
    return lambda draft: draft.options["told"].clear()


# 5. CLIP's files


def scripted(names, children=None):
    """A TorchScript module: an object of a class of its own, with its tensors and modules as state."""
    return pickles.Built(pickles.Call(pickles.Global("__torch__.multimodal.model", "Module")), {**names, **(children or {})})


def torchscript(lists=False):
    """A TorchScript archive of the state dict: a module within a module for each dot."""

    def wrap(state):
        tree = {}
        for name, call in state.items():
            *outer, last = name.split(".")
            branch = tree
            for part in outer:
                branch = branch.setdefault(part, {})
            branch[last] = call

        def module(branch):
            listed = {"stride": pickles.Call(pickles.Global("torch.jit._pickle", "build_intlist"), [4, 4])} if lists else {}
            made = {name: module(part) if isinstance(part, dict) else part for name, part in branch.items()}
            return scripted({"training": False, **listed}, made)

        return module(tree)

    return as_torch("ViT-B-32.pt", wrap, location="cuda:0")


def timm_tower(draft):
    """open_clip's with a tower of timm's: visual.trunk.*, beside a text tower."""
    draft.tensors = {f"visual.trunk.{name}": tensor for name, tensor in draft.tensors.items()}
    draft.tensors |= {name: p.tensor_like(shape) for name, shape in
                      (("text.token_embedding.weight", (9, 4)), ("logit_scale", ()), ("logit_bias", ()))}


SMALL_SIGLIP = "vit_small_rebuilt_siglip"  # a name for what timm_siglip's config.json says: open_clip gives a name alone
SIGLIP_OPEN_CLIP = {
    "model_cfg": {"embed_dim": 24, "custom_text": True, "init_logit_bias": -10, "text_cfg": {"context_length": 6},
                  "vision_cfg": {"image_size": [12, 16], "timm_model_name": SMALL_SIGLIP, "timm_proj": "none",
                                 "timm_pool": "map", "timm_model_pretrained": False}},
    "preprocess_cfg": {"size": [12, 16], "mode": "RGB", "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
                       "resize_mode": "squash", "fill_color": 0},
}
HEADLESS = (without(r"head\..*"), must_be(classes=0))


def clip_files() -> None:
    row(5, "OpenAI's ViT-B-32.pt: TorchScript, F16, 0-dim integers, cuda:0 (64)", "openai_clip", torchscript())
    row(5, "TorchScript with lists for attributes (B18)", "openai_clip", torchscript(lists=True))
    row(5, "OpenAI's state dict", "openai_clip", as_torch("m.pt"))
    row(5, "the picture's tower alone, visual.*", "openai_clip", without("(?!visual).*"), as_torch("m.pt"))
    row(5, "the picture's tower without a prefix", "openai_clip", without("(?!visual).*"), renamed("^visual.", ""),
        as_torch("m.pt"))
    row(5, "activation is asked for where nothing tells it", "openai_clip", as_torch("m.pt"), nothing_told(), told(heads=3),
        refused="the file cannot tell activation")
    row(5, "open_clip's training file: state_dict of module.visual (66, B3)", "open_clip", renamed("^", "module."),
        as_torch("epoch_32.pt", beside("state_dict", epoch=32, name="ViT-B-32", optimizer=p.moments, scaler={"scale": 2.0})))
    row(5, "open_clip's hub folder", "open_clip", as_safetensors("open_clip_model.safetensors"))
    row(5, "open_clip_pytorch_model.safetensors", "open_clip", as_safetensors("open_clip_pytorch_model.safetensors"))
    row(5, "open_clip_pytorch_model.bin alone (F5)", "open_clip", as_torch("open_clip_pytorch_model.bin"))
    row(5, "open_clip's repository by its hub name, without config.json (B23, C3)", "open_clip",
        as_safetensors("open_clip_model.safetensors"), cached("laion/CLIP-ViT-B-32-laion2B-s34B-b79K"))
    row(5, "the same with open_clip_pytorch_model.bin alone", "open_clip", as_torch("open_clip_pytorch_model.bin"),
        cached("laion/CLIP-ViT-B-32-laion2B-s34B-b79K"))
    row(5, "the text tower is Hugging Face's, with position_ids", "open_clip",
        renamed(r"^(?!visual|logit)", "text.transformer."),
        extra(text__transformer__embeddings__position_ids=IDS_77), as_safetensors("open_clip_model.safetensors"))
    row(5, "a tower of timm's: visual.trunk, SigLIP (70)", "timm_siglip", *HEADLESS, timm_tower, no_file("config.json"),
        file("open_clip_config.json", SIGLIP_OPEN_CLIP), as_safetensors("open_clip_model.safetensors"),
        pictures=dict(resize="squash", size=(12, 16), crop=None, resample="bicubic", mean=HALF.mean))
    row(5, "the same as open_clip_pytorch_model.bin, by its hub name", "timm_siglip", *HEADLESS, timm_tower,
        no_file("config.json"), file("open_clip_config.json", SIGLIP_OPEN_CLIP), as_torch("open_clip_pytorch_model.bin"),
        cached("timm/ViT-B-16-SigLIP"))
    row(5, "a projection after a tower of timm's", "timm_siglip", *HEADLESS, timm_tower, no_file("config.json"),
        file("open_clip_config.json", {"model_cfg": {"vision_cfg": {**SIGLIP_OPEN_CLIP["model_cfg"]["vision_cfg"],
                                                                    "timm_proj": "linear"}}}),
        as_safetensors("open_clip_model.safetensors"), refused="timm_proj 'linear' after a tower of timm's is not supported")
    row(5, "a tower of timm's with timm's config.json", "timm_siglip", *HEADLESS, says(num_classes=0), headless_args,
        timm_tower, as_safetensors("model.safetensors"))
    row(5, "quick_gelu of open_clip's config", "open_clip", as_safetensors("open_clip_model.safetensors"), quick_gelu)
    row(5, "Hugging Face's copy of OpenAI's CLIP", "clip projected", *TWO_TOWERS, CLIP_MODEL, as_torch("pytorch_model.bin"))


def headless_args(draft):
    draft.files["config.json"]["model_args"]["num_classes"] = 0


def quick_gelu(draft):
    draft.files["open_clip_config.json"]["model_cfg"]["quick_gelu"] = True
    draft.expected.config = draft.expected.config.replace(activation="quick_gelu")


# 6. Google's .npz


def google_files() -> None:
    row(6, "fine-tuned, by vision_transformer (77)", "augreg", as_npz())
    row(6, "in21k with pre_logits, in opt/target/ beside opt/state/step (78)", "augreg_prelogits", as_npz())
    row(6, "the same without opt/", "augreg_prelogits", without("opt/state/.*"), renamed("^opt/target/", ""), as_npz())
    row(6, "no head: a backbone (79)", "augreg", without("head/.*"), must_be(classes=0), as_npz())
    row(6, "mean of the patches, no class token", "augreg_gap", as_npz())
    row(6, "an optimizer's moments beside", "augreg_prelogits", extra(**{"opt/state/param_states/cls/grad_ema": (1, 1, 24)}),
        as_npz())
    row(6, "SigLIP: params/img, params/txt, params/t, params/b (80)", "siglip google", as_npz())
    row(6, "big_vision's ViT", "big_vision", as_npz())
    row(6, "big_vision's blocks in one array (81)", "big_vision_scan", as_npz())
    row(6, "big_vision's with attention pooling", "big_vision_map", as_npz())
    row(6, "big_vision's without stored positions", "big_vision_sincos", as_npz())
    row(6, "bfloat16 as raw two-byte items", "augreg", rounded("BF16"), as_npz())


# 7. What is rightly refused


def other_models() -> None:
    row(7, "gamma and beta for weight and bias (13)", "vit", renamed(r"(layernorm.*)\.weight$", r"\1.gamma"),
        renamed(r"(layernorm.*)\.bias$", r"\1.beta"), refused="is missing")
    row(7, "a ResNet's (B19)", "dino", option(family=None), without(".*"),
        extra(conv1__weight=(8, 3, 7, 7), layer1__0__conv1__weight=(8, 8, 1, 1),
        fc__weight=(5, 8)), as_torch("resnet50.pth"), refused="of no known family")
    row(7, "a Swin's", "dino", option(family=None), without(".*"), extra(patch_embed__proj__weight=(8, 3, 4, 4),
        layers__0__blocks__0__attn__qkv__weight=(24, 8)), as_torch("swin.pth"), refused="of no known family")
    row(7, "transformers' Swin, by model_type (B27)", "vit", says(model_type="swin", architectures=["SwinModel"]),
        refused="config.json says model_type 'swin'")
    row(7, "a zip archive without data.pkl (B29)", "dino", zip_of("readme.txt"), refused="without a data.pkl")
    row(7, "tf_model.h5 named", "vit", file("tf_model.h5", b"\x89HDF\r\n\x1a\n" + bytes(50)), source("tf_model.h5"),
        refused="an HDF5 file, as Keras writes")
    row(7, "flax_model.msgpack named", "vit", file("flax_model.msgpack", b"\x83" + bytes(50)), source("flax_model.msgpack"),
        refused="Flax's msgpack")
    row(7, "a folder with tf_model.h5 alone", "vit", file("tf_model.h5", b"\x89HDF\r\n\x1a\n"), no_weights,
        refused="it has tf_model.h5")
    row(7, "a hybrid of ResNet and ViT, by timm's config", "timm_vit", says(architecture="vit_base_r50_s16_384"),
        refused="is not one of the plain ViTs")


def zip_of(name):
    def save(path, tensors):
        with pickles.zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")

    def change(draft):
        draft.weights, draft.save, draft.source = "m.pth", save, "m.pth"

    return change


def no_weights(draft):
    draft.save = lambda path, tensors: None


# 8. Of our own imagination


def imagined() -> None:
    row(8, "a Git LFS pointer for the weights", "vit",
        bytes_for_weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        refused="a Git LFS pointer")
    row(8, "the hub's web page for the weights", "vit", bytes_for_weights(b"<!DOCTYPE html><html></html>"),
        refused="a web page, not the file")
    row(8, "a LoRA adapter's folder", "vit", as_safetensors("adapter_model.safetensors"), without(".*"), no_file("config.json"),
        extra(base_model__model__vit__layer__0__lora_A__weight=(4, 24)), refused="of no known family")
    row(8, "8-bit weights (bitsandbytes)", "vit", says(quantization_config={"load_in_8bit": True}),
        refused="quantization_config")
    row(8, "one tensor in float8", "vit", float8, refused="is F8_E4M3: weights are")
    row(8, "float64 weights", "vit", doubled)
    row(8, "a classifier that was cut to its backbone: config.json still names classes", "vit", without(r"classifier\..*"),
        must_be(classes=0))
    row(8, "a classifier for regression: one class", "vit", one_class, says(id2label={"0": "LABEL_0"}))
    row(8, "an id2label in another order", "vit", says(id2label={str(n): p.LABELS[n] for n in (4, 2, 0, 1, 3)}),
        labels=p.LABELS)
    row(8, "class names in other scripts", "vit", says(id2label={str(n): name for n, name in enumerate("猫犬鸟鱼马")}),
        labels=list("猫犬鸟鱼马"))
    row(8, "an EMA copy in safetensors, under ema.", "vit", renamed("^", "ema."), notes="begin with 'ema.vit.'")
    row(8, "a Trainer's checkpoint: training_args.bin, optimizer.pt beside", "vit", file("training_args.bin", b"x"),
        file("optimizer.pt", b"x"), file("trainer_state.json", {"epoch": 3}))
    row(8, "two safetensors files: a consolidated one beside", "vit", file("consolidated.safetensors", b"not looked at"))
    row(8, "a picture's tower saved as vision_tower.vision_model. of LLaVA", "clip", renamed("^", "vision_tower."),
        extra(language_model__lm_head__weight=(9, 4), multi_modal_projector__linear_1__weight=(4, 24)),
        inside("llava", text_config={"model_type": "llama"}, projector_hidden_act="gelu"), notes="vision_config")
    row(8, "one model's config.json beside another's weights", "vit", says(model_type="dinov2", architectures=["Dinov2Model"]),
        refused="not")
    row(8, "a class of another kind than the model_type", "vit", says(architectures=["ViTMAEModel", "DeiTModel"]),
        refused="which is no vit")
    row(8, "a pooler with an activation of its own", "vit pooler", says(pooler_act="relu"), refused="pooler_act 'relu'")
    row(8, "one picture channel", "vit", one_channel, says(num_channels=1))
    row(8, "an index that points out of its folder", "vit",
        file("model.safetensors.index.json", {"weight_map": {"a": "../x"}}), no_weights,
        refused="points outside the folder")
    row(8, "weights of a training that diverged", "vit", diverged, refused="has NaN or infinite values")
    row(8, "a byte order mark before config.json", "vit", bom)
    row(8, "Fortran-ordered arrays in .npz", "augreg", fortran, as_npz())
    row(8, "strided views in one storage, as a packed state dict", "dino", as_torch("m.pth", beside("model")),
        told(image=(12, 12)))
    row(8, "the name of a cached revision", "vit", cached("someone/a-vit@v1.0"))


# fmt: on


def bytes_for_weights(content):
    return lambda draft: setattr(draft, "save", lambda path, tensors: path.write_bytes(content))


def float8(draft):
    name = next(name for name in draft.tensors if name.endswith("cls_token"))
    draft.tensors[name] = p.Tensor("F8_E4M3", np.zeros((1, 1, 24), np.uint8))


def doubled(draft):
    draft.tensors = {name: p.tensor_of(t.data.astype(np.float64)) for name, t in draft.tensors.items()}


def one_class(draft):
    draft.tensors = {n: p.tensor_of(t.data[:1].copy()) if "classifier" in n else t for n, t in draft.tensors.items()}
    draft.expected.config, draft.expected.labels = draft.expected.config.replace(classes=1), ["LABEL_0"]
    draft.expected.tensors = {
        n: p.tensor_of(t.data[..., :1].copy()) if n.startswith("head.") else t for n, t in draft.expected.tensors.items()
    }


def one_channel(draft):
    name = next(name for name in draft.tensors if name.endswith("projection.weight"))
    draft.tensors[name] = p.tensor_of(draft.tensors[name].data[:, :1].copy())
    draft.expected.config = draft.expected.config.replace(channels=1)
    weight = draft.expected.tensors["embed.projection.weight"].data[:16].copy()
    draft.expected.tensors = draft.expected.tensors | {"embed.projection.weight": p.tensor_of(weight)}


def diverged(draft):
    name = next(name for name in draft.tensors if name.endswith("layernorm.weight"))
    draft.tensors[name] = p.tensor_of(np.full(24, np.nan, np.float32))


def bom(draft):
    draft.files["config.json"] = b"\xef\xbb\xbf" + p.json.dumps(draft.files["config.json"]).encode()


def fortran(draft):
    draft.tensors = {
        name: t if t.dtype != "F32" else p.tensor_of(np.asfortranarray(t.data)) for name, t in draft.tensors.items()
    }


SECTIONS = (hugging_face_weights, config_files, preprocessors, pytorch_files, clip_files, google_files, other_models, imagined)
for section in SECTIONS:
    section()


@pytest.fixture(autouse=True)
def small_siglip(monkeypatch):
    """The small SigLIP among timm's architectures."""
    known = timm_models.table()["models"]
    kind, args, _ = known["vit_base_patch32_siglip_256"]
    small = dict(patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=28 / 24)
    monkeypatch.setitem(known, SMALL_SIGLIP, [kind, {**args, **small}, ""])


def place(draft, folder, monkeypatch):
    """The draft on disk -> what is converted."""
    if not draft.hub:
        p.write_draft(draft, folder / "model")
        return folder / "model" / draft.source
    model, _, revision = draft.hub.partition("@")
    cache = folder / f"models--{model.replace('/', '--')}"
    p.write_draft(draft, cache / "snapshots" / "0123abc")
    (cache / "refs").mkdir()
    (cache / "refs" / (revision or "main")).write_text("0123abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    return draft.hub


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.section} {row.name}" for row in ROWS])
def test_published_file(row, tmp_path, monkeypatch):
    draft = p.draft_of(row.base)
    for step in row.steps:
        step(draft)
    found = place(draft, tmp_path, monkeypatch)
    if row.refused:
        with pytest.raises(InputError) as error:
            convert(found, **draft.options)
        assert row.refused in str(error.value) and "\n" not in str(error.value)
        assert str(error.value).startswith(str(found))  # which file or folder
        return
    checkpoint = convert(found, **draft.options)
    assert checkpoint.config == draft.expected.config
    expected, got = p.expected_outputs(draft, row.base), p.outputs(checkpoint)
    for name in p.OUTPUTS:
        assert (got[name] is None) == (expected[name] is None), name
        assert got[name] is None or np.array_equal(got[name], expected[name]), name
    assert row.notes in " ".join(checkpoint.notes)
    assert checkpoint.labels == (draft.expected.labels if row.labels is ... else row.labels)
    if row.pictures is None:
        assert checkpoint.preprocess is None
    for name, value in (row.pictures or {}).items():
        assert getattr(checkpoint.preprocess, name) == value, name


def test_there_are_as_many_cases_as_the_survey_has():
    assert sum(row.section < 8 for row in ROWS) >= 141 and sum(row.section == 8 for row in ROWS) >= 20
    assert len({(row.section, row.name) for row in ROWS}) == len(ROWS)
