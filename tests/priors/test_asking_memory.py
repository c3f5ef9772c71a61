"""Sources ask for memory, and for their device, before they take either."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sptsr.core import free_memory
from sptsr.core.devices import usable_device
from sptsr.core.errors import UserError
from sptsr.priors.one_image import make_prior
from sptsr.priors.sources.in_parts import embed_in_parts
from tests.conftest import run_cli


def _blank_png(side: int) -> bytes:
    """Returns a gray PNG of side x side zeros; a few kB for a gigabyte."""
    row, compressor = bytes(1 + side), zlib.compressobj(1)
    data = b''.join([compressor.compress(row) for _ in range(side)] + [compressor.flush()])
    chunks = [(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)), (b'IDAT', data), (b'IEND', b'')]
    parts = [
        struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def _free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(free_memory, 'free_bytes', lambda _device='cpu': size)


def _one_line(*command: object) -> str:
    done = run_cli(*command)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith('priors: ')]
    assert len(lines) == 1, done.stderr
    return lines[0]


class _Small:
    """A segmenter on a GPU that holds `most` images."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[int] = []

    def embed(self, images: list) -> list:
        self.asked.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return [(image, None) for image in images]


def test_a_batch_of_images_that_is_too_large_is_embedded_in_parts():
    segmenter = _Small(2)
    assert [image for image, _ in embed_in_parts(segmenter, list('abcdefgh'), 'sam')] == list('abcdefgh')
    assert segmenter.asked == [8, 4, 2, 2, 4, 2, 2]
    with pytest.raises(UserError, match='sam: one image needs more memory than the GPU has free') as caught:
        embed_in_parts(_Small(0), list('ab'), 'sam')
    assert caught.value.__cause__ is None  # `restore` would take it for the network's


def test_felzenszwalb(here: Path, monkeypatch: pytest.MonkeyPatch):
    _free(monkeypatch, 100_000)
    extract = ['prior', 'extract', '-i', 'set/GTx4', '-o', 'new', '--source', 'felzenszwalb']
    said = _one_line(*extract)
    assert 'set/GTx4/astronaut.png: felzenszwalb on 128x160 pixels (height x width) needs about ' in said
    assert 'of memory, and 0 MB are free; make the image smaller' in said
    assert not (here / 'new').exists()
    assert 'felzenszwalb on 128x160' in _one_line(*extract, '--oracle', 'set/GTx4')
    with pytest.raises(UserError, match='felzenszwalb on 50x60 pixels'):
        make_prior(np.zeros((50, 60, 3), np.uint8))


def test_labels_are_measured_before_they_are_decoded(here: Path, monkeypatch: pytest.MonkeyPatch):
    labels = here / 'labels'
    labels.mkdir()
    png = _blank_png(6_000)
    for name in ('astronaut', 'chelsea', 'coffee', 'rocket'):
        (labels / f'{name}.png').write_bytes(png)
    _free(monkeypatch, 2_000_000_000)
    monkeypatch.setattr('cv2.imdecode', _never, raising=True)
    monkeypatch.setattr('sptsr.images.folder.ImageFolder.read', lambda *_: np.zeros((32, 40, 3), np.uint8))
    said = _one_line('prior', 'extract', '-i', 'set/LRx4', '-o', 'new', '--source', 'labels', '--set', 'dir=labels')
    assert 'astronaut.png: labels of 6000x6000 pixels (height x width) needs about ' in said
    assert 'and 2.0 GB are free' in said


def _never(*_: object) -> None:
    raise AssertionError('decoded')


def test_points_of_sam(here: Path, monkeypatch: pytest.MonkeyPatch):
    _free(monkeypatch, 8_000_000_000)
    for source, model in (('sam', 'checkpoint=none.pth'), ('transformers', 'model=none')):
        command = ['prior', 'extract', '-i', 'set/LRx4', '-o', 'new', '--source', source, '--set', model]
        said = _one_line(*command, 'points_per_side=256')
        assert f'{source}: points_per_side 256 needs about 17.2 GB of memory, and 8.0 GB are free; lower it' in said


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('foo', "device 'foo' is none; say auto, cpu, cuda or cuda:N"),
        ('cuda:9', "device 'cuda:9', but this machine has"),
        ('cuda:-1', "device 'cuda:-1' is none"),
        ('meta', "device 'meta' cannot be used here"),
        ('xpu', "device 'xpu' cannot be used here"),
        ('', "device '' is none"),
    ],
)
def test_devices(name: str, said: str, here: Path):
    for source, model in (('sam', 'checkpoint=none.pth'), ('transformers', 'model=none')):
        settings = ['--set', model, f'device="{name}"']
        line = _one_line('prior', 'extract', '-i', 'set/LRx4', '-o', 'new', '--source', source, *settings)
        assert line.startswith(f'sptsr: {source}: {said}')


def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch):
    assert usable_device('cpu', 'x') == 'cpu'
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert usable_device('auto', 'x') == 'cuda:1'
    assert usable_device('cuda:1', 'x') == 'cuda:1'
    with pytest.raises(UserError, match='2 GPUs, counted from 0'):
        usable_device('cuda:2', 'x')
