"""Spectra: the singular values of every matrix, and how far apart those of two models are.

Values are divided by the largest of their matrix and placed at their rank as a fraction of the full
rank, so that matrices of any two sizes share one grid. Of independent entries both the shape and
the scale of such a spectrum are the same at every width (Marchenko and Pastur, 1967), and copies of
a matrix, as `clone` makes them, only add zeros behind it.
"""

from collections.abc import Callable, Iterator, Sequence
from math import lcm, prod
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from xtool.archs import open_model
from xtool.checkpoint import Reader
from xtool.evaluation.score import columns_of_model
from xtool.rows import Row, row
from xtool.storage import Source

DISTANCE = "spectrum_distance"


def spectrum(matrix: Float[Tensor, "rows columns"]) -> Float64[Tensor, " rank"]:
    """Singular values over the largest, (min(rows, columns),), falling; zeros of a zero matrix."""
    values: Tensor = torch.linalg.svdvals(matrix.double())  # (rank,)
    return values / values[0] if values[0] > 0 else values


def distance(ours: Float64[Tensor, " n"], theirs: Float64[Tensor, " m"]) -> float:
    """How far apart two spectra are, 0 for equal ones; which is first does not matter.

    Each is a step function of the rank fraction, its i-th value on ((i - 1)/n, i/n]. The result is
    the L2 norm of their difference over the larger of their own norms, exact for any two sizes.
    """
    n, m = len(ours), len(theirs)
    whole = lcm(n, m)
    steps = (whole // n, whole // m)
    edges = torch.tensor(sorted({edge for s in steps for edge in range(0, whole + 1, s)}))
    widths = edges.diff().double()  # (pieces,)
    a, b = (values[(edges[1:] - 1) // s] for values, s in zip((ours, theirs), steps, strict=True))
    larger = max(float(widths @ a.square()), float(widths @ b.square()))
    return (float(widths @ (a - b).square()) / larger) ** 0.5 if larger else 0.0


def spectra(reader: Reader) -> Iterator[tuple[str, Float64[Tensor, " rank"]]]:
    """The spectrum of each matrix of a model but its fixed tables; one is in memory at a time."""
    for name in reader.names:
        if len(reader.shape(name)) == 2 and not reader.layout.is_frozen(name):
            yield name, spectrum(reader.tensor(name))


def spectrum_rows(
    paths: Sequence[Path], labels: Sequence[str], note: Callable[[str], None]
) -> list[Row]:
    """Rows `singular_value` of every matrix, `spectrum_distance` of later models from the first.

    `mean_spectrum_distance` is the plain mean over the `n` matrices that both models have.

    Args:
        paths: the models.
        labels: their names in the rows.
        note: is told of matrices without a counterpart in the first model.

    Raises:
        XtoolError: an unreadable model.
        CheckFailed: a digest does not match.
    """
    rows: list[Row] = []
    first: dict[str, Tensor] = {}
    for place, (path, label) in enumerate(zip(paths, labels, strict=True)):
        with Source(path) as source:
            reader = open_model(source)
            base = model_columns(reader, label)
            found = dict(spectra(reader))
        for name, values in found.items():
            rows += _value_rows(name, values, base)
        if place == 0:
            first = found
        else:
            rows += _distance_rows(first, found, base | {"against": labels[0]})
            alone = [name for name in found if name not in first]
            if alone:
                note(f"{path}: {labels[0]} has no `{alone[0]}`; {len(alone)} such were left out")
    return rows


def model_columns(reader: Reader, label: str) -> dict[str, Any]:
    """The columns of a row that say which model it is of."""
    header = reader.source.require_header("model")
    learnt = [name for name in reader.names if not reader.layout.is_frozen(name)]
    params = sum(prod(reader.shape(name)) for name in learnt)
    return columns_of_model(header, params) | {"label": label, "digest": header.digest}


def _value_rows(name: str, values: Tensor, base: Row) -> list[Row]:
    full = len(values)
    return [
        row(
            metric="singular_value",
            value=value,
            tensor=name,
            rank=index / full,
            index=index,
            **base,
        )
        for index, value in enumerate(values.tolist(), 1)
    ]


def _distance_rows(first: dict[str, Tensor], found: dict[str, Tensor], base: Row) -> list[Row]:
    apart = {name: distance(first[name], found[name]) for name in found if name in first}
    rows = [row(metric=DISTANCE, value=d, tensor=name, **base) for name, d in apart.items()]
    if apart:
        mean = fmean(apart.values())
        rows.append(row(metric=f"mean_{DISTANCE}", value=mean, n=len(apart), **base))
    return rows
