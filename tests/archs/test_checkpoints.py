"""Checkpoints as people save them: read where that is safe, else refused with what to do."""

import argparse
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.weights import load_strictly, read_weights
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, lookup

ARGUMENTS = {'nf': 16, 'num_modules': 2, 'upscale': 2}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(4)
    return lookup(ARCH_REGISTRY, 'IMDN')(**ARGUMENTS)


def _same(found: dict[str, Tensor], net: nn.Module) -> bool:
    expected = net.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def _older(net: nn.Module) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in net.state_dict().items()}


@pytest.mark.parametrize(
    'wrapper', ['params-ema', 'params_ema', 'params', 'state_dict', 'state_dict_ema', 'model_state_dict', 'net', 'G_7']
)
def test_wrappers_and_what_stands_beside_them(net: nn.Module, tmp_path: Path, wrapper: str):
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer.step()
    beside = {
        'epoch': 7,
        'best': np.float64(31.5),
        'loss': np.float32(0.5),
        'steps': np.int64(9),
        'args': argparse.Namespace(lr=1e-3, name='x', sizes=[1, 2]),
        'optimizer': optimizer.state_dict(),
    }
    torch.save({**beside, wrapper: {'module.' + k: v for k, v in before.items()}}, tmp_path / 'x.pth')
    found = read_weights(tmp_path / 'x.pth')
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], value) for name, value in before.items())


def test_the_average_comes_first_and_entries_in_entries_are_found(net: nn.Module, tmp_path: Path):
    torch.save({'state_dict': _older(net), 'state_dict_ema': net.state_dict()}, tmp_path / 'x.pth')
    assert _same(read_weights(tmp_path / 'x.pth'), net)
    torch.save({'model': {'state_dict': net.state_dict(), 'epoch': 3}}, tmp_path / 'y.pth')
    assert _same(read_weights(tmp_path / 'y.pth'), net)
    assert _same(read_weights(tmp_path / 'y.pth', 'model'), net)
    torch.save({'one': net.state_dict(), 'other': _older(net)}, tmp_path / 'z.pth')
    with pytest.raises(UserError, match=r'several entries hold tensors \(one, other\); say which as backbone_key'):
        read_weights(tmp_path / 'z.pth')
    assert _same(read_weights(tmp_path / 'z.pth', 'one'), net)


def test_prefixes_go_where_all_names_have_them(tmp_path: Path):
    for prefix in ('_orig_mod.', 'module._orig_mod.', '_orig_mod.module.'):
        torch.save({f'{prefix}{n}': torch.zeros(1) for n in 'ab'}, tmp_path / 'x.pth')
        assert list(read_weights(tmp_path / 'x.pth')) == ['a', 'b']
    torch.save({'module.a': torch.zeros(1), 'b': torch.zeros(1)}, tmp_path / 'y.pth')
    assert list(read_weights(tmp_path / 'y.pth')) == ['module.a', 'b']  # a part of the network that is called so


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_as_the_network_has_them(net: nn.Module, tmp_path: Path, dtype: torch.dtype):
    torch.save({k: v.to(dtype) for k, v in net.state_dict().items()}, tmp_path / 'x.pth')
    loaded = SPTNet({'type': 'IMDN', **ARGUMENTS}, str(tmp_path / 'x.pth'))
    for name, value in loaded.backbone.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, net.state_dict()[name].to(dtype).float())


def test_what_holds_no_plain_values_is_named(net: nn.Module, tmp_path: Path):
    weight = net.state_dict()['fea_conv.weight']
    quantised = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
    unfit = {'sparse': weight.to_sparse(), 'meta': weight.to('meta'), 'quantised': quantised}
    for word, value in unfit.items():
        torch.save({'params': {**net.state_dict(), 'fea_conv.weight': value}}, tmp_path / 'x.pth')
        with pytest.raises(UserError, match=f"'fea_conv.weight' is .*{word}.*; save the weights as plain tensors"):
            read_weights(tmp_path / 'x.pth')


def test_a_number_in_place_of_a_tensor_is_missing(net: nn.Module, tmp_path: Path):
    torch.save({**net.state_dict(), 'fea_conv.weight': 5}, tmp_path / 'x.pth')
    with pytest.raises(UserError, match="1 missing, such as 'fea_conv.weight'"):
        load_strictly(net, read_weights(tmp_path / 'x.pth'), 'x.pth')


def test_programs_are_refused_with_the_remedy(net: nn.Module, tmp_path: Path):
    torch.jit.save(torch.jit.trace(net.eval(), torch.rand(1, 3, 16, 16)), tmp_path / 'x.pt')
    with pytest.raises(UserError, match=r'holds a program \(TorchScript\).*torch.jit.load') as caught:
        read_weights(tmp_path / 'x.pt')
    assert len(str(caught.value).splitlines()) == 1
    torch.save(torch.jit.load(tmp_path / 'x.pt').state_dict(), tmp_path / 'y.pth')
    assert _same(read_weights(tmp_path / 'y.pth'), net)


class Record:
    """An object of the author's own training script."""


def test_other_objects_are_named_and_not_read(net: nn.Module, tmp_path: Path):
    torch.save({'params': net.state_dict(), 'config': Record()}, tmp_path / 'x.pth')
    with pytest.raises(UserError, match='holds tests.archs.test_checkpoints.Record beside its tensors') as caught:
        read_weights(tmp_path / 'x.pth')
    assert len(str(caught.value).splitlines()) == 1


def test_weights_that_unpack_to_more_than_they_are(tmp_path: Path):
    torch.save({'weight': torch.zeros(1000, 1000)}, tmp_path / 'plain.pth')
    assert read_weights(tmp_path / 'plain.pth')['weight'].shape == (1000, 1000)
    with zipfile.ZipFile(tmp_path / 'plain.pth') as plain:
        with zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as bomb:
            for name in plain.namelist():
                bomb.writestr(name, plain.read(name))
    with pytest.raises(UserError, match=r'bomb\.pth: is compressed, as torch writes no weights'):
        read_weights(tmp_path / 'bomb.pth')
