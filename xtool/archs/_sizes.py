"""Sizes of a model: how they are named, and which configuration each of them is.

`nest` is a text such as `d_model=16,32 n_layers=2`; sizes of several axes are combined, each with
each. The whole model is one of the sizes. `head=8,16` nests the output alone (matryoshka
embeddings): the blocks are whole, and the head reads a prefix of what they give.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

from xtool.archs._making import checked, flops
from xtool.axes import SIZES
from xtool.errors import UsageError, unknown
from xtool.widths import larger, resized

AXES = ("d_model", "n_heads", "d_ff", "n_layers")
HEAD, AUTO = "head", "auto"
WHOLE = ("gpt", "matryoshka")  # whose head alone reads what comes before it
FREE = ("context", "vocab_size")  # fewer positions or symbols are no other size
ORDER = ("d_model", "n_heads", "n_kv_heads", "d_ff", "n_layers", HEAD)  # in labels


@dataclass(frozen=True)
class Size:
    """One size of a model.

    Attributes:
        changes: the sizes by dial, `head` among them; none where all are the whole model's.
        label: as it stands in rows and flags, `16` where only `d_model` is nested.
    """

    changes: Mapping[str, Any]
    label: str


def axes_of(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """The nested axes of a configuration and their sizes, the whole one last; empty for none.

    Raises:
        UsageError: not in the grammar, an axis that cannot be nested, or a size above the model's.
    """
    found: dict[str, list[int]] = {}
    if config.get("nest") == AUTO:
        return _usual(config)
    for word in str(config.get("nest") or "").split():
        name, _, text = word.rpartition("=")
        name = name.replace("-", "_") or "d_model"
        if name not in (*AXES, HEAD):
            raise unknown("axis of `--nest`", name, [*AXES, HEAD])
        if name in found:
            raise UsageError(f"`--nest` names `{name}` twice", "one list: `d_model=16,32`")
        whole = config.get("d_model" if name == HEAD else name)
        if not whole or isinstance(whole, list):
            raise UsageError(f"`--nest {word}`: the model's `{name}` is {whole}")
        sizes = [_number(part, whole, word) for part in text.split(",")]
        found[name] = sorted({*sizes, int(whole)})
    if HEAD in found and len(found) > 1:
        raise UsageError("`--nest head=...` nests the output alone, with no other axis")
    _require_head(config, found)
    return found


def _usual(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """A quarter and a half of the width as far as heads divide so, else of the feed-forward part.

    Raises:
        UsageError: nothing of the model can be halved.
    """
    whole = {**config, "nest": None}
    for name in ("d_model", "d_ff"):
        size = config[name]
        if not isinstance(size, int):
            continue
        sizes = [size // part for part in (4, 2) if not size % part]
        found = [one for one in sizes if one and _fits(whole, {name: one})]
        if found:
            return {name: [*found, size]}
    raise UsageError("no width of the model can be halved", "`--nest` names its smaller sizes")


def _fits(config: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    try:
        sized(config, changes)
    except UsageError:
        return False
    return True


def _number(text: str, whole: int, where: str) -> int:
    """A size, or a part of the whole one such as `1/4`."""
    try:
        size = Fraction(text.strip()) * (whole if "/" in text else 1)
    except (ValueError, ZeroDivisionError):
        size = Fraction(-1, 2)
    if size.denominator != 1 or not 1 <= size <= whole:
        raise UsageError(
            f"`--nest {where}`: {text or 'nothing'} is no size of 1 to {whole}",
            "write it like `d_model=16,32`, or `d_model=1/4,1/2`",
        )
    return int(size)


def sizes_of(config: Mapping[str, Any]) -> list[Size]:
    """The sizes that a model is trained in, the smallest first and the whole one last."""
    axes = axes_of(config)
    found = [
        size_of(config, dict(zip(axes, sizes, strict=True))) for sizes in product(*axes.values())
    ]
    return sorted(found, key=lambda size: flops(sized(config, size.changes)))


def size_of(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> Size:
    """A size by its dials, and by what it is called."""
    sizes = {n: v[0] if isinstance(v, list) and len({*v}) == 1 else v for n, v in sizes.items()}
    label = label_of(sizes) if sizes else str(config.get("d_model", "all"))
    # All of them, since those that are not named follow `d_model`.
    same = all(n == config.get("d_model" if name == HEAD else name) for name, n in sizes.items())
    return Size({} if same else dict(sizes), label)


def label_of(sizes: Mapping[str, Any]) -> str:
    """What a size is called: `16`, or `d_model=16 d_ff=64,128`."""
    if [*sizes] == ["d_model"]:
        return str(sizes["d_model"])
    named = sorted(sizes.items(), key=lambda item: ORDER.index(item[0]))
    said = {name: n if isinstance(n, list) else [n] for name, n in named}
    return " ".join(f"{name}={','.join(map(str, each))}" for name, each in said.items())


def parse_size(text: str, config: Mapping[str, Any]) -> Size:
    """A size from its label.

    Raises:
        UsageError: not in the grammar, or an axis that a model of this kind lacks.
    """
    sizes: dict[str, Any] = {}
    # Axes stand apart by a space, or by a comma before a name; other commas part numbers.
    words = re.split(r"[\s,]+(?=[^\s,]*=)|\s+", text.strip())
    for word in filter(None, words):
        name, _, numbers = word.rpartition("=")
        name = name.replace("-", "_") or "d_model"
        if name not in ORDER:
            raise unknown("axis of `--size`", name, ORDER)
        if name in sizes:
            raise UsageError(f"`--size {text}` names `{name}` twice", "name each axis once")
        try:
            each = [int(part) for part in numbers.split(",")]
        except ValueError as error:
            raise UsageError(
                f"`--size {text}` is no size", "write it like `16`, or `d_ff=64,128`"
            ) from error
        if len(each) > 1 and name != "d_ff":
            raise UsageError(
                f"`--size {text}`: one size has one `{name}`; `d_ff` may have one a layer",
                "`--size 8 --size 16` names two sizes",
            )
        sizes[name] = each if len(each) > 1 else each[0]
    if not sizes:
        raise UsageError("`--size` is empty", "write it like `16`, or `d_ff=64,128`")
    if HEAD in sizes and len(sizes) > 1:
        raise UsageError(
            f"`--size {text}`: `head` is the output's alone, with no other axis", "`head=16` alone"
        )
    return size_of(config, sizes)


def sized(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a size, which is not nested itself; of `head` that of the whole model.

    Raises:
        UsageError: a size that cannot be built, or that is larger than the model.
    """
    whole = {**config, "nest": None} if "nest" in config else dict(config)
    body = {name: size for name, size in changes.items() if name != HEAD}
    _require_head(config, changes)
    if HEAD in changes and not 1 <= changes[HEAD] <= config["d_model"]:
        raise UsageError(f"`head` {changes[HEAD]} must be 1 to `d_model` ({config['d_model']})")
    new = checked(resized(whole, body)) if body else whole
    each = config.get("d_ff")
    first = each[: new["n_layers"]] if isinstance(each, list) else each
    for name in SIZES:
        if larger(new.get(name), first if name == "d_ff" else config.get(name)):
            raise UsageError(
                f"a size of `{name}` {new[name]} is larger than the model's, {config[name]}",
                "`xtool grow` makes a model larger",
            )
    return new


def _require_head(config: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise UsageError where sizes of the head are asked of what has no head of its own."""
    if HEAD in names and config["arch"] not in WHOLE:
        raise UsageError(f"`head=...` is for a gpt, the model is a {config['arch']}")


def same_size(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations are of one size, for any positions and symbols."""
    return all(one.get(name) == other.get(name) for name in SIZES if name not in FREE)
