"""Decimals of a settings file: exact, with one spelling for each value."""

import math
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tapestry.encoding import decode_decimal
from tapestry.errors import ConfigError
from tapestry.inputs.setting_values import fit, fit_options, plain_spelling, to_toml
from tapestry.inputs.text_reader import WrittenFloat
from tapestry.protocol.round_manifest import Options
from tapestry.schema import Plain, Strict
from tapestry.settings import Settings
from tests.support.refusals import refused


class Recipe(Settings):
    rate: Plain
    count: int = 1
    names: tuple[str, ...] = ()


def _read(folder: Path, written: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(f"rate = {written}\n", encoding="utf-8")
    return Recipe.read(path)


def _said(folder: Path, written: str) -> str:
    with refused(ConfigError, "setting-invalid") as caught:
        _read(folder, written)
    return str(caught.value).partition(": rate: ")[2]


@st.composite
def decimals(draw: st.DrawFn) -> str:
    """Draw the plain spelling of a decimal with up to 18 digits on either side."""
    whole = draw(st.one_of(st.integers(0, 99), st.integers(0, 10**18 - 1)))
    digits = draw(st.one_of(st.integers(0, 999), st.integers(0, 10**18 - 1)))
    fraction = str(digits).zfill(draw(st.integers(1, 18)))[-18:].rstrip("0")
    spelled = f"{whole}.{fraction}" if fraction else str(whole)
    sign = "-" if spelled != "0" and draw(st.booleans()) else ""
    return sign + spelled


@given(written=decimals())
def test_a_decimal_goes_from_a_file_to_the_model_and_back_as_it_was(
    written: str,
) -> None:
    raw = tomllib.loads(f"rate = {written}\n", parse_float=WrittenFloat)
    recipe = Recipe.model_validate(fit(raw, Recipe))
    assert recipe.rate == written
    assert Decimal(recipe.rate) == Decimal(written)
    assert Recipe.decode(recipe.encode()) == recipe
    again = tomli_w.dumps(to_toml(recipe.model_dump(), Recipe))
    assert again.splitlines()[0] == f"rate = {written}"


@given(
    written=st.one_of(
        st.floats().map(repr),
        st.from_regex(
            r"\A[+-]?(0|[1-9][0-9]{0,20})(\.[0-9]{1,22})?(e[+-]?[0-9]{1,3})?\Z"
        ),
    )
)
def test_a_number_has_one_spelling_and_is_told_it(written: str) -> None:
    raw = tomllib.loads(f"rate = {written}\n", parse_float=WrittenFloat)
    fitted = fit(raw, Recipe)["rate"]
    plain = plain_spelling(written)
    if plain is None:
        assert not isinstance(fitted, str)
        value = Decimal(written)
        too_long = value.is_finite() and (
            abs(value) >= 10**18 or value != round(value, 18)
        )
        assert too_long or not value.is_finite()
        return
    assert Decimal(plain) == Decimal(written)
    decode_decimal(plain)
    is_integer = isinstance(raw["rate"], int)
    assert isinstance(fitted, str) == (is_integer or plain == written)
    if isinstance(fitted, str):
        assert fitted == plain


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"0.1"', '"0.1" is text; write rate = 0.1 without quotation marks'),
        ('"1.0"', '"1.0" is text; write rate = 1 without quotation marks'),
        ("1.0", "1.0 is not spelled as a plain decimal; write rate = 1"),
        ("0.10", "0.10 is not spelled as a plain decimal; write rate = 0.1"),
        ("1e-3", "1e-3 is not spelled as a plain decimal; write rate = 0.001"),
        ("1E2", "1E2 is not spelled as a plain decimal; write rate = 100"),
        ("+0.5", "+0.5 is not spelled as a plain decimal; write rate = 0.5"),
        ("-0.0", "-0.0 is not spelled as a plain decimal; write rate = 0"),
        ("1_000.5", "1_000.5 is not spelled as a plain decimal; write rate = 1000.5"),
        (
            '"a tenth"',
            (
                '"a tenth" must be a number without quotation marks; write, for exam'
                "ple, rate = 0.5"
            ),
        ),
        ("inf", "inf must be a finite number; write, for example, rate = 0.5"),
        ("-nan", "-nan must be a finite number; write, for example, rate = 0.5"),
        ("true", "true must be a number; write, for example, rate = 0.5"),
        ("[0.1]", "a list must be a number; write, for example, rate = 0.5"),
        ("{a = 1}", "a table must be a number; write, for example, rate = 0.5"),
        ("2026-01-02", "2026-01-02 must be a number; write, for example, rate = 0.5"),
        *(
            (
                each,
                (
                    f"{each} must be a number with at most 18 digits before and after "
                    "the point; write, for example, rate = 0.5"
                ),
            )
            for each in ("1e-19", "1e400", "1000000000000000000", "1e999999999")
        ),
        (
            "0x" + "f" * 5000,
            (
                "a number of many digits must be a number with at most 18 digits before"
                " and after the point; write, for example, rate = 0.5"
            ),
        ),
    ],
    ids=lambda text: str(text)[:20],
)
def test_another_spelling_is_refused_with_the_one_to_write(
    tmp_path: Path, written: str, said: str
) -> None:
    assert _said(tmp_path, written) == said


@pytest.mark.parametrize("written", ["0", "1", "0.1", "-3", "0.000000000000000001"])
def test_a_plain_number_is_a_decimal(tmp_path: Path, written: str) -> None:
    assert _read(tmp_path, written).rate == written


def test_a_decimal_keeps_digits_that_a_float_would_lose(tmp_path: Path) -> None:
    written = "0.123456789012345678"
    assert f"{float(written):.18f}" != written
    assert _read(tmp_path, written).rate == written


@pytest.mark.parametrize("value", ["0.1", 0.1, math.nan], ids=repr)
def test_a_float_is_no_whole_number_and_no_text(tmp_path: Path, value: object) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps({"rate": 1, "count": value, "names": [value]}))
    with pytest.raises(ConfigError) as caught:
        Recipe.read(path)
    assert "count: " in str(caught.value)
    assert ("names.0: " in str(caught.value)) is not isinstance(value, str)


def test_what_a_model_does_not_know_is_left_to_it() -> None:
    raw: dict[str, Any] = {"rate": 1, "other": [WrittenFloat("0.1"), {"a": [1]}]}
    assert fit(raw, Recipe) == {"rate": "1", "other": raw["other"]}


class Optioned(Settings):
    options: Options


def _options(folder: Path, written: str) -> dict[str, Any]:
    path = folder / "optioned.toml"
    path.write_text(f"[options]\n{written}\n", encoding="utf-8")
    return dict(Optioned.read(path).options)


@given(written=decimals())
def test_a_decimal_option_goes_through_a_plan_to_its_workload_as_it_was(
    written: str,
) -> None:
    raw = tomllib.loads(f"[options]\nrate = {written}\n", parse_float=WrittenFloat)
    try:
        found = Optioned.model_validate(fit(raw, Optioned))
    except ValidationError:
        assert "." not in written
        assert abs(int(written)) >= 2**53
        return
    assert found.options["rate"] == (written if "." in written else int(written))
    assert Optioned.decode(found.encode()) == found
    recipe = Recipe.model_validate(fit_options(found.options, Recipe))
    assert recipe.rate == written


def test_options_keep_their_types(tmp_path: Path) -> None:
    written = 'n = 1\nrate = 0.5\nname = "x"\nlist = [1, 0.25, "y"]'
    assert _options(tmp_path, written) == {
        "n": 1,
        "rate": "0.5",
        "name": "x",
        "list": (1, "0.25", "y"),
    }


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("a = 0.50", "0.50 is not spelled as a plain decimal; write a = 0.5"),
        ("a = 1.0", "1.0 is not spelled as a plain decimal; write a = 1"),
        ("a = 1e-3", "1e-3 is not spelled as a plain decimal; write a = 0.001"),
        ("a = inf", "inf must be a finite number; write, for example, a = 0.5"),
        ("a = true", "true must be a whole number below 2**53, a plain decimal, text"),
        ("a = [0.50]", "a list must be a whole number below 2**53, a plain decimal"),
        ("a = {b = 1}", "a table must be a whole number below 2**53, a plain decima"),
        ("a = 9007199254740992", "9007199254740992 must be a whole number below 2**"),
    ],
)
def test_an_option_of_another_type_or_spelling_is_refused(
    tmp_path: Path, written: str, said: str
) -> None:
    with refused(ConfigError, "setting-invalid") as caught:
        _options(tmp_path, written)
    assert str(caught.value).partition(": options.a: ")[2].startswith(said)


def test_options_that_no_field_is_for_are_left_to_the_model() -> None:
    options = {"other": ("a", 1), "rate": 2, "count": "3"}
    assert fit_options(options, Recipe) == {
        "other": ("a", 1),
        "rate": "2",
        "count": "3",
    }


def test_none_is_left_out_of_a_file() -> None:
    class Optional(Strict):
        rate: Plain | None = None
        name: str | None = None

    assert to_toml(Optional().model_dump(), Optional) == {}
