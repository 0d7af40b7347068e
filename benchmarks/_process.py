"""A timed program in a process of its own, and what it says at its end."""

import json
import resource
import subprocess
import sys


def say(seconds: float, loss: float) -> None:
    """Print what a child found, with its peak memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps([seconds, loss, peak * (1 if sys.platform == "darwin" else 1024)]),
        file=sys.__stdout__,
    )


def child(script: str, *arguments: object) -> tuple[float, float, int]:
    """A child's seconds, loss and peak memory in bytes; it is the script with `--child`."""
    command = [sys.executable, script, "--child", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds, loss, peak = json.loads(done.stdout)
    return seconds, loss, peak
