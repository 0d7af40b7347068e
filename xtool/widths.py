"""The sizes of a grown or sliced model: what follows from a new width, and what is refused.

When d_model changes, d_head stays and the number of heads scales; a single head scales its width
instead; d_ff and the hidden width of the head keep their ratio to d_model. Heads of keys keep their
ratio to those of queries where it stays whole. Outputs that are the symbols grow with them. Every
other dial changes only by its own flag.
"""

from collections.abc import Callable, Container, Mapping
from fractions import Fraction
from math import ceil, floor
from typing import Any

from xtool.errors import UsageError

RATIO = ("d_ff", "d_hidden")


def resized(
    config: Mapping[str, Any], changes: Mapping[str, Any], keep_heads: bool = False
) -> dict[str, Any]:
    """The configuration at new sizes.

    Args:
        config: of the model as it is.
        changes: the sizes that were asked for, by dial.
        keep_heads: where the heads cannot scale to the new width, keep them instead of refusing.

    The result is not yet checked by its architecture; see `archs.checked`.

    Raises:
        UsageError: the model has no such dial, or its heads do not fit the width; the nearest
            widths that they fit are named.
    """
    _require_dials(config, changes)
    free = config.get("attention_output", True)
    new = {**config, **_by_width(config, changes, keep_heads and free), **changes}
    if isinstance(new.get("d_ff"), list) and "d_ff" not in changes:
        new["d_ff"] = new["d_ff"][: new["n_layers"]]
    if "n_kv_heads" in config and "n_kv_heads" not in changes:
        groups = Fraction(new["n_heads"], config["n_heads"]) * config["n_kv_heads"]
        if groups.denominator == 1:
            new["n_kv_heads"] = int(groups)
    if new.get("n_kv_heads") and new["n_heads"] % new["n_kv_heads"]:
        heads = new["n_heads"]
        fits = [str(n) for n in range(1, heads + 1) if heads % n == 0]
        raise UsageError(
            f"`n_heads` ({heads}) must be divisible by `n_kv_heads` ({new['n_kv_heads']})",
            f"`--n-kv-heads` of {', '.join(fits[-6:])}, or other `--n-heads` with it",
        )
    if "vocab_size" in changes and config["n_outputs"] == config["vocab_size"]:
        new["n_outputs"] = changes["vocab_size"]
    if "d_head" in changes and "d_value" not in changes and "d_value" in config and free:
        scaled = Fraction(changes["d_head"], config["d_head"]) * config["d_value"]
        new["d_value"] = _rounded(scaled, _ratio(config, changes))
    if not free and config["n_heads"] > 1 and new["d_value"] != config["d_value"]:
        raise UsageError(
            f"`d_value` {config['d_value']} -> {new['d_value']}: without an output projection the "
            f"values of the {config['n_heads']} heads are the residual's columns",
            "change the number of heads with the width instead",
        )
    return new


def _require_dials(config: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    for name, size in changes.items():
        if not config.get(name):
            raise UsageError(f"the model has no dial `{name}` to change")
        if min(size if isinstance(size, list) else [size]) < 1:
            raise UsageError(f"`{name}` is {size}, it must be at least 1")


def _by_width(
    config: Mapping[str, Any], changes: Mapping[str, Any], keep_heads: bool
) -> dict[str, Any]:
    """The sizes that follow from a new d_model, where they are not asked for themselves."""
    ratio = _ratio(config, changes)
    one_head = config.get("n_heads") == 1 and "n_heads" not in changes
    scaled = [*RATIO, "d_head", "d_value"] if one_head else RATIO
    new: dict[str, Any] = {
        name: _each(config[name], lambda size: _rounded(size * ratio, ratio))
        for name in scaled
        if config.get(name)
    }
    if "n_heads" not in config or "n_heads" in changes or one_head:
        return new
    heads = config["n_heads"] * ratio
    if heads.denominator == 1 and heads >= 1:
        new["n_heads"] = int(heads)
    elif "d_head" not in changes and not keep_heads:
        raise _heads_do_not_fit(config, changes["d_model"])
    return new


def _ratio(config: Mapping[str, Any], changes: Mapping[str, Any]) -> Fraction:
    """How many times larger d_model is to be."""
    width = config.get("d_model", 1)
    return Fraction(changes.get("d_model", width), width)


def _each(sizes: int | list[int], function: Callable[[int], int]) -> int | list[int]:
    """A function of a size, or of that of each layer."""
    return [function(one) for one in sizes] if isinstance(sizes, list) else function(sizes)


def larger(one: Any, other: Any) -> bool:
    """Whether a size is larger than another, in any layer where they differ by layer."""
    pairs = [size if isinstance(size, list) else [size] for size in (one, other)]
    count = max(map(len, pairs))
    first, second = (sizes * count if len(sizes) == 1 else sizes for sizes in pairs)
    return any((a or 0) > (b or 0) for a, b in zip(first, second, strict=False))


def _rounded(size: Fraction, ratio: Fraction) -> int:
    """A size of at least 1: rounded up where d_model grows, else down."""
    return max(1, (ceil if ratio > 1 else floor)(size))


def _heads_do_not_fit(config: Mapping[str, Any], width: int) -> UsageError:
    old = config["d_model"]
    unit = Fraction(old, config["n_heads"]).numerator
    around = {max(unit, width // unit * unit), (width // unit + 1) * unit}
    near = sorted(size for size in around if (size - old) * (width - old) > 0)
    return UsageError(
        f"`n_heads` ({config['n_heads']}) at `d_model` {old} does not scale to "
        f"{width} with `d_head` {config['d_head']}",
        f"nearest widths: {', '.join(map(str, near))}; or set `--n-heads`",
    )


def changed(old: Mapping[str, Any], new: Mapping[str, Any], but: Container[str] = ()) -> list[str]:
    """`d_model 48 -> 96` for every dial that differs, `but` for some."""
    differ = [name for name in new if old.get(name) != new[name] and name not in but]
    return [f"{name} {_short(old[name])} -> {_short(new[name])}" for name in differ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
