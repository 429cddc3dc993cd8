"""Uploads as the status tells them: awaited, or there with size and seconds."""

from pathlib import Path
from typing import Any

from tapestry_coordinator.upload_status import UploadStatus, uploads_of
from tapestry_coordinator.uploads import Uploads

ASKED = 1_790_000_000.0
SINCE = "2026-09-21T14:13:20+00:00"


def at(stage: str, seconds: float, node: str | None = None) -> dict[str, Any]:
    said = {} if node is None else {"node": node}
    return {"round": 2, "round_stage": stage, "time": ASKED + seconds, **said}


BEGAN = [
    at("open", -2),
    at("share_keys", -1),
    at("share_keys", -0.5, "ostrava"),
    at("share_keys", -0.4, "nordland"),
]
ASK, CAME = at("collect_masked_inputs", 0), at("collect_masked_inputs", 4.2, "nordland")


def test_who_was_asked_is_awaited_until_all_of_its_upload_is_there(
    tmp_path: Path,
) -> None:
    Uploads(tmp_path).keep(2, "nordland", [bytes(1_500_000)])
    Uploads(tmp_path).keep(1, "ostrava", [bytes(8)])  # of another round
    assert uploads_of(BEGAN, tmp_path) == ()
    one, other = uploads_of([*BEGAN, ASK, CAME], tmp_path)
    assert one == UploadStatus(
        node="nordland", asked=SINCE, seconds=4.2, bytes=1_500_000
    )
    assert str(one) == "nordland    upload arrived after 4.2 s, 1.5 MB"
    assert (other.seconds, other.bytes) == (None, None)
    assert str(other) == f"ostrava     upload awaited since {SINCE}"


def test_a_closed_aborted_or_new_round_tells_of_none(tmp_path: Path) -> None:
    told = [*BEGAN, ASK, CAME]
    assert len(uploads_of([*told, at("unmask", 9)], tmp_path)) == 2
    assert uploads_of([*told, at("close", 9)], tmp_path) == ()
    assert uploads_of([*told, {"round": 2, "text": "aborted"}], tmp_path) == ()
    again = [*told, *BEGAN, ASK]
    assert [each.seconds for each in uploads_of(again, tmp_path)] == [None, None]


def test_an_erased_upload_has_no_size_and_an_untimed_request_tells_none(
    tmp_path: Path,
) -> None:
    assert uploads_of([*BEGAN, ASK, CAME], tmp_path)[0].bytes is None
    untimed = {name: said for name, said in ASK.items() if name != "time"}
    assert uploads_of([*BEGAN, untimed], tmp_path) == ()
