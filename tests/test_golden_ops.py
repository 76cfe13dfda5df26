"""Vectors for kernel writers: the answers, the folder, and what a check says of right and wrong kernels."""

import functools
import json
import math
import shutil
import subprocess
from decimal import Decimal
from fractions import Fraction

import documents
import numpy as np
import pytest
from test_golden import compiled

from numpy_vit import InputError
from numpy_vit.arithmetic import exact
from numpy_vit.arithmetic.formats import from_bits, to_float
from numpy_vit.errors import InvariantError
from numpy_vit.golden import ops_answers
from numpy_vit.golden.folder import manifest_sha256, manifest_text
from numpy_vit.golden.ops_folder import read_ops, write_ops
from numpy_vit.golden.ops_vectors import all_cases
from numpy_vit.ops import patchify
from numpy_vit.positions import RULES, axis_weights

erf = np.vectorize(math.erf, otypes=[np.float64])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ops") / "vectors"
    write_ops(folder, all_cases())
    return folder


@pytest.fixture(scope="module")
def vectors(folder):
    return read_ops(folder)


# Rounding and functions


def test_one_rounding_is_the_formats_own():
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 4000) * 2.0 ** rng.integers(-160, 140, 4000)
    with np.errstate(over="ignore"):
        singles = x.astype(np.float32).astype(np.float64)
    ties = np.concatenate([singles[np.isfinite(singles)] * (1 + 2.0**-24), 2.0**-150 * np.arange(9)])
    for name in ("float32", "bfloat16", "float16"):
        with np.errstate(over="ignore"):
            right = to_float(np.concatenate([x, ties]), name)
        got = [exact.rounded(Fraction(number), name) for number in np.concatenate([x, ties]).tolist()]
        assert np.array_equal(got, right), name
    for top, bottom in rng.integers(1, 2**60, (500, 2)).tolist():
        assert exact.rounded(Fraction(-top, bottom), "float64") == -top / bottom  # Python's own division rounds once
    assert exact.rounded(Fraction(2) ** 1024 - Fraction(2) ** 970, "float64") == math.inf
    assert exact.rounded(Fraction(2) ** 1024 - Fraction(2) ** 970 - 1, "float64") == np.finfo(float).max


def test_ulps_are_numpys():
    for number in (1.0, 1.5, 2.0, 32768.0, 6e-8, 1e-5, 1024.0):
        assert exact.ulp(Fraction(number), "float16") == np.spacing(np.float16(number))
    assert exact.ulp(Fraction(0), "float32") == 2.0**-149


def test_what_digits_do_not_settle_is_not_rounded():
    near = 1 + Fraction(1, 2**24) + Fraction(1, 10**70)  # a tie of float32, but for the 70th digit
    assert exact.rounded(near, "float32") == 1 + 2.0**-23
    with pytest.raises(InvariantError, match="do not settle"):
        exact.settled(near, "float32", Fraction(1))


def test_functions_agree_with_pythons():
    for x in (-9.5, -3.0, -0.5, 0.0, 1e-9, 0.7, 2.0, 30.0):
        assert math.isclose(exact.normal(Fraction(x)), 0.5 * math.erfc(-x / math.sqrt(2)), rel_tol=1e-13)
        assert math.isclose(exact.exp(Fraction(x)), math.exp(x), rel_tol=1e-15)
        assert math.isclose(exact.sigmoid(Fraction(x)), 1 / (1 + math.exp(-x)), rel_tol=1e-15)
    assert exact.root(Fraction(9, 4)) == Fraction(3, 2)
    assert str(exact.pi(50)) == "3.1415926535897932384626433832795028841971693993751"


@pytest.mark.peers
def test_functions_agree_with_mpmath():
    import mpmath as mp

    mp.mp.dps = 400

    def as_mp(x):
        return mp.mpf(x.numerator) / x.denominator

    for x in (-44.9, -38.5, -17.3, -5.5, -0.3, -1e-30, 1e-300, 0.1, 3.7, 12.0):
        for ours, theirs in ((exact.normal, mp.ncdf), (exact.exp, mp.exp), (exact.sigmoid, lambda x: 1 / (1 + mp.exp(-x)))):
            assert abs(as_mp(ours(Fraction(x))) / theirs(mp.mpf(x)) - 1) < 1e-75, (x, ours)
    assert abs(mp.mpf(str(exact.pi(300))) - mp.pi) < mp.mpf(10) ** -299


@pytest.mark.parametrize("rule", RULES)
def test_exact_weights_are_the_rules(rule):
    for old, new in ((3, 5), (5, 7), (7, 3), (5, 4), (9, 9)):
        weights = np.asarray(ops_answers.axis(rule, old, new), np.float64)
        assert np.abs(weights - RULES[rule](old, new)).max() < 1e-14
        if rule != "linear_geometric":
            assert all(sum(row) == 1 for row in ops_answers.axis(rule, old, new).tolist())


# The answers


def given(vectors, case):
    """A case's inputs by name, and its parameters."""
    return {key: vectors.arrays[f"{case['name']}/{key}"] for key in case["inputs"]}, case["parameters"]


def test_every_operation_is_there(vectors):
    operations = {case["name"].split("/")[0] for case in vectors.cases}
    named = {"patchify", "linear", "layer_norm", "rms_norm", "softmax", "gelu", "gelu_tanh", "quick_gelu", "silu", "attention"}
    assert named < operations
    assert {f"rotation-{pairs}" for pairs in ("halves", "neighbours")} < operations
    assert {f"resize-{rule}-{size}" for rule in RULES for size in ("larger", "smaller")} < operations
    assert {"quantise-even-clip", "quantise-away-wrap", "quantise-litert-ruy", "requantise-onnx"} < operations
    assert {"requantise-litert-reference", "requantise-fixed-double", "requantise-even-wrap"} < operations
    for operation in named:
        formats = {case["format"] for case in vectors.cases if case["operation"] == operation}
        assert formats == {"float64", "float32", "float16", "bfloat16"}


def test_inputs_and_answers_are_numbers_of_the_format(vectors):
    for case in vectors.cases:
        if case["format"] in ("float16", "bfloat16", "float32"):
            for key in (*case["inputs"], "y"):
                array = vectors.arrays[f"{case['name']}/{key}"]
                with np.errstate(over="ignore"):
                    assert np.array_equal(to_float(array, case["format"]), array, equal_nan=True), case["name"]


def test_norms_and_softmax_in_rational_numbers(vectors):
    """Written out another way, number by number, in Decimal of 60 digits."""
    for case in vectors.cases:
        if case["operation"] not in ("layer_norm", "rms_norm", "softmax") or "masked" in case["name"]:
            continue
        (inputs, parameters), y = given(vectors, case), vectors.arrays[f"{case['name']}/y"]
        for row, right in zip(inputs["x"].tolist(), y.tolist(), strict=True):
            for n, want in enumerate(right):
                got = by_hand(case["operation"], [Fraction(x) for x in row], n, inputs, parameters)
                assert exact.rounded(got, case["format"]) == want, (case["name"], n)


def by_hand(operation, row, n, inputs, parameters):
    if operation == "softmax":
        terms = [Decimal(x.numerator) / Decimal(x.denominator) if x else Decimal(0) for x in (x - row[n] for x in row)]
        total = sum((Fraction(term.exp()) if term > -5000 else Fraction(0)) for term in terms if term < 100000)
        return Fraction(1) / total if all(term < 100000 for term in terms) else Fraction(0)
    mean = sum(row) / len(row) if operation == "layer_norm" else 0
    square = sum((x - mean) ** 2 for x in row) / len(row) + Fraction(parameters["eps"])
    digits = exact.context(70)
    root = Fraction(digits.sqrt(digits.divide(Decimal(square.numerator), Decimal(square.denominator))))
    bias = Fraction(inputs["bias"][n]) if operation == "layer_norm" else 0
    return (row[n] - mean) / root * Fraction(inputs["weight"][n]) + bias


@pytest.mark.peers
def test_activations_and_attention_in_mpmath(vectors):
    import mpmath as mp

    mp.mp.dps = 500
    functions = {
        "gelu": lambda x: x * mp.ncdf(x),
        "gelu_tanh": lambda x: x * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))) / 2,
        "quick_gelu": lambda x: x / (1 + mp.exp(-mp.mpf("1.702") * x)),
        "silu": lambda x: x / (1 + mp.exp(-x)),
    }
    checked = 0
    for case in vectors.cases:
        y = vectors.arrays[f"{case['name']}/y"]
        inputs, _ = given(vectors, case)
        if case["operation"] in functions:
            for x, want in zip(inputs["x"].ravel().tolist(), y.ravel().tolist(), strict=True):
                if math.isfinite(x) and abs(x) < 1000:
                    assert exact.rounded(rational(functions[case["operation"]](mp.mpf(x))), case["format"]) == want, (x, case)
                    checked += 1
        elif case["operation"] == "attention":
            q, k, v = (mp.matrix(inputs[name].tolist()) for name in ("query", "key", "value"))
            scores = q * k.T / mp.sqrt(q.cols)
            e = scores.apply(mp.exp)
            for i in range(e.rows):
                total = mp.fsum(e[i, j] for j in range(e.cols))
                for d in range(v.cols):
                    out = mp.fsum(e[i, j] * v[j, d] for j in range(e.cols)) / total
                    assert exact.rounded(rational(out), case["format"]) == y[i, d], case["name"]
                    checked += 1
    assert checked > 1500


def rational(x):
    import mpmath as mp

    sign, man, power, _ = mp.mpf(x)._mpf_
    return (-1) ** sign * Fraction(int(man)) * Fraction(2) ** int(power)


def test_integers_by_hand(vectors):
    """The ties of quantise, and of requantise, and what wraps and saturates."""

    def y(name):
        return vectors.arrays[f"{name}/y"].tolist()

    x = vectors.arrays["quantise-even-clip/ties-scale-0.5/int8/x"] / 0.5
    assert y("quantise-even-clip/ties-scale-0.5/int8") == [round(v) + 3 for v in x.tolist()]
    assert y("quantise-floor-clip/ties-scale-0.5/int8") == [math.floor(v) + 3 for v in x.tolist()]
    assert y("quantise-up-clip/ties-scale-0.5/int8") == [math.floor(v + 0.5) + 3 for v in x.tolist()]
    assert y("quantise-away-clip/ties-scale-0.5/int8") == [math.copysign(math.floor(abs(v) + 0.5), v) + 3 for v in x.tolist()]
    assert y("quantise-even-wrap/ends-scale-0.5/int8")[2] == (126 + 3 + 128) % 256 - 128
    sums = vectors.arrays["requantise-onnx/ties/int8/sums"]
    right = np.clip(np.rint(sums * 0.5 * [1, 0.5, 0.25, 0.125]) + 2, -128, 127)
    assert y("requantise-onnx/ties/int8") == right.tolist()
    a, b = (vectors.arrays[f"product-uint8-int8/ends/int32/{key}"] for key in "ab")
    assert y("product-uint8-int8/ends/int32") == ((a - 131) @ (b - 3)).tolist()


# The folder


def test_the_files_are_read_by_index_and_fromfile(folder, vectors):
    """As a C program would: index.txt alone."""
    read = 0
    for line in (folder / "index.txt").read_text().splitlines():
        name, dtype, rank, *rest = line.split()
        shape, file = [int(size) for size in rest[:-1]], rest[-1]
        assert len(shape) == int(rank)
        bits = np.fromfile(folder / file, {"bfloat16": "<u2"}.get(dtype) or np.dtype(dtype).newbyteorder("<"))
        array = (from_bits(bits, "bfloat16") if dtype == "bfloat16" else bits.astype(np.float64)).reshape(shape)
        assert np.array_equal(array, vectors.arrays[name], equal_nan=True), name
        read += 1
    assert read == len(vectors.arrays) > 2000
    given = {tuple(line.split()[:2]): line.split()[3:] for line in (folder / "parameters.txt").read_text().splitlines()}
    for case in vectors.cases:
        for key, value in case["parameters"].items():
            words = given[case["name"], key]
            assert [type(value)(word) for word in words] == [value] if not isinstance(value, list) else len(words) == len(value)


@pytest.mark.slow
def test_it_is_small_and_the_same_every_time(folder, tmp_path, run):
    assert run("golden", "ops", "-o", tmp_path / "again")[0] == 0
    files = sorted(path.name for path in folder.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    assert sum((folder / name).stat().st_size for name in files) < 3_000_000


@pytest.mark.slow
def test_what_is_there_is_not_overwritten(tmp_path, run):
    target = tmp_path / "ops"
    write_ops(target, few())
    assert "--force" in run("golden", "ops", "-o", target)[2]
    (target / "mine.txt").write_text("my own")
    status, _, said = run("golden", "ops", "-o", target, "--force")
    assert status == 2 and "other things" in said and (target / "mine.txt").exists()
    (target / "mine.txt").unlink()
    assert run("golden", "ops", "-o", target, "--force")[0] == 0
    assert len(read_ops(target).cases) > 700
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in run("golden", "ops", "-o", file)[2]
    assert list(tmp_path.glob("*.part")) == []


@functools.cache
def few():
    return [case for case in all_cases() if case.name.startswith(("softmax/", "product-"))]


def test_an_interrupted_writing_leaves_nothing(tmp_path):
    def broken():
        yield from few()[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ops(tmp_path / "ops", broken())
    assert list(tmp_path.iterdir()) == []


def first(manifest):
    return manifest["cases"][0]


TAMPERED = {
    "another file": (lambda m: first(m)["output"].update(file="../../etc/passwd"), "is not what its file is called"),
    "another name": (lambda m: first(m).update(name="../x/y"), "is not what its file is called|a name is"),
    "spaces": (lambda m: first(m).update(name="a b/c/d"), "a name is operation/case/format"),
    "a huge shape": (lambda m: first(m)["output"].update(shape=[1 << 30]), "whole numbers"),
    "many axes": (lambda m: first(m)["output"].update(shape=[1] * 100), "whole numbers"),
    "no shape": (lambda m: first(m)["output"].update(shape=[True, 9]), "whole numbers"),
    "another shape": (lambda m: first(m)["output"].update(shape=[3, 8]), "units must be float64|holds"),
    "another dtype": (lambda m: first(m)["output"].update(dtype="object"), "dtype 'object'"),
    "another hash": (lambda m: first(m)["output"].update(sha256="0" * 64), "SHA-256 differs"),
    "a parameter": (lambda m: first(m).update(parameters={"eps": {"a": 1}}), "must be a number or a word"),
    "a parameter of two lines": (lambda m: first(m).update(parameters={"eps": "1\n2"}), "must be a number or a word"),
    "control characters": (lambda m: first(m).update(formula="\x1b[31m"), "printable"),
    "a case twice": (lambda m: m["cases"].append(first(m)), "lists a case twice"),
    "no cases": (lambda m: m.update(cases=[]), "lists 0 cases"),
    "no object": (lambda m: m["cases"].append(3), "must be JSON objects|has no"),
    "a version": (lambda m: m.update(version="9"), "update one of them"),
    "an input called y": (lambda m: first(m)["inputs"].update(y=first(m)["output"]), "no input is called"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_tampered_manifests(tmp_path, how):
    change, message = TAMPERED[how]
    write_ops(tmp_path / "ops", few())
    manifest = json.loads((tmp_path / "ops" / "manifest.json").read_text())
    change(manifest)
    manifest["sha256"] = manifest_sha256(manifest)
    (tmp_path / "ops" / "manifest.json").write_text(manifest_text(manifest, "cases"))
    with pytest.raises(InputError, match=message):
        read_ops(tmp_path / "ops")


def test_damaged_files(tmp_path):
    write_ops(tmp_path / "ops", few())

    def refused(file, change, message):
        content = (tmp_path / "ops" / file).read_bytes()
        (tmp_path / "ops" / file).write_bytes(change(content))
        with pytest.raises(InputError, match=message):
            read_ops(tmp_path / "ops")
        (tmp_path / "ops" / file).write_bytes(content)

    refused("softmax.ties.float32.y.f32", lambda c: c[:-4], "holds 11 numbers")
    refused("softmax.ties.float32.y.f32", lambda c: c[:-4] + bytes(4), "SHA-256 differs")
    refused("index.txt", lambda c: c + b"x", "not what was written")
    refused("parameters.txt", lambda c: c[1:], "not what was written")
    refused("manifest.json", lambda c: c.replace(b"half way", b"halfway", 1).replace(b"two largest", b"TWO largest"), "SHA-256")
    (tmp_path / "ops" / "softmax.ties.float32.y.f32").unlink()
    with pytest.raises(InputError, match="no such file"):
        read_ops(tmp_path / "ops")


# Kernels: a port of NumPy alone, right and wrong


def kernels(**changed):
    """A port's functions of arrays, computed in the arrays' own dtype."""

    def layer_norm(x, weight, bias, *, eps):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + x.dtype.type(eps)) * weight + bias

    def rms_norm(x, weight, *, eps):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(eps)) * weight

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def rotation(x, cos, sin, *, pairs):
        half = x.shape[-1] // 2
        if pairs == "halves":
            turned = np.concatenate([-x[..., half:], x[..., :half]], -1)
        else:
            turned = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * cos + turned * sin

    def resize(positions, *, old, new, rule):
        rows, columns = (w.astype(positions.dtype) for w in axis_weights(tuple(old), tuple(new), rule))
        grid = positions[1:].reshape(*old, -1)
        return np.concatenate([positions[:1], np.einsum("ai,bj,ijd->abd", rows, columns, grid).reshape(new[0] * new[1], -1)])

    def root(x):
        return x.dtype.type(math.sqrt(2 / math.pi))

    return {
        "patchify": lambda x, *, patch: patchify.formula(x, patch),
        "linear": lambda x, weight, bias: x @ weight + bias,
        "layer_norm": layer_norm,
        "rms_norm": rms_norm,
        "softmax": softmax,
        "gelu": lambda x: x / 2 * (1 + erf(x * math.sqrt(0.5)).astype(x.dtype)),
        "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(root(x) * (x + x.dtype.type(0.044715) * x * x * x))),
        "quick_gelu": lambda x: x * sigmoid(x.dtype.type(1.702) * x),
        "silu": lambda x: x * sigmoid(x),
        "attention": lambda query, key, value: softmax(query @ key.T / query.dtype.type(math.sqrt(query.shape[-1]))) @ value,
        "rotation": rotation,
        "resize": resize,
        **changed,
    }


def dumped(vectors, folder, functions, formats=("float64", "float32", "float16", "bfloat16"), inside=None):
    """Run a port over the vectors: 16-bit formats in float32, or `inside`, and rounded at the end -> its dump, raw files."""
    folder.mkdir()
    for case in vectors.cases:
        if case["operation"] in functions and case["format"] in formats:
            inputs, parameters = given(vectors, case)
            kind = inside or {"float64": "float64"}.get(case["format"], "float32")
            with np.errstate(all="ignore"):
                y = functions[case["operation"]](**{k: v.astype(kind) for k, v in inputs.items()}, **parameters)
                y = y if case["format"] == "float64" else to_float(y, case["format"])
            name = case["name"].replace("/", ".")
            np.save(folder / f"{name}.npy", y.astype("float64" if case["format"] == "float64" else "float32"))
    return folder


def checked(run, folder, dump, *options):
    status, said, error = run("golden", "check", folder, dump, "--json", *options)
    assert error == "", error
    data = json.loads(said)
    return status, {case["case"]: case for case in data["cases"]}, data


def wrong_in(cases):
    return sorted(name for name, case in cases.items() if case["verdict"] == "wrong")


def test_right_kernels_pass(folder, vectors, tmp_path, run):
    status, cases, data = checked(run, folder, dumped(vectors, tmp_path / "dump", kernels()))
    assert (status, wrong_in(cases)) == (0, [])
    assert len(cases) > 400 and len(data["missing"]) + len(cases) == len(vectors.cases)
    assert run("golden", "check", folder, tmp_path / "dump", "--complete")[0] == 1
    assert max(case["units"]["worst"] for case in cases.values()) > 0.4  # it rounds, and that is seen


def tanh_for_erf(x):
    return kernels()["gelu_tanh"](x)


def eps_outside(x, weight, bias, *, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / (np.sqrt((centred * centred).mean(-1, keepdims=True)) + x.dtype.type(eps)) * weight + bias


def one_pass(x, weight, bias, *, eps):
    variance = np.maximum((x * x).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2, 0)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + x.dtype.type(eps)) * weight + bias


def without_maximum(x):
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


def unscaled(query, key, value):
    return kernels()["softmax"](query @ key.T) @ value


def corners(positions, *, old, new, rule):
    return kernels()["resize"](positions, old=old, new=new, rule="bicubic_corners" if rule == "bicubic" else rule)


def turned_back(x, cos, sin, *, pairs):
    return kernels()["rotation"](x, cos, -sin, pairs=pairs)


MISTAKES = {
    "gelu": (tanh_for_erf, "gelu/ordinary/float32"),
    "layer_norm": (eps_outside, "layer_norm/small/float32"),
    "softmax": (without_maximum, "softmax/large/float32"),
    "attention": (unscaled, "attention/ordinary/float32"),
    "rotation": (turned_back, "rotation-halves/ordinary/float32"),
}


@pytest.mark.parametrize("operation", MISTAKES)
def test_planted_mistakes_are_found(folder, vectors, tmp_path, run, operation):
    mistake, case = MISTAKES[operation]
    dump = dumped(vectors, tmp_path / "dump", kernels(**{operation: mistake}), ["float32"])
    status, cases, _ = checked(run, folder, dump)
    assert status == 1 and case in wrong_in(cases)
    assert all(name.split("/")[0].split("-")[0] == operation for name in wrong_in(cases))


def test_one_pass_variance_and_corners_are_found(folder, vectors, tmp_path, run):
    functions = {"layer_norm": one_pass, "resize": corners}
    for format in ("float64", "float32"):
        _, cases, _ = checked(run, folder, dumped(vectors, tmp_path / format, functions, [format]))
        assert f"layer_norm/offset/{format}" in wrong_in(cases)
        assert {f"resize-bicubic-{size}/spike/{format}" for size in ("larger", "smaller")} < set(wrong_in(cases))


def test_float16_accumulation_is_found(folder, vectors, tmp_path, run):
    """Every product and sum rounded to float16, one after the other."""

    def linear(x, weight, bias):
        total = np.broadcast_to(bias, (len(x), weight.shape[1])).astype(np.float16)
        for k in range(x.shape[1]):
            total = total + x[:, k : k + 1] * weight[k]
        return total.astype(np.float16)

    dump = dumped(vectors, tmp_path / "dump", {"linear": linear}, ["float16"], inside="float16")
    status, cases, _ = checked(run, folder, dump)
    assert status == 1 and "linear/swamped/float16" in wrong_in(cases)
    case = cases["linear/swamped/float16"]
    assert (case["right"], case["port"], case["place"]) == (2112, 2048, [0, 0])


@pytest.mark.slow
def test_from_both_sides_of_the_threshold(folder, vectors, tmp_path, run):
    name = "softmax/ordinary/float64"
    right, unit = vectors.arrays[f"{name}/y"], vectors.arrays[f"{name}/unit"]
    for units, factor, expected in ((4, 4, 0), (5, 4, 1), (5, 5, 0), (1, 0.9, 1), (100, 100, 0)):
        port = right.copy()
        port[1, 2] += units * unit[1, 2]
        np.savez(tmp_path / "dump.npz", **{name: port})
        status, cases, _ = checked(run, folder, tmp_path / "dump.npz", "--factor", factor)
        found = cases[name]
        assert status == expected
        assert (found["place"], found["differ"]) == ([1, 2], 1)
        assert found["units"]["worst"] == units and math.isclose(found["units"]["mean"], found["units"]["worst"] / 27)
        assert found["input"] == vectors.arrays[f"{name}/x"][1].tolist()
        assert found["right"] == right[1, 2] and found["port"] == port[1, 2]


def test_integers_are_exact(folder, vectors, tmp_path, run):
    name = "requantise-onnx/ordinary/int8"
    right = vectors.arrays[f"{name}/y"].astype(np.int8)
    (tmp_path / "dump").mkdir()
    for off, expected in ((0, 0), (1, 1)):
        port = right.copy()
        port[3, 1] += off
        port.tofile(tmp_path / "dump" / "requantise-onnx.ordinary.int8.i8")
        status, cases, _ = checked(run, folder, tmp_path / "dump")
        assert (status, cases[name]["differ"]) == (expected, off)
    status, said, _ = run("golden", "check", folder, tmp_path / "dump", "--factor", 1000)
    assert status == 1 and "Wrong: requantise-onnx. First: requantise-onnx/ordinary/int8." in said
    (tmp_path / "dump" / "requantise-onnx.ordinary.int8.i8").unlink()
    (right.astype("<i2") + 1).astype("<i2").tofile(tmp_path / "dump" / "requantise-onnx.ordinary.int8.i16")
    assert "all off by +1" in run("golden", "check", folder, tmp_path / "dump")[1]


def test_zeros_nan_and_infinity(folder, vectors, tmp_path, run):
    name = "gelu/infinite/float32"
    for port, expected in (([np.inf, np.nan], 0), ([np.inf, 0], 1), ([np.nan, np.nan], 1), ([3e38, np.nan], 1)):
        np.savez(tmp_path / "dump.npz", **{name: np.float32(port)})
        assert checked(run, folder, tmp_path / "dump.npz")[0] == expected
    name = "gelu/tiny/float32"
    np.savez(tmp_path / "dump.npz", **{name: -np.abs(vectors.arrays[f"{name}/y"]) * 0})
    status, cases, _ = checked(run, folder, tmp_path / "dump.npz")
    assert status == 1
    flushed = np.where(np.abs(right := vectors.arrays[f"{name}/y"]) < 2.0**-126, -0.0, right)
    np.savez(tmp_path / "dump.npz", **{name: flushed})
    _, cases, _ = checked(run, folder, tmp_path / "dump.npz")
    assert cases[name]["meaning"] == "subnormal or small results are 0"


@pytest.mark.slow
def test_dumps_that_do_not_fit(folder, tmp_path, run):
    np.savez(tmp_path / "dump.npz", **{"softmax/odinary/float32": np.zeros(3)})
    status, said, error = run("golden", "check", folder, tmp_path / "dump.npz")
    assert status == 1 and "nothing could be compared" in said and "did you mean 'softmax/ordinary/float32'" in error
    np.savez(tmp_path / "dump.npz", **{"softmax/ordinary/float32": np.zeros((9, 3))})
    status, _, error = run("golden", "check", folder, tmp_path / "dump.npz")
    assert status == 2 and "(3, 9) is expected" in error
    both = {"softmax/ordinary/float32": np.zeros((3, 9)), "softmax.ordinary.float32": np.zeros((3, 9))}
    np.savez(tmp_path / "dump.npz", **both)
    assert "are the same case" in run("golden", "check", folder, tmp_path / "dump.npz")[2]
    for option in ("--map", "--html", "--budget"):
        assert "vectors of operations have none" in run("golden", "check", folder, tmp_path / "dump.npz", option, "x")[2]
    assert "above 0" in run("golden", "check", folder, tmp_path / "dump.npz", "--factor", "0")[2]
    status, _, error = run("golden", "diagnose", folder, tmp_path / "dump.npz")
    assert status == 2 and "`numpy-vit golden check` judges" in error


@pytest.mark.slow
def test_the_c_port_of_the_recipe(tmp_path, monkeypatch, run):
    """docs/recipes.md: write, compile, run, check, as the commands stand there; and a wrong one is found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ops_port.c").write_text(documents.code("recipes.md", "ops_port.c"))
    compiled(tmp_path, "ops_port.c")
    said = []
    for command in documents.commands("recipes.md", "numpy-vit golden ops"):
        words = command.split()
        if words[0] == "numpy-vit":
            status, out, error = run(*words[1:])
            assert status == 0, (command, out, error)
            said.append(out)
        else:
            subprocess.run(words, check=True, capture_output=True)
    assert "13 of 792 cases compared, 13 right" in said[-1]
    source = (tmp_path / "ops_port.c").read_text()
    assert "erff(" in source
    (tmp_path / "ops_port.c").write_text(source.replace("erff(", "tanhf(1.1283791f * "))
    compiled(tmp_path, "ops_port.c")
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "results").mkdir()
    subprocess.run([tmp_path / "program", "vectors", "results"], check=True)
    assert "Wrong: gelu. First: gelu/ordinary/float32." in run("golden", "check", "vectors", "results")[1]


@pytest.mark.peers
def test_torch_passes(folder, vectors, tmp_path, run):
    """torch's own kernels in float64 and float32, and in bfloat16."""
    import torch
    import torch.nn.functional as F

    ways = {"bicubic": {}, "bicubic_antialias": {"antialias": True}, "bicubic_corners": {"align_corners": True}}

    def resize(positions, *, old, new, rule):
        kind = "bicubic" if "bicubic" in rule else "bilinear"
        grid = positions[1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
        options = {"antialias": True} if "antialias" in rule else {"align_corners": True} if "corners" in rule else {}
        out = F.interpolate(grid, size=tuple(new), mode=kind, **options).permute(0, 2, 3, 1).reshape(new[0] * new[1], -1)
        return torch.cat([positions[:1], out])

    functions = {
        "linear": lambda x, weight, bias: F.linear(x, weight.T.contiguous(), bias),
        "layer_norm": lambda x, weight, bias, eps: F.layer_norm(x, x.shape[-1:], weight, bias, eps),
        "rms_norm": lambda x, weight, eps: F.rms_norm(x, x.shape[-1:], weight, eps),
        "softmax": lambda x: torch.softmax(x, -1),
        "gelu": lambda x: F.gelu(x),
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": lambda x: F.silu(x),
        "attention": lambda query, key, value: F.scaled_dot_product_attention(query[None], key[None], value[None])[0],
        "resize": resize,
    }
    known = (*ways, "bilinear", "bilinear_corners", "bilinear_antialias")
    results = {}
    for case in vectors.cases:
        rule = case["parameters"].get("rule")
        if case["operation"] in functions and (case["operation"] != "resize" or rule in known):
            if case["operation"] == "resize" and case["format"] in ("float16", "bfloat16"):
                continue
            inputs, parameters = given(vectors, case)
            kind = getattr(torch, case["format"])
            out = functions[case["operation"]](**{k: torch.tensor(v).to(kind) for k, v in inputs.items()}, **parameters)
            results[case["name"]] = out.to(torch.float64).numpy()
    np.savez(tmp_path / "dump.npz", **results)
    _, cases, _ = checked(run, folder, tmp_path / "dump.npz")
    print({name: (case["units"]["worst"], case["meaning"]) for name, case in cases.items() if case["verdict"] == "wrong"})
    assert wrong_in(cases) == []
