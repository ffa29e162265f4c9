"""What ships is listed, pinned and under terms that a hospital can take."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from deploy.bill_of_materials import REFUSED, bill, closure, licence, weights

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
