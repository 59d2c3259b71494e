from pathlib import Path

import pytest

from umrgen.cli.serve import serve
from umrgen.server.ledger.sql.statements import Dialect, load_migrations, load_statements
from umrgen.server.reload import RELOADED, describe, need_restart
from umrgen.server.settings import BadSettings, Settings, settings_table


def test_flags_override_the_environment_and_both_override_defaults() -> None:
    environment = {"UMRGEN_PORT": "4000", "UMRGEN_ENGINE": "other", "UMRGEN_DRAIN": "1.5"}
    settings = Settings.load({"port": "5000", "engine": None}, environment)
    assert (settings.port, settings.engine, settings.drain) == (5000, "other", 1.5)
    assert (settings.host, Settings.load({}, {}).port) == ("127.0.0.1", 3088)


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "umrgen.toml"
    file.write_text('port = 1234\nstep-delay = 2\nallowed_hosts = ["a.example", "b.example"]\nlog_prompts = true\n')
    settings = Settings.load({"step_delay": "3"}, {"UMRGEN_LOG_PROMPTS": "no"}, file)
    assert (settings.port, settings.step_delay, settings.log_prompts) == (1234, 3, False)
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert Settings.load({"allowed_hosts": "c.example, d.example,"}, {}, file).allowed_hosts == (
        "c.example",
        "d.example",
    )


@pytest.mark.parametrize("place", ["file", "environment"])
def test_a_retired_setting_causes_a_warning(place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "umrgen.toml"
    file.write_text("port = 1234\naddress_connections = 5\n" if place == "file" else "port = 1234\n")
    environment = {} if place == "file" else {"UMRGEN_ADDRESS_CONNECTIONS": "5"}
    assert Settings.load({}, environment, file).port == 1234
    assert "address_connections no longer has an effect" in caplog.text


def test_lists_are_normalized() -> None:
    environment = {
        "UMRGEN_TRUSTED_PROXIES": "127.0.0.1/8, ::1",
        "UMRGEN_ALLOWED_HOSTS": "Images.Example.org.",
        "UMRGEN_ALLOWED_ORIGINS": "https://Studio.example.org/",
    }
    settings = Settings.load({}, environment)
    assert settings.trusted_proxies == ("127.0.0.0/8", "::1/128")
    assert settings.allowed_hosts == ("images.example.org",)
    assert settings.allowed_origins == ("https://studio.example.org",)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"UMRGEN_PORT": "many"}, "UMRGEN_PORT must be an integer; got 'many'"),
        ({"UMRGEN_PORT": "-1"}, "UMRGEN_PORT must be 0 to 65535"),
        ({"UMRGEN_LEASE": "0"}, "UMRGEN_LEASE must be 1"),
        ({"UMRGEN_LEASE": "nan"}, "UMRGEN_LEASE must be 1"),
        ({"UMRGEN_LOG_PROMPTS": "perhaps"}, "UMRGEN_LOG_PROMPTS must be true or false"),
        ({"UMRGEN_LOG_FORMAT": "xml"}, "UMRGEN_LOG_FORMAT must be one of text, json"),
        ({"UMRGEN_TRUSTED_PROXIES": "localhost"}, "must name addresses or networks: 'localhost'"),
        ({"UMRGEN_PREFIX": "umrgen/"}, "must begin with a slash"),
        ({"UMRGEN_ALLOWED_HOSTS": "images.example.org:8443"}, "without scheme and port"),
        ({"UMRGEN_ALLOWED_HOSTS": "https://images.example.org"}, "without scheme and port"),
        ({"UMRGEN_ALLOWED_ORIGINS": "studio.example.org"}, "must be origins"),
        ({"UMRGEN_METRICS_TOKEN": "abc"}, "20 characters or more"),
    ],
)
def test_an_invalid_setting_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        Settings.load({}, environment)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 80", "unknown settings: prot"),
        ("port = ", "is not TOML"),
        ("port = 80.5", "port in .* must be an integer; got 80.5"),
        ("port = true", "port in .* must be an integer"),
        ("host = 5", "host in .* must be text"),
        ("allowed_hosts = 5", "allowed_hosts in .* must be a list"),
        ("trusted_proxies = [1]", "trusted_proxies in .* must be a list"),
    ],
)
def test_an_invalid_setting_of_the_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "umrgen.toml"
    file.write_text(content)
    with pytest.raises(BadSettings, match=message):
        Settings.load({}, {}, file)
    with pytest.raises(BadSettings, match="cannot be read"):
        Settings.load({}, {}, tmp_path / "nothing.toml")


def test_every_setting_has_its_row_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in page.splitlines() if "| `" in line]
    documented = {row[0].strip("`"): row[1:] for row in rows}
    assert list(documented) == [setting.name for setting in settings_table()]
    for setting in settings_table():
        default, help = documented[setting.name]
        assert default == setting.written_default, setting.name
        assert help == setting.help, setting.name


def test_every_setting_is_a_flag() -> None:
    options = {option for parameter in serve.params for option in parameter.opts}
    assert {setting.flag for setting in settings_table()} <= options


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.com", False),
    ],
)
def test_loopback_hosts(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


def test_statements_have_names_and_no_comments() -> None:
    queries, _ = load_statements(Dialect(contains=str, words=""))
    assert {"insert_job", "update_job", "get_job", "next_jobs"} <= set(queries)
    assert all(query.endswith(";") and "--" not in query for query in queries.values())


def test_migrations_are_numbered_without_a_gap() -> None:
    assert len(load_migrations("umrgen.server.ledger.sqlite")) >= 1


def test_a_change_is_described_without_secrets() -> None:
    old = Settings(rate=5, metrics_token="old-secret", ledger="postgresql://u:old-secret@db/x")
    new = Settings(rate=7, metrics_token="new-secret", ledger="postgresql://u:new-secret@db/x", lease=40, drain=30)
    assert describe(old, new, dict.fromkeys(RELOADED)) == "rate 5 → 7, metrics_token (another value)"
    assert need_restart(old, new) == "ledger (another value), lease 30.0 → 40, drain 20.0 → 30"


def test_a_change_of_an_engine_is_described_without_its_secrets() -> None:
    old = Settings(engine_option=("api_key=old-secret", "steps=4"), model="http://u:old-secret@127.0.0.1:8188")
    new = Settings(engine_option=("api_key=new-secret", "steps=8"), model="http://u:new-secret@127.0.0.1:8188")
    assert need_restart(old, new) == (
        "model http://…@127.0.0.1:8188 → http://…@127.0.0.1:8188, engine_option api_key=…,steps=4 → api_key=…,steps=8"
    )


def test_the_settings_that_need_no_restart_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    section = page.partition("## Without a restart")[2].partition("##")[0]
    assert {name for name in RELOADED if f"`{name}`" not in section} == set()
    named = {setting.name for setting in settings_table() if f"`{setting.name}`" in section}
    assert named == set(RELOADED)
