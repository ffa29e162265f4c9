"""Write the software bill of materials (CycloneDX 1.6) of the default install, and refuse licences that it may not hold.

`make sbom` writes `dist/carpus.cdx.json`: every distribution that `pip install carpus` brings, without extras, and every folder
of shipped weights with its hash and terms. It ends with status 1 when a distribution stands under the GPL, LGPL or AGPL, or
under nothing that is known, or when a library inside a wheel is (`deploy/bundled_parts.py`).
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.bundled_parts import ACCEPTED, LEFT_OUT, parts, refused

ROOT: Final = Path(__file__).resolve().parents[1]
BUNDLES: Final = ROOT / "models" / "bundles"

# A licence's text as distributions write it -> what it is called here; the first that matches names it.
LICENCES: Final = (
    (r"\bAGPL|Affero", "AGPL"),
    (r"\bLGPL|Lesser General Public", "LGPL"),
    (r"\bGPL|GNU General Public", "GPL"),
    (r"NVIDIA", "NVIDIA-Proprietary"),
    (r"Apache", "Apache-2.0"),
    (r"\bMIT\b", "MIT"),
    (r"\b0?BSD\b", "BSD"),
    (r"\bMPL|Mozilla", "MPL-2.0"),
    (r"\bPSF|Python Software Foundation", "PSF-2.0"),
    (r"\bISC\b", "ISC"),
    (r"Unlicense|CC0|public domain", "public domain"),
)
REFUSED: Final = frozenset({"AGPL", "LGPL", "GPL", "unknown"})
# The CUDA libraries that torch brings may be redistributed with an application under NVIDIA's own terms; this one names none.
STATED_ELSEWHERE: Final = {"cuda-toolkit": "NVIDIA-Proprietary"}


def closure(name: str = "carpus") -> dict[str, metadata.Distribution]:
    """Return what installing a distribution brings here, itself included, by canonical name; extras only where asked for."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(name), frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = metadata.distribution(name)
        for text in found[name].requires or ():
            requirement = Requirement(text)
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}
            )
            if wanted:
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return dict(sorted(found.items()))


def licence(distribution: metadata.Distribution) -> str:
    """Name the licence a distribution states: by SPDX expression, else by field, else by classifier, else "unknown"."""
    stated = distribution.metadata
    name = canonicalize_name(stated["Name"])
    classifiers = [text for text in stated.get_all("Classifier") or () if text.startswith("License")]
    first_line = (stated["License"] or "").strip().split("\n")[0]
    for text in (stated["License-Expression"], *classifiers, first_line, STATED_ELSEWHERE.get(name)):
        for pattern, known in LICENCES if text else ():
            if re.search(pattern, text, re.IGNORECASE):
                return known
    return "unknown"


def weights(folder: Path = BUNDLES) -> Iterator[Component]:
    """Yield every folder of shipped weights as a machine-learning model with the hash of each file and its terms."""
    for path in sorted(folder.glob("*/*/metadata.json")):
        stated = json.loads(path.read_text(encoding="utf-8"))
        yield Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=str(path.parent.relative_to(folder)),
            version=stated["version"],
            description="; ".join(stated["data"]),
            licenses=[DisjunctiveLicense(name=stated["terms"])],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in stated["files"].values()],
        )


def bill(name: str = "carpus") -> Bom:
    """Return the bill of materials of the default install."""
    bom = Bom()
    components = {}
    for key, distribution in closure(name).items():
        components[key] = Component(
            type=ComponentType.APPLICATION if key == name else ComponentType.LIBRARY,
            name=distribution.metadata["Name"],
            version=distribution.version,
            licenses=[DisjunctiveLicense(name=licence(distribution))],
            purl=PackageURL("pypi", name=key, version=distribution.version),
        )
    bom.metadata.component = root = components.pop(name)
    bom.components.update(components.values())
    bom.register_dependency(root, components.values())
    for part in parts(closure(name)):
        inside = Component(
            type=ComponentType.LIBRARY,
            name=part.name,
            group=part.distribution,
            description=f"shared library inside the wheel of {part.distribution}",
            licenses=[DisjunctiveLicense(name=part.terms)],
        )
        bom.components.add(inside)
        bom.register_dependency(components.get(part.distribution, root), [inside])
    models = list(weights())
    bom.components.update(models)
    bom.register_dependency(root, models)
    return bom


def main() -> int:
    """Write the bill and list the licences; 1 when one of them may not be in the default install."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "carpus.cdx.json")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(JsonV1Dot6(bill()).output_as_string(indent=1), encoding="utf-8")
    by_licence: dict[str, list[str]] = {}
    for name, distribution in closure().items():
        by_licence.setdefault(licence(distribution), []).append(name)
    for known, names in sorted(by_licence.items()):
        print(f"{known:>18}  {', '.join(names)}")
    print(f"{options.out}: {sum(map(len, by_licence.values()))} distributions")
    for terms, why in ACCEPTED.items():
        inside = sorted({f"{part.name} ({part.distribution})" for part in parts(closure()) if part.terms == terms})
        print(f"inside wheels, {terms}: {', '.join(inside)}: {why}")
    for name, (pattern, why) in LEFT_OUT.items():
        print(f"inside {name}, not in the image: {pattern}*: {why}")
    wrong = sorted({name for known in REFUSED & by_licence.keys() for name in by_licence[known]})
    wrong += refused(closure())
    if wrong:
        print(f"not allowed in the default install: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
