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
import pytest
import torch
import yaml
from PIL import Image

import sptsr
from sptsr.commands.line import main
from sptsr.core.errors import UserError
from sptsr.images.any_image import read_any
from sptsr.restoring.result_files import JOURNAL
from tests.conftest import photograph, run_cli
from tests.report.test_page import data_of, pixels
from tests.restoring.folders import ARGUMENTS, OLD, restore


def test_a_folder_is_restored_and_the_same_command_keeps_it(photos):
    result = restore(photos)
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
    again = restore(photos)
    assert '0 images restored, 5 were there' in again.stdout
    other = restore(photos, '--self-ensemble')
    assert '5 images restored' in other.stdout


def test_a_bad_file_is_named_and_the_others_are_done(photos):
    (photos / 'broken.png').write_bytes((photos / 'cat.png').read_bytes()[:60])
    os.mkfifo(photos / 'pipe.png')
    result = restore(photos)
    assert result.returncode == 1
    assert '5 images restored' in result.stdout
    named = [line for line in result.stderr.splitlines() if line.startswith('sptsr: ')]
    assert len(named) == 2
    assert 'broken.png: not a' in named[0]
    assert 'pipe.png: not a regular file' in named[1]


def test_results_inside_the_input_are_no_input_and_nothing_is_overwritten(photos):
    inside = restore(photos, out='photos/restored')
    assert '5 images restored' in inside.stdout
    assert '0 images restored, 5 were there' in restore(photos, out='photos/restored').stdout
    before = {path: path.read_bytes() for path in photos.rglob('*.*') if path.is_file()}
    refused = restore(photos, out='photos')
    assert refused.returncode == 2
    assert 'would overwrite an input' in refused.stderr
    (photos.parent / 'mine').mkdir()
    Image.new('RGB', (4, 4)).save(photos.parent / 'mine' / 'cat.png')
    strange = restore(photos, out='mine')
    assert strange.returncode == 1
    assert 'not made by this command' in strange.stderr
    assert Image.open(photos.parent / 'mine' / 'cat.png').size == (4, 4)
    assert before == {path: path.read_bytes() for path in before}


def test_results_beside_their_images_are_no_input_of_the_next_run(photos):
    first = restore(photos, '--suffix', '_x4', out='photos')
    assert '5 images restored' in first.stdout, first.stderr
    again = restore(photos, '--suffix', '_x4', out='photos')
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


@pytest.mark.parametrize('in_the_network', [False, True])
def test_an_image_that_takes_more_memory_than_the_gpu_has_is_named(photos, monkeypatch, in_the_network):
    from sptsr.restoring import folder_run

    whole = folder_run.restore_tensor

    def starved(net, lq, *arguments):
        if lq.shape[-1] == 24:
            error = torch.OutOfMemoryError('CUDA out of memory')
            if in_the_network:
                raise UserError('network: needs more memory than the GPU has free') from error
            raise error
        return whole(net, lq, *arguments)

    monkeypatch.setattr(folder_run, 'restore_tensor', starved)
    result = restore(photos)
    assert result.returncode == 1
    assert '3 images restored' in result.stdout
    assert 'urlaub/alpha.png: IMDN runs out of memory on it; say --tile 256' in result.stderr


def test_a_report_shows_all_images_beside_the_frozen_network_also_those_of_an_earlier_run(photos):
    assert restore(photos).returncode == 0
    (photos / 'urlaub' / 'alpha.png').rename(photos / 'zuletzt.png')
    (photos / 'broken.png').write_bytes((photos / 'cat.png').read_bytes()[:60])
    result = restore(photos, '--report')
    assert '1 image restored, 4 were there' in result.stdout
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
    assert '5 were there' in restore(photos, '--report').stdout  # its own report is written again


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
    assert 'trained with masks made otherwise (here != there: min_size: 9 != 4)' in other.stderr
    random = run_cli(
        'restore', '-i', 'a.png', '-o', 'r', '-a', adapter, '--source', 'random', '--set', 'like=set/prior'
    )
    assert random.returncode == 0, random.stderr
    (line,) = [line for line in random.stderr.splitlines() if line.startswith('sptsr: ')]
    assert 'trained with masks made otherwise (here != there: source: random != felzenszwalb; ' in line


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
    result = restore(photos)
    assert result.returncode == 0, result.stderr
    lines = journal.read_text().splitlines()
    assert len(list((photos.parent / 'out').rglob('*.png'))) == 35
    kept = sum(path.stat().st_mtime_ns == when for path, when in finished.items())
    assert kept >= len(finished) - 1
    assert len(lines) >= 35


def test_a_kill_between_a_result_and_its_note_costs_that_image_alone(photos, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('sptsr.restoring.result_files.Journal.note', killed)
        assert main([str(word) for word in ['restore', '-i', photos, '-o', photos.parent / 'out', *ARGUMENTS]]) == 130
    assert len(list((photos.parent / 'out').rglob('*.png'))) == 1
    again = restore(photos)
    assert (again.returncode, again.stderr.count('sptsr: ')) == (0, 0), again.stderr
    assert '5 images restored' in again.stdout


def test_images_of_one_name_get_names_of_their_own(photos):
    Image.fromarray(photograph('coffee.png', 20, 28)).save(photos / 'cat.jpg')
    result = restore(photos)
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (photos.parent / 'out').glob('*.png')}
    assert names == {'cat.png.png', 'cat.jpg.png', 'gray.png', 'one.png'}


@pytest.mark.parametrize('precision', ['bf16', pytest.param('fp16', marks=pytest.mark.cuda)])
def test_half_precision_comes_close(photos, precision):
    assert restore(photos).returncode == 0
    half = restore(photos, '--precision', precision, out='half')
    assert half.returncode == 0, half.stderr
    exact, rough = (read_any(photos.parent / f'{name}/cat.png', 10**6).colour.astype(int) for name in ('out', 'half'))
    assert 0 < np.abs(exact - rough).max() <= 4
    assert np.abs(exact - rough).mean() < 1
