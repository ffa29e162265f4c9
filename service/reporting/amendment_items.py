"""Write into a report what a person corrected, with the algorithm's own values beside it (TID 1410 content items)."""

from models.reading import MethodResult, Region
from service.reporting import codes
from service.reporting.amendment import Amendment
from service.reporting.codes import Language
from service.reporting.measurement_report import ContentItem, code, number


def of_method(amendment: Amendment | None, method: MethodResult, language: Language) -> list[ContentItem]:
    """Return the algorithm's own bone age and score where the correction changed them."""
    before = None if amendment is None else amendment.before(method)
    items: list[ContentItem] = []
    if before is None or (before.bone_age_years, before.score) == (method.bone_age_years, method.score):
        return items
    if before.bone_age_years is not None:
        items.append(number(codes.ALGORITHM_AGE, before.bone_age_years, codes.YEAR, language))
    if before.score is not None:
        items.append(number(codes.ALGORITHM_SCORE, before.score, codes.UNITY, language, decimals=1))
    return items


def of_bone(amendment: Amendment | None, name: str, language: Language) -> list[ContentItem]:
    """Return the origin of a stage that a person gave, and the algorithm's own stage; nothing for any other bone."""
    if amendment is None or name not in amendment.stages:
        return []
    items: list[ContentItem] = [code(codes.STAGE_ORIGIN, codes.BY_OBSERVER, language)]
    region = amendment.original.region(name)
    return items + ([] if region is None else _own(region, language))


def rejected(amendment: Amendment | None) -> list[Region]:
    """Return the regions that a person rejected, as the algorithm found them."""
    if amendment is None:
        return []
    return [region for region in amendment.original.regions if region.name in amendment.rejected]


def of_rejected(region: Region, language: Language) -> list[ContentItem]:
    """Return that a region was rejected, and the algorithm's own stage of it."""
    return [code(codes.REGION_FLAG, codes.REGION_REJECTED, language), *_own(region, language)]


def _own(region: Region, language: Language) -> list[ContentItem]:
    if region.stage is None:
        return []
    return [
        code(codes.ALGORITHM_STAGE, codes.STAGES[region.stage.label], language),
        number(codes.ALGORITHM_STAGE_PROBABILITY, region.stage.probability, codes.UNITY, language),
    ]
