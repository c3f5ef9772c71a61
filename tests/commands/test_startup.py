"""What a command imports before it says what is wrong: neither torch nor BasicSR."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import base_options, write_options

HEAVY = ('torch', 'torchvision', 'basicsr', 'numpy', 'cv2', 'scipy', 'skimage', 'lmdb', 'sympy')


def _run(words: list[str], cwd: Path) -> tuple[int, str, list[str]]:
    """Returns exit code, stderr and the heavy modules that were imported."""
    code = (
        'import sys\n'
        'from sptsr.commands.line import main\n'
        'try:\n    code = main(sys.argv[1:])\n'
        'except SystemExit as error:\n    code = error.code\n'
        f'print("heavy", *[name for name in {HEAVY} if name in sys.modules])\n'
        'sys.exit(code)\n'
    )
    done = subprocess.run([sys.executable, '-c', code, *words], cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    ('words', 'code', 'message'),
    [
        (['--help'], 0, ''),
        (['train', '--help'], 0, ''),
        (['prior', 'extract', '--help'], 0, ''),
        (['trian'], 2, "no command 'trian'; did you mean 'train'"),
        (['train', '-opt', 'none.yml'], 2, 'none.yml: cannot read it'),
        (['test', '-opt', 'none.yml'], 2, 'none.yml: cannot read it'),
        (['options', '-opt', 'none.yml'], 2, 'none.yml: cannot read it'),
        (['options', '-opt', 'broken.yml'], 2, 'broken.yml:2:'),
    ],
)
def test_the_first_answer_needs_no_torch(tmp_path: Path, words: list[str], code: int, message: str):
    (tmp_path / 'broken.yml').write_text('a: [1, 2\nb: 3\n')
    answer, said, heavy = _run(words, tmp_path)
    assert (answer, heavy) == (code, []), said
    assert message in said


def test_a_report_of_all_mistakes_needs_no_torch(photographs: Path, tmp_path: Path):
    options = base_options(photographs, trains=True)
    options['train'] |= {'totl_iter': 3, 'edge_opt': {'type': 'L1Los'}}
    options['train']['optim_g']['lrr'] = 1
    options['network_g']['backbone']['upscal'] = 4
    options['network_g']['unit']['type'] = 'ModulatonUnit'
    options['datasets']['train']['use_hflp'] = True
    options['val']['metrics']['psnr']['crop_boarder'] = 4
    write_options(tmp_path / 'x.yml', options)
    for command in ('train', 'options'):
        code, said, heavy = _run([command, '-opt', 'x.yml'], tmp_path)
        assert (code, heavy) == (2, []), said
        assert '7 mistakes' in said
        for wrong in ('totl_iter', 'L1Los', 'lrr', 'upscal', 'ModulatonUnit', 'use_hflp', 'crop_boarder'):
            assert wrong in said


def test_the_shipped_option_files_are_checked_without_torch():
    """In a fresh clone they have mistakes: their images and weights are missing."""
    root = Path(__file__).parents[2]
    files = sorted([*root.glob('options/train/*.yml'), *root.glob('options/test/*.yml')])
    assert len(files) >= 20
    checked = [path for path in files if 'plugins' not in yaml.safe_load(path.read_text())]
    code, said, heavy = _run(['options', '-opt', str(checked[0])], root)
    assert (code, heavy) == (2, []), said
