"""Checkpoints of SAM as people have them: loaded, or sent to the source that reads them."""

import os

import pytest
import torch
from torch import Tensor

from sptsr.core.errors import UserError
from sptsr.priors.extract import build_source
from sptsr.priors.sources.sam import load_sam
from tests.priors import tiny_sam

SMALL = {tiny_sam.WIDTH: 'tiny'}


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The tensors of the small SAM, which stands for a family of the official package."""
    import segment_anything

    monkeypatch.setitem(segment_anything.sam_model_registry, 'tiny', tiny_sam.build)
    monkeypatch.setattr('sptsr.priors.sources.sam._FAMILIES', SMALL)
    monkeypatch.setattr('sptsr.priors.sources.sam._SIDE', tiny_sam.SIDE)
    return dict(tiny_sam.official().state_dict())


@pytest.mark.parametrize(
    'wrap',
    [
        lambda state: state,
        lambda state: {'model': state},
        lambda state: {'model': state, 'optimizer': {'state': {}, 'lr': 0.1}, 'epoch': 3},
        lambda state: {'state_dict': {f'module.{name}': value for name, value in state.items()}},
        lambda state: {f'module.{name}': value for name, value in state.items()},
    ],
)
def test_wrappers_and_prefixes_are_taken_off(state: dict[str, Tensor], wrap):
    torch.save(wrap(state), 'sam.pth')
    model, family = load_sam('sam.pth')
    assert family == 'tiny'
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_other_models_are_sent_where_they_are_read(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch):
    torch.save({**state, 'mask_decoder.hf_token.weight': torch.zeros(1, 32)}, 'hq.pth')
    with pytest.raises(UserError, match=r'^hq\.pth: is of SAM-HQ; take --source transformers with model=FOLDER'):
        load_sam('hq.pth')
    torch.save(state, 'small.pth')
    monkeypatch.setattr('sptsr.priors.sources.sam._SIDE', 1024)
    with pytest.raises(UserError, match=r'for images of 128 pixels, and .* 1024; take --source transformers'):
        load_sam('small.pth')


@pytest.mark.parametrize('value', [5, 'text', None, torch.zeros(32), torch.zeros(1, 8, 8, 7), torch.zeros(())])
def test_what_is_no_tensor_is_refused(state: dict[str, Tensor], value: object):
    """An embedding that is a number, or of a shape that no encoder has."""
    torch.save({**state, 'image_encoder.pos_embed': value}, 'sam.pth')
    with pytest.raises(UserError, match=r'^sam\.pth: (not a checkpoint of segment_anything|an encoder of width 7)'):
        load_sam('sam.pth')


def test_tensors_without_values_are_named(state: dict[str, Tensor]):
    name = 'mask_decoder.iou_token.weight'
    for word, value in {'meta': state[name].to('meta'), 'sparse': state[name].to_sparse()}.items():
        torch.save({**state, name: value}, f'{word}.pth')
        with pytest.raises(UserError, match=f"'{name}' is .*{word}"):
            load_sam(f'{word}.pth')


def test_a_pipe_is_no_checkpoint():
    os.mkfifo('sam.pth')
    with pytest.raises(UserError, match=r'sam\.pth: is a FIFO, not a file'):
        build_source('sam', ['checkpoint=sam.pth'])
    with pytest.raises(UserError, match='is a device, not a file'):
        build_source('sam', ['checkpoint=/dev/zero'])
