"""Draw Bland-Altman and reliability plots as PNG; matplotlib comes with the extra `train`."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from models.evaluation.cases import Case

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK: Final = {"F": "#b5446e", "M": "#2f6690"}
WORDS: Final = {"F": "girls", "M": "boys"}


def _points(measured: Sequence[Case], method: str, sex: str) -> list[tuple[float, float]]:
    """Return bone age and reference of each film of a sex that the method gave an age."""
    return [
        (answer.years, case.reference_years)
        for case in measured
        if case.sex == sex and (answer := case.answers.get(method)) is not None and answer.years is not None
    ]


def bland_altman(measured: Sequence[Case], method: str) -> bytes:
    """Difference against mean of bone age and reference, with bias and limits of agreement of each sex."""
    figure, axes = _figure()
    for sex, ink in INK.items():
        points = _points(measured, method, sex)
        if not points:
            continue
        found, reference = np.array(points).T
        difference = found - reference
        axes.plot(
            (found + reference) / 2,
            difference,
            "o",
            ms=3.5,
            alpha=0.6,
            color=ink,
            label=f"{WORDS[sex]}, n={len(points)}",
        )
        bias, sd = float(difference.mean()), float(difference.std(ddof=1)) if len(points) > 1 else 0.0
        axes.axhline(bias, color=ink, lw=1.2)
        for limit in (bias - 1.96 * sd, bias + 1.96 * sd):
            axes.axhline(limit, color=ink, lw=1, ls="--")
    axes.axhline(0, color="#999999", lw=0.8)
    axes.set_xlabel("mean of bone age and reference, years")
    axes.set_ylabel("bone age minus reference, years")
    axes.set_title(f"{method}: bias (line) and 95 % limits of agreement (dashed)")
    axes.legend(frameon=False)
    return _png(figure)


def age_reliability(measured: Sequence[Case], method: str, groups: int = 10) -> bytes:
    """Mean reference against mean bone age in groups of like bone age: on the diagonal the method is right on average."""
    figure, axes = _figure()
    top = 1.0
    for sex, ink in INK.items():
        points = _points(measured, method, sex)
        if not points:
            continue
        points.sort()
        chunks = [np.array(chunk) for chunk in np.array_split(np.array(points), min(groups, len(points)))]
        means = np.array([chunk.mean(0) for chunk in chunks])
        errors = np.array([1.96 * chunk[:, 1].std() / np.sqrt(len(chunk)) for chunk in chunks])
        axes.errorbar(
            means[:, 0], means[:, 1], yerr=errors, fmt="o-", ms=4, lw=1, color=ink, capsize=2, label=WORDS[sex]
        )
        top = max(top, float(means.max()) + 1)
    axes.plot([0, top], [0, top], color="#999999", lw=0.8)
    axes.set_xlabel("bone age, years (mean of a group)")
    axes.set_ylabel("reference, years (mean, 95 % interval)")
    axes.set_title(f"{method}: is the bone age right on average?")
    axes.legend(frameon=False)
    return _png(figure)


def stage_reliability(bins: Sequence[dict[str, float]]) -> bytes:
    """Share of stages that are right against the probability stated for them."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="#999999", lw=0.8)
    stated, right, count = (np.array([row[key] for row in bins]) for key in ("stated", "right", "n"))
    axes.plot(stated, right, "-", color=INK["M"], lw=1)
    axes.scatter(stated, right, s=10 + 190 * count / count.max(), color=INK["M"], alpha=0.7)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability stated")
    axes.set_ylabel("share right (area: number of bones)")
    axes.set_title("Stages: does the probability mean what it says?")
    return _png(figure)


def _figure() -> "tuple[Any, Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(visible=True, lw=0.4, color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    target = io.BytesIO()
    # No software version in the file: the same figures give the same bytes.
    figure.savefig(target, format="png", dpi=110, metadata={"Software": None})
    return target.getvalue()
