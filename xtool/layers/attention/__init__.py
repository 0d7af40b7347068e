"""Attention variants: one file each, chosen with `--attention`."""

from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class AttentionConfig(Protocol):
    """The dials of an architecture that an attention variant may read."""

    @property
    def d_model(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def d_head(self) -> int: ...
    @property
    def d_value(self) -> int: ...
    @property
    def positions(self) -> str: ...
    @property
    def causal(self) -> bool: ...
    @property
    def attention_output(self) -> bool: ...
    @property
    def score_scale(self) -> str: ...
    @property
    def bias(self) -> str: ...
    @property
    def dropout_attention(self) -> float: ...


@runtime_checkable
class Attention(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file also declares the literals `AXES`, `PRODUCTS` and `FROZEN` (see `xtool.axes`), or `LIKE`,
    the variant whose tensors it has; and `FIXED`, axes that no exact operator may change, each with
    conditions such as `score_scale=d_model` of which one must hold. Names of tensors are those
    below `blocks.{layer}.attention.`; `CACHED` says that it keeps keys and values, see
    `xtool.layers._cache`, when new positions come one by one.
    """

    def build(self, config: AttentionConfig) -> nn.Module:
        """A module (B, T, D) -> (B, T, D) with uninitialised weights."""

    def flops(self, config: Any, context: int) -> int:
        """Floating-point operations of a forward pass over one example, multiply and add apart."""
