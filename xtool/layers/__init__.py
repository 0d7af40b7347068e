"""Layers: the parts that architectures are composed of, by configuration.

Shape letters: B batch, T positions, D d_model, H heads, K d_head, F d_ff, V vocab, C classes.
Modules are built with uninitialised weights; `initial` gives each tensor its first values.
"""
