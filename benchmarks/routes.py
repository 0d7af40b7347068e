"""Every route of `xtool train` on one shape, in turn, so that the rule that chooses can be mended.

    python benchmarks/routes.py [--shape small] [--rounds 3] [--text FILE] [--precision fp32]

Tokens a second over the first route's, taken inside a round, the error of the route's products
against float64, and the training loss, which is to be the same. See `xtool/training/routes.py`.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

from nanogpt import SHAPES, STEPS, prepare, run

from xtool.training.routes import ROUTES, error


def main() -> None:
    """Time all routes in interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", type=Path, help="a text file; the builtin corpus by default")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    given = parser.parse_args()
    names = [one for one in ROUTES if given.precision == "fp32" or one.startswith("torch")]
    shape, steps = SHAPES[given.shape], STEPS[given.shape]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.st"
        prepare(given.text, data.parent)
        for number in range(given.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                out = data.with_name(f"{name}-{number}.st")
                found = run("ours", data, out, given.shape, steps, given.precision, name)
                seconds[name].append(found[0])
                losses[name] = found[1]
    tokens = shape["batch_size"] * shape["context"] * steps
    like = {**shape, "vocab_size": 65}
    for name in names:
        ratios = [a / b for a, b in zip(seconds[names[0]], seconds[name], strict=True)]
        print(
            f"{given.shape} {given.precision} {name}: {tokens / median(seconds[name]):,.0f} "
            f"tokens/s, {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of the "
            f"first, error {error(name, like, shape['batch_size']):.1e}, "
            f"loss {losses[name]:.4f}"
        )


if __name__ == "__main__":
    main()
