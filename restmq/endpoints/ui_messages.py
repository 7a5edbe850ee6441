"""Messages as the dashboard lists them: ready ones, dead letters, and one in any state."""

from typing import NamedTuple

from restmq.broker.dead_letters import DeadLetter
from restmq.broker.keys import message_key
from restmq.broker.message import Message
from restmq.broker.stats import MessageState
from restmq.endpoints.ui_text import Shown, show_bytes, show_time
from restmq.endpoints.ui_values import ShownValue, show_value

_STATE_TIMES = {"leased": "Lease ends", "delayed": "Ready", "dead": "Died"}


class Row(NamedTuple):
    """A message as a page lists it."""

    number: int
    key: str
    published: Shown
    value: ShownValue
    size: Shown
    details: list[tuple[str, Shown]]
    """What else is known of it, by name."""


def message_row(queue: str, message: Message, *further: tuple[str, Shown]) -> Row:
    """Return what is shown of a message, ``further`` details first."""
    attributes, value = message.attributes, message.value
    details = list(further)
    if attributes.content_type:
        details.append(("Type", Shown(attributes.content_type)))
    details.append(("Priority", Shown(str(message.priority))))
    if message.expires:
        details.append(("Expires", show_time(message.expires)))
    details += [(name, Shown(text)) for name, text in (attributes.headers or {}).items()]
    return Row(
        message.number,
        message_key(queue, message.number),
        show_time(message.published),
        show_value(value),
        show_bytes(len(value)),
        details,
    )


def letter_row(queue: str, letter: DeadLetter) -> Row:
    """Return what is shown of a dead letter: first reason, attempts and when it died."""
    story = (
        ("Reason", Shown(letter.reason or "unknown")),
        ("Attempts", Shown(str(letter.attempts))),
        ("Died", show_time(letter.died)),
    )
    return message_row(queue, letter.message, *story)


def state_row(queue: str, found: MessageState) -> Row:
    """Return what is shown of a message that was looked for, with its state and story."""
    story = [("State", Shown(found.state)), ("Attempts", Shown(str(found.attempts)))]
    if found.state in _STATE_TIMES:
        story.append((_STATE_TIMES[found.state], show_time(found.since_or_until)))
    if found.last_error:
        story.append(("Last error", Shown(found.last_error)))
    return message_row(queue, found.message, *story)
