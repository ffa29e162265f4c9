import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom import dcmread

from models.image import Image
from service.wrap import Kind, save, wrap
from tests.factories import CHINESE_CHILD, encoded, film, instance

LOSSLESS = (
    uids.ImplicitVRLittleEndian,
    uids.ExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.RLELossless,
    uids.JPEGLSLossless,
    uids.JPEG2000Lossless,
    uids.JPEGLossless,
    uids.JPEGLosslessSV1,
)


@pytest.mark.parametrize("transfer_syntax", LOSSLESS, ids=lambda uid: uid.name)
@pytest.mark.parametrize("bits_stored", [8, 12])
def test_pixels_survive_every_lossless_transfer_syntax(transfer_syntax: uids.UID, bits_stored: int) -> None:
    ds = dcmread(BytesIO(encoded(instance(transfer_syntax=transfer_syntax, bits_stored=bits_stored))))
    assert ds.file_meta.TransferSyntaxUID == transfer_syntax
    np.testing.assert_array_equal(ds.pixel_array, film(bits_stored=bits_stored))


def test_baseline_jpeg_stays_within_a_few_grey_levels_and_says_that_it_is_lossy() -> None:
    ds = dcmread(BytesIO(encoded(instance(transfer_syntax=uids.JPEGBaseline8Bit, bits_stored=8))))
    assert ds.LossyImageCompression == "01"
    assert np.abs(ds.pixel_array.astype(int) - film(bits_stored=8)).mean() < 3


def test_an_image_is_inverted_for_monochrome1() -> None:
    pixels = np.zeros((64, 48), np.float32)
    pixels[10:20] = 1
    normal = wrap(Image(pixels), bits_stored=10)
    inverted = wrap(Image(pixels), bits_stored=10, photometric_interpretation="MONOCHROME1")
    assert normal.pixel_array[15, 0] == 1023
    assert inverted.pixel_array[15, 0] == 0
    assert inverted.PhotometricInterpretation == "MONOCHROME1"


def test_equal_keys_give_equal_uids_and_no_key_gives_new_ones() -> None:
    picture = film()
    assert wrap(picture, study=1).SOPInstanceUID == wrap(picture, study=1).SOPInstanceUID
    assert wrap(picture, study=1, number=2).StudyInstanceUID == wrap(picture, study=1).StudyInstanceUID
    assert wrap(picture).StudyInstanceUID != wrap(picture).StudyInstanceUID


@pytest.mark.parametrize("character_set", ["ISO_IR 192", "GB18030"])
def test_a_chinese_name_survives_its_character_set(character_set: str) -> None:
    ds = dcmread(BytesIO(encoded(instance(patient=CHINESE_CHILD, character_set=character_set))))
    assert str(ds.PatientName) == "Test^Zhang=测试^张"


def test_a_colour_picture_is_a_secondary_capture_or_nothing() -> None:
    colour = np.zeros((64, 48, 3), np.uint8)
    assert wrap(colour, kind="SC").PhotometricInterpretation == "RGB"
    with pytest.raises(ValueError, match="Secondary Capture only"):
        wrap(colour, kind="CR")


def test_grey_levels_beyond_the_depth_are_refused() -> None:
    with pytest.raises(ValueError, match="4000 does not fit into 10 bits"):
        wrap(np.full((64, 48), 4000, np.uint16), bits_stored=10)


@pytest.mark.system
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("kind", ["CR", "DX", "DX-PROCESSING", "SC"])
def test_dciodvfy_finds_no_error(kind: Kind, tmp_path: Path) -> None:
    path = save(instance(kind=kind), tmp_path / "film")
    output = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
    assert [line for line in output.splitlines() if line.startswith("Error")] == []
