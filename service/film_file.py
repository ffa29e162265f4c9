"""Read back a received film.

The receiver looks at a data set only as far as it needs to keep it (`receiving.header`); whoever reads the whole of it later may meet
what a parser cannot take: sequences nested without end, lengths that lie, values of another representation.
"""

import warnings
from pathlib import Path

from pydicom import Dataset, dcmread

from service.errors import InvalidInstance


def read_film(path: Path) -> Dataset:
    """Return the data set of a DICOM file.

    Raises
    ------
    InvalidInstance
        When it cannot be parsed; a file that is not there stays an `OSError`.
    """
    if not path.exists():
        raise FileNotFoundError(path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they repeat values of the patient
            return dcmread(path)
    except Exception as error:  # whatever a parser makes of hostile bytes, it is the same outcome
        raise InvalidInstance(
            f"the data set cannot be parsed beyond its header: {type(error).__name__}",
            code="cannot-parse",
            next_action="see how the sender encodes this film; it is kept as it came",
        ) from error
