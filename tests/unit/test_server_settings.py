import pytest

from umrgen.server.config import BadSettings, Settings, setting_names
from umrgen.server.ledger.queries import load_migrations, load_queries


def test_flags_win_over_the_environment_and_both_over_defaults() -> None:
    environment = {"UMRGEN_PORT": "4000", "UMRGEN_ENGINE": "other", "UMRGEN_DRAIN": "1.5"}
    settings = Settings.load({"port": "5000", "engine": None}, environment)
    assert (settings.port, settings.engine, settings.drain) == (5000, "other", 1.5)
    assert (settings.host, Settings.load({}, {}).port) == ("127.0.0.1", 3088)


@pytest.mark.parametrize(
    ("environment", "name"),
    [({"UMRGEN_PORT": "many"}, "UMRGEN_PORT"), ({"UMRGEN_PORT": "-1"}, "port"), ({"UMRGEN_LEASE": "0"}, "lease")],
)
def test_what_is_wrong_is_named(environment: dict[str, str], name: str) -> None:
    with pytest.raises(BadSettings, match=name):
        Settings.load({}, environment)


def test_every_setting_says_what_it_is() -> None:
    for name, (help, _) in setting_names().items():
        assert len(help) > 10, name


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
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


def test_queries_have_names_and_no_comments_left() -> None:
    queries = load_queries("sqlite")
    assert {"insert_job", "update_job", "get_job", "next_job"} <= set(queries)
    assert all(query.endswith(";") and "--" not in query for query in queries.values())


def test_migrations_are_numbered_without_a_gap() -> None:
    assert len(load_migrations("sqlite")) >= 1
