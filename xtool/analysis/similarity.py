"""Similarity of activations: linear CKA of two models on the same inputs, stage by stage.

Centred kernel alignment (Kornblith et al., 2019, arXiv:1905.00414) does not change when features
are rotated or scaled. This is its unbiased form, with the U-statistic of HSIC (Song et al., 2012):
the plain one nears 1 for any two layers that have more channels than there are positions.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Num
from torch import Tensor

from xtool.analysis.spectrum import model_columns
from xtool.archs import Stage, model_header, open_model, stored_stages
from xtool.checkpoint import Reader
from xtool.dataset import Dataset
from xtool.errors import XtoolError
from xtool.rows import Row, row
from xtool.storage import Source
from xtool.tasks import fitted

# Positions that are compared, and those of one forward pass.
POSITIONS, BATCH = 16384, 4096
LEAST = 4
NOTHING = 1e-20


def cka(x: Float[Tensor, "N P"], y: Float[Tensor, "N Q"]) -> float | None:
    """Unbiased linear CKA of two sets of features of the same N >= 4 positions, in float64.

    Returns:
        1 for features that are alike up to rotation and scale, near 0 for independent ones; None
        where one of the two does not vary.
    """
    one, other = _centred(x), _centred(y)
    if one is None or other is None:
        return None
    own, others = _hsic(one, one), _hsic(other, other)
    return _hsic(one, other) / (own * others) ** 0.5 if own > 0 and others > 0 else None


def _centred(x: Float[Tensor, "N P"]) -> Float64[Tensor, "N P"] | None:
    """Features less their mean, at norm 1; None where nothing but rounding is left."""
    values = x.double()
    centred = values - values.mean(0)  # (N, P)
    norm = centred.norm()
    return centred / norm if norm.square() > NOTHING * values.square().sum() else None


def _hsic(x: Float64[Tensor, "N P"], y: Float64[Tensor, "N Q"]) -> float:
    """The unbiased HSIC of centred features, up to a factor that depends on N alone.

    With K = x x' and L = y y', whose rows sum to zero, the estimator over pairs i != j needs only
    |x'y|^2 and the diagonals, so no N x N matrix is made.
    """
    n = len(x)
    k, l_ = x.square().sum(1), y.square().sum(1)  # (N,)
    pairs = (x.T @ y).square().sum() - (k @ l_) * n / (n - 2)
    return float(pairs + k.sum() * l_.sum() / ((n - 1) * (n - 2)))


def named_stages(reader: Reader) -> list[tuple[str, Callable[[], Stage]]]:
    """The name of each stage, and what reads it; one that is applied again is `NAME#2`."""
    seen: Counter[str] = Counter()
    found = []
    for prefix, read in stored_stages(reader):
        name = prefix.rstrip(".") or "model"
        seen[name] += 1
        found.append((name if seen[name] == 1 else f"{name}#{seen[name]}", read))
    return found


@torch.inference_mode()
def activations(
    reader: Reader, inputs: Num[Tensor, "N T *d"], wanted: Sequence[str]
) -> Iterator[tuple[str, Float[Tensor, "positions P"]]]:
    """What each wanted stage of a stored model gives, (N*T, P), in the type that it is stored in.

    At any time the tensors of one stage are in memory.
    """
    x = inputs if inputs.is_floating_point() else inputs.long()  # (N, T) or (N, T, d)
    batch = max(1, BATCH // inputs.shape[1])
    for name, read in named_stages(reader):
        stage = read()
        x = torch.cat([stage(part) for part in torch.split(x, batch)])
        del stage  # before the next one is read
        if name in wanted:
            yield name, x.flatten(2).flatten(0, 1)  # (N*T, P)


def similarity_rows(
    paths: Sequence[Path],
    labels: Sequence[str],
    data: Dataset,
    split: str,
    note: Callable[[str], None],
) -> list[Row]:
    """Rows `cka` of every later model against the first, for each stage that both have.

    Their `n` is the number of examples, the first ones of the split.

    Args:
        paths: the models, two or more; all read inputs of the shortest context among them.
        labels: their names in the rows.
        data: the examples.
        split: which of them.
        note: is told what was left out.

    Raises:
        XtoolError: an unreadable model, one that does not fit the data or has no stage of the
            first's, or too few positions.
        CheckFailed: a digest does not match.
    """
    shortest = min((model_header(path) for path in paths), key=lambda one: one.config["context"])
    inputs = fitted(data, shortest, "the data").split(split).inputs
    inputs = inputs[: max(1, POSITIONS // inputs.shape[1])]  # (N, T)
    if (positions := inputs.shape[:2].numel()) < LEAST:
        raise XtoolError(f"split `{split}` has {positions} positions, cka needs {LEAST}")
    rows: list[Row] = []
    with Source(paths[0]) as source:
        first = open_model(source)
        fitted(data, source.require_header("model"), str(paths[0]))
        for path, label in zip(paths[1:], labels[1:], strict=True):
            with Source(path) as other:
                reader = open_model(other)
                fitted(data, other.require_header("model"), str(path))
                columns = model_columns(reader, label) | {"split": split, "n": len(inputs)}
                found = _compare(first, reader, inputs, note)
                base = columns | {"against": labels[0]}
                rows += [row(metric="cka", value=v, layer=name, **base) for name, v in found]
    return rows


def _compare(
    first: Reader, reader: Reader, inputs: Num[Tensor, "N T *d"], note: Callable[[str], None]
) -> list[tuple[str, float]]:
    """The similarity after each stage that both models have, in order."""
    path = reader.source.path
    names = [[name for name, _ in named_stages(one)] for one in (first, reader)]
    both = [name for name in names[0] if name in names[1]]
    if not both or both != [name for name in names[1] if name in names[0]]:
        raise XtoolError(
            f"{path}: its stages are not those of {first.source.path}",
            f"{', '.join(names[0])} against {', '.join(names[1])}",
        )
    for one, own in zip((first, reader), names, strict=True):
        if left := [name for name in own if name not in both]:
            note(f"{one.source.path}: left out, with no counterpart: {', '.join(left)}")
    out = []
    pairs = zip(activations(first, inputs, both), activations(reader, inputs, both), strict=True)
    for (name, ours), (_, theirs) in pairs:
        value = cka(ours, theirs)
        if value is None:
            note(f"{path}: left out `{name}`: its activations do not vary in one of the models")
        else:
            out.append((name, value))
    return out
