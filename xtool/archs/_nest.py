"""Sizes of a nested model: one set of weights, whose prefixes along the axes are smaller models.

Nested widths are those of Kusupati et al. (2022, arXiv:2205.13147) and Devvrit et al. (2023,
arXiv:2310.07707), with one rule in place of theirs: cut, then compute. A size is the model that
its own, smaller configuration builds, and its tensors are prefixes of the large ones. So it runs
the same operations on the same numbers as the file that `slice` writes, whatever the architecture
and the attention variant, and no layer knows of it. Norms see the prefix alone.
"""

from collections.abc import Mapping
from typing import Any

from xtool.archs._sizes import HEAD, Size, axes_of, same_size, size_of, sized, sizes_of
from xtool.errors import UsageError

SIZE = "sizes"  # under which names stand what a size has of its own
LARGEST_WEIGHT = 1e6


def canonical(config: Mapping[str, Any]) -> str | None:
    """`nest` as it stands in headers: whole numbers in order, and sizes that can be built.

    Raises:
        UsageError: see `axes_of` and `sized`; or weights that are not as many as the sizes.
    """
    axes = axes_of(config)
    if not axes:
        return None
    sizes = sizes_of(config)
    for size in sizes:
        sized(config, size.changes)
    weights_of(config, len(sizes))
    if not 0 <= config["nest_distill"] <= 1:
        raise UsageError(f"`nest_distill` is {config['nest_distill']}, it must be 0 to 1")
    if config["nest_drawn"] < 0:
        raise UsageError(f"`nest_drawn` is {config['nest_drawn']}, it must be 0 or more")
    if config["nest_mix"] and "d_ff" not in axes:
        raise UsageError("`--nest-mix` mixes feed-forward widths", "`--nest d_ff=...` names them")
    return " ".join(f"{name}={','.join(map(str, found))}" for name, found in axes.items())


def is_trained(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of the sizes that a nested model was trained in.

    Mixes of trained feed-forward widths count, in any layer.
    """
    axes = {name: sizes for name, sizes in axes_of(config).items() if name != HEAD}
    if "n_layers" not in axes and wanted.get("n_layers") != config.get("n_layers"):
        return False
    given = {name: wanted[name] for name in axes}
    for name, sizes in axes.items():
        each = given[name] if isinstance(given[name], list) else [given[name]]
        if not set(each) <= set(sizes):
            return False
    there = sized(config, size_of(config, given).changes)
    return same_size(there, wanted)


def inner(config: Mapping[str, Any], small: Mapping[str, Any]) -> tuple[str | None, list[int]]:
    """The sizes that are nested in one of a nested model's sizes.

    Args:
        config: of the large model.
        small: of the size.

    Returns:
        its `nest`, None where no smaller size is in it or it was not trained itself; and where its
        own smaller sizes stand among the large model's.
    """
    axes = {name: sizes for name, sizes in axes_of(config).items() if name != HEAD}
    mixed = any(isinstance(small[name], list) for name in axes)
    if not axes or mixed or not is_trained(config, small):
        return None, []
    within = {n: [one for one in sizes if one <= small[n]] for n, sizes in axes.items()}
    if all(len(sizes) == 1 for sizes in within.values()):
        return None, []
    # An axis that is at its smallest is named too, since the sizes inside stay there.
    nest = " ".join(f"{name}={','.join(map(str, sizes))}" for name, sizes in within.items())
    nested = {**config, **small, "nest": nest}
    after = [sized(nested, size.changes) for size in sizes_of(nested)[:-1]]
    places = [place for new in after if (place := place_of(config, new)) is not None]
    # Widths that follow from others may round otherwise on the way through a size between.
    return (nest, places) if len(places) == len(after) else (None, [])


def require_size(
    config: Mapping[str, Any], size: Size, where: str, untrained: bool = False
) -> None:
    """Raise UsageError for a size that cannot be built, or unless allowed was never trained."""
    small = sized(config, size.changes)
    head = size.changes.get(HEAD)
    trained = head in axes_of(config).get(HEAD, []) if head else is_trained(config, small)
    if size.changes and not untrained and not trained:
        known = ", ".join(one.label for one in sizes_of(config))
        raise UsageError(
            f"{where}: was never trained at size `{size.label}`",
            f"trained: {known}; evaluate and slice take others with `--untrained-ok`",
        )


def weights_of(config: Mapping[str, Any], count: int) -> list[float]:
    """The weight of each size's loss, smallest first; unless given 1, and 2 for the largest.

    Raises:
        UsageError: not as many numbers above 0, of at most `LARGEST_WEIGHT`, as there are sizes.
    """
    text = config.get("nest_weights")
    if text is None:
        return [1.0] * (count - 1) + [2.0]
    try:
        found = [float(part) for part in str(text).split(",")]
    except ValueError:
        found = []
    if len(found) != count or not all(0 < one <= LARGEST_WEIGHT for one in found):
        raise UsageError(
            f"`nest_weights` {text} must be {count} numbers above 0 and at most "
            f"{LARGEST_WEIGHT:g}, one for each size",
            "the smallest first, as `1,1,2`",
        )
    return found


def place_of(
    config: Mapping[str, Any], small: Mapping[str, Any], head: int | None = None
) -> int | None:
    """Which of a model's nested sizes a configuration is, by what it comes to; None for no one."""
    for place, size in enumerate(sizes_of(config)):
        one = sized(config, size.changes)
        same = same_size(one, small)
        if size.changes and same and size.changes.get(HEAD) == head:
            return place
    return None
