"""Names of tokens for rows and pictures: on one line, never empty, and no two alike."""

from collections.abc import Sequence
from unicodedata import category

import torch

from xtool.tokenizers import Tokenizer

SPACES = {"\n": "⏎", " ": "␣", "\t": "⇥", "\r": "↵"}


def visible(text: str) -> str:
    """Text with a sign in place of each white space that has one."""
    return "".join(SPACES.get(c, c) for c in text)


def token_names(tokenizer: Tokenizer | None, size: int) -> list[str]:
    """A name for each of `size` tokens: its text, or `#7` where that cannot be shown.

    Only bytes that stand for a character alone have a text. Of tokens that look alike the first has
    the name, and a text that looks like a number's name is none.
    """
    names: dict[str, None] = {}
    for place in range(size):
        known = tokenizer is not None and place < tokenizer.size
        text = visible(tokenizer.decode(torch.tensor([place]))) if known and tokenizer else ""
        numbered = text.startswith("#") and text[1:].isdigit()
        name = f"#{place}" if numbered or text in names or not _shown(text) else text
        names[name] = None
    return list(names)


def _shown(text: Sequence[str]) -> bool:
    """Whether text has a shape of its own; accents and the sign of broken bytes have none."""
    marks = any(category(c).startswith("M") or c == "\N{REPLACEMENT CHARACTER}" for c in text)
    return bool(text) and not marks and all(c.isprintable() for c in text)
