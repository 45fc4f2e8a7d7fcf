"""Type of the file system of a folder."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
# File systems shared by several machines, or served by a program that may fetch files from elsewhere (FUSE).
NETWORK = re.compile(
    r"nfs.*|cifs|smb.*|9p|fuse|fuse\..*|virtiofs|afs|ceph|lustre|gpfs|beegfs|glusterfs|gfs2|ocfs2|orangefs|pvfs2|wekafs"
    r"|panfs|davfs.*|coda|ncpfs|vboxsf|vmhgfs|prl_fs|drvfs"
)


def network_file_system(folder: Path) -> str | None:
    """The type of a folder's file system, such as nfs4, if it is a network file system; else None.

    Also None where the system does not list its mounts in /proc.
    """
    try:
        mounts = MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return None
    kind = file_system(folder.resolve(), mounts)
    return kind if kind is not None and NETWORK.fullmatch(kind) else None


def file_system(folder: Path, mounts: str) -> str | None:
    """The type of the file system of an absolute path; None if no mount contains it.

    Args:
        folder: path without symbolic links.
        mounts: lines of /proc/mounts: device, mount point, type, options. The last mount on a mount point counts.
    """
    found, longest = None, -1
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        # /proc/mounts escapes spaces and other characters in mount points as octal, such as \040.
        place = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point))
        if folder.is_relative_to(place) and len(place.parts) >= longest:
            found, longest = kind, len(place.parts)
    return found
