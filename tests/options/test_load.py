import re
from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY
from sptsr.core.yaml_io import read_scalar, read_yaml
from sptsr.options.load import load_options, merge
from tests.conftest import base_options, write_options


def _load(tmp_path: Path, text: str, is_train: bool = False, force=()):
    (tmp_path / 'x.yml').write_text(text)
    return load_options(tmp_path / 'x.yml', is_train, tmp_path, force)


def test_numbers_without_a_dot_are_numbers(tmp_path: Path):
    (tmp_path / 'x.yml').write_text('a: 1e-4\nb: 2E+3\nc: 1.5e-2\nd: e-4\ne: 12\nf: "1e-4"\n')
    values, _ = read_yaml(tmp_path / 'x.yml')
    assert values == {'a': 1e-4, 'b': 2000.0, 'c': 0.015, 'd': 'e-4', 'e': 12, 'f': '1e-4'}
    assert read_scalar('1e-4') == 1e-4
    assert read_scalar('~') is None


BAD_YAML = [
    ('a: 1\nb: 2\na: 3\n', r"x\.yml:3: 'a' stands twice in this section \(first in line 1\)"),
    ('a: {b: 1, b: 2}\n', r"x\.yml:1: 'b' stands twice"),
    ('a: !!python/object/apply:os.system ["touch owned"]\n', r'x\.yml:1: could not determine a constructor'),
    ('a: !!python/name:os.system\n', r'x\.yml:1:'),
    ('a: [1, 2\nb: 3\n', r'x\.yml:2: '),
    ('- 1\n- 2\n', 'holds no "key: value" lines'),
    ('', 'holds no "key: value" lines'),
    ('a: &a [*a]\n', r'x\.yml:1: an alias that contains itself'),
    ('a: "\\x', r'x\.yml'),
]


@pytest.mark.parametrize(('text', 'match'), BAD_YAML)
def test_yaml_is_data(tmp_path: Path, text: str, match: str):
    (tmp_path / 'x.yml').write_text(text)
    with pytest.raises(UserError, match=match) as caught:
        read_yaml(tmp_path / 'x.yml')
    assert '\n' not in str(caught.value)
    assert not Path('owned').exists()


def test_exploding_aliases_are_refused(tmp_path: Path):
    rows = ['a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]']
    rows += [f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * 10)}]' for n in range(1, 9)]
    (tmp_path / 'x.yml').write_text('\n'.join(rows))
    with pytest.raises(UserError, match='aliases name more than 100000 values; write less'):
        read_yaml(tmp_path / 'x.yml')


def test_a_good_file_is_completed(photographs: Path, tmp_path: Path):
    path = write_options(tmp_path / 'x.yml', base_options(photographs, trains=True))
    options = load_options(path, True, tmp_path)
    assert options.opt['datasets']['train']['phase'] == 'train'
    assert options.opt['datasets']['train']['scale'] == 4
    assert options.opt['path']['models'] == str(tmp_path / 'experiments' / 'tiny' / 'models')
    assert 'phase' not in options.given['datasets']['train']
    assert not (tmp_path / 'experiments').exists()  # nothing is written
    assert options.sha256 == load_options(path, True, tmp_path / 'other').sha256


TRAIN = {
    'total_iter': 6,
    'optim_g': {'type': 'Adam', 'lr': 1e-3},
    'scheduler': {'type': 'MultiStepLR', 'milestones': [4]},
    'pixel_opt': {'type': 'L1Loss'},
}
STOCK = {'type': 'PairedImageDataset', 'name': 'x', 'dataroot_gt': '.', 'dataroot_lq': '.', 'batch_size_per_gpu': 1}
STOCK |= {'gt_size': 64, 'use_hflip': False, 'use_rot': False}
MISTAKES = {
    # change of the options, then what the report must say
    'unknown top key': (('nam', 'x'), "unknown key 'nam'; did you mean 'name'"),
    'another model': (
        ('model_type', 'SRModel'),
        "model_type: SRModel is BasicSR's, which tunes no units; say SPTModel",
    ),
    'a list of RealESRGAN': (
        ('datasets', 'train', {'type': 'RealESRGANPairedDataset', 'name': 'x', 'meta_info_file': 'x'}),
        "unknown key 'datasets.train.meta_info_file'; did you mean 'meta_info'",
    ),
    'a list of a stock LMDB': (
        ('datasets', 'train', {**STOCK, 'io_backend': {'type': 'lmdb'}, 'meta_info_file': 'x'}),
        'datasets.train.meta_info_file: plays no part in an LMDB of PairedImageDataset; PriorPairedImageDataset takes',
    ),
    'a GAN': (('network_d', {}), "unknown key 'network_d'; there is no adversarial training here; remove it"),
    'no loss': (('train', 'pixel_opt', None), "train needs 'pixel_opt', or another loss"),
    'unknown train key': (('train', 'ema_decy', 0.9), "unknown key 'train.ema_decy'; did you mean 'ema_decay'"),
    'unknown val key': (('val', 'val_frq', 5), "unknown key 'val.val_frq'; did you mean 'val_freq'"),
    'unknown path key': (('path', {'pretrain_netwrk_g': 'x'}), "did you mean 'pretrain_network_g'"),
    'unknown logger key': (('logger', 'print_frq', 5), "did you mean 'print_freq'"),
    'metric key': (
        ('val', 'metrics', 'psnr', 'test_y_chanel', True),
        "calculate_psnr takes no 'test_y_chanel'; did you mean 'test_y_channel'",
    ),
    'metric name': (('val', 'metrics', 'psnr', 'type', 'calculate_pnsr'), "did you mean 'calculate_psnr'"),
    'metric needs': (('val', 'metrics', {'p': {'type': 'calculate_psnr'}}), "calculate_psnr needs 'crop_border'"),
    'dataset key': (('datasets', 'train', 'use_hflp', True), "takes no 'use_hflp'; did you mean 'use_hflip'"),
    'dataset type': (('datasets', 'train', 'type', 'PairedImagDataset'), "did you mean 'PairedImageDataset'"),
    'dataset folder': (('datasets', 'train', 'dataroot_lq', '/nowhere'), '/nowhere: no such folder'),
    'dataset value': (
        ('datasets', 'train', 'gt_size', 'big'),
        "'gt_size' .* must be a whole number in 1..65536 or empty",
    ),
    'dataset batch': (
        ('datasets', 'train', 'batch_size_per_gpu', 'x'),
        "'batch_size_per_gpu' of .* must be a whole number",
    ),
    'phase': (('datasets', 'tran', {}), "'tran' must be train, val"),
    'a second train': (('datasets', 'train_2', {}), "'train_2' must be train, val"),
    'model type': (('model_type', 'SPTModl'), "did you mean 'SPTModel'"),
    'backbone type': (('network_g', 'backbone', 'type', 'IDMN'), "no arch is called 'IDMN'; did you mean"),
    'backbone key': (('network_g', 'backbone', 'upscal', 4), "IMDN takes no 'upscal'; did you mean 'upscale'"),
    'backbone value': (
        ('network_g', 'backbone', 'nf', '64'),
        "'nf' of IMDN must be a whole number in 16..4096, got text '64'",
    ),
    'unit type': (('network_g', 'unit', 'type', 'PlanUnit'), "did you mean 'PlainUnit'"),
    'unit key': (('network_g', 'unit', 'widht', 4), "ModulationUnit takes no 'widht'; did you mean 'width'"),
    'unit internals': (('network_g', 'unit', 'channels', 4), "takes no 'channels'"),
    'network key': (('network_g', 'num_mask', 4), "SPTNet takes no 'num_mask'; did you mean 'num_masks'"),
    'weights': (('network_g', 'backbone_weights', '/no.pth'), 'backbone_weights: /no.pth: no such file'),
    'adapter': (('path', {'pretrain_network_g': '/no.safetensors'}), 'pretrain_network_g: /no.safetensors: no such'),
    'strict': (('path', {'strict_load_g': False}), 'weights are always loaded strictly'),
    'wandb': (('logger', 'wandb', {'project': 'x'}), 'logger.wandb: it takes up what TensorBoard gets'),
    'optimiser': (('train', 'optim_g', 'type', 'Adaam'), "no optimiser .* 'Adaam'; did you mean 'Adam'"),
    'optimiser key': (('train', 'optim_g', 'lrr', 1.0), "Adam takes no 'lrr'; did you mean 'lr'"),
    'scheduler': (('train', 'scheduler', 'type', 'MultistepLR'), "did you mean 'MultiStepLR'"),
    'scheduler key': (('train', 'scheduler', 'gama', 1.0), "takes no 'gama'; did you mean 'gamma'"),
    'periods': (
        ('train', 'scheduler', {'type': 'CosineAnnealingRestartLR', 'periods': [3]}),
        'periods: they end at 3, before total_iter 6',
    ),
    'loss': (('train', 'pixel_opt', 'type', 'L1Los'), "did you mean 'L1Loss'"),
    'loss key': (('train', 'pixel_opt', 'los_weight', 1), "did you mean 'loss_weight'"),
    'total_iter': (('train', 'total_iter', 0), 'train.total_iter must be a whole number in 1..1000000000.*, got 0'),
    'total_iter text': (
        ('train', 'total_iter', 'many'),
        "train.total_iter must be a whole number in 1..1000000000, got text 'many'",
    ),
    'boolean': (('train', 'channels_last', 'yess'), 'train.channels_last must be true or false'),
    'ema': (('train', 'ema_decay', 1.5), 'train.ema_decay must be a number in 0..1, got 1.5'),
    'precision': (('train', 'precision', 'fp8'), "train.precision must be bf16 or fp16 or fp32, got 'fp8'"),
    'accumulate': (('train', 'accumulate', 0), 'train.accumulate must be a whole number in 1..4096.*, got 0'),
    'clip': (('train', 'clip_grad_norm', -1), 'train.clip_grad_norm: -1 is not above 0'),
    'both': (('train', {**TRAIN, 'compile': True, 'checkpoint': True}), 'compile chooses what to keep itself'),
    'other loss': (('train', 'edge_opt', {'type': 'EdgeLos'}), "no loss is called 'EdgeLos'"),
    'keep_last': (('logger', 'keep_last', 0), 'logger.keep_last must be a whole number in 1..1000000000.*, got 0'),
    'seed': (('manual_seed', -1), 'manual_seed must be a whole number in 0..4294967295.*, got -1'),
    'scale': (('scale', 0), 'scale must be a whole number in 1..64, got 0'),
    'many iterations': (
        ('train', 'total_iter', 10**12),
        'total_iter must be a whole number in 1..1000000000.*, got 1000000000000',
    ),
    'batch': (
        ('datasets', 'train', 'batch_size_per_gpu', -2),
        "'batch_size_per_gpu' of .* must be a whole number in 1..65536.*, got -2",
    ),
    'workers': (
        ('datasets', 'train', 'num_worker_per_gpu', -1),
        "'num_worker_per_gpu' of .* must be a whole number in 0..1024.*, got -1",
    ),
    'tile': (('val', 'tile', -1), 'val.tile must be a whole number in 1..1048576.*, got -1'),
    'border': (
        ('val', 'metrics', 'psnr', 'crop_border', -4),
        'psnr.crop_border must be a whole number in 0..65536.*, got -4',
    ),
    'port': (('dist_params', {'port': 0}), 'dist_params.port must be a whole number in 1..65535.*, got 0'),
    'period text': (
        ('train', 'scheduler', {'type': 'CosineAnnealingRestartLR', 'periods': ['6']}),
        r"periods must be a list .each a whole number in 1..1000000000., got \['6'\]",
    ),
    'milestones': (
        ('train', 'scheduler', 'milestones', ['x']),
        r"scheduler.milestones must be a list .each a whole number in 0..1000000000., got \['x'\]",
    ),
    'no backbone': (('network_g', 'backbone', None), 'network_g.backbone: None is not a section'),
    'sites': (('network_g', 'sites', [1, 2]), r"'sites' of SPTNet must be a list .each text. or text, got \[1, 2\]"),
    'backend': (('dist_params', {'backend': 'ncl'}), "dist_params.backend must be gloo or nccl, got 'ncl'"),
    'dist key': (('dist_params', {'prt': 1}), "unknown key 'dist_params.prt'; did you mean 'port'"),
    'ladder': (
        ('network_g', 'unit', 'path', 3),
        "'path' of ModulationUnit must be inline or ladder, got a whole number 3",
    ),
    'num_gpu': (('num_gpu', 'all'), "num_gpu must be a whole number in 0..4096 or auto, got 'all'"),
    'name': (('name', 'a/b'), "'a/b' cannot be a folder's name"),
    'plugins': (('plugins', 'x.py'), 'plugins must be a list'),
    'plugin file': (('plugins', ['no.py']), r'no\.py: no such file'),
    'plugin module': (('plugins', ['no.such.module']), "no module 'no.such.module'"),
}


@pytest.mark.parametrize('case', sorted(MISTAKES))
def test_each_mistake_is_named_with_its_line(photographs: Path, tmp_path: Path, case: str):
    options = base_options(photographs, trains=True)
    (*keys, last, value), match = MISTAKES[case]
    section = options
    for key in keys:
        section = section[key]
    section[last] = value
    path = write_options(tmp_path / 'x.yml', options)
    with pytest.raises(UserError, match=match) as caught:
        load_options(path, True, tmp_path)
    message = str(caught.value)
    assert 'x.yml' in message or case.startswith('plugin ')
    if not case.startswith('plugin'):
        line = int(re.findall(r'x\.yml:(\d+)', message)[0])
        shown = path.read_text().splitlines()[line - 1]
        names = [name for name in (last, *keys[-1:], *(value if isinstance(value, dict) else ())) if name != 'train']
        assert any(str(name) in shown for name in names), (line, shown)
    assert not list(tmp_path.glob('experiments'))


def test_all_mistakes_come_in_one_report(photographs: Path, tmp_path: Path):
    options = base_options(photographs, trains=True)
    options['train']['ema_decy'] = 1
    options['network_g']['unit']['type'] = 'Planet'
    options['val']['metrics']['ssim']['crop_boarder'] = 4
    with pytest.raises(UserError) as caught:
        load_options(write_options(tmp_path / 'x.yml', options), True, tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith('x.yml: 3 mistakes')
    assert len(lines) == 4


def test_missing_sections_are_named(tmp_path: Path):
    with pytest.raises(UserError) as caught:
        _load(tmp_path, 'name: x\n', is_train=True)
    for key in ('model_type', 'datasets', 'network_g', 'train'):
        assert f"'{key}' is missing" in str(caught.value)


def test_base_files_merge_by_key_and_keep_their_lines(photographs: Path, tmp_path: Path):
    options = base_options(photographs, trains=True)
    write_options(tmp_path / 'parts' / 'base.yml', options)
    top = {'base': 'parts/base.yml', 'name': 'other', 'network_g': {'unit': {'type': 'PlainUnit', 'width': 4}}}
    loaded = load_options(write_options(tmp_path / 'x.yml', top), True, tmp_path).opt
    assert loaded['name'] == 'other'
    assert loaded['network_g']['unit'] == {'type': 'PlainUnit', 'width': 4}
    assert loaded['network_g']['backbone'] == options['network_g']['backbone']
    options['train']['optm_g'] = {}
    write_options(tmp_path / 'parts' / 'base.yml', options)
    with pytest.raises(UserError, match=r"base\.yml:\d+: unknown key 'train\.optm_g'"):
        load_options(tmp_path / 'x.yml', True, tmp_path)
    write_options(tmp_path / 'x.yml', {'base': 'gone.yml'})
    with pytest.raises(UserError, match=r'x\.yml:1: base: .*gone\.yml: no such file'):
        load_options(tmp_path / 'x.yml', True, tmp_path)
    write_options(tmp_path / 'x.yml', {'base': 'x.yml'})
    with pytest.raises(UserError, match='go round in a circle'):
        load_options(tmp_path / 'x.yml', True, tmp_path)


def test_force_yml_is_checked_data(photographs: Path, tmp_path: Path):
    path = write_options(tmp_path / 'x.yml', base_options(photographs, trains=True))
    force = ['train:ema_decay=0.5', 'train:scheduler:milestones=[2, 3]', 'name=forced', 'train:optim_g:lr=2e-4']
    opt = load_options(path, True, tmp_path, force).opt
    assert list(load_options(path, True, tmp_path, ['datasets:val=~']).opt['datasets']) == ['train']
    assert opt['train']['ema_decay'] == 0.5
    assert opt['train']['scheduler']['milestones'] == [2, 3]
    assert (opt['train']['optim_g']['lr'], opt['name']) == (2e-4, 'forced')
    for entry, match in (
        ('train:ema_decy=0.5', "--force_yml: unknown key 'train.ema_decy'; did you mean 'ema_decay'"),
        ('train', 'not of the form section:key=value'),
        ('name:x=1', 'name is a value, not a section'),
        ('name=!!python/name:os.system', 'not readable as a YAML value'),
        ('a' + ':a' * 3000 + '=1', 'nested more than 50 deep'),
    ):
        with pytest.raises(UserError, match=match):
            load_options(path, True, tmp_path, [entry])


def test_plugins_register_a_users_own_network(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    plugin = tmp_path / 'my_net.py'
    plugin.write_text(
        'from torch import nn\n'
        'from sptsr.core.registry import ARCH_REGISTRY, register\n\n'
        '@register(ARCH_REGISTRY)\n'
        'class PluginNet(nn.Module):\n'
        '    def __init__(self, width: int = 8):\n'
        '        super().__init__()\n'
        '        self.body = nn.Conv2d(3, width, 3, padding=1)\n'
    )
    options = base_options(photographs, trains=False)
    options['plugins'] = [str(plugin)]
    options['network_g'] |= {'backbone': {'type': 'PluginNet', 'width': 4}, 'sites': ['body']}
    path = write_options(tmp_path / 'x.yml', options)
    load_options(path, False, tmp_path)
    load_options(path, False, tmp_path)  # imported once
    assert 'PluginNet' in ARCH_REGISTRY
    options['network_g']['backbone'] = {'type': 'PluginNet', 'widht': 4}
    with pytest.raises(UserError, match="PluginNet takes no 'widht'; did you mean 'width'"):
        load_options(write_options(path, options), False, tmp_path)
    (tmp_path / 'broken.py').write_text('1 / 0\n')
    options['plugins'] = [str(tmp_path / 'broken.py')]
    with pytest.raises(UserError, match='importing it failed .division by zero'):
        load_options(write_options(path, options), False, tmp_path)
    assert 'ZeroDivisionError' in capsys.readouterr().err


def test_the_shipped_option_files_are_read():
    """Their only mistakes may be files that a fresh clone does not have."""
    root = Path(__file__).parents[2] / 'options'
    files = sorted([*root.glob('train/*.yml'), *root.glob('test/*.yml')])
    for path in files:
        try:
            load_options(path, path.parent.name == 'train')
        except UserError as error:
            rows = [row for row in str(error).splitlines() if not row.endswith('mistakes')]
            assert all('no such' in row for row in rows), (path.name, rows)
    assert len(files) >= 7


def test_a_base_without_a_type_is_added_to():
    below = {'unit': {'width': 8}, 'pixel_opt': {'type': 'L1Loss', 'loss_weight': 0.5}}
    above = {'unit': {'type': 'PlainUnit'}, 'pixel_opt': {'type': 'MSELoss'}}
    assert merge(below, above) == {'unit': {'width': 8, 'type': 'PlainUnit'}, 'pixel_opt': {'type': 'MSELoss'}}
