"""Data goes one way (docs/architecture.md): who may import whom."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / 'sptsr'
FORBIDDEN = {
    'archs': ('sptsr.priors', 'sptsr.data', 'sptsr.models', 'sptsr.report', 'sptsr.train', 'sptsr.test'),
    'priors': ('sptsr.data', 'sptsr.archs', 'sptsr.models', 'sptsr.report', 'sptsr.train', 'sptsr.test'),
    'data': ('sptsr.priors.sources', 'sptsr.priors.extract', 'sptsr.archs', 'sptsr.models', 'sptsr.report'),
    'report': ('sptsr.archs', 'sptsr.models', 'sptsr.train', 'sptsr.test'),
    'models': ('sptsr.train', 'sptsr.test', 'sptsr.cli', 'sptsr.data'),
}
PATCHERS = {'compat.py', 'moved.py'}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f'{node.module}.{alias.name}' for alias in node.names)
    return found


def test_nothing_imports_against_the_flow():
    edges = 0
    for part, forbidden in FORBIDDEN.items():
        for path in (PACKAGE / part).rglob('*.py'):
            for name in _imports(path):
                edges += name.startswith('sptsr.')
                wrong = [f for f in forbidden if name == f or name.startswith(f + '.')]
                assert not wrong, f'{path.relative_to(PACKAGE)} imports {name}'
    assert edges > 40


def test_only_compat_patches_modules():
    checked = 0
    for path in PACKAGE.rglob('*.py'):
        checked += 1
        if path.name not in PATCHERS:
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
    assert checked >= 3
