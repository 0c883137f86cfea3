"""One round of chaos; `python tests/engine/chaos.py --rounds N` runs more."""

import chaos
import pytest


@pytest.mark.chaos
def test_a_study_survives_a_fault_every_few_seconds(tmp_path):
    expected = chaos.run_undisturbed(tmp_path / "undisturbed")
    assert len(expected["trials"]) == 12
    faults = chaos.run_round(tmp_path / "chaos", 0, expected)
    assert faults.total() > 0
