"""How fast a looped model trains beside the code of its authors, on a CPU.

    python benchmarks/looped.py PATH-TO-LOOPED-TRANSFORMER [--shape small] [--rounds 3] [--compile]

PATH is a copy of github.com/Leiay/looped_transformer: its model, sampler, loss, Adam and gradient
norm are used as its `train.py` does, without the logging. Ours is the command `xtool train`. Both
run in processes of their own, in turn, the order reversed every other round; as many steps come
before the clock starts as are timed. A ratio is our seconds over theirs, taken inside a round.
Memory is the peak of a process.
"""

import argparse
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median

from _process import child, peak, say

SHAPES = {
    "small": {"d_model": 64, "n_heads": 4, "n_loops": 20, "loss_loops": 10},
    "large": {"d_model": 256, "n_heads": 8, "n_loops": 20, "loss_loops": 15},
}
STEPS = {"small": 20, "large": 4}
DIMS, POINTS, BATCH = 10, 31, 64


def theirs(path: str, shape: str, steps: int) -> None:
    """Train their model and print seconds, mean loss and peak memory."""
    import time
    from types import SimpleNamespace

    import torch

    sys.path.insert(0, str(Path(path) / "scripts"))
    from models import build_model
    from tasks import get_task_sampler

    dials = SHAPES[shape]
    torch.manual_seed(0)
    model = build_model(
        SimpleNamespace(
            family="gpt2_loop",
            n_dims=DIMS,
            n_positions=101,
            n_embd=dials["d_model"],
            n_layer=1,
            n_head=dials["n_heads"],
            loop_func="z=f(x+z)",
            pred_type="regression",
        )
    ).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    loops, first = dials["n_loops"], dials["n_loops"] - dials["loss_loops"]
    losses, began = [], 0.0
    for step in range(2 * steps):
        if step == steps:
            began = time.perf_counter()
        sampler = get_task_sampler("linear_regression", BATCH, POINTS, DIMS, DIMS, "cpu")
        task = sampler()
        xs, ys = task.xs.float(), task.ys.float()
        found = torch.cat(model(xs, ys, first, loops))
        loss = (torch.cat([ys] * dials["loss_loops"]) - found).square().mean()
        loss.backward()
        optimizer.step()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.data.norm(2).item()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    say(time.perf_counter() - began, float(torch.stack(losses[steps:]).mean()), peak())


def ours(data: str, out: str, shape: str, steps: int, compiled: bool) -> None:
    """Run `xtool train` and print seconds, mean loss and peak memory."""
    from xtool.cli import make_app

    dials = [f"--{name.replace('_', '-')}={value}" for name, value in SHAPES[shape].items()]
    dials += ["--arch=looped", "--bias=all", "--lr=1e-4", "--schedule=constant", "--device=cpu"]
    dials += [f"--steps={2 * steps}", f"--eval-every={steps}", f"--batch-size={BATCH}", "--watch"]
    dials += ["--compile"] if compiled else []
    sys.argv = ["xtool", "train", data, "-o", out, *dials, "-q"]
    make_app()(standalone_mode=False)
    lines = Path(out).with_suffix(".rows.jsonl").read_text().splitlines()
    rows = [one for one in map(json.loads, lines) if one["step"] == 2 * steps]
    found = {one["metric"]: one["value"] for one in rows if one.get("split") == "train"}
    say(BATCH * 2 * POINTS * steps / found["tokens_per_second"], found["loss"], peak())


def compare(given: argparse.Namespace, shape: str, folder: Path) -> None:
    """Rounds of both on one shape; prints a line a round and the medians."""
    steps, data = STEPS[shape], str(folder / "data.st")
    found: dict[str, list[tuple[float, ...]]] = {"theirs": [], "ours": []}
    for number in range(given.rounds):
        for who in ("theirs", "ours") if number % 2 == 0 else ("ours", "theirs"):
            own = [given.path] if who == "theirs" else [data, folder / f"{shape}-{number}.st"]
            more = [int(given.compile)] if who == "ours" else []
            found[who].append(child(__file__, who, *own, shape, steps, *more))
        pair = [found[who][-1] for who in ("ours", "theirs")]
        print(
            f"{shape}, round {number}: {1e3 * pair[0][0] / steps:.0f} ms a step, theirs "
            f"{1e3 * pair[1][0] / steps:.0f}; ratio {pair[0][0] / pair[1][0]:.2f}; "
            f"loss {pair[0][1]:.3f}, {pair[1][1]:.3f}",
            flush=True,
        )
    pairs = list(zip(found["ours"], found["theirs"], strict=True))
    print(
        f"{shape}: {median(a[0] / b[0] for a, b in pairs):.2f} of their time, "
        f"{median(a[2] / b[2] for a, b in pairs):.2f} of their memory"
    )


def main() -> None:
    """Compare, or be one of the processes."""
    if sys.argv[1:2] == ["--child"]:
        who, *own = sys.argv[2:]
        with redirect_stdout(sys.stderr):
            if who == "theirs":
                theirs(own[0], own[1], int(own[2]))
            else:
                ours(own[0], own[1], own[2], int(own[3]), own[4] == "1")
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", help="a copy of github.com/Leiay/looped_transformer")
    parser.add_argument("--shape", choices=list(SHAPES), nargs="+", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    from xtool.config import options, resolve
    from xtool.tasks import make_data

    with tempfile.TemporaryDirectory() as folder:
        dials = resolve(options("tasks", "regression"), [("", {"dev_size": 64, "test_size": 8})])
        make_data(Path(folder, "data.st"), "regression", "drawn", {}, dials, 0)
        for shape in given.shape:
            compare(given, shape, Path(folder))


if __name__ == "__main__":
    main()
