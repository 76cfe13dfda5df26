"""Do the tests notice? Plants small mistakes one at a time, and says which of them turned no default test red.

    python -m tests.mutate --count 20 --seed 1                     anywhere in the package
    python -m tests.mutate --module numpy_vit/ops.py --count 10    in one module, or several

Mistakes are at edges: comparisons by one, and for or, a lost "not", arguments swapped, constants and defaults changed, a
statement left out. Each is planted in a copy of the checkout, where the tests that call its function are tried, the quickest
first, until one fails. Which tests these are is measured once (a run of the whole suite, kept in the cache folder until the
package or its tests change); what is in no function, such as a module's constants, is tried with the tests that call any
function of that module. What is reported as not noticed may be no mistake at all: that needs a reader.

Not part of the default run; needs a system with fork.
"""

import argparse
import ast
import collections
import compileall
import copy
import dataclasses
import difflib
import functools
import hashlib
import importlib
import json
import multiprocessing
import os
import py_compile
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "numpy_vit"
LEFT_OUT = (".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", "build", "node_modules")
QUIET = [
    "-q",
    "-x",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "--no-header",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
]
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.FloorDiv: ast.Div}
FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "argmax": "argmin"}


# Mistakes


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One change of a module's text."""

    module: str  # "numpy_vit/ops.py"
    kind: str
    first: int  # lines, from 1
    last: int
    text: str  # the module with the mistake

    def diff(self, before: str) -> str:
        lines = difflib.unified_diff(before.splitlines(), self.text.splitlines(), lineterm="", n=0)
        return "\n".join(f"    {line}" for line in lines if not line.startswith(("---", "+++", "@@")))


def variants(node: ast.AST) -> list[tuple[str, ast.AST | None]]:
    """What somebody might have written for a node: (kind, another node, or None for nothing at all)."""
    found: list[tuple[str, ast.AST | None]] = []

    def other(kind: str, change) -> None:
        made = copy.deepcopy(node)
        change(made)
        found.append((kind, made))

    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        other("comparison", lambda n: n.ops.__setitem__(0, COMPARISONS[type(n.ops[0])]()))
    elif isinstance(node, ast.BoolOp):
        other("and/or", lambda n: setattr(n, "op", ast.And() if isinstance(n.op, ast.Or) else ast.Or()))
        found.append(("condition dropped", ast.BoolOp(node.op, node.values[:-1]) if len(node.values) > 2 else node.values[0]))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found.append(("not dropped", node.operand))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        other("operator", lambda n: setattr(n, "op", OPERATORS[type(n.op)]()))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        other("constant", lambda n: setattr(n, "value", not n.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        for by in (1, -1):
            other("constant", lambda n, by=by: setattr(n, "value", n.value + by))
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        for by in (1.01, 10.0):
            other("constant", lambda n, by=by: setattr(n, "value", n.value * by))
    elif isinstance(node, ast.Call):
        if len(node.args) > 1 and ast.dump(node.args[0]) != ast.dump(node.args[1]):
            other("arguments swapped", lambda n: n.args.__setitem__(slice(0, 2), [n.args[1], n.args[0]]))
        if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            other("function", lambda n: setattr(n.func, "id", FUNCTIONS[n.func.id]))
        if isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS:
            other("function", lambda n: setattr(n.func, "attr", FUNCTIONS[n.func.attr]))
    elif isinstance(node, ast.AugAssign | ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        found.append(("statement left out", None))
    elif isinstance(node, ast.IfExp):
        found.append(("condition dropped", node.body))
    return found


def children(node: ast.AST):
    """The nodes below that are run: no annotations, no docstrings, no texts (of messages mostly), no TYPE_CHECKING."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or (name == "type" and isinstance(node, ast.arg)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child


def mistakes_in(module: str) -> list[Mistake]:
    """Every mistake that can be planted in a module; a few of them are none (`changes`), which takes long to tell."""
    source = (REPOSITORY / module).read_bytes()
    lines = [0]
    for line in source.split(b"\n"):
        lines.append(lines[-1] + len(line) + 1)
    found, todo = [], collections.deque([ast.parse(source)])
    while todo:
        node = todo.popleft()
        todo.extend(children(node))
        for kind, other in variants(node):
            start, end = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
            new = "pass" if other is None else ast.unparse(other)
            new = new if other is None or isinstance(other, ast.Name | ast.Constant | ast.Call) else f"({new})"
            text = (source[:start] + new.encode() + source[end:]).decode()
            found.append(Mistake(module, kind, node.lineno, node.end_lineno, text))
    return found


def changes(mistake: Mistake) -> bool:
    """Whether a module with the mistake is Python, and not what it was."""
    try:
        return ast.dump(ast.parse(mistake.text)) != ast.dump(ast.parse((REPOSITORY / mistake.module).read_text()))
    except SyntaxError:
        return False


def chosen(modules: list[str], count: int, seed: int) -> list[Mistake]:
    """`count` mistakes, of every kind about as many."""
    kinds = collections.defaultdict(list)
    for module in modules:
        for mistake in mistakes_in(module):
            kinds[mistake.kind].append(mistake)
    generator = random.Random(seed)
    for several in kinds.values():
        generator.shuffle(several)
    found, taken = [], set()
    while len(found) < count and any(kinds.values()):
        for kind in sorted(kinds):
            if kinds[kind] and len(found) < count:
                mistake = kinds[kind].pop()
                if (mistake.module, mistake.text) not in taken and changes(mistake):
                    taken.add((mistake.module, mistake.text))
                    found.append(mistake)
    return found


# Which tests run which functions


class Watch:
    """A pytest plugin: the functions of the package that each test that passes calls, by their lines, and how long it takes."""

    def __init__(self) -> None:
        self.called: set[str] = set()
        self.tests: dict[str, tuple[float, list[str]]] = {}
        self.folder = str(Path.cwd() / PACKAGE) + os.sep
        self.places: dict[types.CodeType, str] = {}

    def trace(self, frame: types.FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if code not in self.places:
            last = max((line for _, _, line in code.co_lines() if line), default=code.co_firstlineno)
            inside = code.co_filename.startswith(self.folder)
            place = (
                f"{Path(code.co_filename).relative_to(Path(self.folder).parent)}:{code.co_firstlineno}-{last}" if inside else ""
            )
            self.places[code] = place
        if self.places[code]:
            self.called.add(self.places[code])

    def pytest_runtest_protocol(self, item):
        self.called, self.start, self.right = set(), time.perf_counter(), True

    def pytest_runtest_logreport(self, report):
        self.right = self.right and report.passed  # one that fails or is skipped without a mistake says nothing of one
        if report.when == "teardown" and self.right:
            self.tests[report.nodeid] = (time.perf_counter() - self.start, sorted(self.called))

    def __enter__(self):
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(None)
        threading.settrace(None)


def measure(target: str, words: list[str]) -> None:
    """In a process of its own: run the tests, and write the map of functions to `target`."""
    import pytest

    with Watch() as watch:
        pytest.main([word for word in QUIET if word != "-x"] + words, plugins=[watch])
    Path(target).write_text(json.dumps(watch.tests))


def in_copy(copied: Path, function, *words, seconds: float) -> int | None:
    """Run a function in a child process in the copied checkout -> its exit status; None where it takes too long."""

    def child():
        os.setsid()
        os.chdir(copied)
        sys.path[:] = [str(copied), *(p for p in sys.path if Path(p or ".").resolve() != REPOSITORY)]
        for name in [name for name in sys.modules if name.split(".")[0] in (PACKAGE, "tests")]:
            del sys.modules[name]
        os.environ["PYTHONPATH"] = str(copied)
        null = os.open(os.environ.get("MUTATE_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(null, stream)
        sys.exit(function(*words))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode


def map_of_tests(copied: Path, cache: Path, words: list[str]) -> dict[str, tuple[float, list[str]]]:
    """Test -> (seconds, the functions it calls), measured now, or when the package and the tests were last the same."""
    digest = hashlib.sha256(repr(words).encode())
    for path in sorted(
        [*REPOSITORY.glob(f"{PACKAGE}/**/*.py"), *REPOSITORY.glob("tests/*.py"), *REPOSITORY.glob("tests/data/*.*")]
    ):
        digest.update(path.read_bytes())
    kept = cache / f"functions-{digest.hexdigest()[:16]}.json"
    if not kept.exists():
        print("measuring which tests call which functions (the whole suite, once) ...", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        in_copy(copied, measure, str(kept), words, seconds=3600)
    return json.loads(kept.read_text())


@functools.cache
def speaks_of(file: str, word: str) -> bool:
    """Whether a test file has a word in it."""
    return re.search(rf"\b{re.escape(word)}\b", (REPOSITORY / file).read_text()) is not None


def tests_for(mistake: Mistake, tests: dict[str, tuple[float, list[str]]], limit: int) -> tuple[list[str], int]:
    """The tests to try, and how many there are: those that call its function, or else any of its module.

    Those first whose file speaks of the module, and then the quickest: what all models run, more tests call than are tried.
    """

    def has(place: str) -> bool:
        module, _, lines = place.rpartition(":")
        first, last = map(int, lines.split("-"))
        return module == mistake.module and first <= mistake.first <= last

    stem = Path(mistake.module).stem
    quick = sorted(tests, key=lambda test: (not speaks_of(test.partition("::")[0], stem), tests[test][0]))
    found = [test for test in quick if any(map(has, tests[test][1]))]
    if not found:
        found = [test for test in quick if any(place.startswith(f"{mistake.module}:") for place in tests[test][1])]
    return found[:limit], len(found)


# Running


def run_tests(tests: list[str], names: str) -> int:
    """In a process of its own: the tests, until one fails, whose name is written to a file."""
    import pytest

    class First:
        def pytest_runtest_logreport(self, report):
            if report.failed:
                Path(names).write_text(report.nodeid)

    return int(pytest.main(QUIET + tests, plugins=[First()]))


def copy_of_checkout(place: Path) -> Path:
    copied = place / "checkout"
    shutil.copytree(REPOSITORY, copied, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    # By their hash: a mutant may be as long as the original, and written in the same second.
    compileall.compile_dir(copied / PACKAGE, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return copied


def tried(mistake: Mistake, copied: Path, tests: list[str], seconds: float) -> str:
    """The test that notices a mistake, "time-out", or "" where none does."""
    file, names = copied / mistake.module, copied.parent / "failed"
    before = file.read_text()
    names.unlink(missing_ok=True)
    file.write_text(mistake.text)
    try:
        status = in_copy(copied, run_tests, tests, str(names), seconds=seconds)
    finally:
        file.write_text(before)
    if status is None:
        return "time-out"
    return "" if status == 0 else names.read_text() if names.exists() else "collecting the tests"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.split("\n")[0])
    parser.add_argument("--module", action="append", help="a file of the package, or a folder (default: all); may be repeated")
    parser.add_argument("--count", type=int, default=20, help="how many mistakes (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="which (default 0)")
    parser.add_argument("--limit", type=int, default=100, help="so many tests are tried at most (default 100)")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one mistake (default 300)")
    parser.add_argument("--tests", action="append", default=[], help="a test file to choose from (default: the default run)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "numpy_vit_mutate")
    parser.add_argument("--report", type=Path, help="write the report to this file too")
    arguments = parser.parse_args()
    places = [REPOSITORY / name for name in arguments.module or [PACKAGE]]
    files = [file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    for name in ("numpy", "PIL.Image", "safetensors", "pytest"):  # once, before the forks
        importlib.import_module(name)
    lines, noticed, possible = [], 0, 0

    def say(text: str) -> None:
        lines.append(text)
        print(text, flush=True)

    with tempfile.TemporaryDirectory() as place:
        copied = copy_of_checkout(Path(place))
        tests = map_of_tests(copied, arguments.cache, arguments.tests)
        for mistake in chosen([str(file.relative_to(REPOSITORY)) for file in files], arguments.count, arguments.seed):
            some, count = tests_for(mistake, tests, arguments.limit)
            by = tried(mistake, copied, some, arguments.timeout) if some else ""
            possible, noticed = possible + 1, noticed + bool(by)
            how = f"noticed by {by}" if by else f"NOT NOTICED by {len(some)} tests of {count}"
            say(f"{mistake.module}:{mistake.first}: {mistake.kind}: {how}")
            say(mistake.diff((REPOSITORY / mistake.module).read_text()))
    say(f"{noticed} of {possible} noticed")
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
