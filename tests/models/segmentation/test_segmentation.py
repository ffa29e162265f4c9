"""The segmenter: where it cuts, how outlines come back to the film, what its training sees."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from scipy import ndimage

from models import weights
from models.datasets.faults import BadData
from models.folding import folded
from models.image import Image
from models.metrics.overlap import mask_overlap
from models.phantom import draw
from models.runs import RunRefused
from models.segmentation import outlined, table, train
from models.segmentation.average import average
from models.segmentation.batches import prepare
from models.segmentation.compare import area_under_curve, common, gained, rows
from models.segmentation.crop import Crop, crop_of, cut, join, normalise, put_back, reached, smoothed
from models.segmentation.data import MARGIN, Crops
from models.segmentation.evaluate import hausdorff_95
from models.segmentation.losses import LOSSES, compound, total
from models.segmentation.network import ARCHITECTURES, CLASSES, CLASSICAL, UNet, build, layout
from models.segmentation.outlined import make_outlined
from models.segmentation.predict import Segmenter, pieces_of, tidied
from models.segmentation.served import ServedUNet
from models.weights import FREE_TERMS, Metadata, WeightsRefused

BOXES = {
    "ulna": (80.0, 90.0, 120.0, 130.0),
    "radius": (130.0, 85.0, 180.0, 135.0),
    "carpus": (100.0, 10.0, 160.0, 70.0),
}


def test_the_crop_is_upright_with_the_radius_on_the_right() -> None:
    crop = crop_of(BOXES)
    assert crop is not None
    right, down = crop.matrix.T
    assert right == pytest.approx((1, 0), abs=0.25)
    assert down == pytest.approx((0, 1), abs=0.25)
    # Median of 50 (the radius's box), 40 * 1.39 = 55.6 and 55 * 1.76 = 96.8; the crop is twice that.
    assert crop.side == pytest.approx(2 * 55.6)
    mirrored = {name: (300 - x2, y1, 300 - x1, y2) for name, (x1, y1, x2, y2) in BOXES.items()}
    other = crop_of(mirrored)
    assert other is not None
    assert other.matrix[0, 0] == pytest.approx(-crop.matrix[0, 0])  # the same crop of a right hand is reflected
    turned = {name: (300 - x2, 300 - y2, 300 - x1, 300 - y1) for name, (x1, y1, x2, y2) in BOXES.items()}
    upside_down = crop_of(turned)
    assert upside_down is not None
    assert upside_down.matrix == pytest.approx(-crop.matrix)


def test_without_both_boxes_there_is_no_crop() -> None:
    assert crop_of({"radius": BOXES["radius"]}) is None
    assert crop_of({}) is None


@pytest.mark.parametrize("degrees", [0.0, 30.0, -100.0])
def test_what_is_cut_out_comes_back_to_the_same_pixels(degrees: float) -> None:
    film = np.zeros((260, 300), np.float32)
    film[120:150, 110:170] = 1
    crop = crop_of(BOXES)
    assert crop is not None
    crop = crop.moved(degrees, 1.1, 0.02, -0.03)
    sampled, inside = cut(film, crop, 224)
    assert inside.all()
    placed, rows, columns = put_back(sampled[None], crop, 260, 300)
    back = np.zeros_like(film)
    back[rows, columns] = placed[0]
    shared = ((back > 0.5) & (film > 0.5)).sum()
    assert shared / ((back > 0.5) | (film > 0.5)).sum() > 0.97


def test_what_lies_off_the_film_is_zero_and_the_rest_is_standardised() -> None:
    film = np.random.default_rng(0).random((150, 300), dtype=np.float32) + 5
    crop = crop_of(BOXES)
    assert crop is not None
    sampled, inside = cut(film, crop, 64)
    assert 0.3 < inside.mean() < 1
    values = normalise(sampled, inside)
    assert (values[~inside] == 0).all()
    assert values[inside].mean() == pytest.approx(0, abs=1e-4)
    assert values[inside].std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_scores_each_class_at_every_pixel(architecture: str) -> None:
    large = architecture.startswith("fcn") or architecture in ("segnet", "deeplabv3+")
    with torch.device("meta" if large else "cpu"), torch.inference_mode():  # of the large ones shapes only
        net = build(architecture, {"size": 32}).eval()
        net = net.to(memory_format=layout(net))  # type: ignore[call-overload]
        assert net(torch.zeros(1, 1, 32, 32)).shape == (1, len(CLASSES), 32, 32)


@pytest.mark.parametrize("architecture", ["unet", "fcn2s", "unet++", "vnet", "dunet", "segresnet-vae", "patch-cnn"])
def test_a_step_of_training_moves_every_kind_of_network(architecture: str) -> None:
    torch.manual_seed(0)
    net = build(architecture, {"size": 32}).train()
    net = net.to(memory_format=layout(net))  # type: ignore[call-overload]
    shares = torch.zeros(2, 3, 32, 32)
    shares[:, 0, :, :16], shares[:, 1, :, 16:24], shares[:, 2, :, 24:] = 1, 1, 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(torch.randn(2, 1, 32, 32))
    total(output, shares, compound).backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), name
    assert any(parameter.grad is not None and float(parameter.grad.abs().sum()) > 0 for parameter in net.parameters())


def test_a_pruned_unet_plus_plus_gives_what_its_head_gave_in_training() -> None:
    torch.manual_seed(0)
    whole, pruned = build("unet++", {"depth": 4}), build("unet++", {"depth": 2})
    pruned.load_state_dict(whole.state_dict())
    x = torch.randn(1, 1, 32, 32)
    batch_statistics = [m for m in (*whole.modules(), *pruned.modules()) if isinstance(m, torch.nn.BatchNorm2d)]
    for module in batch_statistics:
        module.eval()
    whole.training, pruned.training = True, False  # the heads of training, without its batch statistics
    heads, _ = whole(x)
    assert len(heads) == 4
    torch.testing.assert_close(pruned(x), heads[1])


@pytest.mark.parametrize("method", CLASSICAL)
def test_a_classical_method_finds_two_bright_bars_where_the_prior_expects_them(method: str) -> None:
    truth = torch.zeros(1, 3, 96, 96)
    truth[:, 1, 20:, 20:36], truth[:, 2, 20:, 56:80] = 1, 1
    truth[:, 0] = 1 - truth.sum(dim=1)
    film = 2 * truth[:, 1:].sum(dim=1, keepdim=True) + 0.05 * torch.randn(1, 1, 96, 96, generator=torch.manual_seed(0))
    net = build(method, {"size": 96})
    soft = torch.nn.functional.avg_pool2d(truth, 9, stride=1, padding=4)  # bones do not all lie at one place
    soft[:, 0] += 1 - soft.sum(dim=1)
    net.prior.copy_(soft[0])  # type: ignore[union-attr, operator]  # a buffer
    found = net(film).argmax(dim=1)[0].numpy()
    for label in (1, 2):
        # The closed edges lie a little outside of the bar.
        assert mask_overlap(found == label, truth[0, label].numpy() > 0).iou > (0.6 if method == "edge" else 0.85)


def test_a_white_border_takes_the_bone_it_covers_with_it() -> None:
    films, truth = torch.full((64, 1, 40, 40), 0.5), torch.ones(64, 3, 40, 40)
    truth[:, 0] = 0  # the crop is all radius
    x, shares = prepare(films, truth, torch.Generator().manual_seed(0), 32)
    covered = shares[:, 2] < 0.5
    assert 0.02 < float(covered.float().mean()) < 0.6
    assert x.shape == (64, 1, 32, 32)


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no segmentation network 'pspnet'; there are unet, fcn32s"):
        build("pspnet")


def test_the_loss_is_zero_for_certain_and_right_scores_and_grows_when_wrong() -> None:
    shares = torch.zeros(1, 3, 8, 8)
    shares[:, 0, :4], shares[:, 1, 4:, :4], shares[:, 2, 4:, 4:] = 1, 1, 1
    right, wrong = 50 * shares, 50 * shares.roll(1, dims=1)
    assert float(compound(right, shares)) == pytest.approx(0, abs=1e-4)
    # Cross-entropy 50 in every pixel; neither bone overlaps: Dice 1 / (16 + 16 + 1) for one, 1 / (32 + 16 + 1) for the other.
    assert float(compound(wrong, shares)) == pytest.approx(50 + 1 - (1 / 33 + 1 / 49) / 2, rel=1e-3)


def test_the_focal_loss_is_the_cross_entropy_weighed_by_what_is_still_wrong() -> None:
    shares = torch.tensor([0.0, 1.0, 0.0])[None, :, None, None]
    scores = torch.log(torch.tensor([0.25, 0.5, 0.25]))[None, :, None, None]
    # Probability 0.5 of the right class: cross-entropy ln 2, weighed by (1 - 0.5) ** 2.
    assert float(LOSSES["cross-entropy"](scores, shares)) == pytest.approx(0.6931, rel=1e-3)
    assert float(LOSSES["focal"](scores, shares)) == pytest.approx(0.25 * 0.6931, rel=1e-3)


def test_the_hausdorff_distance_of_shifted_squares_is_the_shift() -> None:
    first, second = np.zeros((40, 40), np.bool_), np.zeros((40, 40), np.bool_)
    first[10:20, 10:20], second[10:20, 14:24] = True, True
    # Every point of the left and right edges is 4 pixels from the other square's; 4 pixels at 0.5 mm are 2 mm.
    assert hausdorff_95(first, second, 0.5) == pytest.approx(2.0)
    assert hausdorff_95(first, np.zeros_like(first), 0.5) == float("inf")


def test_a_segmenter_of_saved_weights_answers_in_film_coordinates(tmp_path: Path) -> None:
    net = build("unet", {"widths": [4, 8]})
    weights.save(
        tmp_path,
        net.state_dict(),
        Metadata(
            "segmentation",
            "unet",
            FREE_TERMS,
            ("none",),
            0,
            preprocessing={"size": 64},
            hyperparameters={"widths": [4, 8]},
        ),
        half=True,
    )
    segmenter = Segmenter(tmp_path)
    film = draw(1, rows=300, columns=240)
    masks = segmenter.masks(film.image, film.boxes)
    assert set(masks) <= {"radius", "ulna"}
    assert all(mask.shape == (300, 240) for mask in masks.values())
    assert segmenter.masks(Image(film.image.pixels), {}) == {}


def test_a_segmenter_that_is_to_look_more_often_than_it_can_is_refused(tmp_path: Path) -> None:
    net = build("unet", {"widths": [4, 8]})
    made = Metadata(
        "segmentation",
        "unet",
        FREE_TERMS,
        ("none",),
        0,
        preprocessing={"size": 64, "looks": 4},
        hyperparameters={"widths": [4, 8]},
    )
    weights.save(tmp_path, net.state_dict(), made)
    with pytest.raises(weights.WeightsRefused, match="looks: expected 1 to 3, found 4"):
        Segmenter(tmp_path)


@pytest.mark.parametrize(
    ("fused", "registers"), [(True, "AVX512"), (True, "AVX2"), (False, "AVX512"), (False, "DEFAULT")]
)
@pytest.mark.parametrize("widths", [(4, 8), (8, 16, 24), (16, 24)])
def test_a_unet_says_the_same_as_it_is_served(
    widths: tuple[int, ...], fused: bool, registers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: fused)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: registers)
    torch.manual_seed(len(widths))
    trained = folded(UNet(widths)).to(memory_format=torch.channels_last)
    served = ServedUNet(trained)
    with torch.inference_mode():
        for size in (32, 44):
            crops = torch.randn(3, 1, size, size).to(memory_format=torch.channels_last)
            said = served(crops)
            assert said.shape == (3, len(CLASSES), size, size)
            assert torch.allclose(said, trained(crops), rtol=1e-4, atol=1e-4 * float(said.abs().max()))


def test_crops_that_overlap_are_joined_to_their_mean_and_the_others_stay_as_they_are() -> None:
    left = Crop(np.array([60.0, 80.0]), np.eye(2), 60.0)
    right = Crop(np.array([100.0, 80.0]), np.eye(2), 60.0)
    values = np.stack([np.full((1, 32, 32), level, np.float32) for level in (0.2, 0.8)])
    joined, rows, columns = join(values, [left, right], 160, 160)
    film = np.zeros((160, 160))
    film[rows, columns] = joined[0]
    assert film[80, 40] == pytest.approx(0.2)
    assert film[80, 80] == pytest.approx(0.5)
    assert film[80, 120] == pytest.approx(0.8)
    assert film[20, 80] == film[80, 20] == film[80, 140] == 0
    alone, down, across = join(values[:1], [left], 160, 160)
    expected, *place = put_back(values[0], left, 160, 160)
    assert [down, across] == place
    assert np.array_equal(alone, expected)


def test_only_the_part_of_the_film_where_a_bone_can_be_is_computed() -> None:
    rng = np.random.default_rng(3)
    crop = Crop(np.array([83.0, 70.0]), np.array([[0.8, -0.6], [0.6, 0.8]]), 90.0)
    crops = [crop, crop.moved(5.0, 1.08, 0.0, 0.0)]
    values = np.zeros((2, 2, 32, 32), np.float32)
    values[:, :, 10:24, 12:20] = rng.random((2, 2, 14, 8), np.float32)
    where = reached(values, crops, 0.33, 150, 160)
    assert where is not None
    whole, part = np.zeros((2, 150, 160)), np.zeros((2, 150, 160))
    for film, (found, down, across) in ((whole, join(values, crops, 150, 160)), (part, join(values, crops, *where))):
        film[:, down, across] = found
    assert (whole > 0.33).any()
    assert np.array_equal(whole * (whole > 0.33), part * (part > 0.33))
    assert (part != 0).sum() <= (whole != 0).sum()
    assert (where[0].stop - where[0].start) * (where[1].stop - where[1].start) < 0.5 * 150 * 160
    assert reached(values, crops, 1.0, 150, 160) is None
    assert reached(values, crops, 0.33, 10, 10) is None  # it lies off such a film


def test_tilted_crops_are_joined_to_what_a_mean_weighed_by_their_share_of_each_pixel_gives() -> None:
    rng = np.random.default_rng(4)
    crop = Crop(np.array([75.3, 70.8]), np.array([[0.8, -0.6], [0.6, 0.8]]), 90.0)
    crops = [crop, crop.moved(5.0, 1.08, 0.02, 0.0), crop.moved(-5.0, 0.95, 0.0, -0.03)]
    values = rng.random((3, 2, 32, 32), np.float32)
    sums, shares = np.zeros((2, 150, 160)), np.zeros((150, 160))
    for own, seen in zip(values, crops, strict=True):
        placed, rows, columns = put_back(np.concatenate((own, np.ones((1, 32, 32), np.float32))), seen, 150, 160)
        sums[:, rows, columns] += placed[:2]
        shares[rows, columns] += placed[2]
    joined, rows, columns = join(values, crops, 150, 160)
    assert shares.max() == pytest.approx(3)
    assert ((shares > 0.1) & (shares < 0.9)).any()  # fades at the border
    assert joined == pytest.approx((sums / np.maximum(shares, 1))[:, rows, columns], abs=1e-5)
    assert shares.sum() == pytest.approx(shares[rows, columns].sum())


@pytest.mark.parametrize(("rows", "columns", "sigma"), [(300, 70, 1.3), (128, 129, 0.51), (3, 200, 2.2), (1, 1, 0.6)])
def test_films_are_smoothed_as_scipy_does_it(rows: int, columns: int, sigma: float) -> None:
    film = np.random.default_rng(rows).random((rows, columns), np.float32)
    expected = ndimage.gaussian_filter(film, sigma, truncate=2.5)
    assert smoothed(film, sigma) == pytest.approx(expected, abs=1e-6)


def test_pieces_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = rng.random(rng.integers(1, 30, 2)) < rng.random()
        expected, count = ndimage.label(mask)
        runs, sizes = pieces_of(mask)
        found = np.zeros_like(expected)
        for row, start, stop, piece in runs.T:
            found[row, start:stop] = piece + 1
        assert np.array_equal(found, expected)
        assert sizes.tolist() == np.bincount(expected.ravel(), minlength=count + 1)[1:].tolist()


def test_a_bone_keeps_its_shaft_and_its_epiphysis_and_loses_specks_and_holes() -> None:
    found = np.zeros((100, 100), np.bool_)
    found[40:90, 20:60] = True  # the shaft, 2000 pixels
    found[60, 30] = False  # a hole of 1 pixel: closed; 1 % of the shaft are 20
    found[65:75, 30:35] = False  # a hole of 50 pixels: left
    found[25:35, 25:55] = True  # the epiphysis, inside the box
    found[28:31, 57:59] = True  # a speck of 6 pixels inside the box: the epiphysis is larger
    found[5:15, 80:95] = True  # another bone, outside the box
    tidy = tidied(found, (115.0, 215.0, 165.0, 265.0), slice(200, 300), slice(100, 200))
    assert tidy[60, 30]
    assert not tidy[65:75, 30:35].any()
    assert tidy[25:35, 25:55].all()
    assert not tidy[28:31, 57:59].any()
    assert not tidy[5:15, 80:95].any()
    assert not tidied(np.zeros((4, 4), np.bool_), (0.0, 0.0, 4.0, 4.0), slice(0, 4), slice(0, 4)).any()


def test_the_shipped_weights_outline_phantoms_they_have_not_seen() -> None:
    segmenter = Segmenter(Path(weights.__file__).parent / "bundles" / "segmentation" / "unet")
    rows = []
    for seed, age in ((50_000_001, 9.0), (50_000_002, 13.0)):
        film = draw(seed, age_years=age, rotation_degrees=40.0, low_contrast=False, collimated=False)
        masks = segmenter.masks(film.image, film.boxes)
        window = _window(film.boxes, film.image)
        rows += [mask_overlap(masks[bone] & window, film.masks[bone] & window).iou for bone in ("radius", "ulna")]
    assert min(rows) > 0.85


def _window(boxes: dict[str, tuple[float, float, float, float]], image: Image) -> np.ndarray:
    crop = crop_of(boxes)
    assert crop is not None
    window = np.zeros((image.rows, image.columns), dtype=np.bool_)
    placed, rows, columns = put_back(np.ones((1, 64, 64), np.float32), crop, image.rows, image.columns)
    window[rows, columns] = placed[0] > 0.5
    return window


def test_the_area_under_the_curve_counts_pairs_in_the_right_order() -> None:
    # Bone scores 3 and 1, background 2 and 0: of the four pairs (3,2) (3,0) (1,0) are in order, (1,2) is not.
    assert area_under_curve(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False])) == pytest.approx(0.75)
    assert area_under_curve(np.array([1.0, 1.0]), np.array([True, False])) == pytest.approx(0.5)


def test_an_outlined_film_is_blank_outside_of_the_crop_its_outlines_were_drawn_in(tmp_path: Path) -> None:
    film = (np.random.default_rng(0).random((260, 300)) * 255).astype(np.uint8)
    (tmp_path / "films").mkdir()
    PIL.Image.fromarray(film).save(tmp_path / "films" / "7.png")
    bones = {"ulna": [[85, 100], [115, 100], [115, 160], [85, 160]], "radius": [[135, 100], [175, 100], [175, 160]]}
    shapes = [{"label": name, "points": points, "shape_type": "polygon"} for name, points in bones.items()]
    document = {"shapes": shapes, "imagePath": "7.png", "imageHeight": 260, "imageWidth": 300, "imageData": None}
    (tmp_path / "7.json").write_text(json.dumps(document))
    (tmp_path / "split.csv").write_text("id,part\n7,train\n")
    rows = [f"7,{name},{','.join(str(v) for v in box)}" for name, box in BOXES.items()]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,label,x1,y1,x2,y2", *rows, ""]))
    assert make_outlined(tmp_path / "cache", tmp_path, tmp_path / "films", "train") == 1
    crops = Crops.open(tmp_path / "cache")
    # The crop is 1 / MARGIN of what is kept along each side, and some of it may lie off the film.
    assert 0.4 < float(crops.inside[0].mean()) <= MARGIN**-2 + 0.01
    assert int(crops.masks[0, :, ~crops.inside[0]].max()) == 0
    assert (crops.masks[0].reshape(2, -1).max(axis=1) > 200).all()


def test_own_outlines_without_a_box_or_of_another_size_are_refused(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.zeros((64, 80), np.uint8)).save(tmp_path / "a.png")
    points = [[10, 10], [30, 10], [30, 40]]
    shapes = [{"label": name, "points": points, "shape_type": "polygon"} for name in ("ulna", "radius", "mc1")]
    document = {"shapes": shapes, "imagePath": "a.png", "imageHeight": 64, "imageWidth": 80}
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "split.csv").write_text("id,part\na,train\n")
    readings = tmp_path / "readings.jsonl"
    regions = [{"name": "ulna", "box": [8, 8, 24, 24]}, {"name": "radius", "box": [30, 8, 50, 28]}]
    readings.write_text(json.dumps({"file": "a.png", "regions": regions}) + "\n")
    assert make_outlined(tmp_path / "cache", tmp_path, tmp_path, "train", readings) == 1
    with pytest.raises(BadData, match=r"split\.csv: 'test': no film stands in this part"):
        make_outlined(tmp_path / "cache", tmp_path, tmp_path, "test", readings)
    readings.write_text(json.dumps({"file": "a.png", "regions": regions[:1]}) + "\n")
    with pytest.raises(BadData, match=r"readings\.jsonl: 'a': there is no box of radius and ulna"):
        make_outlined(tmp_path / "cache", tmp_path, tmp_path, "train", readings)
    readings.write_text("{}\n")
    with pytest.raises(BadData, match=r"readings\.jsonl:1: "):
        make_outlined(tmp_path / "cache", tmp_path, tmp_path, "train", readings)


def test_a_run_goes_on_round_by_round_with_equal_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, films in (("train", 6), ("validation", 2)):
        rng = np.random.default_rng(films)
        (tmp_path / "data" / part).mkdir(parents=True)
        masks = np.zeros((films, 2, 42, 42), np.uint8)
        masks[:, 0, 20:, 8:16], masks[:, 1, 20:, 24:36] = 255, 255
        shown = np.clip(masks.max(axis=1) * 0.6 + rng.integers(0, 60, (films, 42, 42)), 0, 255).astype(np.uint8)
        for name, array in (("films", shown), ("masks", masks), ("inside", np.ones((films, 42, 42), np.bool_))):
            np.save(tmp_path / "data" / part / f"{name}.npy", array)
        (tmp_path / "data" / part / "cache.json").write_text(json.dumps({"films": films, "first_seed": 0}))
    run = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs"), "--size", "32", "--batch", "2"]
    table.main([*run, "--rounds", "15", "--only", "unet", "clustering"])
    table.main([*run, "--rounds", "40", "15", "--only", "unet", "clustering"])  # the first round is not trained again
    assert "clustering has no network to train: the mean outline of 6 films is its prior" in capsys.readouterr().err
    curve = json.loads((tmp_path / "runs" / "unet" / "curve.json").read_text())["loss"]
    assert np.mean(curve[-3:]) < np.mean(curve[:3])
    _, first = weights.load(tmp_path / "runs/unet/weights-15", problem="segmentation", architectures=("unet",))
    _, second = weights.load(tmp_path / "runs/unet/weights-40", problem="segmentation", architectures=("unet",))
    assert first.metrics["validation"]["step"] <= second.metrics["validation"]["step"]
    assert Segmenter(tmp_path / "runs" / "clustering" / "weights-40").size == 32
    assert not list(table.todo(tmp_path / "runs", (15, 40), ("unet", "clustering")))
    with pytest.raises(RunRefused, match="no run 'pspnet' in the table"):
        table.main([*run, "--only", "pspnet"])


def test_a_table_compares_at_the_largest_budget_that_all_runs_had(tmp_path: Path) -> None:
    for name, steps in (("unet", (300, 450, 600)), ("vnet", (300, 450)), ("fcn2s", ())):
        (tmp_path / name).mkdir()
        for number in steps:
            (tmp_path / name / f"done-{number}").touch()
    assert common(tmp_path, ["unet", "vnet"]) == [300, 450]
    with pytest.raises(RunRefused, match="not trained: fcn2s"):
        common(tmp_path, ["unet", "vnet", "fcn2s"])


def test_the_rows_of_a_group_share_its_budget_and_the_default_has_one_of_its_own(tmp_path: Path) -> None:
    for group, budgets in (("networks", (300, 450)), ("default", (900,))):
        for name in table.groups()[group]:
            (tmp_path / name).mkdir(exist_ok=True)
            for number in budgets:
                (tmp_path / name / f"done-{number}").touch()
    found = {name: (folder.name, steps, before) for name, folder, steps, before in rows(tmp_path)}
    assert found["unet"] == ("unet", 450, 300)
    assert found["clustering"] == ("clustering", 450, None)
    assert found["films-25"] == ("films-25", 900, None)
    assert found["loss-compound"] == ("unet", 900, None)
    assert set(found) == {*table.plan(), "loss-compound"}


def test_a_network_has_levelled_off_where_the_last_round_surely_brought_little() -> None:
    then = [{"seed": float(k), "bone": 0.0, "iou": 0.90} for k in range(20)]

    def state(rises: list[float]) -> str:
        now = [{**row, "iou": row["iou"] + rises[int(row["seed"]) % len(rises)]} for row in then]
        found = gained(now, then)
        assert found["low"] <= found["value"] <= found["high"]
        return str(found["state"])

    assert state([0.001, 0.002]) == "levelled off"
    assert state([0.010, 0.020]) == "still rising"
    assert state([0.100, -0.095]) == "not told"


def test_two_runs_are_averaged_and_the_stricter_terms_stay(tmp_path: Path) -> None:
    states = []
    for name, terms in (("one", FREE_TERMS), ("two", weights.RSNA_TERMS)):
        net = build("unet", {"widths": [4, 8]})
        states.append(net.state_dict())
        metadata = Metadata("segmentation", "unet", terms, ("none",), 0, hyperparameters={"widths": [4, 8]})
        weights.save(tmp_path / name, net.state_dict(), metadata)
    made = average(tmp_path / "one", tmp_path / "two", tmp_path / "mean")
    assert made.terms == weights.RSNA_TERMS
    tensors, _ = weights.load(tmp_path / "mean", problem="segmentation", architectures=("unet",))
    key = "head.weight"
    torch.testing.assert_close(tensors[key], (states[0][key] + states[1][key]) / 2, atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="give the bound one second"):
        average(tmp_path / "two", tmp_path / "one", tmp_path / "wrong")


def test_readings_of_two_films_of_one_name_or_without_a_box_are_refused(tmp_path: Path) -> None:
    readings = tmp_path / "readings.jsonl"
    one = {"file": "study1/a.png", "regions": [{"name": "radius", "box": [1, 2, 3, 4]}]}
    readings.write_text("\n".join(json.dumps(row) for row in (one, {**one, "file": "study2/a.png"})))
    with pytest.raises(BadData, match=r"readings\.jsonl:2: 'study2/a.png': "):
        outlined.read_boxes(readings)
    for text in ("[]", json.dumps({**one, "regions": [{"name": "radius", "box": [1, 2]}]}), "[" * 100_000):
        readings.write_text(text)
        with pytest.raises(BadData, match=r"readings\.jsonl:1: "):
            outlined.read_boxes(readings)
    with pytest.raises(BadData, match=r"split\.csv"):
        outlined.main([f"--{name}={tmp_path}" for name in ("out", "outlines", "images")])


def test_every_outline_of_a_phantom_may_lie_among_outlines_to_learn_from() -> None:
    grown = draw(5000, age_years=14, rows=300, columns=240)  # the sesamoid is there
    assert "sesamoid" in grown.masks
    assert set(grown.masks) <= set(outlined.BONES)


@pytest.mark.parametrize("refused", [("--outlines", "none"), ("--start", "none"), ("--widths", "4", "8")])
def test_a_run_that_is_refused_leaves_nothing_behind_and_draws_no_films(
    tmp_path: Path, refused: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Path("models/bundles/segmentation/unet").absolute()
    monkeypatch.chdir(tmp_path)
    options = [*(("--start", str(start)) if "--start" not in refused else ()), *refused]
    with pytest.raises((BadData, RunRefused, WeightsRefused)):
        train.main(["--data", "phantoms:2000", "--out", "run", *options])
    assert list(tmp_path.iterdir()) == []
