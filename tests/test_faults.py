"""Every kind of fault in docs/faults.md has a test that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = {
    'Figures': 13,
    'Long runs': 6,
    'Files that people have': 13,
    'What ended in a traceback, a signal, or never': 18,
}


def _rows() -> dict[str, list[str]]:
    """Returns the rows of each section's table."""
    sections = re.split(r'^## ', (ROOT / 'docs' / 'faults.md').read_text(), flags=re.MULTILINE)[1:]
    return {
        title: [
            line for line in text.splitlines() if line.startswith('| ') and not line.startswith(('| kind', '| ---'))
        ]
        for title, _, text in (section.partition('\n') for section in sections)
    }


def test_every_section_has_its_kinds():
    rows = _rows()
    assert rows.keys() >= KINDS.keys()
    for title, least in KINDS.items():
        assert len(rows[title]) >= least, title


@pytest.mark.parametrize('row', [row for rows in _rows().values() for row in rows])
def test_every_kind_has_a_test_that_exists(row: str):
    _, kind, right, tests, _ = row.split('|')
    assert kind.strip()
    assert right.strip()
    named = tests.strip().split(', ')
    for name in named:
        found = re.fullmatch(r'`(tests/[\w/]+\.py)::(test_\w+)`', name)
        assert found, name
        tree = ast.parse((ROOT / found[1]).read_text())
        assert found[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name
