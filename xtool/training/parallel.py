"""Several processes that train one model, as `torchrun` starts them.

With `ddp` each process holds all weights and computes a share of every batch; gradients are
averaged (Li et al., 2020, arXiv:2006.15704). With `fsdp` each holds a share of the weights too, and
gathers a block's when it needs them (Zhao et al., 2023, arXiv:2304.11277; torch's second version).
The batch is that of one process, so are the losses up to the order of sums. The first process alone
evaluates, writes and speaks; for `fsdp` each keeps a copy of the whole model, to evaluate and save.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Integer
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from xtool.archs import Model
from xtool.errors import UsageError


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which of them this one is."""

    count: int = 1
    rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def wrap(self, model: nn.Module, kind: str, idle: bool) -> Callable[..., Tensor]:
        """What computes the model's logits; with `fsdp` its weights are in shares from now on.

        Args:
            model: the whole one.
            kind: `ddp` or `fsdp`.
            idle: whether a step may leave parameters out.
        """
        if self.count == 1:
            return model
        if kind == "ddp":
            return cast(
                Callable[..., Tensor], DistributedDataParallel(model, find_unused_parameters=idle)
            )
        # Here, since they take a second to import, which every command would pay.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (self.count,))
        for prefix, stage in cast(Model, model).stages():
            if prefix.startswith("blocks."):
                fully_shard(stage, mesh=mesh)
        return cast(Callable[..., Tensor], fully_shard(model, mesh=mesh))

    def share(self, batch: Integer[Tensor, "R B"]) -> tuple[Integer[Tensor, "R b"], float]:
        """This process's examples of a batch, and which part of it they are; one at least."""
        part = torch.tensor_split(batch, self.count, 1)[self.rank]
        if not part.shape[1]:
            return batch[:, :1], 0.0
        return part, part.shape[1] / batch.shape[1]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether it is so in any process."""
        if self.count == 1:
            return here
        return bool(self.sum(torch.tensor(int(here), device=device)))


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that `torchrun` started; alone without it."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes()
        return
    distributed.init_process_group()
    try:
        yield Processes(count, int(os.environ["RANK"]))
    finally:
        distributed.destroy_process_group()


def check_parallel(processes: Processes, dials: Mapping[str, Any]) -> None:
    """Raise UsageError where several processes cannot do what is asked."""
    kind = dials["parallel"]
    if processes.count == 1:
        return
    if kind == "none":
        raise UsageError(
            f"{processes.count} processes were started for one model",
            "`--parallel ddp` shares the batch, `--parallel fsdp` the weights too",
        )
    refused = ["replicas"] if dials["replicas"] > 1 else []
    if kind == "fsdp":
        refused += [name for name in ("ema", "watch", "compile") if dials[name]]
    if refused:
        flag = f"--{refused[0]}"
        raise UsageError(
            f"`{flag}` does not go together with `--parallel {kind}`", f"leave out `{flag}`"
        )


def in_shares(tensor: Tensor) -> bool:
    """Whether the processes hold shares of a tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the shares of all processes, which all ask for it."""
    return cast(Any, tensor).full_tensor() if in_shares(tensor) else tensor


@torch.no_grad()
def gather(model: nn.Module, full: nn.Module) -> None:
    """Give a plain model the weights of one that is in shares; all processes take part."""
    shared = dict(model.named_parameters())
    for name, parameter in full.named_parameters():
        parameter.copy_(whole(shared[name]))


def like(values: Tensor, parameter: Tensor) -> Tensor:
    """Values in the type, place and shares of a parameter."""
    if not in_shares(parameter):
        return values.to(parameter)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    values = values.to(parameter.device, parameter.dtype)
    return distribute_tensor(values, parameter.device_mesh, parameter.placements)
