"""Wrong values at every option, parameter of a source and key of an adapter: one line, exit code 2, nothing written."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sptsr.core.catalogue import entries
from sptsr.images.folder import ImageFolder
from tests.conftest import base_options, run_cli
from tests.priors.test_transformers import _hf as tiny_model
from tests.sandbox import Broken, Done, Sandbox, run_command
from tests.wrong_values import Place, changed, json_at, option_places, record_places, source_places, value_at

EACH = 3  # values at every place
MEMORY = 2 << 30  # bytes that a command may take
SECONDS = 20  # of processor time
LINES = 6
MARK = 'VALUE-HERE'
OPTIONS = option_places()
RULES = settings(
    max_examples=EACH,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope='module')
def folder(photographs: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one photograph, and with things that no option means."""
    root = tmp_path_factory.mktemp('wrong')
    shutil.copytree(photographs, root / 'set')
    os.mkfifo(root / 'pipe')
    (root / 'text.txt').write_text('text\n')
    (root / 'empty').mkdir()
    shutil.copy(tiny_weights, root / 'tiny.pth')
    (root / 'labels').mkdir()
    images = ImageFolder(root / 'set' / 'LRx4')
    for key in images.keys:
        np.save(root / 'labels' / f'{key}.npy', np.ones(images.read(key).shape[:2], np.int16))
    tiny_model('sam').save_pretrained(root / 'model')
    (root / 'train.yml').write_text(yaml.safe_dump(_options(True)))
    assert run_cli('train', '-opt', 'train.yml', cwd=root).returncode == 0
    shutil.move(root / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors', root / 'good.safetensors')
    shutil.rmtree(root / 'experiments')
    return root


@pytest.fixture(scope='module')
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(run_command, MEMORY, SECONDS) as found:
        yield found


def _options(trains: bool) -> dict[str, Any]:
    options = base_options(Path('set'), trains=trains)
    options['network_g']['backbone_weights'] = 'tiny.pth'
    if trains:
        options['train']['total_iter'] = 1
        options['datasets']['train']['batch_size_per_gpu'] = 1
    return options


def _files(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for here, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = os.path.join(here, name)
            status = os.lstat(path)
            found[path] = (status.st_mode, status.st_size) if name in folders else (status.st_size, status.st_mtime_ns)
    return found


def _try(sandbox: Sandbox, folder: Path, how: str, words: list[str], name: str) -> str:
    """Runs a command that was given a value of this kind; returns what is wrong with its end, or an empty text."""
    before = _files(folder)
    done: Done | Broken = sandbox((folder, words))
    after = _files(folder)
    written = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    for path in written:
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else Path(path).unlink(missing_ok=True)
    if isinstance(done, Broken):
        return done.how
    said = done.out + done.err
    if 'Traceback' in said or done.code not in (0, 2):
        return f'exit code {done.code}: {said[-1500:]}'
    if done.code == 0:
        return '' if how == 'doubtful' else f'taken, and {said[-300:]}'
    if written and 'the loss l_pix is' not in said:  # the step was made, and gave no number
        return f'it wrote {written[0]}, and said {said[-300:]}'
    if len(said.splitlines()) > LINES or len(said) > 4000:
        return f'{len(said.splitlines())} lines, {len(said)} characters: {said[:500]}'
    if how == 'wrong' and name not in said:
        return f"says nothing of '{name}': {said[-500:]}"
    return ''


@pytest.mark.slow
@pytest.mark.parametrize('section', OPTIONS)
def test_options(section: str, folder: Path, sandbox: Sandbox):
    trains = section not in ('val', 'path')

    def check(place: Place, how: str, value: str, forced: bool) -> str:
        given = changed(_options(trains), place, MARK)
        text = yaml.safe_dump(given, sort_keys=False)
        words = ['train' if trains else 'test', '-opt', 'x.yml']
        if forced and '\0' not in value:
            text = text.replace(f': {MARK}', ': ~')
            words += ['--force_yml', f'{":".join(place.path)}={value}']
        else:
            text = text.replace(MARK, value)
        (folder / 'x.yml').write_text(text)
        return _try(sandbox, folder, how, words, place.path[-1])

    _run(OPTIONS[section], value_at, check)


@pytest.mark.slow
@pytest.mark.parametrize('source', sorted(entries('source')))
def test_parameters_of_sources(source: str, folder: Path, sandbox: Sandbox):
    if source == 'transformers':
        pytest.importorskip('transformers', reason='transformers is not installed')
    needed = {
        'labels': {'dir': 'labels'},
        'random': {'like': 'set/prior'},
        'sam': {'checkpoint': 'text.txt'},
        'transformers': {'model': 'model', 'points_per_side': '2'},
    }.get(source, {})

    def check(place: Place, how: str, value: str, _: bool) -> str:
        (key,) = place.path
        given = [f'{k}={v}' for k, v in needed.items() if k != key]
        words = ['prior', 'extract', '-i', 'set/LRx4', '-o', 'new', '--source', source, '--set', *given]
        return _try(sandbox, folder, how, [*words, f'{key}={value}'], key)

    _run(source_places(source), value_at, check)


@pytest.mark.slow
def test_keys_of_an_adapter(folder: Path, sandbox: Sandbox):
    tensors = load_file(folder / 'good.safetensors')
    with safe_open(folder / 'good.safetensors', framework='pt') as handle:
        (name, text), *_ = handle.metadata().items()
    record = json.loads(text)
    (folder / 'test.yml').write_text(yaml.safe_dump(_options(False)))

    def check(place: Place, how: str, value: str, restores: bool) -> str:
        changed_text = json.dumps(changed(record, place, MARK)).replace(f'"{MARK}"', value)
        save_file(tensors, folder / 'x.safetensors', {name: changed_text})
        words = ['test', '-opt', 'test.yml', '--force_yml', 'path:pretrain_network_g=x.safetensors']
        if restores:
            words = ['restore', '-a', 'x.safetensors', '-i', 'set/LRx4/astronaut.png', '-o', 'out']
        return _try(sandbox, folder, how, words, 'x.safetensors')

    places = list(record_places(record))
    assert len(places) > 25
    _run(places, json_at, check)


def _run(places: list[Place], at: Callable[[Place, int], tuple[str, str]], check: Callable[..., str]) -> None:
    """Gives every place values that hypothesis chooses by their numbers: a text of 100,000 letters is no example."""

    @RULES
    @given(st.data())
    def all_places(data: st.DataObject) -> None:
        for place in places:
            how, value = at(place, data.draw(st.integers(0, 10**6)))
            fault = check(place, how, value, data.draw(st.booleans()))
            if fault:
                note(f'{".".join(place.path)}: {value[:200]} ({how})')
                raise AssertionError(fault)

    all_places()
