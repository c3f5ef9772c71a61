"""Any semantic segmentation network of transformers as a source: connected parts of its classes are the masks.

sptsr prior extract -i LQ -o STORE --source examples/transformers_source.py:segmentation --set model=FOLDER
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from skimage.measure import label
from torchvision.transforms.functional import normalize
from transformers import AutoModelForSemanticSegmentation

from sptsr.core.files import sha256_tensors
from sptsr.core.registry import SOURCE_REGISTRY, register
from sptsr.images.decode import RGB
from sptsr.masks.prior import Prior
from sptsr.masks.regions import Regions
from sptsr.priors.sources.source import Source


@register(SOURCE_REGISTRY, 'segmentation')
class SegmentationSource(Source):
    """Connected parts of the classes that a network such as SegFormer finds.

    Args:
        model: folder of the model (`config.json`, `model.safetensors`), or its name on the hub.
    """

    name = 'segmentation'

    def __init__(self, model: str) -> None:
        self.net = AutoModelForSemanticSegmentation.from_pretrained(model, use_safetensors=True).eval()
        self.weights_sha256 = sha256_tensors(self.net.state_dict())
        self.params = {'model': Path(model).name}

    @torch.no_grad()
    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        logits = self.net(pixel_values=normalize(batch, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])).logits
        logits = F.interpolate(logits, image.shape[:2], mode='bilinear', align_corners=False)  # they are smaller
        parts = label(logits.argmax(1)[0].numpy(), background=-1)
        return Prior.from_regions(Regions.from_label_maps([parts]).select(max_masks, 20))
