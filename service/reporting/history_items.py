"""Write the earlier bone ages into a report, and how fast the bone age advanced since (content items of TID 1500)."""

from highdicom.sr import ContainerContentItem, ContentSequence, DateContentItem

from models.reading import MethodResult, Reading
from service.reporting import codes
from service.reporting.codes import Language
from service.reporting.history import Prior, study_date, velocities
from service.reporting.measurement_report import CONTAINS, MODIFIER, PROPERTY, ContentItem, code, coded, number
from service.reporting.results import ResultContext
from service.reporting.source import Source


def of_method(
    source: Source, reading: Reading, context: ResultContext, method: MethodResult, language: Language
) -> list[ContentItem]:
    """Return the velocity of one method since its latest comparable film, with both ends of it; nothing without one."""
    for velocity in velocities(reading, context.priors, study_date(source)):
        if velocity.method is method:
            ends = [
                number(codes.ELAPSED, 12 * velocity.elapsed_years, codes.MONTH, language, relationship=PROPERTY),
                number(codes.EARLIER_AGE, velocity.prior.bone_age_years, codes.YEAR, language, relationship=PROPERTY),
            ]
            return [number(codes.VELOCITY, velocity.per_year, codes.YEARS_PER_YEAR, language, children=ends)]
    return []


def earlier_ages(context: ResultContext, language: Language) -> ContainerContentItem | None:
    """Return the list of earlier bone ages, each with date, method and whether it may be compared; None where there is none."""
    if not context.priors:
        return None
    container = ContainerContentItem(coded(codes.EARLIER_AGES, language), relationship_type=CONTAINS)
    container.ContentSequence = ContentSequence([_age(prior, language) for prior in context.priors])
    return container


def _age(prior: Prior, language: Language) -> ContentItem:
    method = codes.METHODS.get(prior.method, codes.OTHER_METHOD)
    children: list[ContentItem] = [
        code(codes.METHOD, method, language, relationship=MODIFIER),
        code(codes.SEX_OF_CURVE, codes.CURVES[prior.sex], language, relationship=MODIFIER),
        code(codes.COMPARABILITY, codes.COMPARABILITIES[prior.remark], language, relationship=PROPERTY),
    ]
    if prior.chronological_age_years is not None:
        age = prior.chronological_age_years
        children.append(number(codes.CHRONOLOGICAL_AGE, age, codes.YEAR, language, relationship=PROPERTY))
    item = number(codes.EARLIER_AGE, prior.bone_age_years, codes.YEAR, language, children=children)
    if prior.study_date is not None:
        date = DateContentItem(coded(codes.EARLIER_DATE, language), prior.study_date, relationship_type=PROPERTY)
        item.ContentSequence.append(date)
    return item
