"""Decoding of a generation's request: each error names the allowed values and the refused one."""

from typing import Any

import pytest

from umrgen.server.http.api.schemas import decode_generate
from umrgen.server.services.refusal import Refusal


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("prompt", "", "must have 1 to 2000 characters; got 0"),
        ("prompt", " \n", "must have a visible character"),
        ("prompt", 5, "must be a string; got an integer"),
        ("width", 100, "must be 512 to 2048; got 100"),
        ("height", 1024.5, "must be an integer; got a number"),
        ("steps", None, "must be an integer; got null"),
        ("seed", 10**400, "must be -1 to 9007199254740991; got a number of more than 20 digits"),
        ("loras", "ink", "must be a list; got a string"),
        ("loras", [{"name": "ink"}] * 9, "must have a length of 8 or less"),
        ("loras", [{"strength": 1.0}], "[0] must have a field name"),
        ("loras", [{"name": "ink", "strength": 20}], "[0].strength must be 10.0 or less"),
        ("reference_images", [5], "[0] must be a string; got an integer"),
        ("webhook_url", "x" * 2001, "must have a length of 2000 or less"),
    ],
)
def test_an_error_names_the_allowed_and_the_refused_value(field: str, value: Any, error: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode_generate({"prompt": "a lighthouse"} | {field: value}, lambda model: 4)
    assert [(each.field, each.error) for each in refused.value.errors] == [(field, error)]


def test_unknown_fields_are_warnings_that_quote_60_characters() -> None:
    _, warnings = decode_generate({"prompt": "a lighthouse", "x" * 100: 1}, lambda model: 4)
    assert warnings == [f"the field '{'x' * 59}… is unknown and was ignored"]
