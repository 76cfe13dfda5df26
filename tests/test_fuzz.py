"""The fuzzer for a few seconds, the inputs it has found, and that it finds what it should."""

import os
import signal

import numpy as np
import pytest

pytest.importorskip("resource", reason="the fuzzer sets limits as Unix does")

from fuzz import running, targets
from fuzz.__main__ import main

COUNT = {"legacy": 60, "index": 60, "mapped": 60}  # of which few are read
FOUND = {  # inputs that once went wrong: seed and numbers
    "index": {"1": [64]},  # a name of 1,000 characters
    "golden": {"1": [375]},  # noise floors with a list beside the numbers
    # tensors without an axis; registers with one; as many heads as a depth of billions has blocks
    "folder": {"1": [377], "2": [668], "77": [119], "2026": [4126, 11148, 16916]},
}


@pytest.mark.parametrize("target", targets.TARGETS)
def test_changed_inputs_are_read_or_refused(target):
    """The same inputs every time; `python -m tests.fuzz` goes on from there. Where all are refused, nothing is tried."""
    tally = running.many_inputs(target, "0", range(COUNT.get(target, 25)))
    assert not tally.findings and tally.read > 0


@pytest.mark.parametrize("target", FOUND)
def test_inputs_that_were_found(target):
    for seed, numbers in FOUND[target].items():
        assert not running.many_inputs(target, seed, numbers).findings


def hang():
    while True:
        pass


WRONG = {
    2: (lambda: {}["key"], "KeyError at"),
    4: (hang, "more than 0.5 s"),
    6: (lambda: np.ones(1 << 28), "MemoryError at"),
    8: (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed, by a signal"),
}


def test_what_counts_as_a_finding(monkeypatch, capsys):
    """Another error, a hang, too much memory and a signal: each is found and named, and the other inputs are tried."""
    tried = lambda materials, rng: WRONG.get(rng.number, (lambda: None, ""))[0]  # noqa: E731
    monkeypatch.setitem(targets.TARGETS, "wrong", tried)
    monkeypatch.setattr(running, "SECONDS", 0.5)
    found = {}
    for numbers in ([0, 2, 3, 4, 6], [7, 8, 9]):
        tally = running.in_a_child("wrong", "0", numbers, 20)
        found |= dict(tally.findings)
    assert found.keys() == WRONG.keys() and tally.read == 1
    for number, (_, what) in WRONG.items():
        assert what in found[number]
    assert main(["--only", "npy", "--runs", "20", "--jobs", "1"]) == 0
    assert "20 inputs, 0 findings" in capsys.readouterr().out
