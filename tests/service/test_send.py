from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image
from pydicom import dcmread

from service.__main__ import cli
from service.demo.stand_in_pacs import StandInPacs
from service.wrap import save
from tests.factories import film, instance
from tests.listening import Running


def test_echo_says_how_long_the_answer_took(scp: Running) -> None:
    result = CliRunner().invoke(cli, ["echo", f"127.0.0.1:{scp.port}", "--calling", "PACS"])
    assert result.exit_code == 0, result.output
    assert "CARPUS at 127.0.0.1:" in result.output
    assert "answered in" in result.output


def test_a_folder_of_films_and_pictures_is_sent_with_a_status_for_each(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    save(instance(seed=1), films / "a.dicom")
    Image.fromarray(film(bits_stored=8)).save(films / "b.png")
    (films / "c.txt").write_text("not a film")
    with StandInPacs(tmp_path / "pacs", ae_title="TAKER") as pacs:
        to = f"127.0.0.1:{pacs.port}"
        arguments = ["send", str(films), "--to", to, "--called", "TAKER", "--sex", "F", "--born", "2016-05-04"]
        result = CliRunner().invoke(cli, arguments)
        stored = pacs.wait_for(2)
    assert result.exit_code == 1  # one file was not sent
    assert result.output.count("0x0000") == 2
    assert "2 of 3 accepted by TAKER" in result.output
    assert "c.txt" in result.output
    wrapped = dcmread(stored[-1])
    assert (wrapped.PatientSex, wrapped.PatientBirthDate) == ("F", "20160504")
    assert wrapped.pixel_array.dtype == np.uint16


def test_a_peer_that_is_not_there_is_one_line_not_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["send", str(save(instance(), tmp_path / "a")), "--to", "127.0.0.1:1"])
    assert result.exit_code != 0
    assert "127.0.0.1:1 does not answer" in str(result.exception)


def test_an_address_without_a_port_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["echo", "pacs.example"])
    assert result.exit_code != 0
    assert "is not HOST:PORT" in result.output
