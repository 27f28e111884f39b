"""How messages quote what somebody wrote, and what they offer instead."""

from __future__ import annotations

from collections.abc import Iterable


def shown(text: str) -> str:
    """text as a message quotes it: one line, whatever it is, and not too long."""
    return repr(text) if len(text) <= 200 else repr(text[:200]) + "…"


def choices(wrong: str, allowed: Iterable[str]) -> str:
    """The end of a sentence that refuses a word: what is close to it, and all there are."""
    from difflib import get_close_matches

    words = list(allowed)
    close = get_close_matches(wrong.lower()[:40], words, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return f"{meant}; there {'is' if len(words) == 1 else 'are'} {', '.join(words) or 'none'}"
