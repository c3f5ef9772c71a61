"""Pretrains the network of `sptsr demo` and writes `sptsr/assets/demo_imdn_x4.safetensors`.

    python scripts/pretrain_demo_net.py            # photographs that scikit-image ships; about 20 minutes on two cores

A small IMDN (32 features, 4 blocks, x4), L1 loss, Adam, cosine schedule; the moving average of its weights is
stored as 16-bit floats. The demo's test photographs are not used.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from sptsr.commands.demo import NETWORK
from sptsr.commands.demo_data import SCALE, make_sets
from sptsr.core.files import write_atomic
from sptsr.core.progress import bar
from sptsr.core.registry import ARCH_REGISTRY, DATASET_REGISTRY, lookup, register_all
from sptsr.data.loader import TrainStream, train_loader

TARGET = Path(__file__).parents[1] / 'sptsr' / 'assets' / 'demo_imdn_x4.safetensors'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--iterations', type=int, default=5000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('-o', '--out', type=Path, default=TARGET)
    options = parser.parse_args()
    register_all()
    torch.manual_seed(options.seed)
    arguments = dict(NETWORK)
    net = lookup(ARCH_REGISTRY, arguments.pop('type'))(**arguments).to(memory_format=torch.channels_last)
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        make_sets(Path(folder))
        opt = {
            'type': 'PriorPairedImageDataset',
            'name': 'demo',
            'phase': 'train',
            'scale': SCALE,
            'dataroot_gt': f'{folder}/train/GTx{SCALE}',
            'dataroot_lq': f'{folder}/train/LRx{SCALE}',
            'gt_size': 48 * SCALE,
            'use_hflip': True,
            'use_rot': True,
            'num_worker_per_gpu': 1,
        }
        dataset = lookup(DATASET_REGISTRY, opt['type'])(opt)
        stream = TrainStream(len(dataset), 16, options.seed, 0, options.iterations)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.iterations, 1e-6)
        with bar(options.iterations, 'pretrain', 'step') as progress:
            for batch in train_loader(dataset, opt, stream):
                loss = F.l1_loss(net(batch['lq'].contiguous(memory_format=torch.channels_last)), batch['gt'])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    for name, value in net.state_dict().items():
                        average[name].lerp_(value, 0.001)
                progress.update()
                progress.set_postfix(l1=f'{loss.item():.4f}', refresh=False)
    tensors = {name: value.half().contiguous() for name, value in average.items()}
    write_atomic(options.out, lambda temporary: save_file(tensors, temporary))
    print(f'{options.out}: {options.out.stat().st_size} bytes')


if __name__ == '__main__':
    main()
