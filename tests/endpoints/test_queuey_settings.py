"""The setting [queuey] application_keys: how it is written, and what is refused."""

from pathlib import Path

import pytest

from restmq.errors import SettingsError
from restmq.settings import Settings, knobs
from restmq.settings_sources import load


def load_file(directory: Path, text: str) -> Settings:
    """Load settings from a file with this text."""
    (directory / "restmq.toml").write_text(text)
    return load({}, {}, directory)


def test_applications_have_a_key_or_several(tmp_path: Path) -> None:
    text = '[queuey.application_keys]\ndemo = "K"\nother = ["K2", "a,b=c"]\nnone = []\n'
    settings = load_file(tmp_path, text)
    assert settings.queuey_application_keys == ("demo=K", "other=K2", "other=a,b=c")


def test_keys_can_be_flags_or_variables(tmp_path: Path) -> None:
    environ = {"RESTMQ_QUEUEY_APPLICATION_KEYS": "demo=K, demo=K2"}
    assert load({}, environ, tmp_path).queuey_application_keys == ("demo=K", "demo=K2")
    flags = {"queuey_application_keys": "x=y=z"}
    assert load(flags, environ, tmp_path).queuey_application_keys == ("x=y=z",)


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ('"secret"', "name"),
        ("1", "names, each with a text or texts"),
        ("{ demo = 1 }", "names, each with a text or texts"),
        ('{ demo = ["secret", 1] }', "names, each with a text or texts"),
        ('{ demo = "" }', "a key of demo"),
        ('{ demo = "secret;x" }', "a key of demo"),
        ('{ demo = "secret x" }', "a key of demo"),
        ('{ demo = "sécret" }', "a key of demo"),
        ('{ "a/b" = "secret" }', "an application's name"),
        ('{ "" = "secret" }', "an application's name"),
        ('{ a = "secret", b = "secret" }', "a and b cannot have the same key"),
    ],
)
def test_what_cannot_be_a_key_is_refused_and_not_shown(
    tmp_path: Path, value: str, remedy: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_file(tmp_path, f"[queuey]\napplication_keys = {value}\n")
    assert "[queuey] application_keys" in str(caught.value)
    assert remedy in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "sécret" not in str(caught.value)


def test_keys_are_never_shown() -> None:
    (knob,) = (knob for knob in knobs() if knob.name == "queuey_application_keys")
    assert knob.format(("demo=secret", "other=secret")) == "demo=***,other=***"
    assert "secret" not in repr(Settings(queuey_application_keys=("demo=secret",)))
