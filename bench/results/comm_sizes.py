"""How large a collective is, as nccl-tests counts it.

Source: NVIDIA nccl-tests, src/{all_reduce,all_gather,reduce_scatter,broadcast,alltoall}.cu (GetCollByteCount, GetBw).
The size of an all-reduce and of a broadcast is the array that every rank has; of an all-gather the whole output, of a
reduce-scatter the whole input, of an all-to-all what one rank sends (its own part included), which is what it receives.
"""

from __future__ import annotations

PARTED = ("all_gather", "reduce_scatter", "all_to_all")
"""Operations whose array is parted among the ranks."""

ELEMENT_BYTES = 4
"""Of float32, in which all is measured."""

# nccl-tests rounds a rank's part down to so many bytes.
_PART_BYTES = 16


def fitting_bytes(operation: str, asked_bytes: int, world_size: int) -> int:
    """The size that is moved where `asked_bytes` are asked for: parts of a whole multiple of 16 bytes, 16 at least."""
    if operation not in PARTED:
        return asked_bytes // ELEMENT_BYTES * ELEMENT_BYTES
    return max(_PART_BYTES, asked_bytes // world_size // _PART_BYTES * _PART_BYTES) * world_size


def num_elements(operation: str, size_bytes: int, world_size: int) -> int:
    """The count that nccl-tests prints: of the array, or where it is parted of one rank's part."""
    return size_bytes // ELEMENT_BYTES // (world_size if operation in PARTED else 1)
