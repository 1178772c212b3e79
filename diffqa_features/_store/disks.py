"""A folder in, the kind of its disk out if several machines may share it."""

import re
from pathlib import Path

# Their locks hold at best between processes of one machine, and they give no memory
# that machines could share, which SQLite's journal needs.
_NETWORK = frozenset(
    "afs beegfs ceph cifs coda fuse.ceph fuse.gcsfuse fuse.glusterfs fuse.goofys "
    "fuse.juicefs fuse.mountpoint-s3 fuse.rclone fuse.s3fs fuse.sshfs glusterfs gpfs "
    "lustre nfs nfs4 orangefs smb3 smbfs".split()
)


def network_disk(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """File system of a network disk; empty for local ones, and where none is known.

    `mounts` is Linux's table of mounted file systems; other systems have none.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return ""
    folder, found = folder.resolve(), {}
    for line in lines:
        before, mark, after = line.partition(" - ")
        if mark:
            # Blanks of a name are written as octal numbers.
            place = re.sub(
                r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]
            )
            found[Path(place)] = after.split()[0]  # a later mount hides an earlier one
    kind = next((found[p] for p in (folder, *folder.parents) if p in found), "")
    return kind if kind in _NETWORK else ""
