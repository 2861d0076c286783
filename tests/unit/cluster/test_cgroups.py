"""Where the cluster's cgroups go: read from the kernel's own words, one path that fits every hierarchy."""

from pathlib import Path

from tests.e2e.cluster.cgroups import Hierarchy, choose_root, parse_hierarchies

V1_MOUNTS = """\
30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup systemd rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_OWN = "4:memory:/jobs/7\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n"


def test_root_goes_below_the_deepest_of_the_own_cgroups() -> None:
    hierarchies = parse_hierarchies(V1_MOUNTS, V1_OWN)
    assert [hierarchy.own for hierarchy in hierarchies] == ["/", "/jobs/7", "/", "/"]
    assert choose_root(hierarchies, "slipway") == "/jobs/7/slipway"


def test_root_is_top_level_where_the_own_cgroups_are() -> None:
    hierarchies = parse_hierarchies(V1_MOUNTS, "4:memory:/\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n")
    assert choose_root(hierarchies, "slipway") == "/slipway"


def test_v2_root_is_top_level_because_the_own_cgroup_holds_processes() -> None:
    mounts = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    hierarchies = parse_hierarchies(mounts, "0::/user.slice/user-0.slice/session-1.scope\n")
    assert hierarchies == (Hierarchy(Path("/sys/fs/cgroup"), "/user.slice/user-0.slice/session-1.scope", is_v2=True),)
    assert choose_root(hierarchies, "slipway") == "/slipway"


def test_v2_without_memory_beside_v1_is_kept_because_runc_uses_it() -> None:
    kept = [hierarchy for hierarchy in parse_hierarchies(V1_MOUNTS, V1_OWN) if hierarchy.is_v2]
    assert [hierarchy.mount for hierarchy in kept] == [Path("/sys/fs/cgroup/unified")]


def test_paths_in_a_container_are_seen_from_its_mount() -> None:
    mounts = "32 30 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    assert parse_hierarchies(mounts, "4:memory:/docker/abc/job\n")[0].own == "/job"
    assert parse_hierarchies(mounts, "4:memory:/docker/abc\n")[0].own == "/"


def test_escaped_mount_points_are_read() -> None:
    mounts = "32 30 0:28 / /odd\\040place rw - cgroup cgroup rw,memory\n"
    assert parse_hierarchies(mounts, "4:memory:/\n")[0].mount == Path("/odd place")


def test_no_cgroup_mounts_give_nothing() -> None:
    assert parse_hierarchies("22 1 0:20 / / rw - ext4 /dev/vda rw\n", "0::/\n") == ()
