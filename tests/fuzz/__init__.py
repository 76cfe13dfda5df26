"""A fuzzer: valid files of every kind, changed a little, are given to what reads them.

    python -m tests.fuzz --runs 100000 --seed 1      all readers and the command line, with a report
    python -m tests.fuzz --runs 1000 --only legacy   one of them
    python -m tests.fuzz --seed 1 --only legacy --input 4711   one input again, with the traceback

What may come of an input is an answer or a declared error, one printable line; within 5 seconds and a gigabyte. Anything else
is a finding: another error, a signal, a hang. Each input is made from the seed, the target's name and its number alone.
"""
