"""Transformer surgery on safetensors files: prepare, train, grow, slice, evaluate, plot."""

__version__ = "0.1.0"
