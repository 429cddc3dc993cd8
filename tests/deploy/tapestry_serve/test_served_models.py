"""The models of a server: by id, checked, with what the log says of each."""

import base64
import json
from pathlib import Path

import pytest

from tapestry.encoding import canonical_json, digest
from tapestry.errors import ConfigError, IncompleteError, TapestryError
from tapestry_governance.member_view import open_view
from tapestry_serve import served_models
from tapestry_serve.served_models import ServedModels
from tests.deploy.tapestry_serve.test_cli import released as released
from tests.support.adapter_folders import make_demo
from tests.support.model_folders import build
from tests.support.running_server import ENGINE, load, write_folders


def of_demo(demo: Path) -> ServedModels:
    log = open_view(node=None, bundle=demo / "bundle")
    adapter = demo / "adapters" / "fr-culture"
    found = served_models.load(str(demo / "releases" / "base-2"), [("fr", adapter)])
    return served_models.with_lineage(found, name="base-2", log=log, engine=ENGINE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("models"))


def test_a_lineage_names_the_entries_of_the_log_and_the_promise(
    released: tuple[Path, Path], tmp_path: Path
) -> None:
    demo = make_demo(tmp_path, files=released)
    log = open_view(node=None, bundle=demo / "bundle")
    found = of_demo(demo).served
    base, adapter = found["base"], found["fr"]
    assert base.is_logged
    assert adapter.badge == "log"
    assert base.lineage["adapters"] == []
    assert base.lineage["privacy"] is None
    (named,) = adapter.lineage["adapters"]
    event = log.state.adapters["fr-culture"]
    assert named == {
        "name": "fr",
        "manifest_digest": event.manifest_digest,
        "published_as": "fr-culture",
        "version": event.version,
        "country": event.country,
        "language": event.language,
        "licence": event.licence,
    }
    assert adapter.lineage["privacy"] == {
        "epsilon": event.epsilon,
        "delta": event.target_delta,
    }
    entries = adapter.lineage["log"]["entry_indexes"]
    for index, name in zip(entries, ("base-2", "fr-culture"), strict=True):
        payload = json.loads(log.entries[index])["payload"]
        assert json.loads(base64.b64decode(payload))["body"]["name"] == name
    assert base.lineage["log"]["entry_indexes"] == entries[:1]
    assert adapter.lineage["log"]["size"] == len(log.entries)
    assert adapter.digest == digest(canonical_json(dict(adapter.lineage)))
    served_models.require_logged(of_demo(demo))


@pytest.mark.parametrize("withdrawn", ["base-2", "fr-culture"])
def test_what_members_withdrew_says_why_it_answers_nothing(
    released: tuple[Path, Path], tmp_path: Path, withdrawn: str
) -> None:
    found = of_demo(make_demo(tmp_path, files=released, withdrawn=withdrawn)).served
    assert f"{withdrawn} is withdrawn by entry " in str(found["fr"].refused)
    assert (found["base"].refused is None) == (withdrawn == "fr-culture")


def test_what_no_log_names_is_not_served_as_if_one_did(folders: Path) -> None:
    found = load(folders)
    assert {each.badge for each in found.served.values()} == {"files"}
    with pytest.raises(IncompleteError, match="--allow-unlogged") as caught:
        served_models.require_logged(found)
    assert caught.value.code == "model-not-logged"


def test_two_of_one_id_are_told_with_both_folders(folders: Path) -> None:
    base, one, two = (str(folders / "base-1"), folders / "de", folders / "it")
    with pytest.raises(ConfigError) as caught:
        served_models.load(base, [("x", one), ("x", two)])
    assert caught.value.code == "adapter-name-duplicated"
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        served_models.load(base, [("base", one)])
    assert caught.value.code == "adapter-name-duplicated"


@pytest.mark.parametrize("name", ["Italy", "it.aly", "", "a" * 64, "../x", "é"])
def test_an_id_is_spelled_so_that_a_request_can_name_it(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        served_models.check_ids([name])
    assert caught.value.code == "model-id-invalid"
    served_models.check_ids(["italy", "it-2"])


def test_an_adapter_of_another_base_is_refused(folders: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other", "llama")
    with pytest.raises(TapestryError) as caught:
        served_models.load(str(other), [(None, folders / "de")])
    assert "base" in str(caught.value)


def test_a_lineage_is_plain_json(folders: Path) -> None:
    for each in load(folders).served.values():
        assert json.loads(json.dumps(each.lineage)) == each.lineage
