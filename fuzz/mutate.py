"""Random changes to known inputs, for machines without atheris: no coverage to steer by, but the same everywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_NUMBERS = (b"0", b"-1", b"1", b"2147483647", b"2147483648", b"4294967295", b"18446744073709551615", b"18446744073709551616",
            b"1e999", b"NaN", b"9" * 5000, b"0x", b"0xffffffff", b"1.5", b"true", b"null")  # fmt: skip
_WORDS = (b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b"[" * 500, b",", b":", b"%", b"%00", b"%ff", b"?", b"&",
          b"=", b"(", b")", b"()", b"\0", b"\n", b"\r\n", b"\x1b[31m", b"\xff\xfe", b"a(v)", b"\xe2\x80\xae")  # fmt: skip


def mutated(known: Sequence[bytes], rng: random.Random) -> bytes:
    """One input made of the known ones by a few random changes."""
    data = bytearray(rng.choice(known))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        way = rng.randrange(8)
        if way == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif way == 1 and data:
            data[at % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
        elif way == 2:
            data[at:at] = rng.choice(_NUMBERS)
        elif way == 3:
            data[at:at] = rng.choice(_WORDS)
        elif way == 4:
            del data[at : at + rng.choice((1, 2, 4, 16, 64))]
        elif way == 5:
            other = rng.choice(known)
            start = rng.randrange(len(other) + 1)
            data[at : at + rng.randrange(16)] = other[start : start + rng.randrange(64)]
        elif way == 6:
            data[at:at] = bytes(data[at : at + rng.choice((4, 8, 32))]) * rng.choice((1, 2, 50))
        else:
            number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, rng.getrandbits(32)))
            data[at : at + 4] = number.to_bytes(4, rng.choice(("little", "big")))
    return bytes(data[: 1 << 17])


def inputs(known: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """The known inputs, then changed ones for ever."""
    yield from known
    rng = random.Random(seed)
    while True:
        yield mutated(known, rng)
