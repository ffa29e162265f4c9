"""Films whose header holds exactly the bytes a test asks for, whatever its character set says."""

from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from tests.factories import encoded, instance
from tests.service import readings

SIZE = {"rows": readings.ROWS, "columns": readings.COLUMNS}

# Character set as stated, and a name as PACS hold them.
NAMES = [
    ("ISO_IR 100", "Müller^Zoë".encode("latin-1")),
    ("ISO_IR 192", "Test^Zhang=测试^张".encode()),
    ("GB18030", "Test^Zhang=测试^张".encode("gb18030")),
    ("\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab "),
    (None, "张^测试".encode("gbk")),  # no character set stated, yet GBK: what PACS hold in practice
    ("ISO_IR 100", "张^测试".encode("gbk")),  # the wrong one stated
    ("ISO_IR 192", b"Zh\xff\xfeng^X "),  # bytes that are no UTF-8 at all
]


def received(raw: bytes) -> Dataset:
    return dcmread(BytesIO(raw))


def with_raw(keyword: str, value: bytes, *, character_set: str | None, **options: Any) -> bytes:
    """Return a film whose element holds exactly these bytes, whatever its character set says."""
    ds = instance(**{**SIZE, **options})
    if character_set is None:
        del ds.SpecificCharacterSet
    else:
        ds.SpecificCharacterSet = character_set.split("\\") if "\\" in character_set else character_set
    stand_in = {"StudyDate": "1999010133", "PatientBirthDate": "19990101", "StudyTime": "235959.1"}
    placeholder = stand_in.get(keyword, "9" * len(value))[: len(value)].encode()
    ds[keyword] = RawDataElement(Tag(keyword), ds[keyword].VR, len(placeholder), placeholder, 0, False, True, True)
    ds.set_original_encoding(False, True, ds._character_set)
    whole = encoded(ds)
    assert whole.count(placeholder) == 1
    return whole.replace(placeholder, value)
