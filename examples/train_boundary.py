"""Trains the networks of `boundary_source.py` on human segmentations, in folds.

    python examples/train_boundary.py --images DIR --labels DIR -o weights/boundary [--folds 4] [--steps 2000]

Images are what the source will see: the LQ images of a training set, or what a frozen network makes of them. Their keys
name the segmentations (`.mat` of BSDS500), as for `--source labels`. The loss is binary cross-entropy against the share
of annotators who drew a boundary within a pixel; boundaries weigh more, since they are few (as in HED, Xie and Tu,
ICCV 2015). Each fold is written when it is done, and a second run goes on with the next one. `--start` begins with
the networks of an earlier training with the same folds, for images that were degraded otherwise.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from boundary_source import BoundaryNet  # the file beside this one
from safetensors.torch import load_file, save_file
from scipy.io import loadmat
from skimage.segmentation import find_boundaries

from sptsr.images.draws import image_of
from sptsr.images.folder import ImageFolder

CROP, BATCH, RATE, WEIGHT = 224, 4, 1e-3, 4.0


def boundaries(path: Path, size: tuple[int, int]) -> torch.Tensor:
    """Returns the share of annotators with a boundary at each pixel of an image of this size: uint8 [H, W], 0..255."""
    maps = [entry['Segmentation'][0, 0] for entry in loadmat(str(path))['groundTruth'][0]]
    drawn = torch.from_numpy(np.mean([find_boundaries(labels, mode='thick') for labels in maps], axis=0))
    factor = drawn.shape[0] // size[0]
    if factor > 1:  # an LQ pixel has the strongest boundary inside it
        drawn = F.max_pool2d(drawn[None], factor)[0]
    return (drawn[: size[0], : size[1]] * 255).round().to(torch.uint8)


def train(pairs: list[tuple[torch.Tensor, torch.Tensor]], steps: int, seed: int, start: Path | None) -> BoundaryNet:
    """Returns a network trained on crops of (image uint8 [3, H, W], boundaries uint8 [H, W])."""
    torch.manual_seed(seed)
    net = BoundaryNet()
    if start is not None:
        net.load_state_dict(load_file(start))
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    crop = min([CROP, *(side for image, _ in pairs for side in image.shape[1:])])
    start, mean = time.time(), 0.0
    for step in range(1, steps + 1):
        crops = []
        for number in torch.randint(len(pairs), (BATCH,)).tolist():
            both = torch.cat([pairs[number][0], pairs[number][1][None]])
            y, x = (int(torch.randint(side - crop + 1, ())) for side in both.shape[1:])
            both = both[:, y : y + crop, x : x + crop]
            crops.append(both.flip(-1) if torch.rand(()) < 0.5 else both)
        batch = torch.stack(crops).float() / 255
        wanted = batch[:, 3:]
        loss = F.binary_cross_entropy_with_logits(net(batch[:, :3]), wanted, 1 + WEIGHT * wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean += loss.item() / 100
        if step % 100 == 0:
            left = (time.time() - start) / step * (steps - step)
            print(f'  {step}/{steps} loss {mean:.4f}, {left / 60:.0f} min left', flush=True)
            mean = 0.0
    return net


def main() -> None:
    """Trains what is missing of the folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', required=True)
    parser.add_argument('--labels', required=True)
    parser.add_argument('-o', '--out', required=True)
    parser.add_argument('--folds', type=int, default=4)
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--start', type=Path, help='folder of an earlier training, whose networks are begun with')
    options = parser.parse_args()
    images, out = ImageFolder(options.images), Path(options.out)
    names = sorted({image_of(key) for key in images.keys})  # several draws of an image are in one fold
    order = np.random.default_rng(0).permutation(len(names))
    folds = {names[number]: place % options.folds for place, number in enumerate(order.tolist())}
    begun = options.start and options.start / 'folds.json'
    if begun and not begun.is_file():
        parser.error(f'--start {options.start}: no networks here; name a folder that this script wrote')
    if begun and json.loads(begun.read_text()) != folds:
        parser.error(f'--start {options.start}: its folds are others; a network there has seen what it must not')
    record = out / 'folds.json'
    if record.is_file() and json.loads(record.read_text()) != folds:
        parser.error(f'-o {out}: holds networks of other folds; choose another folder')
    pairs = {}
    for key in images.keys:
        image = torch.from_numpy(images.read(key)).permute(2, 0, 1).contiguous()
        pairs[key] = (image, boundaries(Path(options.labels) / f'{image_of(key)}.mat', image.shape[1:]))
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(folds, indent=1))
    for fold in range(options.folds):
        path = out / f'fold{fold}.safetensors'
        if path.exists():
            continue
        others = [pair for key, pair in pairs.items() if folds[image_of(key)] != fold]
        print(f'fold {fold}: {len(others)} images', flush=True)
        net = train(others, options.steps, fold, options.start and options.start / path.name)
        save_file(net.state_dict(), f'{path}.tmp')
        Path(f'{path}.tmp').rename(path)


if __name__ == '__main__':
    main()
