"""Attention variants: one file each, chosen with `--attention`."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn


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


class Mixed(NamedTuple):
    """What a module that has more to say than its output gives the block; see `layers.blocks`.

    Attributes:
        out: (B, T, D), what is added to the residual stream.
        hidden: (B, T, F), joins the feed-forward part's hidden layer, before its non-linearity.
        after: (B, T, D), is added behind the feed-forward part.
        passed: (B, T, P), goes to the next layer's attention beside the residual stream.
    """

    out: Tensor
    hidden: Tensor | None = None
    after: Tensor | None = None
    passed: Tensor | None = None


@runtime_checkable
class Attention(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file also declares the literals `AXES`, `PRODUCTS` and `FROZEN` (see `xtool.axes`), those of
    another variant with `LIKE`, whose tensors it has too; `OPTIONS`, its own dials, and `TUNABLE`,
    those of them that no tensor depends on; `FIXED`, axes that no exact operator may change, each
    with conditions such as `score_scale=d_model` of which one must hold; and `NEUTRAL`, the dials
    and tensors, by value, with which it is plain attention. Names of tensors are those below
    `blocks.{layer}.attention.`; `CACHED` says that it keeps keys and values, see
    `xtool.layers._cache`, when new positions come one by one, and `PASSED` names the tensors that
    write what goes from layer to layer beside the residual stream, `Mixed.passed`.

    Modules are best made from `plain.Plain`: they give `weights`, and `quick` where there is a
    faster way. One may have `passes`, how many columns it hands to the next layer's attention, and
    `post_norm`, whether the block's second norm overwrites the residual stream. `xtool check my.py`
    holds a file against the laws of all variants.
    """

    def build(self, config: AttentionConfig) -> nn.Module:
        """A module (B, T, D) -> (B, T, D), or `Mixed`, with uninitialised weights."""

    def flops(self, config: Any, context: int) -> int:
        """Floating-point operations of a forward pass over one example, multiply and add apart."""


@runtime_checkable
class Configured(Protocol):
    """A variant whose own dials have defaults that follow from others, or limits."""

    def configure(self, config: dict[str, Any]) -> dict[str, Any]:
        """The derived dials.

        Raises:
            UsageError: dials that contradict each other; the message gives both numbers.
        """
