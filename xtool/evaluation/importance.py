"""How much each unit of a trained model matters on some examples, and the order that follows.

Of a feed-forward unit it is its mean absolute activation times the norm of the column that it
writes; of a head of keys and values, with its queries, the same of its outputs, added up; of the
residual stream the mean absolute value after every norm (Muralidharan et al., 2024,
arXiv:2407.14679). Units of one kind commute: in another order the model computes the same sums, so
sorting changes the function only as the order of sums does, and its prefix is then the best part.
"""

import sys

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from xtool.archs import SIZE, stored_names
from xtool.axes import RESIDUAL, Layout, fixed
from xtool.dataset import Dataset, Drawn, Split
from xtool.errors import UsageError
from xtool.evaluation.score import together
from xtool.gather import Orders, Picked, prefixes
from xtool.tasks import drawn, task_of

EXAMPLES = 256
HEADS, FEED_FORWARD = "n_kv_heads", "d_ff"
NORMS = ("attention_norm", "mlp_norm", "head.norm")


def calibrating(data: Dataset) -> Split:
    """The training split, or where it is drawn as many of its examples as are looked at."""
    split = data.split("train")
    if not isinstance(split, Drawn):
        return split
    task = task_of(data.header, "the data")
    return drawn(task, data.header, split, EXAMPLES, 0, step=sys.maxsize)  # as curricula end


class _Mean:
    """The mean absolute value of each column of what passes, over all positions."""

    def __init__(self) -> None:
        self.total: Float64[Tensor, " n"] | None = None
        self.count = 0

    def add(self, x: Tensor) -> None:
        """(..., n)."""
        flat = x.detach().flatten(0, -2).abs().double()
        total = flat.sum(0).cpu()
        self.total = total if self.total is None else self.total + total
        self.count += len(flat)

    def value(self) -> Float64[Tensor, " n"]:
        assert self.total is not None
        return self.total / self.count


@torch.inference_mode()
def orders(model: nn.Module, ours: Layout, split: Split) -> Orders:
    """The units of each factor from the one that matters most, by the first examples of a split.

    Args:
        model: in memory, of plain attention's parts: `mlp.down` and `attention.o`.
        ours: its layout.
        split: the examples; 256 of them are used.

    Raises:
        UsageError: heads write the residual stream themselves, so no unit can change its place; or
            an architecture without the parts that tell.
    """
    if ours.config.get("attention_output") is False:
        raise UsageError(
            "without an output projection units have places that cannot be sorted",
            "leave out `--sort`; `--no-nest-sort` in training",
        )
    before, after, handles = {}, _Mean(), []
    for name, module in model.named_modules():
        if name.endswith((".mlp.down", ".attention.o")) and hasattr(module, "weight"):
            before[name] = _Mean()
            handles.append(
                module.register_forward_pre_hook(
                    lambda _, args, mean=before[name]: mean.add(args[0])
                )
            )
        elif name.endswith(NORMS) and not name.startswith(f"{SIZE}."):
            handles.append(module.register_forward_hook(lambda _, args, out: after.add(out)))
    try:
        some, size = split.inputs[:EXAMPLES], together(split, EXAMPLES)
        device = next(model.parameters()).device
        model.eval()
        for part in torch.split(some, size):
            model(part.to(device))
    finally:
        for handle in handles:
            handle.remove()
    if after.total is None:
        raise UsageError(
            "importance is read from norms, attention and feed-forward parts as `gpt` has them",
            "leave out `--sort`; `--no-nest-sort` in training",
        )
    found: dict[tuple[str, int | None], Picked] = {(RESIDUAL, None): _falling(after.value())}
    for name, mean in before.items():
        weight = model.get_parameter(f"{name}.weight").detach().double().cpu()  # (D, n)
        matter = mean.value() * weight.norm(dim=0)  # (n,)
        heads = name.endswith(".attention.o")
        if heads:
            matter = matter.view(ours.size(HEADS), -1).sum(1)
        factor = HEADS if heads else FEED_FORWARD
        found[factor, ours.layer(f"{name}.weight")] = _falling(matter)
    kept = {*fixed(ours.config)}
    if any(axis.startswith("n_heads") for axis in kept):
        kept.add(HEADS)
    return {key: order for key, order in found.items() if key[0] not in kept}


@torch.no_grad()
def sort_units(model: nn.Module, ours: Layout, split: Split) -> None:
    """Put a model's units in the order of `orders`, in place."""
    found = orders(model, ours, split)
    state = model.state_dict(keep_vars=True)
    for name in stored_names(model, ours):
        if name.startswith(f"{SIZE}."):
            continue
        values = state[name].detach().clone()
        for place, order in enumerate(prefixes(ours, ours, name, orders=found)):
            values = values.index_select(place, order)
        state[name].copy_(values)


def _falling(matter: Float64[Tensor, " n"]) -> Picked:
    return Picked(matter.argsort(descending=True, stable=True))
