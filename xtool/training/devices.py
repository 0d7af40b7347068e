"""Where a run computes: the device and its threads."""

import os

import torch

from xtool.errors import UsageError, XtoolError, unknown

DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_THREADS = 1024


def device_of(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        UsageError: another name.
        XtoolError: this machine or this build of torch has none.
    """
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in usable.items() if there), "cpu")
    if not usable.get(name, True):
        raise XtoolError(f"no `{name}` device can be used here", "use `--device auto`")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def threads_of(wanted: int | None) -> int:
    """Set the number of CPU threads, and return it.

    Raises:
        UsageError: not a number of threads.
    """
    if wanted is not None:
        if not 1 <= wanted <= MAX_THREADS:
            raise UsageError(f"`--threads` is {wanted}, it must be 1 to {MAX_THREADS}")
        torch.set_num_threads(wanted)
    return torch.get_num_threads()
