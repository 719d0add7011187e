"""Zip files, unpacked as the service does it: with their modes and links, and nothing outside the folder.

Theory of operation. A member can leave the folder in three ways: by an absolute path, by `..`, and through a symbolic
link that was unpacked before it. The first two are refused by their names, before anything is written. Links are made
after all files, so no file is written through one. A link is checked twice, because its target can lead through
another link that did not exist at the first check.
"""

from __future__ import annotations

import os
from pathlib import Path

from tools.common.archives import Archive, Member, open_zip
from tools.common.errors import ToolError
from tools.common.lambda_facts import MAX_UNPACKED_BYTES

HINT = "create it again"


def contains(path: Path, name: str) -> bool:
    """Whether a zip contains a file. Raises ToolError if it is not a valid zip."""
    with open_zip(path, HINT, str(path)) as archive:
        return any(member.path == name for member in archive.files)


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip into a folder.

    Raises ToolError if it is not a valid zip, is above the limit, or if a member would be written outside the folder.
    """
    try:
        with open_zip(path, HINT, str(path)) as archive:
            archive.check_size()
            check_paths(archive)
            for member in archive.members:
                if not member.is_link:
                    extract(archive, member, folder)
            links = [member for member in archive.members if member.is_link]
            for member in links:
                make_link(folder, member.path, os.fsdecode(archive.read(member)))
                check_link(path, folder, member.path)
            for member in links:
                check_link(path, folder, member.path)
    except (OSError, ValueError) as error:
        raise ToolError(f"{path} cannot be unpacked: {getattr(error, 'strerror', None) or error}") from None


def check_size(size: int) -> None:
    """Raise ToolError if the function and its layers together are above the service's limit."""
    if size > MAX_UNPACKED_BYTES:
        limit = f"the limit is {MAX_UNPACKED_BYTES:,}"
        raise ToolError(f"the function and its layers have {size:,} bytes unpacked; {limit}")


def check_paths(archive: Archive) -> None:
    for member in archive.members:
        name = member.stored_path.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise ToolError(f"{archive.name} is refused: the path {member.stored_path!r} leads out of its folder")


def extract(archive: Archive, member: Member, folder: Path) -> None:
    """Extract a file or a folder. A zip from a system without permission bits gets files that everyone can read."""
    place = folder / member.path
    if member.is_folder:
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as target:
        for piece in archive.pieces(member):
            target.write(piece)
    place.chmod((member.mode or 0) & 0o777 or 0o644)


def make_link(folder: Path, name: str, target: str) -> None:
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def check_link(path: Path, folder: Path, name: str) -> None:
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ToolError(f"{path} is refused: the link {name!r} leads out of its folder")
