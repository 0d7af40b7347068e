"""How fast and how small `xtool grow` is, against a plain copy of as many bytes.

    python benchmarks/grow.py [--rounds 5] [--width 768] [--gb 5] [--folder /tmp]

A random llama-shaped model of 125M float32 parameters (at `--width` 768) is doubled in width by
`clone`, and compared with a plain streaming read of the source and write of as many bytes as the
grown model has (blocks of 4 MiB, fsync of file and folder). Both run in interleaved rounds, each in
a process of its own that times itself, so imports are aside; so is the proof, which runs the models
(the last line runs the whole command, with both). Memory is a process's peak less that of one that
only imports what grow imports. With `--gb`, a model of that many gigabytes is grown once more.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

BLOCK = 4 << 20
SYMBOLS = 26_000
MEGABYTE = 1e6


def import_all() -> None:
    """What grow imports, so that it counts neither as time nor as memory."""
    from xtool import registry

    for folder, name in [("archs", "gpt"), ("surgery/operators", "clone")]:
        registry.load(folder, name)


def make(path: Path, width: int, layers: int) -> None:
    """Write a random model, streamed."""
    import torch

    from xtool import registry
    from xtool.archs import build, stored_names
    from xtool.axes import layout
    from xtool.checkpoint import save_streamed
    from xtool.config import model_options, resolve
    from xtool.header import Header
    from xtool.layers.initial import initial
    from xtool.storage import Spec
    from xtool.tasks import Shape

    dials = {
        "d_model": width,
        "n_layers": layers,
        "n_heads": width // 64,
        "d_ff": width * 8 // 3,
        "norm": "rmsnorm",
        "activation": "swiglu",
        "positions": "none",
    }
    given = resolve(model_options("gpt", None), [("benchmark", dials)])
    shape = Shape(SYMBOLS, 64, SYMBOLS)
    config = registry.load("archs", "gpt").configure({"arch": "gpt", **given}, shape)
    ours = layout(config)
    with torch.device("meta"):
        names = stored_names(build(config), ours)
    save_streamed(
        path,
        Header(kind="model", config=config),
        [Spec(name, "F32", ours.shape(name)) for name in names],
        lambda name, start, stop: initial(ours, name, 0, start, stop),
    )


def grow(path: Path, out: Path, noise: bool) -> None:
    """What `xtool grow --method clone` does, without the proof."""
    from xtool.checkpoint import NAMES, model_reader, save_streamed
    from xtool.storage import Source, Spec
    from xtool.surgery.grow import plan

    dials = {"noise": noise, "noise_db": 10.0}
    with Source(path) as source:
        reader = model_reader(source)
        header = source.require_header("model")
        chosen = plan(reader, {"d_model": 2 * header.config["d_model"]}, "clone", dials, 0)
        new = chosen.growth.new
        specs = [Spec(n, NAMES[reader.dtype(n)], new.shape(n)) for n in chosen.names()]
        header = header.model_copy(update={"config": dict(new.config)})
        save_streamed(out, header, specs, chosen.rows)


def copy(path: Path, out: Path, size: int) -> None:
    """Read the source once, write `size` bytes, fsync file and folder."""
    block, written = bytearray(BLOCK), 0
    times = -(-size // path.stat().st_size)
    with open(path, "rb", buffering=0) as source, open(out, "wb", buffering=0) as target:
        while length := source.readinto(block):
            for _ in range(times):
                written += target.write(memoryview(block)[: min(length, size - written)])
        os.fsync(target.fileno())
    folder = os.open(out.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    assert written == size


def child(what: str, *arguments: str) -> None:
    """Do one thing and print its seconds and this process's peak memory in bytes."""
    work = {
        "imports": lambda: None,
        "make": lambda path, width, layers: make(Path(path), int(width), int(layers)),
        "clone": lambda path, out: grow(Path(path), Path(out), True),
        "clone --no-noise": lambda path, out: grow(Path(path), Path(out), False),
        "copy": lambda path, out, size: copy(Path(path), Path(out), int(size)),
    }[what]
    if what != "copy":
        import_all()
    began = time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([seconds, peak * (1 if sys.platform == "darwin" else 1024)]))


def run(what: str, *arguments: object) -> tuple[float, float]:
    """A child's seconds and peak memory."""
    command = [sys.executable, __file__, "--child", what, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def compare(path: Path, rounds: int, kinds: list[str]) -> None:
    """Interleaved rounds on one source; prints a line for each kind."""
    out = path.with_name("out.st")
    run("clone", path, out)
    size = out.stat().st_size
    out.unlink()
    base = run("imports")[1]
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            found[kind].append(run(kind, path, out, *([size] if kind == "copy" else [])))
            out.unlink()
    floor = median(seconds for seconds, _ in found["copy"])
    print(f"{path.stat().st_size / 1e9:.2f} GB to {size / 1e9:.2f} GB; imports {base / 1e6:.0f} MB")
    for kind in kinds:
        seconds = sorted(one for one, _ in found[kind])
        peak = max(peak for _, peak in found[kind])
        beyond = "" if kind == "copy" else f", {(peak - base) / MEGABYTE:.0f} MB beyond imports"
        print(
            f"{kind}: median {median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}), "
            f"ratio {median(seconds) / floor:.2f}{beyond}",
            flush=True,
        )


def main() -> None:
    """Make the models, compare, and run the whole command once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each")
    parser.add_argument(
        "--width", type=int, default=768, help="d_model of the model with 12 layers"
    )
    parser.add_argument("--gb", type=float, default=0, help="also one of so many gigabytes")
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(*given.child)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "small.st"
        run("make", path, given.width, 12)
        compare(path, given.rounds, ["copy", "clone", "clone --no-noise"])


if __name__ == "__main__":
    main()
