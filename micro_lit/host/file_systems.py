"""Which kind of file system a folder lies on."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
# Of several machines at once, or of a program that may fetch files from elsewhere.
NETWORK = re.compile(
    r"nfs.*|cifs|smb.*|9p|fuse|fuse\..*|virtiofs|afs|ceph|lustre|gpfs|beegfs|glusterfs|gfs2|ocfs2|orangefs|pvfs2|wekafs"
    r"|panfs|davfs.*|coda|ncpfs|vboxsf|vmhgfs|prl_fs|drvfs"
)


def network_file_system(folder: Path) -> str | None:
    """The type of the file system of a folder, as nfs4, if it is one of a network; else None.

    None, too, where the system does not list its mounts in /proc.
    """
    try:
        mounts = MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return None
    kind = file_system(folder.resolve(), mounts)
    return kind if kind is not None and NETWORK.fullmatch(kind) else None


def file_system(folder: Path, mounts: str) -> str | None:
    """The type of the file system that an absolute path lies on.

    Args:
        folder: without links.
        mounts: lines of /proc/mounts: device, mount point, type, options. Of two on one point the later one counts.
    """
    found, longest = None, -1
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        # Spaces and such in a mount point are written as \040.
        place = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point))
        if folder.is_relative_to(place) and len(place.parts) >= longest:
            found, longest = kind, len(place.parts)
    return found
