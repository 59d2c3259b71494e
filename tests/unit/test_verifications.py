"""Callers without a key verify images, and occupy at most their own share of the server."""

from contextlib import ExitStack
from typing import Any

import pytest

from support import Clock
from umrgen.server.ledger import Key
from umrgen.server.services.caller import Caller
from umrgen.server.services.decoding import IN_ALL, PER_SENDER, Decoders, Receptions
from umrgen.server.services.limits import AddressLimit
from umrgen.server.services.refusal import Refusal
from umrgen.server.services.verifications import Verifications

CALLER = Caller(Key("key_1", b"", "sid_a", "mine", 1))


def test_callers_without_a_key_leave_room_for_those_with_one() -> None:
    nothing: Any = None
    uploads = Receptions()
    verifications = Verifications(nothing, Decoders(), uploads, AddressLimit(100, Clock()), Receptions(4), public=True)
    with ExitStack() as receiving:
        for number in range(4):
            receiving.enter_context(verifications.receive(None, f"192.0.2.{number}"))
        for number in range(4, 2 * IN_ALL):
            with pytest.raises(Refusal) as refused, verifications.receive(None, f"192.0.2.{number}"):
                pass
            assert refused.value.code == "rate_limited"
        for number in range(IN_ALL // PER_SENDER - 1):
            for _ in range(PER_SENDER):
                receiving.enter_context(uploads.receive(f"sid_{number}"))
        receiving.enter_context(verifications.receive(CALLER, "192.0.2.1"))
