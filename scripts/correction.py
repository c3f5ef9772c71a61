"""How much of an adapter's correction helps: PSNR of frozen + a (tuned - frozen) for several a.

    python scripts/correction.py -a ADAPTER.safetensors --lq datasets/Set5/LRx4 --gt datasets/Set5/GTx4 [--every N]

For adapters that use no masks. PSNR is that of Y without a border as wide as the scale, of outputs that are clipped and
not rounded. If the correction had nothing to do with what the frozen network gets wrong, it would add its own power to
the error; `unrelated` is the PSNR that this would give at a = 1.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import numpy.typing as npt
import torch

import sptsr
from sptsr.images.folder import ImageFolder
from sptsr.report.tables import text_table

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-a', '--adapter', nargs='+', required=True, metavar='FILE')
    parser.add_argument('--weights', metavar='FILE', help="of the backbone, where they are not at the adapter's path")
    parser.add_argument('--lq', required=True, metavar='DIR')
    parser.add_argument('--gt', required=True, metavar='DIR')
    parser.add_argument('--every', type=int, default=1, metavar='N', help='take every Nth image')
    options = parser.parse_args()
    lq, gt = ImageFolder(options.lq), ImageFolder(options.gt)
    rows = []
    for path in options.adapter:
        net = sptsr.load(path, weights=options.weights)
        found = np.mean([_figures(net, lq.read(key), gt.read(key)) for key in lq.keys[:: options.every]], axis=0)
        rows.append([path, *(f'{value:.4f}' for value in found[:-1]), f'{found[-1]:.3f}'])
    print(text_table(['adapter', *(f'a = {share:g}' for share in _SHARES), 'unrelated', 'rms of 255'], rows))


@torch.inference_mode()
def _figures(net: torch.nn.Module, lq: npt.NDArray[np.uint8], gt: npt.NDArray[np.uint8]) -> list[float]:
    image = torch.from_numpy(lq).permute(2, 0, 1)[None].float() / 255
    tuned = net(image)[0].permute(1, 2, 0).double().numpy()
    with net.units_off():  # type: ignore[operator]
        frozen = net(image)[0].permute(1, 2, 0).double().numpy()
    height, width, scale = *tuned.shape[:2], net.scale
    inside = slice(scale, height - scale), slice(scale, width - scale)
    wanted = _luma(gt[:height, :width] / 255)[inside]
    errors = [
        float(np.square(_luma((frozen + share * (tuned - frozen)).clip(0, 1))[inside] - wanted).mean())
        for share in _SHARES
    ]
    moved = float(np.square((_luma(tuned) - _luma(frozen))[inside]).mean())
    return [*map(_psnr, errors), _psnr(errors[0] + moved), math.sqrt(moved)]


def _luma(image: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Returns Y of 16..235, as figures of super-resolution are computed on."""
    return image @ np.array([65.481, 128.553, 24.966]) + 16


def _psnr(error: float) -> float:
    return 10 * math.log10(255**2 / error)


if __name__ == '__main__':
    main()
