"""Seeds: every random choice has a name, so nothing depends on what was drawn before it."""

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one named purpose, such as `derive(0, "step", 17)`."""
    text = " ".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
