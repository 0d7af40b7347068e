"""Dials and where their values come from: flag, environment, run file, checkpoint, default.

A dial is declared once, as a literal row of `OPTIONS` in the file that it belongs to:

    OPTIONS = [("n_heads", "int", 1, "attention heads"), ...]

Types are `int`, `float`, `bool`, `text`, `ints` (one number, or one for each layer), `texts` (words
that a flag gives one by one, kept as one text), a choice `relu|gelu`, or `@folder` for the names of
a registry folder. A default of None means that the value is derived from others.
"""

import builtins
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from xtool import registry
from xtool.errors import UsageError, XtoolError, unknown
from xtool.inputs import decode, read_bytes

Value = Any
LARGEST = {"int": 1 << 62, "float": 1e300}
TYPES = ("int", "float", "bool", "text", "ints", "texts")
# What a model's configuration holds beside its dials.
SHAPE = ("vocab_size", "context", "n_outputs")
OTHER = ("arch", "sources", "replicas", "d_input")


@dataclass(frozen=True)
class Option:
    """One dial: the word used in code, flags, headers and rows, its type, default and help."""

    name: str
    type: str
    default: Value
    help: str

    @property
    def flag(self) -> str:
        """The command-line spelling, `--d-model`."""
        return "--" + self.name.replace("_", "-")

    @property
    def choices(self) -> list[str]:
        """The values a choice may take; empty for a free value."""
        if self.type.startswith("@"):
            return list(registry.names(self.type[1:]))
        return self.type.split("|") if "|" in self.type else []

    @property
    def python(self) -> builtins.type:
        """The Python type of a value."""
        return {"int": int, "float": float, "bool": bool}.get(self.type, str)

    def parse(self, value: Value, where: str) -> Value:
        """`value` as this dial's type.

        Args:
            value: from a flag, the environment (text), a run file or a header.
            where: names the source in an error, such as `run.toml` or `--lr`.

        Raises:
            UsageError: not of the type, or not one of the choices.
        """
        if value is None:
            return None
        if self.type == "ints":
            return self._numbers(value, where)
        if self.type == "texts" and isinstance(value, list):
            value = " ".join(map(str, value))
        if self.choices:
            if not isinstance(value, str):
                raise UsageError(f"{where}: `{self.name}` must be a word, not {value!r}")
            own = self.type.startswith("@") and value.endswith(".py")
            if value not in self.choices and not own:
                raise unknown(f"value for `{self.flag}` in {where}", value, self.choices)
            return value
        fits = isinstance(value, (int, float) if self.type == "float" else self.python)
        if not fits or (isinstance(value, bool) and self.type != "bool"):
            raise UsageError(f"{where}: `{self.name}` must be {self.type}, not {value!r}")
        if self.type in LARGEST and not abs(value) <= LARGEST[self.type]:
            most = f"{LARGEST[self.type]:g}"
            raise UsageError(
                f"{where}: `{self.name}` must be finite and at most {most}, not {str(value)[:20]}"
            )
        return float(value) if self.type == "float" else value

    def _numbers(self, value: Value, where: str) -> Value:
        """A number, or a list of them, from `64`, `64,128` or what a file holds."""
        parts = value.split(",") if isinstance(value, str) else value
        found = []
        for part in parts if isinstance(parts, list) else [parts]:
            whole = isinstance(part, int) and not isinstance(part, bool)
            if not whole and not (isinstance(part, str) and re.fullmatch(r" *-?\d{1,18} *", part)):
                raise UsageError(
                    f"{where}: `{self.name}` must be whole numbers, not {str(value)[:40]!r}",
                    "one for all layers, or one for each: `64,128,128,256`",
                )
            found.append(int(part))
        if not found:
            raise UsageError(f"{where}: `{self.name}` is an empty list", "leave it out")
        return found if len(found) > 1 else found[0]


def options(folder: str, name: str) -> list[Option]:
    """The dials that an entry's file declares.

    Raises:
        XtoolError: they are not rows `(name, type, default, help)`.
    """
    rows = registry.literal(folder, name, "OPTIONS", [])
    try:
        found = from_rows(rows)
    except TypeError as error:
        raise XtoolError(f"{name}: `OPTIONS` must hold rows (name, type, default, help)") from error
    for dial in found:
        known = isinstance(dial.type, str) and (dial.type in TYPES or dial.choices)
        if not re.fullmatch("[a-z][a-z0-9_]*", str(dial.name)) or not known:
            raise XtoolError(
                f"{name}: `OPTIONS` names a dial {dial.name!r} of type {dial.type!r}",
                f"types: {', '.join(TYPES)}, or the words of a choice as `one|other`",
            )
    try:
        return [replace(dial, default=dial.parse(dial.default, name)) for dial in found]
    except UsageError as error:
        raise XtoolError(f"{error.message} (its default in `OPTIONS`)") from error


def from_rows(rows: Iterable[tuple[str, str, Value, str]]) -> list[Option]:
    """Options from literal rows `(name, type, default, help)`."""
    return [Option(*row) for row in rows]


def resolve(
    dials: Iterable[Option], sources: Iterable[tuple[str, Mapping[str, Value]]]
) -> dict[str, Value]:
    """A value for every dial: from the first source that has one, else its default.

    Args:
        dials: what can be set.
        sources: `(where, values)` in falling precedence; None means not given.
    """
    layers = list(sources)
    out: dict[str, Value] = {}
    for dial in dials:
        out[dial.name] = dial.default
        for where, values in layers:
            if values.get(dial.name) is not None:
                out[dial.name] = dial.parse(values[dial.name], where)
                break
    return out


def model_options(arch: str, attention: str | None = None) -> list[Option]:
    """The dials of an architecture and of its attention variant.

    Raises:
        XtoolError: the variant has a dial that the architecture has too.
    """
    own = options("archs", arch)
    default = next((dial.default for dial in own if dial.name == "attention"), None)
    variant = attention or default
    more = options("layers/attention", variant) if variant else []
    taken = {dial.name for dial in own} | {*SHAPE, *OTHER}
    for dial in more:
        if dial.name in taken:
            raise XtoolError(f"{variant}: its dial `{dial.name}` is one of {arch}", "rename it")
    return own + more


def check_model(config: Mapping[str, Value], where: str) -> None:
    """Check that a header's configuration has every dial of its architecture, and no other.

    Raises:
        XtoolError: a dial is missing, unknown, or of the wrong type.
    """
    arch, attention = config.get("arch"), config.get("attention")
    if not isinstance(arch, str) or not isinstance(attention, str | None):
        raise XtoolError(f"{where}: the header names no architecture")
    dials = {dial.name: dial for dial in model_options(arch, attention)}
    known = [*dials, *SHAPE]
    later = registry.literal("archs", arch, "LATER", [])
    for name in sorted({*known, *config} - set(OTHER)):
        if name in later and name not in config:
            continue
        if name not in known or name not in config:
            what = "unknown" if name in config else "missing"
            raise XtoolError(f"{where}: the header's configuration: dial `{name}` is {what}")
    try:
        for name in SHAPE:
            Option(name, "int", 1, "").parse(config[name], where)
        for name, dial in dials.items():
            if name in later and name not in config:
                continue
            dial.parse(config[name], where)
            if config[name] is None and dial.default is not None:
                raise UsageError(f"`{name}` has no value")
    except UsageError as error:
        raise XtoolError(f"{where}: the header's configuration: {error.message}") from error
    replicas = config.get("replicas", 2)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 2:
        raise XtoolError(f"{where}: the header's `replicas` is {replicas!r}, it must be above 1")
    vectors = config.get("d_input") is not None
    sizes = [config["d_input" if vectors and name == "vocab_size" else name] for name in SHAPE]
    if not all(type(size) is int and 1 <= size <= 1 << 31 for size in sizes) or (
        vectors and config["vocab_size"] is not None
    ):
        raise XtoolError(f"{where}: the header's sizes {sizes}")
    sources = config.get("sources", {})
    if not isinstance(sources, dict) or not all(isinstance(v, str) for v in sources.values()):
        raise XtoolError(f"{where}: the header's `sources` must map names to digests")


def with_later(config: Mapping[str, Value]) -> dict[str, Value]:
    """A checked configuration with the defaults of dials that are younger than its file."""
    later = registry.literal("archs", str(config["arch"]), "LATER", [])
    dials = model_options(str(config["arch"]), cast(Any, config.get("attention")))
    return dict(config) | {
        dial.name: dial.default for dial in dials if dial.name in later and dial.name not in config
    }


def read_run_file(path: Path, command: str, dials: Iterable[Option]) -> dict[str, Value]:
    """The table of one command in a run file, each value as its dial's type.

    Raises:
        XtoolError: the file is missing or is not TOML.
        UsageError: it sets a dial that the command lacks, twice, or to a value of another type.
    """
    table = run_table(path, command)
    known = {dial.name: dial for dial in dials}
    out: dict[str, Value] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise unknown(f"dial in {path}", key, known)
        if name in out:
            raise UsageError(f"{path}: `{name}` is set twice")
        out[name] = known[name].parse(value, str(path))
    return out


def run_table(path: Path, command: str) -> dict[str, Value]:
    """The table of one command in a run file, as it stands there.

    Raises:
        XtoolError: the file is missing or is not TOML.
        UsageError: it has tables, but none of this command.
    """
    try:
        tables = tomllib.loads(decode(read_bytes(path, "give a TOML file"), path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise XtoolError(f"{path}: not TOML: {error}") from error
    table = tables.get(command, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: `{command}` must be a table", f"start it with `[{command}]`")
    if not table and tables:
        raise UsageError(f"{path}: has no table `[{command}]`", f"tables: {', '.join(tables)}")
    return table


def run_file_text(command: str, values: Mapping[str, Value]) -> str:
    """The dials that were used, as one TOML table; unset ones are left out."""
    lines = [f"[{command}]"]
    kept = {key: value for key, value in values.items() if value is not None}
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in kept.items()]
    return "\n".join(lines) + "\n"
