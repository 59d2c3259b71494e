"""The store of fingerprints: digest and perceptual hash of every image, when it was made, and by which engine.

The end of a job writes a row for each image. `index` packs 16 rows at a time into a group, and adds the group's number
to the members of each key of `bands.py`. The rows that are left, fewer than 16 after it, are compared one by one.

A record of a group: 16 bytes of the SHA-256, the PDQ hash (zeros: none), the seconds since the epoch, the number of the
job's row, and the number of the engine in the group's list. A hash that an earlier image has too is indexed for that
one only: otherwise, many equal images would make a key's members long.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from umrgen.server.domain.job import MAX_IMAGES, Job
from umrgen.server.ledger.sql.bands import MAX_DISTANCE, SEGMENT, band_keys, digest_key, distance, nearby_keys
from umrgen.server.ledger.sql.database import Database, Row, SqlConnection, Transaction
from umrgen.server.ledger.values import ALL_BITS, KnownImage, UnhashedImage

__all__ = ["SqlFingerprintStore", "enter_fingerprints"]

GROUP = 16
"""Images of a group."""
_RECORD = struct.Struct(">16s32sIIB")
_MEMBER = struct.Struct(">H")
_NO_HASH = bytes(32)
_LARGEST = 2**32 - 1
_ALL = 2**62


@dataclass(frozen=True, slots=True)
class _Query:
    """What is searched for: a digest, and a hash (b"": none) with the bits of it that are known."""

    sha256: bytes
    pdq: bytes
    known: bytes

    def distance(self, pdq: bytes) -> int:
        """Return the bits in which a hash differs; more than MAX_DISTANCE without one."""
        if not pdq or not self.pdq or pdq == _NO_HASH:
            return MAX_DISTANCE + 1
        return distance(int.from_bytes(pdq) ^ int.from_bytes(self.pdq), int.from_bytes(self.known))


@dataclass(frozen=True, slots=True)
class _Found:
    """An image that is the one searched for, or near it."""

    distance: int
    exact: bool
    created_at: int
    engine: str
    job_seq: int

    @property
    def order(self) -> tuple[bool, int, int]:
        return (not self.exact, self.distance, self.created_at)


# --- writing ---


def enter_fingerprints(connection: SqlConnection, job: Job, hashes: Sequence[bytes]) -> None:
    """Write the fingerprints of a completed job's images.

    `hashes`: the PDQ hash of each, b"" for one with too little detail. Those of other images are computed later.
    """
    for index, output in enumerate(job.outputs):
        row = {
            "position": job.changed * MAX_IMAGES + index,
            "sha256": bytes.fromhex(output.sha256),
            "pdq": hashes[index] if index < len(hashes) else b"",
            "created_at": job.completed_at,
            "engine": job.engine,
            "job_id": job.id,
        }
        connection.send("insert_new_fingerprint", row)
        if index >= len(hashes):
            connection.send("add_unhashed_image", {"name": output.name})


def _enter_hash(transaction: Transaction, image: UnhashedImage, pdq: bytes | None) -> None:
    """Write the fingerprint of an image before those that are not indexed yet; None: it has one."""
    connection = transaction.connection
    if pdq is not None:
        first = connection.one("new_fingerprints", {"limit": 1})
        row = {
            "position": min(0, first[0] if first else 0) - 1,
            "sha256": image.sha256,
            "pdq": pdq,
            "created_at": image.created_at,
            "engine": image.engine,
            "job_id": image.job_id,
        }
        connection.send("insert_new_fingerprint", row)
    connection.send("delete_unhashed_image", {"name": image.name})


def _index(transaction: Transaction, groups: int) -> int:
    """Pack up to `groups` groups; return how many."""
    connection = transaction.connection
    rows = connection.all("new_fingerprints", {"limit": GROUP * groups})
    number = _last_group(connection) + 1
    packed = len(rows) // GROUP
    for at in range(packed):
        _add_group(connection, number + at, rows[at * GROUP : (at + 1) * GROUP])
    if packed:
        connection.send("delete_new_fingerprints", {"position": rows[packed * GROUP - 1][0]})
    return packed


def _last_group(connection: SqlConnection) -> int:
    row = connection.one("last_fingerprint_group")
    return int(row[0]) if row else -1


def _add_group(connection: SqlConnection, number: int, rows: Sequence[Row]) -> None:
    engines = sorted({str(row[4]) for row in rows})
    records = b"".join(_packed(row, engines) for row in rows)
    group = {"number": number, "engines": json.dumps(engines), "records": records}
    connection.send("insert_fingerprint_group", group)
    _add_members(connection, number, rows)


def _packed(row: Row, engines: Sequence[str]) -> bytes:
    _, sha256, pdq, created_at, engine, job_seq = row
    seconds, seq = min(created_at // 1000, _LARGEST), job_seq if job_seq <= _LARGEST else 0
    return _RECORD.pack(bytes(sha256), bytes(pdq) or _NO_HASH, seconds, seq, engines.index(engine))


def _add_members(connection: SqlConnection, number: int, rows: Sequence[Row]) -> None:
    """Add the group to the members of its images' keys."""
    segment, low = divmod(number, SEGMENT)
    hashes = list(dict.fromkeys(bytes(row[2]) for row in rows if row[2]))
    keys_of_hash = {pdq: band_keys(pdq, segment) for pdq in hashes}
    keys = {digest_key(bytes(row[1]), segment) for row in rows}
    wanted = keys.union(*keys_of_hash.values())
    members = {int(key): bytes(found) for key, found in connection.all("fingerprint_bands", {"keys": sorted(wanted)})}
    for pdq, its_keys in keys_of_hash.items():
        if not _has_hash(connection, pdq, _common(members, its_keys), segment):
            keys.update(its_keys)
    for key in sorted(keys):
        connection.send("put_fingerprint_band", {"key": key, "members": members.get(key, b"") + _MEMBER.pack(low)})


def _common(members: dict[int, bytes], keys: Iterable[int]) -> set[int]:
    """Return the groups that are members of all keys: those that probably have the same hash."""
    return set.intersection(*({low for (low,) in _MEMBER.iter_unpack(members.get(key, b""))} for key in keys))


def _has_hash(connection: SqlConnection, pdq: bytes, lows: Iterable[int], segment: int) -> bool:
    numbers = [segment * SEGMENT + low for low in lows]
    groups = connection.all("fingerprint_groups", {"numbers": numbers}) if numbers else []
    return any(record[1] == pdq for _, records in groups for record in _RECORD.iter_unpack(bytes(records)))


# --- finding ---


def _find(connection: SqlConnection, query: _Query, session_id: str) -> KnownImage | None:
    found = [*_pending(connection, query), *_indexed(connection, query)]
    if not found:
        return None
    best = min(found, key=lambda each: each.order)
    jobs = [each.job_seq for each in found if each.order[:2] == best.order[:2] and each.job_seq]
    own = connection.one("own_job", {"numbers": jobs, "session_id": session_id}) if session_id and jobs else None
    return KnownImage(best.exact, best.distance, best.created_at, best.engine, own[0] if own else None)


def _pending(connection: SqlConnection, query: _Query) -> Iterator[_Found]:
    for _, digest, own, created_at, engine, job_seq in connection.all("new_fingerprints", {"limit": _ALL}):
        exact = bytes(digest) == query.sha256
        bits = 0 if exact else query.distance(bytes(own))
        if bits <= MAX_DISTANCE:
            yield _Found(bits, exact, created_at // 1000 * 1000, engine, job_seq)


def _indexed(connection: SqlConnection, query: _Query) -> Iterator[_Found]:
    segments = _last_group(connection) // SEGMENT + 1
    keys = [digest_key(query.sha256, segment) for segment in range(segments)]
    keys += nearby_keys(query.pdq, segments) if query.pdq else []
    numbers: set[int] = set()
    for key, members in connection.all("fingerprint_bands", {"keys": keys}):
        first = (key >> 21) * SEGMENT
        numbers.update(first + low for (low,) in _MEMBER.iter_unpack(bytes(members)))
    groups = connection.all("fingerprint_groups", {"numbers": sorted(numbers)}) if numbers else []
    return _near(groups, query)


def _near(groups: Sequence[Row], query: _Query) -> Iterator[_Found]:
    """Yield the images of these groups that have the digest, or a hash within MAX_DISTANCE bits."""
    import numpy as np  # here, because the commands for a ledger start without it

    fields = np.dtype([("sha256", "V16"), ("pdq", "V32"), ("made", ">u4"), ("job", ">u4"), ("engine", "u1")])
    records = np.frombuffer(b"".join(bytes(row[1]) for row in groups), fields)
    exact = records["sha256"] == np.void(query.sha256[:16])
    hashes = np.frombuffer(records["pdq"].tobytes(), "<u8").reshape(-1, 4)
    known, wanted = (np.frombuffer(bits, "<u8") for bits in (query.known, query.pdq or _NO_HASH))
    differing = (hashes ^ wanted) & known
    counts = sum(np.bitwise_count(part).astype(np.int16) for part in differing.T)
    near = counts <= MAX_DISTANCE if query.pdq else exact
    for at in np.flatnonzero(exact | near):
        bits = 0 if exact[at] else query.distance(records["pdq"][at].tobytes())
        if bits <= MAX_DISTANCE:
            engine = json.loads(groups[int(at) // GROUP][0])[records["engine"][at]]
            yield _Found(bits, bool(exact[at]), int(records["made"][at]) * 1000, engine, int(records["job"][at]))


def _unhashed(row: Row) -> UnhashedImage:
    name, session_id, sha256, *origin = row
    return UnhashedImage(name, session_id, bytes.fromhex(sha256), *origin) if session_id else UnhashedImage(name)


class SqlFingerprintStore:
    """Implements `FingerprintStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self, sha256: bytes, pdq: bytes, known: bytes = ALL_BITS, *, session_id: str = ""
    ) -> KnownImage | None:
        return await self._database.search(partial(_find, query=_Query(sha256, pdq, known), session_id=session_id))

    async def index(self, *, groups: int) -> int:
        return await self._database.write(lambda transaction: _index(transaction, groups))

    async def unhashed(self, *, limit: int) -> list[UnhashedImage]:
        rows = await self._database.read(lambda connection: connection.all("unhashed_images", {"limit": limit}))
        return [_unhashed(row) for row in rows]

    async def enter_hash(self, image: UnhashedImage, pdq: bytes | None) -> None:
        await self._database.write(lambda transaction: _enter_hash(transaction, image, pdq))
