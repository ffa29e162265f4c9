from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian

from service.demo.stand_in_pacs import RESULT_CLASSES, StandInPacs
from service.errors import Permanent
from service.sending import requestor, scu
from tests import raw_peer
from tests.factories import instance


def report(sop_class: str = ComprehensiveSRStorage, study: str = "2.25.7", number: int = 1) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, f"2.25.9.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, "2.25.8"
    ds.PatientID = "TEST-1"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def test_every_kind_of_result_is_kept_by_study(tmp_path: Path) -> None:
    objects = [report(sop_class, number=n) for n, sop_class in enumerate(RESULT_CLASSES)]
    film = instance()
    with StandInPacs(tmp_path, ae_title="PACS") as pacs:
        address = requestor.Address("PACS", "127.0.0.1", pacs.port)
        assert scu.echo(address, calling_ae_title="CARPUS", timeout_seconds=5) > 0
        sent = scu.store(address, [*objects, film], calling_ae_title="CARPUS", timeout_seconds=5)
    assert all(one.accepted for one in sent)
    assert len(pacs.files()) == len(objects) + 1
    assert {dcmread(path).SOPClassUID for path in pacs.files("2.25.7")} == set(RESULT_CLASSES)
    (kept,) = pacs.files(film.StudyInstanceUID)
    assert dcmread(kept).PixelData == film.PixelData


def test_a_repeat_replaces_and_does_not_double(tmp_path: Path) -> None:
    with StandInPacs(tmp_path) as pacs:
        address = requestor.Address("PACS", "127.0.0.1", pacs.port)
        for _ in range(2):
            scu.store(address, [report()], calling_ae_title="CARPUS", timeout_seconds=5)
        assert len(pacs.files()) == 1


def test_who_calls_it_by_another_name_is_rejected(tmp_path: Path) -> None:
    with StandInPacs(tmp_path, ae_title="MINE") as pacs:
        assert raw_peer.rejection(pacs.port, called="YOURS") == (1, 1, 7)


def test_waiting_returns_as_soon_as_enough_has_come(tmp_path: Path) -> None:
    with StandInPacs(tmp_path) as pacs:
        assert pacs.wait_for(1, timeout_s=0.05) == []
        address = requestor.Address("PACS", "127.0.0.1", pacs.port)
        scu.store(address, [report()], calling_ae_title="CARPUS", timeout_seconds=5)
        assert len(pacs.wait_for(1, "2.25.7", timeout_s=5)) == 1


@pytest.mark.parametrize("uid", ["../../../etc/cron.d/x", "/abs", "..", "x" * 100])
def test_a_uid_never_leads_out_of_the_folder(tmp_path: Path, uid: str) -> None:
    folder = tmp_path / "pacs"
    with StandInPacs(folder) as pacs:
        ds = report()
        ds["StudyInstanceUID"]._value = uid
        address = requestor.Address("PACS", "127.0.0.1", pacs.port)
        (sent,) = scu.store(address, [ds], calling_ae_title="CARPUS", timeout_seconds=5)
    assert isinstance(sent.error, Permanent)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
