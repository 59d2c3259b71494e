"""Parsers of responses: any body yields frozen values or None, within limits of size and memory."""

import gzip
import json
import zlib
from dataclasses import FrozenInstanceError

import pytest
from gateways import GATEWAY_RESPONSES
from hypothesis import given
from hypothesis import strategies as st

from umrgen.client.descriptions import ServerVerification, parse_verification
from umrgen.client.responses import (
    MAX_DEPTH,
    MAX_VALUES,
    decompress,
    parse_batch,
    parse_receipt,
    parse_upload,
    read_object,
    reports_missing_job,
    reports_output_error,
)
from umrgen.model import JOB_ID, Status

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = [
    *("state", "job_id", "jobs", "unknown", "cursor", "filename", "image_url", "results", "error", "error_code"),
    *("code", "queue_position", "eta_seconds", "progress", "seed", "engine", "retry_after_ms", "warnings"),
]
VERIFIED = ["distance", "created_at", "engine", "job_id", "watermark", "manifest"]
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), JSON)


@given(st.binary(max_size=200) | JSON.map(lambda data: json.dumps(data).encode()))
def test_any_body_is_an_object_or_none(body: bytes) -> None:
    assert isinstance(read_object(body), dict | None)


@given(st.sampled_from(["exact", "similar", "no", "yes", None]), st.dictionaries(st.sampled_from(VERIFIED), JSON))
def test_any_verification_is_parsed(made_here: str | None, data: dict[str, object]) -> None:
    found = parse_verification(data | {"made_here": made_here})
    assert isinstance(found, ServerVerification) == (made_here in ("exact", "similar", "no"))
    if found is not None:
        json.dumps(found.as_dict())
        assert found.job_id is None or JOB_ID.fullmatch(found.job_id)
        assert not found.manifest.trusted or data["manifest"]["trusted"] is True  # type: ignore[index]


@given(OBJECTS)
def test_any_object_is_parsed(data: dict[str, object]) -> None:
    receipt, batch, status = parse_receipt(data), parse_batch(data), Status.parse(data, "ext_1")
    assert receipt is None or JOB_ID.fullmatch(receipt.job_id)
    assert batch is None or all(JOB_ID.fullmatch(job.job_id) for job in batch.jobs)
    assert status is None or all(isinstance(url, str) for url in status.images)
    assert isinstance(parse_upload(data), str | None)


@given(st.lists(JSON | OBJECTS, max_size=5), JSON)
def test_any_batch_is_parsed(jobs: list[object], unknown: object) -> None:
    batch = parse_batch({"jobs": jobs, "unknown": unknown})
    assert batch is not None
    assert all(isinstance(name, str) for name in batch.unknown)
    with pytest.raises(FrozenInstanceError):
        batch.cursor = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"\xef\xbb\xbf" + b'{"a": 1}', {"a": 1}),
        (b'{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999}', dict.fromkeys("abcd")),
        (b'{"a": ' + b"9" * 5000 + b"}", {"a": None}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": "\xff"}', {"a": "\N{REPLACEMENT CHARACTER}"}),
        (b'{"a": "\\ud800"}', {"a": "\ud800"}),
        (b"", None),
        (b"[]", None),
        (b'{"a": ', None),
        (b"[" * 100_000, None),
        (b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", None),
        (b'{"a": [' + b"[]," * MAX_VALUES + b"0]}", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_unusual_bodies(body: bytes, data: object) -> None:
    assert read_object(body) == data


def test_a_compressed_body_has_a_limit() -> None:
    bomb = gzip.compress(bytes(1 << 20))
    assert len(decompress(bomb, "gzip", 1000)) == 1001
    assert decompress(zlib.compress(b"{}"), "deflate", 1000) == b"{}"
    assert decompress(b"{}", "gzip", 1000) == decompress(b"{}", "br", 1000) == b""
    assert decompress(b"{}", "identity", 1) == b"{}"


@pytest.mark.parametrize("sent", GATEWAY_RESPONSES, ids=lambda sent: sent.name)
def test_no_response_of_a_gateway_ends_a_job(sent: object) -> None:
    status, body = sent.status, sent.body.encode()  # type: ignore[attr-defined]
    assert not reports_missing_job(status, read_object(body))
    if body:
        assert not reports_output_error(status, body)


@given(st.integers(100, 599), OBJECTS)
def test_only_two_bodies_report_a_missing_job(status: int, data: dict[str, object]) -> None:
    own = data.get("code") == "job_not_found" or (data.get("error") == "Job not found" and "code" not in data)
    assert reports_missing_job(status, data) == (own and status == 404)
