"""numpy-vit golden: record every step of a run, check a port against it, diagnose what differs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, about, nearest
from . import ops, sensitivity
from .arithmetic import add_arithmetic_options, narrow_model, refuse_without_arithmetic
from .common import FAILED, OK, Progress, check_output, note, printable, refuse, terminal_width, wants_colour
from .models import config_of, open_weights
from .options import add, add_output

if TYPE_CHECKING:
    from ..golden.checking import Check
    from ..golden.diagnosing import Finding, Suspected
    from ..vit import ViT


def add_parser(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "golden",
        help="reference numbers for a port, and what is wrong with it",
        description="Reference numbers of every operation with the same bits on every machine; a port's numbers checked "
        "against them; and the mistake that explains what differs.",
    )
    actions = command.add_subparsers(metavar="ACTION", required=True)
    add_record(actions)
    add_check(actions)
    add_diagnose(actions)
    sensitivity.add_parser(actions)
    ops.add_parser(actions)
    for action, parser in actions.choices.items():
        parser.set_defaults(action=action)
    return command


def add_record(actions: Any) -> None:
    record = actions.add_parser(
        "record",
        help="record every step of a run",
        description="Run a model on a picture or on seeded pixels and keep every step, with a manifest.",
        epilog="Example: numpy-vit golden record --model ViT-B/16 --seed 0 -o golden. Weights and pixels from a seed can be "
        "made by any port itself: docs/golden.md has the generator in C and Python.",
    )
    add_output(record, "DIR", "the golden folder to write")
    record.add_argument("--force", action="store_true", help="replace the golden that is there")
    add(record, "--weights", help="a converted file, a Hugging Face folder, a hub name, or digits")
    record.add_argument(
        "--model",
        nargs="+",
        metavar="NAME",
        help="in place of --weights: seeded weights for this variant; key=value changes it",
    )
    record.add_argument("--seed", type=int, metavar="S", help="of the seeded weights and pixels (default: 0)")
    record.add_argument("--image", nargs="+", metavar="FILE", help="pictures, prepared as the model wants them")
    record.add_argument(
        "--pixels", metavar="FILE", help="prepared pixels (B, C, Y, X), in place of --image: .npy or .safetensors"
    )
    add(record, "--batch", help="how many seeded pictures, where neither is given (default: 1)")
    add(record, "--size", "--preprocessor")
    record.add_argument(
        "--steps", action="append", metavar="PATTERN", help="keep only these, e.g. 'blocks.0.*'; may be repeated"
    )
    record.add_argument("--store", choices=("float64", "float32"), help="(default: float64; with --arithmetic float32)")
    record.add_argument("--format", choices=("safetensors", "npy", "raw"), default="safetensors", help="of the steps' files")
    add(record, "--dtype", choices=("portable", "float64"), default="portable")
    record.add_argument(
        "--noise",
        metavar="LIST",
        help="the formats and arithmetics (int8-onnx, ...) whose noise floor is measured, which a check of such a port "
        "needs; or none (default: float32,float16,bfloat16; with --arithmetic none)",
    )
    add_arithmetic_options(record)


def add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("golden", metavar="GOLDEN", help="a golden folder")
    parser.add_argument(
        "dump", metavar="DUMP", help="the port's steps: a .safetensors or .npz file, or a folder of .npy or raw .f32 files"
    )
    parser.add_argument("--map", metavar="FILE", help="JSON: the port's names -> ours (default: ours, transformers' or timm's)")
    parser.add_argument(
        "--port-dtype",
        metavar="NAME",
        help="what the port computes in, whose noise is allowed: float64, float32, float16, bfloat16, or a narrow "
        "arithmetic that was recorded with --noise (default: the dump's commonest dtype)",
    )
    parser.add_argument("--factor", type=float, metavar="X", help="how many noise floors are allowed (default: 4)")
    parser.add_argument("--budget", metavar="FILE", help="JSON: step or pattern -> max|a-b|/max|b| allowed instead")
    add(parser, "--weights", help="the golden's model, where it is not where it was")
    add(parser, "--json")


def add_check(actions: Any) -> None:
    check = actions.add_parser(
        "check",
        help="compare a port's dump with a golden",
        description="Compare a port's dump with a golden, step by step: how far, where it first goes wrong, and whether that "
        "step is wrong by itself or inherits it. Exit status 0 within budget, 1 not.",
    )
    add_comparison(check)
    check.add_argument("--brief", action="store_true", help="list only the steps that are out of budget")
    check.add_argument("--complete", action="store_true", help="a step that the dump does not have fails the check")
    check.add_argument("--html", metavar="FILE", help="also write one page: the diagnosis, every step, heat maps")
    check.add_argument("--lang", choices=("en", "zh"), default="en", help="the language the page opens in (default: en)")
    check.add_argument("--junit", metavar="FILE", help="also write JUnit XML")


def add_diagnose(actions: Any) -> None:
    diagnose = actions.add_parser(
        "diagnose",
        help="name the mistake that explains a port's numbers",
        description="Run every wrong step again from the port's own inputs, under the mistakes people make, and name the one "
        "that reproduces the port's numbers. Exit status 0 where nothing is wrong, 1 where something is.",
    )
    add_comparison(diagnose)


def run(arguments: argparse.Namespace) -> int:
    runs = {"record": run_record, "check": run_check, "diagnose": run_diagnose, "sensitivity": sensitivity.run, "ops": ops.run}
    return runs[arguments.action](arguments)


# record


def run_record(arguments: argparse.Namespace) -> int:
    import numpy as np

    from ..arithmetic.rounded import FORMATS
    from ..golden.folder import MANIFEST, check_target, write_golden
    from ..golden.recording import record

    refuse_what_does_not_go_together(arguments)
    check_target(arguments.output)
    if (Path(arguments.output) / MANIFEST).exists() and not arguments.force:
        raise InputError(f"{arguments.output}: has a golden already: give another folder, or --force to replace it")
    model, preprocess, origin = model_to_record(arguments)
    with np.errstate(all="ignore"):
        pixels, origin["input"] = pixels_to_record(arguments, model, preprocess)
    if arguments.arithmetic is not None:
        prepare = None if preprocess is None else lambda path: preprocess(path, model.dtype)
        model, origin["calibration"] = narrow_model(arguments, model, prepare, [pixels])
    progress = Progress(0)
    asked = arguments.noise or ("none" if arguments.arithmetic else ",".join(FORMATS))
    noise = () if asked == "none" else tuple(dict.fromkeys(kind.strip() for kind in asked.split(",")))
    manifest, arrays = record(
        model,
        pixels,
        steps=arguments.steps or ("*",),
        store=arguments.store or ("float32" if arguments.arithmetic else "float64"),
        layout=arguments.format,
        noise=noise,
        origin=origin,
        progress=progress.say,
    )
    write_golden(arguments.output, manifest, arrays)
    progress.clear()
    numbers = sum(array.size for array in arrays.values())
    note(
        f"{arguments.output}: {len(arrays)} steps, {numbers:,} numbers, {manifest['precision']} precision, "
        f"stored as {manifest['store']}"
    )
    return OK


def refuse_what_does_not_go_together(arguments: argparse.Namespace) -> None:
    refuse_without_arithmetic(arguments)
    seeded_pixels = arguments.image is None and arguments.pixels is None
    refuse(
        (arguments.weights and arguments.model, "--weights and --model: give one of them"),
        (not arguments.weights and not arguments.model, "which model? give --weights FILE, or --model NAME for seeded weights"),
        (arguments.image and arguments.pixels, "--image and --pixels: give one of them"),
        (arguments.preprocessor and arguments.model, "--preprocessor goes with --weights"),
        (arguments.image and arguments.model, "--image needs a model that says how pictures are prepared: give --weights"),
        (arguments.seed is not None and arguments.weights and not seeded_pixels, "--seed: nothing is made from a seed here"),
        (arguments.batch is not None and not seeded_pixels, "--batch goes with seeded pixels"),
        (arguments.seed is not None and not 0 <= arguments.seed < 2**64, "--seed: it must be 0 to 2**64 - 1"),
        (arguments.size is not None and arguments.pixels, "--size: the pixels have their own"),
    )


def model_to_record(arguments: argparse.Namespace) -> "tuple[ViT, Any, dict[str, Any]]":
    """The model, its preprocessing (or None), and what the manifest says of them."""
    from ..config import check_image
    from ..models.seeded import random_model

    if arguments.model:
        config, notes = config_of(arguments.model)
        note(*notes)
        if arguments.size is not None:
            check_image(arguments.size, config.patch)
        seed = arguments.seed or 0
        source = {"seed": seed, "name": " ".join(arguments.model)}
        return random_model(config, seed=seed, dtype=arguments.dtype), None, {"model": source, "preprocess": None}
    checkpoint = open_weights(arguments.weights, arguments.preprocessor, arguments.size)
    preprocess = checkpoint.preprocess
    plain = None if preprocess is None else preprocess.to_dict()
    return checkpoint.model(arguments.dtype), preprocess, {"model": {"weights": arguments.weights}, "preprocess": plain}


def pixels_to_record(arguments: argparse.Namespace, model: "ViT", preprocess: Any) -> tuple[Any, dict[str, Any]]:
    """The pixels and what the manifest says of them."""
    import numpy as np

    from ..golden.folder import DTYPES, WHOLE, read_arrays
    from ..models.seeded import uniform

    config = model.config
    if arguments.image:
        if preprocess is None:
            raise InputError(f"{arguments.weights}: does not say how pictures are prepared: give --preprocessor, or --pixels")
        pixels = np.concatenate([preprocess(path, model.dtype) for path in arguments.image])
        return pixels, {"images": [Path(path).name for path in arguments.image]}
    if arguments.pixels is not None:
        path = Path(arguments.pixels)
        arrays = read_arrays(path)
        if not arrays:
            raise InputError(f"{path}: has no arrays")
        if len(arrays) > 1 and "pixels" not in arrays:
            raise InputError(f"{path}: has several arrays, none called 'pixels'{nearest('pixels', arrays)}")
        given = arrays["pixels"] if "pixels" in arrays else next(iter(arrays.values()))
        if given.dtype not in DTYPES or given.dtype in WHOLE:
            raise InputError(f"{path}: pixels are {given.dtype}: they must be floats, prepared as the model wants them")
        if len(given.shape) != 4:
            raise InputError(f"{path}: pixels must be (B, C, Y, X), not {given.shape}")
        if not given.is_finite():
            raise InputError(f"{path}: has NaN or infinite numbers")
        return given.to_float(model.dtype), {"pixels": path.name}
    seed = arguments.seed or 0
    shape = (arguments.batch or 1, config.channels, *(arguments.size or config.image))
    return uniform(seed, "pixels", shape, model.dtype), {"seed": seed}


# check, diagnose


def compared(arguments: argparse.Namespace, need_model: bool) -> "Check":
    """Golden and dump, read and compared as the options say."""
    from ..golden.alignment import read_mapping
    from ..golden.checking import FACTOR, check, model_of, read_budgets
    from ..golden.folder import read_dump, read_golden
    from ..golden.narrow_checking import check_narrow

    factor = FACTOR if arguments.factor is None else arguments.factor
    if not 0 < factor < float("inf"):
        raise InputError(f"--factor {factor:g}: it must be a number above 0")
    golden = read_golden(arguments.golden)
    dump = read_dump(arguments.dump)
    mapping = None if arguments.map is None else read_mapping(Path(arguments.map))
    budgets = None if arguments.budget is None else read_budgets(Path(arguments.budget))
    model, why = None, ""
    try:
        model = model_of(golden, arguments.weights)
    except InputError as error:
        if need_model or arguments.weights is not None:
            raise
        why = str(error)
    if golden.arithmetic is not None:
        refuse(
            (
                arguments.port_dtype or budgets,
                "--port-dtype, --budget: this golden is in an arithmetic of its own, compared exactly",
            )
        )
        with about(arguments.dump):
            return check_narrow(golden, dump, mapping=mapping, factor=factor, model=model, no_model=why)
    with about(arguments.dump):
        checked = check(
            golden,
            dump,
            mapping=mapping,
            format=arguments.port_dtype,
            factor=factor,
            budgets=budgets,
            model=model,
            no_model=why,
        )
    if checked.unknown:
        first_names = ", ".join(f"'{name}'{nearest(name, golden.arrays)}" for name in checked.unknown[:3])
        more = f" and {len(checked.unknown) - 3} more" if len(checked.unknown) > 3 else ""
        note(f"{arguments.dump}: no step of the golden is called {first_names}{more}")
    return checked


def run_check(arguments: argparse.Namespace) -> int:
    from ..files.tensorfile import replacing
    from ..golden import report
    from ..golden.ops_folder import is_ops

    if is_ops(arguments.golden):
        return ops.run_check(arguments)
    for file in (arguments.html, arguments.junit):
        if file is not None:
            check_output(file)
    checked = compared(arguments, need_model=False)
    for file, text in ((arguments.html, lambda: page(checked, arguments)), (arguments.junit, lambda: report.junit(checked))):
        if file is not None:
            with replacing(file) as target:
                target.write(text().encode())
    arguments.verdict = OK if checked.passed else FAILED  # whether or not anybody reads the table to its end
    missing = [result.name for result in checked.results if result.run is None]
    if arguments.json:
        print(report.as_json(report.check_data(checked)))
    else:
        print(report.check_text(checked, terminal_width(), wants_colour(), arguments.brief))
    if arguments.complete and missing:
        note(f"{arguments.dump}: {len(missing)} steps are missing, the first is {missing[0]}")
        return FAILED
    return arguments.verdict


def page(checked: "Check", arguments: argparse.Namespace) -> str:
    """The HTML page, with a diagnosis where the model is at hand."""
    from ..golden.report_page import html

    findings, suspected = (None, None) if checked.model is None else diagnosed(checked)
    return html(checked, printable(arguments.dump), findings=findings, suspected=suspected, language=arguments.lang)


def diagnosed(checked: "Check") -> "tuple[list[Finding], Suspected | None]":
    """What explains the wrong steps, and the narrower format that what is unexplained looks like."""
    from ..golden.diagnosing import diagnose, suspicion
    from ..golden.narrow_checking import NarrowCheck
    from ..golden.narrow_diagnosing import diagnose_narrow

    progress = Progress(0)
    try:
        if isinstance(checked, NarrowCheck):
            return diagnose_narrow(checked, progress.say), None
        findings = diagnose(checked, progress.say)
    finally:
        progress.clear()
    unexplained = any(finding.best is None for finding in findings) or (not findings and not checked.passed)
    return findings, suspicion(checked) if unexplained else None


def run_diagnose(arguments: argparse.Namespace) -> int:
    from ..golden import report
    from ..golden.ops_folder import is_ops

    refuse((is_ops(arguments.golden), f"{arguments.golden}: vectors of operations: `numpy-vit golden check` judges them"))
    checked = compared(arguments, need_model=True)
    arguments.verdict = OK if checked.passed else FAILED
    findings, suspected = diagnosed(checked)
    if arguments.json:
        print(report.as_json(report.diagnosis_data(findings, suspected, checked.conventions)))
    else:
        print(report.diagnosis_text(findings, checked, suspected, terminal_width()))
    return arguments.verdict
