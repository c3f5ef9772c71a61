"""Folders of transformers from strangers: read, or refused by one line, without a model being built for ever."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sptsr.core.errors import UserError
from sptsr.priors.extract import build_source
from tests.priors.test_transformers import _hf

pytest.importorskip('transformers', reason='transformers is not installed')
WEIGHTS = 'model.safetensors'


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('models') / 'sam'
    _hf('sam').save_pretrained(folder)
    return folder


def _refused(folder: str) -> str:
    with pytest.raises(UserError, match=f'^{folder}') as caught:
        build_source('transformers', [f'model={folder}', 'points_per_side=2'])
    assert '\n' not in str(caught.value)
    return str(caught.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _lie(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, 'little') + path.read_bytes()[8:])


SPOILT: dict[str, Callable[[Path], object]] = {
    'truncated weights': lambda folder: _cut(folder / WEIGHTS),
    'weights with a header that lies': lambda folder: _lie(folder / WEIGHTS),
    'empty weights': lambda folder: (folder / WEIGHTS).write_bytes(b''),
    'garbage for weights': lambda folder: (folder / WEIGHTS).write_bytes(b'weights ' * 999),
    'no weights': lambda folder: (folder / WEIGHTS).unlink(),
    'no configuration': lambda folder: (folder / 'config.json').unlink(),
    'torn configuration': lambda folder: _cut(folder / 'config.json'),
    'deep configuration': lambda folder: (folder / 'config.json').write_text('[' * 100_000),
    'pickled weights only': lambda folder: (folder / WEIGHTS).rename(folder / 'pytorch_model.bin'),
}


@pytest.mark.parametrize('what', SPOILT)
def test_folders_that_hold_no_model(saved: Path, what: str):
    shutil.copytree(saved, 'sam')
    SPOILT[what](Path('sam'))
    _refused('sam')


@pytest.mark.parametrize(
    ('section', 'changes'),
    [
        *(('vision_config', {'patch_size': value}) for value in (0, -16, 'x', None, [16], 10**9)),
        *(('vision_config', {'num_hidden_layers': value}) for value in (10**6, -1, 1.5, 'many', 10**30)),
        *(('vision_config', {'hidden_size': value}) for value in (0, 10**9, 65536, 33, {}, '32')),
        *(('vision_config', {'image_size': value}) for value in (0, 65536, -128, 'x')),
        ('vision_config', {'hidden_act': 'no such function'}),
        ('vision_config', {'global_attn_indexes': 'abc'}),
        ('mask_decoder_config', {'num_hidden_layers': 10**6}),
        ('mask_decoder_config', {'num_attention_heads': 0}),
        ('mask_decoder_config', {'iou_head_depth': 10**7}),
        *(('', {'vision_config': value}) for value in (None, [], 'text', 7)),
        ('', {'quantization_config': {'quant_method': 'bitsandbytes', 'load_in_4bit': True}}),
        ('', {'quantization_config': {'quant_method': 'no such'}}),
        ('', {'attn_implementation': 'kernels-community/flash-attn'}),
        ('vision_config', {'_attn_implementation': 'someone/kernel:forward'}),
        ('', {'auto_map': {'AutoModel': 'code.Net'}}),
    ],
)
def test_configurations_that_make_no_model(saved: Path, section: str, changes: dict):
    shutil.copytree(saved, 'sam')
    config = json.loads(Path('sam/config.json').read_text())
    (config[section] if section else config).update(changes)
    Path('sam/config.json').write_text(json.dumps(config))
    _refused('sam')
