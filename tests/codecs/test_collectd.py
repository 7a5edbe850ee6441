"""What collectd posts, and the JSON values it becomes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restmq.codecs.collectd import ValueList, parse_notification, parse_putval
from restmq.errors import InvalidInput, TooLarge

SAMPLE = "PUTVAL host/plugin/type interval=10 1288548767:1:2"


def one(line: str) -> ValueList:
    (value_list,) = parse_putval(line)
    return value_list


def test_the_line_of_the_contract() -> None:
    """A line becomes host, plugin_instance, type_instance, interval and value, all text."""
    assert parse_putval(SAMPLE) == [
        {
            "host": "host",
            "plugin_instance": "plugin",
            "type_instance": "type",
            "interval": "10",
            "value": "1288548767:1:2",
        }
    ]


def test_a_body_of_several_lines() -> None:
    """Lines become objects in their order, whatever their ends; blank lines are passed over."""
    body = f"\r\n{SAMPLE}\r\n\n  \nPUTVAL b/cpu-0/cpu-idle interval=10.000 1288548768.250:U\r\n"
    assert [item["host"] for item in parse_putval(body)] == ["host", "b"]
    assert parse_putval(body)[1] == {
        "host": "b",
        "plugin_instance": "cpu-0",
        "type_instance": "cpu-idle",
        "interval": "10.000",
        "value": "1288548768.250:U",
    }


def test_several_lists_in_a_line() -> None:
    """Each list of values becomes an object, with the interval that stands before it."""
    line = "putval h/p/t N:1 interval=5 10:2:3 interval=7 meta:x=y 11:4"
    items = parse_putval(line)
    assert [(item["interval"], item["value"]) for item in items] == [
        (None, "N:1"),
        ("5", "10:2:3"),
        ("7", "11:4"),
    ]


def test_quoted_words() -> None:
    """An identifier with spaces, quotation marks or backslashes may be quoted."""
    item = one(r'PUTVAL "my host/disk-C:\\x \"y\"/t a"   interval="10"  "N:1"')
    assert item["host"] == "my host"
    assert item["plugin_instance"] == r'disk-C:\x "y"'
    assert item["type_instance"] == "t a"
    assert (item["interval"], item["value"]) == ("10", "N:1")


def test_the_last_part_may_hold_a_slash() -> None:
    """A type instance named after a mount point is kept whole."""
    assert one("PUTVAL h/df/df-/mnt/x=1 N:1")["type_instance"] == "df-/mnt/x=1"


@pytest.mark.parametrize(
    "value", ["N:1", "1:1.5", "1.25:-1e+10:+2", "1:nan:-nan:inf", "1:.5", "1:U", "1:0x1F", "1:1."]
)
def test_values_are_kept_as_they_stand(value: str) -> None:
    """Every way in which collectd and its scripts write a number is taken and left alone."""
    assert one(f"PUTVAL h/p/t interval=10 {value}")["value"] == value


@pytest.mark.parametrize(
    "line",
    [
        "PUTVAL",
        "PUTVAL h/p/t",
        "PUTVAL h/p/t interval=10",
        "PUTVAL h/p interval=10 N:1",
        "PUTVAL /p/t interval=10 N:1",
        "PUTVAL h//t interval=10 N:1",
        "PUTVAL h/p/ interval=10 N:1",
        "PUTVAL h/p/t interval=soon N:1",
        "PUTVAL h/p/t interval= N:1",
        "PUTVAL h/p/t interval=10 1",
        "PUTVAL h/p/t interval=10 N:",
        "PUTVAL h/p/t interval=10 N:1 oops",
        "PUTVAL h/p/t interval=10 :1",
        "PUTVAL h/p/t interval=10 N:one",
        "PUTVAL h/p/t interval=10 later:1",
        'PUTVAL "h/p/t interval=10 N:1',
        'PUTVAL "h/p/t"x interval=10 N:1',
        'PUTVAL "" interval=10 N:1',
        '"PUTVAL" h/p/t interval=10 N:1',
        "PUTNOTIF severity=okay time=1 message=hi",
        "oops",
    ],
)
def test_a_line_that_is_no_putval_is_told(line: str) -> None:
    """The error names the line and shows what was expected, and nothing of the body is used."""
    with pytest.raises(InvalidInput, match=r"^line 2: expected PUTVAL host/plugin/type"):
        parse_putval(f"{SAMPLE}\n{line}\n{SAMPLE}")


@pytest.mark.parametrize("body", ["", "\n", " \r\n\t\n"])
def test_an_empty_body_is_no_putval(body: str) -> None:
    """A body with no line at all is told, with what was expected."""
    with pytest.raises(InvalidInput, match="empty; expected PUTVAL"):
        parse_putval(body)


def test_the_result_is_bounded() -> None:
    """A long name repeated for many short lists cannot grow without limit."""
    line = "PUTVAL " + "h" * 1000 + "/p/t" + " N:1" * 1000
    with pytest.raises(TooLarge, match=r"line 1: .* 100000 characters"):
        parse_putval(line, max_result_characters=100_000)
    assert len(parse_putval(line)) == 1000


@given(st.text(alphabet='PUTVAL h/t=1:N"\\ \n\r\t-.', max_size=60))
@settings(deadline=None)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes anything but objects with all parts, or InvalidInput."""
    for body in (text, f"PUTVAL h/p/t {text}", f'PUTVAL "{text}" N:1'):
        try:
            items = parse_putval(body)
        except InvalidInput:
            continue
        assert items
        for item in items:
            assert item["host"]
            assert item["plugin_instance"]
            assert item["type_instance"]
            assert ":" in item["value"]


def test_the_notification_of_the_contract() -> None:
    """Headers become one-key objects with lower-case names, and the text comes last."""
    text = (
        "Severity: WARNING\nTime: 1288548727\nHost: server\nPlugin: df\nType: df\n"
        "TypeInstance: boot\nDataSource: used\nCurrentValue: 1.164974e+08\nWarningMin: nan\n"
        "WarningMax: 1.000000e+01\nFailureMin: nan\nFailureMax: nan\n\n"
        'Host server, plugin df: Data source "used" is above 10%.\n'
    )
    assert parse_notification(text) == [
        {"severity": "WARNING"},
        {"time": "1288548727"},
        {"host": "server"},
        {"plugin": "df"},
        {"type": "df"},
        {"typeinstance": "boot"},
        {"datasource": "used"},
        {"currentvalue": "1.164974e+08"},
        {"warningmin": "nan"},
        {"warningmax": "1.000000e+01"},
        {"failuremin": "nan"},
        {"failuremax": "nan"},
        {"event_text": 'Host server, plugin df: Data source "used" is above 10%.'},
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A: 1\r\n\r\ntext\r\n", [{"a": "1"}, {"event_text": "text"}]),
        ("\nA: 1\n\ntext", [{"a": "1"}, {"event_text": "text"}]),
        ("A: 1\n \t\ntext", [{"a": "1"}, {"event_text": "text"}]),
        ("A:1\nB:\n\ntext", [{"a": "1"}, {"b": ""}, {"event_text": "text"}]),
        ("A: x: y  \n\ntext", [{"a": "x: y"}, {"event_text": "text"}]),
        ("A: 1\n\n two\n\nlines: 2\n\n", [{"a": "1"}, {"event_text": " two\n\nlines: 2"}]),
        ("PluginInstance: 0\n\ntext", [{"plugininstance": "0"}, {"event_text": "text"}]),
    ],
)
def test_notifications_in_other_shapes(text: str, expected: list[dict[str, str]]) -> None:
    """Line ends, values with colons, unlisted headers and a text of several lines are taken."""
    assert parse_notification(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "Severity: WARNING",
        "Severity: WARNING\ntext",
        "Severity: WARNING\n\n",
        "Severity: WARNING\n\n \n",
        "\n\njust text",
        "just text\n\ntext",
        "Severity: WARNING\nno header\n\ntext",
        ": WARNING\n\ntext",
        "Sev erity: WARNING\n\ntext",
    ],
)
def test_what_is_no_notification_is_told(text: str) -> None:
    """Without headers, blank line and text there is no notification, and the error says so."""
    with pytest.raises(InvalidInput, match="expected lines such as Severity: WARNING"):
        parse_notification(text)


def test_the_faulty_header_is_named() -> None:
    """The error tells in which line it is."""
    with pytest.raises(InvalidInput, match=r"^line 2: "):
        parse_notification("Severity: WARNING\nno header\n\ntext")
