"""What tests of `sptsr restore` on folders share."""

from pathlib import Path

from tests.conftest import run_cli

OLD = Path(__file__).parents[1] / 'old' / '0.1'
ARGUMENTS = ['-a', OLD / 'adapter_4.safetensors', '--weights', OLD / 'weights' / 'tiny.pth', '--source', 'felzenszwalb']


def restore(photos: Path, *arguments: object, out: str = 'out'):
    return run_cli('restore', '-i', photos, '-o', photos.parent / out, *ARGUMENTS, *arguments)
