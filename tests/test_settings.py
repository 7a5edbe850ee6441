"""Settings: which layer wins, what is refused and with which words, and what knobs() tells."""

import errno
from collections.abc import Mapping
from pathlib import Path

import pytest

from restmq.errors import SettingsError
from restmq.knobs import Knob
from restmq.queue_settings import Patterns
from restmq.settings import Settings, knobs
from restmq.settings_sources import load


def write_file(directory: Path, text: str, name: str = "restmq.toml") -> Path:
    """Write a settings file and return its path."""
    file = directory / name
    file.write_text(text, encoding="utf-8")
    return file


def refusal(
    tmp_path: Path,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Return the text of the SettingsError that these settings cause."""
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, environ or {}, tmp_path)
    return str(caught.value)


class TestPrecedence:
    def test_without_any_source_every_setting_has_its_default(self, tmp_path):
        settings = load({}, {}, tmp_path)
        assert settings == Settings(data_dir=tmp_path / "restmq-data")
        assert (settings.listen, settings.port, settings.workers) == ("127.0.0.1", 8888, 1)
        assert set(settings.sources.values()) == {"default"}
        assert set(settings.sources) == {knob.name for knob in knobs()}

    def test_later_sources_win_and_sources_tell_which_one_did(self, tmp_path):
        file = write_file(tmp_path, "[server]\nport = 1\nworkers = 2\nredis_pool = 3\n")
        environ = {"RESTMQ_WORKERS": "4", "RESTMQ_REDIS_POOL": "5"}
        settings = load({"redis_pool": 6}, environ, tmp_path)
        assert (settings.port, settings.workers, settings.redis_pool) == (1, 4, 6)
        assert settings.sources["port"] == f"{file} [server] port"
        assert settings.sources["workers"] == "RESTMQ_WORKERS"
        assert settings.sources["redis_pool"] == "--redis-pool"
        assert settings.sources["listen"] == "default"

    def test_flags_that_were_not_given_hide_nothing(self, tmp_path):
        flags = {"config": None, "port": None, "allowed_origins": ()}
        environ = {"RESTMQ_PORT": "9", "RESTMQ_ALLOWED_ORIGINS": "*"}
        settings = load(flags, environ, tmp_path)
        assert (settings.port, settings.allowed_origins) == (9, ("*",))

    def test_the_named_file_replaces_the_default_file_and_the_flag_names_it_last(self, tmp_path):
        write_file(tmp_path, "[server]\nport = 1\nworkers = 7\n")
        write_file(tmp_path, "[server]\nport = 2\n", "second.toml")
        write_file(tmp_path, "[server]\nport = 3\n", "third.toml")
        environ = {"RESTMQ_CONFIG": "second.toml"}
        assert load({}, environ, tmp_path).port == 2
        assert load({}, environ, tmp_path).workers == 1
        assert load({"config": "third.toml"}, environ, tmp_path).port == 3
        assert load({"config": tmp_path / "third.toml"}, {}, Path("/")).port == 3

    def test_flags_may_be_text_or_already_typed(self, tmp_path):
        assert load({"port": "17"}, {}, tmp_path).port == 17
        assert load({"port": 17}, {}, tmp_path).port == 17
        assert load({"ping_seconds": "2.5"}, {}, tmp_path).ping_seconds == 2.5

    def test_a_section_puts_its_name_before_its_keys(self, tmp_path):
        write_file(tmp_path, "[syslog]\nport = 25000\n")
        assert load({}, {}, tmp_path).syslog_port == 25000
        assert load({}, {"RESTMQ_SYSLOG_PORT": "1"}, tmp_path).syslog_port == 1
        assert load({"syslog_port": 2}, {"RESTMQ_SYSLOG_PORT": "1"}, tmp_path).syslog_port == 2

    def test_relative_data_directories_count_from_the_working_directory(self, tmp_path):
        assert load({"data_dir": "here"}, {}, tmp_path).data_dir == tmp_path / "here"
        assert load({"data_dir": "/there"}, {}, tmp_path).data_dir == Path("/there")

    def test_whole_numbers_are_taken_for_seconds_and_choices_in_any_case(self, tmp_path):
        write_file(tmp_path, '[server]\nping_seconds = 5\nlog_level = "DEBUG"\n')
        settings = load({}, {}, tmp_path)
        assert settings.ping_seconds == 5.0
        assert settings.log_level == "debug"

    def test_variables_of_the_platform_are_ignored(self, tmp_path):
        assert load({}, {"RESTMQ_SERVICE_HOST": "10.0.0.1", "PORT": "x"}, tmp_path) == load(
            {}, {}, tmp_path
        )


class TestLists:
    def test_lists_are_arrays_in_the_file_and_separated_by_commas_elsewhere(self, tmp_path):
        write_file(tmp_path, '[server]\ntrusted_proxies = ["10.0.0.1", "fd00::/8"]\n')
        expected = ("10.0.0.1", "fd00::/8")
        assert load({}, {}, tmp_path).trusted_proxies == expected
        flags = {"trusted_proxies": "10.0.0.1, fd00::/8,"}
        assert load(flags, {}, tmp_path).trusted_proxies == expected
        assert load({}, {"RESTMQ_TRUSTED_PROXIES": ""}, tmp_path).trusted_proxies == ()

    def test_origins_are_kept_as_browsers_send_them(self, tmp_path):
        given = "*,HTTPS://Example.org:443,http://localhost:3000,http://[::1]:8080,app://x"
        assert load({"allowed_origins": given}, {}, tmp_path).allowed_origins == (
            "*",
            "https://example.org",
            "http://localhost:3000",
            "http://[::1]:8080",
            "app://x",
        )

    @pytest.mark.parametrize(
        "origin",
        [
            "example.org",
            "https://example.org/",
            "https://example.org/path",
            "https://example.org?x",
            "https://user@example.org",
            "https://example.org:99999",
            "https://exämple.org",
            "https://",
            "null",
        ],
    )
    def test_what_is_no_origin_is_refused(self, tmp_path, origin):
        text = refusal(tmp_path, environ={"RESTMQ_ALLOWED_ORIGINS": origin})
        assert text.startswith("RESTMQ_ALLOWED_ORIGINS: allowed_origins")
        assert repr(origin) in text
        assert "scheme://host[:port]" in text

    @pytest.mark.parametrize("host", ["http://mq.example", "mq.example:8888", "*", "a b", "[::1]"])
    def test_what_is_no_name_of_a_host_is_refused(self, tmp_path, host):
        assert repr(host) in refusal(tmp_path, {"allowed_hosts": host})
        known = ("mq.example", "My-Box")
        assert load({"allowed_hosts": ",".join(known)}, {}, tmp_path).allowed_hosts == known

    @pytest.mark.parametrize("network", ["10.0.0.1/8", "proxy.example.org", "10.0.0.300"])
    def test_what_is_no_network_is_refused(self, tmp_path, network):
        text = refusal(tmp_path, {"trusted_proxies": network})
        assert text.startswith("--trusted-proxies: trusted_proxies")
        assert network in text
        assert "10.0.0.0/8" in text


class TestRefusals:
    """Each refusal names where the value stands, the setting, and what would be right."""

    @pytest.mark.parametrize("knob", knobs(), ids=lambda knob: knob.name)
    def test_every_limit_is_kept_and_told(self, tmp_path, knob):
        for limit, beyond in ((knob.minimum, -1), (knob.maximum, 1)):
            if limit is None:
                continue
            inside = load({knob.name: knob.value_type(limit)}, {}, tmp_path)
            assert getattr(inside, knob.name) == limit
            text = refusal(tmp_path, {knob.name: knob.value_type(limit + beyond)})
            assert text.startswith(f"{knob.flag}: {knob.name} cannot be")
            assert knob.expected in text

    @pytest.mark.parametrize(
        ("variable", "value", "remedy"),
        [
            ("RESTMQ_PORT", "abc", "a whole number from 0 to 65535"),
            ("RESTMQ_PORT", "", "a whole number from 0 to 65535"),
            ("RESTMQ_PORT", "8_888", "a whole number from 0 to 65535"),
            ("RESTMQ_PING_SECONDS", "soon", "a number from 0.1 to 3600"),
            ("RESTMQ_PING_SECONDS", "nan", "a number from 0.1 to 3600"),
            ("RESTMQ_DRAIN_SECONDS", "inf", "a number from 0 to 3600"),
            ("RESTMQ_FSYNC", "sometimes", "one of always, everysec, no"),
            ("RESTMQ_LOG_LEVEL", "loud", "one of debug, info, warning, error, critical"),
            ("RESTMQ_DATA_DIR", "", "a path"),
            ("RESTMQ_LISTEN", " ", "must not be empty"),
            ("RESTMQ_ACL", "", "must not be empty"),
            ("RESTMQ_REDIS_HOST", "", "must not be empty"),
        ],
    )
    def test_bad_values_in_variables(self, tmp_path, variable, value, remedy):
        text = refusal(tmp_path, environ={variable: value})
        name = variable.removeprefix("RESTMQ_").lower()
        assert text.startswith(f"{variable}: {name} cannot be {value!r}; ")
        assert remedy in text

    @pytest.mark.parametrize(
        ("line", "remedy"),
        [
            ('port = "8888"', "a whole number"),
            ("port = 8888.0", "a whole number"),
            ("port = true", "a whole number"),
            ("ping_seconds = true", "a number"),
            ("ping_seconds = nan", "a number"),
            ("listen = 5", "text"),
            ("data_dir = 5", "a path"),
            ('allowed_origins = "*"', "a list of strings"),
            ("allowed_origins = [1]", "a list of strings"),
            ("redis_url = 5", "text"),
        ],
    )
    def test_bad_types_in_the_file(self, tmp_path, line, remedy):
        file = write_file(tmp_path, f"[server]\n{line}\n")
        name = line.partition(" ")[0]
        text = refusal(tmp_path)
        assert text.startswith(f"{file} [server] {name}: {name} cannot be")
        assert remedy in text

    def test_a_bad_value_is_refused_even_where_a_later_source_wins(self, tmp_path):
        write_file(tmp_path, "[server]\nport = 70000\n")
        assert "70000" in refusal(tmp_path, {"port": 8888})

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("[server]\nprot = 1\n", ["'prot'", "[server]", "did you mean port?"]),
            ("[server]\nzzzzzz = 1\n", ["'zzzzzz'", "[server]", "listen, port"]),
            ("[syslog]\nsyslog_port = 1\n", ["'syslog_port'", "[syslog]", "port"]),
            ("[sever]\nport = 1\n", ["'sever'", "[server] [syslog]"]),
            ("port = 1\n", ["'port'", "outside a section", "[server] [syslog]"]),
            ("server = 1\n", ["server", "written [server]"]),
            ("[server\n", ["TOML"]),
        ],
    )
    def test_unknown_names_and_sections_and_broken_files(self, tmp_path, content, told):
        file = write_file(tmp_path, content)
        text = refusal(tmp_path)
        assert text.startswith(str(file))
        for part in told:
            assert part in text

    def test_a_file_that_is_not_utf8_is_refused_by_name(self, tmp_path):
        (tmp_path / "restmq.toml").write_bytes(b'[server]\nlisten = "\xff"\n')
        assert "restmq.toml" in refusal(tmp_path)

    def test_a_named_file_must_exist(self, tmp_path):
        text = refusal(tmp_path, {"config": "missing.toml"})
        assert text.startswith("--config: ")
        assert str(tmp_path / "missing.toml") in text
        assert refusal(tmp_path, environ={"RESTMQ_CONFIG": "m"}).startswith("RESTMQ_CONFIG: ")

    def test_unknown_flags_are_refused(self, tmp_path):
        assert "did you mean port?" in refusal(tmp_path, {"prot": 1})


class TestRedisAddress:
    @pytest.mark.parametrize(
        ("flags", "url"),
        [
            ({}, None),
            ({"redis_db": 3}, None),
            ({"redis_pool": 3}, None),
            ({"redis_host": "h"}, "redis://h:6379/0"),
            ({"redis_host": "::1", "redis_db": 2}, "redis://[::1]:6379/2"),
            ({"redis_port": 7000}, "redis://127.0.0.1:7000/0"),
            ({"redis_port": 6379}, "redis://127.0.0.1:6379/0"),
            ({"redis_host": "h", "redis_port": 1, "redis_db": 9}, "redis://h:1/9"),
            ({"redis_url": "redis://h"}, "redis://h"),
        ],
    )
    def test_naming_a_host_port_or_url_means_an_external_redis(self, tmp_path, flags, url):
        assert load(flags, {}, tmp_path).external_redis_url == url

    def test_settings_made_without_load_answer_too(self):
        assert Settings().external_redis_url is None
        assert Settings(redis_port=7000).external_redis_url == "redis://127.0.0.1:7000/0"

    @pytest.mark.parametrize(
        "url",
        [
            "redis://localhost",
            "redis://user:secret@localhost:6379/3",
            "redis://[::1]:6379",
            "rediss://redis.example.org:6380/0?ssl_cert_reqs=none",
            "unix:///run/redis.sock?db=1",
            "unix://user@/run/redis.sock",
            "redis+sentinel://a:26379,b:26379/mymaster/0",
            "redis+cluster://a:7000,b:7001",
        ],
    )
    def test_urls_of_the_known_schemes_are_taken(self, tmp_path, url):
        assert load({"redis_url": url}, {}, tmp_path).external_redis_url == url

    @pytest.mark.parametrize(
        ("url", "remedy"),
        [
            ("http://secret@localhost", "rediss://"),
            ("localhost:6379", "redis://"),
            ("REDIS://secret@localhost", "redis://"),
            ("redis://:secret@", "must name a host"),
            ("redis+cluster://", "must name a host"),
            ("redis://user:secret@localhost:port", "malformed"),
            ("redis://secret@[::1", "malformed"),
            ("unix://run/secret.sock", "unix:///"),
            ("unix://", "unix:///"),
        ],
    )
    def test_other_urls_are_refused_without_repeating_them(self, tmp_path, url, remedy):
        text = refusal(tmp_path, environ={"RESTMQ_REDIS_URL": url})
        assert text.startswith("RESTMQ_REDIS_URL: redis_url ")
        assert remedy in text
        assert "secret" not in text

    def test_a_url_and_classic_names_contradict_each_other(self, tmp_path):
        for flags in ({"redis_host": "h"}, {"redis_port": 6379}, {"redis_db": 1}):
            text = refusal(tmp_path, flags, {"RESTMQ_REDIS_URL": "redis://:secret@h"})
            (name,) = flags
            assert "redis_url (RESTMQ_REDIS_URL)" in text
            assert f"{name} (--{name.replace('_', '-')})" in text
            assert "secret" not in text


class TestMemoryRedisAddress:
    def test_it_is_checked_and_kept_like_the_first_one(self, tmp_path):
        url = "redis://:secret@localhost:6380/0"
        settings = load({"memory_redis_url": url}, {}, tmp_path)
        assert settings.memory_redis_url == url
        assert "secret" not in repr(settings)
        text = refusal(tmp_path, environ={"RESTMQ_MEMORY_REDIS_URL": "http://secret@h"})
        assert text.startswith("RESTMQ_MEMORY_REDIS_URL: memory_redis_url ")
        assert "secret" not in text
        assert load({}, {}, tmp_path).memory_redis_url == ""

    def test_it_must_be_another_one_than_the_first(self, tmp_path):
        url = "redis://:secret@h:6379/0"
        text = refusal(tmp_path, {"redis_url": url, "memory_redis_url": url})
        assert text.startswith("--memory-redis-url: ")
        assert "secret" not in text
        classic = {"redis_host": "h", "memory_redis_url": "redis://h:6379/0"}
        assert "another Redis, or another database" in refusal(tmp_path, classic)
        other = load({**classic, "memory_redis_url": "redis://h:6379/1"}, {}, tmp_path)
        assert other.external_redis_url == "redis://h:6379/0"

    def test_patterns_for_memory_need_it_beside_a_named_redis(self, tmp_path):
        file = write_file(tmp_path, '[queues."fast.*"]\nstorage = "memory"\n')
        assert load({}, {}, tmp_path).queues.overrides("fast.1") == {"storage": "memory"}
        text = refusal(tmp_path, {"redis_host": "h"})
        assert text.startswith(str(file))
        assert "memory_redis_url" in text
        flags = {"redis_host": "h", "memory_redis_url": "redis://other"}
        assert load(flags, {}, tmp_path).memory_redis_url == "redis://other"


class TestQueuePatterns:
    """Sections [queues."pattern"]; what may be in them is tested with queue_settings."""

    def test_they_are_read_in_their_order_with_the_rest(self, tmp_path):
        file = write_file(
            tmp_path,
            '[queues."jobs.*"]\nttl = 5\ncopies_to = ["audit"]\n'
            "[server]\nport = 17\n"
            "[queues.'jobs.a']\ndelay = 7\n"
            "[queues.'*.a']\nttl = 6\n",
        )
        settings = load({}, {}, tmp_path)
        assert settings.port == 17
        assert settings.queues.overrides("jobs.a") == {
            "ttl": 6,
            "copies_to": ("audit",),
            "delay": 7,
        }
        assert settings.config_file == file
        assert "queues" not in settings.sources

    def test_they_may_be_inline_tables(self, tmp_path):
        write_file(tmp_path, '[queues]\n"a*" = { ttl = 5 }\nab = { ttl = 6 }\n')
        patterns = load({}, {}, tmp_path).queues
        assert [patterns.overrides(name).get("ttl") for name in ("a", "ab", "b")] == [5, 6, None]

    def test_without_a_file_there_are_none(self, tmp_path):
        settings = load({}, {"RESTMQ_QUEUES": "x"}, tmp_path)
        assert settings.queues == Patterns()
        assert settings.config_file is None
        assert "did you mean" in refusal(tmp_path, {"worker": 1})

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ('[queues."jobs.*"]\ntll = 5\n', """ [queues."jobs.*"]: unknown setting 'tll'; did"""),
            ('[queues."jobs.*"]\nttl = 0\n', ' [queues."jobs.*"]: ttl cannot be 0; it must be'),
            ("[queues.jobs.a]\nttl = 5\n", 'put [queues."jobs.a"]'),
            ("[queues]\nttl = 5\n", 'written [queues."ttl"]'),
            ("queues = 5\n", 'each written [queues."pattern"]'),
            ("[queue.a]\nttl = 5\n", '[queues."pattern"]'),
        ],
    )
    def test_mistakes_are_told_with_file_section_and_setting(self, tmp_path, content, told):
        file = write_file(tmp_path, content)
        text = refusal(tmp_path)
        assert text.startswith(str(file))
        assert told in text


class TestKnobs:
    def test_each_knob_has_all_its_spellings_and_a_help_text(self):
        by_name = {knob.name: knob for knob in knobs()}
        host = by_name["redis_host"]
        assert (host.flag, host.environment) == ("--redis-host", "RESTMQ_REDIS_HOST")
        assert (host.section, host.key, host.value_type) == ("server", "redis_host", str)
        syslog = by_name["syslog_port"]
        assert (syslog.flag, syslog.environment) == ("--syslog-port", "RESTMQ_SYSLOG_PORT")
        assert (syslog.section, syslog.key, syslog.default) == ("syslog", "port", 0)
        assert all(knob.help_text.endswith(".") for knob in knobs())

    @pytest.mark.parametrize("knob", knobs(), ids=lambda knob: knob.name)
    def test_the_printed_default_is_a_value_the_flag_takes(self, tmp_path, knob):
        printed = knob.format(knob.default)
        if knob.default is not None:
            assert knob.convert(printed, "--x", textual=True) == knob.default

    def test_passwords_are_neither_printed_nor_in_the_repr(self):
        url = "redis://user:secret@host/0?password=secret&db=1"
        (knob,) = (knob for knob in knobs() if knob.name == "redis_url")
        assert knob.format(url) == "redis://***@host/0?password=***&db=1"
        assert "secret" not in repr(Settings(redis_url=url))

    def test_yes_and_no_are_read_in_their_usual_spellings(self):
        knob = Knob("test_mode", "rse", bool, False, "Whether.")
        assert knob.key == "test_mode"
        for text, value in (("yes", True), ("ON", True), ("1", True), ("false", False)):
            assert knob.convert(text, "RESTMQ_X", textual=True) is value
        assert knob.format(True) == "true"
        assert knob.convert(True, "file", textual=False) is True
        with pytest.raises(SettingsError, match="true or false"):
            knob.convert("perhaps", "RESTMQ_X", textual=True)
        with pytest.raises(SettingsError, match="true or false"):
            knob.convert(1, "file", textual=False)


@pytest.mark.parametrize("flags", [{}, {"config": "restmq.toml"}])
def test_a_file_that_may_not_be_looked_for_is_a_settings_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, object]
) -> None:
    """As in a directory that this user may not enter."""

    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(SettingsError, match=r"restmq\.toml cannot be read: Permission denied"):
        load(flags, {}, tmp_path)
