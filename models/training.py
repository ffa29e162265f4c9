"""Which training belongs to which problem, and what a folder of films must become before it can be trained on."""

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

# Problem -> (module whose `main(argv)` trains it, what it learns from).
PROBLEMS: Final = {
    "detection": ("models.detection.train", "phantoms, and annotated films where given"),
    "segmentation": ("models.segmentation.train", "phantom crops with outlines"),
    "grading": ("models.grading.train", "phantom crops with stages"),
    "grading-from-ages": ("models.grading.tune", "films that carry a bone age and no stages"),
    "regression": ("models.regression.train", "films with a bone age"),
    "regression-regions": ("models.regression.boost", "region features that `python -m models.features` cut (P2)"),
}


def train(problem: str, arguments: Sequence[str]) -> None:
    """Run one problem's training with the arguments of its script.

    Raises
    ------
    ValueError
        When there is no such problem.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"problem {problem!r} is not one of {', '.join(PROBLEMS)}")
    if problem == "grading-from-ages":
        arguments = _with_readings(arguments)
    main: Callable[[Sequence[str]], None] = importlib.import_module(PROBLEMS[problem][0]).main
    main(list(arguments))


def _with_readings(arguments: Sequence[str]) -> list[str]:
    """Read a folder of films first, where the arguments name one and no readings of it."""
    from models.grading.tune import parser

    options = parser().parse_args(list(arguments))
    if options.readings is not None or not is_archive(options.data):
        return list(arguments)
    return [*arguments, "--readings", str(read_archive(options.data, options.out, "default"))]


def is_archive(path: Path) -> bool:
    """Tell whether a path is a hospital's folder of films with its table."""
    from models.datasets.archive import TABLE

    return (path / TABLE).is_file()


def read_archive(archive: Path, out: Path, bundle: str) -> Path:
    """Read every film of an archive once with a bundle and keep the readings; a run that was interrupted goes on.

    Training then cuts its crops where the bundle's detector found the regions. Return the file of JSON lines.
    """
    from models import registry
    from models.datasets import archive as table
    from models.datasets import readings
    from models.engine import Progress
    from models.evaluation import cases

    films = table.read(archive, needs=("bone_age_years",))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "readings.jsonl"
    done: dict[str, readings.Line] = {}
    if path.exists():
        whole, _, _ = path.read_bytes().rpartition(b"\n")  # a run that was killed leaves its last line half written
        path.write_bytes(whole + b"\n" if whole else b"")
        done = readings.read(path)
    todo = [film for film in films if film.file not in done]
    if not todo:
        return path
    reader = registry.load(bundle)
    progress = Progress(len(todo))
    with path.open("a", encoding="utf-8") as file:
        for number, (film, reading) in enumerate(cases.read(reader, todo), 1):
            line = {"error": reading} if isinstance(reading, str) else reading.to_dict()
            file.write(json.dumps({"file": film.file, **line}, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            progress.report(number)
    return path
