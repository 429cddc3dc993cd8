"""Marks without noise: one survivor set per base and run, by cohorts that overlap."""

from dataclasses import replace
from typing import Any

import pytest

from tapestry.protocol.round_manifest import Participant, RoundManifest
from tapestry_node.refusal import Refused
from tapestry_node.round.survivor_marks import (
    ConsentMark,
    UploadMark,
    check_consent,
    check_upload,
    plan_digest,
)
from tests.support.plans import outer_plan, privacy_plan, round_manifest, training_plan
from tests.support.refusals import refused

NAMES = ("a.example", "b.example", "c.example", "d.example")
OTHER = "sha256:" + "f" * 64
PARAMETERS = "sha256:" + "e" * 64


def manifest(names: tuple[str, ...] = NAMES, **changes: Any) -> RoundManifest:
    return round_manifest([Participant(name=n, key="k") for n in names], **changes)


UPLOAD = UploadMark.of(manifest())
CONSENT = ConsentMark.of(manifest(), NAMES)


def test_a_mark_names_its_base_by_all_its_digests() -> None:
    base = manifest().model_digest
    mark = ConsentMark.of(manifest(), NAMES, names=[PARAMETERS, OTHER, base])
    assert (mark.base, mark.names) == (base, (PARAMETERS, OTHER))
    assert ConsentMark.parse(mark.body()) == mark


def test_marks_are_read_back_as_they_were_written() -> None:
    assert UPLOAD.participants == CONSENT.survivors == NAMES
    assert UploadMark.parse(UPLOAD.body()) == UPLOAD
    assert ConsentMark.parse(CONSENT.body()) == CONSENT


def test_the_plan_of_a_run_is_the_same_in_each_of_its_rounds() -> None:
    first = plan_digest(manifest())
    training = training_plan(
        steps=1, options={"sequence_length": 32}, factor_seed="1" * 64
    )
    later = manifest(NAMES[:3], round_number=2, model_digest=OTHER, training=training)
    assert plan_digest(later) == first


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "run-2"},
        {"clip_norm": "2"},
        {"training": training_plan(steps=2)},
        {"privacy": privacy_plan()},
        {"outer": outer_plan(learning_rate="0.9")},
    ],
)
def test_another_plan_or_run_has_another_digest(changes: dict[str, Any]) -> None:
    assert plan_digest(manifest(**changes)) != plan_digest(manifest())


@pytest.mark.parametrize(
    "later",
    [
        {"round_number": 2},  # of the same base, in the same run
        {"run": "run-2"},  # of the same base
        {"round_number": 2, "base": OTHER},  # in the same run
    ],
)
def test_another_set_of_a_base_or_a_run_is_refused(later: dict[str, Any]) -> None:
    check_consent(replace(CONSENT, **later), [CONSENT], named=())
    without = replace(CONSENT, **later, survivors=NAMES[1:])
    said = "would show a.example alone; wait for the same nodes, or add"
    with refused(Refused, "survivors-vary", match=said):
        check_consent(without, [CONSENT], named=())


def test_beside_a_set_that_was_forgotten_any_other_is_refused() -> None:
    forgotten, later = replace(CONSENT, survivors=()), replace(CONSENT, run="run-2")
    with refused(Refused, "survivors-vary", match="on this base, and has forgotten"):
        check_consent(later, [forgotten], named=())
    check_consent(later, [forgotten], named=[later.exception(NAMES)])
    check_consent(replace(later, base=OTHER), [forgotten], named=())


@pytest.mark.parametrize(
    ("base", "names"),
    [
        (OTHER, (CONSENT.base,)),  # the round before gave this base by two names
        (OTHER, (PARAMETERS,)),  # the same parameters beside other files
        (PARAMETERS, ()),
    ],
)
def test_a_base_under_another_name_is_the_same(
    base: str, names: tuple[str, ...]
) -> None:
    known = replace(CONSENT, names=(PARAMETERS,))
    mark = replace(CONSENT, run="run-2", base=base, names=names, survivors=NAMES[1:])
    with refused(Refused, "survivors-vary", match="on this base"):
        check_consent(mark, [known], named=[mark.plan])
    check_consent(mark, [known], named=[mark.exception(NAMES[1:])])
    apart = replace(
        UPLOAD, run="run-2", base=base, names=names, participants=("x", "y", "z")
    )
    with refused(Refused, "cohorts-apart"):
        check_upload(apart, [replace(UPLOAD, names=(PARAMETERS,))], named=())


def test_another_base_in_another_run_may_have_another_set() -> None:
    elsewhere = replace(CONSENT, run="run-2", base=OTHER, survivors=NAMES[1:])
    check_consent(elsewhere, [CONSENT], named=())


def test_the_plan_that_a_policy_names_frees_other_bases_and_not_the_same() -> None:
    later = replace(CONSENT, base=OTHER, survivors=NAMES[1:])
    check_consent(later, [CONSENT], named=[CONSENT.plan])
    again = replace(later, base=CONSENT.base)
    with refused(Refused, "survivors-vary", match=again.exception(NAMES[1:])):
        check_consent(again, [CONSENT], named=[CONSENT.plan])
    check_consent(again, [CONSENT], named=[again.exception(NAMES[1:])])
    for other in (again.exception(NAMES[2:]), later.exception(NAMES[1:])):
        with refused(Refused, "survivors-vary"):
            check_consent(again, [CONSENT], named=[other])


@pytest.mark.parametrize(
    ("names", "threshold", "fits"),
    [
        (NAMES, 3, True),
        (NAMES[:3], 3, True),  # 3 + 3 > 4 + 1
        (("a.example", "e.example", "f.example"), 3, False),  # 6 in all
        (("a.example", "b.example", "e.example"), 3, False),  # 3 + 3 = 5 + 1
        ((*NAMES, "e.example"), 4, True),  # 3 + 4 > 5 + 1
    ],
)
@pytest.mark.parametrize("later", [{"run": "run-2"}, {"base": OTHER}])
def test_two_cohorts_must_need_an_honest_node_in_common(
    names: tuple[str, ...], threshold: int, later: dict[str, Any], fits: bool
) -> None:
    mark = replace(UPLOAD, participants=names, threshold=threshold, **later)
    if fits:
        check_upload(mark, [UPLOAD], named=())
        return
    with refused(Refused, "cohorts-apart", match="raise the threshold, or add"):
        check_upload(mark, [UPLOAD], named=())
    named = mark.plan if mark.base == OTHER else mark.exception(names)
    check_upload(mark, [UPLOAD], named=[named])


def test_rounds_with_noise_are_compared_with_none() -> None:
    apart = replace(UPLOAD, participants=("a.example", "x.example"), threshold=2)
    for mark, known in (
        (replace(apart, noise="local"), UPLOAD),
        (apart, replace(UPLOAD, noise="local")),
    ):
        check_upload(mark, [known], named=())
