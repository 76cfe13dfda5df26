"""Every model type of transformers that has to do with pictures, by the config.json that its class makes of itself.

Each gives a config, or is refused in one line that names what is not supported; and what gives a config is compared with
transformers by some test (`pytest -m peers`). The lists: python tests/test_census_peers.py
"""

import json
import re
from pathlib import Path

import pytest

from numpy_vit import InputError
from numpy_vit.convert.hugging_face_config import TOWERS
from numpy_vit.models.loading import config_of_content

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

HERE = Path(__file__)
SIGNS = (*TOWERS, "image_size", "patch_size", "backbone_config", "vlm_config")
NOT_MADE = {"gemma4_assistant", "nougat"}  # whose class makes no config without being told
# Compared as what they are a part of, or as a copy: names their tests do not write out.
AS = {
    "dinov3_vit": "chmv2",
    "flava_image_model": "flava",
    "qwen3_5_moe": "qwen3_5",
    "qwen3_5_moe_vision": "qwen3_5_vision",  # the same code
    "t5gemma2_encoder": "t5gemma2",
}


def contents():
    """Model type -> its class's own config.json, of those that have to do with pictures."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found, failed = {}, set()
    for name in CONFIG_MAPPING:
        try:
            content = CONFIG_MAPPING[name]().to_dict()
        except Exception:
            failed.add(name)
            continue
        if any(content.get(key) for key in SIGNS) or isinstance(content.get("encoder"), dict):
            found[name] = json.loads(json.dumps(content, default=str))
    assert failed <= NOT_MADE, failed
    return found


def census():
    """(supported, refused): model type -> the config, or the line that refuses it."""
    supported, refused = {}, {}
    for name, content in contents().items():
        try:
            supported[name] = config_of_content("", content)[0]
        except InputError as error:
            refused[name] = str(error)
    return supported, refused


def compared():
    """Model type -> the tests that make a model of it: they name its class, or the type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    texts = {path.name: path.read_text() for path in HERE.parent.glob("test_*_peers.py") if path.name != HERE.name}
    found = {}
    for name in CONFIG_MAPPING:
        kind = CONFIG_MAPPING[name]
        stem = re.escape(kind.__name__.removesuffix("Config"))
        written = re.compile(rf'\b{stem}(Config|Model|For\w+)?\b|model_type"?[:=] ?"{re.escape(name)}"')
        inner = [
            getattr(part, "model_type", "") for key, part in (getattr(kind, "sub_configs", None) or {}).items() if key in TOWERS
        ]
        for file, text in texts.items():
            for seen in [name, *inner] if written.search(text) else ():
                found.setdefault(seen, set()).add(file)
    return found


def test_every_type_gives_a_config_or_is_refused_in_one_line():
    supported, refused = census()
    assert len(supported) > 90 and not [line for line in refused.values() if "\n" in line]
    unnamed = [
        name for name, line in refused.items() if name not in line and "config.json: " not in line and "config: " not in line
    ]
    assert not unnamed, unnamed


def test_what_gives_a_config_is_compared_with_transformers():
    supported, _ = census()
    tests = compared()
    assert not sorted(name for name in supported if AS.get(name, name) not in tests)


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("vitpose", "patches begin two pixels outside"),
        ("vitpose_backbone", "patches begin two pixels outside"),
        ("yolos", "use_mid_position_embeddings is not supported"),
        ("xclip", "a token of each frame's goes to the other frames"),
        ("florence2", "a DaViT"),
        ("groupvit", "grouped between the blocks"),
        ("bridgetower", "its inner blocks' tokens are normed"),
        ("videomae", "it is for videos"),
        ("eomt", "its last blocks see queries"),
        ("vilt", "pictures and texts together"),
        ("swin", "a grid that gets coarser"),
        ("convnext", "no Vision Transformer"),
        ("maskformer", "a grid that gets coarser"),
    ],
)
def test_others_are_refused_with_the_reason(model_type, why):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    content = json.loads(json.dumps(CONFIG_MAPPING[model_type]().to_dict(), default=str))
    with pytest.raises(InputError, match=why) as error:
        config_of_content("", content)
    assert "\n" not in str(error.value)


if __name__ == "__main__":
    supported, refused = census()
    tests, everything = compared(), contents()
    for title, names in (("supported", supported), ("refused", refused)):
        for which, there in (("with a vision_config", True), ("encoders, and models around a backbone", False)):
            some = [name for name in names if ("vision_config" in everything[name]) is there]
            print(f"\n{title}, {which}: {len(some)}")
            for name in sorted(some):
                what = ", ".join(sorted(tests.get(AS.get(name, name), ()))) if title == "supported" else refused[name]
                print(f"  {name}: {re.sub('; known: .*', '', what)[:200]}")
