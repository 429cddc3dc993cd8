"""Who saw what, what was published, and how to check it."""

import shlex

import numpy as np
import pytest

from tapestry.protocol.messages import Kind, Message
from tapestry_demo.report import assurance
from tapestry_demo.report.assurance import coordinator_view
from tapestry_demo.report.links import Folder
from tapestry_demo.wire_tap import WireTap
from tests.support.report_pages import (
    Page,
    body_words,
    country_of,
    figures,
    page_of,
    run_of,
    tables_of,
)


def test_a_log_that_too_few_signed_is_not_called_fixed() -> None:
    data = figures()
    data["log"]["cosignatures"] = ["germany/witness"]
    words = body_words(data)
    assert "signed by one member, fewer than the three needed." in words
    assert "Fewer signed than are needed, so this log proves nothing yet." in words
    assert "is noticed" not in words


ALL = Folder(
    frozenset(
        {
            "bundle/checkpoint",
            "bundle/trust-policy.txt",
            "releases/base-4/README.md",
            "privacy/base-4.md",
            "adapters/italy/README.md",
        }
    )
)


@pytest.mark.parametrize(
    ("seen", "told"),
    [(True, "\u25cf seen"), (False, "\u25cb not seen"), (None, "? in doubt")],
)
def test_what_the_coordinator_saw_is_told_in_words_and_by_a_sign(
    seen: bool | None, told: str
) -> None:
    view = [{"item": "an update", "seen": seen, "detail": ""}]
    words = Page(assurance.sight(run_of(coordinator_view=view)).text).words()
    assert f"An update{told}" in words


@pytest.mark.parametrize(
    ("colluding", "told"),
    [
        (0, "the coordinator alone."),
        (1, "the coordinator together with up to one member."),
        (2, "the coordinator together with up to two members."),
    ],
)
def test_the_masks_are_told_with_whom_they_hold_against(
    colluding: int, told: str
) -> None:
    secagg = {
        "n": 4,
        "threshold": 3,
        "min_cohort": 3,
        "max_colluding": colluding,
        "length": 737_280,
    }
    words = Page(assurance.sight(run_of(secagg=secagg)).text).words()
    assert f"designed to hold against {told}" in words
    assert "four institutions in a round, at least 3 of them needed" in words
    assert "Each contribution has 737,280 numbers." in words


def test_traffic_is_summed_for_each_institution_and_the_largest_kind_comes_first() -> (
    None
):
    sent = {"italy": {"masked_input": 2000, "receipt": 10}, "spain": {"receipt": 30}}
    drawn = assurance.traffic(run_of(bytes_out=sent)).text
    words = Page(drawn).words()
    assert "The most that left one institution is 2.0 kB." in words
    (rows,) = tables_of(drawn)
    assert rows[1:] == [
        ["Masked update", "2.0 kB", "\u2013"],
        ["Confirmation", "10 bytes", "30 bytes"],
        ["All together", "2.0 kB", "30 bytes"],
    ]


def test_members_stand_with_licence_and_records() -> None:
    run = run_of(countries=[country_of("netherlands", records=1204)])
    (rows,) = tables_of(assurance.members(run).text)
    assert rows[1:] == [
        [
            *("The Netherlands (Netherlands)", "Institute for test data, Germany"),
            *("BSD-3-Clause", "1,204"),
        ],
    ]


def test_the_slowest_stage_comes_first() -> None:
    seconds = {"prepare": 2.0, "rounds": 61.0}
    drawn = assurance.time(run_of(seconds=seconds, peak_rss_mb=1500.0)).text
    (rows,) = tables_of(drawn)
    assert [row[0] for row in rows[1:]] == ["Rounds", "Preparation of model and text"]
    assert "The run took 1 min 3 s and 1.5 GB of memory at its peak." in Page(
        drawn
    ).words().replace("\u00a0", " ")


def test_what_was_published_links_to_card_and_promise_where_they_are() -> None:
    seen = Page(assurance.published(run_of(), ALL).text)
    assert seen.hrefs() == [
        *("releases/base-4/README.md", "privacy/base-4.md", "adapters/italy/README.md")
    ]
    assert "sha256:4ab4" in seen.words()
    assert "Italy\u2019s adapterε 1.40" in seen.words()
    assert Page(assurance.published(run_of(), Folder()).text).hrefs() == []


def test_what_members_decided_is_shown_with_their_votes() -> None:
    release = {
        "what": "base-4",
        "standing": "approved",
        "yes": 3,
        "needed": 3,
        "votes": {"germany": "yes", "italy": "no"},
        "decided": 41,
    }
    other = {"what": "withdraw <b> by italy", "standing": "open", "yes": 0, "needed": 2}
    waits = {**release, "what": "base-5", "standing": "candidate", "yes": 1}
    waits |= {"votes": {"italy": "yes"}, "decided": None}
    every = [release, {**other, "votes": {}, "decided": None}, waits]
    run = run_of(decisions=every)
    drawn = assurance.decisions(run).text
    (rows,) = tables_of(drawn)
    said = ["Approved", "3 of 3 needed", "Germany: yes, Italy: no", "Entry 41"]
    assert rows[1][1:] == said
    said = ["Withdraw <b> by italy", "Open", "0 of 2 needed", "no vote", "\u2013"]
    assert rows[2] == said
    assert rows[3][1:] == ["Candidate", "1 of 3 needed", "Italy: yes", "\u2013"]
    assert "<b>" not in drawn
    assert assurance.decisions(run_of()).text == ""
    assert "What members decided" in page_of({**figures(), "decisions": [release]})


def test_the_log_links_to_checkpoint_and_policy_where_they_are() -> None:
    assert Page(assurance.log(run_of(), ALL).text).hrefs() == [
        *("bundle/checkpoint", "bundle/trust-policy.txt")
    ]
    assert "is noticed" in assurance.log(run_of(), Folder()).text


@pytest.mark.parametrize(
    ("missing", "verbs"),
    [
        ({}, 5),
        ({"adapters": []}, 3),
    ],
    ids=str,
)
def test_commands_are_those_that_the_folder_can_answer(
    missing: dict[str, list[object]], verbs: int
) -> None:
    assert assurance.check(run_of(**missing)).text.count("<pre>") == verbs


def test_a_name_in_a_command_stays_one_word_of_the_shell() -> None:
    name = "base-1; rm -rf $HOME"
    run = run_of(
        releases=[figures()["releases"][0] | {"name": name}],
        adapters=[figures()["adapters"][0] | {"name": "a'b"}],
    )
    commands = [
        text
        for text in Page(assurance.check(run).text).text
        if text.startswith("tapestry ")
    ]
    assert shlex.split(commands[2]) == [
        "tapestry",
        "release",
        "verify",
        f"releases/{name}",
    ]
    assert shlex.split(commands[3])[-1] == "adapters/a'b"
    assert len(shlex.split(commands[4])) == 6


def test_versions_are_listed_in_order_of_name() -> None:
    drawn = assurance.software(run_of(software={"torch": "2", "flwr": "1"})).text
    assert drawn.index("flwr") < drawn.index("torch")
    assert drawn.startswith("<details>")


def seen(tap: WireTap) -> dict[str, bool | None]:
    return {row.item: row.seen for row in coordinator_view(tap, is_private=True)}


def test_uploads_that_are_not_random_put_the_sight_of_an_update_in_doubt() -> None:
    update = "the update of any one institution"
    even, uneven = np.full(256, 1000), np.full(256, 1000)
    uneven[0] = 3000
    assert seen(WireTap(counts=even, uploads=4))[update] is False
    assert seen(WireTap(counts=uneven, uploads=4))[update] is None
    assert update not in seen(WireTap())


def test_the_row_of_private_records_tells_what_a_publication_carries() -> None:
    rows = coordinator_view(WireTap(), is_private=True)
    (row,) = (r for r in rows if "record" in r.item[:20])
    assert "carries text" not in row.detail
    assert "public held-out text and what the models answered" in row.detail


def test_a_sum_without_noise_is_not_called_private() -> None:
    for is_private in (True, False):
        details = " ".join(
            row.detail for row in coordinator_view(WireTap(), is_private=is_private)
        )
        assert ("differential privacy" in details) == is_private


CARRIED = Message(kind=Kind.PUBLICATION, attachments=[b"a card: der geheime Satz, so"])


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Message(kind=Kind.PUBLICATION, attachments=[b"a card"]), "found not once"),
        (CARRIED, "found 1 times"),
        (Message(kind=Kind.RECEIPT, body=b'{"x":"der geheime Satz"}'), "found 1 times"),
    ],
    ids=["clean", "attachment", "body"],
)
def test_private_text_in_any_part_of_a_reply_is_counted_and_seen(
    reply: Message, told: str
) -> None:
    tap = WireTap(wanted=(b"der geheime Satz", b"un altro segreto"))
    tap.take(reply)
    tap = WireTap.restore(tap.state())  # the texts themselves are not kept
    assert not tap.wanted
    rows = coordinator_view(tap, is_private=True)
    (row,) = (r for r in rows if r.item.endswith("record"))
    assert "2 pieces of private text were looked for in all that was" in row.detail
    assert told in row.detail
    assert row.seen is (told != "found not once")
