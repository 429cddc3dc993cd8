"""What keeps an adapter from being published is found before it is paid for."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapestry.errors import ConfigError, ResourceError
from tapestry.protocol.messages import Reason
from tapestry.workloads.data_manifest import DataManifest
from tapestry.workloads.language.text_records import Corpus
from tapestry_governance.events.federation_events import Policy
from tapestry_node.adapters.adapter_check import (
    Place,
    check_adapter,
    language_of,
    plan_adapter,
    trial_title,
)
from tapestry_node.adapters.adapter_file import (
    PUBLICATIONS,
    AdapterFile,
    NamedAdapter,
)
from tapestry_node.refusal import Refused
from tapestry_node.settings import NodeSettings
from tapestry_node.training.trainer import Trainer
from tests.support.federation import Base
from tests.support.log_world import fake_digest
from tests.support.node_folders import NAME, change
from tests.support.refusals import refused
from tests.support.settings_files import (
    NO_ADAPTER_NOISE,
    common_policy,
    node_settings,
)

Check = Callable[..., list[Any]]


@pytest.fixture
def check(idle: Path, base: Base) -> Check:
    """Check the adapter of a node after changes of its settings and place."""

    def ask(settings: dict[str, Any] | None = None, **changes: Any) -> list[Any]:
        change(idle, settings or {})
        known = NodeSettings.read(idle / "node.toml")
        trainer = Trainer(idle / "data", workload=base.workload, settings=known)
        place = Place(
            folder=idle,
            adapter=NamedAdapter.own(known),
            settings=known,
            policy=Policy.model_validate(common_policy(base.replica.manifest)),
            data=trainer.manifest,
        )
        title = trial_title(NAME, base_digest=base.replica.digest)
        return check_adapter(
            plan_adapter(
                title,
                known.adapter,
                target_delta=known.policy.target_delta,
                trainer=trainer,
            ),
            replace(place, **changes),
            trainer=trainer,
            load=lambda: base.workload.load(base.replica.parameters),
        )

    return ask


def named(**changes: Any) -> NamedAdapter:
    """An adapter with settings of its own."""
    training = {**node_settings(fake_digest("base"))["adapter"]}
    del training["publish"]
    training["targets"] = tuple(training["targets"])
    file = AdapterFile.model_validate({"adapter": training, **changes})
    return NamedAdapter(name=NAME, file=file)


def test_an_adapter_that_fits_is_measured_on_the_public_data(
    check: Check, idle: Path
) -> None:
    assert check() == check(policy=None)
    (idle / "held-out.jsonl").write_text('{"text": "public"}\n')
    assert len(check()) == 1


def test_targets_that_are_left_open_are_chosen_from_the_model(
    idle: Path, base: Base
) -> None:
    change(idle, {"adapter": {"targets": []}})
    known = NodeSettings.read(idle / "node.toml")
    trainer = Trainer(idle / "data", workload=base.workload, settings=known)
    title = trial_title(NAME, base_digest=base.replica.digest)
    plan = plan_adapter(
        title, known.adapter, target_delta=known.policy.target_delta, trainer=trainer
    )
    assert plan.training.targets == tuple(base.workload.choose_targets()) != ()
    assert plan.records == trainer.count


@pytest.mark.parametrize(
    ("settings", "reason", "code"),
    [
        ({"adapter": NO_ADAPTER_NOISE}, Reason.LOCAL_POLICY, "noise-not-allowed"),
        (
            {"adapter": {"targets": ["c_attn"]}},
            Reason.PLAN_UNSUPPORTED,
            "target-module-unknown",
        ),
        ({"adapter": {"rank": 97}}, Reason.PLAN_UNSUPPORTED, "rank-too-high"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_adapter_that_policy_or_model_rules_out_is_refused(
    check: Check, settings: dict[str, Any], reason: Reason, code: str
) -> None:
    with refused(Refused, code) as caught:
        check(settings)
    assert caught.value.reason is reason


def test_an_adapter_without_noise_is_checked_where_the_policy_allows_it(
    check: Check,
) -> None:
    check({"adapter": NO_ADAPTER_NOISE, "policy": {"noise": ["local", "none"]}})


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"adapter": {"licence": "MIT"}}, "licence-not-allowed", "'MIT' .*: CC0-1.0"),
        ({"adapter": {"licence": "CC BY"}}, "setting-invalid", "adapter.licence: "),
        ({"country": ""}, "setting-invalid", "adapter's country: "),
        ({"policy": {"target_delta": "0.0001"}}, "delta-too-large", "0.0001 .*0.00001"),
    ],
)
def test_settings_that_the_federation_or_the_log_rules_out_are_refused(
    check: Check, settings: dict[str, Any], code: str, said: str
) -> None:
    with refused(ConfigError, code, match=said):
        check(settings)


def test_without_a_known_federation_its_policy_is_not_compared(check: Check) -> None:
    check({"adapter": {"licence": "MIT"}}, policy=None)


def test_data_without_a_language_have_no_entry(check: Check) -> None:
    data = DataManifest(licence="CC0-1.0", unit="record")
    with refused(ConfigError, "language-missing"):
        check(data=data)
    with refused(ConfigError, "language-missing"):
        language_of(named(language=None), data)
    assert language_of(named(language="br"), data) == "br"


def test_the_language_of_the_data_is_the_adapters_unless_it_names_another() -> None:
    data = Corpus(language="sw", licence="CC0-1.0", unit="record")
    assert language_of(named(language=None), data) == "sw"
    assert language_of(named(language="br"), data) == "br"


@pytest.mark.parametrize(
    ("name", "make", "code"),
    [
        ("", Path.touch, "not-a-folder"),
        (f"{NAME}-1", Path.touch, "file-not-plain"),
        (f"{NAME}-1.0.update", Path.mkdir, "file-not-plain"),
        (f"{NAME}-1.1.update", os.mkfifo, "file-not-plain"),
        (
            f"{NAME}-1",
            lambda path: path.symlink_to("/nowhere"),
            "file-not-plain",
        ),
    ],
    ids=["file", "file for a publication", "folder for a step", "FIFO", "link"],
)
def test_something_else_in_the_place_of_a_publication_is_named(
    check: Check, idle: Path, name: str, make: Callable[[Path], object], code: str
) -> None:
    path = idle / PUBLICATIONS / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    with refused(ConfigError, code, match=f"{path}: is no .*; move it away"):
        check()


def test_publications_of_others_and_ones_under_way_are_no_fault(
    check: Check, idle: Path
) -> None:
    root = idle / PUBLICATIONS
    (root / f"{NAME}-1").mkdir(parents=True)
    (root / f"{NAME}-2.0.update").touch()
    (root / "notes").touch()
    (root / f"{NAME}-1.law.toml").touch()  # another adapter's, of a like name
    (root / f"{NAME}-law.job").touch()
    check()


def test_a_folder_that_cannot_be_written_is_refused(
    check: Check, idle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = os.access  # the tests may run as root, to whom every folder is open

    def access(path: Path, mode: int) -> bool:
        return path != idle and honest(path, mode)

    monkeypatch.setattr(os, "access", access)
    with refused(ResourceError, "file-unwritable", match=f"cannot write {idle};"):
        check()
