"""Real files through the public door: `models.pixels.load` and `from_dataset`."""

import base64
import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from models import pixels
from models.pixels import guards
from models.pixels.levels import percentiles

CR = "1.2.840.10008.5.1.4.1.1.1"
# `film()` as high-throughput JPEG 2000 (OpenJPH through imagecodecs 2026.3.6: htj2k_encode(film(), reversible=True), and with
# a step of 1e-4, reversible=False): nothing installed here writes it.
HTJ2K_LOSSLESS_RAMP = (
    "/0//UQApQAAAAAAwAAAAQAAAAAAAAAAAAAAAMAAAAEAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAKEAAf+TwAArAGEAwwAW0hfSAWGUAMAAEwDFxQELdADAABVANrbRRhuX4ot1"
    "AMAAFogYMWLEiBEjRozeCnp6cgJ4AMAAFuiGhoaGhoaGhoaGhoaGhoaG8/4Kenp6enp6cYJ9AMAALsQul8vlcrlcLpfL5XK5XC6Xy+VyuVwul8vl"
    "crlc/X/6enp6enp6enp6enp6enpxAnUB/9k="
)
HTJ2K_LOSSY_RAMP = (
    "/0//UQApQAAAAAAwAAAAQAAAAAAAAAAAAAAAMAAAAEAAAAAAAAAAAAABDwEB/1AACAACAAAAJ/9SAAwAAgABAAUEBEAA/1wAIyKcXZw3nDecEpRJ"
    "lEmUMYyIjIiMnIUhhSGFjXz2fPZ8mf9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/kAAKAAAAAAD/AAH/k8AACuCbGW1mdPyY48f8A0G0AMAACYDT"
    "TwILdADAABaw9PQTE5RSSg89E01EKaUAf+hhAPq4AMAALqhAgCCWljQ1AYAglpY0NQGAIJaWNDUBgCCWljQ1AEmgeTQPJoHGFYRJngDAAF2wUqII"
    "BEVGEQiKjCIQFBlFICgyikBQZBSBoMgoAkGRUQSCc/0lfyV/JX8lfyV/JX8lfhCvC3UBwAC9PGSGCM4QwRkiOEMEZ4jgDBGcIYIzRHCGCM4QwRki"
    "OEMEZ4jgDBGcIYIzRH4/9JX8lfyV/JX8lfyV/JX8lfyV/JX8lfyV/JX8lfyV/iuLdQL/2Q=="
)


def film(rows: int = 64, columns: int = 48, bits: int = 12) -> np.ndarray:
    """A ramp from left to right, brightest on the right."""
    return np.tile(np.linspace(0, (1 << bits) - 1, columns), (rows, 1)).astype(np.uint16)


def dataset(levels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    meta.MediaStorageSOPClassUID = CR
    meta.MediaStorageSOPInstanceUID = "2.25.1"
    big, implicit = syntax == ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    ds = FileDataset("", {}, b"\0" * 128, meta, is_implicit_VR=implicit, is_little_endian=not big)
    ds.SOPClassUID, ds.SOPInstanceUID = CR, "2.25.1"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns = levels.shape[:2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    little = levels.astype("<u2")
    ds.PixelData = (little.byteswap() if big else little).tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def refused(ds: FileDataset) -> pixels.UnreadablePixels:
    with pytest.raises(pixels.UnreadablePixels) as caught:
        pixels.from_dataset(ds)
    return caught.value


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
)
def test_every_lossless_transfer_syntax_gives_the_same_pixels(syntax: str, tmp_path: Path) -> None:
    plain = pixels.from_dataset(dataset(film()))
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        ds = dataset(film())
        ds.compress(syntax)
    else:
        ds = dataset(film(), syntax)
    path = tmp_path / "film"
    ds.save_as(path, enforce_file_format=True)
    image = pixels.load(path)
    assert np.array_equal(image.pixels, plain.pixels)
    assert image.bits_stored == 12


@pytest.mark.parametrize(
    ("syntax", "stream", "levels_off"),
    [
        (HTJ2KLossless, HTJ2K_LOSSLESS_RAMP, 0),
        (HTJ2KLosslessRPCL, HTJ2K_LOSSLESS_RAMP, 0),
        (HTJ2K, HTJ2K_LOSSY_RAMP, 2),
    ],
)
def test_high_throughput_jpeg_2000_decodes(syntax: str, stream: str, levels_off: int) -> None:
    ds = dataset(film(), syntax)
    ds.PixelData = encapsulate([base64.b64decode(stream)])
    ds["PixelData"].VR = "OB"
    plain = pixels.from_dataset(dataset(film()))
    assert np.abs(pixels.from_dataset(ds).pixels - plain.pixels).max() <= levels_off / 4095


def test_jpeg_lossless_decodes(tmp_path: Path) -> None:
    import gdcm

    source = tmp_path / "source.dcm"
    dataset(film()).save_as(source, enforce_file_format=True)
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(tmp_path / "lossless.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert np.array_equal(pixels.load(tmp_path / "lossless.dcm").pixels, pixels.load(source).pixels)


def test_a_film_of_8_bits_is_the_same_in_dicom_and_png(tmp_path: Path) -> None:
    levels = film(bits=8)
    PIL.Image.fromarray(levels.astype(np.uint8)).save(tmp_path / "film.png")
    wrapped = pixels.from_dataset(dataset(levels, BitsStored=8, HighBit=7))
    assert np.array_equal(pixels.load(tmp_path / "film.png").pixels, wrapped.pixels)


def test_monochrome1_is_inverted_once_even_with_presentation_lut_shape_inverse() -> None:
    plain = pixels.from_dataset(dataset(film())).pixels
    for elements in ({}, {"PresentationLUTShape": "INVERSE"}):
        inverted = pixels.from_dataset(dataset(film(), PhotometricInterpretation="MONOCHROME1", **elements))
        assert np.allclose(inverted.pixels, 1 - plain)
        assert inverted.notes == ()


def test_a_contradicting_presentation_lut_shape_is_noted_and_not_followed() -> None:
    image = pixels.from_dataset(dataset(film(), PresentationLUTShape="INVERSE"))
    assert np.array_equal(image.pixels, pixels.from_dataset(dataset(film())).pixels)
    assert "contradicts MONOCHROME2" in image.notes[0]


def test_the_modality_lut_is_applied_before_scaling() -> None:
    # A slope of -1 turns the ramp round: brightest on the left.
    image = pixels.from_dataset(dataset(film(), RescaleSlope=-1, RescaleIntercept=4095, RescaleType="US"))
    assert image.pixels[0, 0] == 1
    assert image.pixels[0, -1] == 0


def test_padding_is_black_and_does_not_decide_the_scale() -> None:
    levels = film()
    levels[:, :4] = 60_000
    image = pixels.from_dataset(dataset(levels, BitsStored=16, HighBit=15, PixelPaddingValue=60_000))
    assert image.pixels[:, :4].max() == 0
    assert image.pixels[0, -1] == 1
    assert image.pixels[0, 24] == pytest.approx(0.47, abs=0.02)  # column 24 of the 44 from 4 on: 20.5/43


def test_spacing_and_laterality_come_from_the_header() -> None:
    ds = dataset(film(), ImagerPixelSpacing=[0.15, 0.16], PixelSpacing=[0.14, 0.14], Laterality="R", ImageLaterality="")
    image = pixels.from_dataset(ds)
    assert image.pixel_spacing_mm == (0.15, 0.16)
    assert image.laterality == "R"
    assert pixels.from_dataset(dataset(film(), PixelSpacing=[0, 0])).pixel_spacing_mm is None
    assert pixels.from_dataset(dataset(film(), Laterality="R", ImageLaterality="L")).laterality is None


@pytest.mark.parametrize(
    ("elements", "code", "words"),
    [
        ({"Rows": 65535, "Columns": 65535}, "too-large", "65535 x 65535 pixels; the limit is 64000000"),
        ({"Rows": 8}, "too-small", "8 x 48 pixels; the shorter side must be at least 32"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour", "RGB with 3 samples"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour", "PALETTE COLOR"),
        ({"NumberOfFrames": 3}, "multi-frame", "3 frames"),
        ({"PixelData": b"\0" * 100}, "truncated", "100 bytes of pixel data; 64 x 48 need 6144"),
        ({"BitsStored": 17}, "undecodable", "BitsStored 17 in BitsAllocated 16"),
    ],
)
def test_a_bad_header_is_refused_with_value_and_limit(elements: dict[str, Any], code: str, words: str) -> None:
    ds = dataset(film())
    with pydicom.config.disable_value_validation():
        for keyword, value in elements.items():
            setattr(ds, keyword, value)
        error = refused(ds)
    assert error.code == code
    assert words in error.text


def test_an_instance_without_pixel_data_is_refused() -> None:
    ds = dataset(film())
    del ds.PixelData
    assert refused(ds).code == "no-pixel-data"


def test_an_unknown_transfer_syntax_is_refused_by_name() -> None:
    ds = dataset(film())
    ds.compress(RLELossless)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.10008.1.2.4.100")  # MPEG2
    error = refused(ds)
    assert error.code == "unsupported-transfer-syntax"
    assert "1.2.840.10008.1.2.4.100" in error.text


def test_a_code_stream_larger_than_the_header_is_refused_before_decoding() -> None:
    ds = dataset(film(100, 100))
    ds.compress(JPEG2000Lossless)
    ds.Rows = ds.Columns = 64
    error = refused(ds)
    assert error.code == "undecodable"
    assert "the code stream says 100 x 100 pixels, the header 64 x 64" in error.text


def jpeg_2000(side: int, *, boxes: bool = False, **options: Any) -> bytes:
    """A black picture of 8 bits as JPEG 2000."""
    stream = io.BytesIO()
    PIL.Image.fromarray(np.zeros((side, side), np.uint8)).save(stream, "JPEG2000", no_jp2=not boxes, **options)
    return stream.getvalue()


def encapsulated(stream: bytes, syntax: str, side: int = 64) -> FileDataset:
    """A film of 8 bits whose header says `side` x `side`."""
    ds = dataset(np.zeros((side, side), np.uint8), syntax, BitsAllocated=8, BitsStored=8, HighBit=7)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def test_the_size_is_that_of_the_stream_in_the_box_and_not_of_a_decoy_before_it() -> None:
    assert pixels.from_dataset(encapsulated(jpeg_2000(64, boxes=True), JPEG2000Lossless)).rows == 64
    file, decoy = jpeg_2000(100, boxes=True), jpeg_2000(64)[:60]
    place = file.index(b"jp2h") - 4
    box = (8 + len(decoy)).to_bytes(4, "big") + b"uuid" + decoy
    error = refused(encapsulated(file[:place] + box + file[place:], JPEG2000Lossless))
    assert "the code stream says 100 x 100 pixels, the header 64 x 64" in error.text


def test_the_frame_that_is_looked_into_is_the_one_that_is_decoded() -> None:
    good, large = jpeg_2000(64), jpeg_2000(100)
    ds = encapsulated(good, JPEG2000Lossless)
    ds.PixelData, offsets, _ = encapsulate_extended([good, large])
    ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = offsets[8:], len(large).to_bytes(8, "little")
    assert "the code stream says 100 x 100 pixels, the header 64 x 64" in refused(ds).text


def test_a_stream_that_states_no_size_is_not_decoded() -> None:
    assert "states its size" in refused(encapsulated(b"\0" + jpeg_2000(64), JPEG2000Lossless)).text
    assert "has 0 frame headers" in refused(encapsulated(b"\xff\xd8\xff\xd9", JPEGBaseline8Bit)).text


def test_a_jpeg_of_empty_scans_is_refused_before_each_of_them_passes_over_the_film() -> None:
    stream = io.BytesIO()
    PIL.Image.fromarray(np.zeros((64, 64), np.uint8)).save(stream, "JPEG", progressive=True)
    usual = stream.getvalue()
    assert pixels.from_dataset(encapsulated(usual, JPEGBaseline8Bit)).rows == 64
    scan = b"\xff\xda\0\x08\x01\x01\0\x01\x05\x02"
    error = refused(encapsulated(usual[:-2] + 200 * scan + usual[-2:], JPEGBaseline8Bit))
    assert "the code stream has 101 scans" in error.text


@pytest.mark.parametrize("where", ["image", "component", "tile-part"])
def test_a_jpeg_2000_of_one_precinct_a_pixel_is_refused_before_each_takes_memory(where: str) -> None:
    """151 bytes of 2,000 x 2,000 pixels took 2.2 GB."""

    usual = jpeg_2000(1024, precinct_size=(128, 128), codeblock_size=(16, 16))
    assert pixels.from_dataset(encapsulated(usual, JPEG2000Lossless, 1024)).rows == 1024
    stream, sizes = jpeg_2000(1024), b"\x11" * 6  # of five decompositions
    begin, end, data = (stream.index(marker) for marker in (b"\xff\x52", b"\xff\x5c", b"\xff\x93"))
    coding = stream[begin + 4 : end]
    image = b"\xff\x52\0\x12\x01" + coding[1:10] + sizes
    component = b"\xff\x53\0\x0f\0\x01" + coding[5:10] + sizes
    if where == "image":
        stream = stream[:begin] + image + stream[end:]
    elif where == "component":
        stream = stream[:end] + component + stream[end:]
    else:
        stream = stream[:data] + image + stream[data:]
    error = refused(encapsulated(stream, JPEG2000Lossless, 1024))
    assert "cut into precincts of 2 x 2 pixels" in error.text


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEG2000])
def test_a_cut_code_stream_is_refused(syntax: str) -> None:
    ds = dataset(np.random.default_rng(1).integers(0, 4096, (64, 48)).astype(np.uint16))
    ds.compress(JPEG2000Lossless if syntax == JPEG2000 else syntax)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.PixelData = bytes(ds.PixelData[:60])
    ds["PixelData"].is_undefined_length = True
    assert refused(ds).code in ("truncated", "undecodable")


def test_a_deflated_bomb_is_refused_before_it_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "MAXIMUM_INFLATED_BYTES", 1_000_000)
    path = tmp_path / "bomb.dcm"
    dataset(film(), DeflatedExplicitVRLittleEndian).save_as(path, enforce_file_format=True)
    assert pixels.load(path).rows == 64
    plain = path.read_bytes()
    start = 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(plain[:start] + deflater.compress(b"\0" * 8_000_000) + deflater.flush())
    with pytest.raises(pixels.UnreadablePixels, match="inflates to more than 1000000 bytes"):
        pixels.load(path)


@pytest.mark.parametrize("length", [0, 10, 140, 200, 400, 3000])
def test_a_file_cut_anywhere_is_refused(length: int, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    dataset(film()).save_as(buffer, enforce_file_format=True)
    path = tmp_path / "cut.dcm"
    path.write_bytes(buffer.getvalue()[:length])
    with pytest.raises(pixels.UnreadablePixels) as caught:
        pixels.load(path)
    assert caught.value.code in ("truncated", "not-an-image", "no-pixel-data", "undecodable")


def test_a_missing_file_and_a_text_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(pixels.UnreadablePixels, match="cannot open film"):
        pixels.load(tmp_path / "film")
    (tmp_path / "film").write_text("not a film at all")
    with pytest.raises(pixels.UnreadablePixels, match="neither DICOM, PNG, JPEG nor WebP"):
        pixels.load(tmp_path / "film")


@pytest.mark.timeout(20)
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.dcm", tmp_path / "link.png"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link, tmp_path):
        with pytest.raises(pixels.UnreadablePixels, match="is no file") as refused:
            pixels.load(path)
        assert refused.value.code == "not-an-image"


@pytest.mark.parametrize("name", ["film.png", "film.webp", "film.jpg"])
def test_a_grey_picture_stored_as_rgb_is_a_film_and_a_coloured_one_is_refused(name: str, tmp_path: Path) -> None:
    grey = np.repeat(film(bits=8).astype(np.uint8)[..., None], 3, axis=2)
    PIL.Image.fromarray(grey).save(tmp_path / name)
    assert pixels.load(tmp_path / name).pixels[0, -1] > 0.98
    grey[..., 0] //= 2
    PIL.Image.fromarray(grey).save(tmp_path / name)
    with pytest.raises(pixels.UnreadablePixels) as caught:
        pixels.load(tmp_path / name)
    assert caught.value.code == "colour"


def test_a_16_bit_png_keeps_its_depth(tmp_path: Path) -> None:
    PIL.Image.fromarray(film(bits=16)).save(tmp_path / "film.png")
    image = pixels.load(tmp_path / "film.png")
    assert image.bits_stored == 16
    assert np.unique(image.pixels).size == 48


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_whose_stream_ends_before_its_last_row_is_refused(tmp_path: Path, bits: int) -> None:
    levels = film(bits=bits).astype(np.uint8 if bits == 8 else np.uint16)
    PIL.Image.fromarray(levels).save(tmp_path / "film.png")
    whole = (tmp_path / "film.png").read_bytes()
    assert pixels.load(tmp_path / "film.png").pixels.shape == (64, 48)

    row = b"\0" + b"\x80" * (48 * bits // 8)
    for rows in (32, 63):  # Pillow draws the rows that are missing in black and says nothing
        stream = _chunk(b"IDAT", zlib.compress(row * rows))
        (tmp_path / "film.png").write_bytes(whole[:33] + stream + _chunk(b"IEND", b""))
        with pytest.raises(pixels.UnreadablePixels, match=r"film\.png ends after \d+ of \d+ bytes") as caught:
            pixels.load(tmp_path / "film.png")
        assert caught.value.code == "truncated"
    (tmp_path / "film.png").write_bytes(whole[:33] + _chunk(b"IDAT", zlib.compress(row * 64)) + _chunk(b"IEND", b""))
    assert pixels.load(tmp_path / "film.png").pixels.shape == (64, 48)


def test_an_interlaced_png_is_read_whole(tmp_path: Path) -> None:
    levels = film(rows=67, columns=45, bits=8).astype(np.uint8)
    head = _chunk(b"IHDR", (45).to_bytes(4, "big") + (67).to_bytes(4, "big") + bytes((8, 0, 0, 0, 1)))
    # ISO/IEC 15948 8.2: the seven passes of Adam7
    passes = (
        np.s_[::8, ::8],
        np.s_[::8, 4::8],
        np.s_[4::8, ::4],
        np.s_[::4, 2::4],
        np.s_[2::4, ::2],
        np.s_[::2, 1::2],
        np.s_[1::2, ::1],
    )
    rows = b"".join(b"\0" + row.tobytes() for chosen in passes for row in levels[chosen])
    for stream, whole in ((rows, True), (rows[:-46], False)):
        data = _chunk(b"IDAT", zlib.compress(stream)) + _chunk(b"IEND", b"")
        (tmp_path / "film.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + data)
        if whole:
            assert np.array_equal(pixels.load(tmp_path / "film.png").pixels, pixels.scale(levels))
        else:
            with pytest.raises(pixels.UnreadablePixels, match="ends after"):
                pixels.load(tmp_path / "film.png")


def test_a_cut_picture_is_refused(tmp_path: Path) -> None:
    for name in ("film.png", "film.jpg", "film.webp"):
        PIL.Image.fromarray(np.random.default_rng(2).integers(0, 255, (64, 64)).astype(np.uint8)).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])
        with pytest.raises(pixels.UnreadablePixels) as caught:
            pixels.load(tmp_path / name)
        assert caught.value.code == "undecodable"


def test_a_flat_film_loads_as_black_and_is_left_to_the_verdict() -> None:
    assert pixels.from_dataset(dataset(np.full((64, 48), 700, np.uint16))).pixels.max() == 0


def test_a_film_with_a_grey_level_that_is_no_number_is_refused_and_not_called_blank() -> None:
    levels = film().astype(np.float32)
    levels[3, 4] = np.nan
    ds = dataset(film())
    del ds.PixelData
    ds.FloatPixelData = levels.tobytes()
    ds.BitsAllocated = 32
    with pytest.raises(
        pixels.UnreadablePixels, match=rf"^1 of {levels.size} grey levels are no finite number"
    ) as refused:
        pixels.from_dataset(ds)
    assert refused.value.code == "undecodable"
    with pytest.raises(pixels.UnreadablePixels, match=r"RescaleSlope nan"):
        pixels.from_dataset(dataset(film(), RescaleSlope=float("nan"), RescaleIntercept=0.0))


def test_a_single_bright_marker_does_not_darken_the_film() -> None:
    levels = film(640, 480, bits=8)
    levels[:2, :2] = 4095  # 4 of 307,200 pixels: fewer than the brightest thousandth
    assert pixels.from_dataset(dataset(levels)).pixels[5, -1] == pytest.approx(1, abs=0.01)


def test_a_codec_is_installed_for_every_standard_syntax_of_still_films() -> None:
    for syntax in ("50", "51", "57", "70", "80", "81", "90", "91", "201", "202", "203"):
        assert pydicom.pixels.get_decoder(pydicom.uid.UID(f"1.2.840.10008.1.2.4.{syntax}")).is_available, syntax


def test_counted_percentiles_are_numpys_to_the_last_digit() -> None:
    chance = np.random.default_rng(5)
    for highest in (1, 2, 200, 4095, 65535):
        for size in (1, 2, 3, 1001, 40_000):
            levels = chance.integers(0, highest, size).astype(np.uint16 if highest > 255 else np.uint8)
            wanted = (0.0, 0.1, *chance.uniform(0, 100, 20), 50.0, 99.9, 100.0)
            assert percentiles(levels, wanted) == list(np.percentile(levels, wanted)), (highest, size)
    assert percentiles(np.array([-3, 5], np.int16), (50.0,)) == [1.0]
