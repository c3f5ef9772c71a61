import errno
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from sptsr.core.errors import UserError
from sptsr.core.lmdb_env import close_reader
from sptsr.images.decode import encode_png
from sptsr.images.folder import ImageFolder
from sptsr.masks.prior import Prior
from sptsr.priors.describe import describe, verify
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore, PriorWriter, has_header
from sptsr.priors.store_header import StoreHeader
from tests.conftest import photograph
from tests.tuning.processes import CONTEXT

HEADER = StoreHeader('labels', {'scale': 4}, None, 64, {'sptsr': '0'})
IMAGE = photograph('coffee.png', 12, 20)
PRIOR = Prior.encode(np.ones((1, 12, 20), bool))


def _fill(path: Path, *keys: str) -> None:
    with PriorWriter(path, HEADER) as writer:
        for key in keys:
            writer.put(key, IMAGE, PRIOR)


def test_round_trip_with_header_and_unicode_keys(tmp_path: Path):
    keys = ['a.0', 'a.1', 'sub/ü', '日本']
    _fill(tmp_path / 's', *keys)
    store = PriorStore(tmp_path / 's')
    assert store.header == HEADER
    assert sorted(store.keys()) == sorted(keys)
    assert len(store) == 4
    assert np.array_equal(store.get('日本', IMAGE).decode(), PRIOR.decode())
    assert 'a.2' not in store


def test_missing_changed_resized_and_damaged_entries_are_named(tmp_path: Path):
    _fill(tmp_path / 's', 'x')
    store = PriorStore(tmp_path / 's')
    with pytest.raises(UserError, match="no prior of 'y'; run sptsr prior extract"):
        store.get('y')
    changed = IMAGE.copy()
    changed[3, 4, 1] ^= 1
    with pytest.raises(UserError, match=r'\[x\]: the prior was made from another image'):
        store.get('x', changed)
    with pytest.raises(UserError, match=r'\[x\]: the prior is 12x20 .* but the image 12x19'):
        store.get('x', IMAGE[:, 1:])


def test_a_writer_keeps_what_is_there_and_refuses_another_source(tmp_path: Path):
    _fill(tmp_path / 's', 'x')
    _fill(tmp_path / 's', 'y')
    assert len(PriorStore(tmp_path / 's')) == 2
    for header in (
        replace(HEADER, params={'scale': 3}),
        replace(HEADER, source='sam'),
        replace(HEADER, weights_sha256='0'),
        replace(HEADER, max_masks=32),
    ):
        with pytest.raises(UserError, match='holds priors made otherwise'):
            PriorWriter(tmp_path / 's', header)
    with PriorWriter(tmp_path / 's', replace(HEADER, versions={'sptsr': '9'})) as writer:
        assert writer.holds('x', IMAGE)
        with pytest.raises(UserError, match='the image changed since'):
            writer.holds('x', IMAGE[::-1])


def test_two_writers_are_refused(tmp_path: Path):
    with PriorWriter(tmp_path / 's', HEADER):
        with pytest.raises(UserError, match='another process is writing'):
            PriorWriter(tmp_path / 's', HEADER)
    PriorWriter(tmp_path / 's', HEADER).close()


def test_other_folders_and_newer_schemas_are_refused(tmp_path: Path):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'thesis.txt').write_text('')
    with pytest.raises(UserError, match=r'not a prior store, but holds thesis\.txt'):
        PriorWriter(tmp_path / 'other', HEADER)
    with pytest.raises(UserError, match='no prior store here'):
        PriorStore(tmp_path / 'other')
    PriorWriter(tmp_path / 'new', replace(HEADER, schema=99)).close()
    with pytest.raises(UserError, match='a store of schema 99, newer than 3; update sptsr'):
        PriorStore(tmp_path / 'new')


def test_the_map_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('sptsr.priors.store._FIRST_MAP_BYTES', 1 << 16)
    keys = [f'{n:04d}' for n in range(300)]
    _fill(tmp_path / 's', *keys)
    store = PriorStore(tmp_path / 's')
    assert list(store.keys()) == keys
    assert (tmp_path / 's' / 'data.mdb').stat().st_size > 1 << 16


def _write_much(path: Path, count: int) -> None:
    with PriorWriter(path, HEADER) as writer:
        for number in range(count):
            writer.put_raw(f'more{number}', bytes(32), np.random.default_rng(number).bytes(1 << 20))


def test_readers_follow_two_stores_that_grow(tmp_path: Path):
    """As the ranks of an extraction do with each other's shards, beyond the 10 MiB that LMDB maps at first."""
    paths = [tmp_path / '0', tmp_path / '1']
    for path in paths:
        _fill(path, 'x')
    stores = [PriorStore(path) for path in paths]
    assert [len(store) for store in stores] == [1, 1]
    writers = [CONTEXT.Process(target=_write_much, args=(path, 24)) for path in paths]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):  # reads while they write
        assert all(store.get('x', IMAGE).count == 1 for store in stores)
    assert [writer.exitcode for writer in writers] == [0, 0]
    for path, store in zip(paths, stores, strict=True):
        assert (path / 'data.mdb').stat().st_size > 20 << 20
        assert len(store) == 25
        assert len(store.raw('more23')[1]) == 1 << 20
        assert has_header(path)
        assert PriorStore(path).header == HEADER


@pytest.mark.parametrize(
    ('number', 'match'),
    [
        (
            errno.ENOLCK,
            r'this disk cannot lock files \(.*, errno 37\).* extract to a local disk and copy the folder here',
        ),
        (errno.ENOTSUP, 'this disk cannot lock files'),
        (errno.EWOULDBLOCK, 'another process is writing it'),
    ],
)
def test_a_lock_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, match: str):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr('sptsr.priors.store.fcntl.flock', flock)
    with pytest.raises(UserError, match=match) as caught:
        PriorWriter(tmp_path / 's', HEADER)
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / 's').glob('*.mdb'))


def _area(store: PriorStore) -> int:
    return int(store.get('x', IMAGE).areas()[0])


@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_an_open_store_goes_to_workers(tmp_path: Path, method: str):
    _fill(tmp_path / 's', 'x')
    store = PriorStore(tmp_path / 's')
    assert _area(store) == 240
    with get_context(method).Pool(1) as pool:
        assert pool.apply(_area, (store,)) == 240


def test_extract_verify_and_describe(photographs: Path, tmp_path: Path):
    images = ImageFolder(photographs / 'LRx4')
    source = build_source('felzenszwalb', ['min_size=4', 'scales=[20,80]'])
    first = extract(images, tmp_path / 's', source)
    again = extract(images, tmp_path / 's', source)
    assert (first.made, first.kept, again.made, again.kept) == (4, 0, 0, 4)
    store = PriorStore(tmp_path / 's')
    assert list(verify(images, store)) == []
    text = '\n'.join(describe(store))
    assert '4 priors' in text
    assert 'scales=[20.0, 80.0]' in text
    other = ImageFolder(photographs / 'GTx4')
    faults = list(verify(other, store))
    assert len(faults) == 4
    assert all('the prior is' in fault for fault in faults)


def test_a_failing_first_image_leaves_no_store(tmp_path: Path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'a.png').write_bytes(b'')
    with pytest.raises(UserError, match='a.png: the file is empty'):
        extract(ImageFolder(tmp_path / 'in'), tmp_path / 's', build_source('felzenszwalb'))
    assert not (tmp_path / 's').exists()


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path: Path):
    """SIGKILL at random moments; each time the store is whole, and in the end it is the unbroken one."""
    images = tmp_path / 'in'
    images.mkdir()
    rng = np.random.default_rng(0)
    count, side = 60, 96  # large enough to be met at work, on a machine that does other things as well
    for n in range(count):
        shifted = np.roll(photograph('astronaut.png', side, side), int(rng.integers(side)), axis=1)
        (images / f'{n:03d}.png').write_bytes(encode_png(shifted))
    arguments = ['prior', 'extract', '-i', images, '-o', tmp_path / 'killed', '--source', 'felzenszwalb']
    extract(ImageFolder(images), tmp_path / 'whole', build_source('felzenszwalb'))
    partial = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, '-m', 'sptsr', *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = _entries(tmp_path / 'killed')
        deadline = time.monotonic() + 120
        while _entries(tmp_path / 'killed') <= before + 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()  # does nothing to one that ended by itself
        process.wait()
        partial += 0 < _entries(tmp_path / 'killed') < count
        assert all(verify_entry(tmp_path / 'killed', images))
    assert partial >= 1
    close_reader(tmp_path / 'killed')
    extract(ImageFolder(images), tmp_path / 'killed', build_source('felzenszwalb'))
    left, right = PriorStore(tmp_path / 'killed'), PriorStore(tmp_path / 'whole')
    assert list(left.keys()) == list(right.keys())
    assert len(left) == count
    for key in right.keys():  # noqa: SIM118
        assert left.get(key).to_bytes() == right.get(key).to_bytes()


def _entries(path: Path) -> int:
    close_reader(path)
    try:
        return len(PriorStore(path))
    except UserError:
        return 0


def verify_entry(path: Path, images: Path) -> list[bool]:
    close_reader(path)
    try:
        store = PriorStore(path)
    except UserError:
        return []
    folder = ImageFolder(images)
    return [store.get(key, folder.read(key)).count > 0 for key in store.keys()]  # noqa: SIM118


def test_a_store_that_another_took_the_place_of_is_read_anew(tmp_path: Path):
    for name, level in (('old', 3), ('new', 9)):
        with PriorWriter(tmp_path / name, HEADER) as writer:
            writer.put('a', IMAGE + np.uint8(level), PRIOR)
    store = PriorStore(tmp_path / 'old')
    old, _ = store.raw('a')
    (tmp_path / 'old').rename(tmp_path / 'aside')
    assert store.raw('a')[0] == old  # one that is gone is read to the end
    (tmp_path / 'new').rename(tmp_path / 'old')
    assert store.raw('a')[0] == old
    assert PriorStore(tmp_path / 'old').raw('a')[0] != old


def test_a_key_that_is_no_text_is_one_line(tmp_path: Path):
    with PriorWriter(tmp_path / 'store', HEADER) as writer, writer._env.begin(write=True, db=writer._entries) as txn:
        txn.put(b'\xff\xfe', b'x')
    with pytest.raises(UserError, match='damaged'):
        list(PriorStore(tmp_path / 'store').keys())


def test_threads_open_one_store_at_once(tmp_path: Path):
    _fill(tmp_path / 'store', 'a')
    store = PriorStore(tmp_path / 'store')
    for _ in range(20):
        close_reader(store.path)
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(lambda _: store.raw('a'), range(8)))) == 1
