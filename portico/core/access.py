"""Who else on this machine may enter a folder, as far as owners, modes and the presence of an ACL tell."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path


def others_may_enter(folder: Path) -> bool:
    """Whether another user than this process's and root can get into ``folder``: every folder on the way lets them in.

    Raises OSError.
    """
    return all(_lets_others_in(each) for each in (folder, *folder.parents))


def _lets_others_in(folder: Path) -> bool:
    status = folder.stat()
    if status.st_uid not in (0, os.geteuid()):
        return True  # its owner
    if status.st_mode & stat.S_IXOTH:
        return True
    if not status.st_mode & stat.S_IXGRP:
        return False
    return _has_acl(folder) or not _is_own_group(status.st_gid)


def _is_own_group(number: int) -> bool:
    """Whether this process's user is alone in the group, as in the one that many systems give each user."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return number == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _has_acl(folder: Path) -> bool:
    """With one, the bits of the group are the most that anybody named in it may have."""
    if not hasattr(os, "getxattr"):
        return False
    try:
        os.getxattr(folder, "system.posix_acl_access")
    except OSError:
        return False
    return True
