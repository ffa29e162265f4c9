"""Keep of highdicom's tables of the standard what our own objects and films need, and what was looked up in them.

With its first object highdicom reads which attributes every module of the standard has, 62 MB that the process then holds for
its life; the modules of the classes that we read and write are a twentieth of it. And it goes through them anew for every image
that an object refers to, to learn whether its class has pixels: half the time of a presentation state.
"""

from collections.abc import Collection
from functools import cache
from typing import Final

from highdicom import _standard_utils as tables

from service.conformance import RESULT_CLASSES, STORAGE_CLASSES

OURS: Final = frozenset(map(str, (*STORAGE_CLASSES, *(uid for classes in RESULT_CLASSES.values() for uid in classes))))
_look_up: Final = tables.is_attribute_in_iod


@cache
def _known(attribute: str, sop_class: str, elsewhere_than: frozenset[str]) -> bool:
    return bool(_look_up(attribute, sop_class, [*elsewhere_than] or None))


def _remembered(attribute: str, sop_class_uid: str, exclude_path_elements: Collection[str] | None = None) -> bool:
    return _known(attribute, str(sop_class_uid), frozenset(exclude_path_elements or ()))


tables.is_attribute_in_iod = _remembered  # looked up by name in its own module: once for each attribute and class


def provide(sop_class: str) -> None:
    """Have the tables ready for results of a film of this class; for a film of a foreign class all of them are read again."""
    if sop_class in OURS:
        _trim()
    else:
        tables.get_module_attribute_map.cache_clear()
        _trim.cache_clear()


@cache
def _trim() -> None:
    attributes, modules, names = (
        tables.get_module_attribute_map(),  # the very object that highdicom keeps
        tables.get_iod_module_map(),
        tables.get_sop_class_iod_map(),
    )
    needed = {module["key"] for sop_class in OURS for module in modules[names[sop_class]]}
    for key in attributes.keys() - needed:
        del attributes[key]
