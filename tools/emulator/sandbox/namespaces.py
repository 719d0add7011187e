"""A file system as the service's for one process: the layers at /opt, the function at /var/task, a /tmp of its own.

All else is the machine's. It needs a mount namespace, and a user namespace where the process is not root's
(mount_namespaces(7), user_namespaces(7)): Linux alone has them, and not every system allows them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

OWN = ("opt", "var", "tmp")  # folders of the root that are put together here
OWN_IN_VAR = ("task", "lang", "runtime")

_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MS_NOSUID, _MS_NODEV = 2, 4
# What a mount has to keep when it is mounted again: as statvfs(3) tells of it, and as mount(2) takes it.
_KEPT = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}


def enter(root: str, layer: str, task: str, lang: str | None, temporary: str) -> None:
    """Move this process there.

    Args:
        root: an empty folder, which the new root is put together in.
        layer: the folder that /opt shows, which cannot be written.
        task: the same for /var/task.
        lang: the same for /var/lang, where the service has the interpreter; None: there is none.
        temporary: the folder that /tmp shows.

    Raises OSError where the system does not allow it.
    """
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, "only Linux has mount namespaces")
    unshare()
    mount("none", "/", _MS_REC | _MS_PRIVATE)
    mount("tmpfs", root, _MS_NOSUID | _MS_NODEV, "tmpfs", "mode=755,size=1m")
    show("/", root, OWN)
    for name in OWN:
        os.mkdir(f"{root}/{name}", 0o755)
    show("/var", f"{root}/var", OWN_IN_VAR)
    mount(temporary, f"{root}/tmp", _MS_BIND)
    for source, target in ((layer, "opt"), (task, "var/task"), (lang, "var/lang")):
        if source is not None:
            show_read_only(source, f"{root}/{target}")
    os.chroot(root)


def unshare() -> None:
    """Get a mount namespace; with a user namespace around it where it cannot be had without."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if user == 0 and libc.unshare(_CLONE_NEWNS) == 0:
        return
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        fail()
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def show(source: str, target: str, without: tuple[str, ...]) -> None:
    """Let a new folder have the folders and links of another one."""
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
    os.makedirs(target, exist_ok=True)
    mount(source, target, _MS_BIND | _MS_REC)
    told = os.statvfs(target).f_flag
    kept = sum(flag for bit, flag in _KEPT.items() if told & bit)
    mount("none", target, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)


def mount(source: str, target: str, flags: int, kind: str | None = None, options: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    data = None if options is None else options.encode()
    if ctypes.CDLL(None, use_errno=True).mount(*words, ctypes.c_ulong(flags), data):
        fail()


def fail() -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
