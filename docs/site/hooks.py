"""Pages that lie outside docs/ become pages of the site, and every link between files of the repository is kept.

README, changelog, contributing, boards and the tasks' pages are read where they are; other files that a page links to
are copied as they are. A link that leads nowhere stays as it is, so that the strict build fails on it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "leaderboards/*.md", "tasks/*/README.md"]
BESIDE = ["leaderboards/*.csv", "leaderboards/*.svg"]
SHOWN = {".md", ".csv", ".svg"}
MARKS = {
    "gpu": "needs a GPU or an inference engine",
    "hub": "needs the model hub or a package index",
    "slow": "takes minutes",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)]*)?\))")
_FENCE = re.compile(r"^(```\w+) (\w+)$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds what lies outside docs/: pages, their pictures, and single files that pages link to."""
    for pattern in OUTSIDE + BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            _add(files, config, path.relative_to(ROOT).as_posix())
    for page in [file for file in files if file.is_documentation_page()]:
        for target in _targets(page):
            _add(files, config, target)
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Leads the links of a page to where the site has their files, and says above a block what it needs."""
    here = _in_repository(page.file.src_uri)

    def moved(found: re.Match[str]) -> str:
        target = _seen_from(here, found[2])
        if target is None or not (ROOT / target).exists():
            return found[0]
        place = posixpath.relpath(_in_site(target), posixpath.dirname(page.file.src_uri) or ".")
        return f"{found[1]}{place}{found[3]}"

    text = _LINK.sub(moved, markdown)
    return _FENCE.sub(lambda found: f'{found[1]} title="{MARKS[found[2]]}"', text)


def _add(files: Files, config: Any, path: str) -> None:
    name = _in_site(path)
    if files.get_file_from_path(name) is None:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / _file(path))))


def _targets(page: File) -> set[str]:
    """Returns the files outside docs/ that a page links to."""
    here = _in_repository(page.src_uri)
    found = {_seen_from(here, link[2]) for link in _LINK.finditer(page.content_string)}
    return {path for path in found if path and not path.startswith("docs/") and (ROOT / _file(path)).is_file()}


def _file(path: str) -> str:
    """Returns the file that stands for a path: of a folder its README, else its first module."""
    if not (ROOT / path).is_dir():
        return path
    inside = [ROOT / path / "README.md", *sorted((ROOT / path).glob("*.py")), *sorted((ROOT / path).glob("*"))]
    return next(file for file in inside if file.is_file()).relative_to(ROOT).as_posix()


def _seen_from(here: str, link: str) -> str | None:
    if re.match(r"[a-z]+:", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def _in_repository(src_uri: str) -> str:
    """Returns the path in the repository of a file of the site."""
    if src_uri == "index.md":
        return "README.md"
    inside = f"docs/{src_uri}"
    return inside if (ROOT / inside).exists() else src_uri


def _in_site(path: str) -> str:
    """Returns the path in the site of a file of the repository."""
    path = _file(path)
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/") or Path(path).suffix in SHOWN:
        return path.removeprefix("docs/")
    return f"files/{path.removeprefix('.')}.txt"
