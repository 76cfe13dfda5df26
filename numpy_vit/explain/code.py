"""The lines of model.py and ops.py that compute a step, taken from the source when a page is made."""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .. import model, ops
from ..config import ViTConfig
from ..families import uses

Function = Callable[..., Any]


class Lines(NamedTuple):
    """Some lines of a file of this package."""

    file: str
    first: int  # the number of the first of them
    code: str


def code_of_steps(config: ViTConfig) -> dict[str, list[Lines]]:
    """A step's name within its block -> the lines that ran, the statement of model.py first, then the formulas of ops.py.

    What a later family computes in the place of a function of the paper is not among them, but for another activation.
    """
    replaced = frozenset(uses(config.replace(activation="gelu")))
    found = dict(steps_of_function(model.forward, "", replaced))
    if model.encoder_block in replaced and model.forward not in replaced:  # what stands in its place calls the same two
        found |= steps_of_function(model.multi_head_attention, "attention.", replaced)
        found |= steps_of_function(model.mlp, "mlp.", replaced)
    if "mlp.gelu" in found and config.activation != "gelu":
        lines = found.pop("mlp.gelu")
        name = "gelu" if "gelu" in config.activation else config.activation
        found[f"mlp.{name}"] = [lines[0], body_of(ops.ACTIVATIONS[config.activation])]
    return found


def steps_of_function(function: Function, path: str, replaced: frozenset[Function]) -> Iterator[tuple[str, list[Lines]]]:
    """Every step that a function of model.py makes, and those that it calls, with the lines that make it."""
    if function in replaced:
        return
    for statement in statements(parsed(function)[0]):
        for call in calls(statement):
            if is_step(call):
                yield path + literal(call.args[0]), [lines_of(function, statement), *formulas(call.args[1])]
            elif is_into(call):
                part = literal(call.args[0])
                yield from steps_of_function(function_of(call.args[1]), f"{path}{part}." if part else path, replaced)
            else:
                yield from steps_of_function(function_of(call.func), path, replaced)


def literal(node: ast.expr) -> str:
    """The text of a name; "" of a block's, which has a number: a step is called as it is in every block."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@functools.cache
def parsed(function: Function) -> tuple[ast.FunctionDef, int]:
    """A function's syntax tree, and the number of its first line in its file."""
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return tree, first


def statements(tree: ast.FunctionDef) -> list[ast.stmt]:
    """The simple statements of a function, those in loops too, in their order."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.Return)]
    return sorted(found, key=lambda node: node.lineno)


def calls(statement: ast.stmt) -> list[ast.Call]:
    """The calls of `step`, `step.into` and `encode` in a statement, in the order they are made: what is inside comes first."""
    found = [node for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return [call for call in reversed(found) if is_step(call) or is_into(call) or ast.unparse(call.func) == "encode"]


def is_step(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "step"


def is_into(call: ast.Call) -> bool:
    return ast.unparse(call.func) == "step.into"


def function_of(node: ast.expr) -> Function:
    return getattr(model, ast.unparse(node))


def lines_of(function: Function, statement: ast.stmt) -> Lines:
    """A statement as it stands in its file."""
    _, first = parsed(function)
    source, _ = inspect.getsourcelines(function)
    code = "".join(source[statement.lineno - 1 : statement.end_lineno])
    return Lines(file_of(function), first + statement.lineno - 1, textwrap.dedent(code).rstrip())


def formulas(expression: ast.expr) -> list[Lines]:
    """The functions of ops.py that an expression calls, without their docstrings; and what a function it goes into returns."""
    found = []
    for node in ast.walk(expression):
        if isinstance(node, ast.Call) and is_into(node):
            function = function_of(node.args[1])
            found.append(lines_of(function, statements(parsed(function)[0])[-1]))
        elif isinstance(node, ast.Name) and hasattr(ops, node.id) and callable(getattr(ops, node.id)):
            found.append(body_of(getattr(ops, node.id)))
    return found


def body_of(operation: Any) -> Lines:
    """A function of ops.py: its head and what it does, without decorator and docstring."""
    function = getattr(operation, "formula", operation)
    source, first = inspect.getsourcelines(function)
    tree, _ = parsed(function)
    head = source[tree.lineno - 1 : tree.body[0].lineno - 1]
    body = source[tree.body[0].end_lineno :]
    return Lines(file_of(function), first + tree.lineno - 1, "".join(head + body).rstrip())


def file_of(function: Function) -> str:
    return f"{function.__module__.rsplit('.', 1)[1]}.py"


def as_facts(code: Mapping[str, list[Lines]]) -> dict[str, list[dict[str, Any]]]:
    """The same as plain data."""
    return {name: [lines._asdict() for lines in found] for name, found in code.items()}
