"""The record of `diffseg auto`: read as it was written, and refused where it is another request's or damaged."""

from dataclasses import replace

import pytest
from test_auto_stages import planned
from test_report import configs, ledger_of

from diffseg.errors import UserError
from studies.auto.record import NAME, read_record, write_record
from studies.auto.stages import next_stage
from studies.commands.auto import _print_answers
from studies.store.ledger import Ledger


@pytest.fixture
def ledger(tmp_path):
    return Ledger(str(tmp_path), "auto-mine")


def test_a_record_is_read_as_it_was_written(ledger):
    record = planned()
    assert read_record(ledger, record.request) is None
    record = next_stage(record, {}, None).skip("search", "it does not fit")
    write_record(ledger, record)
    found = read_record(ledger, record.request)
    assert (found.stages, found.settings, found.decided) == (record.stages, record.settings, record.decided)
    assert next_stage(found, {}, 1.0).stages == next_stage(record, {}, 1.0).stages
    moved = replace(record.request, root="/elsewhere")
    assert read_record(ledger, moved).request == moved
    assert record.withdraw("small", "it failed").decided == record.decided


def test_another_request_is_refused_with_what_differs(ledger):
    record = planned(8.0)
    write_record(ledger, record)
    with pytest.raises(
        UserError, match=r"was planned otherwise \(hours 8.0 → 2.0, metric iou → ece\): give the same again"
    ):
        read_record(ledger, replace(record.request, hours=2.0, metric="ece"))


@pytest.mark.parametrize("content", [b"", b"[]", b'{"request": 3}', b"\xff"])
def test_a_damaged_record_is_one_sentence(ledger, content):
    ledger.folder.write(NAME, content)
    with pytest.raises(UserError, match=r"auto.json is damaged: `diffseg run auto-mine` finishes"):
        read_record(ledger, planned().request)


def test_the_command_ends_with_what_was_found(tmp_path, capsys):
    """In the sentences of the report's first screen; with nothing where no trial is complete."""
    ledger = ledger_of(tmp_path, configs(("e1", "e2")))
    _print_answers(ledger)
    assert "(E2) segments" in capsys.readouterr().out
    _print_answers(Ledger(str(tmp_path), "empty"))
    assert capsys.readouterr().out == ""
