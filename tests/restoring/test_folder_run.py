"""`sptsr restore` on folders of real photographs."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import odd_files
import pytest
import torch
import yaml
from PIL import Image

import sptsr
from sptsr.archs.weights import read_weights
from sptsr.commands.line import main
from sptsr.images.any_image import read_any
from sptsr.restoring.result_files import JOURNAL
from tests.archs.cases import trained
from tests.conftest import photograph, run_cli
from tests.report.test_page import data_of, pixels

OLD = Path(__file__).parents[1] / 'old' / '0.1'
ARGUMENTS = ['-a', OLD / 'adapter_4.safetensors', '--weights', OLD / 'weights' / 'tiny.pth', '--source', 'felzenszwalb']


OTHER = object()


@pytest.fixture(scope='module')
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the adapter's network that it was not trained for."""
    weights = read_weights(OLD / 'weights' / 'tiny.pth')
    path = tmp_path_factory.mktemp('weights') / 'other.pth'
    torch.save({name: value * 1.01 for name, value in weights.items()}, path)
    return path


@pytest.fixture(scope='module')
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Arguments that name an adapter of a small FFDNet."""
    folder = tmp_path_factory.mktemp('denoiser')
    torch.manual_seed(0)
    net = trained(sptsr.attach({'type': 'FFDNet', 'nc': 12, 'nb': 9}, num_masks=5, width=8))
    torch.save(net.backbone.state_dict(), folder / 'ffdnet.pth')
    sptsr.save(net.eval(), folder / 'adapter.safetensors')
    return ['-a', folder / 'adapter.safetensors', '--weights', folder / 'ffdnet.pth', '--source', 'felzenszwalb']


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A nested folder of five images of different kinds."""
    folder = tmp_path / 'photos'
    (folder / 'urlaub/größe').mkdir(parents=True)
    cat = photograph('chelsea.png', 20, 28)
    Image.fromarray(cat).save(folder / 'cat.png')
    Image.fromarray(cat[:, :, 0]).save(folder / 'gray.png')
    picture = Image.fromarray(photograph('coffee.png', 16, 24))
    picture.putalpha(128)
    picture.save(folder / 'urlaub' / 'alpha.png')
    picture.convert('RGB').save(folder / 'urlaub/größe' / 'tasse (1).jpg')
    Image.fromarray(cat[:1, :1]).save(folder / 'one.png')
    return folder


def _restore(photos: Path, *arguments: object, out: str = 'out'):
    return run_cli('restore', '-i', photos, '-o', photos.parent / out, *ARGUMENTS, *arguments)


def test_a_folder_is_restored_and_the_same_command_keeps_it(photos):
    result = _restore(photos)
    assert result.returncode == 0, result.stderr
    assert '5 images restored' in result.stdout
    out = photos.parent / 'out'
    made = sorted(str(path.relative_to(out)) for path in out.rglob('*.png'))
    assert made == ['cat.png', 'gray.png', 'one.png', 'urlaub/alpha.png', 'urlaub/größe/tasse (1).png']
    net = sptsr.load(OLD / 'adapter_4.safetensors', weights=OLD / 'weights' / 'tiny.pth')
    image = photograph('chelsea.png', 20, 28)
    expected = sptsr.restore(net, image, sptsr.make_prior(image, max_masks=net.num_masks))
    assert np.abs(read_any(out / 'cat.png', 10**6).colour.astype(int) - expected).max() <= 1
    assert read_any(out / 'gray.png', 10**6).colour.shape == (80, 112, 1)
    alpha = read_any(out / 'urlaub/alpha.png', 10**6)
    assert alpha.colour.shape == (64, 96, 3)
    assert (alpha.alpha == 128).all()
    again = _restore(photos)
    assert '0 images restored, 5 were there' in again.stdout
    other = _restore(photos, '--self-ensemble')
    assert '5 images restored' in other.stdout


def test_a_bad_file_is_named_and_the_others_are_done(photos):
    (photos / 'broken.png').write_bytes((photos / 'cat.png').read_bytes()[:60])
    os.mkfifo(photos / 'pipe.png')
    result = _restore(photos)
    assert result.returncode == 1
    assert '5 images restored' in result.stdout
    named = [line for line in result.stderr.splitlines() if line.startswith('sptsr: ')]
    assert len(named) == 2
    assert 'broken.png: not a' in named[0]
    assert 'pipe.png: not a regular file' in named[1]


def test_results_inside_the_input_are_no_input_and_nothing_is_overwritten(photos):
    inside = _restore(photos, out='photos/restored')
    assert '5 images restored' in inside.stdout
    assert '0 images restored, 5 were there' in _restore(photos, out='photos/restored').stdout
    before = {path: path.read_bytes() for path in photos.rglob('*.*') if path.is_file()}
    refused = _restore(photos, out='photos')
    assert refused.returncode == 2
    assert 'would overwrite an input' in refused.stderr
    (photos.parent / 'mine').mkdir()
    Image.new('RGB', (4, 4)).save(photos.parent / 'mine' / 'cat.png')
    strange = _restore(photos, out='mine')
    assert strange.returncode == 1
    assert 'not made by this command' in strange.stderr
    assert Image.open(photos.parent / 'mine' / 'cat.png').size == (4, 4)
    assert before == {path: path.read_bytes() for path in before}


def test_results_beside_their_images_are_no_input_of_the_next_run(photos):
    first = _restore(photos, '--suffix', '_x4', out='photos')
    assert '5 images restored' in first.stdout, first.stderr
    again = _restore(photos, '--suffix', '_x4', out='photos')
    assert (again.returncode, 'sptsr: ' in again.stderr) == (0, False)
    assert '0 images restored, 5 were there' in again.stdout
    assert len(list(photos.rglob('*.png'))) == 4 + 5


def test_a_name_that_is_not_utf_8_is_restored_and_printed(tmp_path):
    picture = Image.fromarray(photograph('chelsea.png', 12, 16)).convert('P')
    (tmp_path / 'in').mkdir()
    with open(os.fsencode(tmp_path / 'in') + b'/caf\xe9.png', 'wb') as file:
        picture.save(file, 'png')
    words = ['restore', '-i', tmp_path / 'in', '-o', tmp_path / 'out', *ARGUMENTS]
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), 'utf-8')) as out:
        assert main([str(word) for word in words]) == 0
        out.flush()
        assert b'caf\\udce9.png: ' in out.buffer.getvalue()
    assert os.path.isfile(os.fsencode(tmp_path / 'out') + b'/caf\xe9.png')


def test_an_image_that_takes_more_memory_than_the_gpu_has_is_named(photos, monkeypatch):
    from sptsr.restoring import folder_run

    restore = folder_run.restore_tensor

    def starved(net, lq, *arguments):
        if lq.shape[-1] == 24:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return restore(net, lq, *arguments)

    monkeypatch.setattr(folder_run, 'restore_tensor', starved)
    result = _restore(photos)
    assert result.returncode == 1
    assert '3 images restored' in result.stdout
    assert 'urlaub/alpha.png: IMDN runs out of memory on it; say --tile 256' in result.stderr


def test_a_report_shows_all_images_beside_the_frozen_network_also_those_of_an_earlier_run(photos):
    assert _restore(photos).returncode == 0
    (photos / 'urlaub' / 'alpha.png').rename(photos / 'zuletzt.png')
    (photos / 'broken.png').write_bytes((photos / 'cat.png').read_bytes()[:60])
    result = _restore(photos, '--report')
    assert '1 images restored, 4 were there' in result.stdout
    assert result.returncode == 1
    cards = {card['name']: card for card in data_of(photos.parent / 'out' / 'report.html')['pictures']}
    assert cards.keys() == {'cat.png', 'gray.png', 'one.png', 'zuletzt.png', 'urlaub/größe/tasse (1).jpg'}
    net = sptsr.load(OLD / 'adapter_4.safetensors', weights=OLD / 'weights' / 'tiny.pth')
    image = photograph('chelsea.png', 20, 28)
    with net.units_off():
        frozen = sptsr.restore(net, image)
    cat = cards['cat.png']
    assert list(cat['images']) == ['LQ', 'frozen', 'tuned']
    assert np.abs(pixels(cat['images']['frozen']).astype(int) - frozen).max() <= 1
    assert (pixels(cat['images']['tuned']) == read_any(photos.parent / 'out' / 'cat.png', 10**6).colour).all()
    assert cat['masks']
    changes = [float(card['rank']) for card in data_of(photos.parent / 'out' / 'report.html')['pictures']]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 0


def test_a_store_without_an_image_is_refused_and_one_of_these_images_is_used(photos):
    result = run_cli(
        'restore', '-i', photos / 'cat.png', '-o', photos.parent / 'o', *ARGUMENTS[:4], '--prior', OLD / 'set/prior'
    )
    assert result.returncode == 2
    assert "no prior of 'cat'" in result.stderr
    assert not (photos.parent / 'o').exists()
    stored = run_cli(
        'restore', '-i', OLD / 'set/LRx4', '-o', photos.parent / 'o', *ARGUMENTS[:4], '--prior', OLD / 'set/prior'
    )
    assert stored.returncode == 0, stored.stderr
    for key in ('chelsea', 'coffee'):
        made = read_any(photos.parent / 'o' / f'{key}.png', 10**6).colour.astype(int)
        assert np.abs(made - read_any(OLD / 'restored' / f'{key}.png', 10**6).colour).max() <= 1


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['-i', 'no', '-o', 'o', *ARGUMENTS], 'no: no such file or folder'),
        (['-i', 'empty', '-o', 'o', *ARGUMENTS], 'empty: no images here'),
        (['-i', 'a.png', '-o', 'o', '-a', 'no.safetensors'], 'no.safetensors: no such file'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:2], '--source', 'felzenszwalb'], 'say where with'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:4]], 'it does not say of which source; say --source NAME'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--sigma', '25'], 'takes no noise level'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--tile', '-1'], '--tile -1'),
        (['-i', 'a.png', '-o', 'a.png', *ARGUMENTS], 'a.png: is a file'),
        (['-i', 'a.png', '-o', 'a.png/out', *ARGUMENTS], 'a.png/out: cannot write to it (Not a directory)'),
        (['-i', 'a.png', '-o', '/proc/out', *ARGUMENTS], '/proc/out: cannot write to it'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--weights', OTHER], 'and this backbone holds others'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:2], '--weights', 'no.pth', *ARGUMENTS[4:]], 'no.pth'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:4], '--prior', 'no'], 'no: '),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:4], '--prior', 'no', '--set', 'a=1'], '--set and --through are for a'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--suffix', '/../x'], "--suffix '/../x': stands in the name"),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS[:4], '--source', 'felsenzwalb'], "did you mean 'felzenszwalb'"),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--precision', 'fp16'], '--precision fp16: needs a CUDA GPU'),
        (['-i', 'a.png', '-o', 'o', *ARGUMENTS, '--set', 'scale=3'], "did you mean 'scales'"),
        (['-i', 'a.png', '-o', 'o'], 'one of the arguments -a/--adapter -opt is required'),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(tmp_path, monkeypatch, other_weights, arguments, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    arguments = [other_weights if word is OTHER else word for word in arguments]
    (tmp_path / 'empty').mkdir()
    Image.fromarray(photograph('chelsea.png', 12, 12)).save('a.png')
    result = run_cli('restore', *arguments)
    assert result.returncode == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'empty']


def test_an_adapter_of_today_says_which_source_and_noise_level_it_is_for(here):
    options = yaml.safe_load(Path('train.yml').read_text())
    options['train']['total_iter'] = 2
    Path('train.yml').write_text(yaml.safe_dump(options))
    assert run_cli('train', '-opt', 'train.yml').returncode == 0
    adapter = Path('experiments') / options['name'] / 'models' / 'net_g_latest.safetensors'
    Image.fromarray(photograph('chelsea.png', 20, 28)).save('a.png')
    plain = run_cli('restore', '-i', 'a.png', '-o', 'plain', '-a', adapter)
    assert plain.returncode == 0, plain.stderr
    assert 'was trained with' not in plain.stderr
    same = run_cli(
        'restore', '-i', 'a.png', '-o', 'same', '-a', adapter, '--source', 'felzenszwalb', '--set', 'min_size=4'
    )
    assert 'was trained with' not in same.stderr
    assert Path('same/a.png').read_bytes() == Path('plain/a.png').read_bytes()
    other = run_cli('restore', '-i', 'a.png', '-o', 'other', '-a', adapter, '--set', 'min_size=9')
    assert other.returncode == 0
    assert 'min_size=4' in other.stderr
    assert 'min_size=9' in other.stderr
    random = run_cli(
        'restore', '-i', 'a.png', '-o', 'r', '-a', adapter, '--source', 'random', '--set', 'like=set/prior'
    )
    assert random.returncode == 0, random.stderr
    (line,) = [line for line in random.stderr.splitlines() if line.startswith('sptsr: ')]
    assert 'trained with masks of felzenszwalb (' in line
    assert 'and these are of random (' in line


def test_a_kill_loses_the_image_that_was_being_written_and_no_other(photos):
    for number in range(30):
        Image.fromarray(photograph('coffee.png', 40 + number, 48)).save(photos / f'more_{number:02d}.png')
    command = [sys.executable, '-m', 'sptsr', 'restore', '-i', photos, '-o', photos.parent / 'out', *ARGUMENTS]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = photos.parent / 'out' / JOURNAL
    while process.poll() is None and not (journal.is_file() and len(journal.read_text().splitlines()) > 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in (photos.parent / 'out').rglob('*.png')}
    assert finished
    for path in finished:
        read_any(path, 10**6)
    result = _restore(photos)
    assert result.returncode == 0, result.stderr
    lines = journal.read_text().splitlines()
    assert len(list((photos.parent / 'out').rglob('*.png'))) == 35
    kept = sum(path.stat().st_mtime_ns == when for path, when in finished.items())
    assert kept >= len(finished) - 1
    assert len(lines) >= 35


def test_files_of_all_kinds_are_restored_and_broken_ones_named(tmp_path, denoiser):
    """`scripts/odd_files.py` makes them; docs/restoring.md says what becomes of each."""
    made = odd_files.make(tmp_path / 'odd')
    good = [path for path in made if path.parent.name != 'broken']
    assert len(good) >= 35
    result = run_cli('restore', '-i', tmp_path / 'odd', '-o', tmp_path / 'out', *denoiser, '--sigma', 'auto')
    assert result.returncode == 1
    named = [line for line in result.stderr.splitlines() if line.startswith('sptsr: ')]
    assert len(named) == len(made) - len(good)
    for path in made:
        assert any(f'/{path.name}: ' in line for line in named) == (path not in good)
    assert f'{len(good)} images restored' in result.stdout
    for path in good:
        before = read_any(path, 10**6)
        stem = tmp_path / 'out' / path.relative_to(tmp_path / 'odd').parent
        (target,) = [one for one in (stem / f'{path.name}.png', stem / f'{path.stem}.png') if one.is_file()][:1]
        after = read_any(target, 10**6)
        assert after.colour.shape == before.colour.shape, path
        assert after.colour.dtype == before.colour.dtype, path
        assert (after.alpha is None) == (before.alpha is None), path
        if before.alpha is not None:
            assert np.array_equal(after.alpha, before.alpha), path
        assert after.profile == before.profile, path
    said = dict(line.split(': ', 1) for line in result.stdout.splitlines() if ': ' in line)
    assert said['moving.gif'].startswith('first of 4 frames')
    assert said['cmyk.jpg'].startswith('CMYK converted to RGB')
    assert said['turned_5.tif'].startswith('turned upright')
    assert 'estimated' in said['rgb.png']


def test_images_of_one_name_get_names_of_their_own(photos):
    Image.fromarray(photograph('coffee.png', 20, 28)).save(photos / 'cat.jpg')
    result = _restore(photos)
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (photos.parent / 'out').glob('*.png')}
    assert names == {'cat.png.png', 'cat.jpg.png', 'gray.png', 'one.png'}


def test_a_noise_level_is_said_or_estimated(tmp_path, denoiser):
    clean = photograph('coffee.png', 96, 96)
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    Image.fromarray((clean + noise).clip(0, 255).astype(np.uint8)).save('a.png')
    missing = run_cli('restore', '-i', 'a.png', '-o', 'o', *denoiser)
    assert missing.returncode == 2
    assert 'say --sigma N (of 255), or --sigma auto' in missing.stderr
    made = run_cli('restore', '-i', 'a.png', '-o', 'auto', *denoiser, '--sigma', 'auto')
    assert made.returncode == 0, made.stderr
    level = float(made.stdout.split('noise level ')[1].split()[0])
    assert 20 < level < 30
    run_cli('restore', '-i', 'a.png', '-o', 'same', *denoiser, '--sigma', level)
    run_cli('restore', '-i', 'a.png', '-o', 'weak', *denoiser, '--sigma', '5')
    one, same, weak = (read_any(f'{name}/a.png', 10**6).colour.astype(int) for name in ('auto', 'same', 'weak'))
    assert (one != same).sum() < 0.1 * (one != weak).sum()  # the level that is said has one decimal
    for wrong in ('-1', '256', 'nan', 'much'):
        assert (
            f'--sigma {wrong}: must be'
            in run_cli('restore', '-i', 'a.png', '-o', 'o', *denoiser, '--sigma', wrong).stderr
        )


@pytest.mark.parametrize('precision', ['bf16', pytest.param('fp16', marks=pytest.mark.cuda)])
def test_half_precision_comes_close(photos, precision):
    assert _restore(photos).returncode == 0
    half = _restore(photos, '--precision', precision, out='half')
    assert half.returncode == 0, half.stderr
    exact, rough = (read_any(photos.parent / f'{name}/cat.png', 10**6).colour.astype(int) for name in ('out', 'half'))
    assert 0 < np.abs(exact - rough).max() <= 4
    assert np.abs(exact - rough).mean() < 1
