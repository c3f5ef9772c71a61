"""Checkpoints and adapter files: strict, and never code."""

import os
from pathlib import Path

import pytest
import torch

from sptsr.archs.adapter import load_adapter, read_adapter, save_adapter
from sptsr.archs.spt_arch import SPTNet
from sptsr.archs.weights import read_weights
from sptsr.core.errors import UserError
from sptsr.core.registry import ARCH_REGISTRY, lookup
from tests.archs.cases import make_net, trained


def test_names_are_looked_up_without_a_word(capsys: pytest.CaptureFixture[str]):
    """Stock prints when it takes `NAME_basicsr` for NAME."""
    assert lookup(ARCH_REGISTRY, 'SRVGGNetCompact').__name__ == 'SRVGGNetCompact'
    assert capsys.readouterr().out == ''


def test_wrong_backbones_and_units_are_named():
    with pytest.raises(UserError, match="no arch is called 'IMDM'; did you mean 'IMDN'"):
        SPTNet({'type': 'IMDM'})
    with pytest.raises(UserError, match="no unit is called 'ModulatonUnit'; did you mean"):
        SPTNet({'type': 'IMDN'}, unit={'type': 'ModulatonUnit'})
    with pytest.raises(UserError, match=r'CARN cannot be built \(upscale must be 2, 3 or 4, got 5\)'):
        SPTNet({'type': 'CARN', 'upscale': 5})
    with pytest.raises(UserError, match='num_masks: 65'):
        SPTNet({'type': 'IMDN'}, num_masks=65)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    net = lookup(ARCH_REGISTRY, 'IMDN')(upscale=2)
    torch.save({'module.' + k: v for k, v in net.state_dict().items()}, tmp_path / 'x2.pth')
    assert SPTNet({'type': 'IMDN', 'upscale': 2}, str(tmp_path / 'x2.pth')).scale == 2
    with pytest.raises(UserError, match=r"2 of another shape, such as 'upsampler\.0\.bias' \[12\] for \[48\]"):
        SPTNet({'type': 'IMDN', 'upscale': 4}, str(tmp_path / 'x2.pth'))
    with pytest.raises(UserError, match='missing.*unknown'):
        SPTNet({'type': 'MSRResNet'}, str(tmp_path / 'x2.pth'))
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'x2.pth').read_bytes()[:5000])
    for name, match in (('cut.pth', 'not readable as weights'), ('none.pth', 'no such file')):
        with pytest.raises(UserError, match=match):
            read_weights(tmp_path / name)


def test_one_file_with_two_sets_of_tensors_gives_one_of_them(tmp_path: Path):
    """Stock trains on `params` and validates on `params_ema` of the same file."""
    own, average = ({'weight': torch.full((1,), value)} for value in (1.0, 2.0))
    torch.save({'params': own, 'params_ema': average}, tmp_path / 'x.pth')
    assert read_weights(tmp_path / 'x.pth')['weight'] == 2.0
    assert read_weights(tmp_path / 'x.pth', 'params')['weight'] == 1.0
    with pytest.raises(UserError, match="no entry 'parms'; it has params, params_ema"):
        read_weights(tmp_path / 'x.pth', 'parms')


def test_weights_files_run_no_code(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / 'owned',))

    torch.save({'params': Evil()}, tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='beside its tensors, and reading that may run code'):
        read_weights(tmp_path / 'evil.pth')

    class Worse:
        def __reduce__(self):
            return (os.system, (f'touch {tmp_path}/owned',))

    torch.save(
        {'params': torch.zeros(1), 'x': Worse()}, tmp_path / 'worse.pth'
    )  # a module that torch blocks as a whole
    with pytest.raises(UserError, match=r'holds \w+\.system beside its tensors'):
        read_weights(tmp_path / 'worse.pth')
    assert not (tmp_path / 'owned').exists()


def test_adapter_files(tmp_path: Path):
    net = trained(make_net('IMDN'))
    average = {name: value + 1 for name, value in net.adapter_state().items()}
    save_adapter(tmp_path / 'a.safetensors', net, {'type': 'SPTNet', 'num_masks': 5}, 7, average)
    adapter = read_adapter(tmp_path / 'a.safetensors')
    (tmp_path / 'plain').touch()
    assert (tmp_path / 'a.safetensors').stat().st_mode == (tmp_path / 'plain').stat().st_mode
    assert adapter.iteration == 7
    assert adapter.network_g == {'type': 'SPTNet', 'num_masks': 5}
    assert adapter.backbone_sha256 == net.backbone_digest()
    assert not any('backbone' in name for name in adapter.params)
    assert adapter.params_ema is not None
    load_adapter(net, tmp_path / 'a.safetensors')
    assert all(torch.equal(v, average[n]) for n, v in net.adapter_state().items())
    wide = SPTNet(net.backbone, unit={'type': 'ModulationUnit', 'width': 6}, num_masks=5)
    with pytest.raises(UserError, match="tensors do not fit .* such as 'stem"):
        load_adapter(wide, tmp_path / 'a.safetensors')
    (tmp_path / 'cut.safetensors').write_bytes((tmp_path / 'a.safetensors').read_bytes()[:-9])
    with pytest.raises(UserError, match='not a readable adapter'):
        read_adapter(tmp_path / 'cut.safetensors')
