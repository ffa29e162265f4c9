"""Know what wheels carry besides their own code: shared libraries that their builders put in, and files under other terms.

The licence that a distribution states is that of its own code. OpenCV's wheel, whose own licence is Apache-2.0, carries FFmpeg
(LGPL), and so on. Here each such library is named with its terms; one that nobody has looked at is "unknown" and refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Final

LGPL: Final = "LGPL-2.1-or-later"
GCC: Final = "GPL-3.0-or-later WITH GCC-exception-3.1"
BSD, MIT, OPENSSL = "BSD", "MIT", "OpenSSL or Apache-2.0"
# Name of a library, without version and hash -> its terms.
LIBRARIES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("libavcodec", "libavformat", "libavutil", "libswresample", "libswscale"), LGPL
    ),  # FFmpeg, in OpenCV
    **dict.fromkeys(("libgeos", "libgeos_c"), LGPL),  # GEOS, in Shapely
    "libquadmath": LGPL,
    **dict.fromkeys(("libgfortran", "libgomp", "libgcc_s", "libstdc++"), GCC),
    **dict.fromkeys(("libopenblasp", "libscipy_openblas", "libscipy_openblas64_"), BSD),
    **dict.fromkeys(("libaom", "libavif", "libvpx", "libsharpyuv", "libwebp", "libwebpdemux", "libwebpmux"), BSD),
    **dict.fromkeys(("libopenjp2", "libzstd", "libjpeg"), BSD),
    **dict.fromkeys(("libdrm", "libXau", "libxcb", "libharfbuzz", "liblcms2", "libbrotlicommon", "libbrotlidec"), MIT),
    **dict.fromkeys(("libcrypto", "libssl"), OPENSSL),
    "libfreetype": "FTL",
    "libtiff": "libtiff",
    "libpng16": "libpng-2.0",
    "liblzma": "0BSD",
    "libz": "Zlib",
    "libcudart": "NVIDIA-Proprietary",
    "libnvjpeg": "NVIDIA-Proprietary",
}
# Terms with a condition -> why they may be in the default install all the same.
ACCEPTED: Final[Mapping[str, str]] = {
    LGPL: "a shared object of its own, linked dynamically by the wheel that brings it, replaceable by its user and used unchanged: "
    "the conditions of LGPL 2.1 clause 6 b are met by the wheel, its text is in the wheel, and Carpus calls none of it directly",
    GCC: "the run-time library of a compiler: the exception frees whatever is linked with it",
}
# Files of a distribution under terms of their own that nothing uses; the image is built without them (Dockerfile).
LEFT_OUT: Final[Mapping[str, tuple[str, str]]] = {
    "reportlab": (r"reportlab/fonts/DarkGarden", "GPL sample font, used by no report of ours"),
}
_COPYLEFT_NAME: Final = re.compile(r"(?i)(^|[-_./])(a|l)?gpl([-_.]|$)")
_LIBRARY: Final = re.compile(r"[^/]*\.libs/(lib[^/]+)\.so|(?:^|/)(libgomp|libquadmath|libgfortran)[^/]*\.so")


@dataclass(frozen=True, slots=True)
class Part:
    """A library inside a distribution."""

    distribution: str
    name: str
    terms: str


def parts(distributions: Mapping[str, metadata.Distribution]) -> Iterator[Part]:
    """Yield every library that builders put into wheels, once each."""
    seen: set[Part] = set()
    for key, distribution in distributions.items():
        for path in distribution.files or ():
            match = _LIBRARY.search(str(path))
            if match is None:
                continue
            name = re.split(r"-|\.", match[1] or match[2], maxsplit=1)[0]
            part = Part(key, name, LIBRARIES.get(name, "unknown"))
            if part not in seen:
                seen.add(part)
                yield part


def refused(distributions: Mapping[str, metadata.Distribution]) -> list[str]:
    """Return, in words, what may not be in the default install: unknown libraries, copyleft ones, and licence texts unaccounted for."""
    found = [
        f"{part.name} in {part.distribution} ({part.terms})"
        for part in parts(distributions)
        if part.terms == "unknown" or ("GPL" in part.terms and part.terms not in ACCEPTED)
    ]
    for key, distribution in distributions.items():
        known = LEFT_OUT.get(key, ("(?!)", ""))[0]
        named = [str(path) for path in distribution.files or () if _COPYLEFT_NAME.search(str(path))]
        found += [f"{name} in {key}" for name in named if not re.match(known, name)]
    return found
