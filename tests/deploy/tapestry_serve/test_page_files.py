"""The files of the page: closed, complete, and of no other site."""

import json
import re

from tapestry_serve.page_files import PageFiles

FILES = PageFiles().files
LANGUAGES = json.loads(FILES["/messages/index.json"])


def messages(language: str) -> dict[str, str]:
    return dict(json.loads(FILES[f"/messages/{language}.json"]))


def test_every_language_says_all_and_nothing_else() -> None:
    known = messages("en")
    assert {f"/messages/{each}.json" for each in [*LANGUAGES, "index"]} == {
        path for path in FILES if path.startswith("/messages/")
    }
    for language in LANGUAGES:
        found = messages(language)
        assert found.keys() == known.keys()
        assert all(text.strip() for text in found.values())
        for key, text in found.items():
            assert set(re.findall(r"{\w+}", text)) == set(
                re.findall(r"{\w+}", known[key])
            )
        assert found["direction"] == ("rtl" if language == "ar" else "ltr")


def test_every_message_is_used_and_each_that_is_used_is_there() -> None:
    page, script = FILES["/index.html"].decode(), FILES["/page.js"].decode()
    named = set(re.findall(r'data-text="(\w+)"', page))
    named |= set(re.findall(r'say\("(\w+)"', script))
    named |= set(re.findall(r'pair\(list, "(\w+)"', script))
    named |= set(re.findall(r'"(verified_\w+)"', script)) | {"direction"}
    assert named == messages("en").keys()


def test_nothing_is_loaded_from_elsewhere_and_no_text_becomes_markup() -> None:
    everything = b"\n".join(FILES.values()).decode()
    assert "://" not in everything.replace("http://www.w3.org/2000/svg", "")
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval(", "document.write"):
        assert word not in everything
    assert " style=" not in everything
    assert " on" not in re.findall(r"<[^>]+>", FILES["/index.html"].decode())
