"""Give broken films to the steps after the reception: header, routing, de-identification, decoding, in a process that may die.

The codecs are C libraries: only a process of its own can crash without ending the campaign.
"""

import multiprocessing
import os
import resource
import tempfile
import traceback
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from benchmarks.fuzz.finding import Finding, Late
from benchmarks.fuzz.mutations import Program, mutated
from benchmarks.fuzz.seeds import Seed
from models import pixels
from service.deidentification.deidentify import for_inference
from service.errors import CarpusError
from service.film_file import read_film
from service.routing import Outcome, route
from service.trust.pseudonyms import Pseudonyms

STEP_SECONDS = 60.0  # a film that takes longer hangs
MEMORY_BYTES = 6 * 1024**3  # of address space: an allocation beyond it is an error, not the end of the machine
PREAMBLE = b"\0" * 128 + b"DICM"


@dataclass
class Worker(AbstractContextManager["Worker"]):
    """A process that takes films one by one."""

    process: multiprocessing.process.BaseProcess | None = None
    pipe: Connection | None = None
    restarts: int = -1

    def __enter__(self) -> Self:
        """Start it."""
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self._stop()

    def run(self, seed: Seed, program: Program) -> str:
        """Return what the steps made of a film.

        Raises
        ------
        Finding
            When the process died, or did not come to an end, or an error came that no step expects.
        """
        assert self.pipe is not None  # noqa: S101 - started
        case = f"film, {seed.name}, {program!r}"
        self.pipe.send_bytes(_file(seed, mutated(seed.data, program, seed.starts)))
        if not self.pipe.poll(STEP_SECONDS):
            self._restart()
            raise Late("film: hang", case)
        try:
            said = self.pipe.recv_bytes().decode()
        except (EOFError, OSError):
            code = self._restart()
            raise Finding(f"film: crash (exit status {code})", case) from None
        if said.startswith("unexpected"):
            raise Finding(f"film: {said}", case)
        return said

    def resident_bytes(self) -> int:
        """Return the memory it holds."""
        assert self.process is not None  # noqa: S101 - started
        assert self.process.pid is not None  # noqa: S101 - started
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.restarts += 1

    def _stop(self) -> int | None:
        assert self.process is not None  # noqa: S101 - started
        assert self.pipe is not None  # noqa: S101 - started
        self.pipe.close()
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode

    def _restart(self) -> int | None:
        code = self._stop()
        self._start()
        return code


def _file(seed: Seed, data: bytes) -> bytes:
    """Return the data set as the receiver would have written it."""
    meta = create_file_meta(
        sop_class_uid=seed.sop_class,  # type: ignore[arg-type]
        sop_instance_uid=seed.sop_instance,  # type: ignore[arg-type]
        transfer_syntax=seed.transfer_syntax,
        implementation_uid=PYDICOM_IMPLEMENTATION_UID,
        implementation_version="FUZZ",
    )
    return PREAMBLE + encode_file_meta(meta) + data


def _work(pipe: Connection) -> None:
    """Take films until the pipe closes."""
    os.environ["OMP_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as null:  # noqa: PTH123 - a descriptor is needed; codecs print what they dislike
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    pseudonyms = Pseudonyms(b"k" * 32)
    with tempfile.TemporaryDirectory() as folder:
        path, copy_path = Path(folder) / "film.dcm", Path(folder) / "copy.dcm"
        while True:
            try:
                path.write_bytes(pipe.recv_bytes())
            except (EOFError, OSError):
                return
            pipe.send_bytes(_steps(path, copy_path, pseudonyms).encode())


def _steps(path: Path, copy_path: Path, pseudonyms: Pseudonyms) -> str:
    """Do what `pipeline.prepare` and the first half of `pipeline.infer` do."""
    try:
        film = read_film(path)
        decision = route(film)
        if decision.outcome is not Outcome.READ:
            return f"routing: {decision.code}"
        copy = for_inference(film, pseudonyms)
        copy.save_as(copy_path, enforce_file_format=True)
        pixels.load(copy_path)
    except CarpusError as error:
        return f"refused: {error.code}"
    except pixels.UnreadablePixels as error:
        return f"unreadable: {error.code}"
    except Exception as error:  # noqa: BLE001 - what is looked for
        ours = [
            f
            for f in traceback.extract_tb(error.__traceback__)
            if "/service/" in f.filename or "/models/" in f.filename
        ]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "outside"
        return f"unexpected {type(error).__name__} at {place}"
    return "read"
