"""What a nested model costs: a size beside its twin in speed, and slicing a large file in memory.

    python benchmarks/nested.py [--rounds 15] [--gb 2] [--folder /tmp]

Speed is that of a forward pass over 16 examples of 64 positions, on one thread, in interleaved
rounds: of a twin that was built at the size, of the file that `slice` writes, and of the parent in
that size, whose weights are views bound anew for every pass. Ratios are to the twin's median.
Memory is the peak of `xtool slice` in a process of its own that cuts a file of `--gb` gigabytes to
an eighth of its parameters, digest and proof included.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from _process import child, peak, say
from grow import make

WIDTH, PART = 64, 16


def speeds(rounds: int, folder: Path) -> None:
    """Print the ratios of each size."""
    import torch

    from xtool.archs import Child, build, read_model, sized, start
    from xtool.axes import layout
    from xtool.checkpoint import save
    from xtool.config import model_options, resolve
    from xtool.header import Header
    from xtool.registry import load
    from xtool.surgery.slice import slice_model
    from xtool.tasks import Shape

    torch.set_num_threads(1)
    given = {"d_model": WIDTH, "norm": "rmsnorm", "tied_head": True, "nest": "d_model=16,32,64"}
    given["nest_gain"] = "shared"
    dials = resolve(model_options("gpt", "plain"), [("", given)])
    config = load("archs", "gpt").configure({"arch": "gpt", **dials}, Shape(65, 64, 65))
    model = build(config).eval()
    start(model, layout(config), 0)
    state = {n: t for n, t in model.state_dict().items() if n != "head.weight"}
    save(folder / "parent.st", Header(kind="model", config=config), state)
    inputs = torch.randint(65, (16, 64))
    for width in (16, 32):
        changes = {"d_model": width}
        slice_model(folder / "parent.st", folder / f"{width}.st", changes)
        twin = build(sized(config, changes)).eval()
        start(twin, layout(sized(config, changes)), 1)
        inside = Child(model, config, changes)
        cut = read_model(folder / f"{width}.st")[2].eval()
        ways = {
            "twin": lambda twin=twin: twin(inputs),
            "slice": lambda cut=cut: cut(inputs),
            "parent": lambda inside=inside: inside.bind()(inputs),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        with torch.inference_mode():
            for number in range(rounds + 3):
                for name, run in ways.items():
                    began = perf_counter()
                    for _ in range(5):
                        run()
                    if number >= 3:
                        times[name].append((perf_counter() - began) / 5)
        own = median(times["twin"])
        print(
            f"width {width}: twin {own * 1e3:.2f} ms, slice {own / median(times['slice']):.2f} of "
            f"its speed, parent in that size {own / median(times['parent']):.2f}"
        )


def memory(gigabytes: float, folder: Path) -> None:
    """Print the peak of slicing a large file."""
    width = 2048
    layers = max(1, round(gigabytes * 1e9 / (4 * 12 * width**2)))
    path = folder / "large.st"
    make(path, width, layers)
    found = child(__file__, path, folder / "small.st")
    large, small = (os.path.getsize(folder / name) for name in ("large.st", "small.st"))
    print(
        f"{large / 1e9:.2f} GB cut to {small / 1e9:.2f} GB: peak {found[0] / 1e6:.0f} MB, "
        f"{found[1]:.1f} s"
    )


def sliced(path: Path, out: Path) -> None:
    """In the child: slice to an eighth of the bytes or less."""
    from xtool.surgery.slice import slice_model

    began = perf_counter()
    slice_model(path, out, {"d_model": 2048 * 9 // 32})
    say(peak(), perf_counter() - began)


def main() -> None:
    """Parse the command line and run both."""
    if sys.argv[1:2] == ["--child"]:
        sliced(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        speeds(args.rounds, Path(name))
        if args.gb:
            memory(args.gb, Path(name))


if __name__ == "__main__":
    main()
