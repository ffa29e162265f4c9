"""Draw one phantom film: the only module that knows every step."""

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from models.image import Image
from models.phantom import bones as tubular
from models.phantom import carpals, epiphysis, exposure, flesh, furniture, maturity, skeleton
from models.phantom import cast as casts
from models.phantom.canvas import TILE, Array, Canvas, Masks, View
from models.reading import Box
from models.regions import CARPUS, REGIONS, Laterality, Sex

# A region's box: side over the width of the metaphysis, and how far its centre lies from the metaphyseal end towards the
# joint, also over that width.
BOX_SIDE: Final = {"ra": 1.5, "ul": 1.9, "mc": 1.9, "pp": 1.8, "mp": 1.8, "dp": 1.9}
BOX_SHIFT: Final = {"ra": 0.18, "ul": 0.25, "mc": 0.30, "pp": 0.34, "mp": 0.34, "dp": 0.34}
_CARPUS_MARGIN_MM: Final = 2.0


@dataclass(frozen=True, slots=True)
class Phantom:
    """A film and everything that is true of it. Boxes and masks are in pixels of the film.

    `boxes` follow one convention. The box of a bone is a square with sides along the film, centred on the axis of the bone
    at its growth plate, moved towards the joint by `BOX_SHIFT` of the width of the metaphysis so that plate and epiphysis
    lie in its middle; its side is `BOX_SIDE` of that width. It exists whether or not the centre has appeared. The box of
    the carpus is the smallest that holds the seven carpal bones without the pisiform at their adult size, and 2 mm more.
    Boxes may reach past the film where the bone does.
    """

    image: Image
    boxes: dict[str, Box]
    masks: Masks  # every bone in view; radius and ulna with shaft and epiphysis
    epiphyses: Masks  # the ossified epiphysis of each bone alone
    stages: dict[str, str]  # RUS-CHN label of the 13 RUS bones, "0" where the centre is absent
    maturity: dict[str, float]  # of all 21 bones
    total_score: int
    bone_age_years: float
    sex: Sex
    laterality: Laterality
    polarity: Literal["bone bright", "bone dark"]
    rotation_degrees: float  # counter-clockwise, by which the middle finger deviates from pointing up
    text_boxes: tuple[furniture.Text, ...]
    axes: dict[str, tuple[float, float]]  # from each growth plate towards the joint, as long as the metaphysis is wide
    joints: dict[str, tuple[float, float]]  # cmc1, mcp1..5, ip1, pip2..5, dip2..5, wrist and the tips of the bones, x y


@cache
def _grain() -> tuple[Array, ...]:
    """Return trabecular patterns: unit noise between two scales, periodic."""
    tiles = []
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal((TILE, TILE)).astype(np.float32)
        band = gaussian_filter(noise, 1.3, mode="wrap") - gaussian_filter(noise, 3.5, mode="wrap")
        band /= band.std()
        # Trabeculae are thin bright strands: the zero lines of the noise, some thicker than others.
        strands = np.exp(-((band / 0.55) ** 2)) + 1.2 * gaussian_filter(noise, 2.5, mode="wrap")
        tiles.append(((strands - strands.mean()) / strands.std()).astype(np.float32))
    return tuple(tiles)


def _view(
    rng: np.random.Generator,
    points: NDArray[np.float64],
    rows: int,
    columns: int,
    *,
    degrees: float,
    right: bool,
    zoom: float,
) -> View:
    """Fit the hand to the film, turned counter-clockwise by `degrees`, mirrored for a right hand."""
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ np.diag(
        [-1.0 if right else 1.0, 1.0]
    )
    placed = points @ matrix.T
    low, high = placed.min(0), placed.max(0)
    scale = zoom * min(columns / (high[0] - low[0]), rows / (high[1] - low[1]))
    spare = np.array([columns, rows]) - scale * (high - low)
    offset = spare * np.clip(rng.normal(0.5, 0.18, 2), 0.05, 0.95) - scale * low
    return View(scale * matrix, offset)


def _boxes(view: View, skeleton_bones: dict[str, skeleton.Bone], wrist: dict[str, carpals.Carpal]) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    for name, bone in skeleton_bones.items():
        x, y = view.point(bone.at(0.0, -BOX_SHIFT[name[:2]] * bone.metaphysis_mm))
        half = 0.5 * BOX_SIDE[name[:2]] * bone.metaphysis_mm * view.pixels_per_mm
        boxes[name] = (float(x - half), float(y - half), float(x + half), float(y + half))
    outline = np.concatenate([view.point(c.cartilage) for c in wrist.values() if c.name != "pisiform"])
    margin = _CARPUS_MARGIN_MM * view.pixels_per_mm
    low, high = outline.min(0) - margin, outline.max(0) + margin
    boxes[CARPUS] = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return {name: boxes[name] for name in REGIONS}


def _axes(view: View, hand: dict[str, skeleton.Bone]) -> dict[str, tuple[float, float]]:
    axes: dict[str, tuple[float, float]] = {}
    for name, bone in hand.items():
        x, y = view.point(bone.at(0.0, -bone.metaphysis_mm)) - view.point(bone.at(0.0, 0.0))
        axes[name] = (float(x), float(y))
    return axes


def _joints(view: View, hand: dict[str, skeleton.Bone]) -> dict[str, tuple[float, float]]:
    """Return the middle of each joint's space, named as clinicians do, and the tip of each finger's bone."""
    names = {"mc1": "cmc1", "dp1": "ip1", "radius": "wrist"}
    names |= {f"pp{ray}": f"mcp{ray}" for ray in "12345"}
    names |= {f"mp{ray}": f"pip{ray}" for ray in "2345"} | {f"dp{ray}": f"dip{ray}" for ray in "2345"}
    points = {joint: hand[bone].at(0.0, -hand[bone].slot_mm - 0.7) for bone, joint in names.items()}
    points |= {f"tip{ray}": hand[f"dp{ray}"].at(0.0, hand[f"dp{ray}"].shaft_mm) for ray in "12345"}
    placed = {name: view.point(point) for name, point in points.items()}
    return {name: (float(xy[0]), float(xy[1])) for name, xy in placed.items()}


def draw(
    seed: int,
    *,
    age_years: float | None = None,
    sex: Sex | None = None,
    rows: int = 1000,
    columns: int = 800,
    laterality: Laterality | None = None,
    rotation_degrees: float | None = None,
    spread: float | None = None,
    zoom: float | None = None,
    scatter_years: float | None = None,
    low_contrast: bool | None = None,
    furnished: bool | None = None,
    collimated: bool | None = None,
    text: str | None = None,
    noise: float | None = None,
    photometric_interpretation: Literal["MONOCHROME1", "MONOCHROME2"] | None = None,
    polarity: Literal["bone bright", "bone dark"] = "bone bright",
    maturities: dict[str, float] | None = None,
    cast: casts.Material | None = None,
) -> Phantom:
    """Draw a hand radiograph from its seed; every argument left None is drawn as archives have it.

    Parameters
    ----------
    seed
        The same seed and arguments give the same film, bit by bit.
    age_years
        Bone age aimed at, 0..18; the one reached is in the result and follows from the stages.
    rotation_degrees
        Counter-clockwise turn of the whole hand.
    spread
        Finger spread, 0 closed to 1.4 wide.
    zoom
        Fraction of the film that hand and wrist fill, 0.4..1.1.
    furnished
        Whether lead markers, burned-in text and frames are added; None leaves it to chance.
    text
        The burned-in text; None draws one where there is any.
    polarity
        "bone dark" inverts the pixels against what the header says: a film whose header lies.
    maturities
        Maturity of each of the 21 bones, in place of drawing them from the age.
    cast
        What a cast over forearm, wrist and palm is made of; None leaves it out.

    Raises
    ------
    ValueError
        When a film is too small to hold a hand, or an argument is out of its range.
    """
    if min(rows, columns) < 64:
        raise ValueError(f"film of {rows} x {columns} pixels; a phantom needs at least 64 x 64")
    if age_years is not None and not 0 <= age_years <= 20:
        raise ValueError(f"age of {age_years} years; phantoms cover 0 to 20 years")
    rng = np.random.default_rng(seed)
    # One generator per part, so that a choice in one leaves the others as they are.
    anatomy, pose_rng, look, grain_rng, noise_rng, objects = rng.spawn(6)
    sex = sex if sex is not None else ("F" if anatomy.random() < 0.5 else "M")
    age = float(anatomy.uniform(0.3, 17.0 if sex == "F" else 18.5)) if age_years is None else age_years
    grown = maturity.draw(anatomy, age, sex, scatter_years) if maturities is None else maturity.given(maturities, sex)
    shapes = {bone: epiphysis.shape(bone, grown.maturity[bone]) for bone in maturity.BONES}
    plates = float(np.exp(anatomy.normal(0.0, 0.22)))  # growth plates of one child are all a little wider or narrower
    shapes = {bone: dataclasses.replace(s, gap_mm=s.gap_mm * plates) if s else None for bone, s in shapes.items()}
    size_age = age if maturities is None else grown.bone_age_years
    build = skeleton.Build.sample(anatomy, size_age, sex)
    plumpness = float(np.clip(anatomy.normal(1.6 - 0.05 * size_age, 0.5), 0.2, 3.0)) + max(0.0, 2.0 - size_age)

    pose = skeleton.Pose.sample(pose_rng, spread)
    hand = skeleton.place(pose_rng, build, pose, shapes)
    wrist = carpals.place(anatomy, size_age, sex, build.width)
    seed_bone = carpals.sesamoid(anatomy, hand["mc1"], size_age, sex, build.width)
    parts = flesh.limbs(hand, build, plumpness, pose.forearm_degrees)
    right = (pose_rng.random() < 0.06) if laterality is None else laterality == "R"
    if rotation_degrees is None:
        rotation_degrees = float(pose_rng.normal(0.0, 7.0) if pose_rng.random() < 0.92 else pose_rng.uniform(-180, 180))
    if zoom is None:
        zoom = float(pose_rng.uniform(0.72, 1.0))
    forearm_mm = build.length * float(pose_rng.uniform(10.0, 60.0))
    view = _view(
        pose_rng, flesh.bounds(parts, forearm_mm), rows, columns, degrees=rotation_degrees, right=right, zoom=zoom
    )

    canvas = Canvas(rows, columns, view)
    tissue = tubular.Tissue(
        cortex=float(np.clip(anatomy.normal(0.36 + 0.007 * size_age, 0.05), 0.22, 0.6)),
        spongiosa=float(np.clip(anatomy.normal(0.19, 0.03), 0.12, 0.28)),
        marrow=float(np.clip(anatomy.normal(0.07, 0.02), 0.02, 0.12)),
        grain=float(np.clip(anatomy.normal(0.24, 0.06), 0.08, 0.4)),
        per_mm=float(anatomy.uniform(5.0, 8.0)),
        rim_mm=float(np.clip(anatomy.normal(0.45, 0.08), 0.28, 0.7)),
        mineral=float(np.clip((0.58 + 0.035 * size_age) * anatomy.normal(1.0, 0.12), 0.42, 1.2)),
    )
    tile = _grain()[int(grain_rng.integers(3))]
    for bone in hand.values():
        ripple = grain_rng.normal(0.0, (0.02, 0.012, 1.0, 0.008))
        tubular.draw_shaft(canvas, bone, tissue, tile, grain_rng, ripple)
        tubular.draw_epiphysis(canvas, bone, tissue, tile, grain_rng, ripple)
    for carpal in (*wrist.values(), *((seed_bone,) if seed_bone else ())):
        carpals.draw(canvas, carpal, tissue, tile, grain_rng)

    soft = flesh.thickness(view, (rows, columns), parts, flesh.thenar(hand, build.width, plumpness))
    if cast is not None:
        cast_rng = np.random.default_rng((seed, 5))  # its own draws: the film under the cast is the film without it
        soft = soft + casts.wall(cast_rng, cast, view, (rows, columns), parts, hand, build)
    side: Laterality = "R" if right else "L"
    texts: list[furniture.Text] = []
    lead: Array | None = None
    chance = {None: 0.75, True: 1.0, False: 0.0}[furnished]
    if objects.random() < chance:
        lead = np.zeros((rows, columns), dtype=np.float32)
        marker = furniture.lead_marker(objects, lead, soft, side)
        texts += [marker] if marker else []
    settings = exposure.Exposure.sample(look, low_contrast=low_contrast, noise=noise)
    film = exposure.expose(noise_rng, soft, canvas.bone, lead, settings, view.pixels_per_mm)
    boxes = _boxes(view, hand, wrist)
    if collimated or (collimated is None and objects.random() < 0.3):
        skin = view.point(flesh.bounds(parts, 0.5 * forearm_mm))
        keep = (*np.clip(skin.min(0), 0, None), *np.minimum(skin.max(0), (columns, rows)))
        opening = furniture.collimate(
            objects, film, (keep[0], keep[1], keep[2], keep[3]), white=bool(objects.random() < 0.25)
        )
        canvas.masks.clip(opening)
        canvas.epiphyses.clip(opening)
    if text is not None or objects.random() < 0.35 * chance:
        burned = furniture.burned_text(objects, film, text)
        texts += [burned] if burned else []
    if objects.random() < 0.3 * chance:
        opening = furniture.frame(objects, film)
        canvas.masks.clip(opening)
        canvas.epiphyses.clip(opening)
    if polarity == "bone dark":
        film = 1 - film
    declared = photometric_interpretation or ("MONOCHROME1" if objects.random() < 0.2 else "MONOCHROME2")
    spacing = 1.0 / view.pixels_per_mm
    tip, foot = (
        view.point(hand["dp3"].at(0.0, hand["dp3"].shaft_mm)),
        view.point(hand["mc3"].at(0.0, hand["mc3"].shaft_mm)),
    )
    return Phantom(
        image=Image(film, declared, settings.bits, (spacing, spacing)),
        boxes=boxes,
        masks=canvas.masks,
        epiphyses=canvas.epiphyses,
        stages=grown.stages,
        maturity=grown.maturity,
        total_score=grown.total,
        bone_age_years=grown.bone_age_years,
        sex=sex,
        laterality=side,
        polarity=polarity,
        rotation_degrees=float(np.rad2deg(np.arctan2(foot[0] - tip[0], foot[1] - tip[1]))),
        text_boxes=tuple(texts),
        axes=_axes(view, hand),
        joints=_joints(view, hand),
    )
