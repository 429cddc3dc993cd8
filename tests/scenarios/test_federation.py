"""A whole run in one process: rounds, releases, adapters, log, bundle."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tapestry.artifacts import manifest as manifests
from tapestry.encoding import decode_decimal
from tapestry.privacy.clipping import clip
from tapestry.protocol.messages import Kind
from tapestry.protocol.round_manifest import RoundManifest
from tapestry.protocol.secagg_messages import Result
from tapestry.secagg.quantization import Encoding, mean
from tapestry.vectors import parameters_digest
from tapestry.workloads.language.workload import LanguageWorkload
from tapestry_coordinator.journal import Journal
from tapestry_governance import registry
from tapestry_governance.audit.bundle import MANIFEST, write_manifest
from tapestry_governance.audit.verify import AuditVerdict, verify
from tapestry_governance.events.model_events import AdapterPublished, ReleasePublished
from tapestry_governance.events.privacy_events import DataDeclared, DpAccounted
from tapestry_governance.events.round_events import RoundOpened
from tapestry_governance.log.outbox_heads import FILE as HEADS
from tests.fuzzing.draws import Draw
from tests.support.commands import tapestry
from tests.support.federation import DECLARED, NAMES, Base, Federation, sentences
from tests.support.file_mutations import RESPELLINGS

ENTRIES = 2  # log entries in front of an upload's chunks


@pytest.fixture(scope="module")
def federation(
    base: Base, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    """Two rounds, a release after each, an adapter of everybody, and the bundle."""
    directory = tmp_path_factory.mktemp("whole") / "federation"
    settings = {"rounds": 2, "release_every": 1, "adapters": True}
    made = Federation(directory, base, coordinator=settings, train=True)
    made.run()
    made.bundle()
    yield made
    made.close()


def contents(folder: Path) -> dict[Path, bytes]:
    """Read every file but those that SQLite keeps beside a database."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {p: p.read_bytes() for p in files if not p.name.endswith(("-wal", "-shm"))}


def _manifests(federation: Federation) -> list[RoundManifest]:
    return [body.manifest for body in federation.said(RoundOpened)]


def test_rounds_run_with_every_node_in_every_sum(federation: Federation) -> None:
    closed = federation.closed()
    assert [body.round_number for body in closed] == [1, 2]
    assert {body.outcome for body in closed} == {"applied"}
    assert all(body.included == NAMES for body in closed)
    assert closed[0].base_after == closed[1].base_before


def test_the_unmasked_mean_is_the_mean_of_what_was_trained(
    federation: Federation,
) -> None:
    journal = Journal(federation.run_folder)
    for manifest in _manifests(federation):
        encoding = Encoding.of(manifest)
        total = journal.load_sum(manifest.round_number)
        found = mean(total, encoding=encoding, survivors=4)
        bound = decode_decimal(manifest.clip_norm)
        true = [
            clip(federation.updates[name, manifest.round_number], clip_norm=bound)
            for name in NAMES
        ]
        expected = np.mean([each.values for each in true], axis=0)
        grid = 2.0**-manifest.scale_bits
        assert np.abs(found - expected).max() <= grid * 1.01
        assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    journal.close()


def test_all_replicas_are_the_base_that_the_log_names(federation: Federation) -> None:
    after = federation.closed()[-1].base_after
    assert federation.digests() == dict.fromkeys(NAMES, after)
    assert after != federation.base.replica.digest


def test_what_leaves_a_node_is_uniform_and_far_from_its_update(
    federation: Federation,
) -> None:
    for exchange in federation.wire.replies(Kind.COLLECT_MASKED_INPUTS):
        assert exchange.reply is not None
        chunks = b"".join(map(bytes, exchange.reply.attachments[ENTRIES:]))
        counts = np.bincount(np.frombuffer(chunks, dtype=np.uint8), minlength=256)
        expected = len(chunks) / 256
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert statistic < 255 + 6 * (2 * 255) ** 0.5
        assert len(chunks) == 4 * _manifests(federation)[0].length


def test_no_private_text_and_no_name_of_a_record_is_on_the_wire(
    federation: Federation,
) -> None:
    sent = b"\n".join(
        b"".join([e.reply.body, *map(bytes, e.reply.attachments)])
        for e in federation.wire.log
        if e.reply is not None
    )
    for name in NAMES:
        for text in sentences(name, 24):
            assert text.encode() not in sent


def test_releases_load_with_plain_transformers(federation: Federation) -> None:
    import transformers

    for release in federation.said(ReleasePublished):
        folder = federation.coordinator / "releases" / release.name
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer("forêt", return_tensors="pt")
        assert model(**tokens).logits.shape[-1] == model.config.vocab_size
        values = LanguageWorkload.open(folder).parameters()
        assert parameters_digest(values) == release.parameters_digest


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_load_with_plain_peft_and_are_what_the_log_names(
    federation: Federation,
) -> None:
    import peft
    import transformers

    published = {body.name: body for body in federation.said(AdapterPublished)}
    assert sorted(published) == list(NAMES)
    for name, entry in published.items():
        folder = federation.coordinator / "adapters" / name
        found = registry.check_folder(folder)
        release = federation.coordinator / "releases" / entry.base
        registry.check_fit(registry.check_folder(folder), registry.read_base(release))
        registry.check_entry(found, entry)
        model = transformers.AutoModelForCausalLM.from_pretrained(release)
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
        assert any("lora_B" in key for key, _ in adapted.named_parameters())


def test_the_log_accounts_for_what_each_ledger_spent(federation: Federation) -> None:
    declared = federation.said(DataDeclared)
    assert {body.records for body in declared} == {DECLARED}
    events = federation.logged()
    for name, node in federation.nodes.items():
        accounts = [
            event.body
            for event in events
            if event.actor == name and isinstance(event.body, DpAccounted)
        ]
        assert [a.round_number for a in accounts] == [1, 2, None]
        rows = node.ledger.rows()
        assert [row.state for row in rows] == ["spent"] * 3
        loss = accounts[-1].promise
        assert loss is not None
        last = decode_decimal(loss.epsilon)
        assert node.ledger.balance().spent == pytest.approx(last, abs=1e-6)


def test_every_message_that_left_has_a_receipt(federation: Federation) -> None:
    for name, node in federation.nodes.items():
        sent = [
            e.reply
            for e in federation.wire.log
            if e.node == name and e.reply is not None
        ]
        receipts = list(node.store.receipts())
        assert [r.kind for r in receipts] == [m.kind.value for m in sent]
        assert [r.bytes for r in receipts] == [m.size for m in sent]


def test_every_node_can_check_the_sum_that_was_published(
    federation: Federation,
) -> None:
    journal = Journal(federation.run_folder)
    rows = journal.rounds()
    journal.close()
    assert [row.status for row in rows] == ["closed", "closed"]
    for row, closed in zip(rows, federation.closed(), strict=True):
        assert row.result is not None
        result = Result.decode(row.result)
        assert result.sum_root == closed.aggregate_digest
        assert result.model_digest == closed.base_after


def test_a_coordinators_status_is_shown_while_it_runs(federation: Federation) -> None:
    said = tapestry("coordinator", "status", federation.coordinator)
    assert said.exit_code == 0
    assert "2 of 2 rounds closed" in said.stdout


@pytest.mark.parametrize("verb", ["status", "budget", "egress"])
@pytest.mark.parametrize("emptied", [False, True], ids=["whole", "without tables"])
def test_what_only_shows_changes_nothing(
    federation: Federation, tmp_path: Path, verb: str, *, emptied: bool
) -> None:
    """Nor does it begin anew what a folder has lost."""
    role = "coordinator" if verb == "status" else "node"
    node = federation.directory / "nodes" / NAMES[0]
    kept = federation.coordinator if role == "coordinator" else node
    folder = shutil.copytree(kept, tmp_path / "copy")
    for path in folder.rglob("lock") if emptied else ():
        path.unlink()
    for path in folder.rglob("*.db") if emptied else ():
        with closing(sqlite3.connect(path)) as database:
            names = database.execute(
                "SELECT name FROM sqlite_master WHERE type='table'"
            )
            for (name,) in names.fetchall():
                database.execute(f"DROP TABLE {name}")
    before = contents(folder)
    said = tapestry(role, verb, folder)
    assert (said.exit_code == 0) is not emptied
    assert contents(folder) == before


def test_the_bundle_verifies_and_costs_are_as_reported(federation: Federation) -> None:
    audit = federation.audit()
    assert audit.verdict is AuditVerdict.HOLDS
    assert audit.accounts
    assert all(a.recomputed is not None for a in audit.accounts)


@pytest.mark.slow
def test_one_flipped_byte_in_any_file_of_the_bundle_fails(
    federation: Federation, tmp_path: Path
) -> None:
    bundle = federation.directory / "bundle"
    files = sorted(p for p in bundle.rglob("*") if p.is_file())
    large = [p for p in files if p.suffix == ".safetensors" and "base-1" in p.parts]
    for path in [p for p in files if p.suffix != ".safetensors"] + large:
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        try:
            assert federation.audit().verdict is not AuditVerdict.HOLDS, path
        finally:
            path.write_bytes(data)
    assert federation.audit().verdict is AuditVerdict.HOLDS
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    assert verify(copy).verdict is AuditVerdict.HOLDS
    (copy / "more").write_text("x")
    assert verify(copy).verdict is not AuditVerdict.HOLDS


def _parts(bundle: Path) -> dict[str, list[Path]]:
    """Name each part of a bundle that an audit can do without, with its files."""
    artifacts = [p for p in (bundle / "artifacts").iterdir() if p.is_dir()]
    parts = {f"{place.name}, all of it": [place] for place in artifacts}
    for place in artifacts:
        files = [p for p in place.iterdir() if p.name != manifests.FOLDER]
        parts[f"{place.name}, all but its manifest"] = files
    for place in (bundle / "sums").iterdir():
        chunks = [p for p in place.iterdir() if p.is_dir()]
        parts |= {f"chunk {p.name} of sum {place.name}": [p] for p in chunks}
        parts[f"sum {place.name}, all chunks"] = chunks
        parts[f"sum {place.name}"] = [place]
    whole = ("artifacts", "sums", HEADS)
    parts |= {f"all {name}": [bundle / name] for name in whole}
    return parts


@pytest.mark.slow
def test_what_is_taken_out_of_a_bundle_is_told_as_unchecked(
    federation: Federation, tmp_path: Path
) -> None:
    """Wherever an audit holds without a part, its verdict says so."""
    complete = federation.directory / "bundle"
    whole = verify(complete)
    assert whole.verdict is AuditVerdict.HOLDS
    assert not any(
        name in " ".join(whole.unchecked) for name in ("base-1", "sum", "fr")
    )
    names = list(_parts(complete))
    assert len(names) > 12
    for name in names:
        copy = shutil.copytree(complete, tmp_path / "copy")
        for path in _parts(copy)[name]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(copy.rglob("*/"), reverse=True):
            if not any(path.iterdir()):
                path.rmdir()
        write_manifest(copy)
        audit = verify(copy)
        assert audit.verdict is AuditVerdict.HOLDS, (name, audit.steps[-1].detail)
        assert audit.unchecked != whole.unchecked, name
        report = json.loads(tapestry("audit", "verify", copy, "--json").stdout)
        assert report["unchecked"] == audit.unchecked
        shutil.rmtree(copy)


STRAYS = ("x.json", "x.txt", "x.entry", "x.tlog-proof", "x.html", "x.py", "5", "empty/")


def _damages(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name every file changed, cut, extended, spelled anew or removed, and strays.

    Strays lie at every level, under names of no level and those of each other level.
    """
    below = sorted(folder.rglob("*"))
    for path in (p for p in below if p.is_file() and p.name != MANIFEST):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        yield f"{name} flipped", partial(path.write_bytes, bytes(flipped))
        yield f"{name} cut", partial(path.write_bytes, data[:-1])
        yield f"{name} extended", partial(path.write_bytes, data + b"\n")
        yield f"{name} removed", path.unlink
        for what, change in RESPELLINGS.items():
            if (spelled := change(data)) != data:
                yield f"{name}, {what}", partial(path.write_bytes, spelled)
    known = sorted({p.name for p in below})
    for place in (folder, *(p for p in below if p.is_dir())):
        for name in (*STRAYS, *known, *(f"{name}/" for name in known)):
            path = place / name
            if not path.exists():
                make = path.mkdir if name.endswith("/") else path.touch
                yield path.relative_to(folder).as_posix() + " added", make


@pytest.mark.slow
def test_no_damage_to_a_bundle_holds_under_a_rewritten_manifest(
    federation: Federation, tmp_path: Path
) -> None:
    """Each file is claimed by one check: the manifest alone is not signed."""
    whole = federation.directory / "bundle"
    trust = (federation.coordinator / "trust-policy.txt").read_bytes()
    assert verify(whole, trust=trust).verdict is AuditVerdict.HOLDS
    names = [name for name, _ in _damages(whole)]
    assert len(names) > 2000
    most = int(os.environ.get("FUZZ_CASES", "400"))  # nightly: all
    draw = Draw(int(os.environ.get("FUZZ_SEED", "11")), len(names))
    drawn = names if most > len(names) else [draw.one(names) for _ in range(most)]
    drawn = [name for name in drawn if name != f"{HEADS} removed"]  # it is told
    held = []
    for name in {"sums/result.json added", *drawn}:
        copy = shutil.copytree(whole, tmp_path / "copy")
        dict(_damages(copy))[name]()
        write_manifest(copy)
        if verify(copy, trust=trust).verdict is AuditVerdict.HOLDS:
            held.append(name)
        shutil.rmtree(copy)
    assert held == []


def test_a_second_start_of_a_finished_run_changes_nothing(
    federation: Federation,
) -> None:
    before = federation.entries()
    federation.run()
    assert federation.entries() == before
    assert set(federation.uploads().values()) == {1}
