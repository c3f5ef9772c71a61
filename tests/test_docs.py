"""What the docs say of names and numbers is what the code has."""

import re
from pathlib import Path

from sptsr.registry import SOURCE_REGISTRY
from sptsr.signatures import parameters
from sptsr.yaml_io import read_scalar

ROOT = Path(__file__).parents[1]


def test_every_parameter_of_every_source_is_documented_with_its_default():
    rows = re.findall(
        r'^\| (?:`(\w+)` )?\| (?:`(\w+)` )?\| (?:`([^`]+)` )?\|', (ROOT / 'docs/priors.md').read_text(), re.M
    )
    documented: dict[str, dict[str, str]] = {}
    source = ''
    for name, parameter, default in rows:
        source = name or source
        if parameter:
            documented.setdefault(source, {})[parameter] = default
    assert set(documented) == set(SOURCE_REGISTRY.keys())
    for source, table in documented.items():
        actual = parameters(SOURCE_REGISTRY._obj_map[source])
        assert list(table) == list(actual)
        for name, default in table.items():
            value = actual[name].default
            if default:
                assert read_scalar(default) == (list(value) if isinstance(value, tuple) else value), (source, name)


def test_links_between_the_docs_lead_somewhere():
    checked = 0
    for page in [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]:
        for target in re.findall(r'\]\(([^)#]+)\)', page.read_text()):
            if not target.startswith('http'):
                assert (page.parent / target).exists(), (page.name, target)
                checked += 1
    assert checked >= 8


def test_tests_named_in_upstream_exist():
    names = set(re.findall(r'`((?:\w+/)?test_\w+\.py)`', (ROOT / 'docs/upstream.md').read_text()))
    assert len(names) >= 10
    assert all((ROOT / 'tests' / name).exists() for name in names)
