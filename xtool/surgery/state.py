"""Growing a training state: the weights, and what the optimizer knows of them.

An operator with a rule (`Carry`) makes every carried entry W' = s W, N copies of each old entry.
If the copies have equal gradients, as the copies of duplication have by symmetry, the chain rule
gives g' = c g with c = 1 / (N s). AdamW then keeps W' = s W in every later step, exactly, when

    m' = c m    v' = c^2 v    lr' = s lr    eps' = c eps    decay' = decay / s

and the step counter stays: the update m / (sqrt(v) + eps) is as before, the rate scales it by s,
and the decoupled decay shrinks by 1 - lr' decay' = 1 - lr decay. For duplicated blocks (s = 1/k,
N = k^2) this is m/k, lr/k, eps/k and k decay, for an embedding (s = 1, N = k) m/k, lr and eps/k.
Other optimizers have factors of their own, in their files.

New entries and new layers have no moments and an age of zero. Exact without noise, dropout and
clipping; zero-padding carries exactly too until its new entries move. An operator without a rule
starts the optimizer anew.

HyperCloning (Samragh et al., 2024, arXiv:2409.12903) grows weights alone; staged training (Shen et
al., 2022, arXiv:2203.06211) moments too, for its own operators.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from xtool.archs import empty, open_model, require_names
from xtool.axes import REPLICAS, layout, one_model
from xtool.checkpoint import NAMES, Reader, save_streamed
from xtool.errors import XtoolError
from xtool.gather import gather
from xtool.header import Header, Position
from xtool.storage import Source
from xtool.surgery.grow import PROVE, Proving, grown_header
from xtool.surgery.operators import Carry, Growth, StatefulOperator
from xtool.surgery.plan import Plan
from xtool.surgery.proof import Proof
from xtool.training.optimizers import Carried, Factors, entry, kind, moments
from xtool.training.state import (
    PART,
    kept_parameters,
    not_begun,
    optimizer_of,
    read_slot,
    require_optimizer,
    slot_tensors,
)
from xtool.writing import Spec

START: Position = {
    "step": 0,
    "best": None,
    "reached": False,
    "loss_sums": [],
    "loss_count": 0,
    "rows": 0,
    "clipped": [],
    "worse": 0,
    "stopped": False,
}


@dataclass(frozen=True)
class Rule:
    """What growth does to the optimizer's state of one tensor.

    Attributes:
        gradient: what the gradient of a carried entry is multiplied with.
        factors: on the learning rate, eps and weight decay.
    """

    gradient: float
    factors: Factors


def rule(growth: Growth, name: str, carry: Carry, optimizer: str) -> Rule:
    """The rule of a carried tensor under an optimizer; see the module for its derivation."""
    found, shape = growth.maps(name, carry.along), growth.reader.shape(growth.source(name))
    copies = prod(int((m >= 0).sum()) / size for m, size in zip(found, shape, strict=True))
    gradient = 1 / (copies * carry.scale)
    carried = Carried(carry.scale, gradient, shape, growth.new.shape(name))
    return Rule(gradient, entry(kind(optimizer, growth.new, name)).factors(carried))


def state_reader(source: Source) -> Reader:
    """A reader of the model inside a training state; the names of all its tensors are checked.

    Raises:
        XtoolError: no training state, or tensors that are missing, unknown or misshapen.
        CheckFailed: the digest does not match.
    """
    header = source.require_header("resume")
    if "position" not in header.training:
        raise XtoolError(f"{source.path}: its header names no position")
    return open_model(source, kind="resume")


def check_state(source: Source) -> None:
    """Check the tensors of a training state, the model's and the optimizer's.

    Raises:
        XtoolError: one is missing, unknown, misshapen or holds what it cannot hold.
        CheckFailed: the digest does not match.
    """
    header = source.require_header("resume")
    old = _OldState(source, state_reader(source) if header.replicas == 1 else _stacked(source))
    for name in old.kept:
        old.slot(name)


def _stacked(source: Source) -> Reader:
    """A reader of the tensors of all replicas in a training state; their names are checked."""
    config = source.require_header("resume").config
    reader = Reader(source, layout(config), "model/")
    one = one_model(config)
    require_names(empty(one), layout(one), reader)
    return reader


class _OldState:
    """The optimizer's part of the small state: moments by rows, factors and ages by name."""

    def __init__(self, source: Source, model: Reader) -> None:
        self.reader = Reader(source, part=PART)
        self.where = str(source.path)
        header = source.require_header("resume")
        self.optimizer = optimizer_of(header)
        shapes = {name: model.shape(name) for name in model.names}
        self.kept = kept_parameters(header, model.layout, shapes)
        self.step = header.training["position"]["step"]
        found = {name: self.reader.shape(name) for name in self.reader.names}
        self.begun = bool(found) or not not_begun(header)
        self.grown = self.begun and require_optimizer(found, self.kept, self.where)

    def slot(self, name: str) -> tuple[Factors, list[Tensor]]:
        """A parameter's factors and ages."""
        shape = self.kept[name].shape
        if not self.grown:
            return Factors(), [torch.full((size,), self.step) for size in shape]
        keys = ["factors", *(f"age.{axis}" for axis in range(len(shape)))]
        held = {f"{PART}{name}/{key}": self.reader.tensor(f"{name}/{key}") for key in keys}
        return read_slot(held, name, self.where)


@dataclass(frozen=True)
class GrownState:
    """The optimizer's part of the grown state, tensor by tensor.

    Attributes:
        chosen: the growth of the model.
        old: the small state.
    """

    chosen: Plan
    old: _OldState

    def specs(self) -> list[Spec]:
        """The moments of every parameter, as they are stored in the small state."""
        growth, specs = self.chosen.growth, []
        for name in self.names():
            source = growth.source(name)
            for moment in self.moments(name):
                begun = self.old.begun
                kind = self.old.reader.dtype(f"{source}/{moment}") if begun else None
                dtype = NAMES[kind or growth.reader.dtype(source)]
                specs.append(Spec(f"{PART}{name}/{moment}", dtype, growth.new.shape(name)))
        return specs

    def moments(self, name: str) -> dict[str, int]:
        """What is remembered of a parameter, with the power of the gradient in it."""
        return moments(self.old.optimizer, self.chosen.growth.new, name)

    def names(self) -> list[str]:
        """The parameters of the grown model."""
        new = self.chosen.growth.new
        return [name for name in self.chosen.names() if not new.is_frozen(name)]

    def small_tensors(self) -> dict[str, Tensor]:
        """Factors and ages of every parameter."""
        out: dict[str, Tensor] = {}
        for name in self.names():
            out |= slot_tensors(name, *self._slot(name))
        return out

    def _slot(self, name: str) -> tuple[Factors, tuple[Tensor, ...]]:
        growth = self.chosen.growth
        new = tuple(torch.zeros(size, dtype=torch.int64) for size in growth.new.shape(name))
        carry = _carry(self.chosen, name)
        if carry is None:
            return Factors(), new
        was, ages = self.old.slot(growth.source(name))
        now = rule(growth, name, carry, self.old.optimizer).factors
        both = Factors(was.lr * now.lr, was.eps * now.eps, was.decay * now.decay)
        if growth.source(name) != name:
            return both, new
        maps = growth.maps(name, carry.along)
        return both, tuple(
            torch.where(found < 0, 0, age[found.clamp(min=0)])
            for found, age in zip(maps, ages, strict=True)
        )

    def rows(self, name: str, moment: str, start: int, stop: int) -> Tensor:
        """Rows of a moment: the old values times a power of the gradient's factor."""
        growth = self.chosen.growth
        carry = _carry(self.chosen, name)
        if carry is None or growth.source(name) != name or not self.old.begun:
            return torch.zeros(stop - start, *growth.new.shape(name)[1:])
        gradient = rule(growth, name, carry, self.old.optimizer).gradient
        scale = gradient ** self.moments(name)[moment]
        maps = growth.maps(name, carry.along)
        return gather(self.old.reader, f"{name}/{moment}", maps, start, stop) * scale


def _carry(chosen: Plan, name: str) -> Carry | None:
    """How a tensor is carried, or None under an operator without a rule."""
    operator = chosen.operator
    return operator.carry(chosen.growth, name) if isinstance(operator, StatefulOperator) else None


def grow_state(
    path: Path, out: Path, make_plan: Callable[[Reader], Plan], proving: Proving = PROVE
) -> tuple[Plan, Proof | None, str]:
    """Grow a training state into another, from which `train --from` goes on.

    Args:
        path: the small state, `NAME.resume.st`.
        out: where the grown one goes; it appears only when the proof of its model holds.
        make_plan: decides what to do, from a reader of the small model.
        proving: how the written file's model is compared with the small one.

    Returns:
        what was done, what the proof found or None, and the file's digest.

    Raises:
        XtoolError: a state with missing or misshapen tensors, or no space.
        UsageError: see `surgery.plan.plan`.
        CheckFailed: an exact operator that was not exact on the written file.
    """
    with Source(path) as source:
        header = source.require_header("resume")
        _require_one_model(header, path)
        reader = state_reader(source)
        old = _OldState(source, reader)
        chosen = make_plan(reader)
        state = GrownState(chosen, old)
        small = state.small_tensors()
        specs = chosen.specs("model/") + state.specs()
        specs += [Spec(name, NAMES[one.dtype], tuple(one.shape)) for name, one in small.items()]
        found: list[Proof] = []

        def prove(temporary: Path) -> None:
            with Source(temporary) as written:
                found.append(proving.compare(reader, state_reader(written), chosen))

        digest = save_streamed(
            out,
            _grown_header(header, chosen),
            specs,
            partial(_rows, state, small),
            prove=prove if proving.wanted else None,
        )
    return chosen, found[0] if found else None, digest


def _require_one_model(header: Header, path: Path) -> None:
    if REPLICAS in header.config:
        raise XtoolError(
            f"{path}: the state of several replicas does not grow",
            "grow the model of the finished run, or train the replicas one by one",
        )


def _rows(
    state: GrownState, small: Mapping[str, Tensor], name: str, start: int, stop: int
) -> Tensor:
    """Rows of a tensor of the grown file: a small one, the model's or a moment."""
    if name in small:
        return small[name][start:stop]
    if name.startswith("model/"):
        return state.chosen.rows(name.removeprefix("model/"), start, stop)
    owner, _, moment = name.removeprefix(PART).rpartition("/")
    return state.rows(owner, moment, start, stop)


def _grown_header(header: Header, chosen: Plan) -> Header:
    """That of a state no run has gone on from yet: its own progress and position are zero."""
    at = header.training["position"]["step"]
    grown = grown_header(header, chosen, "state", at_step=at)
    return grown.model_copy(update={"training": {**grown.training, "position": START}})


def notes_on(chosen: Plan, header: Header) -> list[str]:
    """What became of the optimizer's state, and where its growth is not exact."""
    if not isinstance(chosen.operator, StatefulOperator):
        return [f"optimizer: starts anew, `{chosen.method}` has no rule for its state"]
    out = [f"optimizer: moments, counters and factors grown by the rule of `{chosen.method}`"]
    if chosen.growth.regroups:
        out.append("heads of keys became several: their moments are copied, which is not exact")
    if header.training.get("dials", {}).get("ema"):
        out.append("the running average of the weights is left behind: a run begins its own")
    if header.training.get("dials", {}).get("clip"):
        out.append("`--clip` was set: it acts on the norm of all gradients, which growing changes")
    return out
