"""What networks cost: against published figures, and against counting by hand."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from sptsr.archs.spt_arch import SPTNet
from sptsr.commands.cost_report import must_fit_memory
from sptsr.core.errors import UserError
from sptsr.evaluation.cost import (
    Spread,
    count_macs,
    count_parameters,
    input_for,
    made_to_measure,
    made_up_masks,
    measure_latency,
    measure_memory,
    peak_bytes,
)
from sptsr.options.keys import TRAIN_DEFAULTS
from sptsr.options.tune import WAYS, WITH_UNITS
from sptsr.tuning.step_memory import step_memory
from tests.archs.cases import CASES, make_net
from tests.conftest import run_cli

EDSR = {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 16}
# Thousands of parameters, and G multiply-adds for an output of 1280 x 720.
PUBLISHED = {
    # Hui et al., arXiv 1909.11856, table 3
    'IMDN x2': ({'type': 'IMDN', 'upscale': 2}, 694, 158.8),
    'IMDN x4': ({'type': 'IMDN', 'upscale': 4}, 715, 40.9),
    # Ahn et al., arXiv 1803.08664, table 1
    'CARN x4': ({'type': 'CARN', 'upscale': 4}, 1592, 90.9),
    'CARN-M x2': ({'type': 'CARN_M', 'upscale': 2}, 412, 91.2),
    'CARN-M x4': ({'type': 'CARN_M', 'upscale': 4}, 412, 32.5),
    # of EDSR-baseline, Lim et al., arXiv 1707.02921; counted in many papers since, such as that of IMDN
    'EDSR-baseline x2': ({'type': 'EDSR', **EDSR, 'upscale': 2}, 1370, 316.3),
    'EDSR-baseline x4': ({'type': 'EDSR', **EDSR, 'upscale': 4}, 1518, 114.0),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_figures(name: str):
    section, thousands, giga = PUBLISHED[name]
    net = SPTNet(section, tune='all')
    height, width = input_for(net)
    assert (height * net.scale, width * net.scale) == (720, 1280)
    macs = count_macs(net, (height, width))
    assert not macs.scaled
    assert macs.backbone == macs.tuned
    assert macs.backbone / 1e9 == pytest.approx(giga, rel=0.005)
    assert count_parameters(net).backbone / 1e3 == pytest.approx(thousands, rel=0.01)


@pytest.mark.parametrize('stem', ['geometry', 'masks'])
def test_multiply_adds_by_hand(stem):
    net = make_net('IMDN', stem=stem).eval()
    size = (24, 40)
    area, found = 24 * 40, []

    def note(module: nn.Module, given: tuple, output: torch.Tensor) -> None:
        found.append(module.weight[0].numel() * output[0].numel())

    hooks = [m.register_forward_hook(note) for m in net.backbone.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        net.backbone(torch.rand(1, 3, *size))
    for hook in hooks:
        hook.remove()
    macs = count_macs(net, size)
    assert macs.backbone == sum(found)
    assert not macs.scaled
    # The stem: what it reads and S by 3x3. Of masks, the image's 3 channels, and the table of 256 codes by 5 masks by 9
    # taps; of geometry, 8 maps more, and the sums (1, image, its square) over 64 masks. The unit:
    # q with the first layer of g (their weights multiplied), the rest of g, o.
    read, tables, lookups = {'masks': (3, 256 * 5 * 9 * 8, 9), 'geometry': (11, 256 * 64 * 7, 1)}[stem]
    unit = area * (16 * 8 + 8 * 8 + 9 * 8 + 8 * 32) + 8 * 8 * 16
    assert macs.tuned - macs.backbone == area * 9 * (read + 8) * 8 + tables + len(net.units) * unit
    assert macs.uncounted['embedding'] == lookups  # the lookup of the masks is no product, so it is named
    assert not {'view', 'cat', 'convolution', 'mm'} & set(macs.uncounted)


class Pooled(nn.Module):
    """x1, attention over the whole image; asks for a value, so that shapes alone are not enough."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.tail = nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x)
        tokens = y.flatten(2)
        if float(y.mean()) < 1e9:
            y = y + (tokens @ (tokens.transpose(1, 2) @ tokens)).view_as(y) * 1e-3
        return self.tail(y)


def test_a_network_that_needs_values_is_scaled():
    net = SPTNet(Pooled(), tune='all')
    macs = count_macs(net, (300, 500))
    pixels = 300 * 500
    assert macs.scaled
    assert macs.backbone == pixels * (9 * 3 * 4 + 4 * 3) + pixels**2 * 4 + 4 * pixels**2


def test_a_unit_that_needs_values_is_scaled_and_counted_alike():
    plain, region = (count_macs(make_net('IMDN', unit), (120, 200)) for unit in ('PlainUnit', 'RegionUnit'))
    assert (plain.scaled, region.scaled) == (False, True)
    assert region.backbone == plain.backbone
    assert region.tuned > plain.tuned  # means of regions


@pytest.mark.parametrize('tune', WAYS)
def test_parameters_and_the_merged_network(tune: str):
    net = SPTNet({'type': 'IMDN', **CASES['IMDN'][1]}, tune=tune)
    whole = sum(p.numel() for p in SPTNet({'type': 'IMDN', **CASES['IMDN'][1]}).backbone.parameters())
    found = count_parameters(net)
    assert found.backbone == whole
    assert found.trainable == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert found.added == sum(p.numel() for p in net.parameters() if p.requires_grad) - (
        sum(p.numel() for p in net.learned.parameters().values()) if net.learned else 0
    )
    assert (found.added > 0) == (tune in WITH_UNITS)
    macs = count_macs(net, (24, 24))
    assert (macs.tuned == macs.backbone) == (tune not in WITH_UNITS)  # LoRA is part of the weights
    if tune == 'adapter+lora':
        assert macs == count_macs(SPTNet({'type': 'IMDN', **CASES['IMDN'][1]}), (24, 24))
    assert net.learned is None or not net.learned.merged  # the network itself is left as it is


def test_masks_are_different_and_half_full():
    masks = made_up_masks(2, (40, 64), torch.device('cpu'))
    assert len(masks.palette[:256].unique()) == 256
    share = masks.expand().mean(dim=(0, 2, 3))
    assert share.min() > 0.4
    assert share.max() < 0.6
    assert masks.index[1].min() == 256


def test_times_and_memory():
    net = make_net('FFDNet')
    latency = measure_latency(net, (24, 32), rounds=3)
    assert latency.rounds == 3
    assert 0 < latency.backbone.low <= latency.backbone.median <= latency.backbone.high
    assert latency.device.endswith('1 thread')
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)
    backbone, tuned = measure_memory(net, (64, 64))
    assert tuned > backbone > 3 * 64 * 64 * 4
    assert peak_bytes(lambda: torch.zeros(1000, 1000), 'cpu') == pytest.approx(4e6, rel=0.01)


def test_memory_of_a_step():
    train = {
        **TRAIN_DEFAULTS,
        'optim_g': {'type': 'Adam', 'lr': 1e-3},
        'scheduler': {'type': 'MultiStepLR', 'milestones': [9]},
        'pixel_opt': {'type': 'L1Loss'},
    }
    nets = {tune: SPTNet({'type': 'IMDN', **CASES['IMDN'][1]}, tune=tune) for tune in WAYS}
    before = {name: value.clone() for name, value in nets['all'].state_dict().items()}
    found = {tune: step_memory(net, train, 2, (24, 24)) for tune, net in nets.items()}
    assert all(torch.equal(value, before[name]) for name, value in nets['all'].state_dict().items())
    assert found['bias'] < found['all']  # inputs of convolutions are not kept
    assert step_memory(nets['all'], train, 4, (24, 24)) > 1.5 * found['all']
    several = step_memory(nets['all'], {**train, 'accumulate': 3}, 2, (24, 24))  # parts of as many images
    assert found['all'] < several < step_memory(nets['all'], train, 6, (24, 24))


def test_memory_of_a_network_whose_windows_do_not_divide_the_probe(monkeypatch: pytest.MonkeyPatch):
    small = {'img_size': 14, 'embed_dim': 8, 'depths': [1], 'num_heads': [1], 'mlp_ratio': 1}
    net, size = made_to_measure({'type': 'SwinIR', 'window_size': 7, **small}, (264, 264))
    assert size == (266, 266)
    must_fit_memory(net, size)
    monkeypatch.setattr('sptsr.core.free_memory.free_bytes', lambda device: 10**6)
    with pytest.raises(UserError, match='--size 266 266 needs about'):
        must_fit_memory(net, size)


def test_the_command(here: Path, monkeypatch: pytest.MonkeyPatch):
    done = run_cli('cost', '-opt', 'train.yml', '--size', '24', '32', '--rounds', '3')
    assert done.returncode == 0, done.stderr
    alone = Path('alone')  # neither images nor weights are there
    alone.mkdir()
    text = re.sub(r'(dataroot_\w+|backbone_weights): .*', r'\1: not/here', Path('train.yml').read_text())
    assert text.count('not/here') > 3
    (alone / 'train.yml').write_text(text)
    for word in (
        'multiply-adds, output 1280x720',
        'peak memory of a step, 3 x 16x16',
        'embedding 1x',
        '2 FLOPs|two FLOPs',
    ):
        assert re.search(word, done.stdout), done.stdout
    table = done.stdout
    done = run_cli('cost', '-opt', 'train.yml', '--size', '24', '32', '--rounds', '3', '--json')
    record = json.loads(done.stdout)
    trainable = f'{record["parameters"]["trainable"]:,}'
    assert re.search(rf'\n  trainable +{trainable}\s', table)
    assert record['macs'][0]['size'] == [180, 320]
    assert record['latency']['rounds'] == 3
    assert record['step']['batch'] == 3
    done = run_cli('cost', '-opt', 'train.yml', '--size', '24', '32', '--rounds', '1', cwd=alone)
    assert 'peak memory of a step, 3 x 16x16' in done.stdout, done.stderr
    Path('bare.yml').write_text('network_g: {type: IMDN, upscale: 4}\ndatasets: [1]\n')
    done = run_cli('cost', '-opt', 'bare.yml', '--size', '16', '16', '--rounds', '1')
    assert '715,176' in done.stdout
    assert 'tuned' not in done.stdout
    done = run_cli('cost', '-opt', 'train.yml', '--size', '0', '16')
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)
    wrong = Path('train.yml').read_text().replace('gt_size: 64', 'gt_size: abc').replace('optim_g:', 'optim:')
    Path('wrong.yml').write_text(wrong)
    monkeypatch.setattr('sptsr.core.free_memory.free_bytes', lambda device: 10**6)
    done = run_cli('cost', '-opt', 'train.yml', '--size', '264', '264')
    said = r'sptsr: --size 264 264 needs about [\d.,]+ MB of memory, and 1 MB are free; choose a smaller one\n'
    assert re.fullmatch(said, done.stderr)
    assert done.returncode == 2
    done = run_cli('cost', '-opt', 'wrong.yml')
    assert done.returncode == 2
    assert re.search(r'wrong.yml:\d+: .*gt_size', done.stderr)
    assert "'optim_g'" in done.stderr
    Path('study.yml').write_text('base: {train: train.yml, test: bare.yml}\n')
    done = run_cli('cost', '-opt', 'study.yml')
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)
    assert done.stderr.endswith('base must be the name of one YAML file; a study file is for sptsr table\n')
    with pytest.raises(UserError):
        SPTNet({'type': 'IMDN', 'upscale': 4}, tune='al')


@pytest.mark.parametrize('values', [[5.0], [1.0, 10.0], [3.0, 1.0, 2.0]])
def test_quartiles_lie_among_what_was_measured(values: list[float]):
    spread = Spread.of(values)
    assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)
