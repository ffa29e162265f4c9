"""Load a network's weights without those that are all but zero.

A quarter of a million weights of the network that finds text are smaller than any normal number of 32 bit: its training let channels
die. They change no sum, but processors of Intel's work on each for so long that they were two thirds of that network's time. ONNX
Runtime can be told to pass over such numbers; the thread that asks it does so from then on in all it computes, so it is done here.

The file is a protocol buffer (onnx.proto). Zero takes as many bytes as any other weight: nothing in it moves.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

Span = tuple[int, int]  # first byte of a value, and the one behind its last

LEAST: Final = np.finfo(np.float32).smallest_normal
# Fields of onnx.proto: of a model, of its graph, and two of a tensor of that; the data type of weights of 32 bit.
GRAPH: Final = 7
INITIALIZER: Final = 5
DATA_TYPE: Final = 2
RAW_DATA: Final = 9
FLOAT: Final = 1
# Ways in which a value lies in a protocol buffer: a number; its length, then so many bytes; else 8 or 4 bytes.
NUMBER: Final = 0
MEASURED: Final = 2
BYTES: Final = {1: 8, 5: 4}


def load(path: Path) -> bytes:
    """Return the file of a network; weights too small to be normal numbers are zero."""
    model = bytearray(path.read_bytes())
    for start, stop in _floats(model):
        weights = np.frombuffer(model, "<f4", (stop - start) // 4, start)
        weights[np.abs(weights) < LEAST] = 0
    return bytes(model)


def _floats(model: bytearray) -> Iterator[Span]:
    """Yield where the weights of 32 bit lie."""
    for graph in _within(model, (0, len(model)), GRAPH):
        for tensor in _within(model, graph, INITIALIZER):
            if any(_number(model, start)[0] == FLOAT for start, _ in _within(model, tensor, DATA_TYPE)):
                yield from _within(model, tensor, RAW_DATA)


def _within(data: bytearray, message: Span, wanted: int) -> Iterator[Span]:
    """Yield where the values of a field of a message lie."""
    at, end = message
    while at < end:
        key, at = _number(data, at)
        way = key & 7
        if way == NUMBER:
            size = _number(data, at)[1] - at
        elif way == MEASURED:
            size, at = _number(data, at)
        else:
            size = BYTES[way]
        if key >> 3 == wanted:
            yield at, at + size
        at += size


def _number(data: bytearray, at: int) -> tuple[int, int]:
    """Return a number, seven bits a byte, the lowest first, and where it ends."""
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return number, at
