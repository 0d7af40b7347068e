"""From a file to a model, whole or stage by stage."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from xtool.archs._child import build_size, head_config, source_of
from xtool.archs._contracts import Model
from xtool.archs._making import build, empty, stored_names
from xtool.archs._nest import place_of
from xtool.archs._sizes import HEAD, sized
from xtool.axes import Layout, layout
from xtool.checkpoint import Reader, model_reader
from xtool.config import check_model
from xtool.errors import XtoolError
from xtool.gather import gather, prefixes
from xtool.header import Header
from xtool.storage import Source, header_of


def model_header(path: Path) -> Header:
    """The header of a model file, with a configuration that is one.

    Raises:
        XtoolError: it is not.
    """
    header = header_of(path, "model")
    check_model(header.config, str(path))
    return header


def fill(model: nn.Module, ours: Layout, reader: Reader, more: bool = False) -> None:
    """Give a built model the values of a file.

    Args:
        model: the model.
        ours: its layout.
        reader: the file.
        more: whether the model may have tensors that the file lacks; they stay as they are.

    Raises:
        XtoolError: the file lacks a tensor of the model, has one too many, or one of another shape.
    """
    require_names(model, ours, reader, more)
    with torch.no_grad():
        state = model.state_dict(keep_vars=True)
        for name in reader.names:
            ours.check(name, reader.shape(name), str(reader.source.path))
            state[name].copy_(reader.tensor(name))


def require_names(model: nn.Module, ours: Layout, reader: Reader, more: bool = False) -> None:
    """Raise XtoolError unless a file has the tensors of a model, or some (`more`), and no other."""
    wanted, found = set(stored_names(model, ours)), set(reader.names)
    if not found <= wanted or (not more and wanted != found):
        missing, extra = sorted(wanted - found), sorted(found - wanted)
        what = f"has an unknown tensor `{extra[0]}`" if extra else f"lacks tensor `{missing[0]}`"
        where = str(reader.source.path)
        hint = f"{len(missing)} missing, {len(extra)} unknown"
        if more:
            hint = "what was learned is not dropped: choose an attention variant that has it too"
        raise XtoolError(f"{where}: {what}", hint)


def open_model(
    source: Source, verify: bool = True, kind: str = "model", replica: int | None = None
) -> Reader:
    """A reader of a model that has all of its tensors, and no other; see `model_reader`.

    Raises:
        XtoolError: see `model_reader`; or a tensor is missing or unknown.
        CheckFailed: the digest does not match.
    """
    reader = model_reader(source, verify, kind, replica)
    require_names(empty(reader.layout.config), reader.layout, reader)
    return reader


Stage = Callable[[Tensor], Tensor]


def stored_stages(reader: Reader) -> list[tuple[str, Callable[[], Stage]]]:
    """The stages of a stored model in turn, to run it with one of them in memory at a time.

    Everything is in the type that the model is stored in, and nothing is dropped out.

    Returns:
        the prefix of each stage's names, and what reads its tensors and gives it.
    """
    model = empty(reader.layout.config).eval()
    stored = set(model.state_dict())
    return [
        (prefix, partial(_read_stage, reader, prefix, module, stored))
        for prefix, module in cast(Model, model).stages()
    ]


def _read_stage(reader: Reader, prefix: str, module: nn.Module, stored: set[str]) -> Stage:
    names = [name for name in module.state_dict() if prefix + name in stored]
    tensors: dict[str, Any] = {name: reader.tensor(prefix + name) for name in names}

    def stage(x: Tensor) -> Tensor:
        out: Tensor = functional_call(module, tensors, (x,), tie_weights=False)
        return out

    return stage


def read_model(
    path: Path,
    replica: int | None = None,
    verify: bool = True,
    size: Mapping[str, Any] | None = None,
) -> tuple[Header, Layout, nn.Module]:
    """A model file in memory, in the precision it is stored in, checked and ready to run.

    Of one of its sizes only the prefixes are read.

    Args:
        path: the file.
        replica: which model, where the file holds several.
        verify: whether to check its digest.
        size: the sizes that differ from the model's, by dial; see `Size`.

    Raises:
        UsageError: a size that cannot be built.
        XtoolError: unreadable, not a model, or not what its configuration says.
        CheckFailed: the digest does not match.
    """
    with Source(path) as source:
        reader = open_model(source, verify, replica=replica)
        header, ours = source.require_header("model"), reader.layout
        assert ours is not None
        made = build_size(header.config, size) if size else build(header.config)
        model = made.to(reader.dtype(reader.names[0]))
        if size:
            fill_size(model, size, reader)
        else:
            fill(model, ours, reader)
    return header, ours, model


def fill_size(model: nn.Module, size: Mapping[str, Any], reader: Reader) -> None:
    """Give a model of `build_size` the prefixes of a file's tensors."""
    old = reader.layout
    assert old is not None
    small = sized(old.config, size)
    new, head = layout(small), layout(head_config(small, size))
    stored = {tie.alias: tie.stored for tie in old.ties}
    place = place_of(old.config, small, size.get(HEAD))
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in stored and HEAD not in size:
                continue  # tied: the embedding's own values
            found = prefixes(old, head if name.startswith(f"{HEAD}.") else new, name)
            source = source_of(stored.get(name, name), place, reader.names)
            tensor.copy_(gather(reader, source, found, 0, len(tensor), reader.dtype(source)))
