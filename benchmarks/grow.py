"""How fast `xtool grow` is, and how much memory it takes, against a plain copy of as many bytes.

    python benchmarks/grow.py [--rounds 5] [--width 768] [--gb 5] [--folder /tmp]

A random llama-shaped model of 12 layers (125M float32 parameters at `--width` 768) is doubled in
width by `clone`, and compared with a plain streaming read of the source and write of as many bytes
as the grown model has: blocks of 4 MiB, fsync of file and folder, nothing else. The kinds run in
interleaved rounds, each in a process of its own that times itself, so imports are aside; so is the
proof, which runs both models. Before its clock starts, a process imports what growing imports, and
writes and removes a file of up to 4 GB, so that the kernel has memory at hand for the next: a
virtual machine that gave it back to its host waits for every page. Processor seconds, of all
threads and the kernel, stand beside those of the clock, since others on the machine lengthen these.
Memory is a process's peak less that of one that only imports. The whole command, with imports and
proof, is run once at the end; `--gb` adds one round, and the whole command, with a model of 2048
columns and so many gigabytes.
"""

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from _process import UNIT, child, peak, say

BLOCK = 4 << 20
SYMBOLS = 26_000
KINDS = ["clone", "clone --no-noise", "copy"]


def import_all() -> None:
    """What growing imports, so that it counts neither as time nor as memory."""
    from xtool import registry

    importlib.import_module("xtool.surgery.grow")
    for folder, name in [
        ("archs", "gpt"),
        ("layers/attention", "plain"),
        ("surgery/operators", "clone"),
    ]:
        registry.load(folder, name)


def make(path: Path, width: int, layers: int) -> None:
    """Write a random model, streamed."""
    from xtool import registry
    from xtool.archs import empty, stored_names
    from xtool.axes import layout
    from xtool.checkpoint import save_streamed
    from xtool.config import model_options, resolve
    from xtool.header import Header
    from xtool.layers.initial import initial
    from xtool.tasks import Shape
    from xtool.writing import Spec

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
    names = stored_names(empty(config), ours)
    save_streamed(
        path,
        Header(kind="model", config=config),
        [Spec(name, "F32", ours.shape(name)) for name in names],
        lambda name, start, stop: initial(ours, name, 0, start, stop),
    )


def grow(path: Path, out: Path, noise: bool) -> None:
    """What `xtool grow --method clone` does, without the proof."""
    from xtool.checkpoint import Reader
    from xtool.surgery.grow import Proving
    from xtool.surgery.grow import grow as grow_file
    from xtool.surgery.plan import Plan, plan

    def make_plan(reader: Reader) -> Plan:
        dials = {"noise": noise, "noise_db": 10.0}
        width = reader.source.require_header().config["d_model"]
        return plan(reader, {"d_model": 2 * width}, "clone", dials, 0)

    grow_file(path, out, make_plan, Proving(wanted=False))


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


def warm(path: Path) -> None:
    """Write a file of about the grown one's size, at most 4 GB, and remove it."""
    with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:
        for _ in range(min(7 * path.stat().st_size // 2, 4 << 30) // BLOCK):
            file.write(bytes(BLOCK))


def timed(what: str, *arguments: str) -> None:
    """Do one thing and print its seconds, those of the processor, and the peak memory in bytes."""
    kinds: dict[str, Callable[..., None]] = {
        "imports": lambda: None,
        "make": lambda path, width, layers: make(Path(path), int(width), int(layers)),
        "clone": lambda path, out: grow(Path(path), Path(out), True),
        "clone --no-noise": lambda path, out: grow(Path(path), Path(out), False),
        "copy": lambda path, out, size: copy(Path(path), Path(out), int(size)),
    }
    import_all()
    if what in KINDS:
        warm(Path(arguments[0]))
    began, busy = time.perf_counter(), time.process_time()
    kinds[what](*arguments)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    say(seconds, busy, peak())


def compare(path: Path, rounds: int) -> None:
    """Interleaved rounds on one source; prints a line for each kind."""
    out = path.with_name("out.st")
    found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
    base, size = child(__file__, "imports")[2], 0
    for _ in range(rounds):
        for kind in KINDS:
            more = [size] if kind == "copy" else []
            found[kind].append(child(__file__, kind, path, out, *more))
            size = out.stat().st_size
            out.unlink()
    floor = median(one[0] for one in found["copy"])
    print(f"{path.stat().st_size / 1e9:.2f} GB to {size / 1e9:.2f} GB, {rounds} rounds")
    for kind in KINDS:
        seconds = sorted(one[0] for one in found[kind])
        busy, most = median(one[1] for one in found[kind]), max(one[2] for one in found[kind])
        beyond = "" if kind == "copy" else f", {(most - base) / 1e6:.0f} MB beyond imports"
        print(
            f"  {kind}: median {median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}), "
            f"{median(seconds) / floor:.2f} of the copy, "
            f"processor {busy:.2f} s{beyond}",
            flush=True,
        )


def whole_command(path: Path, width: int) -> None:
    """Run `xtool grow`, proof and all."""
    command = [sys.executable, "-m", "xtool", "grow", str(path), "--method", "clone"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--to", str(width), "-o", str(path.with_name("out.st"))])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    most = usage.ru_maxrss * UNIT / 1e6
    print(f"whole command: exit {status}, {seconds:.1f} s, {most:.0f} MB with imports", flush=True)
    path.with_name("out.st").unlink()


def main() -> None:
    """Make the models, compare, and run the whole command once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each kind")
    parser.add_argument("--width", type=int, default=768, help="d_model of the model of 12 layers")
    parser.add_argument("--gb", type=float, help="also a model of so many gigabytes, one round")
    parser.add_argument("--folder", type=Path, help="where the temporary files go")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        timed(*given.child)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "small.st"
        child(__file__, "make", path, given.width, 12)
        compare(path, given.rounds)
        whole_command(path, 2 * given.width)
        if given.gb:
            layers = round((given.gb * 1e9 / 4 - 2 * SYMBOLS * 2048) / (12 * 2048**2))
            path.unlink()
            child(__file__, "make", path, 2048, layers)
            compare(path, 1)
            whole_command(path, 4096)


if __name__ == "__main__":
    main()
