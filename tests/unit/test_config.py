"""The server and the key in force: arguments, then the environment, then a profile; and the file of profiles."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from umrgen import AsyncClient
from umrgen.client.config import Profile, Profiles, choose_server, configured_server
from umrgen.errors import UmrgenError

HOME = Profile("default", "https://home.example.org", "umr_home")
WORK = Profile("work", "https://work.example.org/prefix", "umr_work")


@pytest.fixture
def profiles() -> Profiles:
    stored = Profiles()
    stored.save(HOME)
    stored.save(WORK)
    return stored


def in_force(*arguments: str | None, profile: str | None = None) -> tuple[str | None, str | None]:
    choice = choose_server(*arguments, profile=profile)
    return choice.base_url, choice.key


class TestPrecedence:
    def test_without_anything_the_error_names_the_command(self) -> None:
        with pytest.raises(UmrgenError, match="no server is configured") as error:
            configured_server()
        assert "umrgen login" in error.value.next

    def test_the_default_profile(self, profiles: Profiles) -> None:
        assert in_force() == (HOME.base_url, HOME.key)

    def test_a_named_profile_takes_precedence_over_the_environment(
        self, profiles: Profiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("UMRGEN_PROFILE", "work")
        assert in_force() == (WORK.base_url, WORK.key)
        monkeypatch.setenv("UMRGEN_BASE_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("UMRGEN_API_KEY", "umr_environment")
        assert in_force() == ("http://127.0.0.1:1", "umr_environment")
        assert in_force(profile="work") == (WORK.base_url, WORK.key)
        assert in_force(None, "umr_file", profile="work") == (WORK.base_url, "umr_file")
        assert in_force("http://127.0.0.1:2", "umr_argument") == ("http://127.0.0.1:2", "umr_argument")

    @pytest.mark.parametrize("url", [HOME.base_url, f"{HOME.base_url}/"])
    def test_the_key_of_a_profile_is_used_with_its_address_only(
        self, profiles: Profiles, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        assert in_force(url) == (url, HOME.key)
        assert in_force("https://other.example.org") == ("https://other.example.org", None)
        monkeypatch.setenv("UMRGEN_BASE_URL", "https://other.example.org")
        assert in_force() == ("https://other.example.org", None)

    def test_each_value_has_its_source(self, profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UMRGEN_API_KEY", "umr_environment")
        choice = choose_server()
        assert (choice.url_source, choice.key_source) == ("profile default", "UMRGEN_API_KEY")
        assert "umr_environment" not in repr(choice)
        assert "umr_home" not in repr(Profiles().all())

    def test_a_client_uses_the_profile(self, profiles: Profiles) -> None:
        assert AsyncClient(journal=None).transport.base_url == HOME.base_url


class TestTheFile:
    def test_only_this_user_can_read_it(self, profiles: Profiles) -> None:
        assert stat.S_IMODE(profiles.path.stat().st_mode) == 0o600
        assert profiles.path.is_relative_to(os.environ["XDG_CONFIG_HOME"])

    def test_a_wide_umask_does_not_change_this(self) -> None:
        before = os.umask(0)
        try:
            Profiles().save(HOME)
        finally:
            os.umask(before)
        assert stat.S_IMODE(Profiles().path.stat().st_mode) == 0o600
        assert stat.S_IMODE(Profiles().path.parent.stat().st_mode) == 0o700

    def test_concurrent_changes_are_all_kept(self) -> None:
        names = [f"p{number}" for number in range(12)]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda name: Profiles().save(Profile(name, "http://127.0.0.1:1", "k")), names))
        assert set(Profiles().all()) == set(names)
        assert {path.name for path in Profiles().path.parent.iterdir()} == {"profiles.json", "profiles.lock"}

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        path = tmp_path / "linked" / "profiles.json"
        path.parent.mkdir()
        path.symlink_to(tmp_path / "elsewhere.json")
        Profiles(path).save(HOME)
        assert path.is_symlink()
        assert json.loads((tmp_path / "elsewhere.json").read_text())["profiles"]["default"]["api_key"] == HOME.key

    def test_a_profile_is_removed(self, profiles: Profiles) -> None:
        assert profiles.remove("work") == WORK
        assert set(profiles.all()) == {"default"}
        with pytest.raises(UmrgenError, match="there is no profile 'work'; there are: default"):
            profiles.remove("work")

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b'{"profiles": {"default": {"base_url": 7}}}', b"\xff", b"[" * 9999],
        ids=range(6),
    )
    def test_a_damaged_file_is_an_error_only_when_it_is_needed(
        self, profiles: Profiles, monkeypatch: pytest.MonkeyPatch, content: bytes
    ) -> None:
        profiles.path.write_bytes(content)
        with pytest.raises(UmrgenError, match="is damaged") as error:
            choose_server()
        assert "umrgen login" in error.value.next
        monkeypatch.setenv("UMRGEN_BASE_URL", "http://127.0.0.1:1")
        assert in_force() == ("http://127.0.0.1:1", None)

    def test_without_a_home_folder_there_are_no_profiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("XDG_CONFIG_HOME")
        monkeypatch.setenv("HOME", "")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        assert choose_server().base_url is None

    @pytest.mark.parametrize("name", ["", "a b", "../x", ".x", "x" * 65, "a\x1b[2J"])
    def test_the_name_of_a_profile_has_few_characters(self, name: str) -> None:
        with pytest.raises(UmrgenError, match="is not a name for a profile"):
            Profiles().save(Profile(name, "http://127.0.0.1:1", "k"))

    def test_an_unknown_profile_of_the_environment(self, profiles: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UMRGEN_PROFILE", "wrok")
        with pytest.raises(UmrgenError, match="there is no profile 'wrok'; there are: default, work"):
            choose_server()
