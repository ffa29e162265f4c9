"""Load a radiograph: DICOM in every transfer syntax the codecs decode, PNG, JPEG and WebP, to one kind of `Image`.

Training and serving both load through here, so that they see the same numbers. `guards` check sizes before a decoder runs,
`dicom` and `picture` decode, `levels` scales. Whatever cannot be read raises `UnreadablePixels`, whose code is stable and
whose text names the value and the limit; what was tolerated stands in `Image.notes`. Only this package knows pydicom.
"""

import stat
from pathlib import Path

from models.image import Image
from models.pixels.dicom import from_dataset, load_dicom
from models.pixels.errors import UnreadablePixels
from models.pixels.levels import scale
from models.pixels.picture import load_picture

__all__ = ["UnreadablePixels", "from_dataset", "load", "scale"]


def load(path: Path | str) -> Image:
    """Load one film; the content decides the format, not the file's name.

    Raises
    ------
    UnreadablePixels
        ``file-missing``, ``not-an-image``, or any code of `from_dataset`.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device may never end
            raise UnreadablePixels("not-an-image", f"{path.name} is no file but a folder, a pipe or a device")
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise UnreadablePixels("file-missing", f"cannot open {path.name}: {error.strerror}") from error
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return load_picture(path)
    # PS3.10 7.1: preamble and prefix; older archives write neither, their first group is 0002 or 0008.
    if head[128:132] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00"):
        return load_dicom(path)
    raise UnreadablePixels(
        "not-an-image", f"{path.name} is neither DICOM, PNG, JPEG nor WebP (its first bytes: {head[:8].hex()})"
    )
