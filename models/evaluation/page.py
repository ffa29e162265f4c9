"""Write an evaluation as files: rows, figures, plots and one HTML page that holds them all."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from models.engine import git_commit
from models.evaluation import cases, plots, tables
from models.evaluation.cases import Case
from models.registry import Description


def write(
    folder: Path, measured: Sequence[Case], bundle: Description, *, table_sha256: str, command: str
) -> dict[str, Any]:
    """Write `rows.csv`, `figures.json`, the plots and `report.html` into a folder; return the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    report = tables.report(measured)
    cases.write(folder / "rows.csv", measured)
    images: dict[str, bytes] = {}
    shown: dict[str, list[str]] = {}
    for method, parts in report["methods"].items():
        shown[method] = []
        if "mae_years" not in parts["all"]:
            continue
        for kind, draw in (("bland-altman", plots.bland_altman), ("reliability", plots.age_reliability)):
            name = f"{kind}-{re.sub(r'[^a-z0-9]+', '-', method.lower())}"
            images[name] = draw(measured, method)
            shown[method].append(name)
    if "stages" in report:
        images["stages"] = plots.stage_reliability(report["stages"]["reliability"])
    for name, content in images.items():
        (folder / f"{name}.png").write_bytes(content)
    facts: Mapping[str, Any] = {
        "bundle": f"{bundle.name} {bundle.version}",
        "bundle_sha256": bundle.sha256,
        "terms": bundle.terms,
        "table_sha256": table_sha256,
        "commit": git_commit(),
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "calibration": None
        if (calibration := bundle.scoring.calibration) is None
        else f"{calibration.site}, signed off by {calibration.sign_off.name}",
    }
    reasons = tables.missing(measured)
    result = {**facts, **report, "missing": reasons}
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "figures.json").write_text(text + "\n", encoding="utf-8")
    encoded = {name: base64.b64encode(content).decode() for name, content in images.items()}
    page = _environment().from_string((files("models.evaluation") / "page.html").read_text("utf-8"))
    html = page.render(**facts, report=report, images=encoded, plots=shown, missing=reasons)
    (folder / "report.html").write_text(html, encoding="utf-8")
    return result


def _environment() -> Environment:
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters["interval"] = _interval
    made.filters["share"] = _share
    return made


def _interval(value: Any, digits: int) -> str:
    """Write an estimate with its interval; a dash where there is none."""
    if not isinstance(value, Mapping):
        return "–"
    return f"{value['value']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def _share(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "–"
    return f"{value['value']:.0%} ({value['low']:.0%} to {value['high']:.0%})"
