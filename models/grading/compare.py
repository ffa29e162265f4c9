r"""Lay graders side by side on the same phantoms: the networks and weightings of P5, and the losses.

    python -m models.grading.compare --validation ../crops/validation --test ../crops/test --out ../runs/compare \
        --grader resnext-50=../runs/resnext-50/weights --grader csp-resnext-50=../runs/csp-resnext-50/weights \
        --ratio csp-resnext-50/resnext-50 --json benchmarks/accuracy/grading_networks.json

TopN's threshold is found on the validation films for each grader and used on the test films. Differences are paired: both rules,
or both graders, read the same films, which are drawn together. The probabilities of a grader are kept in `--out`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models import refusal, weights
from models.engine import Progress, git_commit
from models.grading import measure
from models.grading.ages import sexes_of
from models.grading.augment import centre
from models.grading.evaluate import stages, threshold_curve
from models.grading.losses import stage_of
from models.grading.network import ARCHITECTURES, build
from models.grading.phantoms import Crops
from models.metrics.bootstrap import estimate
from models.standards import RUS_CHN, TW3C_RUS, Classic, Top2, TopN, Weighting

# Which order P5 states: the first of each pair errs less.
PAIRS: Final = (("TopN", "Top2"), ("Top2", "classic"), ("TopN", "classic"))
STANDARDS: Final = (TW3C_RUS, RUS_CHN)
BATCH: Final = 16  # films at a time

Array = NDArray[np.float64]


def _named(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=WEIGHTS")
    return name, folder


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--grader", action="append", required=True, type=_named, help="NAME=WEIGHTS, as often as there are graders"
    )
    made.add_argument("--ratio", action="append", default=[], help="A/B: the error and the size of A over those of B")
    made.add_argument("--validation", type=Path, required=True, help="cache of phantoms for the threshold of TopN")
    made.add_argument("--test", type=Path, action="append", required=True, help="cache of phantoms; may be given again")
    made.add_argument("--out", type=Path, required=True, help="folder for the probabilities of each grader")
    made.add_argument("--json", type=Path, required=True)
    made.add_argument("--note", default="", help="what a reader of the table must know, such as the budget")
    made.add_argument("--threads", type=int, default=1)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every grader and write the results file."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    named = dict(options.grader)
    validation, tests = Crops.load(options.validation), [Crops.load(folder) for folder in options.test]
    options.out.mkdir(parents=True, exist_ok=True)
    graders: dict[str, Any] = {}
    errors: dict[str, dict[str, Array]] = {}
    female = np.concatenate([films.female for films in tests])
    for name, folder in named.items():
        tensors, card = weights.load(Path(folder), problem="grading", architectures=ARCHITECTURES)
        sha = card.files[weights.TENSOR_FILE]
        own = [_chances(options.out, sha, tensors, card, films) for films in (validation, *tests)]
        curve = threshold_curve(own[0], validation)
        threshold = min(curve, key=lambda value: curve[value])
        by_rule, errors[name] = ages(own[1:], tests, threshold, female)
        joined = Crops(
            np.concatenate([films.pixels[:, :, :1, :1] for films in tests]),
            np.concatenate([films.maturity for films in tests]),
            female,
            np.concatenate([films.bone_age_years for films in tests]),
            np.concatenate([films.seed for films in tests]),
        )
        size = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
        graders[name] = {
            "architecture": card.architecture,
            "loss": card.hyperparameters["loss"],
            "parameters_millions": round(size / 1e6, 2),
            "megabytes_fp32": round(4 * size / 1e6, 2),
            "trained": f"{card.hyperparameters['steps']} steps of {card.hyperparameters['batch']} films at {card.preprocessing['size']} px",
            "weights_sha256": sha,
            "stages": {key: value for key, value in stages(np.concatenate(own[1:]), joined).items() if "by" not in key},
            "log_loss": measure.summary(own[1], tests[0])["log_loss"],
            "topn_threshold": threshold,
            "bone_age": by_rule,
        }
    result = {
        "problem": "grading",
        "paper": "P5 TopN TW3-C RUS with CSP-ResNeXt50",
        "command": "python -m models.grading.compare " + " ".join(f"--grader {name}=WEIGHTS" for name in named),
        "commit": git_commit(),
        "data": f"{len(female)} phantoms drawn by age that no grader learnt from ({int(female.sum())} girls), true boxes",
        "note": options.note,
        "graders": graders,
        "ratios": {pair: ratio(pair, graders, errors, female) for pair in options.ratio},
    }
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@torch.inference_mode()
def _chances(
    out: Path, sha: str, tensors: dict[str, torch.Tensor], card: weights.Metadata, films: Crops
) -> NDArray[np.float64]:
    """Return a grader's stage probabilities, from those kept where it has read these films before."""
    kept = out / f"{sha[:16]}-{int(films.seed[0])}-{len(films)}.npy"
    if kept.exists():
        found: NDArray[np.float64] = np.load(kept)
        return found
    net = build(card.architecture, dict(card.hyperparameters))
    net.load_state_dict(tensors)
    net.to(memory_format=torch.channels_last)
    progress = Progress(len(films), every_seconds=30)
    parts = []
    for start in range(0, len(films), BATCH):
        crops = centre(torch.from_numpy(films.pixels[start : start + BATCH]), int(card.preprocessing["size"]))
        parts.append(net.probabilities(measure.run(net, crops, BATCH)).double())
        progress.report(min(len(films), start + BATCH))
    chances: NDArray[np.float64] = torch.cat(parts).numpy()
    np.save(kept, chances)
    return chances


def ages(
    chances: Sequence[Array], tests: Sequence[Crops], threshold: float, female: NDArray[np.bool_]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the errors of each standard, rule and sex, their paired differences, and the single errors in years, NaN without an age.

    The truth is the age of the true stages.
    """
    rules: dict[str, Weighting] = {"classic": Classic(), "Top2": Top2(), "TopN": TopN(threshold)}
    groups = {"all": female | True, "F": female, "M": ~female}
    figures: dict[str, Any] = {}
    single: dict[str, Array] = {}
    for standard in STANDARDS:
        off: dict[str, list[Array]] = {rule: [] for rule in rules}
        for own, films in zip(chances, tests, strict=True):
            sexes = sexes_of((~films.female).astype(int).tolist())
            exact = np.eye(own.shape[-1])[stage_of(torch.from_numpy(films.maturity)).numpy()]
            true = measure.ages(exact, sexes, Classic(), standard)
            for name, rule in rules.items():
                off[name].append(np.abs(measure.ages(own, sexes, rule, standard) - true))
        error = {rule: np.concatenate(parts) for rule, parts in off.items()}
        single |= {f"{standard.name} {rule}": values for rule, values in error.items()}
        known = np.isfinite(np.stack(list(error.values()))).all(0)
        figures[standard.name] = {
            group: {
                "mae_years": {rule: _mean(error[rule][known & chosen]) for rule in rules},
                "difference_years": {f"{a} - {b}": _mean((error[a] - error[b])[known & chosen]) for a, b in PAIRS},
            }
            for group, chosen in groups.items()
        }
    return figures, single


def ratio(
    pair: str,
    graders: dict[str, Any],
    errors: dict[str, dict[str, Array]],
    female: NDArray[np.bool_],
) -> dict[str, Any]:
    """Return for "A/B" the size of A over that of B, and the ratio of their TopN errors by TW3-C RUS with its interval."""
    first, second = pair.split("/")
    key = f"{TW3C_RUS.name} TopN"
    pairs = np.stack((errors[first][key], errors[second][key]), 1)
    known = np.isfinite(pairs).all(1)
    return {
        "size": round(graders[first]["parameters_millions"] / graders[second]["parameters_millions"], 4),
        "error": {
            group: estimate(pairs[known & chosen], lambda rows: float(rows[:, 0].mean() / rows[:, 1].mean())).to_dict()
            for group, chosen in (("all", female | True), ("F", female), ("M", ~female))
        },
    }


def _mean(values: Array) -> dict[str, float | int]:
    return estimate(values, lambda rows: float(rows.mean())).to_dict()


if __name__ == "__main__":
    refusal.command(main)
