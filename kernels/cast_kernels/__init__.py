"""Tensor operations of speculative decoding: plain tensors in, plain tensors out.

Each operation is a package: its `__init__` states the contract, `reference.py` is the plain-torch
oracle, further files are backends. Shape suffixes: N rows of a step (all sequences, flattened),
B sequences, R rows of one sequence, H query heads, K key/value heads, G = H / K, D head size,
V vocabulary, L keys of one sequence, W = ceil(R / 64) mask words.
"""
