"""One size of a nested model in memory: built by its own configuration, on prefixes of weights.

What a size has of its own, gains of its norms, stands under `sizes.I` among the whole model's.
"""

from collections.abc import Container, Mapping, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from xtool.archs._making import build, count, empty
from xtool.archs._nest import SIZE, place_of
from xtool.archs._sizes import HEAD, sized, sizes_of
from xtool.axes import Layout, layout
from xtool.gather import prefixes
from xtool.layers.head import Head

# Of an axis that is cut: its place, and the old and new sizes of its factors.
Step = tuple[int, tuple[int, ...], tuple[int, ...]]


def steps(name: str, old: Layout, new: Layout) -> list[Step]:
    """What makes a smaller model's tensor of the large one's, axis by axis."""
    found = []
    for place, axis in enumerate(new.axes(name)):
        was, now = old.axis_sizes(name, axis), new.axis_sizes(name, axis)
        if was[1:] == now[1:]:
            was, now = (prod(was),), (prod(now),)
        if was != now:
            found.append((place, was, now))
    return found


def prefix(tensor: Tensor, cuts: Sequence[Step]) -> Tensor:
    """The part of a tensor that a smaller model has, a view of it where there is one."""
    for place, was, now in cuts:
        if len(now) == 1:
            tensor = tensor.narrow(place, 0, now[0])
            continue
        parts = torch.unflatten(tensor, place, was)
        for at, size in enumerate(now):
            parts = parts.narrow(place + at, 0, size)
        tensor = parts.flatten(place, place + len(now) - 1)
    return tensor


class Child:
    """One size of a model that is in memory: a model of its own, whose tensors are prefixes.

    Args:
        model: the large model; its tensors are looked up anew at each `bind`.
        config: its configuration.
        changes: the size.

    Attributes:
        module: the small model, in the large one's mode.
        config: of the small model.
    """

    def __init__(
        self, model: nn.Module, config: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> None:
        self.whole = model
        self.config = sized(config, changes)
        self.module = with_head(empty(self.config), self.config, changes)
        old, new = layout({**config, "nest": None}), layout(self.config)
        head = layout(head_config(self.config, changes))
        stored = {tie.alias: tie.stored for tie in old.ties}
        theirs, place = dict(_held(model)), place_of(config, self.config, changes.get(HEAD))
        self._places = []
        for name, (held, key) in _held(self.module):
            ours = head if name.startswith(f"{HEAD}.") else new
            source = source_of(stored.get(name, name), place, theirs)
            # A tied head reads other axes than the embedding whose values it has.
            self._places.append((held, key, theirs[source], steps(name, old, ours)))

    def bind(self, contiguous: bool = False) -> nn.Module:
        """The module, with the large model's values as they are now.

        Args:
            contiguous: whether to copy what a view would show with gaps; a single row of input is
                multiplied by another kernel then.
        """
        for held, key, (theirs, own), cuts in self._places:
            part = prefix(theirs[own], cuts)
            held[key] = part.contiguous() if contiguous else part
        if self.module.training != self.whole.training:
            self.module.train(self.whole.training)
        return self.module


def source_of(name: str, place: int | None, names: Container[str]) -> str:
    """The stored tensor that a size's is a prefix of; its norms may have gains of their own."""
    own = f"{SIZE}.{place}.{name}"
    return own if own in names else name


def start_gains(model: nn.Module, given: Container[str]) -> None:
    """Let each size's own norms begin as the whole model's, unless they were `given` in a file."""
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in state.items():
            if name.startswith(f"{SIZE}.") and name not in given:
                tensor.copy_(state[name.split(".", 2)[2]])


def _held(model: nn.Module) -> list[tuple[str, tuple[dict[str, Any], str]]]:
    """Where each tensor of a model stands, by its name; a tied one under each of its names."""
    return [
        (f"{path}.{key}" if path else key, (held, key))
        for path, module in model.named_modules()
        for held in (module._parameters, module._buffers)
        for key, tensor in held.items()
        if tensor is not None
    ]


def head_config(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in which the head's tensors have their shapes."""
    return {**config, "d_model": changes[HEAD]} if HEAD in changes else dict(config)


def with_head(model: nn.Module, config: Mapping[str, Any], changes: Mapping[str, Any]) -> nn.Module:
    """A model whose head reads only a prefix, where that is what is nested; without values."""
    if HEAD not in changes:
        return model
    own = SimpleNamespace(**head_config(config, changes))
    weight = next(iter(model.parameters()))
    tied = nn.Parameter(weight.new_empty(own.n_outputs, own.d_model)) if own.tied_head else None
    with weight.device:
        model.head = Head(own, tied)
    return model


def build_size(config: Mapping[str, Any], changes: Mapping[str, Any]) -> nn.Module:
    """A size as a model with uninitialised values."""
    return with_head(build(sized(config, changes)), config, changes)


def count_size(config: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
    """The parameters of a size that is cut out alone, with no size nested in it.

    A head that reads less leaves the embedding whole, whose first columns it has where it is tied.
    """
    small = sized(config, changes)
    with torch.device("meta"):
        found = count(build_size(config, changes))
    if HEAD in changes and small["tied_head"]:
        found -= changes[HEAD] * small["n_outputs"]
    return found


def start_sizes(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Scale first values so that each size begins nearly as it would alone.

    Values are drawn with a spread that falls with the root of what is summed over. The columns of
    a smaller size are scaled two thirds of the way, as logarithms go, to the spread that it would
    have alone: all of it makes the whole model worse, none of it the smallest one.
    """
    old = layout({**config, "nest": None})
    inside = [one for one in sizes_of(config)[:-1] if HEAD not in one.changes]
    layouts = [layout(sized(config, one.changes)) for one in reversed(inside)]  # the smallest last
    state = model.state_dict(keep_vars=True)
    aliases = {tie.alias: tie.stored for tie in old.ties}
    with torch.no_grad():
        for name, tensor in state.items():
            if name in aliases or old.is_frozen(name) or tensor.ndim != 2:
                continue
            tied = name in aliases.values()
            place = 1 if tied else old.reading(name)
            if place is None:
                continue
            scale = torch.ones(tensor.shape[place])
            for new in layouts:
                if (old.layer(name) or 0) >= new.config["n_layers"]:
                    continue
                columns = prefixes(old, new, name)[place]
                scale[columns] = (tensor.shape[place] / len(columns)) ** (1 / 3)
            tensor.mul_(scale if place == 1 else scale[:, None])
