"""The works of Shakespeare as char-rnn has them, 1.1 MB, a verified download."""

from xtool.corpora import Corpus, Text, text_of
from xtool.corpora._download import download

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def read() -> Text:
    """The text, checked by its sha256."""
    return text_of("shakespeare", download(URL, f"sha256:{SHA256}").read_bytes())


ENTRY: Corpus = read
