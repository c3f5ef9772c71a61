"""One image, or one full disk, does not lose the others' work."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sptsr.core.errors import UserError
from sptsr.data.checked import must_hold
from sptsr.priors.store import PriorStore
from sptsr.restoring.result_files import JOURNAL, Journal
from tests.conftest import photograph, run_cli
from tests.restoring.folders import ARGUMENTS, restore

IMAGES = {name: Path(name) for name in ('a.png', 'b.png', 'c.png')}


@pytest.mark.parametrize('error', ["ValueError('not this one')", "torch.OutOfMemoryError('not this one')"])
def test_a_source_that_fails_on_one_image_does_not_stop_the_others(photos: Path, tmp_path: Path, error: str):
    (tmp_path / 'mine.py').write_text(
        'import numpy as np\n'
        'import torch\n'
        'from sptsr.core.registry import SOURCE_REGISTRY, register\n'
        'from sptsr.masks.prior import Prior\n'
        'from sptsr.priors.sources.source import Source\n'
        "@register(SOURCE_REGISTRY, 'mine')\n"
        'class Mine(Source):\n'
        "    name, params = 'mine', {}\n"
        '    def __call__(self, image, key, max_masks):\n'
        "        if key == 'gray':\n"
        f'            raise {error}\n'
        '        return Prior.encode(np.ones((1, *image.shape[:2]), bool))\n'
    )
    out = photos.parent / 'mine'
    done = run_cli('restore', '-i', photos, '-o', out, *ARGUMENTS[:4], '--source', f'{tmp_path / "mine.py"}:mine')
    assert done.returncode == 1, done.stderr
    assert '4 images restored' in done.stdout
    assert 'gray.png: no masks of it can be made (not this one)' in done.stderr
    assert (out / 'cat.png').is_file()


def test_a_result_whose_name_is_too_long_is_named(photos: Path):
    (photos / 'cat.png').rename(photos / f'{"c" * 250}.png')
    done = restore(photos, '--suffix', '_restored')
    assert done.returncode == 1, done.stderr
    assert '4 images restored' in done.stdout
    assert 'File name too long' in done.stderr


def test_a_journal_line_that_was_cut_off_takes_no_other_with_it(tmp_path: Path):
    target = tmp_path / 'a.png'
    target.write_bytes(b'x')
    (tmp_path / JOURNAL).write_text('{"image": "b.png", "sha')
    journal = Journal(tmp_path, {}, IMAGES)
    journal.note('a.png', 'digest', target)
    journal.note('c.png', 'digest', tmp_path / 'c.png')
    again = Journal(tmp_path, {}, IMAGES)
    assert again.holds('a.png', 'digest', target)
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == 3


def test_a_journal_line_that_is_nested_deeply_is_passed_over(tmp_path: Path):
    (tmp_path / JOURNAL).write_text('[' * 200_000 + '\n')
    (tmp_path / 'a.png').touch()
    with pytest.raises(UserError, match='not made by this command'):
        Journal(tmp_path, {}, IMAGES).holds('a.png', 'digest', tmp_path / 'a.png')


def test_a_full_disk_ends_the_run_at_the_first_image(photos: Path):
    limit = 'import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
    limit += 'resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)); '
    arguments = ['restore', '-i', str(photos), '-o', str(photos.parent / 'full'), *map(str, ARGUMENTS)]
    program = f'{limit}from sptsr.commands.line import main; raise SystemExit(main({arguments!r}))'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    faults = [line for line in done.stderr.splitlines() if line.startswith('sptsr: ')]
    assert len(faults) == 1, done.stderr
    assert 'the images from this one on were not restored' in faults[0]
    assert '0 images restored' in done.stdout


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal = Journal(tmp_path, {}, IMAGES)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr('builtins.open', full)
    with pytest.raises(UserError, match='No space left on device; free space, and the same command goes on'):
        journal.note('a.png', 'digest', tmp_path / 'a.png')


def test_a_link_to_itself_and_a_name_that_no_store_has_take_no_other_with_them(photos: Path, tmp_path: Path):
    (photos / 'loop.png').symlink_to('loop.png')
    below = photos / 'below'
    below.mkdir()
    (below / JOURNAL).write_text('{"image": "a", "sha256": "b", "result": "a\\u0000b", "settings": "c"}\n')
    done = restore(photos)
    assert done.returncode == 1, done.stderr
    assert '5 images restored' in done.stdout
    assert 'loop.png' in done.stderr
    assert done.stderr.count('Traceback') == 0


def test_a_key_that_is_not_utf_8_is_in_no_store(photographs: Path):
    store = PriorStore(photographs / 'prior')
    assert 'caf\udce9' not in store
    with pytest.raises(UserError, match='no prior of'):
        must_hold(store, ['caf\udce9'])


def test_a_result_of_another_image_of_the_same_name_is_not_replaced(photos: Path):
    assert restore(photos).returncode == 0
    other = photos.parent / 'other'
    other.mkdir()
    (other / 'cat.png').write_bytes((photos / 'gray.png').read_bytes())
    (other / 'gray.png').write_bytes((photos / 'gray.png').read_bytes())
    result = (photos.parent / 'out' / 'cat.png').read_bytes()
    done = restore(other)
    assert done.returncode == 1
    assert '0 images restored, 1 were there' in done.stdout
    assert f'cat.png: is made of {photos / "cat.png"}; choose another folder' in done.stderr
    assert (photos.parent / 'out' / 'cat.png').read_bytes() == result


def test_stored_masks_of_images_that_are_no_rgb(tmp_path: Path):
    images = tmp_path / 'images'
    images.mkdir()
    picture = Image.fromarray(photograph('coffee.png', 20, 28))
    picture.convert('CMYK').save(images / 'cmyk.jpg')
    picture.convert('YCbCr').save(images / 'ycc.tif')
    extracting = ['-i', images, '-o', tmp_path / 'store', '--source', 'felzenszwalb', '--to-rgb']
    assert run_cli('prior', 'extract', *extracting).returncode == 0
    done = run_cli('restore', '-i', images, '-o', tmp_path / 'out', *ARGUMENTS[:4], '--prior', tmp_path / 'store')
    assert done.returncode == 0, done.stderr
    assert '2 images restored' in done.stdout
