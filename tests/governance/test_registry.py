"""Checks of adapters and bases: each rule that a folder can break."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from tapestry.artifacts import adapter_folder, manifest, model_folder
from tapestry.artifacts.model_identity import ModelContent
from tapestry.errors import (
    ForeignFileError,
    IncompleteError,
    ProtocolError,
    VerificationError,
)
from tapestry_governance import registry
from tapestry_governance.events.model_events import AdapterPublished
from tests.support.adapter_folders import (
    BASE,
    make_adapter,
    make_base,
    make_metadata,
    make_tensors,
)
from tests.support.refusals import refused


@pytest.fixture
def base(tmp_path: Path) -> registry.BaseShape:
    return registry.read_base(make_base(tmp_path / "base"))


def _check(folder: Path, base: registry.BaseShape) -> registry.CheckedAdapter:
    found = registry.check_folder(folder)
    registry.check_fit(found, base)
    return found


def test_a_plain_adapter_is_accepted(tmp_path: Path, base: registry.BaseShape) -> None:
    found = _check(make_adapter(tmp_path / "italy"), base)
    assert (found.base, found.base_digest) == (
        "base-1",
        ModelContent(tensors=BASE).digest,
    )
    assert (found.rank, found.modules, found.parameters) == (2, 2, 52)


@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ("base-1", True),
        ("./releases/base-1", True),
        ("releases/base-1", False),  # also a repository's name on a model hub
        ("./releases/base-2", False),
        ("../releases/base-1", False),
        ("./releases/../releases/base-1", False),
    ],
)
def test_the_configuration_names_the_base_or_where_its_release_lies(
    tmp_path: Path, base: registry.BaseShape, path: str, holds: bool
) -> None:
    changes = {"base_model_name_or_path": path}
    folder = make_adapter(tmp_path / "italy", config_changes=changes)
    if holds:
        assert _check(folder, base).base == "base-1"
    else:
        with refused(VerificationError, "base-name-differs", match=f"{path}.*base-1"):
            registry.check_folder(folder)


def test_a_base_in_several_files_has_the_same_digest(
    tmp_path: Path, base: registry.BaseShape
) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    index = {}
    for i, (name, value) in enumerate(BASE.items(), 1):
        index[name] = f"model-{i:05d}-of-00003.safetensors"
        (folder / index[name]).write_bytes(save({name: value}))
    with refused(IncompleteError, "tensor-index-missing", match="model-00001"):
        registry.read_base(folder)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    assert registry.read_base(folder) == base
    (folder / "again.safetensors").write_bytes(save({name: value}))
    with refused(ForeignFileError, "foreign-file", match=r"again\.safetensors"):
        registry.read_base(folder)
    with refused(IncompleteError, "base-missing"):
        registry.read_base(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["adapter_config.json", "modeling.py", "x.bin"])
def test_a_base_holds_no_file_that_a_library_would_obey(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "base-1"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(save(dict(BASE)))
    (folder / name).write_text("{}")
    manifest.write(folder)
    with refused(ForeignFileError, "foreign-file", match=name):
        registry.read_base(folder)


# 1. files


def _add_pickle(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n.")


def _add_program(folder: Path) -> None:
    (folder / "modeling_tapestry.py").write_text("import os\n")


def _swap_in_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"\x80\x04cposix\nsystem\n.")


def _add_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def _add_folder(folder: Path) -> None:
    (folder / "LICENSE.d").mkdir()
    (folder / "LICENSE.d" / "x.so").write_bytes(b"\x7fELF")


@pytest.mark.parametrize(
    ("spoil", "name", "code"),
    [
        (_add_pickle, r"adapter_model\.bin", "file-not-expected"),
        (_add_program, r"modeling_tapestry\.py", "file-not-expected"),
        (_swap_in_pickle, r"adapter_model\.safetensors", "tensor-header-invalid"),
        (_add_tokenizer, r"tokenizer\.json", "file-not-expected"),
        (_add_folder, r"LICENSE\.d/x\.so", "file-not-expected"),
    ],
)
def test_a_file_too_many_is_refused_even_if_the_manifest_lists_it(
    tmp_path: Path, spoil: Callable[[Path], None], name: str, code: str
) -> None:
    folder = make_adapter(tmp_path / "italy")
    spoil(folder)
    manifest.write(folder)
    with refused(VerificationError, code, match=name):
        registry.check_folder(folder)


@pytest.mark.parametrize("spoil", [_add_pickle, _add_program, _add_tokenizer])
def test_a_file_too_many_is_refused_if_the_manifest_lacks_it(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = make_adapter(tmp_path / "italy")
    spoil(folder)
    with refused(ForeignFileError, "foreign-file", match="not part of it: "):
        registry.check_folder(folder)


@pytest.mark.parametrize("name", ["README.md", "adapter_model.safetensors", "LICENSE"])
def test_a_link_is_refused(tmp_path: Path, name: str) -> None:
    folder = make_adapter(tmp_path / "italy")
    target = tmp_path / "elsewhere"
    if (folder / name).exists():
        (folder / name).rename(target)
    else:
        target.write_text("text")
    (folder / name).symlink_to(target)
    with refused(ForeignFileError, "foreign-file", match=f"{name} is a link"):
        registry.check_folder(folder)


def test_a_pipe_beside_the_weights_is_refused_without_waiting(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "italy")
    os.mkfifo(folder / "LICENSE")
    with refused(ForeignFileError, "foreign-file", match="LICENSE;"):
        registry.check_folder(folder)


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        (adapter_folder.CONFIG, "pipe", "file-not-plain"),
        (adapter_folder.CONFIG, "endless", "foreign-file"),
        (adapter_folder.CONFIG, "huge", "manifest-file-changed"),
        (f"{manifest.FOLDER}/{manifest.FILE}", "pipe", "file-not-plain"),
        (f"{manifest.FOLDER}/{manifest.FILE}", "endless", "file-not-plain"),
        (f"{manifest.FOLDER}/{manifest.FILE}", "huge", "file-too-large"),
    ],
)
def test_a_file_that_never_ends_is_refused_at_once(
    tmp_path: Path, name: str, kind: str, code: str
) -> None:
    path = make_adapter(tmp_path / "italy") / name
    if kind == "huge":
        os.truncate(path, 1 << 40)
    else:
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    foreign = code == "foreign-file"
    with refused(ForeignFileError if foreign else VerificationError, code):
        registry.check_folder(tmp_path / "italy")


@pytest.mark.parametrize("name", ["x.py", "x", "sub/x.bin"])
def test_programs_do_not_hide_beside_the_manifest(tmp_path: Path, name: str) -> None:
    folder = make_adapter(tmp_path / "italy")
    path = folder / "tapestry" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("import os\n")
    with refused(ForeignFileError, "foreign-file", match=f"tapestry/{name[:4]}"):
        registry.check_folder(folder)


@pytest.mark.parametrize("kind", ["release", "adapter"])
def test_no_file_of_another_size_than_listed_is_read(tmp_path: Path, kind: str) -> None:
    """Whatever its limit is: a hole of a terabyte, or one byte more or less."""
    folder = _published(kind, tmp_path / "thing")
    for file in manifest.read(folder).files:
        path = folder / file.name
        content = path.read_bytes()
        for size in (1 << 40, file.size + 1, file.size - 1):
            os.truncate(path, size)
            for read in READERS[kind]:
                with refused(VerificationError, "manifest-file-changed") as caught:
                    read(folder)
                assert file.name in str(caught.value)
            with refused(VerificationError, "manifest-file-changed"):
                manifest.verify(folder, manifest.read(folder))
        path.write_bytes(content)
    for read in READERS[kind]:
        read(folder)


PROOF_NAMES = {
    "release": ("release.entry", "release.tlog-proof", "trust-policy.txt"),
    "adapter": ("published.entry", "accounted.entry"),
}
READERS: dict[str, Sequence[Callable[[Path], object]]] = {
    "release": (registry.read_base, model_folder.read_files),
    "adapter": (registry.check_folder, adapter_folder.read),
}


def _published(kind: str, folder: Path) -> Path:
    if kind == "adapter":
        make_adapter(folder)
    else:
        manifest.write(make_base(folder))
    for name in PROOF_NAMES[kind]:
        (folder / "tapestry" / name).write_text("x")
    return folder


@pytest.mark.parametrize("kind", PROOF_NAMES)
def test_beside_a_manifest_lie_the_proofs_of_this_kind_and_nothing_else(
    tmp_path: Path, kind: str
) -> None:
    folder = _published(kind, tmp_path / "thing")
    (other,) = PROOF_NAMES.keys() - {kind}
    strays = [*PROOF_NAMES[other], "notice.txt", "config.json", "approval.sig"]
    strays += [
        "more.entry",
        "second.tlog-proof",
        "manifest.json.json",
        "PUBLISHED.ENTRY",
    ]
    for read in READERS[kind]:
        read(folder)
        for name in strays:
            (folder / "tapestry" / name).write_text("x")
            with refused(ForeignFileError, "foreign-file") as caught:
                read(folder)
            assert caught.value.files == (f"tapestry/{name}",)
            (folder / "tapestry" / name).unlink()


@pytest.mark.parametrize("name", ["release.entry", "trust-policy.txt", None])
def test_a_base_without_a_manifest_has_nothing_beside_it(
    tmp_path: Path, name: str | None
) -> None:
    folder = make_base(tmp_path / "given")
    registry.read_base(folder)
    (folder / "tapestry").mkdir()
    if name is not None:
        (folder / "tapestry" / name).touch()
    for read in READERS["release"]:
        with refused(IncompleteError, "manifest-missing"):
            read(folder)


@pytest.mark.parametrize("name", ["README.md", "adapter_config.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = make_adapter(tmp_path / "italy")
    (folder / name).unlink()
    with refused(VerificationError, "manifest-file-missing", match=name):
        registry.check_folder(folder)
    manifest.write(folder)
    with refused(IncompleteError, "file-missing", match=name):
        registry.check_folder(folder)


def test_a_manifest_that_names_another_place_is_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "italy")
    path = folder / "tapestry" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"README.md"', b'"../README"'))
    with refused(ProtocolError, "schema-violated", match="README"):
        registry.check_folder(folder)
    with refused(IncompleteError, "manifest-missing"):
        registry.check_folder(tmp_path)


@given(data=st.data())
def test_one_changed_byte_in_a_listed_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = make_adapter(tmp_path_factory.mktemp("adapters") / "italy")
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    path = folder / data.draw(st.sampled_from(names))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(VerificationError) as caught:  # weights may not even parse
        registry.check_folder(folder)
    assert path.name in str(caught.value)


# 2. weights: the parser has its own tests


def test_a_header_bomb_is_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "italy")
    path = folder / "adapter_model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:])
    manifest.write(folder)
    with refused(VerificationError, "tensor-header-invalid", match=f"{1 << 40} bytes"):
        registry.check_folder(folder)


# 3. configuration, 4. shapes, 6. values: the reader has its own tests


def test_a_module_the_base_lacks_is_refused(
    tmp_path: Path, base: registry.BaseShape
) -> None:
    tensors = {n.replace("layers.0", "layers.7"): v for n, v in make_tensors().items()}
    folder = make_adapter(tmp_path / "italy", tensors=tensors)
    with refused(
        VerificationError, "adapter-shape-mismatch", match=r"model\.layers\.7"
    ):
        registry.check_fit(registry.check_folder(folder), base)


# 5. the base


def test_another_base_is_refused(tmp_path: Path, base: registry.BaseShape) -> None:
    metadata = make_metadata(base_digest="sha256:" + "0" * 64)
    folder = make_adapter(tmp_path / "italy", metadata=metadata)
    with refused(VerificationError, "base-differs", match=f"0000.*{base.digest}"):
        registry.check_fit(registry.check_folder(folder), base)


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({"format": "pt"}, "base-name-missing"),
        (make_metadata(base_digest="sha256:xyz"), "base-name-missing"),
        (make_metadata(base="../../etc"), "base-name-missing"),
        (make_metadata(base=""), "base-name-missing"),
        (make_metadata(base="base-2"), "base-name-differs"),
    ],
)
def test_weights_must_name_their_base(
    tmp_path: Path, metadata: dict[str, str], code: str
) -> None:
    with refused(VerificationError, code):
        registry.check_folder(make_adapter(tmp_path / "italy", metadata=metadata))


# the log


def test_an_entry_that_names_other_files_or_another_base_is_refused(
    tmp_path: Path,
) -> None:
    found = registry.check_folder(make_adapter(tmp_path / "italy"))
    entry = AdapterPublished(
        name="italy",
        version=1,
        country="Italy",
        language="it",
        licence="Apache-2.0",
        base="base-1",
        base_digest=found.base_digest,
        manifest_digest=found.manifest_digest,
        epsilon="8",
        target_delta="0.00001",
        evaluation={},
    )
    registry.check_entry(found, entry)
    for change in (
        {"manifest_digest": "sha256:" + "0" * 64},
        {"base_digest": "sha256:" + "0" * 64},
        {"base": "base-2"},
    ):
        (other,) = change.values()
        with refused(VerificationError, "adapter-entry-differs", match=other):
            registry.check_entry(found, entry.model_copy(update=change))


def test_no_machine_learning_stack_is_loaded() -> None:
    program = "import sys, tapestry_governance.registry as r; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert not {"torch", "transformers", "peft", "safetensors"} & set(
        out.stdout.split()
    )
