"""Masks that know nothing of the noise: of labels, random regions, and the oracle."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from basicsr.data import build_dataset

from sptsr.core.errors import UserError
from sptsr.data.loader import SeededIndex
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.controls import FromOtherImages, shuffle
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore
from tests.conftest import photograph
from tests.data import test_draws
from tests.data.test_draws import KEYS, _options

clean, made = test_draws.clean, test_draws.made


def _blind_stores(clean: Path, made: dict[str, tuple[Path, Path]], root: Path) -> dict[str, Path]:
    """Stores whose source never looked at the noisy image."""
    images = ImageFolder(clean)
    for key in KEYS:
        (root / 'labels' / key).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / 'labels' / f'{key}.npy', images.read(key)[:, :, 0] // 64)
    labels = build_source('labels', [f'dir={root}/labels', 'background=-1'])
    noisy, draws = ImageFolder(made['one'][0]), ImageFolder(made['range'][0])
    felzenszwalb = build_source('felzenszwalb')
    for name, (folder, source) in {
        'labels of the clean images': (images, labels),
        'labels of one noisy image': (noisy, labels),
        'labels of draws': (draws, labels),
        'random': (draws, build_source('random', [f'like={made["range"][1]}'])),
        'oracle': (draws, FromOtherImages(felzenszwalb, images)),
    }.items():
        extract(folder, root / name, source)
    shuffle(PriorStore(root / 'labels of draws'), root / 'shuffled labels')
    return {path.name: path for path in sorted(root.iterdir()) if path.name != 'labels'}


def test_masks_that_know_nothing_of_the_noise_go_with_fresh_noise(clean, made, tmp_path):
    stores = _blind_stores(clean, made, tmp_path)
    assert len(stores) == 6
    for name, store in stores.items():
        assert not PriorStore(store).header.saw_image, name
        dataset = build_dataset(_options(clean, store, sigma=[10, 40], gt_size=61, use_hflip=False, use_rot=False))
        first, second = (dataset[SeededIndex(2, seed)] for seed in (1, 2))
        assert first['sigma'] != second['sigma'], name
        noises = [(item['lq'] - item['gt']).flatten().numpy() for item in (first, second)]
        assert abs(np.corrcoef(noises)[0, 1]) < 0.05, name
        if 'labels of' in name:
            levels = np.unique(np.round(first['gt'][0].numpy() * 255) // 64)
            assert first['prior'].count == len(np.unique(ImageFolder(clean).read('sub/coffee')[:, :, 0] // 64))
            assert len(levels) > 1
        test = build_dataset(_options(clean, store, 'test', sigma=17))
        assert float(test[0]['sigma']) == pytest.approx(17 / 255)


def test_labels_of_another_image_are_refused(clean, made, tmp_path):
    other = tmp_path / 'other'
    shutil.copytree(clean, other)
    write_png(other / 'chelsea.png', photograph('coffee.png', 61, 84))
    np.save(tmp_path / 'x.npy', np.ones((61, 84), int))
    (tmp_path / 'names.json').write_text(json.dumps(dict.fromkeys(KEYS, 'x')))
    labels = build_source('labels', [f'dir={tmp_path}', f'names={tmp_path}/names.json'])
    extract(ImageFolder(other), tmp_path / 'store', labels)
    dataset = build_dataset(_options(clean, tmp_path / 'store'))
    assert dataset[SeededIndex(0, 0)]['prior'].count == 1
    with pytest.raises(UserError, match=r'\[chelsea\]: the prior was made from another image of this name'):
        dataset[SeededIndex(1, 0)]
