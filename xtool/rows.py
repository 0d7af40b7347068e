"""Rows: one number a row, the same columns from training, evaluation and analysis.

CSV and JSON lines hold the same rows; plots and pivots choose columns by name. Columns beyond
`COLUMNS` are free: a task or an analysis adds what it needs (`examples`, `loops`, `layer`, `head`).
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from xtool.errors import UsageError, XtoolError, unknown
from xtool.inputs import strict_json

Row = dict[str, Any]

COLUMNS = [
    "label", "digest", "arch", "task", "split", "seed", "replica", "step", "epoch", "metric",
    "value", "low", "high", "n", "params", "flops", "lineage_flops", "seconds", "device",
]  # fmt: skip
FORMATS = ("table", "csv", "jsonl", "markdown")
TABLE = [
    "label", "split", "metric", "value", "low", "high", "n", "params", "lineage_flops",
    "lineage_seconds",
]  # fmt: skip


def row(**columns: Any) -> Row:
    """A row with every standard column, in order, then the free ones; absent values are None."""
    return {name: columns.pop(name, None) for name in COLUMNS} | columns


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The standard columns, then the free ones in the order of their first appearance."""
    free = {name: None for one in rows for name in one if name not in COLUMNS}
    return [*COLUMNS, *free]


def to_jsonl(rows: Iterable[Row]) -> str:
    """One JSON object a line; columns without a value, or with NaN, are left out."""
    kept = ({k: v for k, v in one.items() if v is not None and v == v} for one in rows)
    return "".join(json.dumps(one, allow_nan=False) + "\n" for one in kept)


def to_csv(rows: Sequence[Row], columns: Sequence[str] | None = None) -> str:
    """Comma-separated values with a heading, of all columns or these; an absent value is empty."""
    out = io.StringIO()
    names = columns or columns_of(rows)
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def short(value: Any) -> str:
    """A value as a person reads it: four significant digits, large numbers by powers of ten."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**7:
        return f"{value:.3g}"
    return str(value)


def to_table(rows: Sequence[Row], columns: Sequence[str], markdown: bool = False) -> str:
    """Chosen columns, aligned for a terminal or as Markdown; numbers to the right."""
    cells = [[short(one.get(name)) for name in columns] for one in rows]
    widths = [
        max(len(name), *(len(line[i]) for line in cells), 3) for i, name in enumerate(columns)
    ]
    right = [any(isinstance(one.get(name), int | float) for one in rows) for name in columns]

    def line(texts: Sequence[str]) -> str:
        padded = [
            t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)
        ]
        return "| " + " | ".join(padded) + " |" if markdown else "  ".join(padded).rstrip()

    rule = [
        "-" * (w - 1) + (":" if r and markdown else "-") for w, r in zip(widths, right, strict=True)
    ]
    return "\n".join([line(columns), line(rule), *map(line, cells)]) + "\n"


def render(rows: Sequence[Row], form: str, columns: Sequence[str] | None = None) -> str:
    """Rows as text in one of `FORMATS`.

    Args:
        rows: what to show.
        form: the format.
        columns: for tables, which columns; by default those of `TABLE` that have a value, the seed
            and replica where they differ, and the free columns.
    """
    if form == "jsonl":
        return to_jsonl(rows)
    if form == "csv":
        return to_csv(rows)
    if columns is None:
        free = [n for n in columns_of(rows)[len(COLUMNS) :] if n not in (*TABLE, "data")]
        told = {n: {one.get(n) for one in rows} - {None} for n in ("seed", "replica", "data")}
        differ = [name for name, values in told.items() if len(values) > 1]
        shown = [TABLE[0], *differ, *TABLE[1:], *free]
        some = [name for name in shown if any(one.get(name) is not None for one in rows)]
        columns = [n for n in some if not n.startswith("lineage_") or n in TABLE]
    return to_table(rows, columns, markdown=form == "markdown")


def read(text: str, where: str) -> list[Row]:
    """Rows from CSV or JSON lines, whichever it is.

    Raises:
        XtoolError: empty, malformed (the line is named), or without a `metric` and a `value`.
    """
    body = text.lstrip()
    rows = _read_jsonl(body, where) if body.startswith("{") else _read_csv(body, where)
    if not rows:
        raise XtoolError(f"{where}: has no rows")
    for number, one in enumerate(rows, 1):
        if not isinstance(one["metric"], str) or one["value"] is None:
            raise XtoolError(
                f"{where}: row {number} has no `metric` and number `value`",
                "give rows as `xtool evaluate --format csv` or a `.rows.jsonl` file has them",
            )
        _check(one, f"{where}: row {number}")
    return rows


def _check(one: Row, where: str) -> None:
    for name in COLUMNS:
        cell = one[name]
        if name in TEXT and not isinstance(cell, str | None):
            raise XtoolError(f"{where}: `{name}` must be text, not {cell!r}")
        number = isinstance(cell, int | float) and not isinstance(cell, bool)
        if name not in TEXT and cell is not None and not (number and abs(cell) <= LARGEST):
            raise XtoolError(f"{where}: `{name}` must be a finite number, not {str(cell)[:40]!r}")
    for name, cell in one.items():
        if isinstance(cell, int | float) and abs(cell) > LARGEST:
            raise XtoolError(f"{where}: `{name}` must be a finite number, not {str(cell)[:40]!r}")
    if not isinstance(one.get("size"), str | int | float | None):
        raise XtoolError(f"{where}: `size` must be text or a number")
    if one["low"] is not None and one["high"] is not None and one["low"] > one["high"]:
        raise XtoolError(f"{where}: `low` {one['low']} is above `high` {one['high']}")


def _read_jsonl(text: str, where: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = strict_json(line)
        except ValueError as error:
            raise XtoolError(f"{where}: line {number} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise XtoolError(f"{where}: line {number} is not a JSON object")
        rows.append(row(**value))
    return rows


LARGEST = 1e200
TEXT = {"label", "digest", "arch", "task", "split", "metric", "device"}
# Free columns of text, where `7`, `nan` and `1e999` are no numbers.
NAMES = {"token", "other", "group", "other_group", "data", "against", "size"}


def _read_csv(text: str, where: str) -> list[Row]:
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        lines, heading = list(reader), list(reader.fieldnames or ())
    except csv.Error as error:
        raise XtoolError(f"{where}: not CSV: {error}") from error
    if len(set(heading)) < len(heading):
        raise XtoolError(f"{where}: the heading names a column twice")
    if any(None in line for line in lines):
        raise XtoolError(f"{where}: a line has more cells than the heading")
    return [
        row(**{k: (v or None) if k in TEXT | NAMES else _number(v) for k, v in line.items()})
        for line in lines
    ]


def _number(cell: str | None) -> Any:
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell


def select(rows: Sequence[Row], where: Sequence[str]) -> list[Row]:
    """The rows for which every `COLUMN=VALUE` holds; `A=x,y` takes either value.

    Raises:
        UsageError: not of that form, or a column that no row has.
    """
    kept = list(rows)
    for condition in where:
        name, equals, wanted = condition.partition("=")
        if not equals:
            raise UsageError(f"`{condition}` is not COLUMN=VALUE")
        require_column(rows, name)
        # A size such as `d_ff=64,128` has a comma of its own.
        whole = any(str(one.get(name)) == wanted for one in kept)
        either = [wanted] if whole else wanted.split(",")
        kept = [one for one in kept if any(_same(one.get(name), w) for w in either)]
        if not kept:
            found = sorted({str(one.get(name)) for one in rows})
            raise XtoolError(f"no row has `{condition}`", f"`{name}` is one of: {', '.join(found)}")
    return kept


def _same(cell: Any, wanted: str) -> bool:
    """Whether a cell is what was asked for; 10 and 10.0 are the same number."""
    if isinstance(cell, int | float):
        return bool(cell == _number(wanted))
    return str(cell) == wanted


def require_column(rows: Sequence[Row], name: str) -> None:
    """Raise UsageError unless some row has the column."""
    if name not in columns_of(rows):
        raise unknown("column", name, columns_of(rows))
