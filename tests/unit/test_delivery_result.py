"""The classification of a receiver's response: delivered, to be retried, or failed."""

import pytest

from umrgen.server.webhooks.delivery_result import PermanentFailure, ReceiverResponse, TransientFailure, classify


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_response_is_a_delivery(status: int) -> None:
    classify(ReceiverResponse(status))


@pytest.mark.parametrize("status", [199, 300, 301, 302, 307, 308, 400, 401, 404, 429, 500, 503])
def test_another_response_is_a_transient_failure(status: int) -> None:
    with pytest.raises(TransientFailure) as failed:
        classify(ReceiverResponse(status, "7"))
    assert failed.value.retry_after == "7"
    assert str(status) in str(failed.value)


def test_a_410_response_is_a_permanent_failure() -> None:
    with pytest.raises(PermanentFailure):
        classify(ReceiverResponse(410))
