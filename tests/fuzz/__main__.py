"""python -m tests.fuzz: see the package's docstring."""

import argparse
import collections
import concurrent.futures
import os
import signal
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from .running import SECONDS, Tally, in_a_child, many_inputs, merge, warmed
from .targets import TARGETS

BATCH = 1000  # inputs a process


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Changed inputs for every reader, with a report.")
    parser.add_argument("--runs", type=int, default=10_000, help="inputs in all (default: 10,000)")
    parser.add_argument("--seed", default="0", help="another seed, other inputs (default: 0)")
    parser.add_argument("--only", action="append", choices=TARGETS, help="one target; may be given several times")
    parser.add_argument("--input", type=int, help="one input of a target again, in this process")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once (default: one a processor)")
    arguments = parser.parse_args(argv)
    if __name__ == "__main__":  # also where a shell in the background has it ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    targets = arguments.only or list(TARGETS)
    if arguments.input is not None:
        tallies = [many_inputs(target, arguments.seed, [arguments.input]) for target in targets]
    else:
        tallies = all_inputs(targets, arguments)
    return report(tallies)


def all_inputs(targets, arguments):
    each = -(-arguments.runs // len(targets))
    batches = [(target, range(start, min(start + BATCH, each))) for start in range(0, each, BATCH) for target in targets]
    totals = {target: Tally(target) for target in targets}
    warmed()
    start, done = time.monotonic(), 0
    pool = concurrent.futures.ThreadPoolExecutor(arguments.jobs)
    futures = [pool.submit(in_a_child, target, arguments.seed, numbers, 4 * SECONDS) for target, numbers in batches]
    try:
        for future in concurrent.futures.as_completed(futures):
            tally = future.result()
            merge(totals[tally.target], tally)
            done += tally.inputs
            for number, what in tally.findings:
                print(f"{tally.target} {number}: {what}", file=sys.stderr, flush=True)
            if sys.stderr.isatty():
                pace = done / (time.monotonic() - start)
                print(f"\r{done:,} inputs, {pace:,.0f} a second", end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted: what has been tried so far", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)
    return list(totals.values())


def report(tallies):
    print(f"{'target':<14}{'inputs':>9}{'read':>8}{'a second':>10}{'slowest':>10}{'findings':>10}")
    for tally in tallies:
        pace = tally.inputs / max(tally.seconds, 1e-9)
        print(
            f"{tally.target:<14}{tally.inputs:>9,}{tally.read:>8,}{pace:>10,.0f}{tally.slowest:>9.2f}s{len(tally.findings):>10}"
        )
    found = collections.defaultdict(list)
    for tally in tallies:
        for number, what in tally.findings:
            found[tally.target, what.split(": ")[0]].append((number, what))
    for (target, _), inputs in sorted(found.items()):
        number, what = min(inputs)
        print(f"\n{target}, {len(inputs)} inputs, the first is {number}: {what}")
    total = sum(tally.inputs for tally in tallies)
    print(f"\n{total:,} inputs, {sum(len(tally.findings) for tally in tallies)} findings of {len(found)} kinds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
