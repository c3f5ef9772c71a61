"""Builds the docs site: pages of docs/, what lies beside it, and reference pages made from the code.

    python scripts/docs_pages.py          # writes build/docs, has MkDocs build site/, and checks it

Every page is plain Markdown in `build/docs` before MkDocs reads it. A link that leads nowhere, a heading that is not
there, a key that nothing explains and a built page that would load anything from another host end it with exit code 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from posixpath import normpath, relpath

from reference_pages import PAGES, MissingTextError

ROOT = Path(__file__).parents[1]
BUILD = ROOT / 'build' / 'docs'
SITE = ROOT / 'site'
# Pages that lie outside docs/, by their place on the site.
BESIDE = {
    'README.md': 'index.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'datasets/README.md': 'data.md',
    'experiments/README.md': 'runs.md',
}
# Folders whose files are shown whole, each under a heading of its own on one page.
SHOWN = {'examples': 'examples.md'}
_LANGUAGES = {'.py': 'python', '.yml': 'yaml', '.sh': 'sh'}
_CODE_OR_LINK = re.compile(r'^ *```.*?^ *```|`[^`\n]*`|\]\(([^)\s]+)\)', re.MULTILINE | re.DOTALL)
# Attributes and style rules by which a page loads something when it is opened; a link is loaded when it is clicked.
_LOADS = re.compile(
    r'<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    r'|<link\b[^>]*\bhref="(?:https?:)?//[^"]*"'
    r'|url\(["\']?(?:https?:)?//[^)]*\)|@import\b[^;]*//[^;]*'
)


def pages() -> dict[str, str]:
    """Returns all pages of the site as Markdown, by their place on it.

    Raises:
        SystemExit: links that lead to no page or file; all are named.
    """
    broken: list[str] = []
    found = {}
    for origin, place in _places().items():
        if origin.endswith('.md') and place not in PAGES:
            found[place] = relinked((ROOT / origin).read_text(), origin, place, broken)
    for folder, place in SHOWN.items():
        found[place] = _shown(folder)
    for place, make in PAGES.items():
        found[place] = make()
    if broken:
        raise SystemExit('\n'.join(broken))
    return found


def _places() -> dict[str, str]:
    """Returns where each file of the repository that the site shows stands on it."""
    docs = ROOT / 'docs'
    places = {
        f'docs/{path.relative_to(docs).as_posix()}': path.relative_to(docs).as_posix() for path in docs.rglob('*.*')
    }
    places |= {origin: place for origin, place in BESIDE.items() if (ROOT / origin).is_file()}
    for folder, place in SHOWN.items():
        places[folder] = place
        for path in _files(folder):
            places[f'{folder}/{path.name}'] = f'{place}#{_anchor(path.name)}'
    return places | {f'docs/{place}': place for place in PAGES}


def relinked(text: str, origin: str, place: str, broken: list[str]) -> str:
    """Returns a page whose relative links lead to places on the site, not in the repository.

    Args:
        text: the page, Markdown.
        origin: its file in the repository.
        place: its file on the site.
        broken: takes a line for each link that leads to no page or picture of the site.
    """
    places = _places()

    def moved(match: re.Match[str]) -> str:
        target = match[1]
        if target is None or re.match(r'[a-z]+:|#', target):  # code, another host, or this page
            return match[0]
        path, hash_, heading = target.partition('#')
        file = normpath(os.path.join(os.path.dirname(origin), path))
        if file not in places:
            broken.append(f'{origin}: {target}: no page of the site; give the name in backquotes instead of a link')
            return match[0]
        return f']({relpath(places[file], os.path.dirname(place) or ".")}{hash_}{heading})'

    return _CODE_OR_LINK.sub(moved, text)


def _files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).iterdir() if path.suffix in _LANGUAGES)


def _anchor(name: str) -> str:
    return name.replace('.', '').lower()


def _shown(folder: str) -> str:
    parts = [f'# {folder.capitalize()}', f'The files of `{folder}/`.']
    for path in _files(folder):
        parts += [f'## {path.name}', f'```{_LANGUAGES[path.suffix]}\n{path.read_text().strip()}\n```']
    return '\n\n'.join(parts) + '\n'


def write(folder: Path) -> None:
    """Writes all pages, and the other files of docs/, into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / 'docs', folder)
    for place, text in pages().items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)


def foreign(site: Path) -> list[str]:
    """Lists what built pages and styles would load from other hosts, as `FILE: TAG`."""
    found = []
    for path in sorted([*site.rglob('*.html'), *site.rglob('*.css')]):
        found += [f'{path.relative_to(site)}: {match[0][:120]}' for match in _LOADS.finditer(path.read_text())]
    return found


def main() -> int:
    """Builds the site; returns the exit code."""
    try:
        write(BUILD)
    except MissingTextError as error:
        print(error, file=sys.stderr)
        return 1
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--clean', '--site-dir', str(SITE)]
    built = subprocess.run(command, cwd=ROOT, env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'}, check=False)
    if built.returncode:
        return built.returncode
    loaded = foreign(SITE)
    if loaded:
        print('pages load files from other hosts:', *loaded, sep='\n', file=sys.stderr)
        return 1
    print(f'{SITE}: {len(list(SITE.rglob("*.html")))} pages; to look at them: python -m http.server -d {SITE.name}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
