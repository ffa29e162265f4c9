"""Make pydicom read and write Chinese text as the standard asks; everything that touches text imports this first.

pydicom 3.0.2 counts GB 2312 (ISO 2022 IR 58) among the encodings whose escape sequences Python's codec handles; it handles
none. Text would be read with the escape sequence in it and written without.
"""

from pydicom import charset

charset.handled_encodings = tuple(e for e in charset.handled_encodings if e != "iso_ir_58")  # type: ignore[assignment]
