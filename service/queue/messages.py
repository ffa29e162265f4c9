"""Drop what a broker of Redis hands out and is no message of ours, before Celery takes it apart.

RabbitMQ's messages have a form that its protocol keeps. In Redis a message is whatever somebody pushed to a list: one that is no JSON
ended the worker that took it, one without an `id` had it connect again and again for good, and an entry among the unacknowledged that
is none ended every worker that started. Dropping is harmless, as losing any message is.
"""

import base64
import json
import traceback
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from kombu import transport
from kombu.transport import redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from service.log import get_logger

log = get_logger()

SCHEMES: Final = ("redis", "rediss")  # of the URLs that this holds for
REDELIVERED: Final = "redelivered"  # a header that kombu adds to what a worker gave back
PARENT: Final = "parent_id"  # of what is sent from within a task, its number; nothing otherwise


class Unacknowledged(redis.QoS):
    """Give back what a worker took and did not finish; an entry that is none of ours is dropped."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put one message back into its queue, or drop what is none."""
        with self.channel.conn_or_acquire(client) as connection:
            entry = connection.hget(self.unacked_key, tag)
            if entry is None or _is_entry(entry):
                super().restore_by_tag(tag, connection, leftmost)  # type: ignore[no-untyped-call]  # kombu has no types
            else:
                self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]
                log.error("message dropped: what was taken has not the form of ours")


class Channel(redis.Channel):
    """Take messages out of Redis; what is no JSON is dropped."""

    QoS = Unacknowledged

    def _brpop_read(self, **options: Any) -> Any:
        self.connection.has_parsed = False
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]  # kombu has no types
        except Exception as error:
            if self.connection.has_parsed or not _is_of_the_bytes(error):
                raise
            log.error("message dropped: it cannot be read", error=type(error).__name__)
            return None


class Transport(redis.Transport):
    """Deliver messages; what has not the form of ours is dropped."""

    Channel = Channel
    headers: ClassVar[Mapping[str, Any]] = {}  # of a message of ours
    embedded: ClassVar[Mapping[str, Any]] = {}  # what its body holds beside arguments
    has_parsed = False

    def _deliver(self, message: Any, queue: str) -> None:
        self.has_parsed = True
        if is_ours(message, self.headers, self.embedded):
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]  # kombu has no types
        else:
            log.error("message dropped: it has not the form of ours", queue=queue)


def _is_entry(found: bytes) -> bool:
    """Whether kombu wrote this of a message of ours: the message, its exchange and its key."""
    try:
        message, exchange, key = loads(bytes_to_str(found))  # type: ignore[no-untyped-call]
        route = message["properties"]["delivery_info"]
        return (route["exchange"], route["routing_key"]) == (exchange, key) and is_ours(
            message, Transport.headers, Transport.embedded
        )
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return False


def _is_of_the_bytes(error: Exception) -> bool:
    """Whether it was raised where kombu makes text and JSON of what came, not by the connection."""
    return any(frame.name in ("bytes_to_str", "loads") for frame in traceback.extract_tb(error.__traceback__))


def is_ours(found: Any, headers: Mapping[str, Any], embedded: Mapping[str, Any]) -> bool:
    """Whether a message has the form of one of ours, so that no library meets what it did not expect."""
    try:
        properties = found["properties"]
        route = properties["delivery_info"]
        texts = properties["delivery_tag"], route["exchange"], route["routing_key"]
        said = dict(found["headers"])
        again, parent = said.pop(REDELIVERED, True), said.pop(PARENT)
        arguments, named, beside = json.loads(base64.b64decode(found["body"], validate=True))
        return (
            all(isinstance(text, str) and text.isascii() for text in texts)
            and properties["body_encoding"] == "base64"
            and (found["content-type"], found["content-encoding"]) == ("application/json", "utf-8")
            and again is True
            and (parent is None or _like(parent, ""))
            and said.keys() == headers.keys() - {PARENT}
            and all(_like(value, headers[name]) for name, value in said.items())
            and isinstance(arguments, list)
            and all(isinstance(each, int) for each in arguments)
            and (named, beside) == ({}, embedded)
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False


def _like(found: Any, ours: Any) -> bool:
    """Texts differ from message to message, e.g. its number; nothing else does."""
    return (isinstance(found, str) and found.isascii()) if isinstance(ours, str) else bool(found == ours)


def take_only(headers: Mapping[str, Any], embedded: Mapping[str, Any]) -> None:
    """Let every connection of this process to a Redis take messages like this one and drop all others."""
    Transport.headers, Transport.embedded = headers, embedded
    transport.TRANSPORT_ALIASES.update(dict.fromkeys(SCHEMES, f"{__name__}:Transport"))
