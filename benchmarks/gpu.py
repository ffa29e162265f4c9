"""Read films with the networks on a GPU, several films at a time: films a second, and the share of the time that is not the GPU's.

    python -m benchmarks.gpu --films 256 --json benchmarks/accuracy/gpu.json

The Reader stays as it is. As many films as the batch is large are read at once, each in a thread of its own; what their networks are
asked meanwhile is gathered into one batch and run on the GPU. Without a GPU it says so and measures nothing.
"""

import argparse
import json
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from models import phantom, refusal, registry
from models.engine import git_commit
from models.reader import Reader
from models.reading import Reading

SIZES: Final = (1, 8, 64)
FIRST_SEED: Final = 35_000_000
PATIENCE_SECONDS: Final = 0.004  # how long the first film of a batch waits for others
# Where a predictor keeps its networks.
_NETWORKS: Final = ("network", "closer", "cast", "net")
Asked = tuple[tuple[Tensor, ...], "Future[Any]"]


class Gathered(nn.Module):
    """A network that runs what several threads ask of it as one batch on a device.

    Parameters
    ----------
    size
        Films at most in one batch.
    """

    def __init__(self, network: nn.Module, device: torch.device, size: int) -> None:
        super().__init__()
        self.network = network.to(device)
        self.device, self.size = device, size
        self.busy_seconds, self.batches = 0.0, 0
        self.asked: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def __getattr__(self, name: str) -> Any:
        """Answer for the network where something else than its output is asked, such as `probabilities`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, *inputs: Tensor) -> Any:
        """Return the network's output for these inputs, on the processor."""
        answer: Future[Any] = Future()
        self.asked.put((inputs, answer))
        return answer.result()

    def stop(self) -> None:
        """End the thread and bring the network back."""
        self.asked.put(None)
        self.thread.join()
        self.network.to("cpu")

    def _serve(self) -> None:
        while (first := self.asked.get()) is not None:
            batch, until = [first], time.monotonic() + PATIENCE_SECONDS
            while len(batch) < self.size:
                try:
                    more = self.asked.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                if more is None:
                    self.asked.put(None)
                    break
                batch.append(more)
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001 - whoever asked gets it, as if the network had been called there
                for _, answer in batch:
                    answer.set_exception(error)

    def _answer(self, batch: Sequence[Asked]) -> None:
        counts = [len(inputs[0]) for inputs, _ in batch]
        joined = [torch.cat(parts) for parts in zip(*(inputs for inputs, _ in batch), strict=True)]
        begun = time.perf_counter()
        with torch.inference_mode():
            output = self.network(*(part.to(self.device) for part in joined))
            whole = isinstance(output, Tensor)
            fields = [part.float().cpu() for part in ((output,) if whole else output)]  # waits for the device
        self.busy_seconds += time.perf_counter() - begun
        self.batches += 1
        split = [part.split(counts) for part in fields]
        for index, (_, answer) in enumerate(batch):
            own = [part[index] for part in split]
            answer.set_result(own[0] if whole else type(output)(*own))


def gathered(reader: Reader, device: torch.device, size: int) -> tuple[Gathered, ...]:
    """Put every network of a Reader behind a `Gathered`, in place, and return them."""
    made = []
    for part in (reader.detector, reader.segmenter, reader.grader, *reader.regressors):
        for name in _NETWORKS:
            network = getattr(part, name, None)
            if isinstance(network, nn.Module):
                made.append(Gathered(network, device, size))
                setattr(part, name, made[-1])
    return tuple(made)


def measure(bundle: str, films: int, size: int, device: torch.device) -> tuple[dict[str, Any], list[Reading]]:
    """Read drawn films `size` at a time and return the figures and the readings, in order."""
    reader = registry.load(bundle)
    drawn = [phantom.draw(FIRST_SEED + number, rows=700, columns=560) for number in range(films)]
    networks = gathered(reader, device, size)
    try:
        reader.read(drawn[0].image, drawn[0].sex)  # pays for what is set up once
        for network in networks:
            network.busy_seconds, network.batches = 0.0, 0
        begun = time.perf_counter()
        with ThreadPoolExecutor(size) as pool:
            readings = list(pool.map(lambda film: reader.read(film.image, film.sex), drawn))
        seconds = time.perf_counter() - begun
    finally:
        for network in networks:
            network.stop()
    # Networks run one after the other on one device: their times do not overlap where there is one stream.
    busy = sum(network.busy_seconds for network in networks)
    figures = {
        "batch": size,
        "films": films,
        "films_a_second": round(films / seconds, 2),
        "share_not_the_gpus": round(max(0.0, 1 - busy / seconds), 3),
        "calls_of_networks": sum(network.batches for network in networks),
    }
    return figures, readings


def main(argv: Sequence[str] | None = None) -> None:
    """Measure on the GPU, or say that there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--films", type=int, default=256)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "command": f"python -m benchmarks.gpu --bundle {options.bundle} --films {options.films}",
        "commit": git_commit(),
    }
    if torch.cuda.is_available():
        device = torch.device("cuda")
        result["device"] = torch.cuda.get_device_name()
        result["batches"] = [measure(options.bundle, options.films, size, device)[0] for size in SIZES]
    else:
        result["device"] = "no GPU: torch sees no CUDA device, nothing was measured"
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    refusal.command(main)
