"""Which examples each step takes: a function of the seed and the step, so that nothing is kept."""

import torch
from jaxtyping import Integer
from torch import Tensor

from xtool.dataset import Drawn
from xtool.seeds import derive
from xtool.tasks import Drawing
from xtool.training.run import Run


class Batches:
    """The training examples of a run, on its device.

    Attributes:
        inputs: the pool that steps take rows of, (N, T) or (N, T, d); of a task that draws its
            examples those of the last step alone.
        targets: the same of the targets, (N, U).
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run, self.device = run, device
        self.split = run.data.split("train")
        self.inputs, self.targets = self.split.pool(device)
        self._orders: dict[int, tuple[int, Tensor]] = {}

    def rows(self, step: int) -> Integer[Tensor, "R B"]:
        """The rows of the pool that each replica takes at a step."""
        if isinstance(self.split, Drawn):
            count = self.run.examples(step + 1) - self.run.examples(step)
            return self._draw(self.split, count, self.run.steps_before + step)
        return torch.stack([self._rows(step, seed) for seed in self.run.seeds])

    def _rows(self, step: int, seed: int) -> Integer[Tensor, " B"]:
        """A slice of the epoch's order."""
        epoch, place = divmod(step, self.run.steps_per_epoch)
        if seed not in self._orders or self._orders[seed][0] != epoch:
            generator = torch.Generator().manual_seed(
                derive(seed, "order", self.run.steps_before, epoch)
            )
            self._orders[seed] = (epoch, self.split.order(generator).to(self.device))
        size = int(self.run.dials["batch_size"])
        return self._orders[seed][1][place * size : (place + 1) * size]

    def _draw(self, split: Drawn, count: int, now: int) -> Integer[Tensor, "R B"]:
        """Make the examples of a step; they are numbered by replica."""
        run, task = self.run, self.run.task
        assert isinstance(task, Drawing)
        found = []
        for seed in run.seeds:
            generator = torch.Generator(self.device).manual_seed(derive(seed, "prompts", now))
            found.append(task.draw(run.data.header, split.rows, count, generator, now))
        self.inputs, self.targets = (torch.cat(part) for part in zip(*found, strict=True))
        return torch.arange(len(self.inputs), device=self.device).view(len(found), count)
