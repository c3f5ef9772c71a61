"""Thousands of damaged files: every reader reads or refuses them, within 1 GiB, without a traceback or a signal."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from sptsr.images.decode import encode_png
from sptsr.priors.extract import build_source
from tests.conftest import photograph
from tests.readers import LABELS_OF, READERS, Victim

CASES = 2000
EACH = -(-CASES // len(READERS))
OLD = Path(__file__).parent / 'old' / '0.1'
NUMBERS = (0, 1, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)


@pytest.fixture(scope='session')
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """Whole files of every kind, of a photograph and its masks."""
    image = photograph('coffee.png', *LABELS_OF)
    prior = build_source('felzenszwalb', ['min_size=4'])(image, 'coffee', 64)
    masks = prior.decode()
    labels = prior.index.astype(np.uint16)
    folder = tmp_path_factory.mktemp('whole')
    np.save(folder / 'labels.npy', labels)
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = {'Segmentation': labels}
    scipy.io.savemat(folder / 'labels.mat', {'groundTruth': cell})
    weights = {'params': {'a.weight': torch.rand(8, 4, 3, 3), 'a.bias': torch.rand(8)}}
    torch.save(weights, folder / 'weights.pth')
    torch.save(weights, folder / 'old.pth', _use_new_zipfile_serialization=False)
    packed = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    records = [{'segmentation': {'size': list(LABELS_OF), 'counts': rle['counts'].decode()}} for rle in packed]
    plain = [{'segmentation': {'size': list(LABELS_OF), 'counts': _runs(mask)}} for mask in masks[:3]]

    def encoded(kind: str, picture: np.ndarray = image, *settings: int) -> bytes:
        return cv2.imencode(f'.{kind}', picture, settings)[1].tobytes()

    gray16 = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257
    return {
        'prior': [prior.to_bytes()],
        'adapter': [(OLD / f'{name}.safetensors').read_bytes() for name in ('adapter_2', 'ladder', 'region')],
        'state': [(OLD / '2.state').read_bytes()],
        'weights': [(folder / f'{name}.pth').read_bytes() for name in ('weights', 'old')],
        'store': [(OLD / 'set' / 'prior' / 'data.mdb').read_bytes()],
        'labels json': [json.dumps(records).encode(), json.dumps({'annotations': plain}).encode()],
        'labels npy': [(folder / 'labels.npy').read_bytes()],
        'labels png': [encoded('png', labels)],
        'labels mat': [(folder / 'labels.mat').read_bytes()],
        'image png': [encode_png(image), encoded('png', gray16), encoded('png', np.dstack([image, image[:, :, 0]]))],
        'image jpg': [encoded('jpg'), encoded('jpg', image, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)],
        'image webp': [encoded('webp'), encoded('webp', image, cv2.IMWRITE_WEBP_QUALITY, 101)],
        'image tif': [encoded('tif'), encoded('tif', gray16), encoded('tif', image, cv2.IMWRITE_TIFF_COMPRESSION, 1)],
        'image bmp': [encoded('bmp')],
    }


def _runs(mask: np.ndarray) -> list[int]:
    """Returns the lengths of runs down the columns, of 0 first."""
    flat = np.concatenate([[0], mask.T.reshape(-1).astype(np.int8), [2]])
    return np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()


def _cut(content: bytes, place: int, _value: int) -> bytes:
    return content[:place]


def _flip(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << value % 8)]) + content[place + 1 :]


def _put(content: bytes, place: int, value: int) -> bytes:
    """Overwrites 1, 2, 4 or 8 bytes with a number at the edge of its range, in either order of bytes."""
    size = 1 << value % 4
    number = NUMBERS[value // 8 % len(NUMBERS)] % (1 << 8 * size)
    return content[:place] + number.to_bytes(size, 'little' if value & 4 else 'big') + content[place + size :]


def _insert(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + bytes([value % 256]) * (1 + value % 9) + content[place:]


def _remove(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + content[place + 1 + value % 64 :]


def _repeat(content: bytes, place: int, value: int) -> bytes:
    return content[: place + 1 + value] + content[place:]


def _digit(content: bytes, place: int, value: int) -> bytes:
    """Changes the next digit of a text, and makes it a long number at times."""
    found = next((n for n in range(place, len(content)) if content[n : n + 1].isdigit()), None)
    if found is None:
        return content
    return content[:found] + b'%d' % (value if value % 2 else value << 40) + content[found + 1 :]


CHANGES: tuple[Callable[[bytes, int, int], bytes], ...] = (_cut, _flip, _put, _insert, _remove, _repeat, _digit)
# where: near the start, near the end, or anywhere, as a share of the file
PLACES = st.one_of(
    st.integers(0, 400).map(lambda n: ('start', n)),
    st.integers(1, 400).map(lambda n: ('end', n)),
    st.integers(0, 999_999).map(lambda n: ('share', n)),
)


def _changed(content: bytes, changes: list[tuple[Callable, tuple[str, int], int]]) -> bytes:
    for change, (kind, number), value in changes:
        if not content:
            break
        last = len(content) - 1
        place = {'start': number, 'end': last - number, 'share': last * number // 1_000_000}[kind]
        content = change(content, min(max(place, 0), last), value)
    return content


@pytest.mark.slow
@pytest.mark.parametrize('reader', READERS)
def test_damaged_files_are_read_or_refused(reader: str, files: dict[str, list[bytes]], tmp_path: Path):
    changes = st.lists(st.tuples(st.sampled_from(CHANGES), PLACES, st.integers(0, 4095)), min_size=1, max_size=3)
    answers = []
    with Victim(reader, tmp_path / 'files') as victim:
        for content in files[reader]:
            assert victim.answer(content) == 'read'

        @settings(
            max_examples=EACH,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(files[reader]), changes)
        def check(content, changes):
            answers.append(victim.answer(_changed(content, changes)))
            assert answers[-1] in ('read', 'refused'), answers[-1]

        check()
    assert len(answers) >= EACH
    assert answers.count('refused') > EACH // 20
