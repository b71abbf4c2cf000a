"""Figures and lists as findings say them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def gib(size_bytes: float) -> str:
    """Bytes of memory or disk: "23.5 GiB", "310 MiB"."""
    if size_bytes >= 2**30:
        return f"{size_bytes / 2**30:.3g} GiB" if size_bytes < 1000 * 2**30 else f"{size_bytes / 2**30:,.0f} GiB"
    return f"{size_bytes / 2**20:.3g} MiB"


def counted(names: Iterable[str]) -> str:
    """ "8 x Tesla V100-SXM2-16GB", the most frequent first."""
    return ", ".join(f"{number} x {name}" for name, number in Counter(names).most_common())


def listed(words: Iterable[str], at_most: int = 4) -> str:
    """ "a, b, c and 5 more"."""
    all_of = list(words)
    rest = len(all_of) - at_most
    return ", ".join(all_of) if rest <= 0 else f"{', '.join(all_of[:at_most])} and {rest} more"


def plural(number: int, noun: str) -> str:
    """ "1 host", "2 hosts"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def numbered(indices: Iterable[int]) -> str:
    """ "GPU 3", "GPUs 3, 5"."""
    all_of = [str(index) for index in indices]
    return f"GPU{'' if len(all_of) == 1 else 's'} {', '.join(all_of)}"
