"""A search whose proposals may be weighted by a fingerprint keeps the settings of that fingerprint, such as its class."""

import json

import pytest
from click.testing import CliRunner

from diffseg.config.diffusion import FINGERPRINT
from search_spaces import SHIPPED
from studies.commands.program import main
from studies.definition.reading import read_study
from studies.search.history import EvaluatedProposal
from studies.search.sampling import propose

WITH_FINGERPRINT = ("fingerprint", "everything")  # spaces with proposals that need E3 trials
HEAD = """
experiments = ["e2"]
[all]
training.steps = 10
[data.synthetic-large]
data.layout = "synthetic"
data.classes = { early = 1, "late one" = [2, 3] }
"""
GIVEN = """
diffusion.fingerprint_class = "late one"
diffusion.fingerprint_seeds = [3, 4]
diffusion.fingerprint_networks = ["segdiff"]
diffusion.fingerprint_steps = 7
"""
SEARCH = """
[search]
space = "{space}"
budget = 9
pruning = 0
[search.start]
data.held_out = 0.2
{more}
"""


@pytest.fixture
def written(tmp_path):
    """A function that writes a study with a search of a space, and returns its path."""

    def write(space, more, head=HEAD):
        path = tmp_path / "study.toml"
        path.write_text(head + SEARCH.format(space=space, more=more), encoding="utf-8")
        return str(path)

    return write


def proposals(path):
    """Yield the configurations of the first nine proposals of the study's search, none of which has ended."""
    study = read_study(path, {}, {})
    (start,) = study.starts
    tried = []
    for _ in range(9):
        found = propose(study.search, start.name, start.config, tried)
        tried.append(EvaluatedProposal(found, "running"))
        yield found.config


@pytest.mark.parametrize("more", [GIVEN, GIVEN + 'diffusion.weighting = "fingerprint"'])
@pytest.mark.parametrize("space", WITH_FINGERPRINT)
def test_every_proposal_with_a_fingerprint_has_the_given_one_and_the_same_e3(space, more, written):
    found = [config for config in proposals(written(space, more)) if config.fingerprint_trials()]
    assert found
    for config in found:
        own = config.diffusion
        assert own.fingerprint_class == "late one"
        assert [(e3.network.name, e3.seed, e3.training.steps) for e3 in config.fingerprint_trials()] == [
            ("segdiff", 3, 7),
            ("segdiff", 4, 7),
        ]
        assert dict(config.data.classes) == {"early": (1,), "late one": (2, 3)}


def test_proposals_without_a_fingerprint_do_not_differ_in_one(written):
    found = [config for config in proposals(written("fingerprint", GIVEN)) if not config.fingerprint_trials()]
    assert found
    assert {getattr(config.diffusion, name) for config in found for name in FINGERPRINT[1:]} == {None, (0,), ()}


def test_a_search_for_which_nothing_is_given_starts_as_before(written):
    """Its name in the store stays, whatever the space."""
    names = {read_study(written(space, ""), {}, {}).starts[0].name for space in SHIPPED}
    assert len(names) == 1
    (start,) = read_study(written("fingerprint", ""), {}, {}).starts
    assert start.config == start.config.resolved()


@pytest.mark.slow
def test_a_plan_counts_the_trials_of_a_fingerprint_once_for_all_classes(written, tmp_path):
    variants = "".join(
        f'[variant.{number}]\ndiffusion.weighting = "fingerprint"\n{line}\n'
        for number, line in enumerate(
            ["", 'diffusion.fingerprint_class = "early"', 'diffusion.fingerprint_class = "late one"']
        )
    )
    path = tmp_path / "variants.toml"
    path.write_text(HEAD + variants, encoding="utf-8")
    for source, e2, e3 in ((str(path), 3, 1), (written("fingerprint", GIVEN, HEAD.replace('"e2"', '"e1"')), 9, 2)):
        result = CliRunner().invoke(main, ["plan", source, "--store", str(tmp_path / "store"), "--json"])
        assert result.exit_code == 0, result.output
        rows = json.loads(result.output)["trials"]
        counts = {name: sum(row["count"] for row in rows if row["trial"].startswith(name)) for name in ("e2", "e3")}
        assert counts == {"e2": e2, "e3": e3}
