"""From a configuration to a model, without values or with its first ones."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from xtool import registry
from xtool.archs._contracts import Architecture
from xtool.axes import Layout
from xtool.config import SHAPE
from xtool.errors import UsageError, XtoolError
from xtool.layers.initial import initial
from xtool.tasks import Shape

FORWARD_AND_BACKWARD = 3


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a configuration; warns when a user's own file has changed since."""
    registry.warn_if_changed(config.get("sources", {}))
    entry: Architecture = registry.load("archs", str(config["arch"]))
    if not isinstance(entry, Architecture):
        raise XtoolError(
            f"{config['arch']}: its `ENTRY` is no architecture",
            "it needs the methods `configure`, `build` and `flops`; see examples/decay.py",
        )
    return entry


def flops(config: Mapping[str, Any]) -> int:
    """Operations of one forward pass over one example."""
    return architecture(config).flops(config)


def checked(config: Mapping[str, Any]) -> dict[str, Any]:
    """A full configuration after its architecture has checked that its dials go together.

    Raises:
        UsageError: sizes that contradict each other.
    """
    shape = Shape(**{name: config[name] for name in SHAPE}, d_input=config.get("d_input"))
    rest = {name: value for name, value in config.items() if name not in SHAPE}
    return configured(rest, shape)


def configured(dials: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """The full configuration for some data, without `d_input` where they are symbols.

    Raises:
        UsageError: dials that contradict each other.
    """
    config = architecture(dials).configure(dials, shape)
    if config.get("d_input") is None:
        config.pop("d_input", None)
    return config


def build(config: Mapping[str, Any]) -> nn.Module:
    """A model with uninitialised weights.

    Raises:
        XtoolError: a configuration, as a damaged header may hold it, that contradicts itself.
    """
    try:
        return architecture(config).build(checked(config))
    except UsageError as error:
        raise XtoolError(f"the model's configuration: {error.message}", error.hint) from error


def empty(config: Mapping[str, Any]) -> nn.Module:
    """A model without values, which takes no memory.

    Raises:
        XtoolError: see `build`.
    """
    with torch.device("meta"):
        return build(config)


def start(model: nn.Module, ours: Layout, seed: int) -> None:
    """Give a built model its first values."""
    with torch.no_grad():
        state = model.state_dict(keep_vars=True)
        for name in stored_names(model, ours):
            state[name].copy_(initial(ours, name, seed))


def stored_names(model: nn.Module, ours: Layout) -> list[str]:
    """The tensors that a file of the model holds: all but the aliases of tied ones."""
    aliases = {tie.alias for tie in ours.ties}
    return [name for name in model.state_dict() if name not in aliases]


def count(model: nn.Module) -> int:
    """Parameters, tied ones once, fixed tables not at all."""
    return sum(parameter.numel() for parameter in model.parameters())
