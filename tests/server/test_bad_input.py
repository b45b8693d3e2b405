"""Wrong input on every door: an error of its own, nothing stored, nobody else harmed, no 500."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from gdah_drill.cluster import Cluster, Server
from gdah_drill.waiting import wait_until
from gdah_volume.content import Chunk, Content, hash_of
from gdah_volume.ids import NodeId, OpId, ServerId, Version
from gdah_volume.lock_messages import FileLock, LockAgain, LockAsk, LockClaim, LockClients, LockHold
from gdah_volume.operations import Unlink
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import (
    MESSAGE_MAX_BYTES,
    PROTOCOL,
    PROTOCOL_MIN,
    Ack,
    AskRange,
    Blob,
    Entry,
    Failed,
    HandedOver,
    Handover,
    Held,
    Hello,
    Refused,
    Submit,
    Subscribe,
    decode,
    encode,
)
from tests.server.conftest import Connect
from tests.server.lane_client import Identity, LaneClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Cluster(tmp_path_factory.mktemp("bad"), 1) as cluster:
        cluster.start_servers()
        yield cluster.servers[0]


@pytest.fixture
def bystander(server: Server, lane: Connect) -> Iterator[LaneClient]:
    """Another mount, which must not notice; and nothing may be stored."""
    mount = lane(server)
    before = server.volume()
    yield mount
    after = server.volume()
    assert (after["operations"], after["digest"]) == (before["operations"], before["digest"])
    ack = mount.create(b"fine-%d" % time.monotonic_ns(), b"still works")
    assert isinstance(ack, Ack)
    assert mount.failed is None


CREATED = Identity().create(b"x", b"data")


def _submit(**changed: Any) -> bytes:
    op, blobs = Identity().create(b"x", b"data")
    fields: dict[str, Any] = {"op": op, "floor": ZERO, "blobs": blobs, "strict": True}
    return encode(Submit(**(fields | changed)))


NOBODY, NODE = "nobody-abcdef-abcd", "nobody-abcdef-abcd-1"


def _raw_ask(*, client: Any = NOBODY, session: Any = 1, node: Any = NODE, act: Any = "set", **more: Any) -> bytes:
    """A lock_ask with whatever in its fields."""
    given = {"space": "flock", "owner": 1, "write": True, "start": 0, "end": 9, "pid": 1} | more
    return msgspec.msgpack.encode(["lock_ask", client, session, 1, node, act, *given.values()])


def _raw_claim(node: Any = NODE, locks: Any = (), *, session: Any = 1) -> bytes:
    return msgspec.msgpack.encode(["lock_claim", NOBODY, session, [[node, locks, False]], True, False])


def _raw_create(**changed: Any) -> bytes:
    """A Submit with fields of its Create exchanged, whatever they are."""
    op, _ = Identity().create(b"x", b"data")
    raw = msgspec.to_builtins(op, builtin_types=(bytes,)) | changed
    return msgspec.msgpack.encode(["submit", raw, [0, ""], [], True, False])


FRAMES: list[tuple[str, bytes | str, str]] = [
    ("garbage", b"\xc1garbage", "BadMessage"),
    ("empty", b"", "BadMessage"),
    ("text", "hello", "BadMessage"),
    ("deeply nested", b"\x91" * 100_000, "BadMessage"),
    ("unknown message", msgspec.msgpack.encode(["dance", 1]), "BadMessage"),
    ("wrong type", msgspec.msgpack.encode(["held", "far"]), "BadMessage"),
    ("a second hello", encode(Hello(protocol=PROTOCOL, volume="test_chamber", role="mount", software="t",
                                    author=Identity().author)), "OutOfOrder"),
    ("a server's message", encode(HandedOver(head=1)), "OutOfOrder"),
    ("held by a mount", encode(Held(position=0)), "OutOfOrder"),
    ("a range backwards", encode(AskRange(low=5, high=5)), "BadMessage"),
    ("slash in a name", _raw_create(name=b"a/b"), "BadMessage"),
    ("nul in a name", _raw_create(name=b"a\0b"), "BadMessage"),
    ("dot", _raw_create(name=b"."), "BadMessage"),
    ("dot dot", _raw_create(name=b".."), "BadMessage"),
    ("no name", _raw_create(name=b""), "BadMessage"),
    ("long name", _raw_create(name=b"x" * 256), "BadMessage"),
    ("bad id", _raw_create(id="../../etc/passwd"), "BadMessage"),
    ("bad parent", _raw_create(parent="../.."), "BadMessage"),
    ("bad mode", _raw_create(attrs={"mode": 0o170000, "uid": 0, "gid": 0, "mtime_ns": 0, "atime_ns": 0}), "BadMessage"),
    ("a huge number", _raw_create(time_ns=1 << 63), "BadMessage"),
    ("unknown kind", _raw_create(kind="portal"), "BadMessage"),
    ("chunk past the size", _raw_create(content=[1, [[0, b"h" * 32, 100]]]), "BadMessage"),
    ("short hash", _raw_create(content=[100, [[0, b"h" * 31, 100]]]), "BadMessage"),
    ("big blob", _submit(blobs=(Blob(hash_of(b"y" * 65537), b"y" * 65537),)), "BadMessage"),
    ("a lock for somebody else", _raw_ask(), "BadMessage"),
    ("a lock of no client", _raw_ask(client="../x"), "BadMessage"),
    ("a lock of no file", _raw_ask(node="../../etc/passwd"), "BadMessage"),
    ("an unknown wish for a lock", _raw_ask(act="dance"), "BadMessage"),
    ("an unknown kind of lock", _raw_ask(space="sea"), "BadMessage"),
    ("a lock backwards", _raw_ask(start=9, end=8), "BadMessage"),
    ("a lock before the file", _raw_ask(start=-1), "BadMessage"),
    ("a lock beyond all files", _raw_ask(end=1 << 63), "BadMessage"),
    ("an owner that is no number", _raw_ask(owner=-1), "BadMessage"),
    ("a session below zero", _raw_ask(session=-1), "BadMessage"),
    ("a claim for somebody else", _raw_claim(), "BadMessage"),
    ("a claim on no file", _raw_claim("x"), "BadMessage"),
    ("a claim of a bad lock", _raw_claim(locks=[["flock", 1, True, 5, 4, 1]]), "BadMessage"),
    ("a claim too large", _raw_claim(locks=[["flock", 1, True, n, n, 1] for n in range(8193)]), "BadMessage"),
    ("a server's answer about a lock", encode(LockAgain()), "OutOfOrder"),
    ("a server's list of clients", encode(LockClients(clients=())), "OutOfOrder"),
    ("negative floor", _submit(floor=Stamp(-1, ServerId("x"))), "BadMessage"),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "code"), [each[1:] for each in FRAMES], ids=[each[0] for each in FRAMES])
def test_a_bad_frame_ends_its_own_conversation_only(
    server: Server, bystander: LaneClient, lane: Connect, frame: bytes | str, code: str
) -> None:
    bad = lane(server, subscribe=False)
    bad.send_raw(frame)
    failed = bad.wait_failed()
    assert failed.code == code, failed
    assert failed.message
    bad.wait(lambda: bad.closed, "the connection ends")


def test_a_hostile_mount_can_lock_only_for_itself_and_only_so_much(server: Server, lane: Connect) -> None:
    """What it claims beyond the limit is not kept, and goes with it."""
    bad = lane(server, subscribe=False)
    me = bad.identity.author
    ranges = tuple(FileLock("posix", 1, write=True, start=2 * n, end=2 * n) for n in range(4097))
    bad.send(LockClaim(client=me, session=1, holds=(LockHold(NodeId(NODE), ranges),)))
    assert server.volume()["locks"]["held"] <= 4096
    bad.send(LockClaim(client=me, session=2, leave=True))
    bad.send(LockAsk(client=me, session=7, ask=1, node=NodeId(NODE), act="set"))
    wait_until(lambda: server.volume()["locks"]["held"] == 0, "nothing is kept", 10)


def test_an_oversized_message_ends_the_connection(server: Server, bystander: LaneClient, lane: Connect) -> None:
    bad = lane(server, subscribe=False)
    with contextlib.suppress(WebSocketException, OSError):  # it may be cut off while it is still sending
        bad.send_raw(b"\0" * (MESSAGE_MAX_BYTES + 1))
    bad.wait(lambda: bad.closed, "the connection ends")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"protocol": PROTOCOL + 1}, "VersionFromTheFuture"),
        ({"protocol": PROTOCOL_MIN - 1}, "VersionFromTheFuture"),
        ({"volume": "elsewhere"}, "UnknownVolume"),
        ({"volume": "../etc"}, "BadMessage"),
        ({"author": "Nobody"}, "BadMessage"),
        ({"server": ServerId("s1")}, "BadMessage"),
        ({"role": "server"}, "BadMessage"),
        ({"role": "server", "server": ServerId("S!"), "epoch": "e"}, "BadMessage"),
        ({"role": "server", "server": ServerId("s1"), "epoch": "e", "url": "ftp://x"}, "InvalidArgument"),
    ],
)
def test_a_wrong_hello(
    server: Server, bystander: LaneClient, lane: Connect, changed: dict[str, Any], code: str
) -> None:
    bad = lane(server, hello=False)
    bad.send(bad.hello(**changed))
    assert bad.wait_failed().code == code
    assert len(server.volume()["peers"]) == 0


def test_a_server_that_says_it_is_this_one(server: Server, bystander: LaneClient, lane: Connect) -> None:
    bad = lane(server, hello=False)
    bad.send(bad.hello(role="server", server=ServerId(server.status()["server"]), epoch="e"))
    assert bad.wait_failed().code == "BadMessage"


def test_anything_before_hello(server: Server, bystander: LaneClient, lane: Connect) -> None:
    for message in (Submit(op=CREATED[0], floor=ZERO), Subscribe(cursor=0), Held(position=0)):
        bad = lane(server, hello=False)
        bad.send(message)
        assert bad.wait_failed().code == "OutOfOrder"


def test_subscribing_wrongly(server: Server, bystander: LaneClient, lane: Connect) -> None:
    for subscribe, code in (
        (Subscribe(), "BadMessage"),
        (Subscribe(cursor=-1), "BadMessage"),
        (Subscribe(cursor=10**12), "OutOfOrder"),
    ):
        bad = lane(server, subscribe=False)
        bad.send(subscribe)
        assert bad.wait_failed().code == code
    bad = lane(server)
    bad.send(Subscribe(cursor=0))
    assert bad.wait_failed().code == "OutOfOrder"


def test_an_unknown_volume_in_the_address(server: Server, bystander: LaneClient) -> None:
    for name in ("other", "a%20b", "%2e%2e"):
        with connect(f"ws{server.url[4:]}/v1/volumes/{name}/lane", proxy=None) as socket:
            failed = decode(socket.recv(decode=False))
            assert isinstance(failed, Failed)
            assert failed.code in ("UnknownVolume", "BadMessage")


def test_refused_operations_leave_the_conversation_alive(server: Server, bystander: LaneClient, lane: Connect) -> None:
    mount = lane(server)
    me = mount.identity
    unknown = NodeId("nobody-abcdef-abcd-1")
    data = b"content that is nowhere" * 5000

    op, blobs = me.create(b"a", b"data", parent=unknown)
    assert _refusal(mount, op, blobs) == "NotFound"
    op, blobs = me.write(unknown, None, b"data")
    assert _refusal(mount, op, blobs) in ("NotFound", "StaleHandle")
    op, _ = me.create(b"b", data)
    assert _refusal(mount, op, ()) == "UnknownChunk"
    op, _ = me.create(b"c", b"data")
    assert _refusal(mount, op, ()) == "OutOfOrder", "after an operation that must be sent again first"

    mount = lane(server)
    me = mount.identity
    op, _ = me.create(b"d", b"data")
    assert _refusal(mount, op, (Blob(hash_of(b"data"), b"atad"),)) == "HashMismatch"
    mount = lane(server)
    op, blobs = mount.identity.create(b"d", b"data")
    assert _refusal(mount, op, (*blobs, Blob(hash_of(b"more"), b"more"))) == "BadMessage"
    mount = lane(server)
    op, _ = mount.identity.create(b"d", b"data")
    lying = msgspec.structs.replace(op, content=Content(9, (Chunk(0, hash_of(b"data"), 9),)))
    assert _refusal(mount, lying, (Blob(hash_of(b"data"), b"data"),)) == "BadMessage"
    mount = lane(server)
    gone = Unlink(
        id=mount.identity.next_id(),
        time_ns=1,
        link=OpId("nobody-abcdef-abcd-7"),  # type: ignore[arg-type]
        rev=Version("nobody-abcdef-abcd-7"),
        node=unknown,
        version=None,
        last=True,
    )
    assert _refusal(mount, gone, ()) == "NotFound"


def _refusal(mount: LaneClient, op: Any, blobs: tuple[Blob, ...]) -> str:
    answer = mount.answer(mount.submit(op, blobs))
    assert isinstance(answer, Refused), answer
    assert answer.message
    assert mount.failed is None
    return answer.code


def test_one_id_for_two_operations(server: Server, lane: Connect) -> None:
    mount = lane(server)
    ack = mount.create(b"first-%d" % time.monotonic_ns(), b"1")
    other, blobs = Identity().create(b"second", b"2")
    answer = mount.answer_again(msgspec.structs.replace(other, id=ack.id), blobs)
    assert isinstance(answer, Refused)
    assert answer.code == "BadMessage"


def test_a_floor_from_the_far_future_is_not_believed(server: Server, lane: Connect) -> None:
    mount = lane(server)
    op, blobs = mount.identity.create(b"floor-%d" % time.monotonic_ns(), b"1")
    answer = mount.answer(mount.submit(op, blobs, floor=Stamp(1 << 61, ServerId("s1"))))
    assert isinstance(answer, Ack)
    assert answer.stamp.clock < 1 << 60


def test_handed_over_stamps_from_the_far_future(server: Server, bystander: LaneClient, lane: Connect) -> None:
    for clock in (1 << 61, 1 << 62, 0, -5):
        bad = lane(server)
        op, blobs = Identity().create(b"future", b"1")
        bad.send(Handover(entries=(Entry(0, Stamp(clock, ServerId("s1")), op, blobs),), last=True))
        assert bad.wait_failed().code == "BadMessage"


def _http(server: Server, method: str, path: str, **named: Any) -> tuple[int, str]:
    answer = server.cluster.http.request(method, server.url + path, **named)
    assert answer.status_code < 500, (path, answer.text)
    assert "Traceback" not in answer.text
    if method != "HEAD" and answer.status_code >= 400:
        assert answer.json()["message"]
        return answer.status_code, answer.json()["error"]
    return answer.status_code, ""


def test_wrong_requests_on_the_data_lane(server: Server, bystander: LaneClient) -> None:
    base = "/v1/volumes/test_chamber"
    name = hash_of(b"data").hex()
    assert _http(server, "PUT", f"{base}/chunks/{name}", content=b"other") == (422, "HashMismatch")
    assert _http(server, "PUT", f"{base}/chunks/{name}", content=b"") == (400, "BadMessage")
    assert _http(server, "PUT", f"{base}/chunks/{name}", content=b"x" * ((1 << 20) + 1)) == (413, "MessageTooBig")
    assert _http(server, "PUT", f"{base}/chunks/{name}", content=iter([b"x" * (1 << 20), b"y"])) == (
        413,
        "MessageTooBig",
    )
    assert _http(server, "PUT", f"{base}/chunks/{name}?sync=7", content=b"data")[0] == 400
    assert _http(server, "GET", f"{base}/chunks/{name}") == (404, "UnknownChunk")
    assert _http(server, "HEAD", f"{base}/chunks/{name}")[0] == 404
    for wrong in ("abc", name.upper(), "..%2f..%2fetc", name[:-1] + "g", name + "0"):
        assert _http(server, "GET", f"{base}/chunks/{wrong}")[0] in (400, 404)
        assert _http(server, "PUT", f"{base}/chunks/{wrong}", content=b"data")[0] in (400, 404, 405)
    assert _http(server, "GET", f"/v1/volumes/other/chunks/{name}") == (404, "UnknownVolume")
    assert _http(server, "GET", "/v1/volumes/other/snapshot") == (404, "UnknownVolume")
    assert _http(server, "GET", "/v1/volumes/..%2f..%2f/tree")[0] in (400, 404)
    assert _http(server, "GET", "/nowhere")[0] == 404
    assert _http(server, "POST", "/status")[0] == 405


def test_wrong_paths_of_files(server: Server, bystander: LaneClient) -> None:
    files = "/v1/volumes/test_chamber/files"
    for wrong in ("%2e%2e/x", "a/%2e%2e/b", "a//b", "a%00b", "x" * 256):
        for method in ("GET", "PUT", "DELETE"):
            assert _http(server, method, f"{files}/{wrong}", content=b"data")[0] in (400, 404), wrong
    assert _http(server, "GET", f"{files}/absent") == (404, "NotFound")
    assert _http(server, "DELETE", f"{files}/absent") == (404, "NotFound")
    assert _http(server, "GET", "/v1/volumes/test_chamber/tree?path=absent") == (404, "NotFound")
    assert _http(server, "GET", "/v1/volumes/test_chamber/tree?path=../..")[0] == 400
    assert _http(server, "DELETE", f"{files}/")[0] in (400, 403, 404)


def test_files_by_path_do_what_they_say(server: Server) -> None:
    files, http = server.url + "/v1/volumes/test_chamber/files", server.cluster.http
    data = os.urandom((2 << 20) + 12345)
    assert http.put(f"{files}/rest/a%20b/%ff.bin", content=data).status_code == 201
    assert http.get(f"{files}/rest/a%20b/%ff.bin").content == data
    assert http.put(f"{files}/rest/a%20b/%ff.bin", content=b"short").status_code == 201
    assert http.get(f"{files}/rest/a%20b/%ff.bin").content == b"short"
    assert http.put(f"{files}/rest", content=b"x").status_code == 409
    assert http.put(f"{files}/rest/a%20b/%ff.bin/below", content=b"x").status_code == 409
    assert http.get(f"{files}/rest").status_code == 409
    tree = http.get(f"{server.url}/v1/volumes/test_chamber/tree", params={"path": "rest", "recursive": "1"}).json()
    assert [item["path"] for item in tree["entries"]] == ["rest/a b", "rest/a b/\udcff.bin"]
    assert http.delete(f"{files}/rest").json()["error"] == "NotEmpty"
    assert http.delete(f"{files}/rest?recursive=1").status_code == 200
    assert http.get(f"{server.url}/v1/volumes/test_chamber/tree", params={"path": "rest"}).status_code == 404


def test_monitoring(server: Server) -> None:
    http = server.cluster.http
    assert http.get(server.url + "/readyz").json() == {"status": "ok"}
    text = http.get(server.url + "/metrics").text
    assert "gdah_operations{" in text
    assert 'gdah_refused_total{code="BadMessage"}' in text
    assert http.get(server.url + "/docs").status_code == 200
    assert "/v1/volumes/{volume}/chunks/{name}" in http.get(server.url + "/openapi.json").json()["paths"]


def test_a_body_that_is_cut_short_is_no_fault_of_ours(server: Server, bystander: LaneClient) -> None:
    """A mount that is killed, or whose cable is cut, in the middle of a chunk."""
    path = f"/v1/volumes/test_chamber/chunks/{'0' * 64}"
    with socket.create_connection(("127.0.0.1", server.port), 10) as half:
        half.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode() + b"x" * 50_000)
        time.sleep(0.2)  # it is being read
    wait_until(lambda: server.get("/metrics").text.count("CutShort") > 0, "the server has noticed", 15)
    assert "Traceback" not in server.process.log_text()
