"""What makes a run another one, and what does not."""

import copy
import shutil

import pytest
import yaml

from sptsr.study.digests import Digests
from sptsr.study.identity import identity, training_record
from sptsr.study.identity import test_record as record_of_test


@pytest.fixture
def options(study, tmp_path, photographs):
    del study  # it writes the option files
    opt = yaml.safe_load((tmp_path / 'options' / 'train.yml').read_text())
    shutil.copytree(photographs, tmp_path / 'set')
    data = opt['datasets']['train']
    for key, name in (('dataroot_gt', 'GTx4'), ('dataroot_lq', 'LRx4'), ('dataroot_prior', 'prior')):
        data[key] = str(tmp_path / 'set' / name)
    return opt


def _id(opt, tmp_path) -> str:
    return identity(training_record(opt, Digests(tmp_path / 'digests.json'), {}))


def _changed(opt, path: str, value):
    opt = copy.deepcopy(opt)
    section = opt
    *keys, last = path.split('/')
    for key in keys:
        section = section.setdefault(key, {})
    section[last] = value
    return opt


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('name', 'other'),
        ('num_gpu', 'auto'),
        ('logger/print_freq', 7),
        ('val/val_freq', 3),
        ('datasets/train/name', 'other'),
        ('datasets/train/num_worker_per_gpu', 2),
        ('datasets/val', {'name': 'x'}),
        ('train/precision', 'fp32'),  # the default, written out
        ('train/optim_g/betas', [0.9, 0.999]),
        ('train/pixel_opt/loss_weight', 1.0),
        ('network_g/unit/path', 'inline'),
        ('network_g/backbone/in_nc', 3),
        ('datasets/train/to_rgb', False),
        ('network_g/rules', 3),  # units stand where the options say, by these as by newer rules
    ],
)
def test_the_same_run(options, tmp_path, path, value):
    if path.startswith('datasets/val'):
        value = {**options['datasets']['train'], **value}
    assert _id(_changed(options, path, value), tmp_path) == _id(options, tmp_path)


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('manual_seed', 4),
        ('train/total_iter', 7),
        ('train/optim_g/lr', 2e-3),
        ('train/precision', 'bf16'),
        ('train/pixel_opt/loss_weight', 2.0),
        ('network_g/unit/width', 4),
        ('network_g/backbone/nf', 32),
        ('network_g/num_masks', 8),
        ('datasets/train/gt_size', 32),
        ('datasets/train/use_rot', False),
        ('datasets/train/to_rgb', True),
        ('network_g/rules', 2),
    ],
)
def test_another_run(options, tmp_path, path, value):
    assert _id(_changed(options, path, value), tmp_path) != _id(options, tmp_path)


def test_rules_count_where_they_mean_something(options, tmp_path):
    """Runs of 0.2 before rules 4 keep their names but where `auto` puts units behind other blocks."""
    for key, value, differs in (
        ('sites', 'auto', True),
        ('tune', 'lora', False),
        ('backbone', {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3}, False),
    ):
        now = _changed(_changed(options, 'network_g/sites', 'auto'), f'network_g/{key}', value)
        before = _changed(now, 'network_g/rules', 3)
        assert (_id(now, tmp_path) != _id(before, tmp_path)) == differs, key


def test_content_counts_and_paths_do_not(options, tmp_path):
    before = _id(options, tmp_path)
    shutil.copytree(tmp_path / 'set', tmp_path / 'moved')
    for key, value in options['datasets']['train'].items():
        if key.startswith('dataroot_'):
            options['datasets']['train'][key] = value.replace('/set/', '/moved/')
    assert _id(options, tmp_path) == before
    weights = tmp_path / 'weights.pth'
    shutil.copy(options['network_g']['backbone_weights'], weights)
    options['network_g']['backbone_weights'] = str(weights)
    assert _id(options, tmp_path) == before
    image = tmp_path / 'moved' / 'GTx4' / 'chelsea.png'
    content = image.read_bytes()
    image.write_bytes(content + b' ')
    changed = _id(options, tmp_path)
    assert changed != before
    image.write_bytes(content)
    assert _id(options, tmp_path) == before
    assert identity(training_record(options, Digests(tmp_path / 'digests.json'), {}, 2)) != before


def test_what_no_reader_of_images_sees_does_not_count(tmp_path):
    folder = tmp_path / 'images'
    (folder / 'part').mkdir(parents=True)
    (folder / 'part' / 'x.png').write_bytes(b'1')
    before = Digests(tmp_path / 'a.json').folder(str(folder))
    (folder / '.ipynb_checkpoints').mkdir()
    (folder / '.ipynb_checkpoints' / 'x.png').write_bytes(b'2')
    for name in ('one', 'two'):  # each folder entered again and again would be 2^40 of them
        (folder / name).symlink_to(folder)
    assert Digests(tmp_path / 'b.json').folder(str(folder)) == before
    (folder / 'part' / 'y.png').write_bytes(b'1')
    assert Digests(tmp_path / 'c.json').folder(str(folder)) != before


def test_equal_figures_of_tests(study, tmp_path):
    opt = yaml.safe_load((tmp_path / 'options' / 'test.yml').read_text())
    digests = Digests(tmp_path / 'digests.json')
    before = identity(record_of_test(opt, digests, {}))
    for path, value in (('manual_seed', 9), ('val/save_img', True), ('val/tile_overlap', 32), ('name', 'x')):
        assert identity(record_of_test(_changed(opt, path, value), digests, {})) == before
    for path, value in (('val/tile', 32), ('val/metrics/psnr/crop_border', 2), ('datasets/test/name', 'x')):
        assert identity(record_of_test(_changed(opt, path, value), digests, {})) != before


def test_damaged_notes_are_begun_anew(tmp_path):
    notes = tmp_path / 'digests.json'
    notes.write_text('{')
    file = tmp_path / 'x'
    file.write_text('1')
    assert Digests(notes).file(str(file)) == Digests(notes).file(str(file))


@pytest.mark.parametrize('name', ['{file}', '{file}:Net', '~/net.py', '~/net.py:Net'])
def test_the_content_of_a_plug_in_counts(options, tmp_path, monkeypatch, name):
    monkeypatch.setenv('HOME', str(tmp_path))
    file = tmp_path / 'net.py'
    options['plugins'] = [name.format(file=file)]
    file.write_text('class Net: pass')
    before = _id(options, tmp_path)
    file.write_text('class Net: other = True')
    assert _id(options, tmp_path) != before
    file.write_text('class Net: pass')
    assert _id(options, tmp_path) == before


def test_a_loss_that_is_switched_off_plays_no_part(options, tmp_path):
    assert _id(_changed(options, 'train/perceptual_opt', None), tmp_path) == _id(options, tmp_path)


def test_what_a_plug_in_imports_from_beside_it_counts(options, tmp_path):
    options['plugins'] = [str(tmp_path / 'net.py')]
    (tmp_path / 'net.py').write_text('import torch\nfrom parts import block\nfrom package.deep import Layer\n')
    (tmp_path / 'parts.py').write_text('block = 1\nraise RuntimeError  # it is not run\n')
    (tmp_path / 'other.py').write_text('')
    (tmp_path / 'package').mkdir()
    (tmp_path / 'package' / 'deep.py').write_text('from . import more\nLayer = more.Layer\n')
    (tmp_path / 'package' / 'more.py').write_text('Layer = 1\n')
    before = _id(options, tmp_path)
    for name in ('parts.py', 'package/deep.py', 'package/more.py'):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(f'{text}# changed')
        assert _id(options, tmp_path) != before
        (tmp_path / name).write_text(text)
    (tmp_path / 'other.py').write_text('1')
    assert _id(options, tmp_path) == before


def test_the_content_of_a_metrics_weights_counts(study, tmp_path):
    opt = yaml.safe_load((tmp_path / 'options' / 'test.yml').read_text())
    opt['val']['metrics']['lpips'] = {'type': 'calculate_lpips', 'weights': str(tmp_path / 'vgg.pth')}
    found = set()
    for content in ('one', 'other'):
        (tmp_path / 'vgg.pth').write_text(content)
        found.add(identity(record_of_test(opt, Digests(tmp_path / 'digests.json'), {})))
    assert len(found) == 2
