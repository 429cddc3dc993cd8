"""Attacks on what an auditor gets; numbers in brackets are rows of the matrix."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.artifacts import manifest
from tapestry.encoding import canonical_json, digest, encode_base64
from tapestry.errors import ConfigError
from tapestry.keys import SigningKey
from tapestry.protocol.round_manifest import NoNoise
from tapestry.tlog import tiles
from tapestry.tlog.note import MAX_TIME
from tapestry_governance.audit.bundle import write_manifest
from tapestry_governance.audit.verify import Audit, AuditVerdict, verify
from tapestry_governance.events import envelope as entry_module
from tapestry_governance.events.envelope import PAYLOAD_TYPE
from tapestry_governance.events.round_events import RoundOpened
from tests.support.audit_bundles import (
    attach_proof,
    bundle_of,
    released,
    safetensors,
)
from tests.support.log_world import (
    NAMES,
    World,
    fake_digest,
    renamed,
    with_loss,
    without_noise,
)
from tests.support.refusals import refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    folder = tmp_path_factory.mktemp("made")
    world, base = released(folder)
    return world, bundle_of(world, folder, artifacts={"base-2": base}).folder


@pytest.fixture
def world(made: tuple[World, Path]) -> World:
    return made[0]


@pytest.fixture
def bundle(made: tuple[World, Path], tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return shutil.copytree(made[1], tmp_path / "copy")


def rewritten(world: World, entries: list[bytes], folder: Path) -> Path:
    """Let log and witnesses collude: a bundle of another history, well signed."""
    twin = World()
    twin.entries, twin.now = entries, world.now
    return bundle_of(twin, folder).folder


def failed(audit: Audit) -> tuple[str, AuditVerdict, str | None]:
    """Return the step that ended an audit, its verdict and the broken rule."""
    return audit.steps[-1].name, audit.verdict, audit.steps[-1].code


def test_an_untouched_bundle_holds_with_counts(world: World, bundle: Path) -> None:
    audit = verify(bundle, trust=world.trust.encode(), since=world.note())
    assert audit.verdict is AuditVerdict.HOLDS
    assert {step.code for step in audit.steps} == {None}
    counts = {step.name: step.counts for step in audit.steps}
    assert counts["files"]["files"] == 14
    now = int(world.now.timestamp())
    assert counts["signatures"] == {
        "cosignatures": 3,
        "known_by": now,
        "seen_at": now,
        "clocks_tolerated": 1,
    }
    assert counts["log"] == {"entries": 33, "tiles": 2}
    assert counts["since"] == {"new": 0}
    assert counts["events"]["author_signatures"] == 33
    assert counts["events"]["round.closed"] == 2
    assert counts["privacy"] == {"accounts": 4, "without_promise": 0}
    assert counts["artifacts"] == {"logged": 2, "whole": 1, "manifests": 0}
    assert counts["blobs"] == {"blobs": 2}


@pytest.mark.parametrize("time", [0, 2**31, MAX_TIME])
def test_one_witness_does_not_date_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, time: int
) -> None:
    """The time is the interval of honest clocks, whatever one of them says."""
    world = World().found()
    key = world.keys[NAMES[3], "witness"]
    note = world.note() + world.checkpoint().cosign(key, time=time)
    monkeypatch.setattr(world, "note", lambda: note)
    audit = verify(bundle_of(world, tmp_path).folder)
    (signatures,) = (s for s in audit.steps if s.name == "signatures")
    now = int(world.now.timestamp())
    assert (signatures.counts["known_by"], signatures.counts["seen_at"]) == (now, now)
    assert "whatever 1 of the clocks say" in signatures.detail


@pytest.mark.parametrize("time", [MAX_TIME + 1, 2**62, 2**63, 2**64 - 1])
def test_a_cosignature_after_the_year_9999_is_a_bad_signature(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, time: int
) -> None:
    world = World().found()
    key = world.keys[NAMES[3], "witness"]
    good = world.checkpoint()
    blob = time.to_bytes(8, "big") + key.sign(
        f"cosignature/v1\ntime {time}\n{good}".encode()
    )
    name, material = key.name, encode_base64(key.verify_key.id + blob)
    note = world.note() + f"\u2014 {name} {material}\n".encode()
    monkeypatch.setattr(world, "note", lambda: note)
    found = failed(verify(bundle_of(world, tmp_path).folder))
    assert found == ("signatures", AuditVerdict.FAILS, "cosignature-malformed")


@pytest.mark.slow
@settings(max_examples=150)
@given(data=st.data())
def test_one_flipped_byte_in_any_file_is_noticed(
    made: tuple[World, Path], data: st.DataObject
) -> None:
    bundle = made[1]
    files = sorted(p for p in bundle.rglob("*") if p.is_file() and p.stat().st_size)
    path = data.draw(st.sampled_from(files), "file")
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1), "at")
    after = bytearray(before)
    after[at] ^= data.draw(st.integers(1, 255), "flip")
    try:
        path.write_bytes(after)
        assert verify(bundle).verdict is not AuditVerdict.HOLDS
    finally:
        path.write_bytes(before)


@pytest.mark.slow
@settings(max_examples=150)
@given(data=st.data())
def test_a_flipped_byte_under_a_rewritten_manifest_is_noticed(
    made: tuple[World, Path], data: st.DataObject
) -> None:
    world, bundle = made  # [1, 12, 29]
    files = [
        path
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
        and path.stat().st_size
        and path.name not in ("MANIFEST.sha256", "trust-policy.txt")
    ]
    path = data.draw(st.sampled_from(files), "file")
    before, listed = path.read_bytes(), (bundle / "MANIFEST.sha256").read_bytes()
    at = data.draw(st.integers(0, len(before) - 1), "at")
    after = bytearray(before)
    after[at] ^= data.draw(st.integers(1, 255), "flip")
    try:
        path.write_bytes(after)
        write_manifest(bundle)
        audit = verify(bundle, trust=world.trust.encode())
        assert audit.verdict is not AuditVerdict.HOLDS
        assert audit.steps[-1].name != "files"
    finally:
        path.write_bytes(before)
        (bundle / "MANIFEST.sha256").write_bytes(listed)


def test_a_file_more_or_less_is_noticed(bundle: Path) -> None:
    (bundle / "artifacts" / "base-2" / "extra.bin").write_bytes(b"x")
    assert failed(verify(bundle)) == (
        "files",
        AuditVerdict.FOREIGN_FILE,
        "foreign-file",
    )
    write_manifest(bundle)
    assert failed(verify(bundle)) == (
        "artifacts",
        AuditVerdict.FOREIGN_FILE,
        "foreign-file",
    )  # [29]
    (bundle / "artifacts" / "base-2" / "extra.bin").unlink()
    (bundle / "tile" / "0" / "000.p" / "33").unlink()
    assert failed(verify(bundle)) == ("files", AuditVerdict.INCOMPLETE, "file-missing")
    shutil.rmtree(bundle / "tile" / "0")
    write_manifest(bundle)
    assert failed(verify(bundle)) == ("log", AuditVerdict.INCOMPLETE, "tile-missing")
    (bundle / "MANIFEST.sha256").unlink()
    assert failed(verify(bundle)) == (
        "files",
        AuditVerdict.INCOMPLETE,
        "manifest-missing",
    )


def test_a_renamed_model_file_with_the_same_bytes_is_noticed(bundle: Path) -> None:
    config = bundle / "artifacts" / "base-2" / "config.json"  # [29]
    config.rename(config.with_name("settings.json"))
    write_manifest(bundle)
    assert failed(verify(bundle)) == (
        "artifacts",
        AuditVerdict.FOREIGN_FILE,
        "foreign-file",
    )


def test_an_artifact_that_was_never_logged_is_refused(bundle: Path) -> None:
    shutil.copytree(bundle / "artifacts" / "base-2", bundle / "artifacts" / "base-3")
    write_manifest(bundle)
    assert failed(verify(bundle)) == (
        "artifacts",
        AuditVerdict.FAILS,
        "artifact-not-in-log",
    )


def test_a_release_with_other_parameters_than_the_rounds_led_to_is_refused(
    tmp_path: Path,
) -> None:
    base = tmp_path / "base-1"
    base.mkdir()
    values = np.ones((2, 2), dtype=np.float32)
    (base / "model.safetensors").write_bytes(safetensors({"w": values}))
    listed = manifest.write(base)
    world = World().found()
    world.run_round(1)
    index = world.add(world.release(1, manifest_digest=listed.digest))
    attach_proof(base, world, index)
    audit = verify(bundle_of(world, tmp_path, artifacts={"base-1": base}).folder)
    assert failed(audit) == (
        "artifacts",
        AuditVerdict.FAILS,
        "release-parameters-differ",
    )
    assert "published with other parameters" in audit.steps[-1].detail


def test_an_entry_beside_a_release_must_be_its_own(
    made: tuple[World, Path], bundle: Path
) -> None:
    place = bundle / "artifacts" / "base-2" / "tapestry"
    for entry in (made[0].entries[0], b"{}"):
        (place / "release.entry").write_bytes(entry)
        write_manifest(bundle)
        found = failed(verify(bundle))
        assert found == ("artifacts", AuditVerdict.FAILS, "own-entry-differs")


def test_a_blob_that_no_entry_names_is_foreign(bundle: Path) -> None:
    name = digest(b"stray").removeprefix("sha256:")
    (bundle / "blobs" / "sha256" / name).write_bytes(b"stray")
    write_manifest(bundle)
    found = failed(verify(bundle))
    assert found == ("blobs", AuditVerdict.FOREIGN_FILE, "foreign-file")


def test_another_trust_policy_in_the_bundle_than_the_one_given_is_named(
    world: World, bundle: Path
) -> None:
    given = world.trust.encode()
    (bundle / "trust-policy.txt").write_bytes(
        given.replace(b"group members 3 ", b"group members 1 ")
    )
    write_manifest(bundle)
    found = failed(verify(bundle, trust=given))
    assert found == ("trust", AuditVerdict.FAILS, "trust-policy-differs")


def test_a_manifest_alone_stands_for_an_artifact(bundle: Path) -> None:
    base = bundle / "artifacts" / "base-2"
    (base / "config.json").unlink()
    (base / "model.safetensors").unlink()
    (base / "tokenizer.model").unlink()
    write_manifest(bundle)
    audit = verify(bundle)
    assert audit.verdict is AuditVerdict.HOLDS
    counts = {step.name: step.counts for step in audit.steps}
    assert counts["artifacts"] == {"logged": 2, "whole": 0, "manifests": 1}


@pytest.mark.parametrize("kind", ["link", "folder-link", "pipe"])
def test_links_and_devices_are_refused(bundle: Path, kind: str) -> None:  # [31]
    if kind == "link":
        (bundle / "trust-policy.txt").unlink()
        (bundle / "trust-policy.txt").symlink_to(bundle / "checkpoint")
    elif kind == "folder-link":
        shutil.move(bundle / "tile", bundle.parent / "elsewhere")
        (bundle / "tile").symlink_to(bundle.parent / "elsewhere")
    else:
        os.mkfifo(bundle / "artifacts" / "pipe")
    assert failed(verify(bundle)) == (
        "files",
        AuditVerdict.FOREIGN_FILE,
        "foreign-file",
    )


@pytest.mark.parametrize(
    ("name", "verdict", "code"),
    [
        ("../outside", AuditVerdict.FAILS, "name-not-portable"),
        ("/etc/passwd", AuditVerdict.FAILS, "name-not-portable"),
        ("tile/../checkpoint", AuditVerdict.FAILS, "name-not-portable"),
        ("a\\b", AuditVerdict.FAILS, "name-not-portable"),
        ("notes.txt", AuditVerdict.FOREIGN_FILE, "foreign-file"),
        ("tile", AuditVerdict.FOREIGN_FILE, "foreign-file"),
    ],
)
def test_names_that_leave_the_bundle_are_refused(
    bundle: Path, name: str, verdict: AuditVerdict, code: str
) -> None:
    path = bundle / "MANIFEST.sha256"  # [31]
    lines = [*path.read_text().splitlines(), f"{'0' * 64}  {name}"]
    lines.sort(key=lambda line: line[66:])
    path.write_text("".join(f"{line}\n" for line in lines))
    assert failed(verify(bundle)) == ("files", verdict, code)


def test_an_oversize_checkpoint_is_refused_unread(bundle: Path) -> None:  # [11, 31]
    (bundle / "checkpoint").write_bytes(b"\n" * 10**6)
    write_manifest(bundle)
    audit = verify(bundle)
    assert failed(audit) == ("files", AuditVerdict.FAILS, "file-too-large")


def test_a_file_is_not_a_bundle(bundle: Path) -> None:
    for path in (bundle / "trust-policy.txt", bundle / "nothing"):
        with refused(ConfigError, "folder-missing", match=str(path)):
            verify(path)


def test_a_history_rewritten_by_log_and_witnesses_fails_against_an_old_view(
    world: World, tmp_path: Path
) -> None:
    kept = world.note(world.entries[:20])  # [2]
    fork = World()
    fork.ids = 500
    for entry in world.entries[:14]:
        fork.append(entry)
    for name in NAMES * 3:
        fork.add(fork.declaration(name), name, "node")
    bundle = rewritten(world, fork.entries, tmp_path)
    assert verify(bundle).verdict is AuditVerdict.HOLDS
    assert failed(verify(bundle, since=kept)) == (
        "since",
        AuditVerdict.FAILS,
        "log-forked",
    )


def test_a_rollback_fails_against_an_old_view(world: World, tmp_path: Path) -> None:
    bundle = rewritten(world, world.entries[:20], tmp_path)  # [3]
    assert verify(bundle, since=world.note(world.entries[:20])).verdict == 0
    audit = verify(bundle, since=world.note())
    assert failed(audit) == ("since", AuditVerdict.FAILS, "log-shrunk")


@pytest.mark.parametrize(
    "kept",
    [
        b"Patient Rossi\n\nborn 1961, smoker\n",
        b"PRIVATE+tapestry.example/node+0011aabb+AXNlY3JldHNlY3JldA==\n",
        "a\n\n\N{EM DASH} Rossi born-1961\n".encode(),
        b"",
    ],
    ids=["records", "key", "signature line", "empty"],
)
def test_a_file_that_is_no_checkpoint_is_not_quoted(bundle: Path, kept: bytes) -> None:
    audit = verify(bundle, since=kept)
    assert failed(audit)[:2] == ("since", AuditVerdict.FAILS)
    said = audit.steps[-1].detail
    assert "--since" in said
    assert not any(word in said for word in ("Rossi", "1961", "PRIVATE", "0011aabb"))


def test_too_few_cosignatures_do_not_hold(world: World, bundle: Path) -> None:  # [5]
    (bundle / "checkpoint").write_bytes(world.note(witnesses=NAMES[:2]))
    write_manifest(bundle)
    assert failed(verify(bundle)) == (
        "signatures",
        AuditVerdict.FAILS,
        "quorum-not-reached",
    )


def trusting(bundle: Path, world: World) -> Audit:
    """Verify a bundle by another trust policy, which also lies in it."""
    (bundle / "trust-policy.txt").write_bytes(world.trust.encode())
    write_manifest(bundle)
    return verify(bundle, trust=world.trust.encode())


def test_a_policy_with_another_log_key_does_not_hold(bundle: Path) -> None:  # [19]
    other = World()
    other.log_key = SigningKey.generate("tapestry.example/log")
    found = failed(trusting(bundle, other))
    assert found == ("signatures", AuditVerdict.FAILS, "log-signature-missing")


def test_a_member_whose_witness_is_not_trusted_is_noticed(
    world: World, bundle: Path
) -> None:
    lines = world.trust.encode().decode().splitlines()
    stranger = World()
    stranger.keys["id", "witness"] = SigningKey(
        name="id.example/witness",
        algorithm=world.keys["id", "witness"].verify_key.algorithm,
        seed=bytes(32),
    )
    assert lines != stranger.trust.encode().decode().splitlines()
    found = failed(trusting(bundle, stranger))
    assert found == ("events", AuditVerdict.FAILS, "witness-untrusted")


def test_an_entry_that_breaks_a_rule_exits_with_two(tmp_path: Path) -> None:
    world = World().grow()
    bad = renamed(world.manifest(3), policy_digest=fake_digest("lax"))
    entries = [*world.entries, world.entry(RoundOpened(manifest=bad))]
    audit = verify(rewritten(world, entries, tmp_path))
    assert failed(audit) == ("events", AuditVerdict.RULE_BROKEN, "policy-differs")
    assert audit.steps[-1].detail.startswith("entry 30:")


def test_a_commitment_before_its_round_was_opened_exits_with_two(
    tmp_path: Path,
) -> None:
    world = World().found()  # [21]
    commitment = world.commitment("fr", world.manifest())
    entries = [*world.entries, world.entry(commitment, "fr", "node")]
    audit = verify(rewritten(world, entries, tmp_path))
    assert failed(audit) == ("events", AuditVerdict.RULE_BROKEN, "round-not-open")


def test_an_understated_epsilon_exits_with_two(tmp_path: Path) -> None:  # [23]
    world = World().found()
    plan = world.manifest()
    world.add(RoundOpened(manifest=plan))
    world.add(world.account(plan, epsilon="1.98"), "fr", "node")
    audit = verify(bundle_of(world, tmp_path).folder)
    assert failed(audit) == ("privacy", AuditVerdict.RULE_BROKEN, "epsilon-understated")
    assert "fr reports epsilon 1.98" in audit.steps[-1].detail
    assert [account.is_understated for account in audit.accounts] == [True]


def test_an_epsilon_understated_on_an_adapters_card_exits_with_two(
    tmp_path: Path,
) -> None:
    world = World().found()
    world.run_round(1)
    world.add(world.release(1))
    low = with_loss(world.adapter_account(), epsilon="2.1")
    world.add(low, "fr", "node")
    world.add(world.adapter_account("fr-other"), "fr", "node")
    audit = verify(bundle_of(world, tmp_path).folder)
    assert failed(audit) == ("privacy", AuditVerdict.RULE_BROKEN, "epsilon-understated")


def test_a_federation_without_noise_promises_nothing(tmp_path: Path) -> None:
    world = World(rules={"noise": ("none",)}).found()
    plan = world.manifest()
    plan = renamed(plan, privacy=NoNoise(noise="none"))
    world.add(RoundOpened(manifest=plan))
    world.add(without_noise(world.account(plan)), "fr", "node")
    audit = verify(bundle_of(world, tmp_path).folder)
    assert audit.verdict is AuditVerdict.HOLDS
    assert audit.accounts[0].recomputed is None
    assert audit.accounts[0].target_delta is None


@pytest.mark.parametrize(
    ("forge", "verdict", "code"),
    [
        (
            lambda p: p.replace(b"data.declared", b"vote.lost"),
            AuditVerdict.INCOMPLETE,
            "event-type-unknown",
        ),
        (
            lambda p: p.replace(b'"v":1', b'"v":2'),
            AuditVerdict.INCOMPLETE,
            "event-version-unknown",
        ),
        (
            lambda p: p.replace(b'"v":1', b'"v":1 '),
            AuditVerdict.FAILS,
            "json-not-canonical",
        ),
        (
            lambda p: p.replace(b'"unit":', b'"s":1,"unit":'),
            AuditVerdict.FAILS,
            "schema-violated",
        ),
        (
            lambda p: p.replace(b'"fr"', b'"de"', 1),
            AuditVerdict.RULE_BROKEN,
            "signature-missing",
        ),
    ],
    ids=["future-type", "future-version", "spaces", "extra-key", "other-actor"],
)
def test_entries_that_are_well_signed_but_wrong(
    tmp_path: Path, forge: Callable[[bytes], bytes], verdict: AuditVerdict, code: str
) -> None:
    world = World().found()  # [10, 17]
    signed = entry_module.open_entry(world.entry(world.declaration("fr"), "fr", "node"))
    entry = resign(forge(signed.payload), world.keys["fr", "node"])
    assert forge(signed.payload) != signed.payload
    audit = verify(rewritten(world, [*world.entries, entry], tmp_path))
    assert failed(audit) == ("events", verdict, code)


def resign(payload: bytes, key: SigningKey) -> bytes:
    signature = key.sign(entry_module.pre_authentication_encoding(payload))
    return canonical_json(
        {
            "payload": encode_base64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": key.verify_key.keyid, "sig": encode_base64(signature)}
            ],
        }
    )


def test_another_genesis_is_noticed(bundle: Path) -> None:
    (bundle / "genesis.sha256").write_text(fake_digest("other") + "\n")
    write_manifest(bundle)
    assert failed(verify(bundle)) == ("charter", AuditVerdict.FAILS, "genesis-differs")


def test_an_empty_log_has_no_verdict(world: World, tmp_path: Path) -> None:
    empty = World()
    public = tmp_path / "public"
    public.mkdir()
    (public / "checkpoint").write_bytes(empty.note([], at=world.now))
    tiles.write(public, [])
    (public / "trust-policy.txt").write_bytes(world.trust.encode())
    (public / "genesis.sha256").write_text(world.genesis + "\n")
    write_manifest(public)
    assert failed(verify(public)) == ("charter", AuditVerdict.INCOMPLETE, "log-empty")


@pytest.mark.parametrize("name", [b"data of de", b"data of es", None])
def test_content_that_is_taken_out_of_a_bundle_is_told_as_unchecked(
    bundle: Path, name: bytes | None
) -> None:
    before = verify(bundle).unchecked
    if name is None:
        shutil.rmtree(bundle / "blobs")
    else:
        (bundle / "blobs" / "sha256" / digest(name).removeprefix("sha256:")).unlink()
    write_manifest(bundle)
    audit = verify(bundle)
    assert audit.verdict is AuditVerdict.HOLDS
    (more,) = set(audit.unchecked) - set(before)
    contents = next(each for each in before if "contents" in each)
    gone = 1 if name else 2
    assert int(more.split()[0]) == int(contents.split()[0]) + gone
    assert name is None or digest(name)[:15] in more


def test_an_artifact_that_is_not_here_whole_is_told_as_unchecked(bundle: Path) -> None:
    place = bundle / "artifacts" / "base-2"
    assert "base-2" not in " ".join(verify(bundle).unchecked)
    for path in place.glob("*.*"):
        path.unlink()
    write_manifest(bundle)
    told = "1 releases and adapters that are here by manifest alone: base-2"
    assert told in verify(bundle).unchecked
    shutil.rmtree(bundle / "artifacts")
    write_manifest(bundle)
    told = "2 releases and adapters that are not here: base-2, fr-culture"
    assert told in verify(bundle).unchecked
