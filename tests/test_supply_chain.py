"""What ships is listed, pinned and under terms that a hospital can take."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.bill_of_materials import REFUSED, bill, closure, licence, weights
from deploy.bundled_parts import LEFT_OUT, LGPL, parts, refused

ROOT = Path(__file__).resolve().parents[1]
PINNED = {
    canonicalize_name(name): version
    for name, _, version in (line.partition("==") for line in (ROOT / "constraints.txt").read_text().split())
}


def test_the_default_install_holds_no_gpl_and_nothing_of_unknown_terms() -> None:
    assert {name: known for name, d in closure().items() if (known := licence(d)) in REFUSED} == {}


@pytest.mark.parametrize(
    ("field", "text", "known"),
    [
        ("License", "GNU General Public License v3", "GPL"),
        ("License", "LGPL-3.0", "LGPL"),
        ("License-Expression", "AGPL-3.0-only", "AGPL"),
        ("Classifier", "License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", "LGPL"),
        ("License-Expression", "MIT", "MIT"),
        ("Summary", "says nothing", "unknown"),
    ],
)
def test_a_licence_is_known_by_what_the_distribution_states(tmp_path: Path, field: str, text: str, known: str) -> None:
    folder = tmp_path / "thing-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: thing\nVersion: 1\n{field}: {text}\n")
    assert licence(metadata.Distribution.at(folder)) == known


def test_every_distribution_of_the_install_and_of_its_tests_is_pinned_to_what_runs() -> None:
    brought = closure("carpus") | _brought_by_extras("dev")
    brought.pop("carpus")
    assert {name: d.version for name, d in brought.items() if PINNED.get(name) != d.version} == {}


@pytest.mark.parametrize("python", ["3.11.0", "3.11.2", "3.12.0", "3.13.0", "3.14.0"])
def test_what_another_python_needs_besides_is_pinned_too(python: str) -> None:
    """Debian 12 has Python 3.11.2, for which redis brings a distribution that 3.11.3 has in its library."""
    here = {"python_full_version": python, "python_version": python.rpartition(".")[0], "extra": ""}
    asked = [Requirement(text) for each in closure("carpus").values() for text in each.requires or ()]
    needed = {canonicalize_name(each.name) for each in asked if each.marker is None or each.marker.evaluate(here)}
    assert "numpy" in needed
    assert needed - PINNED.keys() == set()


def _brought_by_extras(extra: str) -> dict[str, metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    for text in metadata.requires("carpus") or ():
        if f"extra == '{extra}'" in text.replace('"', "'"):
            name = re.split(r"[\[<>=;! ]", text, maxsplit=1)[0]
            if canonicalize_name(name) != "carpus":
                found |= closure(name)
    return found


def test_the_bill_of_materials_is_valid_cyclonedx_and_lists_code_and_weights() -> None:
    bom = bill()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(JsonV1Dot6(bom).output_as_string()) is None
    names = {component.name for component in bom.components}
    assert {"pydicom", "torch", "regression/rsna-cnn"} <= names


def test_the_weights_in_the_bill_carry_their_terms_and_hashes() -> None:
    listed = {component.name: component for component in weights()}
    terms = {name: next(iter(component.licenses)).name for name, component in listed.items()}
    assert "non-commercial" in terms["regression/rsna-cnn"]
    assert "non-commercial" not in terms["segmentation/unet"]
    assert all(component.hashes for component in listed.values())


def test_what_builders_put_into_wheels_is_known_and_nothing_of_it_is_gpl() -> None:
    installed = closure()
    assert refused(installed) == []
    found = {(part.distribution, part.name): part.terms for part in parts(installed)}
    assert found["opencv-python-headless", "libavcodec"] == found["shapely", "libgeos"] == LGPL


def test_the_ffmpeg_inside_opencv_was_built_without_gpl_parts() -> None:
    """FFmpeg says itself under which terms it was built (avcodec_license)."""
    libraries = [
        Path(str(file.locate()))
        for file in metadata.distribution("opencv-python-headless").files or ()
        if file.name.startswith(("libavcodec", "libavformat", "libavutil", "libswscale", "libswresample"))
    ]
    assert len(libraries) == 5
    for path in libraries:
        assert b"LGPL version 2.1 or later" in path.read_bytes()
        assert b"--enable-gpl" not in path.read_bytes()


@pytest.mark.parametrize(
    ("file", "terms"),
    [
        ("thing.libs/libx264-0d1e.so.164", "libx264 in thing (unknown)"),
        ("thing.libs/libgfortran-1.so.5", None),
        ("thing/fonts/COPYING-GPL.txt", "thing/fonts/COPYING-GPL.txt in thing"),
        ("thing/gplot.py", None),
    ],
)
def test_a_part_that_nobody_has_looked_at_is_refused(tmp_path: Path, file: str, terms: str | None) -> None:
    folder = tmp_path / "thing-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: thing\nVersion: 1\nLicense: MIT\n")
    (folder / "RECORD").write_text(f"{file},,\n")
    assert refused({"thing": metadata.Distribution.at(folder)}) == ([] if terms is None else [terms])


def test_the_image_is_built_without_the_files_left_out() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    assert all(pattern.rsplit("/", 1)[1] in dockerfile for pattern, _ in LEFT_OUT.values())
