"""The bench for a GPU, its machinery run on the processor: no figure of it is kept."""

import json

import pytest
import torch

from benchmarks import gpu
from models import phantom, registry
from models.reading import Reading


def _told(reading: Reading) -> list[tuple[str, float | None]]:
    return [(method.name, method.bone_age_years) for method in reading.methods]


def test_without_a_gpu_it_says_so_and_gives_no_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main(["--films", "2"])
    result = json.loads(capsys.readouterr().out)
    assert result["device"].startswith("no GPU")
    assert "batches" not in result


def test_films_read_together_are_read_as_each_alone() -> None:
    figures, readings = gpu.measure("phantom", 2, 2, torch.device("cpu"))
    reader = registry.load("phantom")
    drawn = [phantom.draw(gpu.FIRST_SEED + number, rows=700, columns=560) for number in range(2)]
    for film, together in zip(drawn, readings, strict=True):
        alone = reader.read(film.image, film.sex)
        assert [name for name, _ in _told(together)] == [name for name, _ in _told(alone)]
        for (_, one), (_, other) in zip(_told(together), _told(alone), strict=True):
            assert one == pytest.approx(other, abs=0.01)
    assert figures["batch"] == 2
    assert 0 <= figures["share_not_the_gpus"] <= 1


def test_an_error_of_a_network_reaches_whoever_asked() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(f"cannot take {tuple(x.shape)}")

    network = gpu.Gathered(Broken(), torch.device("cpu"), 4)
    with pytest.raises(RuntimeError, match=r"cannot take \(3, 2\)"):
        network(torch.zeros(3, 2))
    network.stop()
    assert not network.thread.is_alive()
