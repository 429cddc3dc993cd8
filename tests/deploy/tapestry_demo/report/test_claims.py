"""The report claims what its data say, whatever they say: adversarial data."""

import html
import json
import re
from pathlib import Path
from typing import Any

from tapestry_demo.report import page
from tapestry_demo.report.data import read
from tapestry_demo.report.links import Folder

FIXTURE = Path(__file__).parent.parent.parent.parent / "vectors" / "report-fixture.json"


def run() -> dict[str, Any]:
    """The figures of a run in which all went well."""
    loaded: dict[str, Any] = json.loads(FIXTURE.read_text("utf-8"))
    return loaded


def words_of(data: dict[str, Any]) -> str:
    """The words of a report's page, without its head."""
    body = page.render(read(data), Folder()).split("<h1>")[1]
    text = re.sub(r"</?(a|strong|span|b)\b[^>]*>", "", body)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def scale_scores(data: dict[str, Any], factor: float) -> None:
    for model, scores in data["bits_per_byte"].items():
        if model != "given":
            for country in scores:
                scores[country] = data["bits_per_byte"]["given"][country] * factor


def test_no_sentence_calls_it_better_where_everything_got_worse() -> None:
    data = run()
    data["title"] = "Four institutions improved one language model"
    scale_scores(data, 1.45)
    first = words_of(data).split("Country by country")[0]
    assert "and the model got worse for all of them" in first
    assert "improved" not in first
    assert "better" not in first
    assert first.count("45.0 % worse") == 8


def test_the_headline_counts_for_whom_it_got_better() -> None:
    data = run()
    given = data["bits_per_byte"]["given"]
    last = data["bits_per_byte"]["base-4"]
    last["germany"] = 3.0
    assert "together: better for three and worse for one" in words_of(data)
    last["france"] = None
    assert "better for two, not measured for one and worse for one" in words_of(data)
    last["italy"] = given["italy"] * 0.9999
    assert "better for one, not clearly changed for one, not mea" in words_of(data)
    data["bits_per_byte"] = {}
    words = words_of(data)
    assert "together; how good it became was not measured" in words
    assert "What the shared model gained was not measured." in words


def test_one_institution_is_not_called_several() -> None:
    data = run()
    data["countries"] = data["countries"][:1]
    words = words_of(data)
    assert (
        "One institution trained one language model, and the model got better" in words
    )
    assert "One institution (Germany) trained one computer model of language, " in words
    assert "together, " not in words.split("Privacy of one record")[0]


def test_adapters_are_told_of_those_that_have_one() -> None:
    data = run()
    for name in ("germany", "spain"):
        del data["bits_per_byte"][f"adapter-{name}"]
    words = words_of(data)
    assert "an add-on (an adapter) that France and Italy trained on" in words
    for name in ("france", "italy"):
        del data["bits_per_byte"][f"adapter-{name}"]
    assert "add-on" not in words_of(data)


def test_a_node_in_a_sum_without_an_account_is_not_passed_over() -> None:
    data = run()
    del data["epsilon"]["italy"]
    assert "This run promises no differential privacy:" in words_of(data)
    assert "no bound on the privacy loss is known" in words_of(data)
    del data["epsilon"]
    words = words_of(data)
    assert "no account of the privacy loss: nothing is proven" in words
    assert "no bound on the privacy loss is known" in words


def test_who_spent_more_than_agreed_is_named() -> None:
    data = run()
    assert "More than agreed" not in words_of(data)
    data["epsilon_limit"]["france"] = 7.0
    assert "More than agreed: France." in words_of(data)


def test_a_log_that_too_few_signed_is_not_called_fixed() -> None:
    data = run()
    data["log"]["cosignatures"] = ["germany/witness"]
    words = words_of(data)
    assert "signed by one member, fewer than the three needed." in words
    assert "Fewer signed than are needed, so this log proves nothing yet." in words
    assert "is noticed" not in words


def test_references_are_told_of_those_that_were_made() -> None:
    data = run()
    del data["bits_per_byte"]["central-dp"]
    words = words_of(data)
    assert "Without noise it promises no privacy." in words
    assert "With noise of the same kind" not in words


def test_private_text_that_was_found_is_told_first() -> None:
    data = run()
    assert "By design, no message that leaves" in words_of(data)
    data["private_text"] = {"searched": 80, "found": 1}
    words = words_of(data)
    assert "But private text was found in what was sent" in words
    assert "no message that leaves" not in words


def test_nothing_is_masked_where_no_masks_are_told_of() -> None:
    data = run()
    del data["secagg"]
    assert "only their sum" not in words_of(data)
