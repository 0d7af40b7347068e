"""What `evaluate` looks at inside a model, read from its options."""

from xtool.archs import Between
from xtool.commands.evaluate import MASKS
from xtool.errors import UsageError, unknown
from xtool.evaluation.details import DetailRequest

ENDS = ("first", "last")
MOST_LOOPS = 100_000
MOST_NOISE = 1e6


def details_of(
    loops: str | None,
    by_examples: bool,
    residual: bool,
    exits: str | None,
    mask: str | None,
    keep: str | None,
    noise: float,
) -> DetailRequest:
    """What the options of `evaluate` by these names ask for.

    Raises:
        UsageError: they are not what they should be, or a mask stands alone.
    """
    return DetailRequest(
        _range(loops, f"--loops {loops}", 1, MOST_LOOPS) if loops is not None else [],
        by_examples,
        residual,
        _thresholds(exits) if exits is not None else [],
        _between(mask, keep, noise),
    )


def _range(text: str, where: str, least: int, most: int) -> list[int]:
    """The numbers of `1:20`, `1:100:5` or `1,5,20`.

    Raises:
        UsageError: they are not such numbers.
    """
    try:
        parts = [int(part) for part in text.replace(",", ":").split(":")]
    except ValueError:
        parts = []
    ranged = ":" in text and "," not in text
    if not all(least <= part <= most for part in parts[:2]):
        parts = []
    if ranged and len(parts) in (2, 3) and parts[-1] > 0:
        parts = list(range(parts[0], parts[1] + 1, parts[2] if len(parts) == 3 else 1))
    elif ranged:
        parts = []
    if not parts or min(parts) < least or max(parts) > most:
        raise UsageError(
            f"`{where}` are not rising numbers of {least} to {most}", "such as 1:100 or 1,5,20"
        )
    return list(dict.fromkeys(parts))


def _thresholds(text: str) -> list[float]:
    """The thresholds of `--exits`.

    Raises:
        UsageError: they are not numbers above 0 and below 1.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < one < 1 for one in found):
        raise UsageError(
            f"`--exits {text}` must be above 0 and below 1: a part of the state's own length",
            "such as 0.1,0.01; with 0 no prompt would ever leave",
        )
    return list(dict.fromkeys(found))


def _between(mask: str | None, keep: str | None, noise: float) -> list[Between]:
    """What is done between loops, for each number of positions that is kept.

    Raises:
        UsageError: a mask without what it keeps, or the other way; or values that do not exist.
    """
    if not 0 <= noise <= MOST_NOISE:
        raise UsageError(f"`--state-noise` is {noise}, it must be 0 to {MOST_NOISE:g}")
    if (mask is None) != (keep is None):
        raise UsageError("`--mask` and `--keep` belong together", "`--mask state --keep first:10`")
    if mask is None or keep is None:
        return [Between(noise=noise)] if noise else []
    if mask not in MASKS:
        raise unknown("mask", mask, MASKS)
    end, _, counts = keep.partition(":")
    if end not in ENDS:
        raise UsageError(f"`--keep {keep}` begins with neither first: nor last:", "`first:10`")
    return [Between(mask, end, n, noise) for n in _range(counts, f"--keep {keep}", 0, MOST_LOOPS)]
