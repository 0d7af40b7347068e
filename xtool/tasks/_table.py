"""A user's table of numbers, as CSV, split and scaled."""

import csv
import io
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xtool.corpora import Text
from xtool.errors import XtoolError

LARGEST = 1e100
FARTHEST = 1e6  # of a scaled value from 0
MISSING = ("na", "n/a", "null", "none")
SHOWN = 40  # characters of a cell

Parts = tuple[Float[Tensor, "N c"], Float[Tensor, "M c"], Float[Tensor, "M c"]]


def parts_of(text: Text, points: int, seed: int) -> tuple[Parts, dict[str, Any]]:
    """The rows of train, dev and test: 80, 10 and 10 of 100, in random order.

    Each column has mean 0 and variance 1 over the rows of train; dev and test are scaled alike.

    Args:
        text: the file.
        points: of a prompt.
        seed: of the order.

    Returns:
        the parts, and the names of the columns with what scaled them.

    Raises:
        XtoolError: no CSV, text, a gap, a row of another length (row and column are named), a
            column of equal values, one far from the others, or fewer rows than prompts need.
    """
    names, numbers, table = _numbers(text)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    table, tenth = table[order], len(table) // 10
    if tenth < points:
        raise XtoolError(
            f"{text.name}: {len(table)} rows, prompts of {points} `points` need {10 * points}: dev "
            "and test are a tenth each",
            "lower `--points`",
        )
    train, dev, test = torch.split(table, [len(table) - 2 * tenth, tenth, tenth])
    largest = train.abs().amax(0).clamp(min=torch.finfo(train.dtype).tiny)
    mean, spread = (train / largest).mean(0) * largest, (train / largest).std(0) * largest
    if not bool((spread > 0).all()):
        name = names[int((spread <= 0).nonzero()[0])]
        raise XtoolError(
            f"{text.name}: all values of `{name}` in the rows to train on are equal",
            "remove the column, or choose another one to predict by putting it last",
        )
    scaling = {"columns": names, "mean": mean.tolist(), "sd": spread.tolist()}
    parts = [(part - mean) / spread for part in (train, dev, test)]
    far = (torch.cat(parts).abs() > FARTHEST).nonzero()
    if len(far):
        place, column = far[0].tolist()
        raise XtoolError(
            f"{text.name}: row {numbers[order[place]]}, `{names[column][:SHOWN]}` is "
            f"{float(table[place, column]):g}, more than {FARTHEST:g} standard deviations from the "
            "rows to train on",
            "remove the row",
        )
    parts = [part.float() for part in parts]
    return (parts[0], parts[1], parts[2]), scaling


def _numbers(text: Text) -> tuple[list[str], list[int], Float[Tensor, "N c"]]:
    """The columns' names, and the rows' places in the file with the numbers that they hold."""
    try:
        reader = csv.reader(io.StringIO(text.text, newline=None), strict=True)
        lines = [(reader.line_num, line) for line in reader if line]
    except csv.Error as error:
        raise XtoolError(
            f"{text.name}: row {reader.line_num} is not CSV: {error}",
            "separate cells by commas, and close every quote",
        ) from error
    if not lines:
        raise XtoolError(f"{text.name}: has no rows", "one row a line, cells separated by commas")
    names = [f"column {place}" for place in range(1, len(lines[0][1]) + 1)]
    if any(map(_named, lines[0][1])) and all(_number(cell) is None for cell in lines[0][1]):
        names = lines.pop(0)[1]
    if len(names) < 2 or len(lines) < 2:
        raise XtoolError(
            f"{text.name}: {len(lines)} rows of {len(names)} columns, 2 of each are needed",
            "separate cells by commas; the last column is predicted from the others",
        )
    values = [_row(line, names, f"{text.name}: row {number}") for number, line in lines]
    return names, [number for number, _ in lines], torch.tensor(values, dtype=torch.float64)


def _row(line: list[str], names: list[str], where: str) -> list[float]:
    if len(line) != len(names):
        raise XtoolError(
            f"{where} has {len(line)} columns, the first one {len(names)}",
            "give every row as many cells",
        )
    values = []
    for name, cell in zip(names, line, strict=True):
        value = _number(cell)
        if value is None:
            what = repr(cell[:SHOWN]) if cell.strip() else "empty"
            raise XtoolError(
                f"{where}, `{name[:SHOWN]}` is {what}, not a number of at most {LARGEST:g}",
                "remove the row or the column; a heading is a first row without numbers",
            )
        values.append(value)
    return values


def _named(cell: str) -> bool:
    """Whether a cell is surely a name: it is neither a number nor the lack of one."""
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() not in ("", *MISSING)
    return False


def _number(cell: str) -> float | None:
    try:
        value = float(cell.replace("_", "?"))  # which Python would pass over
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None
