"""What token embeddings know at each level: cosines of their prefixes, for each pair of tokens.

A level is a width that a nested model was trained in: the prefix E[:, :d] of the token table is all
that a model of that size, or a head that reads d of the stream, has of its tokens (Kusupati et al.,
2022, arXiv:2205.13147). The raw rows are compared, before any norm.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from xtool.analysis.spectrum import model_columns
from xtool.archs import HEAD, axes_of, open_model, size_of
from xtool.categories import read_categories
from xtool.checkpoint import Reader
from xtool.errors import UsageError, XtoolError
from xtool.rows import Row, row
from xtool.storage import Source
from xtool.tokenizers import restore, texts_of
from xtool.tokenizers._names import token_names

MOST = 512  # tokens; half a million rows for four levels of so many


def cosines(table: Float[Tensor, "V d"]) -> Float64[Tensor, "V V"]:
    """The cosine of each row with each, (V, V); 0 with a row of zeros."""
    rows = torch.nn.functional.normalize(table.double(), dim=1)  # (V, d)
    return (rows @ rows.T).clamp(-1, 1)


def levels_of(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The widths of a model's token vectors and what they are called, the whole one last."""
    axes = axes_of(config)
    name = HEAD if HEAD in axes else "d_model"
    widths = axes.get(name, [config["d_model"]])
    return [(size_of(config, {name: width}).label, width) for width in widths]


def token_rows(
    paths: Sequence[Path], labels: Sequence[str], groups: str | None = None
) -> list[Row]:
    """Rows `cosine` of every pair of tokens at every level of every model.

    Columns `token` and `other` name the pair, `index` and `other_index` place it in the table;
    `size` and `width` are the level's. Of a file only the header and the token table are read.

    Args:
        paths: the models.
        labels: their names in the rows.
        groups: a category file, and behind a colon the level, whose groups are columns `group` and
            `other_group`; a token of no group has none.

    Raises:
        UsageError: a level that the category file has not, or several without one chosen.
        XtoolError: an unreadable model or category file, a model without a token table, or more
            than `MOST` tokens.
    """
    rows: list[Row] = []
    for path, label in zip(paths, labels, strict=True):
        with Source(path) as source:
            count = source.require_header("model").replicas
            for replica in range(count):
                reader = open_model(source, verify=False, replica=replica)
                base = model_columns(reader, label)
                if count > 1:
                    base |= {"replica": replica, "seed": (base["seed"] or 0) + replica}
                rows += _model_rows(reader, base, groups)
    return rows


def _model_rows(reader: Reader, base: Mapping[str, Any], groups: str | None) -> list[Row]:
    header = reader.source.require_header("model")
    table = reader.tensor(_table(reader))  # (V, D)
    tokenizer = restore(header.tokenizer) if header.tokenizer else None
    names = token_names(tokenizer, len(table))
    of = _groups(groups, texts_of(header.tokenizer)) if groups else []
    first, second = (side.tolist() for side in np.triu_indices(len(table), 1))
    rows = []
    for size, width in levels_of(header.config):
        values = cosines(table[:, :width]).numpy()[first, second].tolist()
        level = row(metric="cosine", **base, size=size, width=width)
        rows += [
            level
            | {"value": value, "token": names[i], "other": names[j], "index": i, "other_index": j}
            | ({"group": of[i], "other_group": of[j]} if of else {})
            for i, j, value in zip(first, second, values, strict=True)
        ]
    return rows


def _groups(text: str, tokens: Sequence[str]) -> list[str | None]:
    """What the group of each token is called, of one level of a category file."""
    path, level = Path(text), ""
    before, _, behind = text.rpartition(":")
    if not path.is_file() and Path(before).is_file():
        path, level = Path(before), behind
    groups, names = read_categories(path, tokens)
    if not level and len(groups) == 1:
        (level,) = groups
    if level not in groups:
        said = f"it has no level {level}" if level else "it has several levels"
        raise UsageError(
            f"`--groups {text}`: {said}", f"`--groups {path}:LEVEL`, one of {', '.join(groups)}"
        )
    shared = {group for group in groups[level] if groups[level].count(group) > 1}
    return [names[level][one] if one in shared else None for one in groups[level]]


def _table(reader: Reader) -> str:
    """The name of the token table."""
    where = reader.source.path
    for name in reader.names:
        axes = [axis.factors for axis in reader.layout.axes(name)]
        if axes == [("vocab",), ("d_model",)]:
            size = reader.shape(name)[0]
            if not 2 <= size <= MOST:
                raise XtoolError(
                    f"{where}: has {size:,} tokens, pairs of 2 to {MOST} are compared",
                    "a byte pair tokenizer takes `prepare language --vocab-size 512`",
                )
            return name
    raise XtoolError(f"{where}: has no table of token vectors", "its inputs may be numbers")
