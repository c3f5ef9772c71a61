"""SAM, SAM-HQ and SAM2 of transformers through the same loop."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms

from sptsr.core.errors import UserError
from sptsr.masks.prior import Prior
from sptsr.priors.extract import build_source
from sptsr.priors.sources.generator import GridSettings, make_prior
from sptsr.priors.sources.grid import point_grid
from sptsr.priors.sources.segmenters import HuggingFaceSam, HuggingFaceSam2
from tests.conftest import photograph
from tests.priors import tiny_sam
from tests.priors.test_generator import THRESHOLDS, official_prior


@pytest.fixture(scope='module')
def model():
    return tiny_sam.official()


def _hf(family: str):
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    torch.manual_seed(1)
    vision = {
        'hidden_size': 32,
        'num_hidden_layers': 1,
        'num_attention_heads': 2,
        'image_size': 128,
        'patch_size': 16,
        'output_channels': 32,
        'mlp_dim': 64,
        'global_attn_indexes': [0],
        'window_size': 4,
        'num_pos_feats': 16,
    }
    prompt = {
        'hidden_size': 32,
        'image_size': 128,
        'patch_size': 16,
        'mask_input_channels': 8,
        'image_embedding_size': 8,
    }
    decoder = {
        'hidden_size': 32,
        'num_attention_heads': 2,
        'mlp_dim': 64,
        'iou_head_hidden_dim': 32,
        'iou_head_depth': 2,
    }
    if family == 'sam':
        config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        return transformers.SamModel(config).eval()
    if family == 'sam_hq':
        config = transformers.SamHQConfig(
            vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config={**decoder, 'vit_dim': 32}
        )
        return transformers.SamHQModel(config).eval()
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 4], window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
        image_size=[128, 128], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    config = transformers.Sam2Config(
        vision_config=transformers.Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
            backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        ),
        prompt_encoder_config={'hidden_size': 32, 'image_size': 128, 'patch_size': 16, 'mask_input_channels': 8},
        mask_decoder_config=decoder,
    )  # fmt: skip
    return transformers.Sam2Model(config).eval()


def _full_logits(model, family: str, image, points_per_side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of all masks at the image's size, and their scores, straight from transformers."""
    height, width = image.shape[:2]
    with torch.no_grad():
        embedding, frame = (HuggingFaceSam2 if family == 'sam2' else HuggingFaceSam)(model).embed([image])[0]
        points = torch.from_numpy(point_grid(points_per_side))
        scale = [128, 128] if family == 'sam2' else [frame.input_size[1], frame.input_size[0]]
        output = model(
            **embedding,
            input_points=(points * torch.tensor(scale)).float()[None, :, None],
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int),
            multimask_output=True,
        )
        logits, iou = output.pred_masks[0].flatten(0, 1), output.iou_scores[0].flatten()
        if family == 'sam2':
            full = F.interpolate(logits[None].clamp(-32, 32), (height, width), mode='bilinear')[0]
        else:
            full = F.interpolate(logits[None], (128, 128), mode='bilinear')[..., : scale[1], : scale[0]]
            full = F.interpolate(full, (height, width), mode='bilinear')[0]
    return full, iou


def _spread(model, family: str):
    """Makes the logits of a random model as large as a trained one's, and its scores positive and different."""
    full, iou = _full_logits(model, family, photograph('chelsea.png', 64, 64), 6)
    with torch.no_grad():
        for mlp in [
            *model.mask_decoder.output_hypernetworks_mlps,
            *filter(None, [getattr(model.mask_decoder, 'hq_mask_mlp', None)]),
        ]:
            for value in mlp.proj_out.parameters():
                value.mul_(5 / full.std())
        head = model.mask_decoder.iou_prediction_head.proj_out
        head.weight.mul_(0.1 / iou.std())
        head.bias.fill_(2.0)
    return model


def _naive(full: torch.Tensor, iou: torch.Tensor, settings: GridSettings) -> Prior:
    """The generator as it is written down: everything at full size first, filters after."""
    keep = (iou > settings.pred_iou_thresh) & (_stability(full) >= settings.stability_score_thresh)
    masks, iou = full[keep] > 0, iou[keep]
    assert 3 < len(masks) <= len(full) // 2  # the filters had something to do
    boxes = torch.tensor([_box(mask) for mask in masks]).float()
    order = batched_nms(boxes, iou, torch.zeros(len(iou)), settings.box_nms_thresh)
    return Prior.encode(masks[order].numpy())


def _stability(full: torch.Tensor) -> torch.Tensor:
    return (full > 1).sum((1, 2)) / (full > -1).sum((1, 2))


def _box(mask: torch.Tensor) -> list[int]:
    rows, columns = torch.nonzero(mask.any(1)).flatten(), torch.nonzero(mask.any(0)).flatten()
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])] if len(rows) else [0, 0, 0, 0]


@pytest.mark.parametrize('family', ['sam', 'sam_hq', 'sam2'])
@pytest.mark.parametrize('size', [(64, 64), (40, 90), (90, 40), (130, 150), (1, 30)])
def test_transformers_masks(family: str, size: tuple[int, int]):
    model = _spread(_hf(family), family)
    image = photograph('coffee.png', *size)
    full, iou = _full_logits(model, family, image, 6)
    middle = float(iou.median())
    stable = _stability(full)[iou > middle].nan_to_num(0).quantile(0.3)
    thresholds = {'pred_iou_thresh': middle, 'stability_score_thresh': float(stable)}
    settings = GridSettings(points_per_side=6, points_per_batch=10, box_nms_thresh=1.0, **thresholds)
    ours = make_prior((HuggingFaceSam2 if family == 'sam2' else HuggingFaceSam)(model), image, settings, 64)
    naive = _naive(full, iou, settings)
    assert ours.size == size
    # batches of points are multiplied in another order: a score on the median itself, or a pixel on an edge, may flip
    assert abs(ours.count - naive.count) <= 1
    unlike = (ours.decode()[:, None] != naive.decode()[None]).mean(axis=(2, 3))
    assert (unlike.min(axis=1) < 2e-3).sum() >= ours.count - 1


def test_sam2_prompts_the_whole_of_an_image_that_is_not_square():
    """transformers' own pipeline leaves out the lower third (docs/upstream.md)."""
    model, seen = _hf('sam2'), []
    model.prompt_encoder.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(kwargs['input_points'].reshape(-1, 2)), with_kwargs=True
    )
    image = photograph('coffee.png', 40, 120)
    make_prior(HuggingFaceSam2(model), image, GridSettings(points_per_side=4), 64)
    points = torch.cat(seen)
    for axis in (0, 1):
        assert sorted(set(points[:, axis].round().tolist())) == [16, 48, 80, 112]  # of a side of 128


_RENAMED = (
    (r'^image_encoder', 'vision_encoder'), (r'\.blocks\.', '.layers.'), (r'neck\.0', 'neck.conv1'),
    (r'neck\.1', 'neck.layer_norm1'), (r'neck\.2', 'neck.conv2'), (r'neck\.3', 'neck.layer_norm2'),
    (r'patch_embed\.proj', 'patch_embed.projection'), (r'\.norm(\d)', r'.layer_norm\1'),
    (r'pe_layer\.positional_encoding_gaussian_matrix', 'shared_embedding.positional_embedding'),
    (r'point_embeddings', 'point_embed'), (r'mask_downscaling\.0', 'mask_embed.conv1'),
    (r'mask_downscaling\.1', 'mask_embed.layer_norm1'), (r'mask_downscaling\.3', 'mask_embed.conv2'),
    (r'mask_downscaling\.4', 'mask_embed.layer_norm2'), (r'mask_downscaling\.6', 'mask_embed.conv3'),
    (r'iou_prediction_head\.layers\.0', 'iou_prediction_head.proj_in'),
    (r'iou_prediction_head\.layers\.1', 'iou_prediction_head.proj_out'),
    (r'(mlps\.\d)\.layers\.0', r'\1.proj_in'), (r'(mlps\.\d)\.layers\.2', r'\1.proj_out'),
    (r'(mlps\.\d)\.layers\.1', r'\1.layers.0'), (r'output_upscaling\.0', 'upscale_conv1'),
    (r'output_upscaling\.1', 'upscale_layer_norm'), (r'output_upscaling\.3', 'upscale_conv2'),
    (r'norm_final_attn', 'layer_norm_final_attn'),
)  # fmt: skip


def test_transformers_holds_the_same_sam(model, tmp_path: Path):
    """The official weights under transformers' names give the official generator's masks."""
    other = _hf('sam')
    for layer in other.modules():  # config says 1e-6 where the official decoder has torch's default
        if isinstance(layer, torch.nn.LayerNorm) and layer not in list(other.vision_encoder.modules()):
            layer.eps = 1e-5
    state = {}
    for name, value in model.state_dict().items():
        for old, new in _RENAMED:
            name = re.sub(old, new, name)
        state[name] = value
    state['shared_image_embedding.positional_embedding'] = state['prompt_encoder.shared_embedding.positional_embedding']
    state = {name: value for name, value in state.items() if name in other.state_dict()}
    missing = other.load_state_dict(state, strict=False).missing_keys
    assert missing == []
    other.save_pretrained(tmp_path / 'sam')
    source = build_source('transformers', [f'model={tmp_path / "sam"}', *(f'{k}={v}' for k, v in THRESHOLDS.items())])
    assert source.params['model_type'] == 'sam'
    for layer in source.segmenter.model.modules():
        if isinstance(layer, torch.nn.LayerNorm) and layer not in list(source.segmenter.model.vision_encoder.modules()):
            layer.eps = 1e-5
    image = photograph('coffee.png', 64, 90)
    ours, theirs = source(image, 'x', 64), official_prior(model, image, **THRESHOLDS)
    assert ours.count == theirs.count > 10
    assert (ours.decode() != theirs.decode()).mean() < 1e-3


def test_wrong_models_are_named(tmp_path: Path):
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    broken = {'sam2': None, 'a_list': '[1]', 'torn': '{"model_type": "sa', 'nameless': '{"mask": 1}'}
    for name, config in broken.items():
        (tmp_path / name).mkdir()
        if config:
            (tmp_path / name / 'config.json').write_text(config)
        with pytest.raises(UserError, match=f'{name}.*; give a folder with config.json and weights'):
            build_source('transformers', [f'model={tmp_path / name}'])
    (tmp_path / 'a_list' / 'config.json').write_text('{"model_type": 7}')
    with pytest.raises(UserError, match='a model of type 7; known: sam, sam_hq, sam2'):
        build_source('transformers', [f'model={tmp_path / "a_list"}'])
    transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(
        tmp_path / 'bert'
    )
    with pytest.raises(UserError, match='a model of type bert; known: sam, sam_hq, sam2'):
        build_source('transformers', [f'model={tmp_path / "bert"}'])
    _hf('sam').save_pretrained(tmp_path / 'sam')
    from safetensors.torch import load_file, save_file

    state = load_file(tmp_path / 'sam' / 'model.safetensors')
    state.pop('mask_decoder.iou_token.weight')
    save_file(state, tmp_path / 'sam' / 'model.safetensors', {'format': 'pt'})
    with pytest.raises(UserError, match='its weights lack 1 tensors, such as mask_decoder.iou_token.weight'):
        build_source('transformers', [f'model={tmp_path / "sam"}'])
    with pytest.raises(UserError, match='the deepest crop layer has no points'):
        build_source('transformers', [f'model={tmp_path}', 'points_per_side=2', 'crop_n_layers=2',
                                      'crop_n_points_downscale_factor=2'])  # fmt: skip
