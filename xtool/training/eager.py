"""torch's optimizers without torch's compiler, which they would import before their first step.

That import takes longer than the rest of a short run. A method that torch marks as not to be
compiled looks for the attribute `__dynamo_disable` and imports the compiler where it is missing,
and most `step`s are wrapped in a function that only imports it and turns gradients off. With a
torch that does either in another way the import is back, and nothing else changes.
"""

import inspect
from typing import TypeVar, cast

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=type[Optimizer])


def eager(kind: Kind) -> Kind:
    """The same optimizer, to be used by code that is not compiled."""
    for method in vars(Optimizer).values():
        if callable(method) and hasattr(method, "__wrapped__"):
            vars(method.__wrapped__).setdefault("__dynamo_disable", method.__wrapped__)
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("Kind", type(kind.__name__, (kind,), {"step": step}))
