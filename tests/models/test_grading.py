import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models import weights
from models.grading import compare, evaluate, measure, train
from models.grading.augment import averaged, centre, vary
from models.grading.bound import reachable
from models.grading.crops import SIZE, Frame, cut, enhance, frames
from models.grading.losses import HEAD_OF, loss, soft_labels, stage_of
from models.grading.network import COUNTS, OUTPUTS, PARTS, WIDEST, Head, StageNet
from models.grading.phantoms import Crops, facts_of, kept_size, regions_of, render
from models.grading.predict import Grader
from models.grading.train import shares
from models.image import Image
from models.phantom import Phantom, draw
from models.reading import ImageFacts
from models.regions import RUS
from models.standards import TopN
from models.standards.harmony import HandPrior
from models.standards.stages import named_stage
from models.weights import FREE_TERMS, Metadata, WeightsRefused

KEPT = kept_size(SIZE)


def _hand(rotation: float, side: str) -> Phantom:
    return draw(
        11,
        age_years=9.0,
        sex="F",
        rows=700,
        columns=700,
        rotation_degrees=rotation,
        laterality="R" if side == "R" else "L",
        zoom=0.7,
        furnished=False,
        collimated=False,
        noise=0.0,
    )


def _crops(phantom: Phantom) -> torch.Tensor:
    found = frames(regions_of(phantom), facts_of(phantom))
    cut_out = [cut(phantom.image, found[bone], facts_of(phantom)) for bone in RUS]
    return enhance(torch.from_numpy(np.stack(cut_out))[:, None])[:, 0]


@pytest.mark.parametrize(("rotation", "side"), [(35.0, "L"), (-150.0, "L"), (0.0, "R"), (80.0, "R")])
def test_turned_and_mirrored_hands_give_the_crops_of_an_upright_left_hand(rotation: float, side: str) -> None:
    upright, turned = _crops(_hand(0.0, "L")), _crops(_hand(rotation, side))
    for bone, first, second in zip(RUS, upright, turned, strict=True):
        alike = np.corrcoef(first.ravel(), second.ravel())[0, 1]
        assert alike > 0.85, f"{bone}: {alike:.2f}"


def test_a_crop_shows_its_bone_at_the_stated_scale_and_repeats_the_border_beyond_the_film() -> None:
    pixels = np.zeros((100, 100), np.float32)
    pixels[:, 50:] = 1.0
    facts = ImageFacts(100, 100, None, "L", None, "bone bright", "MONOCHROME2", 0.0)
    crop = cut(Image(pixels), Frame(90.0, 50.0, 40.0, 0.0, mirrored=False), facts, 40)
    assert crop.shape == (40, 40)
    assert crop[20, 5] == 1.0  # x = 90 - 20 + 5.5
    assert crop[20, 35] == 1.0  # x = 105.5 lies beyond the film, whose border is bright
    dark = ImageFacts(100, 100, None, "L", None, "bone dark", "MONOCHROME1", 0.0)
    inverted = cut(Image(1 - pixels), Frame(90.0, 50.0, 40.0, 0.0, mirrored=False), dark, 40)
    np.testing.assert_allclose(inverted, crop, atol=1e-6)


def test_a_region_off_the_film_gives_a_dark_crop() -> None:
    facts = ImageFacts(100, 100, None, "L", None, "bone bright", "MONOCHROME2", 0.0)
    crop = cut(Image(np.ones((100, 100), np.float32)), Frame(400.0, 50.0, 40.0, 0.0, mirrored=False), facts, 32)
    assert crop.max() == 0.0


def test_the_enhancement_undoes_any_monotone_change_of_grey_levels() -> None:
    steps = torch.arange(64.0).reshape(1, 1, 8, 8) / 63
    bright = enhance(steps * 0.25 + 0.5)
    np.testing.assert_allclose(enhance(steps).numpy(), bright.numpy(), atol=1e-5)
    assert enhance(torch.full((1, 1, 8, 8), 0.3)).abs().max() == 0  # a flat crop is grey, not black


@pytest.mark.parametrize("head", list(OUTPUTS))
def test_every_head_gives_each_bone_probabilities_over_its_own_stages(head: Head) -> None:
    torch.manual_seed(0)
    net = StageNet(width=4, head=head).eval()
    chances = net.probabilities(net(torch.rand(2, 13, 32, 32)))
    assert chances.shape == (2, 13, WIDEST)
    torch.testing.assert_close(chances.sum(-1), torch.ones(2, 13))
    for index, count in enumerate(COUNTS):
        assert chances[:, index, count:].sum() < 1e-6


def test_soft_labels_share_a_maturity_between_the_stages_it_lies_at() -> None:
    maturity = torch.full((1, 13), 5.0)
    maturity[0, 1] = 5.5
    labels = soft_labels(maturity, 0.1)
    # At the border half of the error lies on each side; half a stage from both borders 5 sigma hold everything.
    np.testing.assert_allclose(labels[0, 0, 4:6].numpy(), [0.5, 0.5], atol=1e-6)
    assert labels[0, 1, 5] > 0.999
    top = soft_labels(torch.tensor([[float(count) + 3 for count in COUNTS]]), 0.1)
    assert all(top[0, i, count - 1] > 0.999 for i, count in enumerate(COUNTS))


def test_labels_of_quarters_add_up_to_those_of_stages_and_say_where_in_the_stage() -> None:
    maturity = torch.full((1, 13), 4.3)
    quarters = soft_labels(maturity, 0.1, PARTS)
    torch.testing.assert_close(quarters.unflatten(-1, (WIDEST, PARTS)).sum(-1), soft_labels(maturity, 0.1))
    assert int(quarters[0, 0].argmax()) == 4 * PARTS + 1  # 4.25 to 4.5


def test_an_absent_centre_has_one_label_whatever_is_to_come() -> None:
    net = StageNet(width=4, head="softmax")
    outputs = torch.randn(1, 13, WIDEST)
    early, late = (loss("soft", net, outputs, torch.full((1, 13), value)) for value in (0.0, 0.95))
    assert early == late


@pytest.mark.parametrize("name", list(HEAD_OF))
def test_every_loss_teaches_the_stage(name: str) -> None:
    torch.manual_seed(1)
    net = StageNet(width=4, head=HEAD_OF[name])  # type: ignore[index]
    maturity = torch.tensor([[2.5, 8.5] + [4.5] * 11])
    outputs = net(torch.rand(1, 13, 32, 32)).detach().requires_grad_()
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    for _ in range(250):
        value = loss(name, net, outputs, maturity)  # type: ignore[arg-type]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert torch.equal(net.log_probabilities(outputs).argmax(-1), stage_of(maturity))


def test_a_bone_of_unknown_maturity_teaches_nothing() -> None:
    net = StageNet(width=4, head="softmax")
    outputs = torch.zeros(1, 13, WIDEST, requires_grad=True)
    maturity = torch.full((1, 13), 3.5)
    maturity[0, 4] = float("nan")
    loss("soft", net, outputs, maturity).backward()
    assert outputs.grad is not None
    assert outputs.grad[0, 4].abs().max() == 0
    assert outputs.grad[0, 3].abs().max() > 0


def test_calibration_finds_the_temperature_that_overconfidence_asks_for() -> None:
    generator = torch.Generator().manual_seed(2)
    net = StageNet(width=4, head="softmax")
    true = torch.randn(4000, 13, WIDEST, generator=generator)
    drawn = torch.distributions.Categorical(logits=true.masked_fill(~net.allowed, -1e4)).sample()
    measure.calibrate(net, 2.0 * true, drawn + 0.5)  # logits twice too large
    assert net.temperature.mean() == pytest.approx(2.0, rel=0.1)


def test_augmentation_keeps_shape_and_range_and_repeats_with_its_seed() -> None:
    kept = torch.randint(0, 255, (2, 13, KEPT, KEPT), dtype=torch.uint8)
    first = vary(kept, torch.Generator().manual_seed(3))
    assert first.shape == centre(kept).shape
    assert torch.equal(first, vary(kept, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, vary(kept, torch.Generator().manual_seed(4)))


def test_without_strength_the_augmentation_is_the_plain_crop() -> None:
    smooth = torch.linspace(0, 255, KEPT).to(torch.uint8).expand(1, 13, KEPT, KEPT).contiguous()
    plain = vary(smooth, torch.Generator().manual_seed(5), strength=0.0)
    np.testing.assert_allclose(plain.numpy(), centre(smooth).numpy(), atol=0.01)


def test_crops_that_are_much_finer_are_averaged_down_once() -> None:
    kept = torch.full((1, 13, kept_size(64), kept_size(64)), 7, dtype=torch.uint8)
    small = averaged(kept, 32)
    assert small.shape[-1] == kept_size(32)
    assert bool((small == 7).all())
    assert averaged(kept, 64) is kept
    assert vary(small, torch.Generator().manual_seed(1), size=32).shape[-1] == 32


def test_rare_stages_are_drawn_as_often_as_common_ones_where_asked() -> None:
    maturity = torch.full((4, 13), 3.5)
    maturity[3] = 5.5  # three films at one stage, one at another
    np.testing.assert_allclose(shares(maturity, 0.0)[0], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(shares(maturity, 1.0)[0], [1 / 6, 2 / 6, 3 / 6, 1.0])


def test_a_rendered_film_holds_the_truth_of_its_phantom(tmp_path: Path) -> None:
    pixels, truth = render(2_000_000, natural=True)
    assert pixels.shape == (13, KEPT, KEPT)
    assert truth[15] == 2_000_000
    np.save(tmp_path / "truth-0.npy", truth[None])
    np.save(tmp_path / "pixels-0.npy", pixels[None])
    (tmp_path / "settings.json").write_text(json.dumps({"context": 1.2}))
    films = Crops.load(tmp_path)
    assert len(films) == 1
    perfect = soft_labels(torch.from_numpy(films.maturity), 1e-6).numpy()
    found = measure.summary(perfect, films)
    assert (found["exact"], found["within_one"], found["mae_years"]) == (1.0, 1.0, 0.0)
    assert measure.ages(perfect, ["F" if films.female[0] else "M"])[0] == pytest.approx(
        films.bone_age_years[0], abs=1e-3
    )


def test_stages_of_bones_are_named_with_letter_and_runner_up() -> None:
    chances = np.zeros(WIDEST)
    chances[[7, 8]] = 0.7, 0.3
    radius = named_stage("radius", chances)
    assert (radius.label, radius.letter, radius.runner_up, radius.runner_up_probability) == ("6", "G", "7(0)", 0.3)
    assert len(radius.probabilities) == 15
    assert named_stage("ulna", np.eye(WIDEST)[0]).letter == "A"


def test_a_grader_grades_the_bones_it_is_shown_and_no_others(tmp_path: Path) -> None:
    net = StageNet(width=4, head="ordered")
    card = Metadata(
        problem="grading",
        architecture="small",
        terms=FREE_TERMS,
        data=("none: random weights",),
        seed=1,
        preprocessing={"size": 80, "context": 1.35},
        hyperparameters={"width": 4, "head": "ordered"},
    )
    weights.save(tmp_path, net.state_dict(), card)
    phantom = _hand(0.0, "L")
    regions = tuple(region for region in regions_of(phantom) if region.name != "mp5")
    graded = Grader(tmp_path).grade(phantom.image, regions, facts_of(phantom))
    assert set(graded) == set(RUS) - {"mp5"}
    assert all(sum(s.probabilities) == pytest.approx(1, abs=1e-3) for s in graded.values())
    assert Grader(tmp_path).grade(phantom.image, (), facts_of(phantom)) == {}


def test_crops_are_cut_as_fine_as_those_learnt_from_and_then_averaged_down(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = StageNet(width=4, head="ordered")
    sizes = {"size": 40, "cut": 80, "context": 1.2}
    card = Metadata(
        "grading", "small", FREE_TERMS, (), 1, preprocessing=sizes, hyperparameters={"width": 4, "head": "ordered"}
    )
    weights.save(tmp_path, net.state_dict(), card)
    phantom = _hand(0.0, "L")
    graded = Grader(tmp_path).grade(phantom.image, regions_of(phantom), facts_of(phantom))
    frame = frames(regions_of(phantom), facts_of(phantom), 1.2)
    fine = np.stack([cut(phantom.image, frame[bone], facts_of(phantom), 80) for bone in RUS])
    means = torch.from_numpy(fine.reshape(1, 13, 40, 2, 40, 2).mean((3, 5)))
    expected = net.eval().probabilities(net(means))[0, 0].detach().numpy()
    assert np.allclose(graded["radius"].probabilities, expected[: COUNTS[0]], atol=1e-3)


def test_a_grader_of_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    card = Metadata(problem="grading", architecture="huge", terms=FREE_TERMS, data=(), seed=1)
    weights.save(tmp_path, {"w": torch.zeros(1)}, card)
    with pytest.raises(WeightsRefused, match=r"expected .*, found huge"):
        Grader(tmp_path)


def test_confusions_say_how_near_the_truth_lay_to_a_border() -> None:
    maturity = np.full((2, 13), 4.5, np.float32)
    maturity[0, 0], maturity[1, 1] = 4.9, 5.4  # radius of the first film near its border, ulna of the second not
    films = Crops(
        np.zeros((2, 13, 2, 2), np.uint8),
        maturity,
        np.array([True, False]),
        np.full(2, 10, np.float32),
        np.array([1, 2]),
    )
    chances = np.zeros((2, 13, WIDEST))
    chances[:, :, 4] = 1.0
    chances[0, 0], chances[1, 1] = np.eye(WIDEST)[5], np.eye(WIDEST)[4]  # both one stage off
    found = evaluate.confusions(chances, films)
    assert found["share_of_wrong_stages_within_a_quarter_stage_of_the_border"] == 0.5
    assert found["exact_more_than_a_quarter_stage_from_a_border"] == round(24 / 25, 4)
    assert set(found["commonest"]) == {"radius 4 read as 5(0): 1", "ulna 5(0) read as 4: 1"}


def test_the_prior_of_the_hand_draws_an_unsure_bone_to_the_others() -> None:
    maturity = np.full((4, 13), 6.5, np.float32)  # about what a girl of 11 shows, every bone alike
    maturity[1::2, 0] = 7.5  # hands of two ages for each sex
    films = Crops(
        np.zeros((4, 13, 2, 2), np.uint8),
        maturity,
        np.array([True, True, False, False]),
        np.full(4, 11, np.float32),
        np.arange(4),
    )
    chances = np.eye(WIDEST)[stage_of(torch.from_numpy(maturity)).numpy()]
    chances[:, 3] = 0.45 * np.eye(WIDEST)[6] + 0.55 * np.eye(WIDEST)[10]  # mc3 is taken for fused by a little
    assert evaluate.stages(chances, films)["exact_by_bone"]["mc3"] == 0.0
    told = evaluate.with_prior(chances, films, HandPrior(0.5, 0.2), TopN(0.92))
    assert told["stages"]["exact"]["value"] == 1.0


def _cache(folder: Path, films: int, seed: int) -> Path:
    """A cache of phantoms of noise: what they show does not matter here."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    kept = kept_size(40)
    truth = np.column_stack(
        (
            rng.uniform(1.2, 8.8, (films, len(RUS))),
            np.arange(films) % 2,
            np.full(films, 9.0),
            seed + np.arange(films),
        )
    )
    np.save(folder / f"pixels-{seed}.npy", rng.integers(0, 256, (films, len(RUS), kept, kept), np.uint8))
    np.save(folder / f"truth-{seed}.npy", truth)
    (folder / "settings.json").write_text(json.dumps({"context": 1.2}))
    return folder


def test_what_can_be_reached_falls_with_the_error_of_the_reading(tmp_path: Path) -> None:
    films = Crops.load(_cache(tmp_path / "films", 60, 5))
    rows = reachable(films, 0.61, (0.02, 0.2, 0.6))
    assert [row["exact"] for row in rows] == sorted((row["exact"] for row in rows), reverse=True)
    assert rows[0]["exact"] > 0.96
    # Between two borders one stage apart, a normal error of s carries about 2 s / sqrt(2 pi) of all readings over one of them.
    assert rows[1]["exact"] == pytest.approx(1 - 2 * 0.2 / np.sqrt(2 * np.pi), abs=0.04)
    assert rows[0]["mae_years"] < rows[2]["mae_years"]


def test_graders_are_compared_on_the_same_films(tmp_path: Path) -> None:
    validation, test = _cache(tmp_path / "validation", 6, 1), _cache(tmp_path / "test", 10, 50)
    named = []
    for name, width in (("wide", 4), ("narrow", 2)):
        torch.manual_seed(width)
        card = Metadata(
            "grading",
            "small",
            FREE_TERMS,
            ("none: untrained",),
            0,
            preprocessing={"size": 40, "context": 1.2},
            hyperparameters={"width": width, "head": "softmax", "loss": "cross-entropy", "steps": 0, "batch": 1},
        )
        weights.save(tmp_path / name, StageNet(width).state_dict(), card)
        named += ["--grader", f"{name}={tmp_path / name}"]
    result = tmp_path / "result.json"
    places = ["--validation", str(validation), "--test", str(test), "--out", str(tmp_path / "kept")]
    for _ in range(2):  # the second time from the probabilities kept
        compare.main([*named, "--ratio", "narrow/wide", *places, "--json", str(result)])
    found = json.loads(result.read_text())
    assert found["graders"]["narrow"]["parameters_millions"] < found["graders"]["wide"]["parameters_millions"]
    assert found["ratios"]["narrow/wide"]["size"] < 1
    of_all = found["graders"]["wide"]["bone_age"]["TW3-C RUS"]["all"]
    mae, difference = of_all["mae_years"], of_all["difference_years"]
    assert difference["TopN - classic"]["value"] == pytest.approx(
        mae["TopN"]["value"] - mae["classic"]["value"], abs=2e-4
    )
    assert difference["TopN - classic"]["low"] <= difference["TopN - classic"]["value"]
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_a_training_that_has_ended_between_two_looks_is_kept_and_not_begun_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _cache(tmp_path / "data" / "train", 6, 1)
    _cache(tmp_path / "data" / "validation", 6, 50)
    asked = ["--architecture", "small", "--width", "2", "--size", "32", "--steps", "3", "--every", "2", "--batch", "2"]
    asked += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--precision", "fp32"]
    train.main(asked)
    card, journal = (tmp_path / "run" / name for name in ("weights/metadata.json", "journal.jsonl"))
    before = card.read_bytes(), journal.read_bytes()
    assert "Nothing was trained" not in capsys.readouterr().err
    train.main(asked)
    assert (card.read_bytes(), journal.read_bytes()) == before
    assert "3 of 3 steps are done" in (said := capsys.readouterr().err)
    assert "Nothing was trained now" in said
    train.main([*asked, "--steps", "4"])
    assert json.loads(journal.read_text().splitlines()[-1])["step"] == 4
