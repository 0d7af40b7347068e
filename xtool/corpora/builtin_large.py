"""The builtin corpus and the docstrings of the standard library, about 2.2 MB."""

import ast
import hashlib
import platform
import sysconfig
import warnings
from pathlib import Path

from xtool.corpora import Corpus, Text
from xtool.corpora.builtin import read as read_topics
from xtool.errors import XtoolError

OUTSIDE = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


def read() -> Text:
    """Topics, then docstrings by file name and line.

    Raises:
        XtoolError: the standard library's sources are not installed.
    """
    library = Path(sysconfig.get_path("stdlib"))
    texts = []
    for path in sorted(library.rglob("*.py")):
        if OUTSIDE.isdisjoint(path.relative_to(library).parts):
            texts += _docstrings(path)
    if not texts:
        raise XtoolError("the standard library's sources are not installed", "use `builtin`")
    paragraphs = [p for t in texts for p in t.split("\n\n") if p.strip()]
    text = "\n\n".join(read_topics().paragraphs + paragraphs)
    digest = hashlib.sha256(text.encode()).hexdigest()
    note = f"help topics and docstrings of Python {platform.python_version()}"
    return Text("builtin-large", text, digest, note)


def _docstrings(path: Path) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text for text in found if text]


ENTRY: Corpus = read
