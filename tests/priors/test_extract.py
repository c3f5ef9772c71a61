"""Extraction by several processes, killed at any moment, ends in the store of one unbroken process."""

import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import numpy as np
import pytest
from tqdm import tqdm

from sptsr.core.errors import UserError
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import build_source, extract, shard_path, shards_of
from sptsr.priors.shards import extract_distributed, merge
from sptsr.priors.store import PriorStore, PriorWriter
from tests.conftest import photograph, run_cli

COUNT = 36
SETTINGS = ['min_size=4', 'scales=[10,20,40]']


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Small cuts of a photograph, in nested folders and with names beyond ASCII."""
    root = tmp_path_factory.mktemp('images')
    picture = photograph('coffee.png', 200, 260)
    rng = np.random.default_rng(0)
    for n in range(COUNT):
        y, x = rng.integers(150), rng.integers(200)
        write_png(root / ('größe' if n % 3 else 'b/c') / f'{n:02d}.x.png', picture[y : y + 44, x : x + 56])
    return ImageFolder(root)


@pytest.fixture(scope='module')
def whole(images: ImageFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    path = tmp_path_factory.mktemp('whole') / 'store'
    report = extract(images, path, build_source('felzenszwalb', SETTINGS))
    assert (report.made, report.kept) == (COUNT, 0)
    return _entries(path)


def _entries(path: Path) -> dict[str, tuple[bytes, bytes]]:
    store = PriorStore(path)
    return {key: store.raw(key) for key in store.keys()}  # noqa: SIM118 (not a dict)


def _rank(rank: int, port: int, root: Path, path: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    sys.stderr = open(os.devnull, 'w')  # noqa: SIM115 (until the process ends)
    tqdm.set_lock(threading.RLock())  # its own is shared with the other rank, and stays held when that is killed
    extract_distributed(ImageFolder(root), path, build_source('felzenszwalb', SETTINGS))
    os._exit(0)


def _start(images: ImageFolder, path: Path) -> list:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context('fork')
    ranks = [context.Process(target=_rank, args=(n, port, images.root, path)) for n in range(2)]
    for process in ranks:
        process.start()
    return ranks


def _stop(ranks: list) -> None:
    """As torchrun does when a rank has died."""
    for process in ranks:
        if process.is_alive():
            os.kill(process.pid, signal.SIGTERM)
    for process in ranks:
        process.join(20)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()


@pytest.mark.slow
def test_a_rank_killed_at_random_moments(images: ImageFolder, whole: dict, tmp_path: Path):
    rng = random.Random(5)
    kills, finished, partial, number = 0, 0, 0, 0
    while kills < 22:
        path = tmp_path / f'{number}' / 'store'
        number += 1
        before = 0
        while True:
            ranks = _start(images, path)
            victim = ranks[rng.randrange(2)]
            victim.join(rng.uniform(0.05, 0.9))
            if victim.is_alive() and kills < 22:
                os.kill(victim.pid, signal.SIGKILL)
                kills += 1
                _stop(ranks)
            for process in ranks:
                process.join(60)
                assert not process.is_alive()
            held = sum(len(PriorStore(shard)) for shard in shards_of(path) if _readable(shard))
            held = max(held, len(PriorStore(path)) if _readable(path) else 0)
            partial += before < held < COUNT
            assert held >= before  # nothing that was made is lost
            before = held
            if all(process.exitcode == 0 for process in ranks):
                break
        finished += 1
        assert _entries(path) == whole
        assert not path.with_name('store.shards').exists()
    assert finished >= 1
    assert partial >= 3  # the kills came in the middle of the work


def _readable(path: Path) -> bool:
    try:
        PriorStore(path)
    except UserError:
        return False
    return True


def test_torchrun_as_documented(images: ImageFolder, whole: dict, tmp_path: Path):
    store = tmp_path / 'store'
    command = [
        *(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2'),
        '-m',
        'sptsr.priors.extract',
        '-i',
        images.root,
        '-o',
        store,
        '--source',
        'felzenszwalb',
        '--set',
        *SETTINGS,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f'{COUNT} priors made, 0 were there' in done.stdout
    assert done.stdout.count('priors made') == 1
    assert _entries(store) == whole
    again = run_cli('prior', 'extract', '-i', images.root, '-o', store, '--source', 'felzenszwalb', '--set', *SETTINGS)
    assert f'0 priors made, {COUNT} were there' in again.stdout


def test_shards_of_a_run_that_was_cut_off_are_taken_up(images: ImageFolder, whole: dict, tmp_path: Path):
    source = build_source('felzenszwalb', SETTINGS)
    path = tmp_path / 'store'
    extract(images, path, source, rank=2, world=3)
    assert len(PriorStore(shard_path(path, 2))) == COUNT // 3
    report = extract(images, path, source, rank=0, world=1)  # finds what the shard holds
    assert report.kept == COUNT // 3
    assert merge(path, source.header(64)) == COUNT
    assert _entries(path) == whole


def test_a_merge_that_was_cut_off_goes_on(images: ImageFolder, whole: dict, tmp_path: Path):
    source = build_source('felzenszwalb', SETTINGS)
    path = tmp_path / 'store'
    for rank in range(2):
        extract(images, path, source, rank=rank, world=2)
    with PriorWriter(path, source.header(64)) as writer:  # half of the merge
        for key, (digest, content) in list(whole.items())[:7]:
            writer.put_raw(key, digest, content)
    report = extract_distributed(images, path, source)
    assert report is not None
    assert (report.made, report.kept) == (0, COUNT)
    assert _entries(path) == whole


def test_a_shard_that_was_only_begun_is_no_obstacle(images: ImageFolder, whole: dict, tmp_path: Path):
    source = build_source('felzenszwalb', SETTINGS)
    path = tmp_path / 'store'
    begun = shard_path(path, 1)
    begun.mkdir(parents=True)
    lmdb.open(str(begun), max_dbs=4).close()  # an LMDB without a header, as between two system calls of its writer
    empty = shard_path(path, 2)
    empty.mkdir()
    (empty / 'data.mdb').touch()
    extract(images, path, source, rank=0, world=2)
    report = extract_distributed(images, path, source)
    assert report is not None
    assert report.made == COUNT // 2
    assert _entries(path) == whole


def test_mistakes(images: ImageFolder, tmp_path: Path):
    source = build_source('felzenszwalb', SETTINGS)
    path = tmp_path / 'store'
    extract(images, path, source, rank=0, world=2)
    other = build_source('felzenszwalb', ['min_size=5'])
    with pytest.raises(UserError, match=r'store.shards/00000: holds priors made otherwise \(min_size'):
        extract(images, path, other, rank=1, world=2)
    assert not shard_path(path, 1).exists()
    with PriorWriter(shard_path(path, 0), source.header(64)):
        with pytest.raises(UserError, match='another process is writing it'):
            extract(images, path, source, rank=0, world=2)


def test_shards_of_a_run_that_goes_on_are_left_to_it(images: ImageFolder, tmp_path: Path):
    source = build_source('felzenszwalb', SETTINGS)
    path = tmp_path / 'store'
    extract(images, path, source, rank=0, world=2)
    with PriorWriter(shard_path(path, 1), source.header(64)):
        with pytest.raises(UserError, match='00001: another extraction is writing it'):
            extract_distributed(images, path, source)
    assert len(shards_of(path)) == 2
    report = extract_distributed(images, path, source)
    assert report is not None
    assert report.kept == COUNT // 2


def test_verifying_a_sample(images: ImageFolder, tmp_path: Path):
    path = tmp_path / 'store'
    extract(ImageFolder(images.root, include=['b/*']), path, build_source('felzenszwalb', SETTINGS))
    done = run_cli('prior', 'verify', path, '-i', images.root, '--include', 'b/*', '--sample', 4)
    assert done.returncode == 0
    assert '4 of 4 images have their prior' in done.stdout
    done = run_cli('prior', 'verify', path, '-i', images.root)
    assert done.returncode == 1
    assert f'{COUNT // 3} of {COUNT} images have their prior' in done.stdout


def test_a_full_disk_ends_in_one_line(tmp_path: Path, images: ImageFolder):
    """A tmpfs of 32 kB, in a mount namespace of its own."""
    small = f'mount -t tmpfs -o size=32k none {tmp_path}'
    if subprocess.run(['unshare', '-m', 'sh', '-c', small], capture_output=True, check=False).returncode:
        pytest.skip('this machine lets nobody mount a tmpfs')
    command = f'{sys.executable} -m sptsr prior extract -i {images.root} -o {tmp_path}/store --source felzenszwalb'
    done = subprocess.run(
        ['unshare', '-m', 'sh', '-c', f'{small} && exec {command}'], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert 'cannot write' in last
    assert 'free space' in last
    assert 'Traceback' not in done.stderr


def test_progress_is_told(images: ImageFolder, tmp_path: Path):
    done = run_cli('prior', 'extract', '-i', images.root, '-o', tmp_path / 's', '--source', 'felzenszwalb')
    assert done.returncode == 0
    assert f'{COUNT}/{COUNT}' in done.stderr
    assert 'image/s' in done.stderr


def test_shards_that_were_made_otherwise_are_refused_and_stay(images, tmp_path, monkeypatch):
    few = ImageFolder(images.root, include=['b/c/*'])
    store = f'{tmp_path / "store"}/'  # the slash is none of its name
    extract(few, store, build_source('felzenszwalb', ['min_size=4']), 64, 0, 2)
    assert [path.parent.name for path in shards_of(store)] == ['store.shards']
    assert shard_path(store, 0) == tmp_path / 'store.shards' / '00000'
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    with pytest.raises(UserError, match=r'store\.shards/00000: holds priors made otherwise .*min_size'):
        extract_distributed(few, store, build_source('felzenszwalb', ['min_size=9']))
    assert shards_of(store)
    assert not (tmp_path / 'store').exists()
    report = extract_distributed(few, store, build_source('felzenszwalb', ['min_size=4']))
    assert report is not None
    assert report.kept == len(few) - report.made > 0
