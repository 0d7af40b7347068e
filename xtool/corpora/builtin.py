"""English that ships with CPython: the help topics of the interpreter, about 460 kB."""

import hashlib
import platform

from xtool.corpora import Corpus, Text


def read() -> Text:
    """The topics in the order of their names."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Text("builtin", text, digest, f"help topics of Python {platform.python_version()}")


ENTRY: Corpus = read
