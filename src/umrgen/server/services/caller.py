"""The caller of a service."""

from dataclasses import dataclass

from umrgen.server.ledger import Key

__all__ = ["Caller"]


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller: its API key. It can access the data of the key's session only."""

    key: Key

    @property
    def session_id(self) -> str:
        return self.key.session_id
