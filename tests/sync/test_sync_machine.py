"""One mount, two servers, and everything that can go wrong between them: whatever happens, in any order, in
the end both servers and the mirror hold exactly what the programs saw, without a conflict copy of the mount's
own work.

Answers get lost, links break in the middle of anything, servers are cut off from each other and their clocks
disagree, the mount is killed and starts again. What the programs saw is a dictionary.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gdah_volume.content import content_of
from gdah_volume.errors import FileSystemError
from gdah_volume.ids import ROOT, NodeId, OpId
from gdah_volume.operations import Attrs, Create, Operation, Unlink, Write
from gdah_volume.replica import Replica
from gdah_volume.stamps import Stamp
from mountfs.sync.uploads import Uploads
from mountfs.sync.upstream import Upstream
from tests.sync.fakes import FakeData, FakeServer
from tests.sync.live import eventually
from tests.sync.worlds import World

NAMES = ("a", "b", "c")
CONTENTS = (b"", b"1", b"2" * 70_000)


class Syncing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="gdah-machine-"))
        self.servers = [FakeServer("sa", clock_speed=100), FakeServer("sb")]
        for server in self.servers:
            server.everywhere = 0
        self.data = FakeData(self.servers, self.folder)
        self.world = World(self.folder / "w")
        self.seen: dict[str, bytes] = {}
        self.begin()

    def begin(self) -> None:
        self.uploads = Uploads(self.world.dirty.read, self.data.store, self.pump)
        self.upstream = Upstream(
            self.world.mirror, self.world.log, self.uploads, self.data, content=self.world.dirty.read
        )
        for server in self.servers:
            self.upstream.add_server(server.url, server.health)
        self.upstream.start()

    def pump(self) -> None:
        self.upstream.sending.pump()

    def quiet(self) -> None:
        """What was set in motion has come to rest, as far as it goes without time."""
        for _ in range(4):
            for server in self.servers:
                link = server.link
                if link is not None:
                    reached = threading.Event()
                    link.tell(reached.set)
                    if not link.down:
                        assert reached.wait(30)
            steered = threading.Event()
            self.upstream._mailbox.post(steered.set)
            assert steered.wait(30)

    # --- programs

    @rule(name=st.sampled_from(NAMES), content=st.sampled_from(CONTENTS), rest=st.booleans())
    def save(self, name: str, content: bytes, rest: bool) -> None:
        self.saving(name, content)
        if rest:
            self.quiet()

    def saving(self, name: str, content: bytes) -> None:
        if name not in self.seen:
            self.world.create(name, wait=False)
        self.world.write(name, content, wait=False)
        self.seen[name] = content

    @rule(name=st.sampled_from(NAMES), rest=st.booleans())
    def remove(self, name: str, rest: bool) -> None:
        self.removing(name)
        if rest:
            self.quiet()

    def removing(self, name: str) -> None:
        try:
            self.world.unlink(name, wait=False)
        except FileSystemError:
            assert name not in self.seen
        else:
            del self.seen[name]

    @rule(name=st.sampled_from(NAMES), new=st.sampled_from(NAMES), rest=st.booleans())
    def move(self, name: str, new: str, rest: bool) -> None:
        self.moving(name, new)
        if rest:
            self.quiet()

    def moving(self, name: str, new: str) -> None:
        if name in self.seen and new not in self.seen:
            self.world.rename(name, new, wait=False)
            self.seen[new] = self.seen.pop(name)

    # --- the world

    @rule(which=st.sampled_from((0, 1)))
    def connect(self, which: int) -> None:
        server = self.servers[which]
        if server.link is None:
            server.connect(self.upstream)
            self.quiet()

    @rule(which=st.sampled_from((0, 1)))
    def cut(self, which: int) -> None:
        link = self.servers[which].link
        if link is not None:
            link.cut("cable")
            self.quiet()

    @rule(which=st.sampled_from((0, 1)), lose=st.booleans(), silent=st.booleans())
    def lose_answers(self, which: int, lose: bool, silent: bool) -> None:
        """Operations are logged there and nobody hears of it."""
        server = self.servers[which]
        server.lose_acks = lose
        if lose and silent and server.link is not None:
            server.link.subscribed = False

    @rule(which=st.sampled_from((0, 1)), deaf=st.booleans())
    def deafen(self, which: int, deaf: bool) -> None:
        server = self.servers[which]
        if server.deaf and not deaf and server.link is not None:
            server.link.cut("it was away")  # what it did not hear is gone with the connection
        server.deaf = deaf

    @rule()
    def heal(self) -> None:
        """The servers meet and exchange their logs."""
        self.servers[0].merge(self.servers[1])
        self.quiet()

    @rule(which=st.sampled_from((0, 1)), everywhere=st.booleans())
    def beat(self, which: int, everywhere: bool) -> None:
        server = self.servers[which]
        if everywhere:
            self.heal()
            server.everywhere = server.replica.head
        if server.link is not None and not server.deaf:
            server.beat(stable=False)
            self.quiet()

    @rule()
    def kill_the_mount(self) -> None:
        self.end()
        self.world = self.world.again()
        self.begin()

    @rule()
    def everything_is_stable(self) -> None:
        """Both servers hold all, and say so: before-images and records go."""
        self.heal()
        for server in self.servers:
            server.everywhere = server.replica.head
        for server in self.servers:
            if server.link is not None and not server.deaf:
                server.beat(stable=not self.world.log.pending_operations)
        self.quiet()

    # --- what must hold

    @invariant()
    def the_mirror_shows_what_programs_did(self) -> None:
        self.check_view()

    def check_view(self) -> None:
        with self.world.mirror.lock:
            assert contents(self.world.mirror.replica) == {n: len(c) for n, c in self.seen.items()}

    @invariant()
    def content_that_is_only_here_is_here(self) -> None:
        for record in self.world.log.outbox.unacked():
            for chunk in record.chunks:
                assert self.world.log.dirty_chunk(chunk.hash) is not None

    def end(self) -> None:
        self.upstream.stop()
        self.uploads.stop()
        for server in self.servers:
            if server.link is not None:
                server.link.drop("the end")

    def teardown(self) -> None:
        try:
            for server in self.servers:
                server.deaf = server.lose_acks = False
                if server.link is not None:
                    server.link.cut("everything is well again")
            self.quiet()
            for server in self.servers:
                server.connect(self.upstream)
            eventually(lambda: self.world.log.pending_operations == 0, what="all is acknowledged")
            self.quiet()
            self.servers[0].merge(self.servers[1])
            self.quiet()
            eventually(lambda: self.world.mirror.replica.digest == self.servers[0].replica.digest, what="equal digests")
            assert contents(self.servers[0].replica) == contents(self.servers[1].replica)
            assert contents(self.servers[0].replica) == contents(self.world.mirror.replica)
            self.nothing_is_lost()
        finally:
            self.end()
            self.world.database.close()
            for server in self.servers:
                server.database.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def nothing_is_lost(self) -> None:
        assert contents(self.servers[0].replica) == {n: len(c) for n, c in self.seen.items()}
        for name, content in self.seen.items():
            if content:
                assert self.held(name) == content

    def held(self, name: str) -> bytes:
        """The bytes of a file, from the servers."""
        tree = self.world.mirror.tree
        link = tree.lookup(ROOT, name.encode())
        assert link is not None
        chunks = self.servers[0].chunks | self.servers[1].chunks
        return b"".join(chunks[chunk.hash] for chunk in tree.node(link.node).content.chunks)

    @initialize()
    def nothing(self) -> None:
        pass


def contents(replica: Replica) -> dict[str, int]:
    tree = replica.tree
    return {name.decode(): tree.node(NodeId(node)).size for name, node, _ in tree.entries(ROOT)}


class SyncingWithOthers(Syncing):
    """Somebody else works on the same names, through either server. Then the programs' view is no oracle, but in
    the end all replicas are the same, and the content of every file is somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.other_sequence = 0

    def saving(self, name: str, content: bytes) -> None:
        with suppress(FileSystemError):  # somebody was faster
            if name.encode() not in self.shown():
                self.world.create(name, wait=False)
            self.world.write(name, content, wait=False)

    def removing(self, name: str) -> None:
        with suppress(FileSystemError):
            self.world.unlink(name, wait=False)

    def moving(self, name: str, new: str) -> None:
        with suppress(FileSystemError):
            self.world.rename(name, new, wait=False)

    def shown(self) -> set[bytes]:
        with self.world.mirror.lock:
            return {name for name, _, _ in self.world.mirror.tree.entries(ROOT)}

    @rule(which=st.sampled_from((0, 1)), name=st.sampled_from(NAMES), content=st.sampled_from(CONTENTS))
    def other_saves(self, which: int, name: str, content: bytes) -> None:
        server = self.servers[which]
        self.other_sequence += 1
        tree = server.replica.tree
        link = tree.lookup(ROOT, name.encode())
        op_id = OpId(f"phone-ffffff-00000001-{self.other_sequence}")
        whole, pieces = content_of(content)
        server.chunks.update(pieces)
        op: Operation
        if link is None:
            attrs = Attrs(mode=0o600, uid=2, gid=2, mtime_ns=1, atime_ns=1)
            op = Create(id=op_id, time_ns=1, kind="file", parent=ROOT, name=name.encode(), attrs=attrs, content=whole)
        else:
            op = Write(
                id=op_id,
                time_ns=1,
                node=link.node,
                base=tree.seen_version(link.node),
                content=whole,
                name=name.encode(),
                mtime_ns=1,
            )
        server.refuse = None
        server.stamp(op, Stamp(0, server.id), (), strict=False)
        self.quiet()

    @rule(which=st.sampled_from((0, 1)), name=st.sampled_from(NAMES))
    def other_removes(self, which: int, name: str) -> None:
        server = self.servers[which]
        tree = server.replica.tree
        link = tree.lookup(ROOT, name.encode())
        if link is None:
            return
        self.other_sequence += 1
        op = Unlink(
            id=OpId(f"phone-ffffff-00000001-{self.other_sequence}"),
            time_ns=1,
            link=link.link,
            rev=link.rev,
            node=link.node,
            version=tree.seen_version(link.node),
            last=tree.is_last_name(link),
        )
        server.stamp(op, Stamp(0, server.id), (), strict=False)
        self.quiet()

    def check_view(self) -> None:
        pass

    def nothing_is_lost(self) -> None:
        """Every file's content can be read somewhere."""
        tree = self.servers[0].replica.tree
        chunks = self.servers[0].chunks | self.servers[1].chunks
        for _, node in tree.walk():
            assert all(chunk.hash in chunks for chunk in node.content.chunks)


TestSyncing = Syncing.TestCase
TestSyncing.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestSyncingWithOthers = SyncingWithOthers.TestCase
TestSyncingWithOthers.settings = TestSyncing.settings
pytestmark = pytest.mark.timeout(300)
