"""The embedded photographs: pictures that scikit-image ships inside its package."""

from __future__ import annotations

from pathlib import Path

import skimage.data

from sptsr.core.errors import UserError
from sptsr.images.decode import decode_rgb, write_png
from sptsr.images.folder import ImageFolder
from sptsr.images.prepare import prepare

SCALE = 4
_SUB_IMAGE = 256  # training photographs are cut, so that a crop does not read a whole one
# Photographs and textures that the demo network was pretrained on, and is tuned on.
TRAIN = (
    'astronaut.png',
    'motorcycle_left.png',
    'ihc.png',
    'camera.png',
    'coins.png',
    'brick.png',
    'grass.png',
    'gravel.png',
)
# Photographs that neither saw.
TEST = ('chelsea.png', 'coffee.png', 'rocket.jpg')


def make_sets(out: Path) -> None:
    """Writes `OUT/{train,test}/GTx4` and `LRx4` (training ones as sub-images). Existing files are kept."""
    shipped = Path(skimage.data.__file__).parent
    for split, names in (('train', TRAIN), ('test', TEST)):
        photographs = out / split / 'photographs'
        for name in names:
            target = photographs / f'{Path(name).stem}.png'
            if not target.exists():
                if not (shipped / name).is_file():
                    raise UserError(f'scikit-image does not ship {name} here; install scikit-image>=0.22 again')
                write_png(target, decode_rgb((shipped / name).read_bytes(), name, to_rgb=True))
        sub_image = _SUB_IMAGE if split == 'train' else 0
        prepare(ImageFolder(photographs), out / split, SCALE, mod_crop=True, sub_image=sub_image)
