"""Run the two networks of RapidOCR (PP-OCRv6, small) on grey pictures, without what its pipeline does beside them.

What comes out is what `rapidocr.RapidOCR` makes of the same picture, number by number (a test compares them). Its pipeline copies a
grey picture into three channels of 64 bit, twice, cuts out and straightens every place it found, and has the networks fetch their
memory from the system anew for every picture: on films that was a third of the time.
"""

import math
import os
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from service.deidentification.burned_in import weights
from service.deidentification.burned_in.hand import Grey

DETECTOR: Final = "PP-OCRv6_det_small.onnx"
READER: Final = "PP-OCRv6_rec_small.onnx"
SMALLEST: Final = 30  # pixels, shorter side: a smaller picture is made larger first
STRIDE: Final = 32  # pixels: the sides of what the detector looks at are multiples of it
WIDE: Final = 8  # times as wide as high: such a picture gets black rows above and below
SEED: Final = 0.3  # from which on a pixel belongs to a place
UNCLIP: Final = 1.6  # by which a place is larger than what the detector marks
HEIGHT: Final = 48  # pixels of a line as it is read,
NARROWEST: Final = 2.0  # and at least so many times as wide: what is missing is filled with grey
CHANNELS: Final = 3  # of both networks; grey is the same in each
GREYS: Final = np.arange(256, dtype=np.float32)
# From 0..255 to -1..1, rounded as RapidOCR rounds: by way of 64 bit for the detector, of 32 bit for the reader.
LOOKED_AT: Final = (((GREYS * np.float32(1 / 255)).astype(np.float64) - 0.5) / 0.5).astype(np.float32)
READ: Final = (GREYS / np.float32(255) - np.float32(0.5)) / np.float32(0.5)

Values = NDArray[np.float32]


class Detector:
    """The network that says where on a picture text is."""

    def __init__(self, least: float) -> None:
        from rapidocr.ch_ppocr_det.utils import DBPostProcess

        self._network = _Network(DETECTOR)
        self._places = DBPostProcess(SEED, least, unclip_ratio=UNCLIP, score_mode="fast", use_dilation=True)

    def __call__(self, picture: Grey) -> list[tuple[NDArray[np.int32], float]]:
        """Return the four corners (4, 2: x y) and the score of each place on a picture (rows, columns)."""
        rows, columns = picture.shape
        seen = _enlarged(picture)
        height, width = seen.shape
        above = 0
        if height <= SMALLEST or width / height > WIDE:
            above = abs(max(width // WIDE, SMALLEST) * 2 - height) // 2
            seen = np.pad(seen, ((above, above), (0, 0)))
        size = [max(round(side / STRIDE), 1) * STRIDE for side in seen.shape]
        marked = self._network(_resized(seen, size[1], size[0]), LOOKED_AT)
        places, scores = self._places(marked, seen.shape)
        found = []
        for corners, score in zip(places, scores, strict=True):
            x = np.clip(corners[:, 0] * (columns / width), 0, columns)
            y = np.clip((corners[:, 1] - above) * (rows / height), 0, rows)
            found.append((np.stack([x, y], axis=1).astype(np.int32), float(score)))
        return found


class Reader:
    """The network that reads one line of text."""

    def __init__(self) -> None:
        from rapidocr.ch_ppocr_rec.utils import CTCLabelDecode

        self._network = _Network(READER)
        self._decode = CTCLabelDecode(character=self._network.described("character").splitlines())

    def __call__(self, line: Grey) -> tuple[str, float]:
        """Return what a picture (rows, columns) of one line says, and how sure that is."""
        seen = _enlarged(line)
        rows, columns = seen.shape
        width = math.ceil(HEIGHT * columns / rows)
        wide = int(HEIGHT * max(columns / rows, NARROWEST))
        probabilities = self._network(_resized(seen, min(width, wide), HEIGHT), READ, wide=wide)
        ((text, sure),), _ = self._decode(probabilities)
        return str(text), float(sure)


class _Network:
    """One network of RapidOCR's package, one thread of the processor, with memory of its own that it keeps."""

    def __init__(self, name: str) -> None:
        # ONNX Runtime reports on its use to its maker unless it is told not to before it is loaded (since version 1.29); this also
        # keeps it from leaving an identifier in the home directory.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime
        import rapidocr

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = True
        options.enable_mem_pattern = False  # pictures are of any size
        network = weights.load(Path(rapidocr.__file__).parent / "models" / name)
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._buffer: Values = np.empty(0, np.float32)

    def described(self, key: str) -> str:
        """Return what the file of the network says under a key."""
        return str(self._session.get_modelmeta().custom_metadata_map[key])

    def __call__(self, picture: Grey, shades: Values, *, wide: int = 0) -> Values:
        """Return the network's answer to a picture in these shades, with zeros to its right up to a width."""
        rows, columns = picture.shape
        wide = max(wide, columns)
        if self._buffer.size < CHANNELS * rows * wide:
            self._buffer = np.empty(CHANNELS * rows * wide, np.float32)
        given = self._buffer[: CHANNELS * rows * wide].reshape(1, CHANNELS, rows, wide)
        given[0, 0, :, columns:] = 0
        given[0, 0, :, :columns] = cv2.LUT(picture, shades)
        given[0, 1:] = given[0, 0]
        answer: Any = self._session.run(self._outputs[:1], {self._input: given})[0]
        return np.asarray(answer, np.float32)


def _resized(picture: Grey, columns: int, rows: int) -> Grey:
    return np.asarray(cv2.resize(picture, (columns, rows)), np.uint8)


def _enlarged(picture: Grey) -> Grey:
    """Return a picture whose shorter side is not too small, its sides rounded to multiples of 32 then."""
    rows, columns = picture.shape
    if min(rows, columns) >= SMALLEST:
        return picture
    ratio = SMALLEST / min(rows, columns)
    columns, rows = (round(int(side * ratio) / STRIDE) * STRIDE for side in (columns, rows))
    return _resized(picture, columns, rows)
