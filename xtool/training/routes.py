"""Routes: by which matrix library and attention kernel a run computes.

All give their precision's usual error and differ in speed alone, by processor and shape. A fixed
rule chooses, timings never do, so that the same command gives the same bytes;
`benchmarks/routes.py` times them all. On AMD's processors with AVX-512 oneDNN's products take half
as long as MKL's, torch's default. On Intel's with AMX plain products take half to a quarter as long
as torch's fused attention, where the precision is bf16 and prompts are short.

Torch calls oneDNN's setting `bf16`: elsewhere it may truly round, so a short check against float64
rejects a route whose relative error is above 1e-5.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtool.errors import UsageError
from xtool.layers.attention._kernel import FLEX, KERNELS, kernel

ROUTES = tuple(f"{library}+{name}" for library in ("torch", "onednn") for name in KERNELS)
ROUTES += (f"torch+{FLEX}",)
DEFAULT = ROUTES[0]
LARGEST_ERROR = 1e-5
# Positions up to which the plain kernel wins together with oneDNN, or in bf16.
SHORT = 128


def choose(asked: str, device: str, config: Mapping[str, Any], dials: Mapping[str, Any]) -> str:
    """The route of a run.

    Args:
        asked: one of `ROUTES`, or `auto` for the rule.
        device: the kind of device.
        config: the model's configuration.
        dials: of the training run.

    Raises:
        UsageError: an asked route that this machine lacks or that is not exact here.
    """
    wanted = _rule(device, config, dials) if asked == "auto" else asked
    if wanted.endswith(FLEX) and device != "cuda":
        raise UsageError(
            f"`--route {asked}`: FlexAttention trains on a GPU only", "`--device cuda`, or `auto`"
        )
    if not wanted.startswith("onednn"):
        return wanted
    reason = _refusal(wanted, device, config, dials)
    if reason and asked != "auto":
        raise UsageError(f"`--route {asked}`: {reason}", "`--route auto` takes one that fits")
    return DEFAULT if reason else wanted


def _rule(device: str, config: Mapping[str, Any], dials: Mapping[str, Any]) -> str:
    short = config["context"] <= SHORT
    if device != "cpu" or dials["replicas"] > 1:
        return DEFAULT
    if dials["precision"] == "bf16":
        return "torch+plain" if short and _has("amx_bf16") else DEFAULT
    if dials["precision"] != "fp32" or not _zen():
        return DEFAULT
    return "onednn+plain" if short else "onednn+sdpa"


def _zen() -> bool:
    """Whether the processor is AMD's and has AVX-512."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return wide and _has("AuthenticAMD")


@lru_cache
def _has(word: str) -> bool:
    """Whether Linux says so of the processor."""
    try:
        return word in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _refusal(
    route: str, device: str, config: Mapping[str, Any], dials: Mapping[str, Any]
) -> str | None:
    if device != "cpu" or dials["precision"] != "fp32":
        return "oneDNN's products are for `--device cpu` and `--precision fp32`"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this build of torch has no oneDNN"
    found = error(route, config, dials["batch_size"])
    if found <= LARGEST_ERROR:
        return None
    return f"its products have a relative error of {found:.1e} here, at most {LARGEST_ERROR:g}"


def error(route: str, config: Mapping[str, Any], examples: int) -> float:
    """The largest relative error of a route's products of a model's shapes, against float64."""
    width, context = int(config.get("d_model") or config["vocab_size"]), int(config["context"])
    head = int(config.get("d_head") or width)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = min(1024, examples * context)
    inner = config.get("d_ff") or width
    pairs = [
        (random(rows, width), random(width, max(inner) if isinstance(inner, list) else inner)),
        (random(8, context, head), random(8, head, context)),
    ]
    with applied(route):
        found = [a @ b for a, b in pairs]
    wanted = [a.double() @ b.double() for a, b in pairs]
    errors = [(c - w).norm() / w.norm() for c, w in zip(found, wanted, strict=True)]
    return max(map(float, errors))


@contextmanager
def applied(route: str) -> Iterator[None]:
    """Compute by a route inside."""
    library, _, name = route.partition("+")
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    if library == "onednn":
        settings.fp32_precision = "bf16"
    try:
        with kernel(name):
            yield
    finally:
        settings.fp32_precision = before
