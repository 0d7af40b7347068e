"""Looking inside: what each layer and head attends to, as rows."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.dataset import Split
from xtool.errors import XtoolError
from xtool.evaluation.score import POSITIONS
from xtool.intervals import estimate
from xtool.layers._trace import Trace, tracing
from xtool.rows import Row, row

EXAMPLES = 256
CELLS = 32  # of a map, each way


@torch.inference_mode()
def trace(model: nn.Module, split: Split) -> list[Trace]:
    """What each attention module shows on the first examples of a split.

    Raises:
        XtoolError: the model has no attention that can be looked into.
    """
    device = next(model.parameters()).device
    model.eval()
    at_once = max(1, POSITIONS // split.inputs.shape[1])
    with tracing(model) as traces:
        for part in torch.split(split.inputs[:EXAMPLES], at_once):
            model(part.to(device))
            for one in traces:
                one.close()
    if not traces:
        raise XtoolError("`--trace` looks into attention, and this model has none that shows it")
    return traces


def trace_rows(traces: Sequence[Trace], maps: bool = False, **columns: Any) -> list[Row]:
    """One row a metric, layer and head: the mean over examples with its 95 % interval.

    Args:
        traces: of each layer in order.
        maps: also the weights, `attention`, by cells of queries and keys.
        columns: of every row.
    """
    rows = []
    for layer, one in enumerate(traces):
        for metric, parts in one.found.items():
            for head, values in enumerate(torch.cat(parts).unbind(1)):
                mean = estimate(values.tolist())
                rows.append(row(metric=metric, layer=layer, head=head, **vars(mean), **columns))
        if maps and one.map:
            total, count = one.map
            for head, weights in enumerate((total.double() / count).unbind()):
                rows += _map_rows(_cells(weights), layer=layer, head=head, **columns)
    return rows


def _cells(weights: Float64[Tensor, "T S"]) -> tuple[Float64[Tensor, "a b"], int]:
    """Weights in at most `CELLS` x `CELLS` cells, and how many positions a cell has each way.

    A cell is the sum of the weights over its keys, and the mean over its queries, so rows sum to 1.
    """
    positions = weights.shape[0]
    side = -(-positions // CELLS)
    padded = F.pad(weights, (0, -positions % side, 0, -positions % side))
    count = len(padded) // side
    sums = padded.view(count, side, count, side).sum((1, 3))
    queries = (positions - side * torch.arange(count)).clamp(max=side)
    return sums / queries[:, None], side


def _map_rows(cells: tuple[Float64[Tensor, "a b"], int], **columns: Any) -> list[Row]:
    found, side = cells
    return [
        row(metric="attention", value=value, query=query * side, key=key * side, **columns)
        for query, values in enumerate(found.tolist())
        for key, value in enumerate(values)
        if value > 0
    ]
