"""TensorBoard's scalars are the rows of the run."""

import json
import sys
import time
from pathlib import Path

import pytest
from conftest import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xtool.commands._tensorboard import TensorBoard
from xtool.rows import Row, row


class Told:
    def __init__(self) -> None:
        self.rows: list[Row] = []

    def stepped(self, step: int, loss: float | None) -> None: ...
    def note(self, text: str) -> None: ...
    def evaluated(self, rows: list[Row]) -> None:
        self.rows += rows


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("replicas", [1, 2])
def test_tensorboard_has_the_rows(data: Path, xtool: Run, tmp_path: Path, replicas: int) -> None:
    flags = ["--steps", 4, "--eval-every", 2, "--watch", "--log", "tensorboard", "--d-model", 8]
    (tmp_path / "m.tensorboard").mkdir()
    (tmp_path / "m.tensorboard" / "events.out.tfevents.1.old").write_text("an earlier run")
    done = xtool("train", data, *flags, "--replicas", replicas, "--quiet", "-o", "m.st")
    assert done.code == 0, done.err
    for seed in range(replicas):
        folder = tmp_path / "m.tensorboard" / (f"seed-{seed}" if replicas > 1 else "")
        found = scalars(folder)
        wanted: dict[str, list[tuple[int, float]]] = {}
        for line in (tmp_path / "m.rows.jsonl").read_text().splitlines():
            one = json.loads(line)
            if one["metric"] != "train_seconds" and one["seed"] == seed:
                tag = f"{one['metric']}/{one.get('part') or one['split']}"
                wanted.setdefault(tag, []).append((one["step"], pytest.approx(one["value"])))
        assert found == wanted
        assert {"loss/dev", "gradient_norm/blocks.0"} <= set(found)


def test_tensorboard_hides_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    told = Told()
    for begin, value in [(0, 1.0), (2, 2.0)]:
        with TensorBoard(told, tmp_path / "m.st", begin) as log:
            for step in (2, 4):
                if step > begin:
                    log.evaluated([row(split="dev", metric="loss", value=value, step=step)])
        time.sleep(1.1)  # names of event files differ by the second
    assert scalars(tmp_path / "m.tensorboard") == {"loss/dev": [(2, 1.0), (4, 2.0)]}
    assert [one["value"] for one in told.rows] == [1.0, 1.0, 2.0]


def test_tensorboard_missing_is_one_line(
    data: Path, xtool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = xtool("train", data, "--steps", 1, "--log", "tensorboard", "-q", "-o", "m.st")
    assert done.code == 2
    assert "pip install 'xtool[tensorboard]'" in done.err
