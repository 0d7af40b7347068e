"""Slicing: a smaller model is a prefix of the larger one along the same axes."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from xtool.archs import checked
from xtool.axes import Layout, layout
from xtool.checkpoint import NAMES, Reader, model_reader, save_streamed
from xtool.errors import CheckFailed, UsageError
from xtool.lineage import step
from xtool.storage import Source, Spec
from xtool.surgery.gather import gather, maps, prefix
from xtool.surgery.widths import WIDTHS, changed, resized


def slice_model(path: Path, out: Path, changes: Mapping[str, int]) -> tuple[list[str], str]:
    """Cut a model file down to smaller sizes.

    Args:
        path: the large model.
        out: where the small one goes.
        changes: the sizes asked for, by dial.

    Returns:
        what changed, and the digest of the result.

    Raises:
        UsageError: a size larger than the model's, or one that its heads do not fit.
        XtoolError: an unreadable model, or no space.
    """
    with Source(path) as source:
        reader = model_reader(source)
        header = source.require_header("model")
        old = layout(header.config)
        config = checked(resized(header.config, changes))
        for name in WIDTHS:
            if (config.get(name) or 0) > (header.config.get(name) or 0):
                raise UsageError(
                    f"{path}: cannot slice `{name}` {header.config[name]} -> {config[name]}: "
                    "slicing only makes a model smaller",
                    "to make it larger use `xtool grow`",
                )
        if not changed(header.config, config):
            raise UsageError("nothing to slice: every size is already as asked")
        new = layout(config)
        names = [n for n in reader.names if (new.layer(n) or 0) < new.size("n_layers")]
        specs = [Spec(name, NAMES[reader.dtype(name)], new.shape(name)) for name in names]

        def rows(name: str, start: int, stop: int) -> Tensor:
            return gather(reader, name, maps(old, new, name, name, prefix), start, stop)

        sizes = {name: config[name] for name in WIDTHS if config.get(name)}
        done = step("slice", sizes, {"model": header.digest}, 0)
        new_header = header.model_copy(
            update={
                "config": config,
                "lineage": [*header.lineage, done],
                "training": header.inherited(),
            }
        )
        digest = save_streamed(
            out, new_header, specs, rows, lambda temporary: _prove(reader, old, new, temporary)
        )
    return changed(header.config, config), digest


def _prove(reader: Reader, old: Layout, new: Layout, temporary: Path) -> None:
    """Every tensor of the written file is the prefix that it claims to be, to the bit."""
    with Source(temporary) as written:
        small = model_reader(written)
        for name in small.names:
            whole = reader.tensor(name)
            for place, found in enumerate(maps(old, new, name, name, prefix)):
                whole = whole.index_select(place, found)
            if not torch.equal(whole, small.tensor(name)):
                raise CheckFailed(f"tensor `{name}` is not a prefix of the parent's")
