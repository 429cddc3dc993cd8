"""A data folder is read whole or refused with the file, the line and the fix."""

import json
import multiprocessing
import os
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import ConfigError
from tapestry.inputs.faults import SHOWN
from tapestry.workloads.language.dialogue import Dialogue
from tapestry.workloads.language.record_statistics import Census, Lengths
from tapestry.workloads.language.text_records import TextReader
from tapestry_node.data import records
from tests.support.refusals import refused

MANIFEST = 'language = "it"\nlicence = "BSD-3-Clause"\nunit = "record"\n'


def census(found: records.Records) -> Census:
    assert isinstance(found.summary, Census)
    return found.summary


def read(folder: Path) -> records.Records:
    return records.read(folder, TextReader())


def _folder(tmp_path: Path, **files: str) -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "corpus.toml").write_text(MANIFEST)
    for name, content in files.items():
        path = tmp_path / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path


def _lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_a_text_file_is_one_record_and_a_json_line_is_one(tmp_path: Path) -> None:
    lines = _lines({"text": "due"}, {"text": "tre\u2028quattro\x85"})
    folder = _folder(tmp_path, a_txt="uno\nriga", sub__b_jsonl=lines, c_txt="  \n")
    assert set(read(folder).records) == {
        "uno\nriga",
        "due",
        "tre\u2028quattro\x85",
    }


def test_lines_with_one_id_are_one_record_across_files(tmp_path: Path) -> None:
    one = _lines({"id": "p1", "text": "lunedì"}, {"id": "p2", "text": "altro"})
    two = _lines({"id": "p1", "text": "martedì"}, {"text": "senza"})
    found = read(_folder(tmp_path, a_jsonl=one, b_jsonl=two))
    assert set(found.records) == {"lunedì\nmartedì", "altro", "senza"}


@given(order=st.permutations(["uno", "due", "tre", "due"]))
def test_the_digest_does_not_depend_on_files_or_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[str]
) -> None:
    rows = _lines(*({"text": text} for text in order))
    found = read(_folder(tmp_path_factory.mktemp("data"), x_jsonl=rows))
    separate = _folder(
        tmp_path_factory.mktemp("data"),
        a_txt="due",
        b_txt="due",
        c_txt="tre",
        d_txt="uno",
    )
    assert found.digest == read(separate).digest
    fewer = _folder(
        tmp_path_factory.mktemp("data"), a_txt="due", b_txt="tre", c_txt="uno"
    )
    assert found.digest != read(fewer).digest


@pytest.mark.parametrize(
    ("manifest", "code", "values"),
    [
        ("language = ", "toml-invalid", "corpus.toml"),
        (MANIFEST + "[rossi]\n[rossi]\n", "toml-invalid", r"corpus.toml, line [0-9]"),
        (MANIFEST + "extra = 1\n", "setting-invalid", "extra"),
        (MANIFEST.replace('"it"', '"Italian!"'), "setting-invalid", "language"),
        (MANIFEST.replace("record", "token"), "setting-invalid", "unit"),
        (
            MANIFEST.replace('"it"', '"Pt_BR"'),
            "setting-invalid",
            r'BCP 47.*language = "pt-BR"',
        ),
        (MANIFEST.replace("BSD-3-Clause", "a b"), "setting-invalid", "SPDX"),
        (
            MANIFEST.replace("licence", "license"),
            "setting-invalid",
            "license: .* licence",
        ),
        ('language = "it"\n', "many-faults", "licence: is missing"),
    ],
)
def test_a_wrong_manifest_is_named(
    tmp_path: Path, manifest: str, code: str, values: str
) -> None:
    folder = _folder(tmp_path, a_txt="uno")
    (folder / "corpus.toml").write_text(manifest)
    with refused(ConfigError, code, match=values):
        read(folder)


GOLDEN = {
    "a.txt": b"uno\r\nriga due\n",
    "b.txt": b"\xef\xbb\xbfcon marca\n",
    "sub/c.jsonl": (
        b'{"text": "due"}\n\n{"id": "p1", "text": "luned\xc3\xac"}\n'
        b'{"text":"tre\\r\\nquattro\xe2\x80\xa8\\f"}\n'
    ),
    "sub/d.jsonl": b'{"id": "p1", "text": "dopo"}\n{"text": "due"}\n{"text": "  "}\n',
}


def _write(folder: Path, files: dict[str, bytes], *, manifest: str = MANIFEST) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "corpus.toml").write_text(manifest)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_the_digest_of_known_data_stays_what_it_was(tmp_path: Path) -> None:
    """A ledger refuses other data, so this digest outlives every change of a reader."""
    found = read(_write(tmp_path, GOLDEN))
    assert found.digest == (
        "sha256:192d1ef0fb3ae36085f333298655700127d6b9b4fc46653e0d7799dbf03f431b"
    )


def test_a_folder_is_told_in_numbers(tmp_path: Path) -> None:
    files = {
        **GOLDEN,
        "e.txt": " \u200b\ufe0f".encode(),
        "f.jsonl": b"",
        "g.jsonl": b'{"id": "P1", "text": "altro"}\n{"text": ""}\n',
    }
    found = read(_write(tmp_path, files))
    assert found.summary == Census(
        files=7,
        bytes=sum(map(len, files.values())),
        beside=(),
        empty=2,
        records=7,
        joined=1,
        invisible=3,
        duplicates=1,
        like_ids=2,
        merged=0,
        beyond=0,
        kept_out={},
        characters=Lengths(shortest=3, median=10, longest=14),
    )


@pytest.mark.parametrize("mark", ["a.txt", "b.txt", "c.jsonl", "corpus.toml"])
def test_a_byte_order_mark_makes_no_other_record(tmp_path: Path, mark: str) -> None:
    files = {"a.txt": b"uno", "b.txt": b"due", "c.jsonl": b'{"text": "tre"}\n'}
    plain = read(_write(tmp_path / "plain", files)).digest
    folder = _write(tmp_path / "marked", files)
    content = (folder / mark).read_bytes()
    (folder / mark).write_bytes(b"\xef\xbb\xbf" + content)
    assert read(folder).digest == plain


def test_an_id_that_spells_a_number_or_a_place_is_an_id(tmp_path: Path) -> None:
    """Keys of rows without an id cannot be spelled by an id."""
    rows = [{"text": "senza"}, {"id": "0", "text": "a"}, {"id": "1", "text": "b"}]
    found = read(_folder(tmp_path, a_jsonl=_lines(*rows, {"text": "fine"})))
    assert sorted(found.records) == ["a", "b", "fine", "senza"]


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("", '"id" is empty'),
        (None, '"id" must be a string'),
        (7, '"id" must be a string; write it in quotes'),
        (7.5, '"id" must be a string'),
        (True, '"id" must be a string'),
        (["private"], '"id" must be a string'),
        ("\0a.jsonl\0001", '"id" holds a NUL'),
        ("private\n", '"id" holds an invisible character'),
        (" private", '"id" begins or ends with space'),
        ("private ", '"id" begins or ends with space'),
        ("private\u00a0", '"id" holds an invisible'),
        ("pri\u200bvate", '"id" holds an invisible character'),
        ("pri\u202evate", '"id" holds an invisible character'),
        ("private\u3164", '"id" holds an invisible character'),
        ("\ufeffprivate", '"id" holds a byte-order mark'),
        ("private\ud800", '"id" holds a lone surrogate'),
        (unicodedata.normalize("NFD", "privaté"), '"id" is not in Unicode normal form'),
        ("p" * 1001, '"id" is over 1000 characters'),
    ],
    ids=lambda value: ascii(value)[:24],
)
def test_an_id_has_one_spelling(tmp_path: Path, key: object, rule: str) -> None:
    folder = _folder(tmp_path, a_jsonl=json.dumps({"text": "private", "id": key}))
    with refused(ConfigError, "record-invalid") as caught:
        read(folder)
    said = str(caught.value).removeprefix(f"{folder}/a.jsonl, line 1: ")
    assert said.startswith(rule)
    assert "priv" not in said
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("key", ["7", "è-1", "Anna Rossi", "病人-7", "a/b:c", "\u0e44"])
def test_an_id_may_be_any_visible_text(tmp_path: Path, key: str) -> None:
    rows = _lines({"id": key, "text": "uno"}, {"id": key, "text": "due"})
    assert [*read(_folder(tmp_path, a_jsonl=rows)).records] == ["uno\ndue"]


def test_ids_that_differ_in_case_are_two_and_are_counted(tmp_path: Path) -> None:
    rows = _lines({"id": "a-1", "text": "uno"}, {"id": "A-1", "text": "due"})
    found = read(_folder(tmp_path, a_jsonl=rows))
    assert sorted(found.records) == ["due", "uno"]
    assert census(found).like_ids == 2


@pytest.mark.parametrize("key", ["ID", "Id", "id ", "i\u200bd", "patient_id", "_id"])
def test_a_misspelled_key_is_no_record_of_its_own(tmp_path: Path, key: str) -> None:
    folder = _folder(tmp_path, a_jsonl=json.dumps({"text": "private", key: "private"}))
    with refused(ConfigError, "record-invalid", match=r'line 1: key 2 of 2 .*"id"'):
        read(folder)


def test_the_order_of_the_rows_of_one_id_is_part_of_its_text(tmp_path: Path) -> None:
    """Moved between files, rows keep their digest as long as their order is kept."""
    one, two, other = (
        {"id": "p", "text": "1"},
        {"id": "p", "text": "2"},
        {"text": "x"},
    )
    layouts = [
        {"a_jsonl": _lines(one, two, other)},
        {"a_jsonl": _lines(other, one), "b_jsonl": _lines(two)},
        {"b_jsonl": _lines(one), "c_jsonl": _lines(other, two)},
    ]
    found = {
        read(_folder(_new(tmp_path, n), **files)).digest
        for n, files in enumerate(layouts)
    }
    assert len(found) == 1
    turned = _folder(_new(tmp_path, 9), a_jsonl=_lines(two, one, other))
    assert sorted(read(turned).records) == ["2\n1", "x"]
    assert read(turned).digest not in found


def _new(folder: Path, number: int) -> Path:
    (folder / str(number)).mkdir()
    return folder / str(number)


@pytest.mark.parametrize(
    ("files", "code", "values"),
    [
        ({}, "records-missing", "put .txt, .jsonl, "),
        ({"a_txt": " \n"}, "records-missing", "; 1 are "),
        ({"a_jsonl": '{"text": "\u200b"}\n'}, "records-missing", "; 1 are "),
        ({"a_jsonl": '{"text": "private"\n'}, "json-invalid", "line 1: "),
        ({"a_jsonl": '\n{"body": "private"}\n'}, "record-invalid", "2: key 1 of 1"),
        (
            {"a_jsonl": '{"text": "private", "text": "b"}\n'},
            "json-key-duplicated",
            "line 1: ",
        ),
        (
            {"a_jsonl": '{"id": "a", "text": "private", "id": "b"}\n'},
            "json-key-duplicated",
            "line 1: ",
        ),
        ({"a_jsonl": '{"text": "private\\ud800"}\n'}, "record-invalid", "surrogate"),
        ({"a_jsonl": '{"text": ["private"]}\n'}, "record-invalid", '"text" is a list'),
        ({"a_jsonl": '["private"]\n'}, "json-invalid", "is a list; "),
        ({"a_jsonl": "[" * 100_000}, "json-too-deep", "line 1: "),
        ({"a_txt": "private\x00"}, "character-not-allowed", "line 1: .* NUL"),
        ({"a_doc": "private"}, "file-not-expected", "is not .txt, .jsonl, "),
        ({"a_TXT": "private"}, "file-not-expected", "end in .txt"),
        ({"a_txt": "uno", ".DS_Store": "private"}, "file-hidden", ".DS"),
        (
            {"a_txt": "uno", "sub__corpus_toml": "private"},
            "file-not-expected",
            "is not .txt, .jsonl, ",
        ),
    ],
)
def test_a_wrong_file_is_named_and_no_text_is_shown(
    tmp_path: Path, files: dict[str, str], code: str, values: str
) -> None:
    with refused(ConfigError, code, match=values) as caught:
        read(_folder(tmp_path, **files))
    assert "private" not in str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in str(caught.value)


def test_all_faults_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    files = {f"{n:02}.txt": b"\xff" for n in range(9)}
    files["a.jsonl"] = b'{"text": "ok"}\nprivate\n{"text": 3}\n'
    folder = _write(tmp_path / "data", files)
    (folder / "link.txt").symlink_to("/nowhere")
    (folder / "corpus.toml").write_text(MANIFEST.replace('"it"', '"Italian!"'))
    with refused(ConfigError, "many-faults") as caught:
        read(folder)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{folder}: 13 faults"
    assert len(lines) == SHOWN + 1
    assert lines[0].startswith("  corpus.toml: language: ")
    assert lines[1].startswith("  link.txt: is a link; ")
    assert lines[2].startswith("  00.txt, line 1: not UTF-8")
    assert lines[-1] == "  and 3 more"


def test_linked_and_odd_things_lose_nothing_silently(tmp_path: Path) -> None:
    outside = _write(tmp_path / "outside", {"lost.txt": b"private"})
    folder = _write(tmp_path / "data", {"a.txt": b"uno"})
    (folder / "more").symlink_to(outside)
    with refused(ConfigError, "link-not-allowed", match="data/more: "):
        read(folder)
    (folder / "more").unlink()
    os.mkfifo(folder / "b.txt")
    with refused(ConfigError, "file-not-plain", match=r"data/b\.txt: "):
        read(folder)


def test_file_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    folder = _write(tmp_path, {"a.txt": b"uno", "A.txt": b"due"})
    (folder / os.fsdecode(b"\xff\n.txt")).write_text("tre")
    assert sorted(read(folder).records) == ["due", "tre", "uno"]


def test_missing_folders_and_manifests_are_named(tmp_path: Path) -> None:
    with refused(ConfigError, "folder-missing", match="nowhere"):
        read(tmp_path / "nowhere")
    with refused(ConfigError, "data-manifest-missing", match=r"corpus\.toml"):
        read(tmp_path)


def _as_nobody(folder: Path, out: "multiprocessing.SimpleQueue[str]") -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        read(folder)
    except ConfigError as error:
        out.put(str(error))
    else:
        out.put("")


def test_an_unreadable_file_or_folder_is_named() -> None:
    """Root reads everything, so a child that is nobody reads."""
    with tempfile.TemporaryDirectory() as place:
        folder = _write(Path(place), {"a.txt": b"uno", "b/c.txt": b"d"})
        folder.chmod(0o755)
        (folder / "a.txt").chmod(0)
        (folder / "b").chmod(0)
        context = multiprocessing.get_context("fork")
        out = context.SimpleQueue()
        child = context.Process(target=_as_nobody, args=(folder, out))
        child.start()
        child.join()
        (folder / "b").chmod(0o700)
        assert child.exitcode == 0
        said = out.get()
    assert "a.txt: cannot read it: Permission denied" in said
    assert "b: cannot read this folder: Permission denied" in said


QUESTION = {"role": "user", "content": "come stai?"}
ANSWER = {"role": "assistant", "content": "bene"}


def test_a_row_of_messages_is_a_dialogue(tmp_path: Path) -> None:
    rows = [{"messages": [QUESTION, ANSWER]}, {"text": "ciao"}]
    found = read(_folder(tmp_path, **{"a.jsonl": _lines(*rows)}))
    assert set(found.records) == {"ciao", Dialogue(turns=("come stai?", "bene"))}
    assert census(found).characters == Lengths(shortest=4, median=4, longest=14)


def test_dialogues_of_one_id_follow_one_another_in_one_record(tmp_path: Path) -> None:
    row = {"id": "7", "messages": [QUESTION, ANSWER]}
    other = {"id": "7", "messages": [QUESTION, {**ANSWER, "content": "male"}]}
    found = read(_folder(tmp_path, **{"a.jsonl": _lines(row, other)}))
    turns = ("come stai?", "bene", "come stai?", "male")
    assert [*found.records] == [Dialogue(turns=turns)]


def test_rows_that_repeat_one_of_their_id_merge_and_no_others(tmp_path: Path) -> None:
    """Else a copied row would have a person learned twice; near ones are kept."""
    rows = [{"id": "7", "text": text} for text in ("uno", "due", "uno", "uno.")]
    rows += [{"id": "8", "text": "uno"}, {"text": "uno"}, {"text": "uno"}]
    found = read(_folder(tmp_path, **{"a.jsonl": _lines(*rows)}))
    assert sorted(found.records) == ["uno", "uno", "uno", "uno\ndue\nuno."]
    assert census(found).merged == 1
    assert ("note", "1 rows left out that repeat one of the same id exactly") in list(
        census(found).lines()
    )


def test_a_text_and_a_dialogue_are_never_the_same_record(tmp_path: Path) -> None:
    dialogue = _lines({"messages": [QUESTION, ANSWER]})
    first = read(_folder(tmp_path / "a", **{"a.jsonl": dialogue}))
    spelled = _lines({"text": '\x00messages\x00["come stai?","bene"]'})
    with refused(ConfigError, "record-invalid", match="NUL"):
        read(_folder(tmp_path / "b", **{"a.jsonl": spelled}))
    text = _lines({"text": 'messages["come stai?","bene"]'})
    other = read(_folder(tmp_path / "c", **{"a.jsonl": text}))
    assert first.digest != other.digest


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"messages": []}, "has 0 messages; want pairs"),
        ({"messages": [QUESTION]}, "has 1 messages; want pairs"),
        ({"messages": "secret"}, "is text; want a list"),
        ({"messages": [ANSWER, QUESTION]}, 'message 1: is not of role "user"'),
        ({"messages": [QUESTION, QUESTION]}, 'message 2: is not of role "assistant"'),
        ({"messages": [QUESTION, 7]}, "message 2: is a number; want an object"),
        ({"messages": [QUESTION, {"role": "assistant"}]}, 'message 2: "content" is nu'),
        (
            {"messages": [{"role": "system", "content": "secret"}, ANSWER]},
            'message 1: is not of role "user"',
        ),
        (
            {"messages": [QUESTION, {**ANSWER, "name": "secret"}]},
            'message 2: key 3 of 3 is not "role" and "content"',
        ),
        (
            {"messages": [QUESTION, {**ANSWER, "content": "secret\x00"}]},
            'message 2: "content" holds a NUL',
        ),
        (
            {"messages": [QUESTION, ANSWER], "text": "secret"},
            'key 2 of 2 is not "messages" and "id"',
        ),
    ],
)
def test_a_dialogue_has_one_spelling_and_no_message_shows_it(
    tmp_path: Path, row: object, rule: str
) -> None:
    folder = _folder(tmp_path, **{"a.jsonl": _lines({"text": "fine"}, row)})
    with refused(ConfigError, "record-invalid") as caught:
        read(folder)
    assert "a.jsonl, line 2" in str(caught.value)
    assert rule in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "come stai" not in str(caught.value)


def test_a_dialogue_whose_answers_show_nothing_is_left_out(tmp_path: Path) -> None:
    row = {"messages": [QUESTION, {**ANSWER, "content": " \u200b"}]}
    folder = _folder(tmp_path, **{"a.jsonl": _lines({"text": "fine"}, row)})
    found = read(folder)
    assert [*found.records] == ["fine"]
    assert census(found).invisible == 1


def test_texts_and_dialogues_of_one_id_do_not_mix(tmp_path: Path) -> None:
    rows = [{"id": "7", "text": "a"}, {"id": "7", "messages": [QUESTION, ANSWER]}]
    for name, order in (("a", rows), ("b", rows[::-1])):
        folder = _folder(tmp_path / name, **{"a.jsonl": _lines(*order)})
        with refused(ConfigError, "record-invalid", match="line 2: "):
            read(folder)


PERSONS = MANIFEST.replace('"record"', '"person"') + "max_rows = 2\n"


def test_of_a_person_the_first_rows_are_read(tmp_path: Path) -> None:
    rows = [{"id": "P1", "text": f"riga {number}"} for number in range(5)]
    rows += [{"id": "P2", "text": "altra"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    found = read(_write(tmp_path, {"a.jsonl": lines.encode()}, manifest=PERSONS))
    assert dict(zip(found.keys, found.records, strict=True)) == {
        "P1": "riga 0\nriga 1",
        "P2": "altra",
    }
    assert isinstance(found.summary, Census)
    assert found.summary.beyond == 3
    assert ("note", "3 rows left out, over max_rows of their person") in list(
        found.summary.lines()
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b'{"text": "uno"}\n'), ("a.txt", b"uno")],
)
def test_with_persons_each_row_names_one(
    tmp_path: Path, name: str, content: bytes
) -> None:
    with refused(ConfigError, "record-invalid", match="names no person"):
        read(_write(tmp_path, {name: content}, manifest=PERSONS))


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        (PERSONS.replace("max_rows = 2\n", ""), "max_rows goes with"),
        (MANIFEST + "max_rows = 2\n", "max_rows goes with"),
        (PERSONS.replace("= 2", "= 0"), "max_rows"),
    ],
    ids=["person", "record", "none"],
)
def test_persons_and_their_rows_go_together(
    tmp_path: Path, manifest: str, match: str
) -> None:
    with refused(ConfigError, "setting-invalid", match=match):
        read(_write(tmp_path, {"a.txt": b"uno"}, manifest=manifest))
