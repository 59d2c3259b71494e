"""The reason of a failed job in short."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umrgen import JobFailed
from umrgen.client.engine_error import short_reason
from umrgen.client.flows.wait import require_completed
from umrgen.model import Status

DETAILS = "ckpt_name: 'dream.safetensors' not in ['boats.safetensors']"
NODE = {
    "errors": [{"type": "value_not_in_list", "message": "Value not in list", "details": DETAILS, "extra_info": {}}],
    "dependent_outputs": ["9"],
    "class_type": "CheckpointLoaderSimple",
}
PROMPT_ERROR = {
    "error": {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "",
        "extra_info": {},
    },
    "node_errors": {"4": NODE},
}
WHOLE = json.dumps(PROMPT_ERROR)


@pytest.mark.parametrize("text", [WHOLE, f"ComfyUI error 400: {WHOLE}", json.dumps({"error": WHOLE})])
def test_the_message_and_the_first_details_are_shown(text: str) -> None:
    assert short_reason(text) == f"Prompt outputs failed validation: {DETAILS}"


def test_a_reason_that_was_cut_off_is_shown_as_far_as_it_goes() -> None:
    assert len(WHOLE) > 300
    assert short_reason(WHOLE[:300]) == f"Prompt outputs failed validation: {WHOLE[:300].rpartition(chr(34))[2]}…"
    assert short_reason(WHOLE[:100]) == "Prompt outputs failed validation"


@pytest.mark.parametrize("text", ["CUDA out of memory", "", '"message" is missing', "{}", '{"error": {}}', "{" * 300])
def test_any_other_text_is_shown_as_it_is(text: str) -> None:
    assert short_reason(text) == text


def test_the_error_has_the_whole_text_in_json() -> None:
    with pytest.raises(JobFailed) as caught:
        require_completed(Status("ext_1", "failed", error=WHOLE))
    assert str(caught.value) == short_reason(WHOLE)
    assert caught.value.as_dict()["whole_reason"] == WHOLE
    with pytest.raises(JobFailed) as plain:
        require_completed(Status("ext_1", "failed", error="CUDA out of memory"))
    assert "whole_reason" not in plain.value.as_dict()


MEMBERS = ['{"error"', '"message": "', '"details": "', '"node_errors"']
PIECES = st.sampled_from([*MEMBERS, "\\", '"', "\\u12", "a", "\n", "}"])


@given(st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join))
def test_any_text_has_a_short_reason(text: str) -> None:
    assert isinstance(short_reason(text), str)
    assert bool(short_reason(text)) is bool(text)
