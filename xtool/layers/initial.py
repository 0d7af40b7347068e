"""First values of every tensor, from its axes alone, so that all architectures start alike.

A linear weight is uniform in +-1/sqrt(fan-in), the default of PyTorch's `nn.Linear`, whose spread
1/sqrt(3 fan-in) is also GPT-2's 0.02 at its width; what writes the residual stream inside a layer
is divided by sqrt(n_layers), a little less than the sqrt(2 n_layers) of Radford et al. (2019).
Embeddings are normal with spread 1, or 1/sqrt(3 d_model) where a tied head reads them too; learned
positions like the symbols that they are added to. Gains are 1, biases 0, and so is what a loop adds
to a shared matrix.

Values depend on (seed, name, row block) only, so any range of rows can be drawn by itself.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from xtool.axes import SECOND, Layout
from xtool.layers.positions import frequencies, table
from xtool.seeds import derive

CHUNK = 1 << 18
BESIDE_NUMBERS = 0.02

Fill = Callable[[Tensor, torch.Generator], Tensor]


def initial(
    layout: Layout, name: str, seed: int, start: int = 0, stop: int | None = None
) -> Tensor:
    """Rows [start, stop) of a tensor's first values, float32; a fixed table is float64."""
    shape = layout.shape(name)
    stop = shape[0] if stop is None else stop
    axes = layout.axes(name)
    if layout.is_frozen(name):
        kind = str(layout.config["positions"])
        whole = frequencies(*shape) if kind == "rotary" else table(kind, *shape)
        return whole[start:stop]
    if axes[0].role == "scales":
        return torch.full((stop - start,), 0.0 if name.endswith("bias") else 1.0)
    if len(shape) == 1 or name.endswith(SECOND):
        return torch.zeros(stop - start, *shape[1:])
    summed = layout.reading(name)
    spread = _embedding_spread(layout, name) if summed is None else _spread(layout, name, summed)

    def fill(values: Tensor, generator: torch.Generator) -> Tensor:
        if summed is not None:
            return values.uniform_(-spread, spread, generator=generator)
        return values.normal_(0, spread, generator=generator)

    return draw(shape, derive(seed, "initial", name), start, stop, fill)


def draw(shape: Sequence[int], seed: int, start: int, stop: int, fill: Fill) -> Tensor:
    """Rows [start, stop) of a random tensor, float32, the same however the rows are asked for.

    Args:
        shape: of the whole tensor; rows are its first axis.
        seed: names the tensor.
        start: first row.
        stop: the row after the last.
        fill: fills a block of rows in place from a generator.
    """
    return torch.cat([part for _, part in chunks(shape, seed, start, stop, fill)])


def chunks(
    shape: Sequence[int],
    seed: int,
    start: int,
    stop: int,
    fill: Fill,
    dtype: torch.dtype = torch.float32,
    size: int = CHUNK,
) -> Iterator[tuple[int, Tensor]]:
    """What `draw` gives, in parts of about `size` entries, each with its first row."""
    step = max(1, size // prod(shape[1:]))
    for at in range(start - start % step, stop, step):
        generator = torch.Generator().manual_seed(derive(seed, at))
        values = fill(torch.empty(min(step, shape[0] - at), *shape[1:], dtype=dtype), generator)
        first = max(start, at)
        yield first, values[first - at : stop - at]


def _spread(layout: Layout, name: str, summed: int) -> float:
    fan_in = layout.shape(name)[summed]
    layers = int(layout.config.get("n_layers") or 1)
    deep = layout.writes_residual(name) and layout.layer(name) is not None
    return float(fan_in**-0.5 / (layers**0.5 if deep else 1))


def _embedding_spread(layout: Layout, name: str) -> float:
    """1, or what suits a tied head: for its table, and for positions that are added to it.

    Beside numbers that are read, positions begin small (GPT-2's 0.02): at 1 they drown what the
    numbers say, and in-context regression stays on its plateau several times as long.
    """
    if layout.config.get("d_input"):
        return BESIDE_NUMBERS
    for tie in layout.ties:
        if (summed := layout.reading(tie.alias)) is None:
            continue
        width = layout.axes(tie.stored)[summed].factors
        if any(axis.factors == width for axis in layout.axes(name)):
            return float((3 * layout.shape(tie.stored)[summed]) ** -0.5)
    return 1.0
