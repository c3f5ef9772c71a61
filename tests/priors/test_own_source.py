"""docs/own-source.md: a source from a user's file, and the two examples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from scipy.io import savemat
from skimage.segmentation import felzenszwalb

from sptsr.core.errors import UserError
from sptsr.core.registry import SOURCE_REGISTRY, lookup
from sptsr.images.decode import write_png
from sptsr.images.folder import ImageFolder
from sptsr.priors.extract import make_source
from sptsr.priors.store import PriorStore
from tests.conftest import photograph, run_cli

EXAMPLES = Path(__file__).parents[2] / 'examples'
PHOTOGRAPHS = ('astronaut.png', 'coffee.png', 'chelsea.png', 'rocket.jpg')


def _photographs(folder: Path) -> Path:
    for name in PHOTOGRAPHS:
        write_png(folder / f'{Path(name).stem}.png', photograph(name, 96, 120))
    return folder


def test_a_network_of_torchvision_becomes_a_source(tmp_path: Path):
    net = torchvision.models.get_model('lraspp_mobilenet_v3_large', weights=None, weights_backbone=None, num_classes=5)
    torch.save(net.state_dict(), tmp_path / 'lraspp.pth')
    source = f'{EXAMPLES / "torchvision_source.py"}:torchvision'
    done = run_cli(
        *('prior', 'extract', '-i', _photographs(tmp_path / 'lq'), '-o', tmp_path / 'store', '--source', source),
        *('--set', 'model=lraspp_mobilenet_v3_large', f'weights={tmp_path / "lraspp.pth"}'),
    )
    assert done.returncode == 0, done.stderr
    store = PriorStore(tmp_path / 'store')
    assert store.header.source == 'torchvision'
    assert store.header.params['weights'] == 'lraspp.pth'
    classes = _classes(net, photograph('coffee.png', 96, 120))
    masks = store.get('coffee').decode()
    assert len(masks) >= 1
    for mask in masks:  # each lies in one class
        assert len(np.unique(classes[mask])) == 1


WRONG = {
    'tuples': 'self.params = {"levels": (1, 2)}\n',
    'no_params': 'pass\n',
    'not_json': 'self.params = {"level": np.float32(1)}\n',
}
MASKS = {
    'writes': 'image[:] = 0',
    'raises': 'raise TypeError("wrong")',
    'array': 'return np.ones((1, *image.shape[:2]), bool)',
    'fine': 'return replace(Prior.encode(np.ones((1, *(2 * side for side in image.shape[:2])), bool)), fine=2)',
    'many': 'return Prior.encode(np.eye(image.shape[1], dtype=bool)[:65, None].repeat(image.shape[0], 1)[:10])',
}
SAID = {'fine': 'gave masks 2 times as fine as the image, and its `fine` is 1', 'many': 'gave 10 masks, and at most 3'}


def _source(folder: Path, name: str, made: str = 'self.params = {}\n', masks: str = 'pass') -> str:
    file = folder / f'{name}.py'
    file.write_text(
        'from dataclasses import replace\n'
        'import numpy as np\n'
        'from sptsr.core.registry import SOURCE_REGISTRY, register\n'
        'from sptsr.masks.prior import Prior\n'
        'from sptsr.priors.sources.source import Source\n'
        f'@register(SOURCE_REGISTRY, {name!r})\n'
        'class Own(Source):\n'
        f'    name = {name!r}\n'
        f'    def __init__(self, level: int = 1):\n        {made}'
        f'    def __call__(self, image, key, max_masks):\n        {masks}\n'
        '        return Prior.encode(np.ones((1, *image.shape[:2]), bool))\n'
    )
    return f'{file}:{name}'


def _extract(folder: Path, source: str, *more: str) -> tuple[int, str]:
    done = run_cli('prior', 'extract', '-i', folder / 'lq', '-o', folder / 'store', '--source', source, *more)
    return done.returncode, done.stderr


def test_an_extraction_goes_on_where_parameters_are_tuples(tmp_path: Path):
    _photographs(tmp_path / 'lq')
    source = _source(tmp_path, 'tuples', WRONG['tuples'])
    assert _extract(tmp_path, source)[0] == 0
    assert _extract(tmp_path, source)[0] == 0
    assert PriorStore(tmp_path / 'store').header.params == {'levels': [1, 2]}


@pytest.mark.parametrize('name', ['no_params', 'not_json', *MASKS])
def test_a_mistake_in_a_source_is_one_line_and_leaves_no_store(tmp_path: Path, name: str):
    _photographs(tmp_path / 'lq')
    made = WRONG.get(name, 'self.params = {}\n')
    source = _source(tmp_path, name, made, MASKS.get(name, 'pass'))
    status, said = _extract(tmp_path, source, '--max-masks', '3')
    line = said.splitlines()[-1]
    assert status == 2, said
    assert SAID.get(name, f'source {name}' if name in WRONG else 'masks cannot be made') in line
    assert 'Traceback' not in said
    assert 'fault of sptsr' not in said
    assert not (tmp_path / 'store').exists()


@torch.no_grad()
def _classes(net: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    batch = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / deviation
    return net.eval()(batch[None])['out'].argmax(1)[0].numpy()


@pytest.mark.parametrize('size', [(96, 120), (50, 37)])
def test_a_network_of_transformers_becomes_a_source(tmp_path: Path, size: tuple[int, int]):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, num_labels=4
    )
    net = transformers.SegformerForSemanticSegmentation(config).eval()
    net.save_pretrained(tmp_path / 'segformer')
    write_png(tmp_path / 'lq' / 'coffee.png', photograph('coffee.png', *size))
    done = run_cli(
        *('prior', 'extract', '-i', tmp_path / 'lq', '-o', tmp_path / 'store'),
        *(
            '--source',
            f'{EXAMPLES / "transformers_source.py"}:segmentation',
            '--set',
            f'model={tmp_path / "segformer"}',
        ),
    )
    assert done.returncode == 0, done.stderr
    store = PriorStore(tmp_path / 'store')
    assert store.header.params == {'model': 'segformer'}
    assert len(store.header.weights_sha256 or '') == 64
    prior = store.get('coffee')
    assert prior.size == size
    assert prior.count >= 1


def test_the_page_shows_the_example_as_it_is():
    page = (EXAMPLES.parent / 'docs' / 'own-source.md').read_text()
    code = (EXAMPLES / 'transformers_source.py').read_text()
    shown = code[code.index('@register') :]
    assert shown in page
    assert shown.count('\n') <= 30


def test_masks_of_another_size_are_one_line(tmp_path: Path):
    (tmp_path / 'source.py').write_text(
        'import numpy as np\n'
        'from sptsr.core.registry import SOURCE_REGISTRY, register\n'
        'from sptsr.masks.prior import Prior\n'
        'from sptsr.priors.sources.source import Source\n'
        "@register(SOURCE_REGISTRY, 'small')\n"
        'class Small(Source):\n'
        "    name, params = 'small', {}\n"
        '    def __call__(self, image, key, max_masks):\n'
        '        return Prior.encode(np.ones((1, 24, 30), bool))\n'
    )
    write_png(tmp_path / 'lq' / 'a.png', photograph('coffee.png', 96, 120))
    done = run_cli(
        'prior', 'extract', '-i', tmp_path / 'lq', '-o', tmp_path / 'store', '--source', f'{tmp_path}/source.py:small'
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith('priors: ')]
    assert 'a: source small gave masks of 24x30 for an image of 96x120 (height x width)' in line
    assert not (tmp_path / 'store').exists()


def test_a_file_without_the_source_is_refused_in_one_line(tmp_path: Path):
    for source, said in (
        ('nowhere.py:boundary', 'nowhere.py: no such file'),
        (f'{EXAMPLES / "torchvision_source.py"}:torchvison', "no source is called 'torchvison'"),
    ):
        done = run_cli(
            'prior', 'extract', '-i', _photographs(tmp_path / 'lq'), '-o', tmp_path / 'store', '--source', source
        )
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / 'store').exists()


def test_masks_of_a_training_image_come_from_the_network_that_never_saw_it(tmp_path: Path):
    images = _photographs(tmp_path / 'lq')
    for name in PHOTOGRAPHS:
        cells = np.empty((1, 1), object)
        cells[0, 0] = {'Segmentation': felzenszwalb(photograph(name, 96, 120), scale=200).astype(np.uint16) + 1}
        (tmp_path / 'labels').mkdir(exist_ok=True)
        savemat(tmp_path / 'labels' / f'{Path(name).stem}.mat', {'groundTruth': cells})
    weights = tmp_path / 'boundary'
    command = [sys.executable, EXAMPLES / 'train_boundary.py', '--images', images, '--labels', tmp_path / 'labels']
    trained = subprocess.run(
        [*command, '-o', weights, '--folds', '2', '--steps', '3'], capture_output=True, text=True, check=False
    )
    assert trained.returncode == 0, trained.stderr
    folds = json.loads((weights / 'folds.json').read_text())
    assert sorted(folds.values()) == [0, 0, 1, 1]
    source = make_source(f'{EXAMPLES / "boundary_source.py"}:boundary', {'weights': str(weights)}, '--set')
    image = ImageFolder(images).read('coffee')
    seen = {key: source.strength(image, key) for key in ('coffee', 'coffee@1', 'a new image')}
    by_net = [net(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).sigmoid()[0, 0] for net in source.nets]
    by_net = [strength.detach().numpy() for strength in by_net]
    assert np.allclose(seen['coffee'], by_net[folds['coffee']], atol=1e-6)
    assert np.array_equal(seen['coffee@1'], seen['coffee'])  # a noisy draw of it
    assert np.allclose(seen['a new image'], (by_net[0] + by_net[1]) / 2, atol=1e-6)
    assert np.abs(by_net[0] - by_net[1]).max() > 1e-3
    with pytest.raises(UserError, match="elsewhere/coffee: 'coffee' was trained on"):
        source.strength(image, 'elsewhere/coffee')
    with pytest.raises(UserError, match='rename the image'):
        source.check(['new', 'elsewhere/coffee@1'])
    prior = source(image, 'coffee', 64)
    assert prior.size == image.shape[:2]
    assert prior.areas().min() >= 20
    begun = [*command, '-o', tmp_path / 'other', '--steps', '1', '--start', weights]
    for mistake, said in (('--folds', '3'), 'its folds are others'), (('--start', tmp_path / 'lq'), 'no networks here'):
        refused = subprocess.run([*begun, '--folds', '2', *mistake], capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert said in refused.stderr
    assert not (tmp_path / 'other').exists()
    again = subprocess.run(
        [*command, '-o', weights, '--steps', '1', '--folds', '3'], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert 'holds networks of other folds' in again.stderr
    subprocess.run([*begun, '--folds', '2'], check=True, capture_output=True)
    of = {
        fold: [load_file(folder / f'fold{fold}.safetensors') for folder in (weights, tmp_path / 'other')]
        for fold in '01'
    }
    for before, after in of.values():  # one step of a small rate away, no further
        assert 0 < max((after[key] - before[key]).abs().max() for key in before) < 1e-3


def test_folds_are_told_by_their_numbers(tmp_path: Path):
    """Twelve of them in the order of names would give images to networks that trained on them."""
    folds = {f'image{n}': n for n in range(12)}
    (tmp_path / 'folds.json').write_text(json.dumps(folds))
    nets = {}
    source = f'{EXAMPLES / "boundary_source.py"}:boundary'
    with pytest.raises(UserError, match='fold0.safetensors: not there; run examples/train_boundary.py to its end'):
        make_source(source, {'weights': str(tmp_path)}, 'x')
    for n in range(12):
        torch.manual_seed(n)
        nets[n] = sys.modules[lookup(SOURCE_REGISTRY, 'boundary').__module__].BoundaryNet()
        save_file(nets[n].state_dict(), tmp_path / f'fold{n}.safetensors')
    made = make_source(source, {'weights': str(tmp_path)}, 'x')
    for key, n in folds.items():
        assert torch.equal(made.nets[made.folds[key]].last.weight, nets[n].last.weight)
    for size in ((1, 1), (3, 2), (1, 40)):
        prior = made(np.zeros((*size, 3), np.uint8), 'image2', 64)
        assert prior.size == size
    with pytest.raises(UserError, match='levels names none'):
        make_source(source, {'weights': str(tmp_path), 'levels': []}, 'x')
    (tmp_path / 'fold7.safetensors').unlink()
    with pytest.raises(UserError, match='fold7.safetensors: not there'):
        make_source(source, {'weights': str(tmp_path)}, 'x')


def test_weights_of_another_network_of_torchvision_are_refused(tmp_path: Path):
    net = torchvision.models.get_model('lraspp_mobilenet_v3_large', weights=None, weights_backbone=None, num_classes=5)
    torch.save({f'module.{key}': value for key, value in net.state_dict().items()}, tmp_path / 'w.pth')
    arguments = {'model': 'lraspp_mobilenet_v3_large', 'weights': str(tmp_path / 'w.pth')}
    with pytest.raises(UserError, match="no weights of lraspp_mobilenet_v3_large .no 'backbone"):
        make_source(f'{EXAMPLES / "torchvision_source.py"}:torchvision', arguments, 'x')
