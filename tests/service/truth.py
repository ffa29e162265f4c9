"""Readings that say exactly what is true of a phantom: whatever a picture then shows elsewhere was drawn elsewhere."""

from models import standards
from models.phantom import Phantom
from models.reading import Bundle, ImageFacts, Mask, MethodResult, Reading, Region, Stage, Verdict
from models.regions import REGIONS, SEGMENTED, Sex
from models.scoring import Scoring, agreement

BUNDLE = Bundle("truth", "1", "7e" * 32, "for tests")


def reading(phantom: Phantom) -> Reading:
    """Return the Reading of a perfect reader: true boxes, masks and stages, the ages by the tables."""
    rows, columns = phantom.image.rows, phantom.image.columns
    stages = {bone: stage(bone, label) for bone, label in phantom.stages.items()}
    sexes: tuple[Sex, ...] = (phantom.sex,)
    by_film = MethodResult("rsna-cnn", phantom.sex, phantom.bone_age_years, reference="Greulich-Pyle")
    results = (*Scoring().by_stages(stages, sexes), by_film)
    return Reading(
        image=ImageFacts(
            rows,
            columns,
            phantom.image.pixel_spacing_mm,
            phantom.laterality,
            phantom.image.laterality,
            phantom.polarity,
            phantom.image.photometric_interpretation,
            phantom.rotation_degrees,
        ),
        verdict=Verdict(True),
        bundle=BUNDLE,
        sex=phantom.sex,
        chronological_age_years=round(phantom.bone_age_years, 1) - 0.4,
        default_method="RUS-CHN",
        regions=tuple(Region(name, phantom.boxes[name], 0.97, stages.get(name)) for name in REGIONS),
        masks={name: Mask.from_array(phantom.masks[name]) for name in SEGMENTED},
        methods=results,
        agreement=agreement(results, 2.0),
    )


def stage(bone: str, label: str) -> Stage:
    """Return a stage of which the grader is nearly sure."""
    levels = standards.fine_levels(bone)
    chances = tuple(0.9 if level == label else 0.1 / (len(levels) - 1) for level in levels)
    return Stage("RUS-CHN", label, standards.letter_of(bone, label), 0.9, probabilities=chances)
