"""The rows of a run: what an evaluation found, how the steps before it went, what was reached."""

import time

from jaxtyping import Float64
from torch import Tensor, nn

from xtool.archs import count
from xtool.evaluation.score import LOWER_IS_BETTER, columns_of_model, score_rows, scores
from xtool.rows import Row, row
from xtool.training.hierarchy import Hierarchy
from xtool.training.replicas import Replicas
from xtool.training.run import Run
from xtool.training.watch import Watch


class RunRows:
    """Makes the rows of one run, each as the run stands.

    Args:
        run: what is trained.
        who: its replicas.
        seconds: that each of them took before.
        watch: how its steps go, where that is asked for.
        hierarchy: the groups that it learns, if there are any.
    """

    def __init__(
        self,
        run: Run,
        who: Replicas,
        seconds: float,
        watch: Watch | None,
        hierarchy: Hierarchy | None,
    ) -> None:
        self.run, self.replicas, self.device = run, who.count, who.device.type
        self.watch, self.hierarchy = watch, hierarchy
        self.params = count(who.each[0])
        self.began = time.monotonic() - seconds * self.replicas

    def spent(self) -> float:
        """The seconds since the run began, of all replicas together."""
        return time.monotonic() - self.began

    def base(self, replica: int) -> Row:
        """The columns that all rows of one model have now."""
        run = self.run
        return columns_of_model(run.header("model", run.position.step), self.params) | {
            "label": run.dials.get("label") or run.out.name.removesuffix(".st"),
            "seed": run.seeds[replica],
            "replica": replica if self.replicas > 1 else None,
            "seconds": round(self.spent() / self.replicas, 3),
            "device": self.device,
        }

    def evaluated(
        self, replica: int, model: nn.Module, baselines: dict[str, Float64[Tensor, " N"]]
    ) -> list[Row]:
        """Rows of the whole dev split, and of the steps since the last evaluation.

        Args:
            replica: which one.
            model: that replica, as it is kept.
            baselines: what others make of the same N examples, by metric.
        """
        run, at, base = self.run, self.run.position, self.base(replica)
        dev = run.data.split("dev")
        rows = score_rows(scores(model, run.task, dev) | baselines, split="dev", **base)
        if at.loss_count:
            mean = at.loss_sums[replica] / at.loss_count
            rows.append(row(split="train", metric="loss", value=mean, **base))
        rows += self._reached(rows, base)
        if self.hierarchy:
            rows += self.hierarchy.clear(model, dev, base | {"split": "dev"})
        if self.watch and at.loss_count:
            rows += self._watched(self.watch, replica, base | {"split": "train"})
        return rows

    def _reached(self, rows: list[Row], base: Row) -> list[Row]:
        """Rows of the first time that `--reach` held."""
        wish, at = self.run.dials["reach"], self.run.position
        if not wish or at.reached:
            return []
        metric, _, wanted = str(wish).partition("=")
        found = next(one["value"] for one in rows if one["metric"] == metric)
        sign = -1 if metric in LOWER_IS_BETTER else 1
        if sign * found < sign * float(wanted):
            return []
        at.reached = True
        here = {"split": "dev", "reach": wish, **base}
        places = ("step", "epoch", "flops", "lineage_flops")
        return [row(metric=f"reached_{place}", value=base[place], **here) for place in places]

    def _watched(self, watch: Watch, replica: int, base: Row) -> list[Row]:
        """Rows of how the steps since the last evaluation went."""
        run, at = self.run, self.run.position
        spent = {
            "tokens": run.tokens(at.step) - run.tokens(watch.step),
            "flops": run.flops(at.step) - run.flops(watch.step),
        }
        said = {"lr": run.lr(at.step - 1)}
        if run.dials["clip"] > 0:
            said["clipped"] = at.clipped[replica] / at.loss_count
        rows = [row(metric=name, value=value, **base) for name, value in said.items()]
        return rows + watch.rows(replica, spent, base)

    def ended(self, digest: str) -> list[Row]:
        """What each replica took, under the digest of the file that was written."""
        bases = [self.base(replica) for replica in range(self.replicas)]
        return [
            row(metric="train_seconds", value=base["seconds"], digest=digest, **base)
            for base in bases
        ]
