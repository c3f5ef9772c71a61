"""Who may import whom: one list of floors. `python -m tests.test_imports` prints the figures of the structure."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'sptsr'
# Lowest first. A module stands on the floor of the longest entry that its name begins with; it imports from its own
# floor and from lower ones. Modules on one floor form no circle either.
FLOORS = (
    'sptsr.core',
    'sptsr.options',
    'sptsr.images',
    'sptsr.masks',
    'sptsr.priors',
    'sptsr.archs',
    'sptsr.data',
    'sptsr.restoring',
    'sptsr.evaluation',
    'sptsr.report',
    'sptsr.tuning',
    'sptsr.study',
    'sptsr.commands',
    'sptsr',  # what stands at the root: the public names, and entry points
)
# Imported by no module of the package.
ENTRY_POINTS = ('sptsr', 'sptsr.__main__', 'sptsr.registry', 'sptsr.test', 'sptsr.train')
# Change how modules are found.
FINDERS = {'compat.py', 'moved.py', 'plugin_files.py'}


def modules(package: Path) -> dict[str, Path]:
    """Returns the modules below a folder by dotted name."""
    found = {}
    for path in sorted(package.rglob('*.py')):
        parts = path.relative_to(package.parent).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def edges(package: Path) -> set[tuple[str, str]]:
    """Returns (importer, imported) of all import statements, also of those inside functions."""
    known, found = modules(package), set()
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = [f'{node.module}.{alias.name}' for alias in node.names]
                targets = [target if target in known else node.module for target in inside]
            found |= {(name, target) for target in targets if target in known and target != name}
    return found


def floor(name: str) -> int:
    """Returns the number of the floor that a module stands on."""
    entries = [entry for entry in FLOORS[:-1] if name == entry or name.startswith(entry + '.')]
    return FLOORS.index(entries[0]) if entries else len(FLOORS) - 1


def upward(found: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the edges from a floor to a higher one."""
    return sorted((a, b) for a, b in found if floor(b) > floor(a))


def circles(found: set[tuple[str, str]]) -> list[list[str]]:
    """Returns the groups of modules that reach each other (Tarjan: strongly connected, more than one module)."""
    below: dict[str, list[str]] = {}
    for a, b in sorted(found):
        below.setdefault(a, []).append(b)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in below.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted({name for edge in found for name in edge}):
        if name not in index:
            visit(name)
    return groups


def test_every_module_stands_on_a_floor_that_exists():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()}
    assert rooms == {entry.split('.')[1] for entry in FLOORS[:-1]}
    assert len(rooms) <= 18
    at_root = [path.name for path in PACKAGE.glob('*.py')]
    assert len(at_root) <= 12


def test_nothing_imports_upwards():
    found = edges(PACKAGE)
    assert len(found) > 200
    assert upward(found) == []


def test_there_is_no_circle():
    assert circles(edges(PACKAGE)) == []


def test_entry_points_are_imported_by_nothing():
    assert set(ENTRY_POINTS) == {name for name in modules(PACKAGE) if floor(name) == len(FLOORS) - 1}
    assert [edge for edge in edges(PACKAGE) if edge[1] in ENTRY_POINTS] == []


def test_no_two_files_share_a_name():
    names = [path.stem for path in PACKAGE.rglob('*.py') if path.stem != '__init__']
    # the door and the room behind it
    assert {name for name in names if names.count(name) > 1} <= {'registry'}


@pytest.mark.parametrize(
    ('bad', 'expected'),
    [
        ({('sptsr.core.files', 'sptsr.masks.prior')}, 'up'),
        (
            {('sptsr.core.a', 'sptsr.core.b'), ('sptsr.core.b', 'sptsr.core.c'), ('sptsr.core.c', 'sptsr.core.a')},
            'circle',
        ),
    ],
)
def test_the_checks_can_fail(bad, expected):
    assert bool(upward(bad)) == (expected == 'up')
    assert bool(circles(bad)) == (expected == 'circle')


def test_few_modules_change_how_modules_are_found():
    checked = 0
    for path in PACKAGE.rglob('*.py'):
        checked += 1
        if path.name not in FINDERS:
            assert 'sys.meta_path' not in path.read_text(), path
    assert checked > 30


def test_no_file_runs_code_from_strangers():
    checked = 0
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ('eval', 'exec', 'pickle.load', 'pickle.loads', 'yaml.unsafe_load'), path
                if name == 'torch.load':
                    checked += 1
                    assert 'weights_only=True' in ast.unparse(node), path
    assert checked >= 2


def _main(package: Path) -> None:
    found = edges(package)
    print(f'rooms                {len([path for path in package.iterdir() if (path / "__init__.py").is_file()])}')
    print(f'modules              {len(modules(package))}, at the root {len(list(package.glob("*.py")))}')
    print(f'import edges         {len(found)}, upwards {len(upward(found))}')
    print(f'circles              {len(circles(found))}')
    for group in circles(found):
        print('  ' + ' '.join(group))


if __name__ == '__main__':
    _main(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
