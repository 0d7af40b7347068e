"""Growing: a small trained model becomes a larger one by a plan, streamed and proved."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtool.archs import open_model
from xtool.axes import REPLICAS, SIZES
from xtool.checkpoint import Reader, save_streamed
from xtool.dataset import Dataset
from xtool.header import Header, Training
from xtool.lineage import step
from xtool.storage import Source
from xtool.surgery.plan import Plan
from xtool.surgery.proof import Proof, compare, require_exact


@dataclass(frozen=True)
class Proving:
    """How a growth is proved: its own relative tolerance, or on data too; or not at all."""

    wanted: bool = True
    tolerance: float | None = None
    data: Dataset | None = None

    def compare(self, small: Reader, grown: Reader, chosen: Plan) -> Proof:
        """Small and grown model on the same inputs.

        Raises:
            CheckFailed: an exact operator that was not exact.
        """
        found = compare(small, grown, chosen.growth.seed, self.tolerance, self.data)
        if chosen.exact:
            require_exact(found, chosen.method)
        return found


PROVE = Proving()


def grow(
    path: Path, out: Path, make_plan: Callable[[Reader], Plan], proving: Proving = PROVE
) -> tuple[Plan, Proof | None, str]:
    """Grow a model file into another.

    Args:
        path: the small model.
        out: where the grown one goes; it appears only when its proof holds.
        make_plan: decides what to do, from a reader of the small model; called for each replica.
        proving: how the written file is compared with the small model.

    Returns:
        what was done, what the proof found on the written file or None, and its digest; of several
        replicas the first one's plan and the worst proof.

    Raises:
        XtoolError: an unreadable model, or no space.
        UsageError: see `plan`.
        CheckFailed: an exact operator that was not exact on the written file.
    """
    with Source(path) as source:
        header = source.require_header("model")
        count = header.replicas
        readers = [open_model(source, verify=not i, replica=i) for i in range(count)]
        plans = [make_plan(reader) for reader in readers]
        chosen = plans[0]
        new_header = grown_header(header, chosen, "model")
        found: list[Proof] = []

        def prove(temporary: Path) -> None:
            with Source(temporary) as written:
                for replica, (small, one) in enumerate(zip(readers, plans, strict=True)):
                    grown = open_model(written, verify=not replica, replica=replica)
                    found.append(proving.compare(small, grown, one))

        rows = [one.rows for one in plans]
        digest = save_streamed(
            out, new_header, chosen.specs(), *rows, prove=prove if proving.wanted else None
        )
    worst = max(found, key=lambda proof: proof.difference / proof.tolerance, default=None)
    return chosen, worst, digest


def grown_header(header: Header, chosen: Plan, role: str, **options: Any) -> Header:
    """The header of the grown file.

    Args:
        header: of the small one.
        chosen: what is done.
        role: what the small file is called among the inputs.
        options: what the lineage keeps beside method, sizes and dials.
    """
    growth, fit = chosen.growth, chosen.fit()
    sizes = {n: growth.new.config[n] for n in SIZES if growth.new.config.get(n)}
    dials = {name: value for name, value in growth.dials.items() if name not in fit.inputs}
    options = {"method": chosen.method, **sizes, **dials, **options}
    done = step("grow", options, {role: header.digest, **fit.inputs}, growth.seed)
    return header.model_copy(
        update={
            "config": dict(growth.new.config) | _replicas(header),
            "lineage": [*header.lineage, done],
            "training": _training(header, fit.flops),
        }
    )


def _replicas(header: Header) -> dict[str, Any]:
    return {name: value for name, value in header.config.items() if name == REPLICAS}


def _training(header: Header, flops: int) -> Training:
    """What the grown model keeps of the small one's training, and the cost of a fit."""
    kept = header.inherited()
    if flops:
        progress = kept.get("progress", {})
        before = progress.get("lineage_flops", 0)
        kept["progress"] = {**progress, "lineage_flops": before + flops}
    return kept
