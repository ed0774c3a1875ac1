"""Extend the site's build with what it reads from the library and from git."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs runs this file by its path

from tables import mechanism_table, scale_table

from regard.attention import MECHANISMS

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

MARKER = "<!-- mechanisms -->"
SCALE_MARKER = "<!-- scale -->"


def on_config(config: MkDocsConfig) -> None:
    """List the mechanisms' pages in the navigation, and link the repository that the site is built from."""
    for entry in config.nav or ():
        if isinstance(entry, dict) and "Mechanisms" in entry:
            entry["Mechanisms"] += [f"mechanisms/{mechanism.name}.md" for mechanism in MECHANISMS]
    if not config.repo_url:
        config.repo_url = origin(Path(config.config_file_path).parent)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the tables in."""
    pages = "" if page.file.src_uri.startswith("mechanisms/") else "mechanisms/"
    return markdown.replace(MARKER, mechanism_table(pages)).replace(SCALE_MARKER, scale_table())


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
