"""Print the web address of the repository that the site is built from, which the pages link at the top right."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def origin(repository: Path) -> str:
    """Return the web address of git's remote `origin`; empty where it has none."""
    command = ["git", "-C", str(repository), "remote", "get-url", "origin"]
    try:
        url = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git
        return ""
    return web_address(url)


def web_address(remote: str) -> str:
    """Return the web address of a git remote, without credentials; empty for a remote that is not on the web."""
    host = r"[\w-]+(?:\.[\w-]+)+"
    if match := re.fullmatch(rf"(?:(?:https|ssh|git)://)?(?:[^@/]+@)?({host})[:/](.+?)(?:\.git)?/?", remote):
        return f"https://{match[1]}/{match[2]}"
    return ""


if __name__ == "__main__":
    print(origin(Path(__file__).parent))
