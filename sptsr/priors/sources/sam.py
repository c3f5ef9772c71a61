"""Masks from Segment Anything: the official package, and the families of transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from sptsr.core.checkpoints import read_weights
from sptsr.core.devices import usable_device
from sptsr.core.errors import UserError, reason_of, refusing
from sptsr.core.files import read_json, sha256_file, sha256_tensors
from sptsr.core.free_memory import must_fit
from sptsr.core.registry import SOURCE_REGISTRY, register
from sptsr.images.decode import RGB
from sptsr.masks.prior import MAX_FINE, Prior
from sptsr.priors.sources.generator import Segmenter, make_prior
from sptsr.priors.sources.grid import GridSettings
from sptsr.priors.sources.in_parts import embed_in_parts
from sptsr.priors.sources.source import Source, must_lie_in

# Width of the image encoder, which tells the checkpoints apart.
_FAMILIES = {768: 'vit_b', 1024: 'vit_l', 1280: 'vit_h'}
_SIDE = 1024  # pixels, of the encoder's input
# Logits of 256x256 of one of a point's three masks. Until the end of an image they are kept for masks that pass the
# thresholds, which is about one in ten.
_POINT_BYTES = 4 * 256 * 256
_INSTALL = "pip install 'sptsr[transformers]'"


@dataclass(kw_only=True, eq=False, repr=False)
class _SegmenterSource(Source):
    """The masks of a model, made by the loop of `sptsr.priors.sources.generator` and ordered by area.

    Its fields are the parameters that all models share. A subclass adds those that name the model, and loads it.
    Defaults of the grid and of the thresholds are those of `SamAutomaticMaskGenerator`.

    Args:
        device: `auto` takes a GPU when there is one.
        precision: of encoder and decoder; fp32 gives the official masks.
        compile: compile the encoder with torch.compile; it takes a minute, which pays on a GPU with many images.
        images_per_batch: images that go through the encoder together; 0 for 8 on a GPU, else 1.
        max_side: an image whose longer side is larger is reduced to it, in pixels, and its masks are enlarged; bounds
            the memory.
        points_per_side: number of point prompts along each side of the grid.
        points_per_batch: prompts that go through the decoder together; decides the memory, not the masks.
        pred_iou_thresh: masks under this predicted IoU are dropped, 0..1.
        stability_score_thresh: masks under this stability score are dropped, 0..1.
        box_nms_thresh: box IoU above which the worse mask is dropped, 0..1.
        crop_n_layers: layers of overlapping crops that get masks too: layer 1 has 2x2, layer 2 has 4x4, ...
        crop_n_points_downscale_factor: each layer's grid has this many times fewer points along a side.
        min_mask_region_area: holes and islands smaller than this are removed, in pixels of the image.
        fine: the masks lie on a grid so many times as fine as the image's, to which their logits are enlarged.
    """

    device: str = 'auto'
    precision: Literal['fp32', 'bf16', 'fp16'] = 'fp32'
    compile: bool = False
    images_per_batch: int = 0
    max_side: int = 4096
    points_per_side: int = GridSettings.points_per_side
    points_per_batch: int = GridSettings.points_per_batch
    pred_iou_thresh: float = GridSettings.pred_iou_thresh
    stability_score_thresh: float = GridSettings.stability_score_thresh
    box_nms_thresh: float = GridSettings.box_nms_thresh
    crop_n_layers: int = GridSettings.crop_n_layers
    crop_n_points_downscale_factor: int = GridSettings.crop_n_points_downscale_factor
    min_mask_region_area: int = GridSettings.min_mask_region_area
    fine: int = 1
    settings: GridSettings = field(init=False)
    segmenter: Segmenter = field(init=False)

    def __post_init__(self) -> None:
        bounds = {'max_side': (self.max_side, 1, 1 << 16), 'images_per_batch': (self.images_per_batch, 0, 1 << 12)}
        must_lie_in(self.name, {**bounds, 'fine': (self.fine, 1, MAX_FINE)})
        self.settings = _settings(vars(self))
        self.device = usable_device(self.device, self.name)
        side = self.settings.points_per_side
        must_fit(f'{self.name}: points_per_side {side}', side**2 * _POINT_BYTES, 'lower it', self.device)

    def _take(self, model: Any, family: str, segmenter: Callable[..., Segmenter]) -> None:
        """Puts a loaded model on its device, and notes what decides the masks."""
        # points_per_batch decides memory, not masks
        decisive = {key: value for key, value in asdict(self.settings).items() if key != 'points_per_batch'}
        self.params = {'model_type': family, 'precision': self.precision, 'max_side': self.max_side, **decisive}
        if self.fine > 1:  # stores of before do not say it, and can be added to
            self.params['fine'] = self.fine
        self.group = self.images_per_batch or (8 if self.device.startswith('cuda') else 1)
        self.segmenter = segmenter(model, self.device, self.precision, self.compile)

    def __call__(self, image: RGB, key: str, max_masks: int) -> Prior:
        return next(self.several([image], [key], max_masks))

    def several(self, images: Sequence[RGB], keys: Sequence[str], max_masks: int) -> Iterator[Prior]:
        bounded = [_bounded(image, self.max_side) for image in images]
        with torch.inference_mode():
            embedded = embed_in_parts(self.segmenter, bounded, self.name)
        for image, small, one in zip(images, bounded, embedded, strict=True):
            prior = make_prior(self.segmenter, small, self.settings, max_masks, one, self.fine)
            yield prior if small is image else prior.resized(*image.shape[:2])


def _bounded(image: RGB, max_side: int) -> RGB:
    """Returns the image, or a smaller one whose longer side is `max_side`."""
    height, width = image.shape[:2]
    if max(height, width) <= max_side:
        return image
    factor = max_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


@register(SOURCE_REGISTRY, 'sam')
@dataclass(eq=False, repr=False)
class SamSource(_SegmenterSource):
    """The masks of `SamAutomaticMaskGenerator`, ordered by area.

    Kirillov et al., "Segment Anything", ICCV 2023.

    Args:
        checkpoint: official checkpoint (`sam_vit_b_01ec64.pth`, ...), read with `weights_only=True`.
        model_type: family of the checkpoint; `auto` reads it from its tensors.
    """

    name = 'sam'
    checkpoint: str
    model_type: Literal['auto', 'vit_h', 'vit_l', 'vit_b'] = 'auto'

    def __post_init__(self) -> None:
        from sptsr.priors.sources.segmenters import OfficialSam

        super().__post_init__()
        self.weights_sha256 = sha256_file(self.checkpoint)
        model, family = load_sam(self.checkpoint, self.model_type)
        self._take(model, family, OfficialSam)

    def versions(self) -> dict[str, str]:
        return {'segment-anything': version('segment-anything'), 'torch': torch.__version__}


@register(SOURCE_REGISTRY, 'transformers')
@dataclass(eq=False, repr=False)
class TransformersSource(_SegmenterSource):
    """The masks of SAM, SAM-HQ, SAM2 or SAM2.1 as Hugging Face's transformers hold them, ordered by area.

    Args:
        model: folder of the model (`config.json`, `model.safetensors`), or the name of one on the
            hub, which is downloaded where the network allows.
    """

    name = 'transformers'
    model: str

    def __post_init__(self) -> None:
        from sptsr.priors.sources.segmenters import HuggingFaceSam, HuggingFaceSam2

        super().__post_init__()
        loaded, family = load_transformers(self.model)
        self.weights_sha256 = sha256_tensors(loaded.state_dict())
        self._take(loaded, family, HuggingFaceSam2 if family == 'sam2' else HuggingFaceSam)

    def versions(self) -> dict[str, str]:
        return {'transformers': version('transformers'), 'torch': torch.__version__}


def _settings(arguments: dict[str, Any]) -> GridSettings:
    names = GridSettings.__dataclass_fields__
    settings = GridSettings(**{name: value for name, value in arguments.items() if name in names})
    limits = {
        'points_per_side': (1, 512),
        'points_per_batch': (1, 1 << 18),
        'pred_iou_thresh': (-1e9, 1e9),  # a network's guess; untrained ones leave 0..1
        'stability_score_thresh': (-1e9, 1e9),
        'box_nms_thresh': (0, 1),
        'crop_n_layers': (0, 4),
        'crop_n_points_downscale_factor': (1, 512),
        'min_mask_region_area': (0, 1 << 31),
    }
    must_lie_in('sam', {name: (getattr(settings, name), *limit) for name, limit in limits.items()})
    if settings.points_per_side < settings.crop_n_points_downscale_factor**settings.crop_n_layers:
        raise UserError('sam: the deepest crop layer has no points; lower crop_n_points_downscale_factor')
    return settings


def load_sam(checkpoint: str, model_type: str = 'auto') -> tuple[Any, str]:
    """Loads an official checkpoint.

    Wrappers such as `{'model': ...}` and prefixes such as `module.` are taken off (see `read_weights`).

    Returns:
        the `Sam` module in eval mode, and its family (`vit_b`, `vit_l` or `vit_h`).

    Raises:
        UserError: not a checkpoint, not of SAM, or of another family than asked for.
    """
    from segment_anything import sam_model_registry

    state = read_weights(checkpoint)
    embedding = state.get('image_encoder.pos_embed')
    if embedding is None or embedding.ndim != 4:
        raise UserError(f'{checkpoint}: not a checkpoint of segment_anything (no image_encoder.pos_embed)')
    if any('hf_token' in name for name in state):
        raise UserError(f'{checkpoint}: is of SAM-HQ; take --source transformers with model=FOLDER of a SAM-HQ')
    family = _FAMILIES.get(int(embedding.shape[-1]))
    if family is None:
        raise UserError(f'{checkpoint}: an encoder of width {embedding.shape[-1]} is none of {_FAMILIES}')
    if model_type not in ('auto', family):
        raise UserError(f'{checkpoint}: is {family}, not {model_type}; say --set model_type={family}')
    side = 16 * int(embedding.shape[1])
    if side != _SIDE:
        raise UserError(
            f'{checkpoint}: is for images of {side} pixels, and segment_anything is for {_SIDE}; take --source '
            f'transformers with model=FOLDER, whose config.json says image_size {side}'
        )
    with contextlib.redirect_stdout(None):
        model = sam_model_registry[family]()
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise UserError(f'{checkpoint}: does not fit {family} ({reason_of(error)}); download it again') from error
    return model.eval().requires_grad_(False), family


_TRANSFORMERS = {'sam': 'SamModel', 'sam_hq': 'SamHQModel', 'sam2': 'Sam2Model'}
_CONFIG_BYTES = 1 << 20
_LARGEST = 1 << 16  # of a number in a configuration
_MOST_LAYERS = 1000


def load_transformers(model: str) -> tuple[Any, str]:
    """Loads a model of transformers from a folder or the hub. It reads safetensors only, and runs no code from there.

    Returns:
        the model in eval mode, and its family (`sam`, `sam_hq` or `sam2`).

    Raises:
        UserError: transformers is missing, no such model, one of another family, or a configuration that makes no
            model, or a much larger one than the weights are of.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f'transformers: is not installed; {_INSTALL}') from error
    remedy = 'give a folder with config.json and weights'
    local = Path(model).is_dir()
    with refusing(f'{model}: cannot be loaded', remedy), _quiet(transformers):
        # not AutoConfig, which guesses from the folder's name where config.json is missing
        config: Any = (
            read_json(Path(model) / 'config.json', remedy, _CONFIG_BYTES)
            if local
            else transformers.PreTrainedConfig.get_config_dict(model)[0]
        )
        kind = config.get('model_type') if isinstance(config, dict) else None
        if not kind:
            raise ValueError('no config.json that says its model_type')
        family = str(kind).removesuffix('_video')  # a SAM2 checkpoint for video holds the image model as well
        if family not in _TRANSFORMERS:
            raise UserError(f'{model}: a model of type {kind}; known: {", ".join(_TRANSFORMERS)}')
        _check_config(config)
        loader = getattr(transformers, _TRANSFORMERS[family])
        if local:
            _check_size(loader, model)
        loaded, report = loader.from_pretrained(
            model, local_files_only=local, use_safetensors=True, output_loading_info=True
        )
    missing = sorted(report['missing_keys'])
    if missing:
        raise UserError(f'{model}: its weights lack {len(missing)} tensors, such as {missing[0]}; download it again')
    return loaded.eval().requires_grad_(False), family


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Within it transformers writes errors only: it lists what is missing on as many lines."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_config(config: Any, key: str = '') -> None:
    """Raises ValueError for what would build for ever, or run code from the hub (kernels, quantisers)."""
    if isinstance(config, dict):
        for name, value in config.items():
            if name in ('quantization_config', 'auto_map') and value:
                raise ValueError(f'{name}: models of other code are not read')
            if 'attn_implementation' in name and '/' in str(value):
                raise ValueError(f'{name}: kernels from the hub are not run')
            _check_config(value, name)
    elif isinstance(config, list):
        for value in config:
            _check_config(value, key)
    elif isinstance(config, int | float):
        low, high = -_LARGEST, _LARGEST
        if 'layers' in key or 'blocks' in key or 'depth' in key:
            low, high = (1 if 'layers' in key else 0), _MOST_LAYERS
        if not low <= config <= high:
            raise ValueError(f'{key}: {config} is not in {low}..{high}')


def _check_size(loader: Any, model: str) -> None:
    """Raises ValueError where the configuration of a folder is of a much larger model than its weights."""
    config = loader.config_class.from_pretrained(model)
    with torch.device('meta'):
        wanted = sum(4 * value.numel() for value in loader(config).parameters())
    there = sum(path.stat().st_size for path in Path(model).glob('*.safetensors'))
    if wanted > 4 * there + _CONFIG_BYTES:
        raise ValueError(f'config.json is of a model of {wanted} bytes, and the weights are {there}')
