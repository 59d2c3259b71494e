"""The settings of the server: one frozen value, from flags, the environment, a file and defaults, in this order."""

import json
import logging
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from umrgen.errors import UmrgenError
from umrgen.paths import data_home, user_path
from umrgen.provenance import read_roots
from umrgen.server.model_choice import UnknownModel, choose
from umrgen.server.setting_values import NORMALIZERS, BadSettings, ledger_setting, without_password
from umrgen.server.signing import SigningOptions

__all__ = [
    "RETIRED",
    "BadSettings",
    "Setting",
    "Settings",
    "given_values",
    "ledger_setting",
    "read_file",
    "settings_table",
    "unknown_settings",
    "without_password",
]

log = logging.getLogger(__name__)


def _text(default: str, help: str, *, choices: tuple[str, ...] = (), variable: str = "") -> Any:
    return field(default=default, metadata={"help": help, "choices": choices, "own_variable": variable})


def _number(default: float, help: str, low: float, high: float) -> Any:
    return field(default=default, metadata={"help": help, "range": (low, high)})


def _switch(help: str, *, default: bool = False) -> Any:
    return field(default=default, metadata={"help": help})


def _list(help: str, *default: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server; each is also a flag `--name`, a variable `UMRGEN_NAME`, and a key of the file."""

    # --- addresses and storage ---
    host: str = _text("127.0.0.1", "address to listen on; other addresses than loopback need an API key first")
    port: int = _number(3088, "port to listen on; 0 takes a free one", 0, 65535)
    work_port: int = _number(0, "port of umrgen work for /metrics, /healthz and /readyz; 0: none", 0, 65535)
    state: Path = field(default_factory=data_home, metadata={"help": "folder of the ledger, the keys and the images"})
    ledger: str = _text(
        "sqlite",
        "where jobs are recorded: sqlite (a file in the state folder), sqlite:FILE, postgresql://…, or memory (for"
        " tests)",
    )
    blobs: str = _text(
        "local",
        "where images are kept: local (a folder in the state folder), local:FOLDER, s3://BUCKET/PREFIX, or memory (for"
        " tests)",
    )
    s3_endpoint: str = _text("", "URL of a server with S3's interface; default: AWS_ENDPOINT_URL, or else AWS itself")
    s3_redirects: bool = _switch("redirect clients to S3 for images, by URLs valid for 15 minutes")
    api_key: str = _text(
        "",
        "an API key to accept in addition to those of `umrgen keys` (20 characters or more)",
        variable="UMRGEN_SERVER_KEY",  # UMRGEN_API_KEY is the client's: often that of another server
    )

    # --- the engine ---
    model: str = _text(
        "",
        "a model, which chooses the engine: a hub name, a folder, a .safetensors or .gguf file, a ComfyUI's URL",
    )
    engine: str = _text("procedural", "the engine that draws the images: its name, or module:Class")
    engines: bool = _switch(
        "draw jobs on this server; off: other servers of the ledger, or umrgen work, draw them", default=True
    )
    executor: str = _text(
        "local",
        "where the engine runs: local (processes of this server), or ray (a Ray cluster)",
        choices=("local", "ray"),
    )
    devices: int = _number(1, "devices, each with its own engine process; with Ray, the most engines", 1, 1024)
    ray_address: str = _text(
        "auto", "HOST:PORT of the head of the Ray cluster; auto: RAY_ADDRESS, or that of this machine"
    )
    ray_resources: tuple[str, ...] = _list(
        "what each engine takes of a Ray node, as NAME=NUMBER: GPU (0.5: two share one), CPU, or your own",
        "GPU=1",
    )
    engine_option: tuple[str, ...] = _list("options of the engine, each as NAME=VALUE; a value is JSON, or else text")
    step_delay: float = _number(0.0, "seconds the procedural engine waits after each step, for demonstrations", 0, 3600)
    stall_after: float = _number(
        60.0, "seconds without a step or a new phase after which an engine is stopped", 1, 86400
    )
    load_timeout: float = _number(
        600.0,
        "seconds an engine has to start, and to load or compile for a job; more for a model in local files",
        1,
        86400,
    )
    cancel_grace: float = _number(5.0, "seconds an engine has to stop before it is killed", 0, 3600)
    engine_memory: int = _number(0, "MiB of main memory that an engine may use; 0: no limit", 0, 1 << 24)
    unload_after: float = _number(
        0.0, "seconds without a job after which the engine leaves memory, until the next job; 0: never", 0, 86400
    )
    on_load: str = _text("", "a command to run before the engine is loaded, for example to stop a chat model")
    on_unload: str = _text("", "a command to run after the engine was unloaded")
    command_timeout: float = _number(60.0, "seconds that on_load and on_unload may take", 1, 3600)

    # --- jobs ---
    lease: float = _number(30.0, "seconds of a job's lease, which its worker must renew", 1, 3600)
    max_attempts: int = _number(3, "attempts at a job whose engine crashes", 1, 100)
    max_interruptions: int = _number(20, "restarts of the server after which an interrupted job runs again", 0, 1000)
    drain: float = _number(20.0, "seconds that running jobs have to finish when the server stops", 0, 86400)
    max_wait: float = _number(60.0, "seconds of the longest long poll (Prefer: wait)", 0, 600)

    # --- limits of each key that has none of its own ---
    rate: int = _number(600, "requests of a key per minute; 0: no limit", 0, 10_000_000)
    concurrent: int = _number(0, "jobs of a key that may be queued or running; 0: no limit", 0, 10_000_000)
    daily: int = _number(0, "jobs a key may submit in a day (UTC); 0: no limit", 0, 1_000_000_000)
    session_running: int = _number(0, "running jobs of a session; 0: no limit", 0, 100_000)
    session_queued: int = _number(10_000, "queued jobs of a session; 0: no limit", 0, 10_000_000)

    # --- HTTP and security ---
    allowed_hosts: tuple[str, ...] = _list(
        "host names of this server, such as umrgen.example.org; *: any. Addresses and localhost are always allowed"
    )
    allowed_origins: tuple[str, ...] = _list(
        "origins of other web pages that may call from a browser, such as https://studio.example.org"
    )
    trusted_proxies: tuple[str, ...] = _list(
        "addresses or networks of proxies and tunnels whose X-Forwarded-For and -Proto headers are trusted"
    )
    prefix: str = _text("", "path prefix under which a proxy serves this server, such as /umrgen")
    failed_logins: int = _number(20, "wrong keys of an address per minute before it is throttled", 1, 1_000_000)
    missed_outputs: int = _number(60, "wrong image URLs of an address per minute before it is throttled", 1, 1_000_000)
    studio: bool = _switch("serve the studio, the server's web page, at /", default=True)
    mcp: bool = _switch("serve tools for agents at /mcp, by the Model Context Protocol")
    a1111: bool = _switch("serve AUTOMATIC1111's API at /sdapi/v1, for clients of it")
    header_timeout: float = _number(
        75.0, "seconds within which a connection must send a request's head, and may be idle between two", 1, 600
    )
    max_connections: int = _number(20_000, "concurrent connections; further ones wait to be accepted", 1, 1_000_000)
    held: int = _number(200, "concurrent long polls and event streams of a key", 1, 1_000_000)

    # --- images ---
    retain_days: float = _number(
        30.0, "days after which an image is deleted, unless its job is a favorite; 0: never", 0, 36_500
    )
    retain_gib: float = _number(
        0.0, "GiB of images, without those of favorites, above which the oldest are deleted; 0: no limit", 0, 1 << 20
    )
    retain_records: float = _number(
        365.0,
        "days after which the record of a job without images is deleted, unless it is a favorite; 0: never",
        0,
        36_500,
    )
    disk_reserve: int = _number(512, "MiB of free disk space below which no job is accepted", 0, 1 << 24)
    upload_hours: float = _number(24.0, "hours after which a reference image is deleted", 0.01, 8760)
    provenance_prompt: str = _text(
        "full", "whether image files contain the prompt: full, or none (the ledger keeps it)", choices=("full", "none")
    )
    signing_certificate: str = _text("", "a PEM file with the certificates that sign images (C2PA), the signer's first")
    signing_key: str = _text("", "a PEM file, of mode 0600, with the private key of that certificate")
    signing_authority: str = _text("", "the URL of a time-stamp authority (RFC 3161) for the signatures")
    signing_failure: str = _text(
        "unsigned",
        "when the certificate cannot sign: images stay unsigned (unsigned), or no job is accepted (stop)",
        choices=("unsigned", "stop"),
    )
    watermark: str = _text("", "a class that marks the pixels of images imperceptibly: module:Class")
    public_verify: bool = _switch("let callers without an API key verify images, 10 a minute of each address")
    verify_trust: str = _text("", "a PEM file with the roots of the C2PA signers to trust when images are verified")
    url_ttl: int = _number(0, "seconds for which a signed image URL is valid; 0: URLs are not signed", 0, 366 * 86400)
    cache: int = _number(64, "MiB of finished images cached in memory", 0, 65536)

    # --- webhooks, content policy and logs ---
    webhook_allow: tuple[str, ...] = _list(
        "host names, addresses and networks allowed for webhooks, in addition to public ones"
    )
    policy: str = _text("", "content policy: module:function, or a file with one forbidden term a line")
    metrics_token: str = _text("", "a key for /metrics; without it, /metrics accepts every API key")
    log_format: str = _text("text", "format of the log lines on stderr", choices=("text", "json"))
    log_level: str = _text(
        "info", "the least important lines in the log", choices=("debug", "info", "warning", "error")
    )
    access_log: str = _text(
        "notable",
        "logged requests: those that change or refuse something (notable), all, or none",
        choices=("notable", "all", "none"),
    )
    log_prompts: bool = _switch("log prompts")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def ledger_file(self) -> Path:
        """The file of an SQLite ledger. Raises BadSettings for any other ledger."""
        kind, _, file = self.ledger.partition(":")
        if kind != "sqlite":
            raise BadSettings(
                f"the ledger {self.ledger_name} is not a file", next="Set ledger to sqlite or sqlite:FILE."
            )
        return self.state / (file or "ledger.sqlite3")

    @property
    def ledger_kind(self) -> str:
        """The kind of ledger: sqlite, memory or postgresql."""
        return self.ledger.partition(":")[0]

    @property
    def shares_ledger(self) -> bool:
        """Whether other processes may use the ledger: it is not the file of the state folder, nor in memory."""
        return self.ledger not in ("sqlite", "memory")

    @property
    def ledger_name(self) -> str:
        """The ledger's file or address, to be shown: without a password."""
        if self.ledger_kind == "postgresql":
            return without_password(self.ledger)
        return str(self.ledger_file) if self.ledger_kind == "sqlite" else self.ledger

    @property
    def blobs_kind(self) -> str:
        """The kind of blob store: local, memory or s3."""
        return self.blobs.partition(":")[0]

    @property
    def blobs_folder(self) -> Path:
        """The folder of a local blob store. Raises BadSettings for any other blob store."""
        if self.blobs_kind == "s3":
            raise BadSettings(
                f"the images are in {self.blobs}, not in a folder", next="Name a folder with --blobs local:FOLDER."
            )
        return self.state / (self.blobs.partition(":")[2] or "outputs")

    @property
    def signing(self) -> SigningOptions | None:
        """How images are signed; None: not at all. Raises BadSettings for a certificate without a key."""
        if bool(self.signing_certificate) != bool(self.signing_key):
            given, missing = ("certificate", "key") if self.signing_certificate else ("key", "certificate")
            raise BadSettings(f"signing_{given} is set without signing_{missing}", next=f"Set signing_{missing} too.")
        if not self.signing_certificate:
            return None
        certificate, key = (str(user_path(file)) for file in (self.signing_certificate, self.signing_key))
        return SigningOptions(certificate, key, self.signing_authority, self.signing_failure == "stop")

    @property
    def resources_in_ray(self) -> dict[str, float]:
        """What an engine takes of a Ray node, by name."""
        return {name: float(number) for name, _, number in (part.partition("=") for part in self.ray_resources)}

    @property
    def trusted_roots(self) -> str:
        """The file with the roots of trusted signers; "" without one. Raises BadSettings if it has no certificates."""
        if not self.verify_trust:
            return ""
        file = user_path(self.verify_trust)
        try:
            read_roots(file)
        except (OSError, UmrgenError):
            raise BadSettings(f"verify_trust: {file} cannot be read, or has no certificates in PEM form") from None
        return str(file)

    @property
    def options_of_engine(self) -> dict[str, Any]:
        """The options of the engine by name, each value as JSON if it is JSON, else as text."""
        options: dict[str, Any] = {"step_delay": self.step_delay} if self.engine == "procedural" else {}
        for option in self.engine_option:
            name, _, value = option.partition("=")
            try:
                options[name.strip().replace("-", "_")] = json.loads(value)
            except ValueError:
                options[name.strip().replace("-", "_")] = value
        return options

    def _with_model(self, *, explicit: bool) -> "Settings":
        """Return the settings with the engine for the model, unless an engine is set explicitly, and its option."""
        try:
            choice = None if explicit else choose(self.model)
        except UnknownModel as unknown:
            raise BadSettings(f"model: {unknown}", next=unknown.next) from None
        engine, option = (self.engine, "model") if choice is None else (choice.engine, choice.option)
        added = (f"{option}={json.dumps(self.model)}",) if option else ()
        return replace(self, engine=engine, engine_option=(*added, *self.engine_option))

    @classmethod
    def load(cls, flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None) -> "Settings":
        """Load the settings. Raises BadSettings, which names the invalid one and its source.

        A flag takes precedence over the environment, and the environment over the file.
        """
        written, engine_tables = ({}, {}) if file is None else read_file(file)
        if file is not None:
            _check_names(written, file)
        values: dict[str, Any] = {}
        for name, advice in RETIRED.items():
            if name in written or f"UMRGEN_{name.upper()}" in environment:
                log.warning("the setting %s no longer has an effect: %s", name, advice)
        for setting, source, value in given_values(flags, environment, written, file):
            values[setting.name] = setting.convert(value, source)
        settings = cls(**values)
        if settings.model:
            settings = settings._with_model(explicit="engine" in values)
        from_table = _as_options(engine_tables.get(settings.engine, {}), f"[engine.{settings.engine}] in {file}")
        return replace(settings, engine_option=(*from_table, *settings.engine_option))


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings."""

    name: str
    kind: Any
    default: Any
    help: str
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    own_variable: str = ""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return self.own_variable or f"UMRGEN_{self.name.upper()}"

    @property
    def written_default(self) -> str:
        """The default as in the documentation's table."""
        if self.name == "state":
            return "the user's data folder"
        if self.kind is bool:
            return f"`{str(self.default).lower()}`"
        default = ", ".join(self.default) if isinstance(self.default, tuple) else self.default
        return f"`{default}`" if default != "" else "none"

    @property
    def metavar(self) -> str:
        if self.choices:
            return "|".join(self.choices)
        return "A,B,…" if self.kind == tuple[str, ...] else str(self.kind.__name__).upper()

    def convert(self, value: Any, source: str) -> Any:
        """Return the value in the setting's type. Raises BadSettings, which names `source`."""
        try:
            converted = self._typed(value)
        except (TypeError, ValueError):
            raise BadSettings(f"{source} must be {_TYPE_NAMES[self.kind]}; got {value!r}") from None
        if self.range and not self.range[0] <= converted <= self.range[1]:
            raise BadSettings(f"{source} must be {self.range[0]} to {self.range[1]}; got {value}")
        if self.choices and converted not in self.choices:
            raise BadSettings(f"{source} must be one of {', '.join(self.choices)}; got {value!r}")
        return NORMALIZERS[self.name](converted, source) if self.name in NORMALIZERS else converted

    def _typed(self, value: Any) -> Any:
        if self.kind is bool:
            return _switched(value)
        if isinstance(value, bool) or (self.kind is int and isinstance(value, float)):
            raise TypeError
        if self.kind == tuple[str, ...]:
            separator = _LIST_SEPARATOR[self.name == "engine_option"]
            parts = separator.split(value) if isinstance(value, str) else list(value)
            if not all(isinstance(part, str) for part in parts):
                raise TypeError
            return tuple(part.strip() for part in parts if part.strip())
        if self.kind is Path:
            return user_path(value)
        if self.kind is str and not isinstance(value, str):
            raise TypeError
        return self.kind(value)


_LIST_SEPARATOR = (re.compile(","), re.compile(r",(?=\s*[A-Za-z_][\w-]*\s*=)"))
"""The separators of a list and of options: the value of an option may contain commas."""

_TYPE_NAMES: Mapping[Any, str] = {
    str: "text",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    tuple[str, ...]: "a list, or a string with commas between its parts",
}


def _switched(value: Any) -> bool:
    word = str(value).lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError


RETIRED: Mapping[str, str] = {
    "address_connections": "let the proxy in front of the server bound connections per address (docs/security.md)",
}
"""Settings of earlier versions that have no effect, with their replacements. They cause a warning, not an error."""


def settings_table() -> Iterator[Setting]:
    """Yield every setting, for the CLI, the documentation and its test."""
    for spec in fields(Settings):
        default = None if spec.name == "state" else spec.default
        yield Setting(spec.name, spec.type, default, **spec.metadata)


def given_values(
    flags: Mapping[str, Any], environment: Mapping[str, str], written: Mapping[str, Any], file: Path | None
) -> Iterator[tuple[Setting, str, Any]]:
    """Yield each setting that a flag, the environment or the file sets, with its source and its value as given."""
    for setting in settings_table():
        given = (
            (setting.flag, flags.get(setting.name)),
            (setting.variable, environment.get(setting.variable) or None),
            (f"{setting.name} in {file}", written.get(setting.name)),
        )
        found = next(((source, value) for source, value in given if value is not None), None)
        if found is not None:
            yield setting, *found


def _as_options(table: Any, source: str) -> tuple[str, ...]:
    try:
        return tuple(f"{name}={json.dumps(value)}" for name, value in table.items())
    except (AttributeError, TypeError):
        raise BadSettings(f"{source} must be a table of numbers, texts, lists and true or false") from None


def read_file(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a TOML file: its settings by name, with _ or - between the words, and its tables `[engine.NAME]`.

    In a file with such tables, the setting `engine` is the key `name` of the table `[engine]`. Raises BadSettings.
    """
    try:
        written = tomllib.loads(file.read_text())
    except OSError as error:
        raise BadSettings(f"the file {file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"the file {file} is not TOML: {error}") from None
    named = {name.replace("-", "_"): value for name, value in written.items()}
    tables: dict[str, Any] = {}
    if isinstance(named.get("engine"), dict):
        tables = named.pop("engine")
        if "name" in tables:
            named["engine"] = tables.pop("name")
    return named, tables


def _check_names(names: Iterable[str], file: Path) -> None:
    """Raise BadSettings for names that are no settings."""
    unknown = unknown_settings(names)
    if unknown:
        raise BadSettings(
            f"the file {file} has unknown settings: {', '.join(sorted(unknown))}",
            next=f"For a proposal: umrgen config check {file}. All settings: umrgen serve --help",
        )


def unknown_settings(names: Iterable[str]) -> set[str]:
    """Return the names that are no settings, present or retired."""
    return set(names) - {setting.name for setting in settings_table()} - set(RETIRED)
