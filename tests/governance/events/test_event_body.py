"""Fields that bodies share: each takes one spelling."""

import pytest
from pydantic import TypeAdapter, ValidationError

from tapestry.keys import Algorithm, SigningKey
from tapestry_governance.events import event_body


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("Code", "quorum_missing", "Quorum"),
        ("Label", "held-out/fr", " fr"),
        ("Licence", "CC-BY-4.0", "CC BY"),
        ("Language", "pt-BR", "PT"),
        ("Base", "base-12", "base-012"),
        ("Hash", "0" * 64, "A" * 64),
        ("Index", 0, -1),
        ("RoundNumber", 1, 0),
        ("Attempt", 1000, 1001),
        ("Scores", {"a": "0.5"}, {"a": "0.50"}),
    ],
)
def test_a_field_takes_one_spelling(field: str, good: object, bad: object) -> None:
    adapter: TypeAdapter[object] = TypeAdapter(getattr(event_body, field))
    assert adapter.validate_python(good, strict=True) == good
    with pytest.raises(ValidationError):
        adapter.validate_python(bad, strict=True)


def test_a_key_is_taken_for_its_own_purpose_only() -> None:
    signing = str(SigningKey.generate("fr/node").verify_key)
    cosigning = SigningKey.generate("fr/witness", algorithm=Algorithm.COSIGNATURE)
    adapters: dict[str, TypeAdapter[str]] = {
        name: TypeAdapter(getattr(event_body, name))
        for name in ("SignatureKey", "WitnessKey")
    }
    assert adapters["SignatureKey"].validate_python(signing) == signing
    with pytest.raises(ValidationError, match="another purpose"):
        adapters["WitnessKey"].validate_python(signing)
    with pytest.raises(ValidationError, match="another purpose"):
        adapters["SignatureKey"].validate_python(str(cosigning.verify_key))
    with pytest.raises(ValidationError):
        adapters["SignatureKey"].validate_python("no key")
