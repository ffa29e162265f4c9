import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import weights
from models.weights import FREE_TERMS, RSNA_TERMS, Metadata, WeightsRefused, begun_from

TENSORS = {"layer.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3)}
CARD = Metadata(problem="grading", architecture="small", terms=FREE_TERMS, data=("phantoms: 10",), seed=7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    weights.save(tmp_path / "w", TENSORS, CARD, extra={"booster.ubj": b"trees"})
    return tmp_path / "w"


def test_saved_weights_come_back_with_their_metadata(folder: Path) -> None:
    tensors, card = weights.load(folder, problem="grading", architectures={"small"})
    assert torch.equal(tensors["layer.weight"], TENSORS["layer.weight"])
    assert (card.seed, card.data, sorted(card.files)) == (7, ("phantoms: 10",), ["booster.ubj", "weights.safetensors"])
    assert weights.load_file(folder, "booster.ubj") == b"trees"


def test_half_precision_is_widened_on_loading(tmp_path: Path) -> None:
    weights.save(tmp_path, TENSORS, CARD, half=True)
    tensors, _ = weights.load(tmp_path, problem="grading", architectures={"small"})
    assert tensors["layer.weight"].dtype == torch.float32
    assert torch.equal(tensors["layer.weight"], TENSORS["layer.weight"])


def test_one_changed_byte_is_refused_with_both_hashes(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsRefused) as refusal:
        weights.load(folder, problem="grading", architectures={"small"})
    assert refusal.value.expected == Metadata.read(folder).files["weights.safetensors"]
    assert str(refusal.value.found) in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8 + b"{}"])
def test_tensors_of_the_right_hash_that_are_none_are_refused(folder: Path, content: bytes) -> None:
    values = json.loads((folder / "metadata.json").read_text())
    values["files"] = {weights.TENSOR_FILE: hashlib.sha256(content).hexdigest(), "x\0y": "0"}
    (folder / weights.TENSOR_FILE).write_bytes(content)
    (folder / "metadata.json").write_text(json.dumps(values))
    with pytest.raises(WeightsRefused, match="a plain name"):
        weights.verify(folder)
    del values["files"]["x\0y"]
    (folder / "metadata.json").write_text(json.dumps(values))
    with pytest.raises(WeightsRefused, match="tensors as safetensors"):
        weights.load(folder, problem=values["problem"], architectures=[values["architecture"]])


def test_a_type_that_has_no_tensor_is_refused(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + b"\0" * 4
    (folder / weights.TENSOR_FILE).write_bytes(content)
    weights.describe(folder, replace(CARD, files={weights.TENSOR_FILE: hashlib.sha256(content).hexdigest()}))
    with pytest.raises(WeightsRefused, match="tensors as safetensors, found 'F4'"):
        weights.load(folder, problem="grading", architectures={"small"})


@pytest.mark.parametrize("name", ["booster.ubj", "metadata.json"])
def test_a_device_is_refused_and_not_read(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/null")  # /dev/zero has no end, and a pipe none before somebody writes
    with pytest.raises(WeightsRefused, match=f"{name}: expected a readable file, found what is none"):
        weights.verify(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"seed":' + b"[" * 100_000, "expected JSON, found maximum recursion"),
        (b'{"seed":' + b"9" * 10_000 + b"}", "expected JSON, found Exceeds the limit"),
        (b"\xff", "expected JSON, found 'utf-8' codec"),
        (b'{"format_version": 1, "files": ["a"]}', "files: expected names with their sha256, found list"),
        (b'{"format_version": 1, "files": {"a": 5}}', "files: expected names with their sha256"),
        (b" " * (16 * 1024**2 + 1), "size of metadata.json: expected at most 16777216 bytes, found 16777217 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_metadata_that_nobody_wrote_is_refused(folder: Path, content: bytes, said: str) -> None:
    (folder / "metadata.json").write_bytes(content)
    with pytest.raises(WeightsRefused, match=said):
        weights.verify(folder)


def test_half_a_letter_is_no_name_of_a_file(folder: Path) -> None:
    weights.describe(folder, replace(CARD, files={"x": "0" * 64}))
    text = (folder / "metadata.json").read_text().replace('"x"', '"\\ud800"')
    (folder / "metadata.json").write_text(text)
    with pytest.raises(WeightsRefused, match="file name: expected a plain name"):
        weights.verify(folder)


def test_another_problem_or_architecture_is_refused_with_both_names(folder: Path) -> None:
    with pytest.raises(WeightsRefused, match="problem: expected detection, found grading"):
        weights.load(folder, problem="detection", architectures={"small"})
    with pytest.raises(WeightsRefused, match="architecture: expected csp or resnext, found small"):
        weights.load(folder, problem="grading", architectures={"resnext", "csp"})


def test_another_format_version_is_refused_with_both_versions(folder: Path) -> None:
    card = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**card, "format_version": 99}))
    with pytest.raises(WeightsRefused, match="format version: expected 1, found 99"):
        weights.load(folder, problem="grading", architectures={"small"})


def test_a_missing_file_and_a_path_out_of_the_folder_are_refused(folder: Path) -> None:
    card = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**card, "files": {"../secret": "0" * 64}}))
    with pytest.raises(WeightsRefused, match="a plain name"):
        weights.verify(folder)
    (folder / "metadata.json").unlink()
    with pytest.raises(WeightsRefused, match="a readable file"):
        weights.verify(folder)


@pytest.mark.parametrize(
    ("own", "base", "joined"),
    [
        (FREE_TERMS, RSNA_TERMS, RSNA_TERMS),
        (RSNA_TERMS, FREE_TERMS, RSNA_TERMS),
        ("internal", RSNA_TERMS, f"{RSNA_TERMS}; internal"),
        ("internal", f"{RSNA_TERMS}; internal", f"{RSNA_TERMS}; internal"),
        (FREE_TERMS, FREE_TERMS, FREE_TERMS),
    ],
)
def test_weights_begun_from_others_carry_their_terms_and_name_their_data(own: str, base: str, joined: str) -> None:
    begun = begun_from(replace(CARD, terms=own), replace(CARD, terms=base, data=("films of somebody",)))
    assert begun.terms == joined
    assert begun.data == (*CARD.data, "begun from weights that learned from: films of somebody")
    assert begun_from(begun, CARD).data == begun.data  # told once


def test_weights_without_terms_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="without terms"):
        Metadata(problem="grading", architecture="small", terms="", data=(), seed=1)
