"""The report's answers, what would decide an open question, and the examples that are shown."""

import re

import numpy as np
import pandas as pd
import pytest
from test_findings import scored, study
from test_report import configs, ledger_of

from analysis import tables
from analysis.answers import Answer, _describe_shared, count_verdicts
from analysis.answers import answer_questions as answer
from analysis.comparison import compare_table1
from analysis.example_choice import choose_examples
from analysis.measurements import Sample
from analysis.power import describe_needed
from analysis.report import write_report
from analysis.statistics import estimate
from analysis.verdicts import signed
from diffseg.config import Config


def answer_questions(found) -> list[Answer]:
    return answer(found, compare_table1(found, found)[0])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return tables.load([ledger_of(tmp_path_factory.mktemp("answers"), configs())])


def test_an_answer_says_whether_diffusion_helps_and_which_configuration_is_best(found):
    """E2 with x0 is better by 7 points of IoU in every seed; the best of three configurations leads by 2."""
    big, small = answer_questions(found)
    assert (big.dataset, small.dataset) == ("big", "small")
    assert big.verdict == "better"
    assert "Diffusion (E2) segments better than feed-forward (E1)" in big.sentences[0]
    assert "IoU 86.0 % against 79.0 %, +7.0 points" in big.sentences[0]
    assert "calibrated is undecided" in big.sentences[1]
    assert "Its probabilities are worse by the Brier score: +0.005" in big.sentences[2]
    assert "Of 3 configurations, E2 diffusion, x0 has the greatest IoU, 86.0 %: 2.0 points" in big.sentences[3]
    assert "half of a mask is lost at log-SNR 1." in big.sentences[4]
    assert count_verdicts([big, small]).endswith("by IoU, on 2 data sets: better on 2.")
    assert big.counts == "3 seeds"  # this ledger's IoU is not of single images


@pytest.mark.slow
def test_the_answer_is_the_pages_first_section(found, tmp_path):
    page = write_report(list(found.ledgers), tmp_path / "report.html").read_text()
    order = ["answers", "table1", "examples", "calibration", "fingerprint", "findings", "learning", "provenance"]
    places = [page.index(f'<h2 id="{name}">') for name in order]
    assert places == sorted(places)
    links = [page.index(f'<a href="#{name}">') for name in order]
    assert links == sorted(links)
    assert "segments better than feed-forward" in page


@pytest.mark.slow
def test_a_study_that_is_named_twice_counts_once(found, tmp_path, recwarn):
    (ledger,) = found.ledgers
    page = write_report([ledger, ledger], tmp_path / "report.html").read_text()
    assert "Studies compared" not in page
    assert [one for one in recwarn if issubclass(one.category, RuntimeWarning)] == []


def test_without_e2_the_answer_says_what_is_missing(tmp_path):
    (first, _) = answer_questions(tables.load([ledger_of(tmp_path, configs(("e1",)))]))
    assert first.sentences == ["Whether diffusion helps is not known: no complete trial of E2 has an IoU."]
    assert first.verdict == ""


def pairs(values, groups=()):
    frame = pd.DataFrame(values, columns=[f"{k}" for k in range(values.shape[1])])
    return Sample(frame, pd.Series(list(groups), frame.columns[: len(groups)], dtype=object), values.shape[1])


@pytest.mark.parametrize(("images", "seeds"), [(40, 1), (4, 1), (40, 2), (200, 3)])
def test_the_numbers_that_are_named_decide_four_times_in_five(images, seeds):
    """Of studies with as many images and seeds as are named, and the same spread, four of five leave out 0."""
    generator = np.random.default_rng(0)
    of_image = np.linspace(-0.08, 0.08, images)
    of_seed = np.linspace(-0.006, 0.006, seeds) if seeds > 1 else np.zeros(1)
    difference = 0.05 if images == 4 else 0.01
    observed = pairs(difference + of_seed[:, None] + of_image)
    (said,) = describe_needed(observed, 100, "points")
    assert said.endswith("would decide a difference of this size with a probability of 80%.")
    named = {name: int(number) for number, name in re.findall(r"(\d+) (test images|seeds)", said)}
    more_images, more_seeds = named.get("test images", images), named.get("seeds", seeds)
    assert more_images * more_seeds > images * seeds
    deviations = [
        (part.variance * count) ** 0.5 for part, count in zip(observed.components, (images, seeds), strict=False)
    ]
    decided = 0
    for _ in range(300):
        table = generator.normal(difference, deviations[0], (1, more_images)).repeat(more_seeds, 0)
        if seeds > 1:
            table = table + generator.normal(0, deviations[1], (more_seeds, 1))
        decided += estimate(table).p < 0.05
    assert 0.72 < decided / 300 < 0.92


def test_more_seeds_are_held_to_their_own_quantile():
    """Two seeds have the quantile 12.7 of Student's t, which would ask for 20 of them; seven have 2.4."""
    by_seed = np.array([0.01, 0.03])[:, None] + np.zeros((1, 30))
    (said,) = describe_needed(pairs(by_seed), 100, "points")
    assert said.startswith("About 7 seeds, where there are 2,")


def test_seeds_are_named_where_they_vary_most_and_patients_where_they_are_known():
    by_seed = np.array([-0.01, 0.02, 0.08])[:, None] + np.zeros((1, 30))
    (said,) = describe_needed(pairs(by_seed + 1e-9 * np.arange(30)), 100, "points")
    assert "seeds, where there are 3" in said
    of_patient = np.repeat(np.linspace(-0.05, 0.07, 6), 5)[None]
    groups = [f"p{k // 5}" for k in range(30)]
    (said,) = describe_needed(pairs(of_patient, groups), 100, "points")
    assert "test patients or volumes, where there are 6" in said


def test_a_difference_that_is_far_from_decided_is_bounded():
    values = np.tile([-0.1, 0.1], 20)[None] + 1e-6
    assert "most likely below 3.2 points" in next(describe_needed(pairs(values), 100, "points"))
    wide = np.array([[-0.1], [0.12]])
    assert list(describe_needed(pairs(wide), 100, "points")) == [
        "So few seeds cannot say how large a difference may be."
    ]
    assert "would give an interval" in next(describe_needed(pairs(np.array([[0.1]])), 100, "points"))
    assert "same in every image" in next(describe_needed(pairs(np.zeros((1, 40))), 100, "points"))


def test_more_images_are_named_where_only_the_correction_for_several_tests_leaves_it_open():
    """The interval of a single test leaves out 0: so none are named for one, and more than there are for ten."""
    values = 0.01 + 0.1 * np.tile([-0.25, 0.25], 20)[None]
    assert list(describe_needed(pairs(values), 100, "points")) == []
    (said,) = describe_needed(pairs(values), 100, "points", tests=10)
    assert int(said.split()[1]) > 40


def test_the_answer_and_table1_have_the_same_tests_with_more_variants_than_are_shown(tmp_path):
    chosen = [
        Config().with_leaves(
            {"experiment": "e2", "data.name": "big", "diffusion.target": "x0", "training.steps": 100 + k, "seed": seed}
        )
        for k in range(7)
        for seed in (0, 1)
    ]
    chosen += [config for config in configs(("e1",), ("x0",)) if config.data.name == "big"]
    found = tables.load([ledger_of(tmp_path, [config.resolved() for config in chosen])])
    tested, rows = compare_table1(found, found.shown())
    assert len(tested) == 7
    assert len(rows) == 4
    merged = rows.merge(tested, on=["variant_e1", "variant_e2"], suffixes=("", "_all"))
    assert (merged["iou_p"] == merged["iou_p_all"]).all()


def test_signs_are_true_minus_signs():
    assert [signed(value, "+.2f") for value in (-0.5, 0.5, -0.001)] == ["−0.50", "+0.50", "0.00"]


def test_the_worst_the_middle_and_the_best_example_are_shown(found):
    ious = {"one": 0.2, "two": 0.9}
    rows = [
        {**row, "metric": "iou", "image": image, "value": value}
        for row in found.trials[["study", "trial"]].to_dict("records")
        for image, value in ious.items()
    ]
    examples = found.examples.assign(image=found.examples["image"].str.split(" ").str[0])
    chosen = choose_examples(type("Given", (), {"examples": examples, "images": pd.DataFrame(rows)}))
    big = chosen[chosen["dataset"] == "big"]
    assert list(dict.fromkeys(big["label"])) == [
        "worst|one|E1 IoU 20 %|E2 IoU 20 %",
        "best|two|E1 IoU 90 %|E2 IoU 90 %",
    ]
    assert set(big["seed"]) == {0}


def test_several_networks_are_counted(tmp_path):
    cells = {}
    for network, gain in (("ensemdiff", 0.2), ("segdiff", -0.2)):
        cells["e1", "isic16", network] = scored(0.5)
        cells["e2", "isic16", network] = scored(0.5 + gain)
    (answer,) = answer_questions(study(tmp_path, cells))
    assert answer.sentences[0].startswith("Of 2 networks, diffusion (E2)")
    assert "better with 1, worse with 1" in answer.sentences[0]
    assert "(ensemdiff)" in answer.sentences[1]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.03, "segments better than nnU-Net: IoU"),
        (-0.03, "segments worse than nnU-Net: IoU"),
        (0.0006, "segments better than nnU-Net is undecided: IoU"),
    ],
)
def test_diffusion_is_compared_with_nnunet_paired_by_image(gain, words, tmp_path):
    cells = {
        ("e1", "isic16", "nnunet"): scored(0.8),
        ("e2", "isic16", "ensemdiff"): scored(0.8 + gain),
        ("e2", "isic16", "segdiff"): scored(0.6),
    }
    (answer,) = answer_questions(study(tmp_path, cells))
    (sentence,) = (one for one in answer.sentences if "nnU-Net" in one)
    assert words in sentence
    assert "p " in sentence
    assert "segdiff" not in sentence


def test_a_difference_on_shared_seeds_says_so_where_the_means_have_more():
    few, many = (pd.DataFrame({"seed": seeds}) for seeds in ([0, 1], [0, 1, 2]))
    assert _describe_shared(few, many) == " on the 2 seeds that both have"
    assert _describe_shared(few.head(1), many) == " on the 1 seed that both have"
    assert _describe_shared(few, few) == ""
    assert _describe_shared(few, pd.DataFrame({"seed": [7]})) == ""  # compared by image alone


def test_without_nnunet_nothing_is_said_of_it(found):
    assert not any("nnU-Net" in sentence for answer in answer_questions(found) for sentence in answer.sentences)
