"""The library's tables of the standard: trimmed to our classes, whole again for a foreign one; and what building loads."""

import subprocess
import sys

import pytest
from highdicom import _standard_utils as tables
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    GrayscaleSoftcopyPresentationStateStorage,
)

from service.reporting import standard_tables


def test_the_tables_hold_every_module_of_our_classes_and_little_else() -> None:
    standard_tables.provide(DigitalMammographyXRayImageStorageForPresentation)
    whole = len(tables.get_module_attribute_map())
    standard_tables.provide(ComputedRadiographyImageStorage)
    kept = tables.get_module_attribute_map()
    assert len(kept) < whole / 3
    for sop_class in standard_tables.OURS:
        for module in tables.get_iod_module_map()[tables.get_sop_class_iod_map()[sop_class]]:
            assert module["key"] in kept


def test_a_film_of_a_foreign_class_has_the_whole_tables() -> None:
    standard_tables.provide(ComputedRadiographyImageStorage)
    with pytest.raises(KeyError):
        tables.does_iod_have_pixel_data(DigitalMammographyXRayImageStorageForPresentation)
    standard_tables.provide(DigitalMammographyXRayImageStorageForPresentation)
    assert tables.does_iod_have_pixel_data(DigitalMammographyXRayImageStorageForPresentation)


def test_building_results_loads_neither_scipy_nor_torch() -> None:
    code = "import sys, service.reporting.result_set as made; made.warm_up('2.25.1'); print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"scipy", "torch", "cv2"}


def test_a_class_is_looked_up_once_in_the_tables_and_the_answer_stays_right(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_tables.provide(ComputedRadiographyImageStorage)
    standard_tables._known.cache_clear()
    asked = []
    monkeypatch.setattr(
        tables, "get_sop_class_iod_map", lambda read=tables.get_sop_class_iod_map: asked.append(1) or read()
    )
    for _ in range(3):
        assert tables.does_iod_have_pixel_data(ComputedRadiographyImageStorage)
        assert not tables.does_iod_have_pixel_data(GrayscaleSoftcopyPresentationStateStorage)
    assert len(asked) == 1 + 3  # a film has PixelData; a presentation state none of the three kinds
