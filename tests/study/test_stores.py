"""The stores that a study makes: of a source, and the controls of a row, for training and test sets."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml

from sptsr.core.errors import UserError
from sptsr.data.checked import open_dataset
from sptsr.images.chain import DegradationChain
from sptsr.images.decode import write_png
from sptsr.priors.store import PriorStore
from sptsr.study.make_store import _lq_images, make_store
from sptsr.study.table import make_plan
from tests.conftest import photograph
from tests.study.conftest import write_study


def _plan(study, tmp_path, arms, row=None):
    study = {**study, 'rows': {'row': row or {}}, 'arms': {'plain': study['arms']['plain'], **arms}, 'seeds': [0]}
    return make_plan(write_study(tmp_path, study), tmp_path / 'runs')


def _stores(plan, arm):
    (case,) = [case for case in plan.cases.cases if case.arm == arm]
    return [opt['datasets'][phase]['dataroot_prior'] for opt, phase in ((case.train, 'train'), (case.test, 'test'))]


def _make(recipe):
    for need in recipe.needs:
        _make(need)
    make_store(json.loads(json.dumps(recipe.order)))  # as the step reads it


def _open(plan, arm):
    """Makes the stores of an arm and opens its sets, which look at every entry's image."""
    (case,) = [case for case in plan.cases.cases if case.arm == arm]
    for store in _stores(plan, arm):
        if store in plan.stores.recipes:
            _make(plan.stores.recipes[store])
    found = []
    for opt in (case.train, case.test):
        for phase, data in opt['datasets'].items():
            dataset = open_dataset({**data, 'phase': phase, 'scale': opt['scale']})
            found += [dataset[number] for number in range(len(dataset))]
    return found


def test_controls_are_made_once_and_told_apart(study, tmp_path, photographs):
    arms = {kind: {'prior': kind} for kind in ('shuffle', 'random', 'oracle')}
    plan = _plan(study, tmp_path, {**arms, 'SPT': {}})
    assert _stores(plan, 'SPT') == [str(photographs / 'prior')] * 2
    assert not any(recipe.done for recipe in plan.stores.recipes.values())
    assert len(plan.stores.recipes) == 3  # the set of the training is that of the test
    ids = {run.id for run in plan.runs}
    assert len(ids) == len(plan.runs) == 5
    for kind in arms:
        samples = _open(plan, kind)
        assert len(samples) == 8
        assert all(sample['prior'] is not None for sample in samples)
    again = _plan(study, tmp_path, {**arms, 'SPT': {}})
    assert {run.id for run in again.runs} == ids
    assert all(recipe.done for recipe in again.stores.recipes.values())
    assert PriorStore(_stores(again, 'oracle')[0]).header.source == 'felzenszwalb'
    assert PriorStore(_stores(again, 'shuffle')[0]).header.params['shuffled'] == 0


def test_masks_of_a_source_need_no_store(study, tmp_path):
    for name in ('train', 'test'):
        path = tmp_path / 'options' / f'{name}.yml'
        options = yaml.safe_load(path.read_text())
        del options['datasets'][name]['dataroot_prior']
        path.write_text(yaml.safe_dump(options))
    source = {'source': 'felzenszwalb', 'min_size': 4}
    plan = _plan(study, tmp_path, {'SPT': {}, 'shuffle': {'prior': 'shuffle'}}, {'prior': source})
    assert all(sample['prior'].count > 3 for sample in _open(plan, 'SPT'))
    (shuffled,) = set(_stores(plan, 'shuffle'))
    assert plan.stores.recipes[shuffled].needs == (plan.stores.recipes[_stores(plan, 'SPT')[0]],)
    other = _plan(study, tmp_path, {'SPT': {}}, {'prior': {**source, 'min_size': 8}})
    assert not set(_stores(other, 'SPT')) & set(_stores(plan, 'SPT'))
    # the figures by place are by the row's masks in all arms
    bands = [case.test['val']['bands']['photographs'] for case in plan.cases.cases]
    assert set(bands) == set(_stores(plan, 'SPT'))


def test_a_store_that_was_removed_is_made_again(study, tmp_path):
    plan = _plan(study, tmp_path, {'SPT': {}}, {'prior': {'source': 'felzenszwalb'}})
    recipe = next(iter(plan.stores.recipes.values()))
    _make(recipe)
    assert recipe.done
    shutil.rmtree(recipe.path)
    assert not recipe.done
    _make(recipe)
    assert recipe.done
    assert PriorStore(recipe.path).keys()


def test_a_source_of_a_plug_in_that_changed_makes_another_store(study, tmp_path):
    plugin = tmp_path / 'source_of_a_plug_in.py'
    text = (
        'from sptsr.core.registry import SOURCE_REGISTRY, register\n'
        'from sptsr.priors.sources.felzenszwalb import FelzenszwalbSource\n\n\n'
        "@register(SOURCE_REGISTRY, 'of_a_plug_in', replaceable=True)\n"
        'class Mine(FelzenszwalbSource):\n    pass\n'
    )
    found = []
    for content in (text, text + '# changed\n', text):
        plugin.write_text(content)
        for ours in ('of_a_plug_in', 'felzenszwalb'):
            row = {'plugins': [str(plugin)], 'prior': {'source': ours}}
            found.append(_stores(_plan(study, tmp_path, {'SPT': {}}, row), 'SPT'))
    assert found[0] == found[4] != found[2]
    assert found[1] == found[3] == found[5]  # a plug-in plays no part in a source of sptsr's


def test_a_store_of_an_arm_counts_before_the_source_of_the_row(study, tmp_path, photographs):
    arms = {'SPT': {}, 'named': {'prior': str(photographs / 'prior')}, 'shuffled': {'prior': 'shuffle'}}
    plan = _plan(study, tmp_path, arms, {'prior': {'source': 'felzenszwalb', 'min_size': 9}})
    assert _stores(plan, 'named') == [str(photographs / 'prior')] * 2
    assert plan.stores.recipes[_stores(plan, 'shuffled')[0]].needs[0].path.name.startswith('felzenszwalb-')


def _denoising(tmp_path, photographs):
    for name in ('train', 'test'):
        path = tmp_path / 'options' / f'{name}.yml'
        options = yaml.safe_load(path.read_text())
        old = options['datasets'][name]
        kept = {key: old[key] for key in ('gt_size', 'batch_size_per_gpu', 'name') if key in old}
        options['datasets'][name] = {
            'type': 'PriorDenoisingDataset',
            'dataroot_gt': str(photographs / 'GTx4'),
            'sigma': 25,
            **kept,
        }
        options['scale'] = 1
        options['network_g']['backbone'] = {'type': 'FFDNet', 'nc': 16, 'nb': 6}
        del options['network_g']['backbone_weights']
        path.write_text(yaml.safe_dump(options))


def test_masks_of_noisy_images_belong_to_their_noise_also_in_the_controls(study, tmp_path, photographs):
    _denoising(tmp_path, photographs)
    source = {'source': 'felzenszwalb', 'scales': [200], 'min_size': 50}
    arms = {'SPT': {}, 'random': {'prior': 'random'}, 'oracle': {'prior': 'oracle'}}
    plan = _plan(study, tmp_path, arms, {'prior': source})
    for arm in ('SPT', 'random', 'oracle'):
        samples = _open(plan, arm)  # checks each entry against the noisy image
        assert all(sample['prior'] is not None for sample in samples)
        train, test = (PriorStore(store) for store in _stores(plan, arm))
        assert (train.degradation.draws, test.degradation.draws) == (4, 1)
        assert (len(train), len(test)) == (16, 4)
        assert train.header.saw_image  # so all arms see the same noise


def test_masks_of_degraded_images_belong_to_their_draws(study, tmp_path, photographs):
    for name in ('train', 'test'):
        path = tmp_path / 'options' / f'{name}.yml'
        options = yaml.safe_load(path.read_text())
        old = options['datasets'][name]
        kept = {key: old[key] for key in ('gt_size', 'batch_size_per_gpu', 'name') if key in old}
        degradation = ['blur=0.8', 'downsample=4', 'jpeg=30:80']
        gt = {'dataroot_gt': str(photographs / 'GTx4'), 'degradation': degradation, 'noise_seed': 3}
        options['datasets'][name] = {'type': 'PriorDegradedDataset', **gt, **kept}
        path.write_text(yaml.safe_dump(options))
    arms = {'SPT': {}, 'shuffle': {'prior': 'shuffle'}}
    plan = _plan(study, tmp_path, arms, {'prior': {'source': 'felzenszwalb', 'min_size': 4}})
    for arm in arms:
        assert all(sample['prior'] is not None for sample in _open(plan, arm))
        train, test = (PriorStore(store) for store in _stores(plan, arm))
        assert (train.degradation.draws, test.degradation.draws) == (4, 1)


def test_a_store_for_each_set_by_its_name(study, tmp_path, photographs):
    (tmp_path / 'priors').mkdir()
    (tmp_path / 'priors' / 'photographs_felzenszwalb').symlink_to(photographs / 'prior')
    plan = _plan(study, tmp_path, {'SPT': {}, 'named': {'prior': str(tmp_path / 'priors' / '{}_felzenszwalb')}})
    assert _stores(plan, 'named') == [str(tmp_path / 'priors' / 'photographs_felzenszwalb')] * 2
    # the content tells runs apart, not the path
    assert len({run.id for run in plan.runs}) == 2


def test_sets_whose_images_are_made_otherwise_need_a_store(study, tmp_path):
    from pathlib import Path

    from sptsr.study.digests import Digests
    from sptsr.study.stores import Stores

    stores = Stores(Path('priors'), Digests(tmp_path / 'digests.json'))
    with pytest.raises(UserError, match='masks for AnotherDataset are not made here'):
        stores._of_source({'type': 'AnotherDataset', 'dataroot_gt': 'x'}, 'test', {'source': 'felzenszwalb'}, [])


def test_an_oracle_needs_gt(study, tmp_path):
    options = tmp_path / 'options' / 'test.yml'
    content = yaml.safe_load(options.read_text())
    del content['datasets']['test']['dataroot_gt']
    options.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match='prior: oracle: the set photographs has no GT; name it in dataroot_gt'):
        _plan(study, tmp_path, {'oracle': {'prior': 'oracle'}})


def test_an_oracle_of_labels_asks_where_they_are(study, tmp_path, photographs):
    from dataclasses import replace

    from sptsr.priors.controls import _beside

    store = PriorStore(photographs / 'prior')
    header = replace(store.header, source='labels', params={'dir': 'segmentations'})
    _beside(store, tmp_path / 'labels', header, store.get, 'copy')
    arms = {'oracle': {'prior': 'oracle'}}
    study = copy.deepcopy(study)
    data = {'train': {'dataroot_prior': str(tmp_path / 'labels')}, 'test': {'dataroot_prior': str(tmp_path / 'labels')}}
    plan = _plan(study, tmp_path, arms, {'datasets': data})
    with pytest.raises(UserError, match=r'does not say where the files of its source labels are; say prior'):
        _make(plan.stores.recipes[_stores(plan, 'oracle')[0]])


def test_degraded_images_are_made_beside_their_store(tmp_path: Path):
    write_png(tmp_path / 'clean' / 'a.png', photograph('coffee.png', 40, 48))
    data = {'dataroot_gt': str(tmp_path / 'clean'), 'degradation': ['noise=5:25', 'downsample=2'], 'noise_seed': 2}
    chain = DegradationChain.of(data['degradation'], 2, 3)
    for sees_image in (True, False):  # labels, too, are as large as the image that the network gets
        images = _lq_images(data, 3, tmp_path / f'store{sees_image}', sees_image)
        assert images.degradation == chain
        assert images.keys == ['a@0', 'a@1', 'a@2']
        assert images.read('a@1').shape == (20, 24, 3)
    same_size = {**data, 'degradation': ['noise=5:25']}
    assert _lq_images(same_size, 3, tmp_path / 'other', False).keys == ['a']
