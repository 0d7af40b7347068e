"""A timed program in a process of its own, and what it says at its end."""

import json
import resource
import subprocess
import sys

UNIT = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, kilobytes on Linux


def peak() -> int:
    """The peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def say(*numbers: float) -> None:
    """Print what a child found."""
    print(json.dumps(numbers), file=sys.__stdout__)


def child(script: str, *arguments: object) -> tuple[float, ...]:
    """The numbers that a child says; it is the script with `--child` and the arguments."""
    command = [sys.executable, script, "--child", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return tuple(json.loads(done.stdout))
