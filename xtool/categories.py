r"""Category files: groups of tokens by level, in TOML, JSON or YAML.

    overlaps = "last"                       # else a token in two groups of a level is an error
    [levels.16]                             # the nested size whose embedding learns the groups
    vowel = ["re:[aeiou]"]
    digit = ["0-9"]
    other = ["class:punctuation", "\n", "text:a-z"]

An entry is a token as it is, a range of characters `a-z`, a class `class:upper` (upper, lower,
letter, digit, space, punctuation), or a regular expression `re:...` that whole tokens match;
`text:` takes what follows as it is. A token that is in no group of a level is one of its own.
"""

import json
import re
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from xtool.errors import XtoolError, unknown
from xtool.inputs import decode, read_bytes

CLASSES: dict[str, Callable[[str], bool]] = {
    "upper": str.isupper,
    "lower": str.islower,
    "letter": str.isalpha,
    "digit": str.isdigit,
    "space": str.isspace,
    "punctuation": lambda text: not any(c.isalnum() or c.isspace() for c in text),
}
OVERLAPS = ("error", "last")

# For each level the group of every token, numbered from 0: groups by the file, then single tokens.
Groups = dict[str, list[int]]


def read_categories(path: Path, tokens: Sequence[str]) -> tuple[Groups, dict[str, list[str]]]:
    """The groups of a category file.

    Args:
        path: the file.
        tokens: the text of every token of the vocabulary.

    Returns:
        for each level the group of every token; and the groups' names, those of single tokens last.

    Raises:
        XtoolError: not of the format, an unknown token or class (the nearest is named), a group
            that holds no token, or a token in two groups of a level.
    """
    table = _parsed(path)
    levels, overlaps = table.get("levels"), table.get("overlaps", "error")
    if not isinstance(levels, dict) or not levels or set(table) - {"levels", "overlaps"}:
        raise XtoolError(
            f"{path}: must hold `levels` and may hold `overlaps`, nothing else",
            "level -> group -> tokens: `[levels.16]`, then `vowel = ['a', 'e']`",
        )
    if not isinstance(overlaps, str) or overlaps not in OVERLAPS:
        raise XtoolError(f"{path}: `overlaps` must be `error` or `last`")
    groups: Groups = {}
    names: dict[str, list[str]] = {}
    for level, named in levels.items():
        where = f"{path}: level {level}"
        if not isinstance(named, dict):
            raise XtoolError(f"{where}: must map groups to lists of tokens")
        if str(level) in groups:
            raise XtoolError(f"{where}: stands there twice", "keep one of them")
        groups[str(level)], names[str(level)] = _grouped(named, tokens, overlaps == "last", where)
    return groups, names


def _parsed(path: Path) -> dict[str, Any]:
    text = decode(read_bytes(path, "give a file of categories"), path)
    try:
        if path.suffix == ".json":
            found = json.loads(text, object_pairs_hook=_once)
        elif path.suffix in (".yaml", ".yml"):
            found = _yaml(text, path)
        elif path.suffix == ".toml":
            found = tomllib.loads(text)
        else:
            raise XtoolError(f"{path}: must end in .toml, .json, .yaml or .yml")
    except (ValueError, RecursionError) as error:
        raise XtoolError(f"{path}: not {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(found, dict):
        raise XtoolError(f"{path}: must be a table with `levels`")
    return found


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise XtoolError(
            f"{path}: YAML needs the package pyyaml", "`pip install pyyaml`, or write TOML"
        ) from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            _once((self.construct_object(k, True), None) for k, _ in node.value)
            self.flatten_mapping(node)  # what stands there comes last, and wins
            return {
                self.construct_object(k, True): self.construct_object(v, True)
                for k, v in node.value
            }

    try:
        return Loader(text).get_single_data()
    # What its tags are converted by raises whatever that raises.
    except Exception as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _once(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """A table whose keys stand there once.

    Raises:
        ValueError: one stands there twice.
    """
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"`{key}` stands there twice")
        found[key] = value
    return found


def _grouped(
    named: Mapping[str, Any], tokens: Sequence[str], last: bool, where: str
) -> tuple[list[int], list[str]]:
    """The group of every token of a level, and the groups' names."""
    owner: dict[int, str] = {}
    given, named = len(named), {str(group): entries for group, entries in named.items()}
    if len(named) < given:
        raise XtoolError(f"{where}: two groups are called alike", "quote and tell them apart")
    if any(_is_no_text(group) for group in named):
        raise XtoolError(f"{where}: the name of a group is no text", "half a character is in it")
    if not named:
        raise XtoolError(f"{where}: has no group", "leave the level out")
    for group, entries in named.items():
        if not isinstance(entries, list) or not all(isinstance(one, str) for one in entries):
            raise XtoolError(f"{where}: `{group}` must be a list of texts")
        for place in sorted({p for entry in entries for p in _places(entry, tokens, where)}):
            if place in owner and not last:
                raise XtoolError(
                    f"{where}: {tokens[place]!r} is in `{owner[place]}` and in `{group}`",
                    'keep one, or set `overlaps = "last"` for the later group to have it',
                )
            owner[place] = group
    empty = [group for group in named if group not in owner.values()]
    if empty:
        raise XtoolError(f"{where}: `{empty[0]}` holds no token of its own")
    names = list(dict.fromkeys(owner.values()))
    number = {name: place for place, name in enumerate(names)}
    found = []
    for place, token in enumerate(tokens):
        if place in owner:
            found.append(number[owner[place]])
        else:
            found.append(len(names))
            names.append(token)
    return found, names


def _is_no_text(text: str) -> bool:
    """Whether there are halves of characters in it, which no file can hold."""
    return any("\ud800" <= one <= "\udfff" for one in text)


def _places(entry: str, tokens: Sequence[str], where: str) -> list[int]:
    """The tokens that an entry names."""
    kind, _, rest = entry.partition(":")
    if kind == "class" and rest:
        if rest not in CLASSES:
            error = unknown("class", rest, CLASSES)
            raise XtoolError(f"{where}: {error.message}", error.hint)
        return [place for place, text in enumerate(tokens) if text and CLASSES[rest](text)]
    if kind == "re" and rest:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                pattern = re.compile(rest, re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            raise XtoolError(f"{where}: `{entry[:40]}`: {error}") from error
        return [place for place, text in enumerate(tokens) if pattern.fullmatch(text)]
    if len(entry) == 3 and entry[1] == "-" and entry[0] <= entry[2]:
        return [
            p for p, text in enumerate(tokens) if len(text) == 1 and entry[0] <= text <= entry[2]
        ]
    text = rest if kind == "text" and rest else entry
    found = [place for place, token in enumerate(tokens) if token == text]
    if not found:
        near = ", ".join(map(repr, get_close_matches(text, tokens, cutoff=0.5)))
        raise XtoolError(
            f"{where}: no token is {text[:40]!r}",
            (f"near are {near}; " if near else "")
            + "an entry is one token, `a-z`, `class:lower`, or `re:[aeiou]`",
        )
    return found


def category_text(groups: Groups, tokens: Sequence[str]) -> str:
    """A category file, as TOML, of groups that were found; single tokens are left out."""
    lines = []
    for level, found in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])):
        lines.append(f"[levels.{json.dumps(level)}]")
        several = [group for group in dict.fromkeys(found) if found.count(group) > 1]
        for number, group in enumerate(several, 1):
            members = [tokens[place] for place, one in enumerate(found) if one == group]
            # `text:`, so that no token is read as a range or a class.
            said = ", ".join(json.dumps("text:" + one, ensure_ascii=True) for one in members)
            lines.append(f"group{number} = [{said}]")
        lines.append("")
    return "\n".join(lines)
