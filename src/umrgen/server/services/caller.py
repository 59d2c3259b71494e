"""Who makes a request."""

from dataclasses import dataclass

from umrgen.server.ledger import Key

__all__ = ["Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller: its API key, whose session bounds what it can see."""

    key: Key

    @property
    def session_id(self) -> str:
        return self.key.session_id
