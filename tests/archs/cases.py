"""Small networks of every recipe, and what to try them with."""

import torch

from sptsr.archs.recipes import RECIPES
from sptsr.archs.spt_arch import SPTNet

# Each recipe at least once, in the variants that change its numbers.
CASES = {
    'IMDN': ('IMDN', {'nf': 16, 'num_modules': 3, 'upscale': 3}),
    'EDSR': ('EDSR', {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 16, 'num_block': 4, 'upscale': 2}),
    'MSRResNet': ('MSRResNet', {'num_feat': 16, 'num_block': 4, 'upscale': 2}),
    'RCAN': ('RCAN', {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 16, 'num_group': 2, 'num_block': 1, 'upscale': 2}),
    **{
        f'RRDBNet x{scale}': (
            'RRDBNet',
            {'num_in_ch': 3, 'num_out_ch': 3, 'scale': scale, 'num_feat': 8, 'num_block': 5, 'num_grow_ch': 4},
        )
        for scale in (4, 2, 1)
    },
    **{
        f'SwinIR {upsampler or "denoising"}': (
            'SwinIR',
            {
                'img_size': 16,
                'window_size': 4,
                'embed_dim': 12,
                'depths': [2, 2],
                'num_heads': [2, 2],
                'mlp_ratio': 2,
                'upscale': 4,
                'upsampler': upsampler,
                'resi_connection': '3conv',
            },
        )
        for upsampler in ('pixelshuffledirect', 'pixelshuffle', 'nearest+conv', '')
    },
    'SRVGGNetCompact': ('SRVGGNetCompact', {'num_feat': 8, 'num_conv': 8, 'upscale': 2}),
    'SRVGGNetCompact relu': ('SRVGGNetCompact', {'num_feat': 8, 'num_conv': 8, 'upscale': 2, 'act_type': 'relu'}),
    'ECBSR': ('ECBSR', {**RECIPES['ECBSR'].usual, 'num_channel': 8, 'num_block': 2, 'scale': 2}),
    'RIDNet': ('RIDNet', {**RECIPES['RIDNet'].usual, 'mid_channels': 16, 'num_block': 2}),
    'CARN': ('CARN', {'nf': 8, 'upscale': 3}),
    'CARN_M': ('CARN_M', {'nf': 16, 'upscale': 4}),
    'FFDNet': ('FFDNet', {'nc': 12, 'nb': 9}),
    'FFDNet gray': ('FFDNet', {'in_nc': 1, 'out_nc': 1, 'nc': 12, 'nb': 9}),
    'DnCNN': ('DnCNN', {'nc': 8, 'nb': 9}),
    'DnCNN BR': ('DnCNN', {'in_nc': 3, 'out_nc': 3, 'nc': 8, 'nb': 9, 'act_mode': 'BR'}),
}
UNITS = ('ModulationUnit', 'PlainUnit', 'RegionUnit')
LADDER = 'ModulationUnit ladder'


def make_net(case: str, unit: str = 'ModulationUnit', seed: int = 0, stem: str | None = None, **options) -> SPTNet:
    torch.manual_seed(seed)
    arch, arguments = CASES[case]
    section = {'type': unit.split()[0], 'width': 8, **({'path': 'ladder'} if unit == LADDER else {})}
    section |= {} if stem is None else {'stem': stem}
    return SPTNet({'type': arch, **arguments}, unit=section, num_masks=5, **options)


def inputs(height: int, width: int, batch: int = 2, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(batch, channels, height, width), (torch.rand(batch, 5, height, width) < 0.4).float()


def trained(net: SPTNet, steps: int = 2, channels: int = 3) -> SPTNet:
    lq, masks = inputs(12, 16, channels=channels)
    optimizer = torch.optim.Adam(net.adapter_parameters().values(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(lq, masks) - 0.3).abs().mean().backward()
        optimizer.step()
    return net


def filled(net: SPTNet) -> SPTNet:
    """Returns the network in eval mode, with an adapter of random numbers."""
    for value in net.adapter_parameters().values():
        torch.nn.init.normal_(value, std=0.05)
    return net.eval()
