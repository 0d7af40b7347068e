"""The first 100 million characters of cleaned Wikipedia, checked by size and alphabet.

Language models are by custom trained on its first 90 million, chosen by the next 5 and compared on
the last 5; its `DEFAULTS` say so.
"""

import zipfile

from xtool.corpora import Corpus, Text, text_of
from xtool.corpora._download import download
from xtool.corpora._normalise import ALPHABET
from xtool.errors import XtoolError

URL = "http://mattmahoney.net/dc/text8.zip"
SIZE = 100_000_000
DEFAULTS = {"dev_fraction": 0.05, "test_fraction": 0.05}


def read() -> Text:
    """The one file in the archive, which is read in place and never unpacked to disk.

    Raises:
        XtoolError: not an archive of exactly 100,000,000 characters from a to z and space.
    """
    archive = download(URL, None)
    try:
        with zipfile.ZipFile(archive) as box, box.open("text8") as file:
            raw = file.read(SIZE + 1)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        archive.unlink(missing_ok=True)
        raise XtoolError(f"{URL}: the download is not the text8 archive: {error}") from error
    if len(raw) != SIZE or raw.translate(None, ALPHABET.encode()):
        archive.unlink(missing_ok=True)
        raise XtoolError(f"{URL}: {len(raw)} characters, text8 has {SIZE} of a to z and space")
    return text_of("text8", raw)


ENTRY: Corpus = read
