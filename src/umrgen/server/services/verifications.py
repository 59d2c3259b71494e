"""Verifying an image of a caller: whether it was made here, and what its C2PA manifest states."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from umrgen.server.ledger import ALL_BITS, FingerprintStore, KnownImage
from umrgen.server.services.caller import Caller
from umrgen.server.services.decoding import Decoders, InspectedImage, Receptions
from umrgen.server.services.limits import AddressLimit, client_prefix

__all__ = ["ImageVerification", "Verifications"]


@dataclass(frozen=True, slots=True)
class ImageVerification:
    """The result for one image."""

    known: KnownImage | None
    """The image that was made here: the same file, or one whose pixels are similar."""
    inspected: InspectedImage


@dataclass(frozen=True, slots=True)
class Verifications:
    """Compares images with the registry of fingerprints, and checks their manifests. It stores nothing."""

    fingerprints: FingerprintStore
    decoders: Decoders
    receptions: Receptions
    strangers: AddressLimit
    """Requests without a key, by client address."""
    receptions_of_strangers: Receptions
    """Images of callers without a key, counted apart from those of callers with one."""
    public: bool
    """Whether callers without a key may verify images."""
    trust: str = ""
    """A PEM file with the roots of trusted signers; "": no signer is trusted."""
    watermark: str = ""
    """The class that detects watermarks; "": none."""

    def count_stranger(self, address: str) -> None:
        """Count a request without a key. Raises Refusal `rate_limited`."""
        self.strangers.take(address)

    @contextmanager
    def receive(self, caller: Caller | None, address: str) -> Iterator[None]:
        """Count an image while it is received and verified. Raises Refusal `rate_limited` at the limit."""
        receptions = self.receptions if caller else self.receptions_of_strangers
        with receptions.receive(caller.session_id if caller else client_prefix(address)):
            yield

    async def verify(self, data: bytes, caller: Caller | None) -> ImageVerification:
        """Verify an image. Its job is named to its own session only. Raises Refusal for a file that is no image."""
        inspected = await self.decoders.inspect(data, self.trust, self.watermark)
        sha256, session_id = hashlib.sha256(data).digest(), caller.session_id if caller else ""
        return ImageVerification(await self._find(sha256, inspected.hashes, session_id), inspected)

    async def _find(self, sha256: bytes, hashes: Sequence[tuple[bytes, bytes]], session_id: str) -> KnownImage | None:
        """Return what the first of the hashes finds that finds an image; only the digest's image without a hash."""
        for pdq, known in hashes or [(b"", ALL_BITS)]:
            if (found := await self.fingerprints.find(sha256, pdq, known, session_id=session_id)) is not None:
                return found
        return None
