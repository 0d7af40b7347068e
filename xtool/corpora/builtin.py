"""English that ships with CPython: the help topics of the interpreter, about 460 kB."""

import hashlib
import platform

from xtool.corpora import Corpus, Text


def read() -> Text:
    """The topics in the order of their names."""
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)]
    paragraphs = [part for text in texts for part in text.split("\n\n") if part.strip()]
    digest = hashlib.sha256("\n\n".join(texts).encode()).hexdigest()
    return Text("builtin", paragraphs, digest, f"help topics of Python {platform.python_version()}")


ENTRY: Corpus = read
