"""The form with a queue's settings: what it shows, and what its fields change."""

from typing import NamedTuple

from restmq.endpoints.web import Parameters, decimal_number, whole_number
from restmq.queue_settings import NONE, QueueSettings

_MAX_NUMBER = 10**12


class Field(NamedTuple):
    """One setting in the form."""

    name: str
    label: str
    hint: str
    kind: str
    """``choice``, ``number`` or ``names``."""
    unit: str = ""
    choices: tuple[str, ...] = ()


class ShownField(NamedTuple):
    """A field with what stands in it."""

    field: Field
    value: str


FIELDS = (
    Field(
        "policy",
        "Policy",
        "What streams get: all of them every message, or each message one of them.",
        "choice",
        choices=("broadcast", "roundrobin"),
    ),
    Field(
        "status",
        "Delivery to streams",
        "Stopped holds messages back from streams; publishing and taking go on.",
        "choice",
        choices=("start", "stop"),
    ),
    Field("lease_seconds", "Lease", "For leases that name no time.", "number", "seconds"),
    Field(
        "max_attempts",
        "Most attempts",
        "Deliveries before a message becomes a dead letter; 0 is never.",
        "number",
    ),
    Field(
        "ttl",
        "Time to live",
        "For messages that name none; “none” is for ever.",
        "number",
        "seconds",
    ),
    Field("delay", "Delay", "For messages that name none.", "number", "seconds"),
    Field(
        "dedupe_seconds", "Idempotency keys", "How long they are remembered.", "number", "seconds"
    ),
    Field("history_count", "History", "Messages kept for streams that come back.", "number"),
    Field("history_seconds", "History time", "How long they are kept.", "number", "seconds"),
    Field(
        "max_length",
        "Most messages",
        "How many the queue may hold; “none” is any number.",
        "number",
    ),
    Field(
        "overflow",
        "When it is full",
        "Refuse the new message, or make room.",
        "choice",
        choices=("reject", "drop-oldest", "dead-letter"),
    ),
    Field("copies_to", "Copies to", "Queues that get every message too, one a line.", "names"),
)

_WHOLE = ("max_attempts", "ttl", "history_count", "max_length")


def show_settings(settings: QueueSettings, entered: Parameters | None = None) -> list[ShownField]:
    """Return the form's fields, with what was entered, or else with what is in force."""
    shown = []
    for field in FIELDS:
        value = _spell(getattr(settings, field.name))
        if entered is not None and entered.names(field.name.encode()):
            value = (entered.raw(field.name.encode()) or b"").decode("utf-8", "replace")
        shown.append(ShownField(field, value))
    return shown


def read_changes(parameters: Parameters, settings: QueueSettings) -> dict[str, object]:
    """Return what the form changes in the settings that are in force.

    A field that was emptied takes the setting back. Raises InvalidInput for what is no number;
    whether a value may be set is for the broker to say.
    """
    changes: dict[str, object] = {}
    for field in FIELDS:
        name = field.name.encode()
        if not parameters.names(name):
            continue
        text = _normal(parameters.text(name) or "").strip("\n" if field.kind == "names" else None)
        if text != _spell(getattr(settings, field.name)):
            changes[field.name] = _read(field, text) if text else None
    return changes


def _spell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "\n".join(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _normal(text: str) -> str:
    return text.replace("\r\n", "\n")


def _read(field: Field, text: str) -> object:
    if field.kind == "choice":
        return text
    if field.kind == "names":
        return [line for line in text.split("\n") if line]
    if text == NONE:
        return NONE
    if field.name in _WHOLE:
        return whole_number(field.name, text, 0, _MAX_NUMBER)
    number = decimal_number(field.name, text, 0, _MAX_NUMBER)
    if number != number // 1:
        return number
    return int(number)
