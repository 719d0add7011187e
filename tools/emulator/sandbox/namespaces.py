"""A file system like the service's for one process: layers in /opt, the function in /var/task, a /tmp of its own.

Everything else is the machine's. It needs a mount namespace, and a user namespace unless the process runs as root
(mount_namespaces(7), user_namespaces(7)). Only Linux has them, and not every system allows them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

REPLACED = ("opt", "var", "tmp")  # folders of the root directory that are assembled here
REPLACED_IN_VAR = ("task", "lang", "runtime")

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MS_NOSUID, _MS_NODEV = 2, 4

# In a user namespace the kernel locks the flags of existing mounts: a remount that drops nosuid, for example, fails
# with EPERM (mount_namespaces(7)). So each flag that statvfs(3) returns is repeated, as the flag of mount(2).
_LOCKED_FLAGS = {
    2: 2,
    4: 4,
    8: 8,
    1024: 1024,
    2048: 2048,
    4096: 1 << 21,
}  # nosuid nodev noexec noatime nodiratime relatime


def enter(root: str, layer: str, task: str, lang: str | None, temporary: str) -> None:
    """Move this process into such a file system.

    Args:
        root: an empty folder for the new root directory.
        layer: the folder to show in /opt, read-only.
        task: the folder to show in /var/task, read-only.
        lang: the folder to show in /var/lang, where the service has the interpreter, read-only; None: no such folder.
        temporary: the folder to show in /tmp.

    Raises OSError if the system does not allow it.
    """
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, "only Linux has mount namespaces")
    unshare()
    mount("none", "/", _MS_REC | _MS_PRIVATE)
    mount("tmpfs", root, _MS_NOSUID | _MS_NODEV, "tmpfs", "mode=755,size=1m")
    show_entries("/", root, REPLACED)
    for name in REPLACED:
        os.mkdir(f"{root}/{name}", 0o755)
    show_entries("/var", f"{root}/var", REPLACED_IN_VAR)
    mount(temporary, f"{root}/tmp", _MS_BIND)
    for source, target in ((layer, "opt"), (task, "var/task"), (lang, "var/lang")):
        if source is not None:
            show_read_only(source, f"{root}/{target}")
    os.chroot(root)


def unshare() -> None:
    """Create a mount namespace, and a user namespace around it if it is not allowed without one."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if user == 0 and libc.unshare(_CLONE_NEWNS) == 0:
        return
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        raise_errno()
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def show_entries(source: str, target: str, without: tuple[str, ...]) -> None:
    """Show the folders and symbolic links of one folder in another one."""
    for name in os.listdir(source):
        path, place = os.path.join(source, name), f"{target}/{name}"
        if name in without:
            continue
        if os.path.islink(path):
            os.symlink(os.readlink(path), place)
        elif os.path.isdir(path):
            os.mkdir(place)
            mount(path, place, _MS_BIND | _MS_REC)


def show_read_only(source: str, target: str) -> None:
    # MS_BIND ignores MS_RDONLY; only a remount sets it (mount(2)).
    os.makedirs(target, exist_ok=True)
    mount(source, target, _MS_BIND | _MS_REC)
    present = os.statvfs(target).f_flag
    locked = sum(flag for bit, flag in _LOCKED_FLAGS.items() if present & bit)
    mount("none", target, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | locked)


def mount(source: str, target: str, flags: int, kind: str | None = None, options: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    data = None if options is None else options.encode()
    if ctypes.CDLL(None, use_errno=True).mount(*words, ctypes.c_ulong(flags), data):
        raise_errno()


def raise_errno() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
