"""Read back a received film.

The receiver looks at a data set only as far as it needs to keep it (`receiving.header`); whoever reads the whole of it later may meet
what a parser cannot take: sequences nested without end, lengths that lie, values of another representation.
"""

import struct
import warnings
from pathlib import Path
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException

from service.errors import InvalidInstance
from service.log import get_logger

# What pydicom raises when it decodes a value of hostile or broken form; none of its documentation promises a class.
MALFORMED: Final = (
    ValueError,
    TypeError,
    LookupError,
    NotImplementedError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
    BytesLengthException,
)

log = get_logger()


def read_film(path: Path) -> Dataset:
    """Return the data set of a DICOM file, without the attributes whose values cannot be decoded.

    The file stays as it came; what is left out is logged by its tag, and is to whoever reads the film as if it were missing.

    Raises
    ------
    InvalidInstance
        When it cannot be parsed; a file that is not there stays an `OSError`.
    """
    if not path.exists():
        raise FileNotFoundError(path.name)
    if not path.is_file():  # a pipe put in its place would be waited for
        raise InvalidInstance(
            "there is no file in the store under the film's name, but a folder, a pipe or a device",
            code="cannot-parse",
            next_action="remove it, see who else writes into the data directory, and send the film again",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they repeat values of the patient
            ds = dcmread(path)
            undecodable = [tag for tag in list(ds.keys()) if not _decodes(ds, int(tag))]
    except Exception as error:  # whatever a parser makes of hostile bytes, it is the same outcome
        raise InvalidInstance(
            f"the data set cannot be parsed beyond its header: {type(error).__name__}",
            code="cannot-parse",
            next_action="see how the sender encodes this film; it is kept as it came",
        ) from error
    for tag in undecodable:
        del ds[tag]
    if undecodable:
        some = [f"{int(tag):08X}" for tag in undecodable[:10]]
        log.warning("attributes of a film cannot be decoded", file=path.stem, count=len(undecodable), some=some)
    return ds


def _decodes(ds: Dataset, tag: int) -> bool:
    try:
        ds[tag]
    except MALFORMED:
        return False
    return True
