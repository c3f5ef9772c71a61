"""The gradient of an adapter in bf16 against the one in fp32: the whole network in bf16, and with its ends in fp32.

    python benchmarks/half_precision.py -opt options/train/SPT_IMDN_x4_BSDS400.yml [--force_yml KEY=VALUE ...] \
        [--adapter ADAPTER.safetensors] [--batches 24]

Gradients are means over the first batches of the option file's data, the same ones each time. Prints the mean loss, the
cosine of the two gradients, and the norm of their difference over the norm of the one in fp32; then one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

import torch

from sptsr.archs.adapter import load_adapter
from sptsr.archs.precision import keep_ends_exact
from sptsr.archs.spt_arch import SPTNet
from sptsr.core.registry import register_all
from sptsr.data.loader import TrainStream, train_loader
from sptsr.options.load import load_options
from sptsr.report.tables import text_table
from sptsr.tuning.model import SPTModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-opt', required=True)
    parser.add_argument('--force_yml', nargs='+', default=[])
    parser.add_argument('--adapter', help='adapter file; without one, an untrained adapter')
    parser.add_argument('--batches', type=int, default=24)
    options = parser.parse_args()
    register_all()
    opt = load_options(options.opt, True, '.', options.force_yml).opt
    opt.update(dist=False, rank=0, world_size=1)
    model = SPTModel(opt)
    if options.adapter:
        load_adapter(model.net, options.adapter)
    batches = first_batches(opt, options.batches)
    found = {'fp32': gradient(model, batches, half=False), 'bf16': gradient(model, batches, half=True)}
    keep_ends_exact(model.net)
    found['bf16, ends in fp32'] = gradient(model, batches, half=True)
    exact = found['fp32'][1]
    records = {
        name: {
            'loss': loss,
            'cosine': float(torch.cosine_similarity(mean, exact, dim=0)),
            'difference': float((mean - exact).norm() / exact.norm()),
        }
        for name, (loss, mean) in found.items()
    }
    rows = [[k, f'{r["loss"]:.6f}', f'{r["cosine"]:.4f}', f'{r["difference"]:.4f}'] for k, r in records.items()]
    print(text_table(['precision', 'loss', 'cosine', 'difference'], rows))
    print(json.dumps({**vars(options), **records}))


def first_batches(opt: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Returns the first batches that training with these options would see."""
    from basicsr.data import build_dataset

    data = opt['datasets']['train']
    dataset = build_dataset(data)
    stream = TrainStream(len(dataset), int(data['batch_size_per_gpu']), opt['manual_seed'], 0, count)
    return list(itertools.islice(train_loader(dataset, data, stream), count))


def gradient(model: SPTModel, batches: list[dict[str, Any]], half: bool) -> tuple[float, torch.Tensor]:
    """Returns the mean loss (L1) and the mean gradient of the adapter, as one vector."""
    net: SPTNet = model.net
    net.zero_grad()
    total = 0.0
    for batch in batches:
        model.feed_data(batch)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
            output = net(model.lq, model.masks)
        loss = (output.float() - model.gt).abs().mean() / len(batches)
        loss.backward()
        total += loss.item()
    grads = [p.grad.flatten() for p in net.adapter_parameters().values() if p.grad is not None]
    return total, torch.cat(grads).double()


if __name__ == '__main__':
    main()
