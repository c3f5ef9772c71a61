"""Malformed files of every kind, made in a working folder, and what is said of them."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import lmdb
import numpy as np
import scipy.io
import torch
import yaml
from safetensors.torch import save_file

from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from tests.conftest import photograph, run_cli


def _save(image: np.ndarray, path: Path) -> None:
    assert cv2.imwrite(str(path), image)


def gray(root: Path) -> None:
    _save(np.zeros((128, 160), np.uint8), root / 'set' / 'GTx4' / 'astronaut.png')


def rgba(root: Path) -> None:
    _save(np.zeros((128, 160, 4), np.uint8), root / 'set' / 'GTx4' / 'astronaut.png')


def deep(root: Path) -> None:
    _save(np.zeros((128, 160, 3), np.uint16), root / 'set' / 'GTx4' / 'astronaut.png')


def zero_bytes(root: Path) -> None:
    (root / 'set' / 'GTx4' / 'astronaut.png').write_bytes(b'')


def corrupt(root: Path) -> None:
    path = root / 'set' / 'GTx4' / 'astronaut.png'
    path.write_bytes(path.read_bytes()[:99])


def other_size(root: Path) -> None:
    write_png(root / 'set' / 'GTx4' / 'astronaut.png', photograph('astronaut.png', 64, 160))


def extra_gt(root: Path) -> None:
    write_png(root / 'set' / 'GTx4' / 'zebra.png', photograph('camera.png', 64, 64))


def extra_pair(root: Path) -> None:
    write_png(root / 'set' / 'GTx4' / 'zebra.png', photograph('camera.png', 64, 64))
    write_png(root / 'set' / 'LRx4' / 'zebra.png', photograph('camera.png', 16, 16))


def changed_lq(root: Path) -> None:
    image = ImageFolder(root / 'set' / 'LRx4').read('astronaut')
    write_png(root / 'set' / 'LRx4' / 'astronaut.png', np.ascontiguousarray(image[:, ::-1]))


def smaller_pair(root: Path) -> None:
    write_png(root / 'set' / 'GTx4' / 'astronaut.png', photograph('astronaut.png', 64, 160))
    write_png(root / 'set' / 'LRx4' / 'astronaut.png', photograph('astronaut.png', 16, 40))


def empty_gt(root: Path) -> None:
    shutil.rmtree(root / 'set' / 'GTx4')
    (root / 'set' / 'GTx4').mkdir()


def no_prior(root: Path) -> None:
    shutil.rmtree(root / 'set' / 'prior')


def not_a_prior(root: Path) -> None:
    (root / 'set' / 'prior' / 'data.mdb').write_bytes(b'no LMDB')


IN_THE_DATA = {
    gray: r'astronaut\.png: gray, but 8-bit RGB',
    rgba: r'astronaut\.png: RGBA, but 8-bit RGB',
    deep: r'astronaut\.png: 16-bit, but 8-bit RGB',
    zero_bytes: r'astronaut\.png: the file is empty',
    corrupt: r'astronaut\.png: not a readable image',
    other_size: r'astronaut\.png: GT is 64x160, but LQ .* wants 128x160',
    extra_gt: r"no LQ image 'zebra' for GT .*5 GT and 4 LQ",
    extra_pair: r"prior: no prior of 'zebra'",
    changed_lq: r'\[astronaut\]: the prior was made from another image',
    smaller_pair: r'\[astronaut\]: the prior is 32x40 .* but the image 16x40',
    empty_gt: r'GTx4: no images here',
    no_prior: r'prior: no such folder',
    not_a_prior: r'prior: not a (readable LMDB|prior store)',
}


# what --force_yml says, and what `sptsr test` says to it
FORCED = {
    'network_g:sites=[IMDC1]': "sites: 'IMDC1' matches no module of IMDN; did you mean 'IMDB1'",
    'network_g:backbone:nf=32': 'weights of another network than IMDN as configured',
    'network_g:backbone:upscale=2': 'weights of another network',
    'network_g:backbone_weights=nowhere.pth': r'nowhere\.pth: no such file',
    'network_g:backbone_weights=train.yml': r'train\.yml: not readable as weights',
    'path:pretrain_network_g=train.yml': r'train\.yml: (not a readable adapter|weights|tensors)',
    'val:metrics:psnr:crop_border=70': r'is too small for calculate_psnr with crop_border 70',
    'val:metrics:ssim:crop_border=61': r'is too small for calculate_ssim',
    'num_gpu=9': 'num_gpu: 9, but no GPU is usable here' if not torch.cuda.is_available() else '.',
    'nonsense:x=1': "unknown key 'nonsense'",
}


COMMANDS = {
    'trian -opt x.yml': "no command 'trian'; did you mean 'train'",
    'restore -i a -o b -a c --tiel 3': "sptsr restore: no option '--tiel'; did you mean '--tile'",
    'export a.safetensors b -o c.onnx': "sptsr export: 'b' belongs to no option",
    'prior extrct': "no command 'extrct'; did you mean 'extract'",
    'frobnicate': "no command 'frobnicate'; known: demo, doctor, data",
    'train': 'the following arguments are required: -opt',
    'test -opt nowhere.yml': 'nowhere\\.yml: cannot read it',
    'prior extract -i nowhere -o s --source labels': 'nowhere: no such folder',
    'prior extract -i set/LRx4 -o s --source felzenswalb': "did you mean 'felzenszwalb'",
    'prior extract -i set/LRx4 -o s --source sam': "source sam needs 'checkpoint'",
    'prior extract -i set/LRx4 -o s --source sam --set checkpoint=no.pth': 'no.pth: cannot',
    'prior extract -i set/LRx4 -o s --source felzenszwalb --set sigma': 'of the form k=v',
    'prior extract -i set/LRx4 -o s --source felzenszwalb --set sigma=big': 'must be a num',
    'prior extract -i set/LRx4 -o s --source felzenszwalb --max-masks 65': 'must be 1..64',
    'prior extract -i set/LRx4 -o set/GTx4 --source felzenszwalb': 'not a prior store, but holds',
    'prior extract -i set/LRx4 -o train.yml --source felzenszwalb': 'is a file',
    'prior extract -i set/LRx4 -o set/prior --source felzenszwalb': 'holds priors made otherwise',
    'prior info set/GTx4': 'no prior store here',
    'prior show set/prior nobody -i set/LRx4': "no image 'nobody'",
    'data prepare -i set/GTx4 -o out --scale 3': 'is not a multiple of 3',
    'data prepare -i set/GTx4 -o out --scale 4 --sub-image 30': 'multiples of the scale',
    'data prepare -i set/GTx4 -o out --scale 4 --include q*': 'no image matches',
    'demo -o train.yml': 'is a file',
}


def _labels(root: Path, name: str, content: bytes) -> None:
    for image in ImageFolder(root / 'set' / 'LRx4').keys:
        (root / 'labels').mkdir(exist_ok=True)
        (root / 'labels' / f'{image}{name}').write_bytes(content)


def _npy(array: np.ndarray) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        (root / 'labels').mkdir()
        for key in ImageFolder(root / 'set' / 'LRx4').keys:
            np.save(root / 'labels' / f'{key}.npy', array, allow_pickle=True)

    return make


def _no_truth(root: Path) -> None:
    (root / 'labels').mkdir()
    for key in ImageFolder(root / 'set' / 'LRx4').keys:
        scipy.io.savemat(root / 'labels' / f'{key}.mat', {'other': np.zeros((4, 4))})


def _polygons(root: Path) -> None:
    _labels(root, '.json', json.dumps([{'segmentation': [[0, 0, 3, 0, 3, 3]]}]).encode())


FROM_LABELS = 'prior extract -i set/LRx4 -o new --source labels --set dir=labels'
LABELS = {
    'no folder': (lambda root: None, 'labels: no such folder'),
    'empty folder': (lambda root: (root / 'labels').mkdir(), 'no label files'),
    'torn .mat': (lambda root: _labels(root, '.mat', b'MATLAB 5.0 MAT-file, of a sort'), 'not a readable label file'),
    'another .mat': (_no_truth, "no 'groundTruth' inside"),
    'pickled .npy': (_npy(np.array([{}], dtype=object)), 'not a readable label file'),
    'fractions': (_npy(np.zeros((8, 8), np.float32)), r'float32 \[8, 8\]; integers'),
    'other size': (_npy(np.ones((7, 9), np.int64)), '7x9|9x7'),
    'torn .json': (lambda root: _labels(root, '.json', b'[{'), 'not readable as JSON'),
    'polygons': (_polygons, "'segmentation' is no RLE"),
    'no records': (
        lambda root: _labels(root, '.json', b'{"masks": []}'),
        "must be a list of records with 'segmentation'",
    ),
    'records of null': (lambda root: _labels(root, '.json', b'{"annotations": null}'), "or have one in 'annotations'"),
    'empty .png': (lambda root: _labels(root, '.png', b''), 'not a readable PNG'),
}


def _entry(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Changes the stored prior of the first image."""

    def spoil(root: Path) -> None:
        with lmdb.open(str(root / 'set' / 'prior'), max_dbs=2) as environment:
            entries = environment.open_db(b'entries')
            with environment.begin(write=True, db=entries) as transaction:
                transaction.put(b'astronaut', change(bytes(transaction.get(b'astronaut') or b'')))

    return spoil


def _torn_store(root: Path) -> None:
    path = root / 'set' / 'prior' / 'data.mdb'
    path.write_bytes(path.read_bytes()[:100])


STORES = {
    'cut entry': (_entry(lambda value: value[:-20]), r'\[astronaut\]: damaged entry'),
    'changed entry': (_entry(lambda value: value[:60] + bytes([value[60] ^ 9]) + value[61:]), 'damaged entry'),
    'empty entry': (_entry(lambda value: b''), 'damaged entry'),
    'foreign entry': (_entry(lambda value: value[:32] + b'text'), 'damaged entry'),
    'other digest': (_entry(lambda value: bytes(32) + value[32:]), 'made from another image of this name'),
    'torn store': (_torn_store, 'not a (readable LMDB|prior store)|cannot be read'),
}


class _Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path('owned'),)


def weights_file(make: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda root: make(root / 'bad.pth')  # type: ignore[return-value]


def _cut_weights(path: Path) -> None:
    torch.save({'params': {'a': torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:-300])


WEIGHTS = {
    'empty': (weights_file(lambda p: p.write_bytes(b'')), r'bad\.pth: '),
    'text': (weights_file(lambda p: p.write_text('weights')), r'bad\.pth: not readable as weights'),
    'cut off': (weights_file(_cut_weights), r'bad\.pth: not readable as weights'),
    'code': (weights_file(lambda p: p.write_bytes(pickle.dumps(_Evil()))), r'bad\.pth: not readable as weights'),
    'a list': (weights_file(lambda p: torch.save([torch.zeros(1)], p)), r'bad\.pth: '),
    'numbers': (weights_file(lambda p: torch.save({'params': {'a': 1}}, p)), r'bad\.pth: '),
    'other network': (
        weights_file(lambda p: torch.save({'params': {'a': torch.zeros(1)}}, p)),
        'weights of another network',
    ),
    'a folder': (weights_file(lambda p: p.mkdir()), r'bad\.pth: no such file'),
}


def _adapter(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        assert run_cli('train', '-opt', 'train.yml', '--root', 'made', cwd=root).returncode == 0
        path = root / 'made' / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors'
        (root / 'bad.safetensors').write_bytes(change(path.read_bytes()))

    return spoil


def _flip(content: bytes) -> bytes:
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


ADAPTERS = {
    'empty': (lambda root: (root / 'bad.safetensors').write_bytes(b''), 'not a readable adapter'),
    'text': (lambda root: (root / 'bad.safetensors').write_text('an adapter'), 'not a readable adapter'),
    'cut off': (_adapter(lambda content: content[:-100]), 'not a readable adapter'),
    'one bit': (_adapter(_flip), 'damaged'),
    'foreign': (
        lambda root: save_file({'a': torch.zeros(1)}, root / 'bad.safetensors'),
        'not an adapter of this format',
    ),
}


def changed_options(change: tuple) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        options = yaml.safe_load((root / 'train.yml').read_text())
        *keys, last, value = change
        section = options
        for key in keys:
            section = section[key]
        section[last] = value
        (root / 'train.yml').write_text(yaml.safe_dump(options, sort_keys=False))

    return spoil


def changed_text(text: str) -> Callable[[Path], None]:
    return lambda root: (root / 'train.yml').write_text(text)  # type: ignore[return-value]
