"""Hub names ("google/vit-base-patch16-224") -> a folder on this machine.

The local Hugging Face cache is looked at first, without any library. What is not there is fetched with huggingface_hub
where that is installed (extra `hub`); it honours HF_ENDPOINT, HF_HUB_OFFLINE and tokens. The core never imports it.
"""

import os
import re
from pathlib import Path

from ..errors import InputError
from ..files.jsonfile import read_json
from ..files.outside import whole

CONFIG = "config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"  # of transformers 5, where there is a tokenizer beside
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TORCH_WEIGHTS = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
# What is looked for, one after the other: weights, and the index there is instead where they are in several files.
PLACES = ((WEIGHTS, INDEX), (TORCH_WEIGHTS, TORCH_INDEX), *((weights, "") for weights in OPEN_CLIP_WEIGHTS))
LARGEST_REFERENCE = 1000  # bytes
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_hub_name(name: str) -> bool:
    """Whether `name` looks like "owner/model" or "owner/model@revision"."""
    return NAME.fullmatch(name) is not None and ".." not in name


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it fetched: HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub."""
    for variable, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if os.environ.get(variable):
            return at_home(os.environ[variable]) / below
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return at_home(base) / "huggingface" / "hub"


def at_home(name: str) -> Path:
    """A path with its "~" replaced, where this user has a home."""
    return Path(os.path.expanduser(name))


def find(name: str) -> Path:
    """The folder that holds the model's files, fetched now if need be. Raises InputError where it cannot be had."""
    model, _, revision = name.partition("@")
    return in_cache(model, revision or "main") or fetch(model, revision or "main")


def in_cache(model: str, revision: str) -> Path | None:
    """The cached snapshot, if it is complete."""
    folder = cache_folder() / f"models--{model.replace('/', '--')}"
    reference = folder / "refs" / revision
    commit = whole(reference, LARGEST_REFERENCE).decode(errors="replace").strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / commit
    if not any((snapshot / config).is_file() for config in (CONFIG, OPEN_CLIP_CONFIG)):
        return None
    for weights, index in PLACES:
        if (snapshot / weights).is_file():
            return snapshot
        if index and (snapshot / index).is_file() and all((snapshot / shard).is_file() for shard in shards(snapshot / index)):
            return snapshot
    return None


def shards(index: Path) -> list[str]:
    """The file names an index lists. Raises InputError for an index that is damaged or points outside its folder."""
    return sorted(set(weight_map(index).values()))


def weight_map(index: Path) -> dict[str, str]:
    """What an index says: tensor -> the file it is in. Raises InputError as `shards` does."""
    try:
        names = read_json(index).get("weight_map")
    except InputError as error:
        raise InputError(f"{error}: not a valid index") from error
    if not isinstance(names, dict) or not names or not all(isinstance(shard, str) for shard in names.values()):
        raise InputError(f"{index}: not a valid index (it has no weight_map of names): copy or download it again")
    for shard in names.values():
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise InputError(f"{index}: the file name {shard!r} is refused: it points outside the folder")
    return names


def fetch(model: str, revision: str) -> Path:
    """Fetch the model's files with huggingface_hub and return their folder."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(
            f"'{model}' is not in the local Hugging Face cache ({cache_folder()}): install huggingface_hub "
            "(pip install 'numpy_vit[hub]') to fetch it, or download its folder and give that"
        ) from error

    def get(file: str) -> Path:
        try:
            return Path(hf_hub_download(model, file, revision=revision))
        except LocalEntryNotFoundError as error:  # offline, or no answer
            raise InputError(
                f"'{model}': {file} is not in the local cache and the hub cannot be reached (offline?): "
                "try again on line, or give a folder"
            ) from error
        except EntryNotFoundError:
            raise
        except Exception as error:
            raise InputError(f"'{model}': {file} cannot be fetched: {' '.join(str(error).split())}") from error

    def get_if_there(file: str) -> Path | None:
        try:
            return get(file)
        except EntryNotFoundError:
            return None

    config = [found for found in map(get_if_there, (CONFIG, OPEN_CLIP_CONFIG)) if found is not None]
    if not config:
        raise InputError(
            f"'{model}' has no {CONFIG} and no {OPEN_CLIP_CONFIG} on the hub: no model of transformers', timm's or open_clip's"
        )
    for file in (PREPROCESSOR, PROCESSOR):
        get_if_there(file)
    for weights, listed in PLACES:
        if get_if_there(weights) is not None:
            return config[0].parent
        index = get_if_there(listed) if listed else None
        if index is not None:
            for shard in shards(index):
                if get_if_there(shard) is None:
                    raise InputError(f"'{model}': {shard}, which its index lists, is not on the hub")
            return config[0].parent
    raise InputError(f"'{model}' has none of {', '.join(weights for weights, _ in PLACES)} on the hub")
