"""The index of fingerprints: by which keys a hash is stored, by which keys all hashes near it are found.

A hash of 256 bits has 16 bands of 16 bits. Two hashes that differ in 31 bits or fewer have a band in which they differ
in one bit or none: with two or more in each of the 16 bands, they would differ in 32 or more (pigeonhole principle). So
the 17 values of each band that are within one bit find all of them, with 272 keys; of 10⁶ images, about 4,000 share a
key by chance. The bits of a band are spread over the hash, because neighbours are correlated.

A hash of which some bits are not known is compared by the others, in proportion: one bit of 128 counts as two of 256.
The keys are those of all its bits, so a hash near it is missed if none of its bands is within one bit.
"""

__all__ = ["MAX_DISTANCE", "SEGMENT", "band_keys", "digest_key", "distance", "nearby_keys"]

MAX_DISTANCE = 31
"""Bits in which the hashes of similar images differ at most; PDQ's authors recommend this value."""
SEGMENT = 1 << 16
"""Groups of images whose numbers are stored in 16 bits; the next ones have keys of their own."""
_BANDS = 16
_BITS = 16
_DIGESTS = _BANDS
"""The number of the band that has the first 16 bits of SHA-256 digests."""
_FLIPS = (0, *(1 << bit for bit in range(_BITS)))


def band_keys(pdq: bytes, segment: int) -> list[int]:
    """Return the 16 keys under which a hash is stored."""
    return [_key(segment, band, value) for band, value in enumerate(_values(pdq))]


def nearby_keys(pdq: bytes, segments: int) -> list[int]:
    """Return the keys of all hashes within MAX_DISTANCE bits, in the first `segments` segments."""
    near = [(band, value ^ flip) for band, value in enumerate(_values(pdq)) for flip in _FLIPS]
    return [_key(segment, band, value) for segment in range(segments) for band, value in near]


def distance(differing: int, known: int) -> int:
    """Return how many bits of 256 differ, for the masks of those that do and of those that are known.

    Two images are similar at MAX_DISTANCE or fewer: by all bits, or by the known ones.
    """
    share = -(-(differing & known).bit_count() * 256 // max(1, known.bit_count()))
    return min(differing.bit_count(), share)


def digest_key(sha256: bytes, segment: int) -> int:
    """Return the key under which a digest is stored."""
    return _key(segment, _DIGESTS, int.from_bytes(sha256[:2]))


def _key(segment: int, band: int, value: int) -> int:
    return (segment << 21) + (band << _BITS) + value


def _values(pdq: bytes) -> list[int]:
    """Return the 16 bits of each band: every sixteenth bit of the hash."""
    bits = f"{int.from_bytes(pdq):0256b}"
    return [int(bits[band::_BANDS], 2) for band in range(_BANDS)]
