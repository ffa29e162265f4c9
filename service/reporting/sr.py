"""Write a Reading as a Structured Report: TID 1500, every group a TID 1410 with its region drawn on the film.

Groups, in order: each method (the default first) around the whole hand; the RUS bones with stage, score and what one stage
more or less would change; the film itself with its quality and the agreement of the methods.
"""

from collections.abc import Iterator, Sequence

from highdicom.sr import AlgorithmIdentification
from pydicom.dataset import Dataset

from models.reading import Box, Bundle, MethodResult, Reading, Reason, Region, Stage, Verdict
from models.regions import RUS
from service.reporting import amendment_items, codes, history_items, results, seg, wording
from service.reporting.codes import Concept, Language
from service.reporting.history import study_date
from service.reporting.measurement_report import (
    MODIFIER,
    PROPERTY,
    ContentItem,
    Group,
    assemble,
    code,
    coded,
    group,
    number,
    segment,
    text,
)
from service.reporting.results import ResultContext
from service.reporting.source import Source


def build(source: Source, reading: Reading, context: ResultContext) -> Dataset:
    """Return the report of a film that was read.

    Raises
    ------
    ValueError
        When the film was not accepted (that is `build_rejection`) or the reading is of a film of another size.
    """
    if not reading.verdict.accepted:
        raise ValueError("the film was not read: build_rejection makes its report")
    _check_size(source, reading)
    report = _Report(source, reading, context)
    return report.assemble()


def build_rejection(
    source: Source, verdict: Verdict, context: ResultContext, *, bundle: Bundle | None = None
) -> Dataset:
    """Return the short report of a film that was not read: why, and what to repeat.

    A film without stated size has nothing to draw a region in: its group is a TID 1501 that cites the image alone.

    Parameters
    ----------
    bundle
        The weights that judged the film; None when routing turned it away before any model saw it.
    """
    language = results.language_for(source, context)
    sha256 = bundle.sha256 if bundle else results.NO_BUNDLE
    items: list[ContentItem] = [code(codes.IMAGE_QUALITY, codes.FILM_NOT_READ, language)]
    for reason in verdict.reasons:
        items += _reason(reason, language)
    algorithm = AlgorithmIdentification(
        name=results.MODEL_NAME,
        version=bundle.version if bundle else context.software_version,
        manufacturer=results.MANUFACTURER,
        parameters=[f"bundle {bundle.name}", f"sha256 {bundle.sha256}"] if bundle else ["no model was run"],
        family=coded(codes.ARTIFICIAL_INTELLIGENCE, "en"),
    )
    whole = (0.0, 0.0, float(source.columns or 0), float(source.rows or 0))
    only = group(
        source,
        language,
        tracking_identifier="film",
        tracking_uid=results.result_uid(source, sha256, "SR-rejection", context, "group", "film"),
        finding=codes.FILM_NOT_READ,
        items=items,
        algorithm=algorithm,
        box=whole if source.rows is not None else None,
    )
    return assemble(
        source,
        context,
        groups=[only],
        conclusion=wording.rejection(verdict.reasons, language),
        sop_instance_uid=results.result_uid(source, sha256, "SR-rejection", context, "instance"),
        series_instance_uid=results.result_uid(source, sha256, "SR-rejection", context, "series"),
    )


def hand_box(regions: Sequence[Region], rows: int, columns: int) -> Box:
    """Return the box around all regions; the whole film where none was found."""
    if not regions:
        return (0.0, 0.0, float(columns), float(rows))
    x1, y1, x2, y2 = zip(*(region.box for region in regions), strict=True)
    return (min(x1), min(y1), max(x2), max(y2))


def _check_size(source: Source, reading: Reading) -> None:
    if (source.rows, source.columns) != (reading.image.rows, reading.image.columns):
        raise ValueError(
            f"the header states {source.rows} x {source.columns} pixels, the reading {reading.image.rows} x {reading.image.columns}"
        )


def _reason(reason: Reason, language: Language) -> Iterator[ContentItem]:
    yield code(codes.REASON, codes.REASONS.get(codes.canonical(reason.code), codes.OTHER_REASON), language)
    yield text(codes.COMMENT, wording.reason_sentence(reason, language), language)


def _chances(stage: Stage, language: Language) -> list[ContentItem]:
    """Return how sure the grader is of a stage, and what else it may be."""
    items: list[ContentItem] = [number(codes.STAGE_PROBABILITY, stage.probability, codes.UNITY, language)]
    if stage.runner_up is not None:
        items.append(code(codes.RUNNER_UP, codes.STAGES[stage.runner_up], language))
    if stage.runner_up_probability is not None:
        items.append(number(codes.RUNNER_UP_PROBABILITY, stage.runner_up_probability, codes.UNITY, language))
    return items


class _Report:
    """The groups of one report; holds what all of them need."""

    def __init__(self, source: Source, reading: Reading, context: ResultContext) -> None:
        self.source, self.reading, self.context = source, reading, context
        self.language: Language = results.language_for(source, context)
        self.hand = hand_box(reading.regions, reading.image.rows, reading.image.columns)
        self.laterality = reading.image.laterality or reading.image.laterality_declared
        # A report refers to no object that the destination does not get.
        sent = "SEG" in context.kinds and seg.segments(reading)
        self.segmentation = results.reference(source, "SEG", reading, context) if sent else None
        self._algorithms: dict[tuple[str, tuple[str, ...]], AlgorithmIdentification] = {}

    def assemble(self) -> Dataset:
        groups = [self._method(method) for method in wording.in_order(self.reading)]
        groups += [self._bone(region) for name in RUS if (region := self.reading.region(name)) is not None]
        groups += [self._rejected(region) for region in amendment_items.rejected(self.context.amendment)]
        groups.append(self._film())
        where = results.reference(self.source, "SR", self.reading, self.context)
        return assemble(
            self.source,
            self.context,
            groups=groups,
            conclusion=wording.conclusion(self.reading, self.language, self.context.amendment, self._history()),
            earlier=history_items.earlier_ages(self.context, self.language),
            sop_instance_uid=where.SOPInstanceUID,
            series_instance_uid=where.SeriesInstanceUID,
            cited=[] if self.segmentation is None else [self.segmentation],
        )

    def _uid(self, *parts: str) -> str:
        return results.result_uid(
            self.source, self.reading.bundle.sha256, "SR", self.context, results.inputs(self.reading), *parts
        )

    def _group(
        self,
        name: str,
        finding: Concept,
        items: Sequence[ContentItem],
        *,
        box: Box,
        site: Concept,
        method: Concept | None = None,
        algorithm: str = results.MODEL_NAME,
        parameters: Sequence[str] = (),
    ) -> Group:
        return group(
            self.source,
            self.language,
            tracking_identifier=name,
            tracking_uid=self._uid("group", name),
            finding=finding,
            items=items,
            algorithm=self._algorithm(algorithm, tuple(parameters)),
            box=box,
            site=site,
            laterality=self.laterality,
            method=method,
        )

    def _algorithm(self, name: str, parameters: tuple[str, ...]) -> AlgorithmIdentification:
        """TID 4019: which algorithm, with which weights and parameters; all bones of a report share one."""
        if (name, parameters) not in self._algorithms:
            bundle = self.reading.bundle
            self._algorithms[name, parameters] = AlgorithmIdentification(
                name=name,
                version=bundle.version,
                manufacturer=results.MANUFACTURER,
                parameters=[
                    *(f"bundle {bundle.name}", f"sha256 {bundle.sha256}"),
                    *(f"sex {self.reading.sex or 'unknown'}", *parameters),
                    *(f"{name}: {wording.plain(value, 'en')}" for name, value in self.reading.parameters.items()),
                ],
                family=coded(codes.ARTIFICIAL_INTELLIGENCE, "en"),
            )
        return self._algorithms[name, parameters]

    def _history(self) -> list[str]:
        date = study_date(self.source)
        return wording.history_sentences(self.reading, self.context.priors, date, self.language)

    def _method(self, method: MethodResult) -> Group:
        """Bone age, interval, score, reference values; the chronological age and the difference stand in each method's group."""
        language = self.language
        items: list[ContentItem] = []
        items += self._age(method)
        if method.uncalibrated_years is not None:
            items.append(number(codes.UNCALIBRATED_AGE, method.uncalibrated_years, codes.YEAR, language))
        items += amendment_items.of_method(self.context.amendment, method, language)
        items += history_items.of_method(self.source, self.reading, self.context, method, language)
        qualifier = method.qualifier or ("no result" if method.bone_age_years is None else None)
        if qualifier in codes.QUALIFIERS:
            items.append(code(codes.RESULT_QUALIFIER, codes.QUALIFIERS[qualifier], language))
        if method.reason:
            items.append(text(codes.COMMENT, wording.detail(method.reason, language), language))
        items.append(code(codes.SEX_OF_CURVE, codes.CURVES[method.sex], language))
        if method.score is not None:
            items.append(number(codes.TOTAL_SCORE, method.score, codes.UNITY, language, decimals=1))
        age = self.reading.chronological_age_years
        if age is not None:
            items.append(number(codes.CHRONOLOGICAL_AGE, age, codes.YEAR, language))
            if method.bone_age_years is not None:
                items.append(number(codes.DIFFERENCE, method.bone_age_years - age, codes.YEAR, language))
        if method.sds is not None:
            items.append(number(codes.Z_SCORE, method.sds, codes.UNITY, language))
        if method.percentile is not None:
            items.append(number(codes.PERCENTILE, method.percentile, codes.PERCENT, language, decimals=1))
        why_not = wording.no_position(method, self.reading)
        if why_not is not None:
            items.append(code(codes.NO_POSITION, why_not, language))
        if method.reference:
            items.append(text(codes.REFERENCE, wording.detail(method.reference, language), language))
        return self._group(
            f"{method.name} {method.sex}",
            codes.BONE_AGE,
            items,
            box=self.hand,
            site=codes.HAND,
            method=codes.METHODS.get(method.name, codes.OTHER_METHOD),
            algorithm=f"{results.MODEL_NAME}: {method.name}",
            parameters=[f"curve {method.sex}"],
        )

    def _age(self, method: MethodResult) -> Iterator[ContentItem]:
        """Yield the bone age, with the larger half of its interval as the uncertainty every reader knows, and both limits."""
        age, language = method.bone_age_years, self.language
        if age is None:
            return
        if method.interval_years is None:
            yield number(codes.BONE_AGE, age, codes.YEAR, language)
            return
        low, high = method.interval_years
        half = number(codes.UNCERTAINTY, max(age - low, high - age), codes.YEAR, language, relationship=PROPERTY)
        yield number(codes.BONE_AGE, age, codes.YEAR, language, children=[half])
        yield number(codes.INTERVAL_LOW, low, codes.YEAR, language)
        yield number(codes.INTERVAL_HIGH, high, codes.YEAR, language)

    def _bone(self, region: Region) -> Group:
        language, items = self.language, list[ContentItem]()
        stage = region.stage
        if stage is None:
            items.append(code(codes.RESULT_QUALIFIER, codes.QUALIFIERS["no result"], language))
        else:
            items.append(code(codes.STAGE, codes.STAGES[stage.label], language))
            # A stage that a person gave has no probability.
            items += amendment_items.of_bone(self.context.amendment, region.name, language) or _chances(stage, language)
        for method in wording.in_order(self.reading):
            if region.name in method.per_bone:
                items += self._scores(method, region.name)
        items += [code(codes.REGION_FLAG, flag, language) for flag in self._flags(region)]
        scored = next((method for method in wording.in_order(self.reading) if region.name in method.per_bone), None)
        change = "" if scored is None else wording.one_stage_sentence(scored, region.name, language)
        if change:
            items.append(text(codes.COMMENT, change, language))
        if self.segmentation is not None and region.name in seg.segments(self.reading):
            place = seg.segments(self.reading).index(region.name) + 1
            items.append(segment(codes.OUTLINED_BY, self.segmentation, place, language))
        return self._group(region.name, codes.BONES[region.name], items, box=region.box, site=codes.SITES[region.name])

    def _flags(self, region: Region) -> Iterator[Concept]:
        """Yield what a reader should know of a region: anatomy or other bones contradict it, its stage is hard, or in doubt."""
        yield from (codes.REGION_FLAGS[flag] for flag in region.flags)
        if region.name in codes.HARD_BONES:
            yield codes.HARD_BONE
        given = self.context.amendment is not None and region.name in self.context.amendment.stages
        if region.stage is not None and not given and region.stage.probability < wording.DOUBTFUL:
            yield codes.STAGE_DOUBTFUL

    def _rejected(self, region: Region) -> Group:
        """Keep a region in sight that the observer rejected: where it was, and the stage the algorithm gave it."""
        items = amendment_items.of_rejected(region, self.language)
        finding, site = codes.BONES.get(region.name, codes.SITES[region.name]), codes.SITES[region.name]
        return self._group(f"{region.name} rejected", finding, items, box=region.box, site=site)

    def _scores(self, method: MethodResult, bone: str) -> Iterator[ContentItem]:
        """One bone's score in one method's table, and the bone age that hangs on its stage."""
        scored, language = method.per_bone[bone], self.language
        concept = codes.METHODS.get(method.name, codes.OTHER_METHOD)

        def qualified() -> list[ContentItem]:
            return [
                code(codes.METHOD, concept, language, relationship=MODIFIER),
                code(codes.SEX_OF_CURVE, codes.CURVES[method.sex], language, relationship=MODIFIER),
            ]

        yield number(codes.BONE_SCORE, scored.score, codes.UNITY, language, decimals=1, children=qualified())
        for name, change in (
            (codes.STAGE_DOWN, scored.one_stage_down_years),
            (codes.STAGE_UP, scored.one_stage_up_years),
        ):
            if change is not None:
                yield number(name, change, codes.YEAR, language, children=qualified())

    def _film(self) -> Group:
        """Judge the whole film: its quality, and whether the methods agree."""
        language, facts, agreement = self.language, self.reading.image, self.reading.agreement
        items: list[ContentItem] = [code(codes.IMAGE_QUALITY, codes.FILM_READ, language)]
        for reason in self.reading.verdict.reasons:
            items += _reason(reason, language)
        if facts.polarity in codes.POLARITIES:
            items.append(code(codes.POLARITY, codes.POLARITIES[facts.polarity], language))
        if facts.laterality_marked in codes.LATERALITIES:
            items.append(code(codes.SIDE_MARKER, codes.LATERALITIES[facts.laterality_marked], language))
        items.append(number(codes.ROTATION, facts.rotation_degrees, codes.DEGREE, language, decimals=1))
        if agreement.spread_years is None:
            items.append(code(codes.METHOD_AGREEMENT, codes.NOT_COMPARED, language))
        else:
            verdict = codes.DISAGREES if agreement.alarm else codes.AGREES
            items.append(code(codes.METHOD_AGREEMENT, verdict, language))
            items.append(number(codes.SPREAD, agreement.spread_years, codes.YEAR, language))
            if agreement.threshold_years is not None:
                items.append(number(codes.SPREAD_LIMIT, agreement.threshold_years, codes.YEAR, language))
        whole = (0.0, 0.0, float(facts.columns), float(facts.rows))
        return self._group("film", codes.IMAGE_QUALITY, items, box=whole, site=codes.HAND)
