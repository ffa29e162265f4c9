"""The options of a training run: what all problems share, kept as one file with the weights.

A script makes its parser here, adds what only it has, and keeps its options with `keep`. A run is resumed by the same command;
a folder that holds a run with other options is refused, so that no run continues as something else.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from models import weights
from models.engine import EarlyStop
from models.refusal import Refusal

CONFIG_FILE: Final = "training.json"
# What may change when a run is resumed: how long, how often, on what.
FREE: Final = frozenset(
    {
        "steps",
        "epochs",
        "minutes",
        "every",
        "patience",
        "threads",
        "workers",
        "device",
        "out",
        "weights",
        "films",
    }
)
_WHERE: Final = frozenset(
    {
        "data",
        "out",
        "weights",
        "start",
        "trunk",
        "phantoms",
        "phantom_cache",
        "readings",
        "split",
        "teacher",
        "outlines",
        "outlines_validation",
    }
)  # places on one machine: they say nothing of the weights; what counts of their content is kept by its hash


class RunRefused(Refusal):
    """Options or a folder that no run can begin or go on with; the text names the value and what would be right."""


def parser(
    text: str | None,
    *,
    architectures: Sequence[str],
    steps: int,
    batch: int,
    rate: float,
    decay: float,
    every: int,
    data: str,
    data_required: bool = True,
) -> argparse.ArgumentParser:
    """Return a parser with the options that every training has; the numbers are the problem's defaults.

    Parameters
    ----------
    architectures
        The names `--architecture` takes, the default first.
    data
        Help of `--data`.
    """
    made = argparse.ArgumentParser(description=text, formatter_class=_Formatter)
    made.add_argument("--data", type=Path, required=data_required, help=data)
    made.add_argument("--out", type=Path, required=True, help="folder for checkpoints and journal; resumes a run in it")
    made.add_argument("--weights", type=Path, help="weights folder to write; none: weights/ in --out")
    made.add_argument("--architecture", choices=list(architectures), default=architectures[0])
    made.add_argument("--steps", type=int, default=steps)
    made.add_argument("--minutes", type=float, help="end after so long; the schedule then follows the clock")
    made.add_argument("--batch", type=int, default=batch)
    made.add_argument("--rate", type=float, default=rate, help="peak learning rate")
    made.add_argument("--decay", type=float, default=decay, help="weight decay")
    made.add_argument("--every", type=int, default=every, help="steps between looks at the validation films")
    made.add_argument("--patience", type=int, help="end after so many looks in a row without a better one")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    made.add_argument("--device", default="auto", help="auto takes a GPU where there is one")
    made.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    return made


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, and leave the description as it is written."""


def phantoms(data: Path) -> int | None:
    """Return N where `--data` is "phantoms:N", the number of films to draw first; None where it is a folder.

    Raises
    ------
    RunRefused
        When N is not a number from 1.
    """
    kind, colon, number = str(data).partition(":")
    if kind != "phantoms" or not colon:
        return None
    if not number.isdigit() or int(number) < 1:
        raise RunRefused(f"--data {data}: phantoms:N takes the number of films, such as phantoms:4000")
    return int(number)


def config(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options as JSON holds them."""
    return {name: _plain(value) for name, value in sorted(vars(options).items())}


def keep(options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Write the options and further facts into the run's folder and return them.

    Raises
    ------
    RunRefused
        When the folder holds a run with other options that make other weights.
    """
    path = options.out / CONFIG_FILE
    values = {**config(options), **{name: _plain(value) for name, value in more.items()}}
    start: Path | None = getattr(options, "start", None)
    if start is not None and (start / weights.METADATA_FILE).is_file():
        values["start_sha256"] = weights.digest(start)
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted((values.keys() & kept.keys()) - FREE - _WHERE):
            if values[name] != kept[name]:
                raise RunRefused(
                    f"{options.out} holds a run with {name} {kept[name]}, not {values[name]}; "
                    f"choose another folder for --out or the same options"
                )
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return values


def attached(values: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the configuration as a file of the weights folder, without the places of this machine."""
    kept = {name: value for name, value in values.items() if name not in _WHERE}
    return {CONFIG_FILE: (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode()}


def save(
    options: argparse.Namespace,
    kept: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    metadata: weights.Metadata,
    files: Mapping[str, bytes] | None = None,
) -> weights.Metadata:
    """Write the weights of a run where `--weights` says, else beside its checkpoints: half precision, its options attached.

    What the run was begun from (`--start`) passes its terms and data on.

    Parameters
    ----------
    kept
        What `keep` returned.
    files
        Further files of the weights folder by name, such as a booster.
    """
    start: Path | None = getattr(options, "start", None)
    if start is not None and (start / weights.METADATA_FILE).is_file():
        metadata = weights.begun_from(metadata, weights.Metadata.read(start))
    return weights.save(
        weights_folder(options), tensors, metadata, extra={**(files or {}), **attached(kept)}, half=True
    )


def ended(options: argparse.Namespace, first: int, step: int, stop: EarlyStop | None = None) -> None:
    """Say on the terminal that a run has ended, why, where its weights lie, and how to go on.

    Parameters
    ----------
    first
        The step the run stood at when it was begun or resumed.
    step
        The step it stands at now; as `first`, nothing was trained.
    stop
        None where a run cannot be made longer.
    """
    if step >= options.steps:
        why, longer = f"{step} of {options.steps} steps are done", "--steps"
    elif stop is not None and stop.stop:
        why, longer = f"{stop.waited} looks in a row were no better at step {step}", "--patience"
    else:
        why, longer = f"its time is spent at step {step} of {options.steps}", "--minutes"
    line = f"the run in {options.out} has ended: {why}; its weights are in {weights_folder(options)}"
    if step == first:
        more = "" if stop is None else f"a larger {longer} goes on, "
        line += f". Nothing was trained now: {more}another --out begins anew"
    print(line, file=sys.stderr)  # noqa: T201 - a training log


def weights_folder(options: argparse.Namespace) -> Path:
    """Return where a run writes its weights: where `--weights` says, else beside its checkpoints."""
    folder: Path = options.weights or options.out / "weights"
    return folder


def limit_threads(options: argparse.Namespace) -> None:
    """Take as many threads of the CPU as the options say."""
    torch.set_num_threads(options.threads)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
