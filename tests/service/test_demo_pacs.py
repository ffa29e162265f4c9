import json
from pathlib import Path

import pytest

from service.demo.pacs import OrthancPacs
from service.sending.requestor import Address


def test_orthanc_finds_its_files_when_the_demo_is_given_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orthanc takes a relative path from the folder of its configuration, not from where it was started."""
    monkeypatch.chdir(tmp_path)
    OrthancPacs(Path("demo/pacs"), dicom_port=4242, http_port=8042, carpus=Address("CARPUS", "127.0.0.1", 11112))
    written = tmp_path / "demo" / "pacs" / "orthanc.json"
    configuration = json.loads(written.read_text(encoding="utf-8"))
    (script,) = configuration["LuaScripts"]
    assert (written.parent / script).is_file()
    assert written.parent / configuration["StorageDirectory"] == tmp_path / "demo" / "pacs" / "storage"
    assert written.parent / configuration["IndexDirectory"] == tmp_path / "demo" / "pacs" / "storage"
