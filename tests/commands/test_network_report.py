"""`sptsr sites` on networks of others."""

from pathlib import Path

from tests.conftest import run_cli

NO_REPEAT = """
import torch
from torch import nn
from sptsr.registry import ARCH_REGISTRY, register

@register(ARCH_REGISTRY)
class NothingRepeats(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.wide = nn.ConvTranspose2d(8, 16, 3, padding=1)
        self.last = nn.PixelShuffle(2)
    def forward(self, x):
        assert x.max() > 1, 'images in 0..255 are wanted'
        return [self.last(self.wide(self.act(self.first(x))))[:, :3], x]
"""


def test_a_network_in_which_nothing_repeats_is_said_to_be_one(tmp_path: Path):
    path = tmp_path / 'nothing_repeats.py'
    path.write_text(NO_REPEAT)
    result = run_cli('sites', f'{path}:NothingRepeats', 'input={range: 255}', 'output=0')
    assert result.returncode == 0, result.stderr
    assert 'No block repeats in this network' in result.stdout
    assert 'input: {range: 255}' in result.stdout
    assert 'output: 0' in result.stdout
    mistyped = run_cli('sites', f'{path}:NothingRepeats', 'input={range: 255}')
    assert mistyped.returncode == 2
    assert 'say which is the image, for example output: 0' in mistyped.stderr


def test_a_network_with_blocks_is_proposed_its_blocks():
    result = run_cli('sites', 'EDSR', 'num_in_ch=3', 'num_out_ch=3', 'num_feat=16', 'num_block=4')
    assert 'repeated blocks at one resolution' in result.stdout
    assert 'No block repeats' not in result.stdout
