"""The access of other users of this machine to a folder, judged by owners, modes and the presence of an ACL."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path


def others_may_enter(folder: Path) -> bool:
    """Tell whether a user other than this process's and root can enter ``folder`` and every folder on the way to it.

    Raises OSError.
    """
    return all(_lets_others_in(each) for each in (folder, *folder.parents))


def _lets_others_in(folder: Path) -> bool:
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()):
        return True  # the owner may enter
    if status.st_mode & stat.S_IXOTH:
        return True
    if not status.st_mode & stat.S_IXGRP:
        return False
    return _has_acl(folder) or not _is_own_group(status.st_gid)


def _is_own_group(number: int) -> bool:
    """Tell whether only this process's user is in the group, as in the personal groups of many systems."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return number == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _has_acl(folder: Path) -> bool:
    """Tell whether the folder has an ACL; if so, the group bits are the upper limit for everybody named in it."""
    if not hasattr(os, "getxattr"):
        return False
    try:
        os.getxattr(folder, "system.posix_acl_access")
    except OSError:
        return False
    return True
