"""What tests of `sptsr restore` on folders share."""

from pathlib import Path

import torch

import sptsr
from sptsr.archs.spt_arch import SPTNet
from tests.archs.cases import trained
from tests.conftest import run_cli

OLD = Path(__file__).parents[1] / 'old' / '0.1'
ARGUMENTS = ['-a', OLD / 'adapter_4.safetensors', '--weights', OLD / 'weights' / 'tiny.pth', '--source', 'felzenszwalb']


def restore(photos: Path, *arguments: object, out: str = 'out'):
    return run_cli('restore', '-i', photos, '-o', photos.parent / out, *ARGUMENTS, *arguments)


def small_denoiser() -> SPTNet:
    """Returns a small FFDNet with units that change what it does, in training mode."""
    torch.manual_seed(0)
    return trained(sptsr.attach({'type': 'FFDNet', 'nc': 12, 'nb': 9}, num_masks=5, width=8))
