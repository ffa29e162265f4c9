"""Films as modalities send them: wrapped phantoms, over several associations of DCMTK's storescu, in bursts, again until taken."""

import random
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from benchmarks import dcmtk
from models import phantom
from models.image import Image
from service.wrap import Patient, save, wrap

ROWS, COLUMNS = 600, 450  # of the Reading that the stub returns
SMALL: Final = (300, 225)  # what is broken is the way of a film, not the film: a large one only takes longer on it
SENDERS: Final = 8
AGAIN_SECONDS: Final = 1.0
STORESCU_SECONDS: Final = 300.0  # for up to six films
_LINE: Final = re.compile(r"Sending file: (?P<file>.+)|Received Store Response \((?P<answer>[^)]*)\)")


@dataclass(frozen=True, slots=True)
class Film:
    """One film of the load."""

    path: Path
    SOPInstanceUID: str
    StudyInstanceUID: str


@cache
def _hand(rows: int, columns: int) -> NDArray[np.float32]:
    drawn = phantom.draw(1, age_years=9, sex="F").image.pixels
    scaled = (np.asarray(drawn, dtype=np.float64) / max(float(np.max(drawn)), 1e-9) * 255).astype(np.uint8)
    return np.asarray(Pillow.fromarray(scaled).resize((columns, rows)), dtype=np.float32) / np.float32(255)


def films(folder: Path, number: int, key: str, *, size: tuple[int, int] = (ROWS, COLUMNS)) -> list[Film]:
    """Write so many films of `size` (rows, columns); every two are of one patient, each in a study of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    hand = _hand(*size)
    made = []
    for index in range(number):
        pixels = hand.copy()
        pixels[0, :64] = np.frombuffer(f"{key}{index:06d}".encode().ljust(64)[:64], dtype=np.uint8) / np.float32(255)
        patient = Patient(f"TEST^CHAOS {index // 2}", f"TEST-{key}-{index // 2}", "F")
        ds = wrap(Image(pixels), patient, study=(key, index))
        path = save(ds, folder / f"{key}-{index:05d}.dcm")
        made.append(Film(path, str(ds.SOPInstanceUID), str(ds.StudyInstanceUID)))
    return made


@dataclass
class Load:
    """The senders at work.

    Parameters
    ----------
    port
        Of the listener under test.
    """

    films: list[Film]
    port: int
    seed: int
    give_up_seconds: float = 300
    answers: dict[str, list[str]] = field(default_factory=dict)  # by file: every answer, "" where none came
    acknowledged: dict[str, float] = field(default_factory=dict)  # by file: when (monotonic)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Send from several associations."""
        for number in range(SENDERS):
            mine = self.films[number::SENDERS]
            if mine:
                thread = threading.Thread(target=self._send, args=(mine, random.Random(f"{self.seed}-{number}")))  # noqa: S311
                self._threads.append(thread)
                thread.start()

    def join(self) -> None:
        """Wait until everything is acknowledged or given up."""
        for thread in self._threads:
            thread.join()

    @property
    def share(self) -> float:
        """How much of the load is acknowledged."""
        return len(self.acknowledged) / max(len(self.films), 1)

    def _send(self, mine: list[Film], dice: random.Random) -> None:
        end = time.monotonic() + self.give_up_seconds
        waiting = [film.path for film in mine]
        while waiting and time.monotonic() < end:
            burst, rest = waiting[: dice.randint(1, 6)], waiting[6:]
            taken = self._storescu(burst)
            left = [path for path in burst if path not in taken]
            waiting = [path for path in waiting if path not in taken]
            if left:
                time.sleep(AGAIN_SECONDS)
            elif rest:
                time.sleep(dice.uniform(0, 0.3))

    def _storescu(self, paths: list[Path]) -> set[Path]:
        """Send over one association; return what was answered with Success."""
        command = [
            dcmtk.needed("storescu"),
            "-v",
            "-R",
            "-nh",
            "-to",
            "5",
            "-ta",
            "10",
            "-td",
            "20",
            "-aet",
            "PACS",
            "-aec",
            "CARPUS",
        ]
        with subprocess.Popen(
            [*command, "127.0.0.1", str(self.port), *map(str, paths)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=STORESCU_SECONDS)
            except subprocess.TimeoutExpired:  # what it has heard so far counts; the rest is sent again
                process.kill()
                said, _ = process.communicate()
        taken, current = set(), None
        for match in _LINE.finditer(said):
            if match["file"]:
                current = Path(match["file"].strip())
                self.answers.setdefault(current.name, []).append("")
            elif current is not None:
                self.answers[current.name][-1] = match["answer"]
                if match["answer"] == "Success":
                    taken.add(current)
                    self.acknowledged.setdefault(current.name, time.monotonic())
        return taken
