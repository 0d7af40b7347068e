"""How fast `xtool train` is beside nanoGPT on a CPU: the same shape, text, batch and precision.

    python benchmarks/nanogpt.py PATH-TO-NANOGPT [--text FILE] [--shape small] [--rounds 3]

PATH is a copy of github.com/karpathy/nanoGPT, whose model and optimizer are used as they are, in a
loop of the steps of its `train.py`: batches read from a file mapped into memory, forward, backward,
clipping, step, a rate set anew each step. Ours is the command `xtool train`. Both run in processes
of their own, in turn, the order reversed every other round; as many steps come before the clock
starts as are timed, and evaluations are aside. With `--precision bf16` nanoGPT gets autocast, which
its script leaves out on a CPU. Speeds are tokens a second; a ratio is taken inside a round. Losses
are means over the timed steps, from other first values and another order of the text. Memory is the
peak of a process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from statistics import median

from _process import child, peak, say

SHAPES = {
    "small": {"n_layers": 4, "n_heads": 4, "d_model": 128, "context": 64, "batch_size": 12},
    "mid": {"n_layers": 6, "n_heads": 6, "d_model": 384, "context": 256, "batch_size": 8},
}
STEPS = {"small": 100, "mid": 10}
LR, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0


def nanogpt(path: str, tokens: str, shape: str, steps: int, precision: str) -> None:
    """Train nanoGPT's model and print seconds, mean loss and peak memory."""
    import numpy as np
    import torch

    sys.path.insert(0, path)
    from model import GPT, GPTConfig

    dials, data = SHAPES[shape], np.memmap(tokens, dtype=np.uint16, mode="r")
    context, size = dials["context"], dials["batch_size"]
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            block_size=context,
            vocab_size=int(data.max()) + 1,
            n_layer=dials["n_layers"],
            n_head=dials["n_heads"],
            n_embd=dials["d_model"],
            dropout=0.0,
            bias=False,
        )
    )
    optimizer = model.configure_optimizers(DECAY, LR, BETAS, "cpu")
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.randint(len(data) - context, (size,)).tolist()
        windows = [torch.from_numpy(data[at : at + context + 1].astype(np.int64)) for at in places]
        both = torch.stack(windows)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    losses, began = [], 0.0
    inputs, targets = batch()
    for step in range(2 * steps):
        if step == steps:
            began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = LR
        with autocast:
            _, loss = model(inputs, targets)
        inputs, targets = batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    seconds = time.perf_counter() - began
    say(seconds, float(torch.stack(losses[steps:]).mean()), peak())


def ours(data: str, out: str, shape: str, steps: int, precision: str, route: str) -> None:
    """Run `xtool train` and print seconds, mean loss and peak memory."""
    from xtool.cli import make_app

    dials = [f"--{name.replace('_', '-')}={value}" for name, value in SHAPES[shape].items()]
    dials += ["--tied-head", f"--lr={LR}", f"--beta2={BETAS[1]}", f"--weight-decay={DECAY}"]
    dials += [f"--clip={CLIP}", "--schedule=constant", f"--precision={precision}", "--device=cpu"]
    dials += [f"--steps={2 * steps}", f"--eval-every={steps}", f"--route={route}", "--watch"]
    sys.argv = ["xtool", "train", data, "-o", out, *dials, "-q"]
    make_app()(standalone_mode=False)
    lines = Path(out).with_suffix(".rows.jsonl").read_text().splitlines()
    rows = [one for one in map(json.loads, lines) if one["step"] == 2 * steps]
    found = {one["metric"]: one["value"] for one in rows if one.get("split") == "train"}
    size = SHAPES[shape]["batch_size"] * SHAPES[shape]["context"]
    say(size * steps / found["tokens_per_second"], found["loss"], peak())


def compare(given: argparse.Namespace, shape: str, folder: Path) -> None:
    """Rounds of both trainers on one shape; prints a line a round and the medians."""
    steps = STEPS[shape]
    tokens = SHAPES[shape]["batch_size"] * SHAPES[shape]["context"] * steps
    ratios: list[float] = []
    for number in range(given.rounds):
        out = folder / f"{shape}-{number}.st"
        kinds = {
            "nanoGPT": ("nanogpt", given.path, folder / "tokens.bin", shape, steps),
            "xtool": ("ours", folder / "data.st", out, shape, steps),
        }
        order = list(kinds) if number % 2 == 0 else list(kinds)[::-1]
        found = {}
        for kind in order:
            more = (given.precision, given.route) if kind == "xtool" else (given.precision,)
            found[kind] = child(__file__, *kinds[kind], *more)
        theirs, own = found["nanoGPT"], found["xtool"]
        ratios.append(theirs[0] / own[0])
        speeds = [tokens / one[0] for one in (theirs, own)]
        print(
            f"{shape} {given.precision}, round {number}: tokens/s {speeds[0]:,.0f} of nanoGPT, "
            f"{speeds[1]:,.0f} of xtool, ratio {ratios[-1]:.2f}; loss {theirs[1]:.3f}, "
            f"{own[1]:.3f}; peak {theirs[2] / 1e6:.0f} MB, {own[2] / 1e6:.0f} MB "
            f"({own[2] / theirs[2]:.2f})",
            flush=True,
        )
    print(f"{shape} {given.precision}: median ratio {median(ratios):.2f}", flush=True)


def prepare(text: Path | None, folder: Path) -> None:
    """The text as our data file, and its training tokens as nanoGPT reads them."""
    import numpy as np

    from xtool.dataset import read_dataset

    corpus = text or "builtin"
    command = [sys.executable, "-m", "xtool", "prepare", "language", corpus, "-q"]
    subprocess.run(
        [*map(str, command), "--dev-fraction", "0.01", "-o", str(folder / "data.st")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    tokens = read_dataset(folder / "data.st").splits["train"]
    tokens.numpy().astype(np.uint16).tofile(folder / "tokens.bin")


def main() -> None:
    """Prepare the text and compare both on each shape."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", nargs="?", help="a copy of nanoGPT")
    parser.add_argument("--text", type=Path, help="a text file; the builtin corpus by default")
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--route", default="auto", help="of xtool")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        kind, *rest = given.child
        rest[3] = int(rest[3])
        with redirect_stdout(sys.stderr):
            {"nanogpt": nanogpt, "ours": ours}[kind](*rest)
        return
    if not given.path or not (Path(given.path) / "model.py").is_file():
        parser.error("PATH must hold nanoGPT's model.py")
    with tempfile.TemporaryDirectory() as folder:
        prepare(given.text, Path(folder))
        for shape in SHAPES if given.shape == "both" else [given.shape]:
            compare(given, shape, Path(folder))


if __name__ == "__main__":
    main()
