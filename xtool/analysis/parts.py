"""The parts of a model: which share of its parameters and of its FLOPs each one has."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from xtool.archs import Model, count, empty
from xtool.axes import one_model
from xtool.rows import Row, row


def part_rows(config: Mapping[str, Any], label: str) -> list[Row]:
    """Rows of parameters and of FLOPs of one forward pass over one example, and their shares.

    A part is a stage of the model, or of the blocks what they are made of, over all of them. FLOPs
    are those of matrix products; nothing is computed.
    """
    model = empty(one_model(config)).eval()
    params: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part(name)
        params[part] = params.get(part, 0) + parameter.numel()
    counter = FlopCounterMode(display=False)
    if numbers := config.get("d_input"):
        example = torch.zeros(1, config["context"], numbers, device="meta")
    else:
        example = torch.zeros(1, config["context"], dtype=torch.int64, device="meta")
    with counter, torch.inference_mode():
        cast(Model, model)(example)
    root = type(model).__name__ + "."
    flops = dict.fromkeys(params, 0)
    counts = counter.get_flop_counts()
    for module, operations in counts.items():
        if not module.startswith(root):
            continue
        words, spent = module.removeprefix(root).split("."), sum(operations.values())
        part, block = _part(".".join(words)), words[0] == "blocks"
        if len(words) == (1 if not block else 4 if part == "loops" else 3):
            flops[part] = flops.get(part, 0) + spent
        elif block and len(words) == 2 and "loops" in flops:
            # The difference of a loop calls the block that it changes: its own is the rest.
            flops["loops"] -= spent
    # A head that a model calls by another name than `forward` is seen by the whole alone.
    rest = sum(counts.get("Global", {}).values()) - sum(flops.values())
    if rest:
        part = "head" if "head" in params else "other"
        flops[part] = flops.get(part, 0) + rest
    whole = {"params": count(model), "flops": sum(flops.values())}
    return [
        row(label=label, metric=metric, value=value, part=part, share=value / max(1, whole[metric]))
        for metric, found in (("params", params), ("flops", flops))
        for part, value in found.items()
    ]


def _part(name: str) -> str:
    """The part that a tensor or a module belongs to, by its name."""
    words = name.split(".")
    return words[2] if words[0] == "blocks" and len(words) > 2 else words[0]
