"""Controls beside a store: the same images and noise, other masks."""

import numpy as np
import pytest

from sptsr.core.errors import UserError
from sptsr.images.decode import image_digest
from sptsr.images.degrade import degrade
from sptsr.images.draws import Degradation
from sptsr.images.folder import ImageFolder
from sptsr.priors.controls import oracle_like, random_like, shuffle
from sptsr.priors.extract import build_source, extract
from sptsr.priors.store import PriorStore, PriorWriter


@pytest.fixture
def noisy(photographs, tmp_path):
    """A store of masks that felzenszwalb found in two noisy draws of each photograph."""
    clean = ImageFolder(photographs / 'LRx4')
    degrade(clean, tmp_path / 'noisy', Degradation('noise', 25, 25, draws=2))
    extract(ImageFolder(tmp_path / 'noisy'), tmp_path / 'store', build_source('felzenszwalb', ['min_size=4']))
    return PriorStore(tmp_path / 'store')


def test_a_control_does_not_take_the_place_of_its_store(noisy):
    with pytest.raises(UserError, match='is the store whose images are taken'):
        shuffle(noisy, noisy.path)


def _make(kind, store, photographs, out):
    if kind == 'shuffle':
        return shuffle(store, out)
    if kind == 'random':
        return random_like(store, out, build_source('random', [f'like={store.path}']))
    source = build_source('felzenszwalb', ['min_size=4'])
    return oracle_like(store, out, source, ImageFolder(photographs / 'GTx4'), {})


@pytest.mark.parametrize('kind', ['shuffle', 'random', 'oracle'])
def test_a_control_belongs_to_the_same_images_and_noise(noisy, photographs, tmp_path, kind):
    assert _make(kind, noisy, photographs, tmp_path / kind) == 8
    control = PriorStore(tmp_path / kind)
    assert list(control.keys()) == list(noisy.keys())
    assert (control.header.saw_image, control.degradation) == (True, noisy.degradation)
    images = ImageFolder(tmp_path / 'noisy')
    for key in noisy.keys():  # noqa: SIM118 (not a dict)
        assert control.raw(key)[0] == image_digest(images.read(key))
        own, other = noisy.get(key), control.get(key)
        assert own.size == other.size
        assert own.to_bytes() != other.to_bytes()
    if kind == 'random':  # as many masks, of about the same areas
        areas = [(noisy.get(key).areas().mean(), control.get(key).areas().mean()) for key in noisy.keys()]  # noqa: SIM118
        assert np.mean([abs(a - b) / a for a, b in areas]) < 0.15


def test_the_oracle_finds_the_gt_of_an_lq_image_of_another_name(photographs, tmp_path):
    store = PriorStore(photographs / 'prior')
    source = build_source('felzenszwalb', ['min_size=4'])
    gt = ImageFolder(photographs / 'GTx4')
    names = {'chelsea': 'coffee', 'coffee': 'chelsea'}  # as a list of pairs may say
    with pytest.raises(UserError, match='coffee.png: labels of 160x128 do not belong to an image of 33x37'):
        oracle_like(store, tmp_path / 'crossed', source, gt, names)
    oracle_like(store, tmp_path / 'oracle', source, gt, {key: key for key in gt.keys})
    assert PriorStore(tmp_path / 'oracle').header.params['oracle'] is True


def test_a_store_that_lacks_a_draw_is_not_shuffled(noisy, tmp_path):
    with PriorWriter(tmp_path / 'part', noisy.header) as writer:
        for key in list(noisy.keys())[:-1]:
            writer.put_raw(key, *noisy.raw(key))
    with pytest.raises(UserError, match=r'part: has no prior of rocket@1; make it with sptsr prior extract first'):
        shuffle(PriorStore(tmp_path / 'part'), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
