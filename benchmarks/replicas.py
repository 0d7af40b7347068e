"""How much faster R replicas train as one batch than one after another, on the counting task.

    python benchmarks/replicas.py [--replicas 8] [--rounds 3] [--steps 300]

Both sides run the same loop, evaluation and files included, in turn within each round; a ratio is
taken inside its round, so what else the machine does hurts both.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from xtool.config import model_options, options, resolve
from xtool.dataset import Dataset
from xtool.rows import Row
from xtool.tasks import make_data, open_data
from xtool.training.configs import fresh_config, preset
from xtool.training.dials import REPORT, RESULT
from xtool.training.loop import train
from xtool.training.setup import set_up


class Silent:
    """A listener that says nothing."""

    def stepped(self, step: int, loss: float | None) -> None: ...
    def evaluated(self, rows: list[Row]) -> None: ...
    def note(self, text: str) -> None: ...


def seconds(data: Dataset, out: Path, d_model: int, **asked: int) -> float:
    """The time of one run."""
    ready = preset("gpt", "counting", d_model)
    dials = resolve(RESULT + REPORT, [("", {**asked, "batch_size": 16, "lr": 1e-4})])
    dials["epochs"] = None
    config = fresh_config(
        "gpt", resolve(model_options("gpt"), [("", {**ready, "d_model": d_model})]), data.header
    )
    run = set_up(data, None, config, dials, out)
    began = time.perf_counter()
    train(run, Silent())
    return time.perf_counter() - began


def main() -> None:
    """Print a line a round, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--d-model", type=int, nargs="+", default=[48, 96, 192])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_data(place / "data.st", "counting", "builtin", {}, _dials(), 0)
        data = open_data(place / "data.st")
        for d_model in asked.d_model:
            ratios = []
            for number in range(asked.rounds):
                common = {"steps": asked.steps, "d_model": d_model, "threads": asked.threads}
                alone = sum(
                    seconds(data, place / f"{number}-{seed}.st", seed=seed, **common)
                    for seed in range(asked.replicas)
                )
                together = seconds(
                    data, place / f"{number}.st", seed=0, replicas=asked.replicas, **common
                )
                ratios.append(alone / together)
                print(
                    f"d_model {d_model}, round {number}: {asked.replicas} one after another "
                    f"{alone:.2f} s, as one batch {together:.2f} s, ratio {ratios[-1]:.2f}"
                )
            print(f"d_model {d_model}: median ratio {statistics.median(ratios):.2f}")


def _dials() -> dict[str, object]:
    return resolve(options("tasks", "counting"), [])


if __name__ == "__main__":
    main()
