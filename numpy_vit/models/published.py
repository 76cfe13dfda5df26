"""The published encoders by name: what their own repositories say of them, with its source; nothing is remembered or guessed.

data/published.json   encoders and ViTs: names (the first is ours, the others are aliases and hub names), the parts of
                      config.json and preprocessor_config.json that matter, as published, and where they were read; some are
                      known by the name of timm's weights alone
data/timm_weights.json   what timm says of each file of weights of a plain ViT (made by tests/make_timm_weights.py)

Beside these, torchvision's names (vit_b_16). A name is read without regard to upper and lower case. The config goes the way
of every config.json, so what is not supported is refused by its converter.
"""

import dataclasses
import functools
import json
from importlib import resources
from typing import Any

from ..config import HUGGING_FACE_STYLE, PAPER_STYLE, ViTConfig, variant
from ..errors import nearest

TORCHVISION = {"vit_b_16": "ViT-B/16", "vit_b_32": "ViT-B/32", "vit_l_16": "ViT-L/16", "vit_l_32": "ViT-L/32",
               "vit_h_14": "ViT-H/14"}  # fmt: skip
TIMM_HUB = "timm/"
TIMM_SOURCE = "timm {}, default_cfgs of {}"
TORCHVISION_SOURCE = "torchvision, models/vision_transformer.py"


@dataclasses.dataclass(frozen=True)
class Published:
    """One published model.

    name          the first of its names
    names         all of them
    config        config.json, as far as the encoder needs it; of torchvision's models, which have none, the config itself
    preprocessor  preprocessor_config.json, or None where it is not known (timm's is in its config)
    source        where both were read
    """

    name: str
    names: tuple[str, ...]
    config: dict[str, Any] | ViTConfig
    preprocessor: dict[str, Any] | None
    source: str


@functools.cache
def data(file: str) -> Any:
    """A JSON file of data/."""
    return json.loads(resources.files(__package__).joinpath(f"data/{file}").read_text(encoding="utf-8"))


@functools.cache
def entries() -> dict[str, dict[str, Any]]:
    """Each name of data/published.json, in lower case -> its entry."""
    return {name.lower(): entry for entry in data("published.json")["entries"] for name in entry["names"]}


def find_published(name: str) -> Published | None:
    """The published model of this name, or None."""
    entry = entries().get(name.lower())
    if entry is not None:
        return published_entry(entry)
    if name.lower() in TORCHVISION:
        return torchvision_model(name.lower())
    return timm_model(name.removeprefix(TIMM_HUB))


def published_entry(entry: dict[str, Any]) -> Published:
    """An entry of data/published.json."""
    names = tuple(entry["names"])
    found = timm_model(entry["timm"]) if "timm" in entry else None
    if found is not None:
        return dataclasses.replace(found, name=names[0], names=(*names, *found.names))
    return Published(names[0], names, entry["config"], entry["preprocessor"], entry["source"])


def timm_model(name: str) -> Published | None:
    """timm's ARCHITECTURE, with its default weights, or ARCHITECTURE.TAG; or None."""
    if not name.islower() or "_" not in name or "/" in name:
        return None
    architecture, _, tag = name.partition(".")
    tags = data("timm_weights.json")["weights"].get(architecture)
    if tags is None or (tag and tag not in tags):
        return None
    tag = tag or next(iter(tags), "")
    config = {"architecture": architecture, "pretrained_cfg": tags.get(tag, {})}
    full = f"{architecture}.{tag}" if tag else architecture
    source = TIMM_SOURCE.format(data("timm_weights.json")["timm"], full)
    return Published(architecture, (architecture, full), config, None, source)


def torchvision_model(name: str) -> Published:
    """torchvision's, whose eps is 1e-6 and whose interpolate_embeddings aligns corners."""
    config = variant(TORCHVISION[name]).replace(eps=1e-6, position_rule="bicubic_corners")
    return Published(name, (name,), config, None, TORCHVISION_SOURCE)


def all_published() -> list[Published]:
    """Each entry of data/published.json, in the file's order, then torchvision's models."""
    return [*map(published_entry, data("published.json")["entries"]), *map(torchvision_model, TORCHVISION)]


def published_names() -> list[str]:
    """Our name of each entry of data/published.json, in the file's order."""
    return [entry["names"][0] for entry in data("published.json")["entries"]]


def all_names() -> list[str]:
    """Every name that names a published model: variants, ours, aliases, hub names, torchvision's and timm's."""
    ours = [name for entry in data("published.json")["entries"] for name in entry["names"]]
    variants = [*PAPER_STYLE, *(f"{name}-224" for name in HUGGING_FACE_STYLE)]
    return [*variants, *ours, *TORCHVISION, *data("timm_weights.json")["weights"]]


def nearest_published(name: str) -> str:
    """ "; did you mean 'qwen2.5-vl'?" for what is no model's name, or nothing."""
    lowered = {known.lower(): known for known in all_names()}
    found = nearest(name.lower(), lowered, alike=0.8)
    close = found.split("'")[1] if found else ""
    return f"; did you mean '{lowered[close]}'?" if close else ""
