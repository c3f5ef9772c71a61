"""What the docs say of names and numbers is what the code has."""

import re
from pathlib import Path

from sptsr.core.registry import SOURCE_REGISTRY
from sptsr.core.signatures import parameters
from sptsr.core.yaml_io import read_scalar, read_yaml

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
    for page in [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')]:
        for target in re.findall(r'\]\(([^)#]+)\)', page.read_text()):
            if not target.startswith('http'):
                assert (page.parent / target).exists(), (page.name, target)
                checked += 1
    assert checked >= 8


def test_tests_named_in_upstream_exist():
    names = set(re.findall(r'`((?:\w+/)?test_\w+\.py)`', (ROOT / 'docs/upstream.md').read_text()))
    assert len(names) >= 10
    assert all((ROOT / 'tests' / name).exists() for name in names)


def test_the_readmes_options_are_those_of_the_shipped_file(tmp_path: Path):
    fragment = re.findall(r'```yaml\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)[0]
    (tmp_path / 'x.yml').write_text(fragment)
    shown, _ = read_yaml(tmp_path / 'x.yml')
    shipped, _ = read_yaml(ROOT / 'options/train/SPT_IMDN_x4_BSDS400.yml')
    assert shown['network_g'] == shipped['network_g']
    train = shown['datasets']['train']
    assert train == {key: shipped['datasets']['train'][key] for key in train}
    assert len(train) >= 6
