"""The folder is the registry: a file in `archs/` is an architecture, and so for every other folder.

Names come from the folder listing, and dials, tables and the one-line description are read from a
file's syntax tree, so `--help`, completion and `inspect` never import torch. The module itself is
imported when it is used. A name that ends in `.py` is a user's own file.
"""

import ast
import hashlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from xtool.errors import UsageError, XtoolError, unknown
from xtool.inputs import decode, read_bytes

ROOT = Path(__file__).parent

# The user's own files, by name without folder: only what was passed to this process is ever loaded.
_admitted: dict[str, Path] = {}


def admit(path: str) -> str:
    """Let a user's own file be used by its name in this process; returns the name.

    Raises:
        UsageError: no such file, or not a `.py` file.
    """
    own = Path(path)
    if own.suffix != ".py":
        raise UsageError(f"{path}: not a Python file", "own files end in `.py`")
    if not own.is_file():
        raise UsageError(f"{path}: no such file", "`--own` takes the path of a file elsewhere")
    if _admitted.get(own.name, own).resolve() != own.resolve():
        raise UsageError(f"{path}: another file of that name was given: {_admitted[own.name]}")
    _admitted[own.name] = own
    return own.name


def admitted() -> dict[str, Path]:
    """The user's own files that were passed to this process, by name."""
    return dict(_admitted)


def own_files(config: Mapping[str, Any]) -> list[str]:
    """The user's own files that a model's configuration names."""
    used = (config.get("arch"), config.get("attention"))
    return [name for name in used if isinstance(name, str) and name.endswith(".py")]


@lru_cache
def names(folder: str) -> tuple[str, ...]:
    """The entries of a folder, such as `archs` or `surgery/operators`, in order."""
    files = (ROOT / folder).glob("*.py")
    return tuple(sorted(f.stem.replace("_", "-") for f in files if not f.stem.startswith("_")))


def path_of(folder: str, name: str) -> Path:
    """The file behind an entry.

    Raises:
        UsageError: no such entry, or a user's own file that was not passed to this process.
    """
    if name.endswith(".py"):
        if name not in _admitted:
            raise UsageError(
                f"the {word(folder)} `{name}` is a file of its user's own",
                f"pass it: `--own {name}`",
            )
        return _admitted[name]
    if name not in names(folder):
        raise unknown(word(folder), name, names(folder))
    return ROOT / folder / (name.replace("-", "_") + ".py")


def word(folder: str) -> str:
    """What one entry of a folder is called in messages."""
    return {
        "archs": "architecture",
        "tasks": "task",
        "corpora": "corpus",
        "tokenizers": "tokenizer",
        "surgery/operators": "growth operator",
        "layers/attention": "attention variant",
        "training/optimizers": "optimizer",
        "plots": "kind of plot",
    }[folder]


@lru_cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(decode(read_bytes(path, "own files end in `.py`"), path))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise XtoolError(f"{path}: not Python: {error}") from error


def literal(folder: str, name: str, variable: str, default: Any = None) -> Any:
    """The value of a literal assigned at the top of an entry's file, without importing it.

    An architecture that is `LIKE` another has its tables, rows and values too, after its own.

    Raises:
        XtoolError: the variable is there but is not a literal.
    """
    like = _literal(folder, name, "LIKE") if folder == "archs" and variable != "LIKE" else None
    if like is None:
        return _literal(folder, name, variable, default)
    own = _literal(folder, name, variable)
    base = _literal(folder, str(like), variable, default)
    if isinstance(own, dict) and isinstance(base, dict):
        return own | {key: value for key, value in base.items() if key not in own}
    if isinstance(own, list) and isinstance(base, list):
        first = [one[0] if isinstance(one, tuple) else one for one in own]
        return own + [b for b in base if (b[0] if isinstance(b, tuple) else b) not in first]
    return base if own is None else own


def _literal(folder: str, name: str, variable: str, default: Any = None) -> Any:
    path = path_of(folder, name)
    for node in _tree(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(t, ast.Name) and t.id == variable for t in targets):
            try:
                return ast.literal_eval(node.value)  # type: ignore[attr-defined]
            except ValueError as error:
                raise XtoolError(f"{path}: `{variable}` must be a literal") from error
    return default


def source_digests(used: Iterable[str]) -> dict[str, str]:
    """The sha256 of each of the user's own files among `used`, kept in the header."""
    found = {name: _admitted[name] for name in used if name in _admitted}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}


def warn_if_changed(sources: dict[str, str]) -> None:
    """Warn of each passed file that is not the one whose digest a header keeps."""
    now = source_digests(sources)
    for name, digest in sources.items():
        if name in now and now[name] != digest:
            warnings.warn(f"{name} is not the file that the model was made with", stacklevel=2)


@lru_cache
def _own_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"xtool_own_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise XtoolError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}"
        raise XtoolError(f"{path}: cannot be imported: {what}") from error
    return module


def load(folder: str, name: str) -> Any:
    """Import an entry and return the value of the folder's contract that ends its file.

    Raises:
        UsageError: no such entry.
        XtoolError: a user's file that fails to import or has no `ENTRY`.
    """
    path = path_of(folder, name)
    if name.endswith(".py"):
        module = _own_module(path.resolve())
    else:
        module = importlib.import_module(f"xtool.{folder.replace('/', '.')}.{path.stem}")
    if not hasattr(module, "ENTRY"):
        raise XtoolError(
            f"{path}: has no `ENTRY`", f"end the file with `ENTRY: {word(folder).title()} = ...`"
        )
    return module.ENTRY
