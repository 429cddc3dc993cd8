"""The limits of what a peer or a folder can make a party read or keep, as one table.

Each row has a probe, which hands in exactly so much. ``tests/scenarios/test_limits.py``
walks the table; ``python -m tests.support.limit_table`` prints it for ``SECURITY.md``.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.artifacts import adapter_folder, manifest, model_folder
from tapestry.artifacts.safetensors_reader import TensorLimits, read_tensors
from tapestry.encoding import canonical_json, decode_json, encode_base64
from tapestry.inputs import delimited_reader, text_reader
from tapestry.inputs.faults import Faults
from tapestry.keys import Algorithm, SigningKey
from tapestry.protocol import messages
from tapestry.protocol.framing import unpack
from tapestry.protocol.messages import Kind, check_attachments
from tapestry.protocol.round_manifest import Participant
from tapestry.schema import DOCUMENT_LIMIT, check_file_name
from tapestry.tlog import note, proof, tiles, trust_policy
from tapestry_governance.audit import bundle
from tapestry_governance.audit.bundle import MANIFEST, open_bundle, read_small
from tapestry_governance.events import envelope
from tapestry_governance.events.privacy_events import MAX_BLOCKS, BlockEpsilon
from tapestry_governance.witness import add_checkpoint
from tests.support import plans

_ZERO = "0" * 64
_DIGEST = f"sha256:{_ZERO}"
_KEY = SigningKey(name="a", algorithm=Algorithm.SIGNATURE, seed=bytes(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit, the code of the refusal above it, and a way to hand in so much."""

    what: str
    most: int
    unit: str
    code: str
    probe: Callable[[int, Path], object]  # with the amount and an empty folder


def _text(size: int) -> bytes:
    """Print canonical JSON of so many bytes."""
    return b'"' + b"a" * (size - 2) + b'"'


def _nested(depth: int, _: Path) -> object:
    return decode_json(b"[" * (depth + 1) + b"]" * (depth + 1), limit=1 << 20)


def _body(size: int, _: Path) -> object:
    head = {"kind": "hello", "body": b"x" * size, "sizes": b"[]", "bytes": b""}
    return unpack({"message": head})


def _many(kind: Kind) -> Callable[[int, Path], object]:
    return lambda count, _: check_attachments(kind, [0] * count)


def _large(kind: Kind) -> Callable[[int, Path], object]:
    return lambda size, _: check_attachments(kind, [size])


def _decode(body: type[Any], value: Callable[[int], Any]) -> Callable[[int, Path], Any]:
    return lambda amount, _: body.decode(canonical_json(value(amount)))


def _cohort(post_quantum: str) -> Callable[[int, Path], object]:
    key = str(_KEY.verify_key)

    def probe(count: int, _: Path) -> object:
        rows = [Participant(name=f"n{i:05d}", key=key) for i in range(count)]
        return plans.round_manifest(rows, post_quantum=post_quantum)

    return probe


def _plan(**changes: Callable[[int], Any]) -> Callable[[int, Path], object]:
    return lambda amount, _: plans.training_plan(
        **{name: make(amount) for name, make in changes.items()}
    )


def _note(size: int, _: Path) -> object:
    line = f"— {_KEY.name} {encode_base64(bytes(68))}\n".encode()
    text = b"a" * (size - len(line) - 2) + b"\n"
    return note.parse(text + b"\n" + line)


def _signatures(count: int, _: Path) -> object:
    lines = (f"— k{i} {encode_base64(bytes(68))}\n" for i in range(count))
    return note.parse(f"a\n\n{''.join(lines)}".encode())


def _hashes(count: int, _: Path) -> object:
    row = f"{encode_base64(bytes(32))}\n"
    return proof.Proof.parse(
        f"c2sp.org/tlog-proof@v1\nindex 0\n{row * count}\n".encode()
    )


def _witness_hashes(count: int, _: Path) -> object:
    row = f"{encode_base64(bytes(32))}\n"
    body = f"old 0\n{row * count}\nx".encode()
    return add_checkpoint.CheckpointRequest.parse(body)


def _file(name: str, read: Callable[[Path], object]) -> Callable[[int, Path], object]:
    """Read a sparse file of so many bytes, all zero."""

    def probe(size: int, folder: Path) -> object:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
        return read(path)

    return probe


def _listed_file(name: str) -> Callable[[int, Path], object]:
    """Put a file of so many bytes, all zero, into a bundle whose list names it."""

    def probe(size: int, folder: Path) -> object:
        (folder / MANIFEST).write_text(f"{_ZERO}  {name}\n")
        return _file(name, lambda _: open_bundle(folder))(size, folder)

    return probe


def _columns(count: int, folder: Path) -> None:
    path, faults = folder / "a.csv", Faults()
    path.write_bytes(b"," * (count - 1) + b"\n")
    list(delimited_reader.read_cells(path, faults, separator=","))
    faults.check(path)


def _rows(path: Path) -> None:
    faults = Faults()
    list(text_reader.read_rows(path, faults))
    faults.check(path)


def _entry_signatures(count: int, _: Path) -> object:
    value = {
        "payload": "",
        "payloadType": envelope.PAYLOAD_TYPE,
        "signatures": [{"keyid": f"k{i:03d}", "sig": ""} for i in range(count)],
    }
    return envelope.read_envelope(canonical_json(value))


def _files(count: int) -> dict[str, Any]:
    names = [f"f{i:05d}" for i in range(count)]
    rows = [{"content": _DIGEST, "name": name, "size": 1} for name in names]
    return {"files": rows, "format": "tapestry-manifest/1"}


def _header(size: int, folder: Path) -> object:
    path = folder / "adapter_model.safetensors"
    entry = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(entry).encode().ljust(size)
    path.write_bytes(size.to_bytes(8, "little") + text + bytes(4))
    return read_tensors(path)


def _tensors(count: int, folder: Path) -> object:
    path = folder / "adapter_model.safetensors"
    entries = {
        f"w{i:05d}": {"dtype": "F16", "shape": [1], "data_offsets": [2 * i, 2 * i + 2]}
        for i in range(count)
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(2 * count))
    return read_tensors(path)


def _ask(count: int) -> dict[str, Any]:
    asks = [{"chunk": i, "round_number": 1} for i in range(count)]
    rest: dict[str, Any] = {
        "checkpoint": None,
        "epsilon_limit": "8",
        "held_out": None,
        "name": "fr",
        "other_proof": None,
        "refuses": None,
        "rests": False,
        "size": 0,
    }
    rest |= {"proof": "0" * 128, "protocol": "tapestry-secagg/2", "software": _DIGEST}
    return {"asks": asks, "lacks": None, **rest}


_BULK = [
    limit
    for kind, (most, size) in messages.BULK_LIMITS.items()
    for limit in (
        Limit(
            what=f"attachments of `{kind}`",
            most=most,
            unit="attachments",
            code="attachments-too-large",
            probe=_many(kind),
        ),
        Limit(
            what=f"attachments of `{kind}` together",
            most=size,
            unit="bytes",
            code="attachments-too-large",
            probe=_large(kind),
        ),
    )
]
_SCHEMA = "schema-violated"
LIMITS = [
    Limit(what="a message's body", most=DOCUMENT_LIMIT, unit="bytes",
          code="json-too-large", probe=_body),
    Limit(what="nesting of JSON", most=32, unit="levels", code="json-too-deep",
          probe=_nested),
    *_BULK,
    Limit(what="attachments of any other kind", most=0, unit="attachments",
          code="attachments-not-allowed", probe=_many(Kind.HELLO)),
    Limit(what="a checkpoint in a message", most=messages.NOTE_LIMIT, unit="characters",
          code=_SCHEMA, probe=_decode(messages.AdvertiseKeysRequest,
                                      lambda n: {"checkpoint": "a" * n})),
    Limit(what="a cosignature line in a message", most=1000, unit="characters",
          code=_SCHEMA,
          probe=_decode(messages.CosignReply,
                        lambda n: {"lines": ["a" * n], "head": ""})),
    Limit(what="cosignature lines of a message", most=2, unit="lines", code=_SCHEMA,
          probe=_decode(messages.CosignReply,
                        lambda n: {"lines": ["a"] * n, "head": ""})),
    Limit(what="the head of an outbox in a message", most=4096, unit="characters",
          code=_SCHEMA,
          probe=_decode(messages.CosignReply,
                        lambda n: {"lines": ["a"], "head": "a" * n})),
    Limit(what="chunks that a node asks for at a time", most=messages.MAX_ASKS,
          unit="chunks", code=_SCHEMA, probe=_decode(messages.Identity, _ask)),
    Limit(what="files of an adapter that is published", most=messages.MAX_FILES,
          unit="files", code=_SCHEMA, probe=_decode(
              messages.Publication,
              lambda n: {"files": [f"f{i:05d}" for i in range(n)]})),
    Limit(what="a signed note", most=note.MAX_BYTES, unit="bytes",
          code="note-too-large", probe=_note),
    Limit(what="signatures of a note", most=note.MAX_SIGNATURES, unit="signatures",
          code="note-too-large", probe=_signatures),
    Limit(what="hashes of a proof of inclusion", most=proof.MAX_HASHES, unit="hashes",
          code="proof-too-large", probe=_hashes),
    Limit(what="hashes of a request to a witness", most=add_checkpoint.MAX_PROOF,
          unit="hashes", code="witness-request-malformed", probe=_witness_hashes),
    Limit(what="an entry of any log", most=tiles.MAX_ENTRY_BYTES, unit="bytes",
          code="entry-too-large", probe=lambda n, _: tiles.check_entry(bytes(n))),
    Limit(what="an event's envelope", most=envelope.ENTRY_LIMIT, unit="bytes",
          code="json-too-large",
          probe=lambda n, _: decode_json(_text(n), limit=envelope.ENTRY_LIMIT)),
    Limit(what="signatures of an event", most=envelope.SIGNATURE_LIMIT,
          unit="signatures", code=_SCHEMA, probe=_entry_signatures),
    Limit(what="files in a manifest", most=10_000, unit="files", code=_SCHEMA,
          probe=_decode(manifest.Manifest, _files)),
    Limit(what="a manifest", most=4 << 20, unit="bytes", code="file-too-large",
          probe=_file("tapestry/manifest.json",
                      lambda path: manifest.read(path.parent.parent))),
    Limit(what="a bundle's list of files", most=64 << 20, unit="bytes",
          code="file-too-large",
          probe=_file(MANIFEST, lambda path: open_bundle(path.parent))),
    Limit(what="a trust policy or checkpoint in a file", most=trust_policy.MAX_BYTES,
          unit="bytes", code="file-too-large", probe=_file("policy.txt", read_small)),
    *(
        Limit(what=what, most=bundle.LIMITS[place], unit="bytes",
              code="file-too-large", probe=_listed_file(name))
        for place, what, name in (
            ("tile", "a tile of a bundle's log", "tile/0/000"),
            ("blobs", "a blob of a bundle", f"blobs/sha256/{_ZERO}"),
            ("sums", "a file of the evidence on a sum", "sums/1/0/sum.bin"),
            ("artifacts", "a file beside the manifest of a bundle's artifact",
             "artifacts/a/tapestry/release.entry"),
        )
    ),
    Limit(what="an adapter's settings", most=1 << 16, unit="bytes",
          code="file-too-large",
          probe=_file("adapter_config.json",
                      lambda path: adapter_folder.read(path.parent))),
    Limit(what="an adapter's weights", most=TensorLimits().file_bytes, unit="bytes",
          code="file-size-invalid", probe=_file("w.safetensors", read_tensors)),
    Limit(what="a header of an adapter's weights", most=TensorLimits().header_bytes,
          unit="bytes", code="tensor-header-invalid", probe=_header),
    Limit(what="tensors of an adapter", most=TensorLimits().tensors, unit="tensors",
          code="tensor-count-invalid", probe=_tensors),
    Limit(what="a model's file of settings", most=4 << 20, unit="bytes",
          code="file-too-large", probe=_file("config.json",
                      lambda path: model_folder.read_files(path.parent))),
    Limit(what="a model's vocabulary, each file", most=1 << 28, unit="bytes",
          code="file-too-large", probe=_file("tokenizer.json",
                      lambda path: model_folder.read_files(path.parent))),
    Limit(what="the index of a model's shards", most=1 << 28, unit="bytes",
          code="file-too-large", probe=_file("model.safetensors.index.json",
                      lambda path: model_folder.read_files(path.parent))),
    Limit(what="a model's card or licence", most=4 << 20, unit="bytes",
          code="file-too-large", probe=_file("README.md",
                      lambda path: model_folder.read_files(path.parent))),
    Limit(what="an adapter's card, statement, licence or scores", most=4 << 20,
          unit="bytes", code="file-too-large", probe=_file("data_statement.md",
                      lambda path: adapter_folder.read(path.parent))),
    Limit(what="a model's weights, each file", most=model_folder.LIMITS.file_bytes,
          unit="bytes", code="file-size-invalid",
          probe=_file("w.safetensors",
                      lambda path: read_tensors(path, limits=model_folder.LIMITS))),
    Limit(what="a path in a manifest", most=8, unit="parts", code="",
          probe=lambda n, _: check_file_name("/".join(["a"] * n))),
    Limit(what="a part of a path", most=120, unit="characters", code="",
          probe=lambda n, _: check_file_name("a" * n)),
    Limit(what="nodes of a round", most=1000, unit="nodes", code="",
          probe=_cohort("none")),
    Limit(what="nodes of a round with ML-KEM", most=550, unit="nodes", code="",
          probe=_cohort("mlkem768")),
    Limit(what="blocks of an institution's data", most=MAX_BLOCKS, unit="blocks",
          code="", probe=lambda n, _: BlockEpsilon(
              block=n, epsilon="1", epsilon_fallback=None)),
    Limit(what="options of a plan", most=50, unit="options", code="",
          probe=_plan(options=lambda n: {f"o{i}": 1 for i in range(n)})),
    Limit(what="values of an option", most=1000, unit="values", code="",
          probe=_plan(options=lambda n: {"o": (1,) * n})),
    Limit(what="text of an option", most=200, unit="characters", code="",
          probe=_plan(options=lambda n: {"o": "a" * n})),
    Limit(what="a file of settings", most=text_reader.MAX_TOML_BYTES, unit="bytes",
          code="file-too-large", probe=_file("node.toml", text_reader.read_toml)),
    Limit(what="a file of text", most=text_reader.MAX_TEXT_BYTES, unit="bytes",
          code="file-too-large", probe=_file("a.txt", text_reader.read_text)),
    Limit(what="a line of records", most=text_reader.MAX_TEXT_BYTES, unit="bytes",
          code="line-too-long", probe=_file("a.jsonl", _rows)),
    Limit(what="columns of a table", most=delimited_reader.MAX_CELLS, unit="columns",
          code="table-invalid", probe=_columns),
]  # fmt: skip
"""A row without a code is a type in a message, whose code is ``schema-violated``."""


def table() -> str:
    """Print the limits as a table of Markdown."""
    rows = ["| limit | at most | above it |", "|---|---|---|"]
    for each in LIMITS:
        code = f"`{each.code or _SCHEMA}`"
        rows.append(f"| {each.what} | {each.most:,} {each.unit} | {code} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.stdout.write(f"{table()}\n")
