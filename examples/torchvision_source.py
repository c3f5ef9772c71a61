"""Any semantic segmentation network of torchvision as a source: connected parts of its classes are the masks.

    sptsr prior extract -i LQ -o STORE --source examples/torchvision_source.py:torchvision \
        --set model=lraspp_mobilenet_v3_large weights=weights/lraspp.pth
"""

import hashlib
from pathlib import Path

import torch
import torchvision
from skimage.measure import label
from torchvision.transforms.functional import normalize

from sptsr.core.errors import UserError
from sptsr.core.registry import SOURCE_REGISTRY, register
from sptsr.images.decode import RGB
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions
from sptsr.priors.sources.source import Source


@register(SOURCE_REGISTRY, 'torchvision')
class TorchvisionSource(Source):
    """Connected parts of the classes that a network of torchvision finds.

    Args:
        model: its name in `torchvision.models.segmentation`.
        weights: its state dict, a file.
    """

    name = 'torchvision'

    def __init__(self, model: str, weights: str) -> None:
        state = torch.load(weights, map_location='cpu', weights_only=True)
        classes = next(tensor for key, tensor in reversed(state.items()) if 'aux' not in key).shape[0]
        self.net = torchvision.models.get_model(model, weights=None, weights_backbone=None, num_classes=classes)
        found = self.net.load_state_dict(state, strict=False)  # weights of training have an auxiliary head
        if found.missing_keys:
            lacking = found.missing_keys[0]
            raise UserError(f"torchvision: {weights}: no weights of {model} (no '{lacking}'); take its state dict")
        self.net.eval()
        self.weights_sha256 = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        self.params = {'model': model, 'weights': Path(weights).name}

    @torch.no_grad()
    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        classes = self.net(normalize(batch, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))['out'].argmax(1)[0]
        parts = label(classes.numpy(), background=-1)
        return Prior.from_regions(Regions.from_label_maps([parts]).select(max_masks, 20))
