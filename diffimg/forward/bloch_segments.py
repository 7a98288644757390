"""Where a sequence reads: its intervals as segments of one shape, so that every one runs through the same program."""

from __future__ import annotations

import numpy as np

BLOCKS = range(8, 17)  # silent intervals at once: long enough to hide the loop, short enough to leave intervals without RF alone
LONGEST = 128  # intervals of a readout at once: their phasors stay in a CPU's cache
_OVERHEAD = 2  # of a block or an empty readout, in intervals


def segments(samples: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """``(silent [segment, block, interval], read [segment, interval])``: indices of intervals, −1 where a segment is shorter.

    Segments come one after the other, and within one the silent intervals before those at whose end the signal is read. Either may be
    empty.
    """
    reads = np.zeros(count, bool)
    reads[samples] = True
    starts = np.concatenate([[0], np.flatnonzero(np.diff(reads)) + 1])
    lengths, kinds = np.diff(np.append(starts, count)), reads[starts]
    longest = int(lengths[kinds].max(initial=0))
    width = -(-longest // -(-longest // LONGEST)) if longest else 0
    block, blocks = _blocks(lengths[~kinds], width)
    pieces = []
    for start, length, reading in zip(starts, lengths, kinds, strict=True):
        size = width if reading else block * blocks
        pieces += [(reading, first, min(first + size, start + length)) for first in range(start, start + length, size)]
    silent, read = [], []
    for reading, first, end in pieces:
        if not reading or len(read) == len(silent):
            read += [np.full(width, -1)] * (len(silent) - len(read))
            silent.append(np.full(block * blocks, -1))
        index = np.full(width, -1) if reading else silent[-1]
        index[: end - first] = np.arange(first, end)
        if reading:
            read.append(index)
    read += [np.full(width, -1)] * (len(silent) - len(read))
    return np.reshape(silent, (len(silent), blocks, block)), np.reshape(read, (len(read), width))


def _blocks(silent, width):
    """(intervals of a block, blocks of a segment): those with which stretches of such lengths waste least."""

    def cost(choice):
        block, blocks = choice
        played, parts = np.sum(-(-silent // block)), np.sum(-(-silent // (block * blocks)))
        return played * (block + _OVERHEAD) + (parts * blocks - played + bool(width) * parts) * _OVERHEAD

    longest = int(silent.max(initial=0))
    return min(((b, n) for b in BLOCKS for n in range(1, -(-longest // b) + 1)), key=cost, default=(BLOCKS[0], 0))
