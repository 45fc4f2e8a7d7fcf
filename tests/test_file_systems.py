"""Tests of `micro_lit.host.file_systems`."""

from pathlib import Path

import pytest

from micro_lit.host import file_systems
from micro_lit.host.file_systems import file_system, network_file_system

MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/sdb1 /home/ada/disk xfs rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
ada@host: /mnt/far fuse.sshfs rw 0 0
host /mnt/shared 9p rw 0 0
autofs /data autofs rw 0 0
server:/data /data nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/srv/people", "ext4"),
        ("/home", "nfs4"),
        ("/home/ada", "nfs4"),
        ("/homely", "ext4"),
        ("/home/ada/disk/people", "xfs"),
        ("/mnt/my share/people", "cifs"),
        ("/mnt/far", "fuse.sshfs"),
        ("/data/people", "nfs"),
    ],
)
def test_the_nearest_and_latest_mount_counts(folder, kind):
    assert file_system(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.s3fs", "lustre")),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fuseblk", "apfs")),
    ],
)  # fmt: skip
def test_file_systems_of_a_network_are_known(kind, network, tmp_path, monkeypatch):
    (tmp_path / "mounts").write_text(f"none / ext4 rw 0 0\nserver {tmp_path / 'far'} {kind} rw 0 0\n")
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "mounts")
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far")
    for folder in ("far", "far/people", "link"):
        assert network_file_system(tmp_path / folder) == (kind if network else None)
    assert network_file_system(tmp_path) is None


def test_where_no_mounts_are_listed_none_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "none")
    assert network_file_system(tmp_path) is None
