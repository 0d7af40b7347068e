"""Text as text8 has it: a to z and single spaces, digits spelled out one by one.

The rules are those of Matt Mahoney's text8 (http://mattmahoney.net/dc/textdata.html), 2011.
"""

import re

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ALPHABET = " abcdefghijklmnopqrstuvwxyz"


def normalise(text: str) -> str:
    """`text` in lower case with every run of other characters as one space, none at the ends."""
    spelled = re.sub(r"[0-9]", lambda match: f" {DIGITS[int(match[0])]} ", text.lower())
    return re.sub(r"[^a-z]+", " ", spelled).strip()


def pieces(paragraph: str, most: int = 1000) -> list[str]:
    """A normalised paragraph cut at spaces into pieces of at most about `most` characters.

    A corpus that knows no paragraphs (text8 is one line) can so be split by piece.
    """
    out, start = [], 0
    while len(paragraph) - start > most:
        cut = paragraph.rfind(" ", start, start + most)
        cut = cut if cut > start else start + most
        out.append(paragraph[start:cut].strip())
        start = cut
    return [*out, paragraph[start:].strip()]
