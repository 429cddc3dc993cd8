"""Where a base comes from: a name that is known, or what a folder says of itself."""

from pathlib import Path

import pytest

from tapestry.workloads.language.base_origin import origin_of


def test_a_named_base_is_credited() -> None:
    found = origin_of("smollm2")
    assert found.title == "SmolLM2-135M-Instruct by HuggingFaceTB"
    assert found.licence == "Apache-2.0"
    assert origin_of("tiny").licence is None


def test_every_base_of_text_has_the_fields_of_the_hub(tmp_path: Path) -> None:
    for base in ("smollm2", "tiny", str(tmp_path)):
        assert origin_of(base).fields == {
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
        }


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ('---\nlicense: "BSD-3-Clause"\n---\n', "BSD-3-Clause"),
        ('---\ntapestry:\n  given_base_licence: "Apache-2.0"\n---\n', "Apache-2.0"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: unknown\n---\n", None),
        ("---\ntags: [x]\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        (None, None),
    ],
    ids=str,
)
def test_a_folder_is_under_what_its_card_names(
    tmp_path: Path, card: str | None, licence: str | None
) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    found = origin_of(str(tmp_path))
    assert (found.title, found.licence) == ("a model folder", licence)
