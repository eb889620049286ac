"""One file per op: every backend and plain PyTorch on the same inputs.

Each has ``variants(inputs, shape)``, name -> a callable, and the least work, from which the share of the limit follows
(bench/limits.py): ``least_bytes(shape)`` where memory bounds every variant, or ``works(shape)`` by variant. One may
have ``more(inputs, shape, repeats)``: rows of another comparison.
"""
