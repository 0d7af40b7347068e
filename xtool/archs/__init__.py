"""Architectures: one file each, composed from layers by configuration."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.func import functional_call

from xtool import registry
from xtool.axes import Layout
from xtool.checkpoint import Reader, model_reader
from xtool.config import SHAPE
from xtool.errors import UsageError, XtoolError
from xtool.header import Header
from xtool.layers.initial import initial
from xtool.storage import Source
from xtool.tasks import Shape

FORWARD_AND_BACKWARD = 3


@runtime_checkable
class Model(Protocol):
    """A built model: (B, T) symbols, or (B, T, d) numbers -> (B, T, C) logits."""

    def __call__(self, inputs: Num[Tensor, "B T *d"]) -> Float[Tensor, "B T C"]:
        """Logits of every position."""

    def stages(self) -> Sequence[tuple[str, nn.Module]]:
        """The parts to apply in turn, each with the prefix of its tensors' names.

        Examples stand on the first axis between them, and do not depend on each other.
        """


@runtime_checkable
class Architecture(Protocol):
    """What a file in this folder ends with, as `ENTRY`.

    A file also declares the literals `OPTIONS`, `AXES`, and where they apply `PRESETS`, `TIED`,
    `FROZEN`, `PRODUCTS` (see `xtool.axes`), `TASK` (the default one) and `TUNABLE` (dials that may
    change on a trained model because no tensor depends on them), `LATER` (dials that older files
    lack; their defaults are what was before), `CACHED` (its modules that look back have a cache,
    see `xtool.layers._cache`), `INEXACT` (growths that no exact operator, or not this `method`, can
    do: an axis, conditions that must all hold, the reason), `LIKE` (another one, whose literals it
    has too, after its own).
    """

    def configure(self, dials: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
        """All dials with the derived ones filled in, and the sizes of `shape`.

        Raises:
            UsageError: dials that contradict each other; the message gives both numbers.
        """

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """A `Model` with uninitialised weights."""

    def flops(self, config: Mapping[str, Any]) -> int:
        """Operations of one forward pass over one example, a multiply and an add counted apart."""


@runtime_checkable
class Stepped(Protocol):
    """A model that changes its ways as training goes on."""

    def at_step(self, step: int) -> None:
        """The next batch is that of this step, counted over the lineage."""


@dataclass(frozen=True)
class Between:
    """What is done to a looped model between its loops, to see what these need.

    Attributes:
        mask: `state` or `input`: which of them is set to 0 at positions that are not kept.
        keep: `first` or `last`: at which end of the positions those are that are kept.
        kept: how many.
        noise: standard deviation of what is added to the state before each loop but the first.
    """

    mask: str | None = None
    keep: str = "first"
    kept: int = 0
    noise: float = 0.0

    def at(self, what: str, x: Float[Tensor, "B RT D"], skip: int) -> Float[Tensor, "B RT D"]:
        """A state or an input with the positions that are not kept set to 0, but the first few."""
        if what != self.mask:
            return x
        places = torch.arange(x.shape[1], device=x.device)  # (T,)
        first, stop = skip + self.kept, x.shape[1] - self.kept
        there = places < first if self.keep == "first" else (places >= stop) | (places < skip)
        return torch.where(there[:, None], x, 0.0)


class After(NamedTuple):
    """What a looped model has after a loop."""

    logits: Float[Tensor, "B T C"]
    state: Float[Tensor, "B T D"]


@runtime_checkable
class Loops(Protocol):
    """A model that has an answer after every loop.

    Attributes:
        loops: how many it runs unless told otherwise.
    """

    loops: int

    def every_loop(
        self, inputs: Num[Tensor, "B T *d"], loops: int, between: Between | None = None
    ) -> Iterator[After]:
        """The logits and the state after each of so many loops, in one pass."""


@runtime_checkable
class Compiling(Protocol):
    """A model with a part to compile in place of the whole."""

    def compile_part(self, compiler: Callable[..., Any]) -> bool:
        """Put what the compiler makes of a function in its place, or say that there is no part."""


@runtime_checkable
class TrainingFlops(Protocol):
    """An architecture whose training does not cost three times its forward pass."""

    def training_flops(self, config: Mapping[str, Any]) -> int:
        """Operations of training on one example."""


@runtime_checkable
class Noting(Protocol):
    """An architecture that has something to say on dials that do less than they seem to."""

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Lines for whoever trains it."""


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


def training_flops(config: Mapping[str, Any]) -> int:
    """Operations of training on one example: three forward passes, or what the architecture says.

    Raises:
        XtoolError: an architecture of a user's own gives no whole number above 0.
    """
    arch = architecture(config)
    if isinstance(arch, TrainingFlops):
        return arch.training_flops(config)
    flops = arch.flops(config)
    if not isinstance(flops, int) or flops < 1:
        raise XtoolError(f"{config['arch']}: `flops` gives {flops!r}, not a whole number above 0")
    return FORWARD_AND_BACKWARD * flops


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


def fill(model: nn.Module, ours: Layout, reader: Reader, more: bool = False) -> None:
    """Give a built model the values of a file.

    Args:
        model: the model.
        ours: its layout.
        reader: the file.
        more: whether the model may have tensors that the file lacks; they stay as they are.

    Raises:
        XtoolError: the file lacks a tensor of the model, has one too many, or one of another shape.
    """
    require_names(model, ours, reader, more)
    with torch.no_grad():
        state = model.state_dict(keep_vars=True)
        for name in reader.names:
            ours.check(name, reader.shape(name), str(reader.source.path))
            state[name].copy_(reader.tensor(name))


def require_names(model: nn.Module, ours: Layout, reader: Reader, more: bool = False) -> None:
    """Raise XtoolError unless a file has the tensors of a model, or some (`more`), and no other."""
    wanted, found = set(stored_names(model, ours)), set(reader.names)
    if not found <= wanted or (not more and wanted != found):
        missing, extra = sorted(wanted - found), sorted(found - wanted)
        what = f"has an unknown tensor `{extra[0]}`" if extra else f"lacks tensor `{missing[0]}`"
        where = str(reader.source.path)
        hint = f"{len(missing)} missing, {len(extra)} unknown"
        if more:
            hint = "what was learned is not dropped: choose an attention variant that has it too"
        raise XtoolError(f"{where}: {what}", hint)


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


def open_model(
    source: Source, verify: bool = True, kind: str = "model", replica: int | None = None
) -> Reader:
    """A reader of a model that has all of its tensors, and no other; see `model_reader`.

    Raises:
        XtoolError: see `model_reader`; or a tensor is missing or unknown.
        CheckFailed: the digest does not match.
    """
    reader = model_reader(source, verify, kind, replica)
    assert reader.layout is not None
    require_names(empty(reader.layout.config), reader.layout, reader)
    return reader


Stage = Callable[[Tensor], Tensor]


def stored_stages(reader: Reader) -> list[tuple[str, Callable[[], Stage]]]:
    """The stages of a stored model in turn, to run it with one of them in memory at a time.

    Everything is in the type that the model is stored in, and nothing is dropped out.

    Returns:
        the prefix of each stage's names, and what reads its tensors and gives it.
    """
    assert reader.layout is not None
    model = empty(reader.layout.config).eval()
    stored = set(model.state_dict())
    return [
        (prefix, partial(_read_stage, reader, prefix, module, stored))
        for prefix, module in cast(Model, model).stages()
    ]


def _read_stage(reader: Reader, prefix: str, module: nn.Module, stored: set[str]) -> Stage:
    names = [name for name in module.state_dict() if prefix + name in stored]
    tensors: dict[str, Any] = {name: reader.tensor(prefix + name) for name in names}

    def stage(x: Tensor) -> Tensor:
        out: Tensor = functional_call(module, tensors, (x,), tie_weights=False)
        return out

    return stage


def read_model(
    path: Path, replica: int | None = None, verify: bool = True
) -> tuple[Header, Layout, nn.Module]:
    """A model file in memory, in the precision it is stored in, checked and ready to run.

    Args:
        path: the file.
        replica: which model, where the file holds several.
        verify: whether to check its digest.

    Raises:
        XtoolError: unreadable, not a model, or not what its configuration says.
        CheckFailed: the digest does not match.
    """
    with Source(path) as source:
        reader = open_model(source, verify, replica=replica)
        header, ours = source.require_header("model"), reader.layout
        assert ours is not None
        model = build(header.config).to(reader.dtype(reader.names[0]))
        fill(model, ours, reader)
    return header, ours, model
