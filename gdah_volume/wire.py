"""Messages of the operation lane, between mounts and servers and between servers, with their limits.

One binary WebSocket frame is one message: msgpack of a tagged array. The one who dialled (a mount, or a peer) is the
DIALLER, the other the SERVER of the conversation. Both decode strictly: an unknown tag, a wrong type, a bound
exceeded is a BadMessage, answered with `Failed` and the end of this connection alone.

A conversation::

    dialler                              server
    Hello(protocol, role, ...)        ->
                                      <- Welcome(server, epoch, head, stable, sequences, ...)
    Offer(ids with stamps)            ->                                  what it holds above the stable point
                                      <- Want(ids)
    Handover(entries, blobs)          ->                                  idempotent, tentative
                                      <- HandedOver(head)
    Subscribe(cursor or above)        ->
                                      <- Feed(entries...)                 in order of position
    Held(position)                    ->                                  "I have stored all up to here"
    Submit(op, blobs, strict, sync)   ->
                                      <- Feed([... the operation])        always before its Ack
                                      <- Ack(id, stamp, position, copies, of) | Refused(id, code, message)
    Beat(...)                         <->                                 about 10 a second each way
    LockClaim, LockAsk                ->                                  a mount and locks; see docs/PROTOCOL.md
                                      <- LockTold(...) | LockRecall(node) | LockAgain()

A POSITION is the place of an operation in one server's order of arrival (it has no meaning elsewhere, and none in
another EPOCH of the same server); an operation that was re-stamped gets a new one. The order of the fold is that of the
stamps.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gdah_volume.content import INLINE_MAX_BYTES, ChunkHash
from gdah_volume.errors import BadMessage, GdahError, MessageTooBig, VersionFromTheFuture
from gdah_volume.ids import EPOCH_PATTERN, SERVER_PATTERN, Author, Epoch, OpId, ServerId, VolumeName
from gdah_volume.lock_messages import (
    LockAgain,
    LockAsk,
    LockBeat,
    LockClaim,
    LockClients,
    LockGiven,
    LockRecall,
    LockTold,
    Number,
    check_lock_message,
)
from gdah_volume.operations import Operation, check_operation
from gdah_volume.stamps import Stamp

PROTOCOL = 2
PROTOCOL_MIN = 2
"""Since 2 there is Exchange, which 1 can neither read nor apply: who speaks 1 would show another tree."""
MESSAGE_MAX_BYTES = 16 << 20
"""A frame; the largest is a batch of feed entries with inline content or a Write of a 64 GiB file (about 3 MiB)."""
BATCH_MAX_ENTRIES = 512
BATCH_MAX_BYTES = 4 << 20
OFFER_MAX_IDS = 4096
BEAT_INTERVAL_S = 0.1
SILENCE_LIMIT_S = 0.4
"""No message for so long: the other side is taken for dead, whatever TCP says."""


Server = Annotated[ServerId, msgspec.Meta(pattern=rf"\A{SERVER_PATTERN}\Z")]
EpochName = Annotated[Epoch, msgspec.Meta(pattern=rf"\A{EPOCH_PATTERN}\Z")]
"""With `Number`: what they hold is stored and compared in databases, so the bounds are part of the type."""


def check_protocol(protocol: int, speaker: str) -> None:
    """Raises VersionFromTheFuture, at whichever end is the newer."""
    if not PROTOCOL_MIN <= protocol <= PROTOCOL:
        older = "this side" if protocol > PROTOCOL else "the other side"
        raise VersionFromTheFuture(
            f"{speaker} speaks protocol {protocol}, here it is {PROTOCOL_MIN} to {PROTOCOL}: update {older}"
        )


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """The bytes of one small chunk that an operation names; at most INLINE_MAX_BYTES."""

    hash: ChunkHash
    data: bytes


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """An operation in a log: its stamp, its content if small, whether its author waits for the disk.

    `position` is that of the sender's log (0 in a Handover).
    """

    position: Number
    stamp: Stamp
    op: Operation
    blobs: tuple[Blob, ...] = ()
    sync: bool = False


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello", kw_only=True):
    protocol: int
    volume: VolumeName
    role: Literal["mount", "server"]
    software: str
    author: Author
    """Of a mount: the author of its operations now. Of a server: the author of those it makes itself."""
    server: Server | None = None
    epoch: EpochName | None = None
    url: str | None = None
    """Where a server that dials can be reached itself, if it knows."""
    head: Number = 0
    device: str = ""
    locks: bool = False
    """Knows the messages about locks. (An older one would take them for nonsense.)"""
    shows: bool = False
    """A mount: I say Shown, if your Welcome says that you want to hear it."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome", kw_only=True):
    protocol: int
    server: Server
    epoch: EpochName
    software: str
    head: Number
    """Position of the newest entry in this server's log."""
    first: Number
    """Position of the oldest entry that is still in the log (head + 1 when it is empty)."""
    stable: Stamp
    members: tuple[tuple[Server, str], ...]
    """Every server of the volume that is known here, itself included, with its URL ('' when unknown)."""
    your_cursor: Number = 0
    """To a peer: how far this server has read the peer's log (of the epoch that it said hello with)."""
    locks: bool = False
    """As in `Hello`."""
    shows: bool = False
    """Shown is understood here."""
    run: str = ""
    """Names one run of the server's process: while it lasts, nothing that it told is lost."""
    retired: tuple[tuple[ServerId, str], ...] = ()
    """Servers that are no members any more for good, with their URLs: what they stamped and no member has is void."""
    operations: Number = 0
    """How many this server has ever held."""
    behind: Number = 0
    """As in `Beat`."""


class Subscribe(msgspec.Struct, frozen=True, array_like=True, tag="subscribe", kw_only=True):
    """Begin the feed after `cursor` if the dialler knows this server and epoch, else with all stamps > `above`."""

    cursor: Number | None = None
    above: Stamp | None = None
    blobs: bool = False
    """Peers want small content inside the entries; mounts fetch what they read."""
    last: str = ""
    """The operation at `cursor`, if known: a server that has another one there has lost its log (an old backup)."""


class Feed(msgspec.Struct, frozen=True, array_like=True, tag="feed", kw_only=True):
    entries: tuple[Entry, ...]
    everywhere: Number
    """Every member of the volume holds all entries up to this position of this log, with their content."""
    stable: Stamp
    """No smaller stamp can arrive any more, anywhere."""
    up_to: Number = 0
    """To a peer: what lies up to this position and is in no feed came from the peer itself (0: says nothing)."""
    last: str = ""
    """The operation at `up_to`."""
    shown_later: bool = False
    """To a peer: mounts here do not show these entries yet; Shown follows."""


class Shown(msgspec.Struct, frozen=True, array_like=True, tag="shown", kw_only=True):
    """A mount to its server: programs here see your log up to `position`. A server to a peer: programs of all mounts
    that are connected to me see my own log up to there."""

    position: Number


class SnapshotNeeded(msgspec.Struct, frozen=True, array_like=True, tag="snapshot_needed", kw_only=True):
    """The log does not reach back that far: fetch a snapshot on the data lane, then subscribe after it."""

    first: Number


class Held(msgspec.Struct, frozen=True, array_like=True, tag="held", kw_only=True):
    """A peer: all entries up to `position` of your log are stored here, with their content (and synced where asked)."""

    position: Number


class Submit(msgspec.Struct, frozen=True, array_like=True, tag="submit", kw_only=True):
    """A new operation. `floor`: the highest stamp that its author had seen. `strict`: refuse it if its precondition
    fails; never set on a retry that may have been logged elsewhere. `sync`: on disk before the answer."""

    op: Operation
    floor: Stamp
    blobs: tuple[Blob, ...] = ()
    strict: bool = False
    sync: bool = False


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack", kw_only=True):
    id: OpId
    stamp: Stamp
    position: Number
    copies: Number
    of: Number


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused", kw_only=True):
    """The operation `id` was not logged. `code` names a class of `gdah_volume.errors`."""

    id: OpId
    code: str
    message: str


class Offer(msgspec.Struct, frozen=True, array_like=True, tag="offer", kw_only=True):
    stamped: tuple[tuple[OpId, Stamp], ...]


class Want(msgspec.Struct, frozen=True, array_like=True, tag="want", kw_only=True):
    """Of one Offer: those that are unknown here, or known with a larger stamp."""

    ids: tuple[OpId, ...]


class Handover(msgspec.Struct, frozen=True, array_like=True, tag="handover", kw_only=True):
    """Operations that another server stamped, told by one who has them. `last`: no more batches follow."""

    entries: tuple[Entry, ...]
    last: bool = False


class HandedOver(msgspec.Struct, frozen=True, array_like=True, tag="handed_over", kw_only=True):
    head: Number


class Beat(msgspec.Struct, frozen=True, array_like=True, tag="beat", kw_only=True):
    """A sign of life. Servers fill the rest; `sent_us` of a dialler comes back as `echo_us` for the latency."""

    sent_us: Number
    echo_us: Number = 0
    head: Number = 0
    operations: Number = 0
    digest: bytes = b""
    everywhere: Number = 0
    stable: Stamp | None = None
    promise: Number = 0
    """A server: I shall stamp nothing at or below this clock any more (nor accept a floor-less one there)."""
    read: Number = 0
    """To a peer: how far I have read your log."""
    free_bytes: Number = 0
    lag: Number = 0
    """A server to a mount: operations that its worst peer lacks."""
    busy: float = 0.0
    sequencer: Server | None = None
    """A server: to whom I pass operations on now; myself: I stamp them alone."""
    trouble: str = ""
    """A server: why it cannot store anything now (disk full); empty: it can."""
    retired: tuple[tuple[ServerId, str], ...] = ()
    """As in `Welcome`."""
    behind: Number = 0
    """A server: operations that it knows to be missing here, because others hold them and it is reading them now."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed", kw_only=True):
    """The conversation ends: `code` names a class of `gdah_volume.errors`."""

    code: str
    message: str


class AskRange(msgspec.Struct, frozen=True, array_like=True, tag="ask_range", kw_only=True):
    """Digests differ: what do you hold with clocks in [low, high)?"""

    low: Number
    high: Number


class RangeIs(msgspec.Struct, frozen=True, array_like=True, tag="range_is", kw_only=True):
    """Answer: digest and count of the range, and its ids when they are at most OFFER_MAX_IDS."""

    low: Number
    high: Number
    count: Number
    digest: bytes
    stamped: tuple[tuple[OpId, Stamp], ...] | None = None


Message = (
    Hello
    | Welcome
    | Subscribe
    | Feed
    | SnapshotNeeded
    | Held
    | Submit
    | Ack
    | Refused
    | Offer
    | Want
    | Handover
    | HandedOver
    | Beat
    | Failed
    | AskRange
    | RangeIs
    | LockClaim
    | LockAsk
    | LockGiven
    | LockBeat
    | LockTold
    | LockRecall
    | LockAgain
    | LockClients
    | Shown
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(frame: bytes | str) -> Message:
    """The message of a frame, with every operation in it checked. Raises BadMessage or MessageTooBig."""
    if isinstance(frame, str):
        raise BadMessage("a text frame; the operation lane speaks binary frames only")
    if len(frame) > MESSAGE_MAX_BYTES:
        raise MessageTooBig(f"a message of {len(frame)} bytes; at most {MESSAGE_MAX_BYTES} are read")
    try:
        message = _decoder.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:  # the last: a text that is no UTF-8
        raise BadMessage(f"not a message of protocol {PROTOCOL}: {error}") from error
    try:
        _check(message)
    except BadMessage:
        raise
    except GdahError as error:
        raise BadMessage(str(error)) from error
    return message


def _check(message: Message) -> None:
    match message:
        case Submit():
            check_operation(message.op)
            _check_blobs(message.blobs)
        case Feed() | Handover():
            if len(message.entries) > BATCH_MAX_ENTRIES:
                raise BadMessage(f"a batch of {len(message.entries)} entries; at most {BATCH_MAX_ENTRIES}")
            for entry in message.entries:
                check_operation(entry.op)
                _check_blobs(entry.blobs)
        case Offer():
            if len(message.stamped) > OFFER_MAX_IDS:
                raise BadMessage(f"{len(message.stamped)} ids in one offer; at most {OFFER_MAX_IDS}")
        case LockClaim() | LockAsk() | LockGiven() | LockBeat() | LockTold() | LockRecall() | LockClients():
            check_lock_message(message)
        case _:
            pass


def _check_blobs(blobs: tuple[Blob, ...]) -> None:
    for blob in blobs:
        if len(blob.data) > INLINE_MAX_BYTES or not blob.data:
            raise BadMessage(f"inline content of {len(blob.data)} bytes; 1 to {INLINE_MAX_BYTES} are possible")
