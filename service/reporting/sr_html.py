"""Render a Structured Report's content tree as one plain HTML page, for a person without an SR viewer.

Tolerant in what it reads: an item of an unknown value type is shown with its type, never dropped (PS3.3 C.17.3).
"""

from html import escape

from pydicom.dataset import Dataset

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #1c2733; background: #fff; }
h1 { font-size: 1.4rem; margin-bottom: 0.2rem; }
.note { color: #8a4b00; font-weight: 600; }
.name, dt { color: #51606f; }
.value { font-weight: 600; white-space: pre-line; }
ul { list-style: none; padding-left: 1.2rem; border-left: 2px solid #dde4ea; margin: 0.2rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }
dd { margin: 0; }
@media (prefers-color-scheme: dark) {
  body { color: #dfe7ee; background: #14191e; }
  .name, dt { color: #93a3b3; }
  ul { border-color: #33404c; }
  .note { color: #ffb86b; }
}
"""
HEADER = (
    "PatientName",
    "PatientID",
    "PatientSex",
    "StudyDate",
    "AccessionNumber",
    "CompletionFlag",
    "VerificationFlag",
)


def render(report: Dataset) -> str:
    """Return the HTML page of a report.

    Raises
    ------
    ValueError
        When the dataset holds no content tree (Modality is not SR).
    """
    if "ContentSequence" not in report:
        raise ValueError(f"SOP class {report.get('SOPClassUID', '?')} holds no ContentSequence; an SR is needed")
    title = _meaning(report.get("ConceptNameCodeSequence"))
    rows = "".join(f"<dt>{escape(keyword)}</dt><dd>{escape(str(report.get(keyword, '')))}</dd>" for keyword in HEADER)
    return (
        f'<!doctype html><html><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p class='note'>{escape(str(report.get('SeriesDescription', '')))}</p>"
        f"<dl>{rows}</dl>{_children(report)}</body></html>"
    )


def _children(item: Dataset) -> str:
    items = item.get("ContentSequence") or ()
    return "<ul>" + "".join(f"<li>{_item(child)}{_children(child)}</li>" for child in items) + "</ul>" if items else ""


def _item(item: Dataset) -> str:
    name = escape(_meaning(item.get("ConceptNameCodeSequence")))
    return f"<span class='name'>{name}</span> <span class='value'>{escape(_value(item))}</span>"


def _value(item: Dataset) -> str:
    kind = str(item.get("ValueType", "?"))
    match kind:
        case "CONTAINER":
            return ""
        case "NUM":
            measured = item.get("MeasuredValueSequence")
            if not measured:
                return _meaning(item.get("NumericValueQualifierCodeSequence"))
            unit = _meaning(measured[0].get("MeasurementUnitsCodeSequence"))
            return f"{measured[0].NumericValue} {unit}"
        case "CODE":
            return _meaning(item.get("ConceptCodeSequence"))
        case "TEXT":
            return str(item.get("TextValue", ""))
        case "PNAME":
            return str(item.get("PersonName", ""))
        case "UIDREF":
            return str(item.get("UID", ""))
        case "DATE" | "TIME" | "DATETIME":
            return str(
                item.get(kind.replace("DATETIME", "DateTime").replace("DATE", "Date").replace("TIME", "Time"), "")
            )
        case "IMAGE" | "COMPOSITE":
            return str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        case "SCOORD" | "SCOORD3D":
            points = ", ".join(f"{value:g}" for value in item.get("GraphicData", ()))
            return f"{item.get('GraphicType', '')} ({points})"
        case _:
            return f"({kind})"


def _meaning(codes: object) -> str:
    return str(codes[0].get("CodeMeaning", "")) if codes else ""  # type: ignore[index]  # a pydicom Sequence or None
