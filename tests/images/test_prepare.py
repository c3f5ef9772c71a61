from pathlib import Path

import lmdb
import numpy as np
import pytest
from basicsr.data import build_dataset

from sptsr.core.errors import UserError
from sptsr.images.bicubic import imresize
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import _LmdbFolder, prepare
from tests.conftest import photograph


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write_png(tmp_path / 'raw' / 'a.0.png', photograph('coffee.png', 96, 128))
    write_png(tmp_path / 'raw' / 'sub' / 'a.1.png', photograph('chelsea.png', 100, 90))
    return tmp_path / 'raw'


def test_pairs_on_disk_and_a_second_run(raw: Path, tmp_path: Path):
    images = ImageFolder(raw)
    assert prepare(images, tmp_path / 'out', 4, mod_crop=True) == 2
    assert prepare(images, tmp_path / 'out', 4, mod_crop=True) == 2
    gt, lr = ImageFolder(tmp_path / 'out' / 'GTx4'), ImageFolder(tmp_path / 'out' / 'LRx4')
    assert gt.keys == lr.keys == ['a.0', 'sub/a.1']
    assert gt.read('sub/a.1').shape == (100, 88, 3)
    assert np.array_equal(lr.read('a.0'), imresize(images.read('a.0'), 1 / 4))
    write_png(raw / 'a.0.png', photograph('astronaut.png', 96, 128))
    with pytest.raises(UserError, match='is there with other content'):
        prepare(images, tmp_path / 'out', 4, mod_crop=True)


def test_other_sizes_are_refused_before_anything_is_written(raw: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r'a\.1\.png: 100x90 is not a multiple of 4 .*--mod-crop'):
        prepare(ImageFolder(raw), tmp_path / 'out', 4)
    with pytest.raises(UserError, match='smaller than 128'):
        prepare(ImageFolder(raw), tmp_path / 'out', 4, mod_crop=True, sub_image=128)
    with pytest.raises(UserError, match='multiples of the scale'):
        prepare(ImageFolder(raw), tmp_path / 'out', 4, sub_image=50)
    assert not (tmp_path / 'out').exists()


def test_sub_images_cover_the_image_and_line_up(raw: Path, tmp_path: Path):
    count = prepare(ImageFolder(raw, include=['a.0']), tmp_path / 'out', 4, sub_image=64, step=48)
    gt, lr = ImageFolder(tmp_path / 'out' / 'GTx4'), ImageFolder(tmp_path / 'out' / 'LRx4')
    assert count == len(gt) == 6
    assert gt.keys[0] == 'a.0_s001'
    image = photograph('coffee.png', 96, 128)
    assert np.array_equal(gt.read('a.0_s006'), image[32:96, 64:128])
    assert np.array_equal(lr.read('a.0_s006'), imresize(image, 1 / 4)[8:24, 16:32])  # as in BasicSR's sets


def test_lmdbs_are_basicsrs_and_hold_the_same_pixels(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('sptsr.images.prepare._FIRST_MAP_BYTES', 1 << 15)  # stock: MapFullError
    prepare(ImageFolder(raw), tmp_path / 'out', 2, as_lmdb=True)
    gt = ImageFolder(tmp_path / 'out' / 'GTx2.lmdb')
    assert gt.keys == ['a.0', 'sub/a.1']  # stock: both become a
    assert np.array_equal(gt.read('a.0'), photograph('coffee.png', 96, 128))
    opt = {
        'name': 'x', 'type': 'PriorPairedImageDataset', 'io_backend': {'type': 'lmdb'}, 'scale': 2, 'phase': 'val',
        'dataroot_gt': str(tmp_path / 'out' / 'GTx2.lmdb'), 'dataroot_lq': str(tmp_path / 'out' / 'LRx2.lmdb'),
    }  # fmt: skip
    assert [sample['key'] for sample in map(build_dataset(opt).__getitem__, range(2))] == ['a.0', 'sub/a.1']
    with pytest.raises(UserError, match='is there already'):
        prepare(ImageFolder(raw), tmp_path / 'out', 2, as_lmdb=True)


def test_a_full_disk_is_one_line(tmp_path: Path):
    class Full:
        def begin(self, write: bool) -> None:
            raise lmdb.DiskError('No space left on device')

        def sync(self, force: bool) -> None:
            raise lmdb.DiskError('No space left on device')

    folder = _LmdbFolder(tmp_path / 'a.lmdb', tmp_path / 'b.lmdb')
    folder.close()
    folder.env = Full()
    for write in (lambda: folder.put('a', photograph('coffee.png', 8, 8)), folder.finish):
        with pytest.raises(UserError, match=r'a\.lmdb: cannot be written \(.*No space left'):
            write()
    assert not (tmp_path / 'a.lmdb' / 'meta_info.txt').exists()


def test_an_unfinished_lmdb_is_known_and_made_again(raw: Path, tmp_path: Path):
    broken = tmp_path / 'out' / 'GTx2.lmdb'
    broken.mkdir(parents=True)
    lmdb.open(str(broken)).close()
    (broken / '.unfinished').touch()
    with pytest.raises(UserError, match=r'meta_info\.txt is missing, so the LMDB is unfinished'):
        ImageFolder(broken)
    prepare(ImageFolder(raw), tmp_path / 'out', 2, as_lmdb=True)
    assert len(ImageFolder(broken)) == 2
    whole = {name: (tmp_path / 'out' / name / 'meta_info.txt').read_bytes() for name in ('GTx2.lmdb', 'LRx2.lmdb')}
    # killed between their ends, and while the second one's list was written
    for leftover in ((), ('.tmp-x.txt',)):
        unfinished = tmp_path / 'out' / 'LRx2.lmdb'
        (unfinished / 'meta_info.txt').unlink()
        for name in ('.unfinished', *leftover):
            (unfinished / name).write_text('half')
        prepare(ImageFolder(raw), tmp_path / 'out', 2, as_lmdb=True)
        assert whole == {name: (tmp_path / 'out' / name / 'meta_info.txt').read_bytes() for name in whole}
        assert not list(unfinished.glob('.*'))
    (tmp_path / 'out' / 'LRx2.lmdb' / 'meta_info.txt').rename(tmp_path / 'out' / 'LRx2.lmdb' / '.unfinished')
    write_png(raw / 'a.0.png', photograph('rocket.jpg', 96, 128))
    with pytest.raises(UserError, match='is there already, of other images'):
        prepare(ImageFolder(raw), tmp_path / 'out', 2, as_lmdb=True)
    assert np.array_equal(ImageFolder(broken).read('a.0'), photograph('coffee.png', 96, 128))
    other = tmp_path / 'other' / 'GTx2.lmdb'
    other.mkdir(parents=True)
    (other / 'thesis.txt').write_text('')
    with pytest.raises(UserError, match='holds other things'):
        prepare(ImageFolder(raw), tmp_path / 'other', 2, as_lmdb=True)
    assert (other / 'thesis.txt').exists()


def test_an_lmdb_that_is_not_ours_is_no_leftover(raw: Path, tmp_path: Path):
    own = tmp_path / 'out' / 'GTx2.lmdb'
    own.mkdir(parents=True)
    with lmdb.open(str(own)) as env, env.begin(write=True) as transaction:
        transaction.put(b'thesis', b'all of it')
    with pytest.raises(UserError, match=r'GTx2\.lmdb: an LMDB that is not of this command; move it'):
        prepare(ImageFolder(raw), tmp_path / 'out', 2, as_lmdb=True)
    with lmdb.open(str(own)) as env, env.begin() as transaction:
        assert transaction.get(b'thesis') == b'all of it'


def test_two_at_once_do_not_write_one_lmdb(raw: Path, tmp_path: Path):
    folders = tmp_path / 'GTx2.lmdb', tmp_path / 'LRx2.lmdb'
    first = _LmdbFolder(*folders)
    first.put('a', photograph('coffee.png', 24, 30))
    with pytest.raises(UserError, match=r'GTx2\.lmdb: another process is writing it'):
        _LmdbFolder(*folders)
    first.finish()
    first.close()
    assert ImageFolder(folders[0]).keys == ['a']


def test_one_folder_has_one_cut(raw: Path, tmp_path: Path):
    images = ImageFolder(raw, include=['a.0'])
    prepare(images, tmp_path / 'out', 4, sub_image=64, step=48)
    for again in ({}, {'sub_image': 64}):
        with pytest.raises(UserError, match=r'LRx4: is there with images that were cut otherwise'):
            prepare(images, tmp_path / 'out', 4, **again)
    assert prepare(images, tmp_path / 'out', 4, sub_image=64, step=48) == 6
    with pytest.raises(UserError, match=r'step 48 plays no part without sub-images'):
        prepare(images, tmp_path / 'whole', 4, step=48)
    assert not (tmp_path / 'whole').exists()
