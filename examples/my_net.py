"""A network of your own: registered under its name, it can be named in option files."""

from torch import Tensor, nn

from sptsr.registry import ARCH_REGISTRY, register


class Block(nn.Module):
    """Two convolutions and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@register(ARCH_REGISTRY)
class MyNet(nn.Module):
    """Super-resolution: [B, 3, h, w] in 0..1 to [B, 3, upscale h, upscale w]."""

    def __init__(self, width: int = 32, blocks: int = 4, upscale: int = 4) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.tail = nn.Sequential(nn.Conv2d(width, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self.head(x)))
