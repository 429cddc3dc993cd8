"""An institution's data grow, shrink and spend their budget, and the log tells it all.

The institution ``fi`` holds persons: three versions of its data, one withdrawal and one
spent block. The auditor recomputes each epsilon from the log alone.
"""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tapestry.encoding import decode_decimal
from tapestry.privacy import accounting
from tapestry_governance.audit.privacy_accounts import recompute, steps_of
from tapestry_governance.audit.privacy_statement import state_privacy, to_markdown
from tapestry_governance.audit.verify import AuditVerdict
from tapestry_governance.events.event_body import Body
from tapestry_governance.events.privacy_events import DataDeclared, DpAccounted
from tapestry_governance.rules.replay import apply_all
from tapestry_node.cli import app
from tests.support.federation import Federation, sentences, write_text
from tests.support.federation_fixtures import Found

GROWING = "fi"
WEEK = timedelta(days=7, minutes=1)
LIMIT = "2.93"  # of epsilon; six rounds spend 2.9 of it


def write_persons(folder: Path, first: int, last: int) -> None:
    """Write a table of persons, two rows of each."""
    texts = sentences(GROWING, 2 * last)
    rows = [
        {"id": f"person-{number}", "text": texts[2 * number + part]}
        for number in range(first, last)
        for part in (0, 1)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{first}.jsonl").write_text(lines)


def persons(folder: Path, name: str) -> Path:
    """Write an institution's records: persons of one, single records of others."""
    private = write_text(folder, name)
    if name == GROWING:
        (private / "text.jsonl").unlink()
        manifest = private / "corpus.toml"
        said = manifest.read_text().replace('"record"', '"person"\nmax_rows = 5')
        manifest.write_text(said)
        write_persons(private, 0, 30)
    return private


def grow(federation: Federation, first: int, last: int) -> None:
    """Let persons come, and a week pass until the node takes them in."""
    data = federation.directory / "nodes" / GROWING / "data"
    write_persons(data, first, last)
    federation.now += WEEK
    federation.restart(GROWING)
    federation.cosign()  # by which the version is declared


def withdraw(federation: Federation, *keys: str) -> Result:
    """Withdraw persons by the command."""
    listed = federation.directory / "keys.txt"
    listed.write_text("".join(key + "\n" for key in keys))
    folder = str(federation.directory / "nodes" / GROWING)
    more = ["--keys", str(listed), "--json"]
    return CliRunner().invoke(app, ["data", "withdraw", folder, *more])


def run(federation: Federation, name: str, *, rounds: int) -> None:
    """Let a further run take place."""
    federation.begin_another_run(name, rounds=rounds)
    federation.run()


@pytest.mark.slow
def test_each_block_has_a_budget_and_the_auditor_recomputes_them(found: Found) -> None:
    federation = found(
        data=persons,
        train=True,
        coordinator={"release_every": 1},
        institutions={GROWING: {"policy": {"epsilon_limit": LIMIT}}},
        policy={"max_checkpoint_age": 10**8},
        institution={"policy": {"max_checkpoint_age": 10**8}},
    )
    federation.run()  # block 1 pays
    grow(federation, 30, 60)
    run(federation, "second", rounds=5)  # blocks 1 and 2
    leaving = [*range(3, 5), *range(40, 50)]
    said = withdraw(federation, *(f"person-{number}" for number in leaving))
    assert said.exit_code == 0, said.output
    done = json.loads(said.stdout)
    assert (done["listed"], done["withdrawn"]) == (12, 12)
    assert done["plan"]["releases"] == [f"base-{n}" for n in range(1, 7)]
    assert (done["plan"]["start"], done["plan"]["rounds"]) == (None, 6)
    grow(federation, 60, 80)
    run(federation, "third", rounds=1)  # block 1 is spent: blocks 2 and 3
    federation.bundle()
    assert federation.audit().verdict is AuditVerdict.HOLDS
    versions = [v for v in said_by(federation) if isinstance(v, DataDeclared)]
    assert [(v.version, v.block, v.records, v.withdrawn) for v in versions] == [
        (1, 1, 30, 0),
        (2, 2, 60, 0),
        (3, 3, 40, 10),  # block 1 retired; of 50 in two blocks 10 were withdrawn
    ]
    assert {(v.unit, v.max_rows) for v in versions} == {("person", 5)}
    losses = [a.promise for a in said_by(federation) if isinstance(a, DpAccounted)]
    blocks = [[each.block for each in loss.blocks] for loss in losses if loss]
    assert blocks == [[1], *[[1, 2]] * 5, [2, 3]]
    assert {loss.unit for loss in losses if loss} == {"person"}
    _check_accounts(federation)


def said_by(federation: Federation) -> list[Body]:
    """What the institution said in the log."""
    return [event.body for event in federation.logged() if event.actor == GROWING]


def _check_accounts(federation: Federation) -> None:
    state = apply_all(None, federation.entries())
    assert state is not None
    accounts = recompute({GROWING: state.spending_of(GROWING)})
    assert [account.rounds for account in accounts] == [6, 6, 1]
    for account in accounts:
        mine = [
            steps_of(each.steps, each.promise)
            for each in state.spending_of(GROWING)
            if each.promise and account.block in [b.block for b in each.promise.blocks]
        ]
        want = accounting.epsilon(mine, target_delta=1e-5)
        assert account.recomputed == pytest.approx(want)
        assert account.reported is not None
        assert decode_decimal(account.reported) == pytest.approx(want, abs=2e-6)
        assert want <= float(LIMIT)
        assert account.unit == "person"
    text = to_markdown(state_privacy(state, "base-6"))
    assert f"{GROWING} withdrew 10 or more (unit: person) since" in text
    assert f"## Records of {GROWING}, block 2" in text
    assert "Withdrawn data" not in to_markdown(state_privacy(state, "base-7"))


def test_a_person_who_is_withdrawn_is_not_in_the_next_round(found: Found) -> None:
    """Also while the node runs, and though its rows are still there."""
    federation = found(data=persons, train=True)
    federation.cosign()
    node = federation.nodes[GROWING]
    said = withdraw(federation, "person-0")
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["withdrawn"] == 1
    federation.run()
    assert (node.trainer.holdings.blocks == 0).sum() == 1


def test_nobody_is_withdrawn_by_a_list_with_an_unknown_key(found: Found) -> None:
    federation = found(data=persons)
    federation.cosign()
    said = withdraw(federation, "person-0", "PERSON-0")
    assert said.exception is not None
    assert "key 2 of the list is of nobody" in str(said.exception)
    assert "PERSON" not in str(said.exception)
    assert not federation.nodes[GROWING].store.reading().withdrawn
