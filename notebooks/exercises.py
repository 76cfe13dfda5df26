"""Checks the answers of the notebooks' exercises.

    answer = ...
    check(answer, expected, exercise="3.2", hint="Which axis?")

prints one line: not answered yet, right, or what about the answer is not as expected. `expected` is computed in the same cell,
by the model, and is never printed. A wrong answer stops nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def check(
    answer: Any,
    expected: Any,
    *,
    exercise: str,
    hint: str = "",
    inputs: Sequence[tuple[Any, ...]] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Print whether `answer` is what is expected.

    answer     a number, an array, a string, a truth value, a tuple or list of such; or, with `inputs`, a function
    expected   the same kind of thing; or, with `inputs`, a function that is right
    exercise   its number: "3.2"
    hint       printed with a wrong answer
    inputs     the functions are called with each of these tuples of arguments, and their results compared
    tolerance  of numbers that are not whole: max|answer - expected| / max|expected|
    """
    problem = compare(answer, expected, tolerance) if inputs is None else compare_calls(answer, expected, inputs, tolerance)
    if problem is None:
        print(f"Exercise {exercise}: right.")
    elif problem == UNANSWERED:
        print(f"Exercise {exercise}: not answered yet.")
    else:
        print(f"Exercise {exercise}: not yet. {problem}{' Hint: ' + hint if hint else ''}")


UNANSWERED = "..."


def compare(answer: Any, expected: Any, tolerance: float) -> str | None:
    """What is wrong with the answer, in a sentence; UNANSWERED for a stub; None where it is right."""
    if is_stub(answer):
        return UNANSWERED
    if isinstance(expected, str):
        return compare_words(answer, expected)
    if isinstance(expected, bool | np.bool_):
        if not isinstance(answer, bool | np.bool_):
            return f"True or False is expected, not {type(answer).__name__}."
        return None if bool(answer) == bool(expected) else "It is the other way round."
    if isinstance(expected, tuple | list):
        return compare_several(answer, expected, tolerance)
    return compare_numbers(answer, expected, tolerance)


def is_stub(answer: Any) -> bool:
    """Whether an answer is still `...`, or has such a part."""
    return answer is ... or (isinstance(answer, tuple | list) and any(part is ... for part in answer))


def compare_words(answer: Any, expected: str) -> str | None:
    if not isinstance(answer, str):
        return f"A string is expected, not {type(answer).__name__}."
    return None if answer.strip().casefold() == expected.strip().casefold() else f"'{answer}' is not it."


def compare_several(answer: Any, expected: Sequence[Any], tolerance: float) -> str | None:
    if not isinstance(answer, tuple | list):
        return f"{len(expected)} values, in parentheses, are expected, not {type(answer).__name__}."
    if len(answer) != len(expected):
        return f"{len(expected)} values are expected, not {len(answer)}."
    for place, (mine, right) in enumerate(zip(answer, expected, strict=True), 1):
        problem = compare(mine, right, tolerance)
        if problem is not None:
            return f"Value {place} of {len(expected)}: {problem}"
    return None


def compare_numbers(answer: Any, expected: Any, tolerance: float) -> str | None:
    expected = np.asarray(expected)
    kind = f"an array of shape {expected.shape}" if expected.ndim else "a number"
    try:
        answer = np.asarray(answer)
    except ValueError:  # lists of different lengths
        return f"{kind.capitalize()} is expected."
    if answer.dtype.kind not in "iuf" or answer.shape != expected.shape:
        what = f"an array of shape {answer.shape}" if answer.ndim else type(answer.item()).__name__
        return f"{kind.capitalize()} is expected, not {what if answer.dtype.kind in 'iufb' else 'something else'}."
    difference = np.max(np.abs(answer.astype(np.float64) - expected), initial=0.0)
    allowed = 0.0 if expected.dtype.kind in "iu" else tolerance * np.max(np.abs(expected), initial=0.0)
    if difference <= allowed:  # False for NaN
        return None
    if not expected.ndim:
        return f"{answer} is not it."
    return f"The shape is right, the numbers are not: they differ by up to {difference:.2g}."


def compare_calls(answer: Any, expected: Callable[..., Any], inputs: Sequence[tuple[Any, ...]], tolerance: float) -> str | None:
    if answer is ...:
        return UNANSWERED
    if not callable(answer):
        return f"A function is expected, not {type(answer).__name__}."
    for place, arguments in enumerate(inputs, 1):
        try:
            result = answer(*arguments)
        except Exception as error:
            return f"Called with input {place} of {len(inputs)}, it raises {type(error).__name__}: {error}."
        problem = compare(... if result is None else result, expected(*arguments), tolerance)
        if problem is not None:
            return problem if problem == UNANSWERED else f"With input {place} of {len(inputs)}: {problem}"
    return None
