"""What a mount shows after the power of its machine was lost, on a disk that forgets what was not synced."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdah_drill.cluster import Cluster, Mount
from gdah_drill.disk import Disk

pytestmark = [pytest.mark.mount, pytest.mark.cluster]


def test_after_a_loss_of_power_programs_see_at_once_what_the_servers_were_told(
    new_cluster: Callable[..., Cluster],
) -> None:
    """Found by the fire drill (seeds 12, 22, 23, 31): removed files were there again for a moment."""
    cluster = new_cluster()
    disk = Disk(cluster.folder, "one")
    disk.start()
    try:
        cluster.start_servers()
        one = Mount(cluster, "one", cluster.servers)
        one.cache = disk.folder
        cluster.mounts.append(one)
        one.start()
        one.hands.write("kept", b"old", True)
        one.hands.write("gone", b"text", True)
        cluster.wait_settled()
        one.hands.write("kept", b"new")
        one.hands.unlink("gone")
        one.hands.mkdir("made")
        cluster.wait_settled()
        one.kill9()
        assert disk.cut_power()["lost_writes"] > 0
        one.unmount_lazily()
        one.start()
        assert one.hands.tree() == {"kept": b"new", "made": None}
        cluster.wait_settled()
        one.terminate()
    finally:
        cluster.close()
        disk.close()
