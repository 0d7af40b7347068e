"""Training several sizes of one model at once.

Each step takes some of the sizes on one batch: all of them (`joint`), one that is drawn (`random`),
or the largest, the smallest and a few drawn ones (`sandwich`, Yu and Huang, 2019,
arXiv:1903.05134). Beside the targets a smaller size learns from the largest one's probabilities,
which it does not change (inplace distillation, same paper).
"""

from collections.abc import Mapping
from random import Random
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from xtool.archs import Child, Size, Stepped, axes_of, parse_size, sizes_of, weights_of
from xtool.evaluation.sizes import excess
from xtool.seeds import derive
from xtool.training.hierarchy import Hierarchy

KEPT = 256  # mixes that are kept built


class Nested:
    """The sizes of a model that a step trains.

    Args:
        model: the whole one.
        config: its configuration, with `nest`.
    """

    hierarchy: Hierarchy | None = None

    def __init__(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        self.whole, self.config = model, config
        self.sizes = sizes_of(config)
        self.axes = axes_of(config)
        self.weights = weights_of(config, len(self.sizes))
        self.distill = float(config["nest_distill"])
        self._children: dict[str, Child] = {}
        self.at_step(0)

    def at_step(self, step: int) -> None:
        """Choose the sizes, by the step alone; the largest comes first."""
        self.step = step
        draw, last = Random(derive(step, "sizes")), len(self.sizes) - 1
        schedule = self.config["nest_schedule"]
        if schedule == "joint":
            chosen = [*range(last + 1)]
        elif schedule == "random":
            chosen = [draw.randint(0, last)]
        else:
            middle = [*range(1, last)]
            drawn = draw.sample(middle, min(len(middle), self.config["nest_drawn"]))
            chosen = [*{0, *drawn, last}]
        self.chosen = sorted(chosen, reverse=True)
        self.mixes = {z: self.sizes[z] for z in self.chosen}
        if self.config["nest_mix"]:
            between = [z for z in self.chosen if 0 < z < last]
            self.mixes |= {z: self._mixed(self.sizes[z], draw) for z in between}

    def _mixed(self, size: Size, draw: Random) -> Size:
        """The size with a feed-forward width drawn for each layer."""
        layers = size.changes.get("n_layers", self.config["n_layers"])
        widths = ",".join(str(draw.choice(self.axes["d_ff"])) for _ in range(layers))
        rest = [f"{name}={n}" for name, n in size.changes.items() if name != "d_ff"]
        return parse_size(" ".join([*rest, f"d_ff={widths}"]), self.config)

    def __call__(self, inputs: Num[Tensor, "B T *d"]) -> Float[Tensor, "Z *S B T C"]:
        """The logits of each chosen size, the largest first."""
        alone = inputs.shape[:2].numel() == 1
        if "head" in self.axes:
            return self._heads(inputs, alone)
        return torch.stack([self._module(self.mixes[z], alone)(inputs) for z in self.chosen])

    def _heads(self, inputs: Num[Tensor, "B T *d"], alone: bool) -> Float[Tensor, "Z B T C"]:
        """The same where the sizes share all but their head."""
        x = inputs
        *body, _ = self.whole.stages()  # type: ignore[operator]
        for _, stage in body:
            x = stage(x)
        heads = [self._module(self.sizes[z], alone).head for z in self.chosen]
        return torch.stack([head(x) for head in heads])  # type: ignore[operator]

    def _module(self, size: Size, alone: bool) -> nn.Module:
        if not size.changes:
            return self.whole
        if size.label not in self._children:
            if len(self._children) >= KEPT:
                self._children.pop(next(iter(self._children)))
            self._children[size.label] = Child(self.whole, self.config, size.changes)
        module = self._children[size.label].bind(contiguous=alone)
        if isinstance(module, Stepped):
            module.at_step(self.step)
        return module

    def modules(self) -> list[nn.Module]:
        """Every module that a step may run."""
        children = (child.module for child in self._children.values())
        return [one for model in (self.whole, *children) for one in model.modules()]

    def combined(
        self,
        logits: Float[Tensor, "R Z *S B T C"],
        losses: Float[Tensor, "R Z *S B U"],
        targets: Num[Tensor, "R Z *S B U"],
    ) -> Float[Tensor, " R"]:
        """One loss for each replica from the losses of all sizes at every position.

        Its gradient is that of their weighted mean, in which a smaller size's is partly its
        distance from the largest; one with groups has their loss. Its value is the largest one's
        own, to compare with other runs; where `random` took a single size, that size's.
        """
        each = losses.flatten(2).mean(-1)  # (R, Z)
        if self.distill and len(self.chosen) > 1:
            far = distance(logits[:, :1].detach(), logits[:, 1:]).flatten(2).mean(-1)  # (R, Z-1)
            small = torch.lerp(each[:, 1:], far, self.distill)
            each = torch.cat([each[:, :1], small], 1)
        for place, z in enumerate(self.chosen):
            groups = self.hierarchy.of(self.sizes[z].changes) if self.hierarchy else None
            if groups:
                over = excess(logits[:, place], targets[:, place], groups).flatten(1).mean(1)
                each = torch.cat([each[:, :place], over[:, None], each[:, place + 1 :]], 1)
        weights = each.new_tensor([self.weights[z] for z in self.chosen])  # (Z,)
        mean = (each * weights).sum(1) / weights.sum()
        own = losses[:, 0].flatten(1).mean(1).detach()  # (R,)
        return own + (mean - mean.detach())


def distance(
    large: Float[Tensor, "R 1 *S B T C"], small: Float[Tensor, "R Z *S B T C"]
) -> Float[Tensor, "R Z *S B T"]:
    """KL(large || small) in nats at each position; of numbers the squared difference."""
    if large.shape[-1] == 1:
        return (small - large)[..., 0].square()
    wanted, found = F.log_softmax(large, -1), F.log_softmax(small, -1)
    return (wanted.exp() * (wanted - found)).sum(-1)
