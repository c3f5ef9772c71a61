"""What the docs say of names and numbers is what the code has."""

import re
from pathlib import Path

import docs_pages
import pytest
import reference_pages

from sptsr.core.registry import ARCH_REGISTRY, DATASET_REGISTRY, SOURCE_REGISTRY, UNIT_REGISTRY
from sptsr.core.signatures import parameters
from sptsr.core.yaml_io import read_scalar, read_yaml
from sptsr.options import keys

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


def test_the_site_has_every_page_and_no_link_is_broken():
    pages = docs_pages.pages()
    assert set(reference_pages.PAGES) < set(pages)
    assert {'index.md', 'contributing.md', 'priors.md', 'results/tuning.md'} < set(pages)
    assert '](upstream.md)' in pages['index.md']  # docs/upstream.md in the repository
    assert '](../data.md)' in pages['results/backbones.md']


@pytest.mark.parametrize('target', ['docs/no_such.md', 'sptsr/archs/units.py', '../elsewhere.md'])
def test_a_link_that_leads_nowhere_is_named(target: str):
    broken: list[str] = []
    docs_pages.relinked(f'[here]({target})', 'README.md', 'index.md', broken)
    assert len(broken) == 1
    assert target in broken[0]


def test_links_in_code_are_left_alone():
    text = '`[a](b.md)`\n\n```sh\necho "[a](b.md)"\n```\n'
    broken: list[str] = []
    assert docs_pages.relinked(text, 'README.md', 'index.md', broken) == text
    assert broken == []


def test_what_a_page_would_load_from_other_hosts_is_found(tmp_path: Path):
    (tmp_path / 'good.html').write_text('<a href="https://a.org">a</a><script src="assets/b.js"></script>')
    (tmp_path / 'bad.html').write_text('<script defer src="https://a.org/b.js"></script><img src="//a.org/c.png">')
    (tmp_path / 'bad.css').write_text('@font-face {src: url("https://a.org/d.woff2")}')
    assert [line.split(':')[0] for line in docs_pages.foreign(tmp_path)] == ['bad.css', 'bad.html', 'bad.html']


def test_a_key_that_nothing_explains_ends_the_build(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(keys.TEXTS['val'], 'tile', '')
    with pytest.raises(reference_pages.MissingTextError, match=r'val: .*tile'):
        reference_pages.options_page()


def test_the_reference_has_every_argument_of_what_sptsr_registers():
    options, networks, sources = (
        reference_pages.PAGES[f'reference/{name}.md']() for name in ('options', 'networks', 'sources')
    )
    rows = 0
    for registry, page in (
        (ARCH_REGISTRY, networks),
        (UNIT_REGISTRY, options),
        (DATASET_REGISTRY, options),
        (SOURCE_REGISTRY, sources),
    ):
        for name, found in registry:
            if found.__module__.startswith('sptsr.') and name != 'SPTNet':
                section = re.split(r'^#+ ', page.split(f'# {name}\n')[1], maxsplit=1, flags=re.M)[0]
                skip = (
                    ('channels',)
                    if registry is UNIT_REGISTRY
                    else ('scale', 'phase')
                    if registry is DATASET_REGISTRY
                    else ()
                )
                wanted = list(parameters(getattr(found, 'settings', found), skip))
                assert re.findall(r'^\| `(\w+)` \| .* \|$', section, re.M) == wanted, name
                assert not re.search(r'^\| `\w+` .*\|  \|$', section, re.M), name
                rows += len(wanted)
    assert rows > 60
