"""Make tests/data/encoders.zip from transformers and timm: encoders of every family, image processors' settings, defaults.

    python tests/make_encoder_arrays.py              (minutes)
    python tests/make_encoder_arrays.py --silent     only what files leave unsaid
    python tests/make_encoder_arrays.py --timm       only timm's

It runs the tests that compare with transformers live (test_*_peers.py), with the models' parameters filled by the rule of
encoder_data.py; every model that is compared there is stored, with what transformers computed. Needs the extra `peers`. The
same versions give the same numbers to 1e-12 or so, according to the machine.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import encoder_data
import multimodal_upstream as up

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.convert.sources import open_source
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.files.tensorfile import write as write_tensors

import upstream

MOST_SIZES = 3
FEW = 64  # as many numbers are stored as they are: what is no parameter


def seeded(model, seed):
    """In the place of upstream.crooked: every parameter filled by its name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(encoder_data.filled(name, tuple(parameter.shape))))
    PARAMETERS.clear()
    PARAMETERS.update({name: parameter.detach().double().numpy().copy() for name, parameter in model.named_parameters()})
    return model.eval()


PARAMETERS: dict = {}
CASES: dict = {}
NOW = [""]


def told_of(name, array):
    """How a tensor of a file is made of the parameters: see encoder_data.numbers_of."""
    shape = list(array.shape)
    if name in PARAMETERS and np.array_equal(PARAMETERS[name], array):
        return shape
    for other, values in PARAMETERS.items():
        if values.size == array.size and np.array_equal(values.reshape(-1), array.reshape(-1)):
            return {"shape": shape, "of": {other: list(values.shape)}}
    if array.size <= FEW:
        return {"shape": shape, "numbers": array.reshape(-1).tolist()}
    width, places = shape[1:][-1:], {}
    for other, values in PARAMETERS.items():
        if values.ndim and (values.ndim == 1) == (not width) and list(values.shape[1:][-1:]) == width:
            for n, row in enumerate(values.reshape(-1, *width)):
                places.setdefault(row.tobytes(), (other, n))
    found = [places.get(row.tobytes()) for row in array.reshape(-1, *width)]
    if None in found:  # a buffer, such as a decoder's batch statistics: any numbers will do, or the test would notice
        return shape
    of, starts, start = {}, {}, 0
    for other in dict.fromkeys(other for other, _ in found):
        of[other], starts[other] = list(PARAMETERS[other].shape), start
        start += PARAMETERS[other].size // (width or [1])[0]
    return {"shape": shape, "of": of, "rows": [starts[other] + n for other, n in found]}


def remember(folder, outputs):
    """A folder, and what upstream computed of it: [{"size": (Y, X), "outputs": {name: array}}]."""
    folder = Path(folder)
    texts = [path for path in sorted(folder.glob("*.json")) if not path.name.startswith("generation")]
    case = {"files": {path.name: json.loads(path.read_text()) for path in texts}}
    case["weights"] = next(folder.glob("*.safetensors")).name
    tensors = open_source(folder).tensors
    case["tensors"] = {name: told_of(name, tensor.to_float(np.float64)) for name, tensor in sorted(tensors.items())}
    case["pictures"] = [
        {"size": list(size), "outputs": {name: encoder_data.kept(array) for name, array in found.items()}}
        for size, found in outputs
    ]
    name = NOW[0]
    while name in CASES:
        name += "'"
    CASES[name] = case


def agree(folder, theirs, sizes, bound=1e-12):
    """In the place of multimodal_upstream.agree: what it would compare is stored."""
    model = numpy_vit.load(folder, dtype="float64")
    outputs = []
    for size in list(sizes)[:MOST_SIZES]:
        found = theirs(encoder_data.pixels(model.config.channels, size), model.config)
        hidden = found.pop("hidden_states")
        outputs.append((size, {f"{encoder_data.STATE}{n}": x for n, x in enumerate(hidden)} | found))
    remember(folder, outputs)
    return 0.0


def of_output(out, names, hidden=True):
    """Of what a model of transformers returns: {ours: array}."""
    found = {f"{encoder_data.STATE}{n}": x.numpy() for n, x in enumerate(out.hidden_states)} if hidden else {}
    return found | {ours: getattr(out, theirs).numpy() for theirs, ours in names.items()}


class Recorder:
    def pytest_runtest_setup(self, item):
        place = Path(item.fspath).name.removeprefix("test_").removesuffix("_peers.py")
        NOW[0] = f"{place}/{item.name.removeprefix('test_')}"


def record_the_others(tmp):
    """The peers' tests that compare by themselves."""
    import test_families_peers as families
    import test_multimodal_peers as multimodal
    import test_sam_peers as sam

    def folder():
        return tmp / f"{len(CASES)}"

    for name in families.COPIES:
        NOW[0] = f"families/copy {name}"
        model = families.copy_of(name, folder())
        image = model.config.image_size
        with up.everything_in_float64(), torch.inference_mode():
            out = model(torch.from_numpy(encoder_data.pixels(3, (image, image))), output_hidden_states=True)
        remember(folder(), [((image, image), of_output(out, families.COPIES[name][3]))])
    for name in families.CASES:
        NOW[0] = f"families/{name}"
        model, names = families.made(name), families.CASES[name][4]
        model.save_pretrained(folder())
        image = numpy_vit.load(folder()).config.image
        one = encoder_data.pixels(3, image)
        with up.everything_in_float64():
            remember(folder(), [(image, of_output(families.run(model, one), names))])
    for name in multimodal.READ:
        NOW[0] = f"multimodal/{name}"
        model = multimodal.made(name.split()[0], *multimodal.READ[name])
        model.save_pretrained(folder())
        ours, outputs = numpy_vit.load(folder()), []
        sizes = [ours.config.image] + [(12, 28)] * (ours.config.image == (20, 20))
        with up.everything_in_float64():
            tower = multimodal.tower_of(model)
            for size in sizes:
                out = multimodal.theirs(tower, encoder_data.pixels(3, size), size != ours.config.image)
                last = getattr(out, "last_hidden_state", None) is not None
                outputs.append((size, of_output(out, {"last_hidden_state": "last_hidden_state"} if last else {})))
        remember(folder(), outputs)
    for name in sam.SAM:
        NOW[0] = f"sam/{name}"
        model = sam.sam(name)
        up.saved(model, folder())
        size = (sam.SAM[name][1]["image_size"],) * 2
        hidden, tokens = sam.run_sam(model.vision_encoder, encoder_data.pixels(3, size))
        states = {f"{encoder_data.STATE}{n}": x for n, x in enumerate(hidden)}
        remember(folder(), [(size, {**states, "last_hidden_state": hidden[-1], "image_tokens": tokens})])
    for name in sam.VITDET:
        NOW[0] = f"sam/vitdet, {name}"
        model = sam.vitdet(name)
        up.saved(model, folder())
        own, outputs = numpy_vit.load(folder()).config, []
        for size in (own.image, *(sam.OTHER_SIZES[:2] if own.position_rule != "none" else ())):
            with up.everything_in_float64(), torch.inference_mode():
                out = model(torch.from_numpy(encoder_data.pixels(3, size)), output_hidden_states=True)
            hidden = [sam.channels_last(x) for x in out.hidden_states]
            outputs.append((size, {f"{encoder_data.STATE}{n}": x for n, x in enumerate(hidden)}))
        remember(folder(), outputs)


def record_timm(tmp):
    """A few of timm's models under every option that their code takes, and those with rotary positions."""
    import test_timm_rotary_peers as rotary
    import timm_registry as registry

    registry.filled = seeded
    options = registry.OPTIONS.items()
    cases = [(name, {key: value}) for name, some in options for key, values in some.items() for value in values]
    cases += [(name, {}) for name in rotary.CASES]
    for name, options in cases:
        NOW[0] = "timm/" + " ".join([name, *(f"{key}={value}" for key, value in options.items())])
        model = registry.made(name, options)
        if model is None:
            continue
        folder = tmp / f"{len(CASES)}"
        folder.mkdir()
        registry.save_config_for_hf(model, folder / "config.json")
        tensors = {key: tensor_of(value.numpy().astype(np.float64)) for key, value in model.state_dict().items()}
        write_tensors(folder / "model.safetensors", tensors, {})
        try:
            ours = convert(folder).config
        except InputError:  # the test wants to hear of this option then
            remember(folder, [])
            next(reversed(CASES.values()))["refused"] = next(iter(options))
            continue
        outputs = []
        for size in ((12, 20), (20, 28))[: 1 if options else 2]:
            if size != (12, 20):
                with up.everything_in_float64():  # timm resizes positions in float32
                    model.set_input_size(size)
            hidden, tokens, head = rotary.run(model, encoder_data.pixels(3, size))
            found = {f"{encoder_data.STATE}{n}": x for n, x in enumerate(hidden[:1])}
            found |= {"last_hidden_state": tokens} if ours.final_norm == "tokens" or head.ndim == 3 else {}
            found |= {"logits" if ours.classes else "pooled": head} if head.ndim == 2 else {}
            outputs.append((size, found))
        remember(folder, outputs)


# What files leave unsaid


def image_processors():
    """Class -> what each of transformers' image processors has where its file is silent; model type -> its class."""
    import test_sizing_peers as sizing
    import transformers
    from transformers import image_processing_backends as backends
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

    from numpy_vit.convert.processors import PROCESSORS

    sizing.TENSORS["DINOv3ViT"] = "dinov3_vit"
    found = {}
    for kind, ours in PROCESSORS.items():
        with pytest.MonkeyPatch.context() as patch:
            made = sizing.of_tensors(patch, backends, kind) if kind in sizing.TENSORS else None
            processor = (made or getattr(transformers, f"{kind}ImageProcessorPil"))()
        said = json.loads(processor.to_json_string())
        found[kind] = {key: getattr(processor, key) for key in ours if hasattr(processor, key)} | said
    found["Gemma3"] |= Gemma3Processor.images_kwargs
    types = {name: kinds["torchvision"] for name, kinds in IMAGE_PROCESSOR_MAPPING_NAMES.items() if "torchvision" in kinds}
    return {"classes": found, "types": types}


OF_NO_MEANING = {
    "transformers_version", "output_hidden_states", "return_dict", "dtype", "chunk_size_feed_forward", "is_encoder_decoder",
    "problem_type", "_name_or_path", "output_attentions", "id2label", "label2id", "architectures",
}  # fmt: skip
TEXT = ("text_config", "llm_config")


def class_contents():
    """Model type -> what its class says where it is told nothing, nor its picture's part but its type; what matters here."""
    import test_census_peers as census
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from numpy_vit.models.loading import config_of_content

    found = {}
    for name in census.census()[0]:
        parts = {key: CONFIG_MAPPING[name]().to_dict().get(key) for key in (*census.TOWERS, "backbone_config")}
        parts = {key: {"model_type": part["model_type"]} for key, part in parts.items() if part and "model_type" in part}
        parts = {} if "vlm_config" in parts else parts
        try:
            made = CONFIG_MAPPING[name](**parts)
        except Exception:  # a part that must say more: as the class makes it
            made = CONFIG_MAPPING[name]()
        content = json.loads(json.dumps(made.to_dict(), default=str))
        tables = (*parts, *TEXT, "vlm_config")
        kept = {key: meant(value) for key, value in content.items() if key in tables or not isinstance(value, dict)}
        for key in set(TEXT) & kept.keys():
            kept[key] = {one: kept[key][one] for one in ("model_type", "hidden_size", "rms_norm_eps") if one in kept[key]}
        whole = config_of_content("", content)[0]
        try:
            found[name] = meant(kept) if config_of_content("", meant(kept))[0] == whole else content
        except InputError:  # what is needed lies elsewhere
            found[name] = content
    return found


def meant(value):
    return {key: one for key, one in value.items() if key not in OF_NO_MEANING} if isinstance(value, dict) else value


def write_cases():
    """What is remembered, by groups."""
    parts = {}
    for name, case in CASES.items():
        group, _, case_name = name.partition("/")
        parts.setdefault(group, {})[case_name] = case
    write({f"cases/{name}.json": json.dumps(content, separators=(",", ":")) for name, content in parts.items()})
    print(len(CASES), "cases")


def write(parts):
    """The parts of the file that are made anew; the others stay."""
    if encoder_data.FILE.exists():
        with zipfile.ZipFile(encoder_data.FILE) as archive:
            parts = {name: archive.read(name).decode() for name in archive.namelist()} | parts
    with zipfile.ZipFile(encoder_data.FILE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, text in sorted(parts.items()):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    print(encoder_data.FILE.stat().st_size, "bytes")


def main():
    if "--timm" in sys.argv:
        with tempfile.TemporaryDirectory() as tmp:
            record_timm(Path(tmp))
        write_cases()
        return
    write({
        "processors.json": json.dumps(image_processors(), default=dict),
        "classes.json": json.dumps(class_contents()),
    })  # fmt: skip
    if "--silent" in sys.argv:
        return
    subprocess.run([sys.executable, __file__, "--timm"], check=True)  # a process without half a torchvision
    upstream.crooked, up.agree = seeded, agree
    here = Path(__file__).parent
    files = [str(path) for path in sorted(here.glob("test_*_peers.py")) if "up.agree(" in path.read_text()]
    words = ["-q", "-m", "peers", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider", "-p", "no:xdist"]
    words += ["-k", "agree or tower_alone or own_names or under_mistrals"]
    status = pytest.main([*words, *files], plugins=[Recorder()])
    print("pytest:", status)
    with tempfile.TemporaryDirectory() as tmp:
        record_the_others(Path(tmp))
    write_cases()


if __name__ == "__main__":
    main()
