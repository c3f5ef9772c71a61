"""Trains MyNet for a minute on the photographs of `sptsr demo`, so that it has weights to freeze.

This stands for the training of your own network; its only result is a state dict.

    python examples/pretrain_my_net.py results/demo/data/train weights/my_net.pth
"""

import sys
from pathlib import Path

import torch
from my_net import MyNet  # the file beside this one

from sptsr.data.checked import to_tensor
from sptsr.images.folder import ImageFolder

SCALE, CROP, STEPS = 4, 24, 300

data, target = Path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)
lq, gt = (ImageFolder(data / f'{kind}x{SCALE}') for kind in ('LR', 'GT'))
pairs = [(to_tensor(lq.read(key)), to_tensor(gt.read(key))) for key in lq.keys]
net = MyNet()
optimizer = torch.optim.Adam(net.parameters(), 1e-3)
for step in range(STEPS):
    crops = []
    for number in torch.randint(len(pairs), (8,)).tolist():
        small, large = pairs[number]
        y, x = (int(torch.randint(side - CROP + 1, ())) for side in small.shape[1:])
        window = large[:, y * SCALE : (y + CROP) * SCALE, x * SCALE : (x + CROP) * SCALE]
        crops.append((small[:, y : y + CROP, x : x + CROP], window))
    images, wanted = (torch.stack(part) for part in zip(*crops, strict=True))
    loss = (net(images) - wanted).abs().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if (step + 1) % 50 == 0:
        print(f'{step + 1}/{STEPS} loss {loss.item():.4f}')
target.parent.mkdir(parents=True, exist_ok=True)
torch.save({'params': net.state_dict()}, target)
