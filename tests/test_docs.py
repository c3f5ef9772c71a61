"""What the docs say of names, files, commands and numbers is what the code has."""

import argparse
import importlib
import re
import shlex
import shutil
from pathlib import Path

import docs_pages
import numpy as np
import pytest
import reference_pages
import skimage.io

from sptsr.commands.line import build_parser
from sptsr.core.registry import ARCH_REGISTRY, DATASET_REGISTRY, SOURCE_REGISTRY, UNIT_REGISTRY
from sptsr.core.signatures import argument_texts, parameters
from sptsr.core.yaml_io import read_yaml
from sptsr.options import keys
from tests.conftest import photograph

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), ROOT / 'datasets/README.md', ROOT / 'experiments/README.md']
)
TODAY = [path for path in PAGES if path.name != 'CHANGELOG.md']  # which names what was, too
FOREIGN = {'amg.py'}  # of segment_anything
FENCE = re.compile(r'^ *```(\w*)\n(.*?)^ *```', re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(path.read_text()) if kind == language]


def inline(path: Path) -> list[str]:
    """What stands in backquotes, outside of blocks."""
    return [' '.join(text.split()) for text in re.findall(r'`([^`]+)`', FENCE.sub('', path.read_text()))]


def commands(path: Path) -> list[list[str]]:
    """The commands of a page's shell blocks, as words."""
    found = []
    for block in blocks(path, 'sh'):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
                del words[0]
            if words:
                end = min([words.index(word) for word in ('>', '|', '&&', '||') if word in words], default=len(words))
                found.append(words[:end])
    return found


def arguments_of_sptsr(words: list[str]) -> list[str] | None:
    """What `sptsr` is given by a command, by whichever launcher; None when it is another command."""
    if words[0] == 'sptsr':
        return words[1:]
    if '-m' not in words or words[0] not in ('python', 'torchrun', 'srun'):
        return None
    module, *rest = words[words.index('-m') + 1 :]
    return {'sptsr': rest, 'sptsr.train': ['train', *rest], 'sptsr.test': ['test', *rest]}.get(module)


def without_placeholders(words: list[str]) -> list[str]:
    """`[--set k=v ...]` as a command that can be given."""
    words = [word.strip('[]') if re.match(r'\[|.*\]$', word) and '=[' not in word else word for word in words]
    return [word for word in words if word not in ('...', '…')]


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of the command that words begin with, and the words behind it."""
    parser, rest = build_parser(), list(words)
    while rest and parser._subparsers is not None:
        choices = parser._subparsers._group_actions[0].choices
        assert isinstance(choices, dict)
        assert rest[0] in choices, f'{parser.prog} {rest[0]}'
        parser = choices[rest.pop(0)]
    return parser, rest


def test_every_command_in_a_block_parses():
    checked = 0
    for page in PAGES:
        for words in commands(page):
            given = arguments_of_sptsr(words)
            if given is not None:
                try:
                    build_parser().parse_args(without_placeholders(given))
                except SystemExit:
                    pytest.fail(f'{page.name}: {shlex.join(words)}')
                checked += 1
    assert checked >= 35


def test_every_command_in_a_sentence_is_one():
    checked = 0
    for page in PAGES:
        for text in inline(page):
            if not text.startswith('sptsr ') or '…' in text:
                continue
            parser, rest = parser_of([word for word in text.split()[1:] if word != '/'])
            flags = {flag for word in rest for flag in re.findall(r'^-[\w-]+', word)}
            assert flags <= set(parser._option_string_actions), f'{page.name}: {text}'
            checked += 1
    assert checked >= 20


def test_files_that_commands_name_exist():
    checked = 0
    targets = re.findall(r'^([a-z]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    for page in TODAY:
        for words in [*commands(page), *(text.split() for text in inline(page))]:
            if words[0] == 'make' and len(words) > 1:
                assert words[1] in targets, (page.name, words)
                checked += 1
            for word in words:
                file = word.split(':')[0]
                if re.fullmatch(r'(\./)?(options|examples|scripts|benchmarks)/[\w./-]+\.(yml|py|sh)', file):
                    places = [ROOT / file, ROOT / 'tests' / file]
                    assert 'NAME' in file or any(place.is_file() for place in places), (page.name, file)
                    checked += 1
    assert checked >= 30


def test_flags_of_scripts_are_in_their_text():
    checked = 0
    for page in TODAY:
        for words in commands(page):
            scripts = [word for word in words if re.fullmatch(r'(scripts|benchmarks)/\w+\.py', word)]
            for flag in (word for word in words if word.startswith('--') and scripts):
                text = (ROOT / scripts[0]).read_text()
                assert repr(flag) in text, (page.name, words)
                checked += 1
    assert checked >= 6


def test_files_and_folders_that_sentences_name_exist():
    """A name with a slash and a suffix is a file of the repository, of `sptsr/` or of `tests/`."""
    checked = 0
    for page in TODAY:
        for text in inline(page):
            if re.fullmatch(r'(\w+/)*\w+\.py|(sptsr|tests|scripts|benchmarks|docs|examples)/[\w./]*', text):
                places = [ROOT / text, ROOT / 'sptsr' / text, ROOT / 'tests' / text, ROOT / 'sptsr/priors' / text]
                named_alone = '/' not in text and any(ROOT.glob(f'*/**/{text}'))
                assert named_alone or text in FOREIGN or any(place.exists() for place in places), (page.name, text)
                checked += 1
    assert checked >= 80


def test_names_of_modules_and_what_is_in_them_exist():
    checked = 0
    for page in TODAY:
        for name in re.findall(r'\bsptsr(?:\.[A-Za-z_]+)+', re.sub(r'\S*[/-]sptsr\S*', '', page.read_text())):
            found = importlib.import_module('sptsr')
            for part in name.split('.')[1:]:
                if not hasattr(found, part):
                    found = importlib.import_module(f'{found.__name__}.{part}')
                else:
                    found = getattr(found, part)
            checked += 1
    assert checked >= 10


def test_links_between_the_docs_lead_somewhere():
    checked = 0
    for page in PAGES:
        for target in re.findall(r'\]\(([^)#\s]+)[^)]*\)', FENCE.sub('', page.read_text())):
            if not target.startswith('http'):
                made = (page.parent / target).resolve().as_posix().partition('/docs/reference/')[2]
                assert f'reference/{made}' in reference_pages.PAGES or (page.parent / target).exists(), (
                    page.name,
                    target,
                )
                checked += 1
    assert checked >= 35


def test_the_readmes_options_are_those_of_the_shipped_file(tmp_path: Path):
    (tmp_path / 'x.yml').write_text(blocks(ROOT / 'README.md', 'yaml')[0])
    shown, _ = read_yaml(tmp_path / 'x.yml')
    shipped, _ = read_yaml(ROOT / 'options/train/SPT_IMDN_x4_BSDS400.yml')
    assert shown['network_g'] == shipped['network_g']
    train = shown['datasets']['train']
    assert train == {key: shipped['datasets']['train'][key] for key in train}
    assert len(train) >= 6


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    old = ROOT / 'tests/old/0.1'
    shutil.copy(old / 'adapter_4.safetensors', 'adapter.safetensors')
    (tmp_path / 'weights').mkdir()
    shutil.copy(old / 'weights/tiny.pth', 'weights/IMDN_x4.pth')
    skimage.io.imsave('photo.png', photograph('coffee.png', 40, 48))
    (code,) = blocks(ROOT / 'README.md', 'python')
    exec(compile(code, 'README.md', 'exec'), {})
    restored = skimage.io.imread('restored.png')
    assert restored.shape == (160, 192, 3)
    assert np.ptp(restored) > 100


def test_the_readme_is_one_page():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 120


def test_the_site_has_every_page_and_no_link_is_broken():
    pages = docs_pages.pages()
    assert set(reference_pages.PAGES) < set(pages)
    assert {'index.md', 'contributing.md', 'changelog.md', 'priors.md', 'results/tuning.md'} < set(pages)
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
    for registry, page, skip in (
        (ARCH_REGISTRY, networks, ()),
        (UNIT_REGISTRY, options, ('channels',)),
        (DATASET_REGISTRY, options, ('scale', 'phase')),
        (SOURCE_REGISTRY, sources, ()),
    ):
        for name, found in registry:
            if not found.__module__.startswith('sptsr.') or name == 'SPTNet':
                continue
            section = re.split(r'^#+ ', page.split(f'# {name}\n')[1], maxsplit=1, flags=re.MULTILINE)[0]
            wanted = list(parameters(getattr(found, 'settings', found), skip))
            assert re.findall(r'^\| `(\w+)` \| .* \|$', section, re.MULTILINE) == wanted, name
            assert not re.search(r'^\| `\w+` .*\|  \|$', section, re.MULTILINE), name
            rows += len(wanted)
    assert rows > 60


def test_texts_of_arguments_are_read_from_docstrings():
    class Base:
        """A base.

        Args:
            first: what it is,
                on two lines.
            second, third: of both.
        """

    class Below(Base):
        """One below.

        Args:
            third (int | str): its own: with a colon. Default: 3.

        Raises:
            ValueError: never.
        """

        def __init__(self, first: int, second: int, third: int) -> None: ...

    assert argument_texts(Below) == {
        'first': 'what it is, on two lines.',
        'second': 'of both.',
        'third': 'its own: with a colon. Default: 3.',
    }
