"""A mistake of the user: one line that names it and the remedy, exit code 2, nothing half-written."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sptsr.cli import main
from sptsr.images import ImageFolder, write_png
from tests.conftest import base_options, photograph, run_cli, run_process, write_options


@pytest.fixture
def here(photographs: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the photographs in `set/` and good options in `train.yml` and `test.yml`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photographs, tmp_path / 'set')
    for name in ('train', 'test'):
        options = base_options(tmp_path / 'set', trains=name == 'train')
        options['network_g']['backbone_weights'] = str(tiny_weights)
        write_options(tmp_path / f'{name}.yml', options)
    return tmp_path


def _save(image: np.ndarray, path: Path) -> None:
    assert cv2.imwrite(str(path), image)


def _gray(root: Path) -> None:
    _save(np.zeros((128, 160), np.uint8), root / 'set' / 'GTx4' / 'astronaut.png')


def _rgba(root: Path) -> None:
    _save(np.zeros((128, 160, 4), np.uint8), root / 'set' / 'GTx4' / 'astronaut.png')


def _deep(root: Path) -> None:
    _save(np.zeros((128, 160, 3), np.uint16), root / 'set' / 'GTx4' / 'astronaut.png')


def _zero_bytes(root: Path) -> None:
    (root / 'set' / 'GTx4' / 'astronaut.png').write_bytes(b'')


def _corrupt(root: Path) -> None:
    path = root / 'set' / 'GTx4' / 'astronaut.png'
    path.write_bytes(path.read_bytes()[:99])


def _other_size(root: Path) -> None:
    write_png(root / 'set' / 'GTx4' / 'astronaut.png', photograph('astronaut.png', 64, 160))


def _extra_gt(root: Path) -> None:
    write_png(root / 'set' / 'GTx4' / 'zebra.png', photograph('camera.png', 64, 64))


def _extra_pair(root: Path) -> None:
    write_png(root / 'set' / 'GTx4' / 'zebra.png', photograph('camera.png', 64, 64))
    write_png(root / 'set' / 'LRx4' / 'zebra.png', photograph('camera.png', 16, 16))


def _changed_lq(root: Path) -> None:
    image = ImageFolder(root / 'set' / 'LRx4').read('astronaut')
    write_png(root / 'set' / 'LRx4' / 'astronaut.png', np.ascontiguousarray(image[:, ::-1]))


def _smaller_pair(root: Path) -> None:
    write_png(root / 'set' / 'GTx4' / 'astronaut.png', photograph('astronaut.png', 64, 160))
    write_png(root / 'set' / 'LRx4' / 'astronaut.png', photograph('astronaut.png', 16, 40))


def _empty_gt(root: Path) -> None:
    shutil.rmtree(root / 'set' / 'GTx4')
    (root / 'set' / 'GTx4').mkdir()


def _no_prior(root: Path) -> None:
    shutil.rmtree(root / 'set' / 'prior')


def _not_a_prior(root: Path) -> None:
    (root / 'set' / 'prior' / 'data.mdb').write_bytes(b'no LMDB')


IN_THE_DATA = {
    _gray: r'astronaut\.png: gray, but 8-bit RGB',
    _rgba: r'astronaut\.png: RGBA, but 8-bit RGB',
    _deep: r'astronaut\.png: 16-bit, but 8-bit RGB',
    _zero_bytes: r'astronaut\.png: the file is empty',
    _corrupt: r'astronaut\.png: not a readable image',
    _other_size: r'astronaut\.png: GT is 64x160, but LQ .* wants 128x160',
    _extra_gt: r"no LQ image 'zebra' for GT .*5 GT and 4 LQ",
    _extra_pair: r"prior: no prior of 'zebra'",
    _changed_lq: r'\[astronaut\]: the prior was made from another image',
    _smaller_pair: r'\[astronaut\]: the prior is 32x40 .* but the image 16x40',
    _empty_gt: r'GTx4: no images here',
    _no_prior: r'prior: no such folder',
    _not_a_prior: r'prior: not a (readable LMDB|prior store)',
}


def _one_line(capsys: pytest.CaptureFixture[str], match: str) -> None:
    import re

    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('sptsr')]
    assert len(lines) == 1, lines
    assert re.search(match, lines[0]), lines[0]


@pytest.mark.parametrize('spoil', IN_THE_DATA, ids=lambda f: f.__name__)
@pytest.mark.parametrize('command', ['train', 'test'])
def test_bad_data(here: Path, capsys: pytest.CaptureFixture[str], command: str, spoil):
    spoil(here)
    assert main([command, '-opt', f'{command}.yml']) == 2
    _one_line(capsys, IN_THE_DATA[spoil])
    assert not list(here.glob('results/*/metrics.json'))
    assert not list(here.glob('experiments/*/models/*'))


FORCED = {
    'network_g:sites=[IMDC1]': "sites: 'IMDC1' matches no module of IMDN; did you mean 'IMDB1'",
    'network_g:backbone:nf=32': 'weights of another network than IMDN as configured',
    'network_g:backbone:upscale=2': 'weights of another network',
    'network_g:backbone_weights=nowhere.pth': r'nowhere\.pth: no such file',
    'network_g:backbone_weights=train.yml': r'train\.yml: not readable as weights',
    'path:pretrain_network_g=train.yml': r'train\.yml: (not a readable adapter|weights|tensors)',
    'val:metrics:psnr:crop_border=70': r'is too small for calculate_psnr with crop_border 70',
    'val:metrics:ssim:crop_border=60': r'is too small for calculate_ssim',
    'num_gpu=9': 'num_gpu: 9, but no GPU is usable here' if not torch.cuda.is_available() else '.',
    'nonsense:x=1': "unknown key 'nonsense'",
}


def test_scales_must_agree(here: Path, capsys: pytest.CaptureFixture[str]):
    force = ['--force_yml', 'network_g:backbone_weights=~', 'network_g:backbone:upscale=2']
    assert main(['test', '-opt', 'test.yml', *force]) == 2
    _one_line(capsys, 'scale: 4, but IMDN as configured gives x2; make them agree')
    bare = ['--force_yml', 'network_g={type: IMDN, nf: 16, upscale: 2}']
    assert main(['test', '-opt', 'test.yml', *bare]) == 2
    _one_line(capsys, 'the network gives 64x80 for a GT of 128x160; make scale and network_g agree')


def test_an_unwritable_root_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(['test', '-opt', 'test.yml', '--root', 'train.yml']) == 2
    _one_line(capsys, r'train\.yml.*Not a directory; check the path')


@pytest.mark.parametrize('entry', FORCED)
def test_bad_options(here: Path, capsys: pytest.CaptureFixture[str], entry: str):
    if entry.startswith('num_gpu') and torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    assert main(['test', '-opt', 'test.yml', '--force_yml', entry]) == 2
    _one_line(capsys, FORCED[entry])
    assert not list(here.glob('results/*/metrics.json'))


COMMANDS = {
    ('trian', '-opt', 'x.yml'): r"no command 'trian'; did you mean 'train'",
    ('prior', 'extrct'): r"no command 'extrct'; did you mean 'extract'",
    ('frobnicate',): r"no command 'frobnicate'; known: demo, prior",
    ('train',): 'the following arguments are required: -opt',
    ('test', '-opt', 'nowhere.yml'): r'nowhere\.yml: cannot read it',
    ('prior', 'extract', '-i', 'nowhere', '-o', 's', '--source', 'labels'): 'nowhere: no such folder',
    ('prior', 'extract', '-i', 'set/LRx4', '-o', 's', '--source', 'felzenswalb'): "did you mean 'felzenszwalb'",
    ('prior', 'extract', '-i', 'set/LRx4', '-o', 's', '--source', 'sam'): "source sam needs 'checkpoint'",
    (
        'prior',
        'extract',
        '-i',
        'set/LRx4',
        '-o',
        's',
        '--source',
        'sam',
        '--set',
        'checkpoint=no.pth',
    ): 'no.pth: cannot',
    ('prior', 'extract', '-i', 'set/LRx4', '-o', 's', '--source', 'felzenszwalb', '--set', 'sigma'): 'of the form k=v',
    (
        'prior',
        'extract',
        '-i',
        'set/LRx4',
        '-o',
        's',
        '--source',
        'felzenszwalb',
        '--set',
        'sigma=big',
    ): 'must be a num',
    ('prior', 'extract', '-i', 'set/LRx4', '-o', 's', '--source', 'felzenszwalb', '--max-masks', '65'): 'must be 1..64',
    (
        'prior',
        'extract',
        '-i',
        'set/LRx4',
        '-o',
        'set/GTx4',
        '--source',
        'felzenszwalb',
    ): 'not a prior store, but holds',
    ('prior', 'extract', '-i', 'set/LRx4', '-o', 'train.yml', '--source', 'felzenszwalb'): 'is a file',
    (
        'prior',
        'extract',
        '-i',
        'set/LRx4',
        '-o',
        'set/prior',
        '--source',
        'felzenszwalb',
    ): 'holds priors made otherwise',
    ('prior', 'info', 'set/GTx4'): 'no prior store here',
    ('prior', 'show', 'set/prior', 'nobody', '-i', 'set/LRx4'): "no image 'nobody'",
    ('data', 'prepare', '-i', 'set/GTx4', '-o', 'out', '--scale', '3'): 'is no multiple of 3',
    ('data', 'prepare', '-i', 'set/GTx4', '-o', 'out', '--scale', '4', '--sub-image', '30'): 'multiples of the scale',
    ('data', 'prepare', '-i', 'set/GTx4', '-o', 'out', '--scale', '4', '--include', 'q*'): 'no image matches',
    ('demo', '-o', 'train.yml'): 'is a file',
}


@pytest.mark.parametrize('arguments', COMMANDS, ids=' '.join)
def test_bad_commands(here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]):
    before = sorted(p.relative_to(here) for p in here.rglob('*'))
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    _one_line(capsys, COMMANDS[arguments])
    after = [p for p in sorted(p.relative_to(here) for p in here.rglob('*')) if p.name != 'writer.lock']
    assert after == [p for p in before if p.name != 'writer.lock']


def test_the_commands_of_the_readme_line(here: Path, capsys: pytest.CaptureFixture[str]):
    extract = ['prior', 'extract', '-i', 'set/LRx4', '-o', 'new', '--source', 'felzenszwalb', '--set', 'min_size=4']
    assert main(extract) == 0
    assert main(extract) == 0
    assert 'new: 0 priors made, 4 were there' in capsys.readouterr().out
    assert main(['prior', 'info', 'new']) == 0
    assert 'felzenszwalb (scales=[25.0, 50.0, 100.0, 200.0]' in capsys.readouterr().out
    assert main(['prior', 'verify', 'new', '-i', 'set/LRx4']) == 0
    assert main(['prior', 'verify', 'new', '-i', 'set/GTx4']) == 1
    assert main(['prior', 'show', 'new', 'coffee', '-i', 'set/LRx4', '-o', 'shown']) == 0
    picture = ImageFolder(here / 'shown').read('coffee')
    assert picture.shape[0] > 400
    assert main(['train', '-opt', 'train.yml']) == 0
    adapter = 'experiments/tiny/models/net_g_latest.safetensors'
    capsys.readouterr()
    assert main(['test', '-opt', 'test.yml', '--force_yml', f'path:pretrain_network_g={adapter}']) == 0
    out = capsys.readouterr().out
    assert 'photographs' in out
    assert 'psnr' in out


def test_an_adapter_for_other_weights_is_refused(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(['train', '-opt', 'train.yml']) == 0
    adapter = 'path:pretrain_network_g=experiments/tiny/models/net_g_latest.safetensors'
    capsys.readouterr()
    assert main(['test', '-opt', 'test.yml', '--force_yml', adapter, 'network_g:backbone_weights=~']) == 2
    _one_line(capsys, 'was trained for IMDN with the weights .*, and this backbone holds others')
    assert main(['test', '-opt', 'test.yml', '--force_yml', adapter, 'network_g:unit:width=4']) == 2
    _one_line(capsys, 'tensors do not fit')


def test_as_processes(here: Path):
    """The console script itself: exit codes and no traceback."""
    done = run_process('train', '-opt', 'nowhere.yml', cwd=here)
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)
    assert 'Traceback' not in done.stderr
    version = run_process('--version', cwd=here)
    assert version.stdout.startswith('sptsr ')
    help_ = run_cli('--help', cwd=here)
    assert 'sptsr demo' in help_.stdout
    (here / 'broken.py').write_text('import nothing_here\n')
    done = run_cli('test', '-opt', 'test.yml', '--force_yml', 'plugins=[broken.py]', cwd=here)
    assert done.returncode == 2
    assert "sptsr: plugins: broken.py: importing it failed (No module named 'nothing_here')" in done.stderr
    assert 'Traceback' in done.stderr  # the plugin's own, kept for its author


def test_a_bad_image_in_a_worker_is_one_line(here: Path):
    _corrupt(here)
    done = run_cli('train', '-opt', 'train.yml', '--force_yml', 'datasets:train:num_worker_per_gpu=2', cwd=here)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith('sptsr')]
    assert len(errors) == 1
    assert errors[0].endswith('not a readable image (cut off); copy or make it again')
    assert 'Traceback' not in done.stderr


def test_to_rgb_takes_what_is_refused_otherwise(here: Path, capsys: pytest.CaptureFixture[str]):
    _gray(here)
    assert main(['data', 'prepare', '-i', 'set/GTx4', '-o', 'out', '--scale', '4']) == 2
    _one_line(capsys, 'gray, but 8-bit RGB is needed')
    assert main(['data', 'prepare', '-i', 'set/GTx4', '-o', 'out', '--scale', '4', '--to-rgb']) == 0
    assert len(ImageFolder(here / 'out' / 'GTx4')) == 4
