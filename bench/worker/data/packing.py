"""Which pieces of a text make up one sequence: windows, documents, or several documents packed together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Sequences as pieces of a text's tokens. `begins` and `lengths` (num_pieces,): a piece of length L that begins at b has
    the inputs b .. b + L - 1 and as targets the tokens one place on. `offsets` (num_rows + 1,): where a row's pieces begin."""

    begins: Numbers
    lengths: Numbers
    offsets: Numbers

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def row_lengths(self) -> Numbers:
        """Tokens of each row, (num_rows,)."""
        return np.add.reduceat(self.lengths, self.offsets[:-1]) if len(self) else np.empty(0, np.int64)


def windows(num_tokens: int, seq_len: int) -> Rows:
    """The text cut every `seq_len` tokens, documents running on; what is left at its end is not used."""
    begins = np.arange((num_tokens - 1) // seq_len, dtype=np.int64) * seq_len
    return Rows(begins, np.full(len(begins), seq_len, np.int64), np.arange(len(begins) + 1))


def documents(offsets: Numbers, seq_len: int) -> Rows:
    """A document a row, longer ones cut every `seq_len` tokens. Nothing is predicted across documents."""
    num_inputs = np.diff(offsets) - 1
    num_pieces = -(-num_inputs // seq_len)
    first = np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    place = np.arange(num_pieces.sum()) - first
    begins = np.repeat(offsets[:-1], num_pieces) + place * seq_len
    lengths = np.minimum(np.repeat(num_inputs, num_pieces) - place * seq_len, seq_len)
    return Rows(begins, lengths, np.arange(len(begins) + 1))


def packed(pieces: Rows, seq_len: int) -> Rows:
    """Whole pieces packed into rows of at most `seq_len` tokens: best fit, longest first.

    A row needs at most 11/9 of the rows of the best packing (Johnson et al. 1974). Tokens see the documents before them in
    their row, as in GPT-2's training; nothing is predicted across documents.
    """
    rows: list[list[int]] = []
    # Rows by the room that is left in them.
    with_room: list[list[int]] = [[] for _ in range(seq_len + 1)]
    rooms = 0  # bit r is set where a row with room for r tokens is
    lengths = pieces.lengths.tolist()
    for piece in np.argsort(-pieces.lengths, kind="stable").tolist():
        length = lengths[piece]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
            rows[row].append(piece)
        else:
            room, row = seq_len, len(rows)
            rows.append([piece])
        with_room[room - length].append(row)
        rooms |= 1 << (room - length)
    order = np.array([piece for row in rows for piece in row], dtype=np.int64)
    offsets = np.cumsum([0, *map(len, rows)])
    return Rows(pieces.begins[order], pieces.lengths[order], offsets)
