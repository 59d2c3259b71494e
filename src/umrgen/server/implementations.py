"""The implementation that each setting names: of the ledger, the blob store, the executor, the signer.

No other module chooses one.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from umrgen.clock import Clock, SystemClock
from umrgen.server.blobs import BLOB_STORES, BlobStore
from umrgen.server.blobs.stored_images import STORED_IMAGES, StoredImages
from umrgen.server.engines import EngineFailure, check_options, is_remote, load_engine
from umrgen.server.executors import EXECUTORS, Executor, WatchdogLimits
from umrgen.server.executors.routing import LiveEngines
from umrgen.server.executors.unloading import LoadCommands, UnloadingExecutor
from umrgen.server.ledger import LEDGER_TABLES, LEDGERS, Ledger
from umrgen.server.ledger.copying import LedgerTables
from umrgen.server.services.api_keys import ApiKeys
from umrgen.server.settings import BadSettings, Settings
from umrgen.server.signing import ManifestSigner
from umrgen.server.state import worker_id
from umrgen.server.watermark import BadWatermark, load_watermark

__all__ = [
    "claim_blobs",
    "ledger_tables",
    "make_blobs",
    "make_executor",
    "make_ledger",
    "make_signer",
    "make_worker_id",
    "open_keys",
    "open_ledger",
    "own_executor",
    "stored_images",
]


def _make(table: Mapping[str, str], name: str, *args: Any, **kwargs: Any) -> Any:
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)(*args, **kwargs)


def make_ledger(settings: Settings, observe_commit: Callable[[float], None] = lambda seconds: None) -> Ledger:
    """Return the ledger that the settings name, not opened yet."""
    ledger: Ledger
    if settings.ledger_kind == "memory":
        ledger = _make(LEDGERS, "memory")
    elif settings.ledger_kind == "postgresql":
        ledger = _postgres(settings.ledger, observe_commit)
    else:
        ledger = _make(LEDGERS, "sqlite", settings.ledger_file, observe_commit)
    return ledger


def _postgres(url: str, observe_commit: Callable[[float], None]) -> Ledger:
    try:
        ledger: Ledger = _make(LEDGERS, "postgresql", url, observe_commit)
    except ImportError as missing:
        raise _without_packages("PostgreSQL", "postgres", missing) from None
    return ledger


def ledger_tables(settings: Settings) -> LedgerTables:
    """Return the tables of the ledger that the settings name, for a copy. Raises BadSettings."""
    if settings.ledger_kind not in LEDGER_TABLES:
        raise BadSettings(f"the ledger {settings.ledger} cannot be copied", next="Name sqlite:FILE or postgresql://….")
    where = settings.ledger if settings.ledger_kind == "postgresql" else settings.ledger_file
    try:
        tables: LedgerTables = _make(LEDGER_TABLES, settings.ledger_kind, where)
    except ImportError as missing:
        raise _without_packages("PostgreSQL", "postgres", missing) from None
    return tables


def _without_packages(purpose: str, extra: str, missing: ImportError) -> BadSettings:
    return BadSettings(
        f"the packages for {purpose} are not installed: {missing.name} is missing",
        next=f"pip install 'umrgen[server,{extra}]'",
    )


def make_worker_id(settings: Settings) -> str:
    """Return the id under which this server leases jobs. A ledger in memory has no other server, and no folder."""
    return f"worker_{secrets.token_hex(8)}" if settings.ledger == "memory" else worker_id(settings.state)


def make_blobs(settings: Settings, worker: str) -> BlobStore:
    blobs: BlobStore
    if settings.blobs == "memory":
        blobs = _make(BLOB_STORES, "memory")
    elif settings.blobs_kind == "s3":
        blobs = _s3(settings)
    else:
        blobs = _make(BLOB_STORES, "local", settings.blobs_folder, worker)
    return blobs


def _s3(settings: Settings) -> BlobStore:
    try:
        blobs: BlobStore = _make(BLOB_STORES, "s3", settings.blobs, settings.s3_endpoint, settings.s3_redirects)
    except ImportError as missing:
        raise _without_packages("S3", "s3", missing) from None
    return blobs


def stored_images(settings: Settings) -> StoredImages:
    """Return the images of the blob store that the settings name, for maintenance. Raises BadSettings."""
    images: StoredImages
    if settings.blobs_kind != "s3":
        images = _make(STORED_IMAGES, "local", settings.blobs_folder)
        return images
    try:
        images = _make(STORED_IMAGES, "s3", settings.blobs, settings.s3_endpoint)
    except ImportError as missing:
        raise _without_packages("S3", "s3", missing) from None
    return images


async def claim_blobs(ledger: Ledger, blobs: BlobStore) -> None:
    """Check that the blob store belongs to this ledger. Raises BlobStoreUnavailable and BlobStoreForeign."""
    ledger_id = await ledger.coordination.secret("ledger-id", secrets.token_hex(16).encode())
    await blobs.claim(ledger_id.decode())


def own_executor(settings: Settings, clock: Clock, engines: LiveEngines) -> Executor:
    """Return the executor of this server; without engines, one that describes `engines`. Raises BadSettings."""
    if settings.engines:
        return make_executor(settings, clock)
    absent: Executor = _make(EXECUTORS, "absent", engines)
    return absent


def make_executor(settings: Settings, clock: Clock) -> Executor:
    """Return the executor of the engine that the settings name, not started yet.

    Raises BadSettings for a wrong engine or option.
    """
    engine, options = settings.engine, settings.options_of_engine
    try:
        check_options(engine, options)
        remote = is_remote(engine)
        if not remote:
            load_engine(engine, options)  # its constructor refuses wrong values before a process is started
        local = "remote" if remote else "subprocess"
        executor = _in_ray(settings) if settings.executor == "ray" else _executor(settings, local)
    except EngineFailure as failure:
        next = "See --engine and --engine-option in: umrgen serve --help"
        raise BadSettings(str(failure), code="bad_engine", next=next) from None
    commands = LoadCommands(settings.on_load, settings.on_unload, settings.command_timeout)
    return UnloadingExecutor(executor, clock, settings.unload_after, commands)


def _executor(settings: Settings, kind: str, **more: Any) -> Executor:
    limits = WatchdogLimits(settings.stall_after, settings.cancel_grace, settings.load_timeout, settings.engine_memory)
    executor: Executor = _make(
        EXECUTORS,
        kind,
        settings.engine,
        settings.options_of_engine,
        devices=settings.devices,
        watchdog=limits,
        signing=settings.signing,
        watermark=_checked_watermark(settings),
        **more,
    )
    return executor


def _in_ray(settings: Settings) -> Executor:
    """Return the executor in a Ray cluster. This process itself does not import Ray. Raises BadSettings."""
    if is_remote(settings.engine):
        raise BadSettings(
            f"the engine {settings.engine} is a server of its own, which Ray cannot run",
            code="bad_engine",
            next="Omit the executor ray; its URLs may be on many machines.",
        )
    if find_spec("ray") is None or find_spec("grpc") is None:
        raise BadSettings("the packages for Ray are not installed", next="pip install 'umrgen[server,ray]'")
    return _executor(settings, "ray", address=settings.ray_address, resources=settings.resources_in_ray)


def _checked_watermark(settings: Settings) -> str:
    """Return the name of the watermark's class, which can be loaded. Raises BadSettings."""
    if settings.watermark:
        try:
            load_watermark(settings.watermark)
        except BadWatermark as bad:
            raise BadSettings(
                str(bad), next="Name an installed class as module:Class; see docs/provenance.md."
            ) from None
    return settings.watermark


def make_signer(settings: Settings) -> ManifestSigner | None:
    """Return the signer of images that the settings describe; None without one.

    Its certificate may be unreadable or expired. Raises BadSettings without the packages for signing.
    """
    if settings.signing is None:
        return None
    missing = next((name for name in ("c2pa", "cryptography") if find_spec(name) is None), None)
    if missing:
        raise BadSettings(
            f"the packages for signing images are not installed: {missing} is missing",
            next="pip install 'umrgen[c2pa]'",
        )
    return ManifestSigner(settings.signing)


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """Open the ledger of the server that these settings describe."""
    ledger = make_ledger(settings)
    await ledger.open(lambda jobs: None)
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def open_keys(settings: Settings) -> AsyncIterator[ApiKeys]:
    """Open the API keys of the server that these settings describe, whether it runs or not."""
    async with open_ledger(settings) as ledger:
        yield ApiKeys(ledger.keys, SystemClock())
