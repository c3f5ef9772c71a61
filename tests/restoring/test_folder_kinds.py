"""`sptsr restore` on files of all kinds, and on noise of any level."""

import numpy as np
import odd_files
from PIL import Image

from sptsr.images.any_image import read_any
from tests.conftest import photograph, run_cli


def test_files_of_all_kinds_are_restored_and_broken_ones_named(tmp_path, denoiser):
    """`scripts/odd_files.py` makes them; docs/restoring.md says what becomes of each."""
    made = odd_files.make(tmp_path / 'odd')
    good = [path for path in made if path.parent.name != 'broken']
    assert len(good) >= 35
    result = run_cli('restore', '-i', tmp_path / 'odd', '-o', tmp_path / 'out', *denoiser, '--sigma', 'auto')
    assert result.returncode == 1
    named = [line for line in result.stderr.splitlines() if line.startswith('sptsr: ')]
    assert len(named) == len(made) - len(good)
    for path in made:
        assert any(f'/{path.name}: ' in line for line in named) == (path not in good)
    assert f'{len(good)} images restored' in result.stdout
    for path in good:
        before = read_any(path, 10**6)
        stem = tmp_path / 'out' / path.relative_to(tmp_path / 'odd').parent
        (target,) = [one for one in (stem / f'{path.name}.png', stem / f'{path.stem}.png') if one.is_file()][:1]
        after = read_any(target, 10**6)
        assert after.colour.shape == before.colour.shape, path
        assert after.colour.dtype == before.colour.dtype, path
        assert (after.alpha is None) == (before.alpha is None), path
        if before.alpha is not None:
            assert np.array_equal(after.alpha, before.alpha), path
        assert after.profile == before.profile, path
    said = dict(line.split(': ', 1) for line in result.stdout.splitlines() if ': ' in line)
    assert said['moving.gif'].startswith('first of 4 frames')
    assert said['cmyk.jpg'].startswith('CMYK converted to RGB')
    assert said['turned_5.tif'].startswith('turned upright')
    assert 'estimated' in said['rgb.png']


def test_a_noise_level_is_said_or_estimated(tmp_path, denoiser):
    clean = photograph('coffee.png', 96, 96)
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    Image.fromarray((clean + noise).clip(0, 255).astype(np.uint8)).save('a.png')
    missing = run_cli('restore', '-i', 'a.png', '-o', 'o', *denoiser)
    assert missing.returncode == 2
    assert 'say --sigma N (of 255), or --sigma auto' in missing.stderr
    made = run_cli('restore', '-i', 'a.png', '-o', 'auto', *denoiser, '--sigma', 'auto')
    assert made.returncode == 0, made.stderr
    level = float(made.stdout.split('noise level ')[1].split()[0])
    assert 20 < level < 30
    run_cli('restore', '-i', 'a.png', '-o', 'same', *denoiser, '--sigma', level)
    run_cli('restore', '-i', 'a.png', '-o', 'weak', *denoiser, '--sigma', '5')
    one, same, weak = (read_any(f'{name}/a.png', 10**6).colour.astype(int) for name in ('auto', 'same', 'weak'))
    assert (one != same).sum() < 0.1 * (one != weak).sum()  # the level that is said has one decimal
    for wrong in ('-1', '256', 'nan', 'much'):
        assert (
            f'--sigma {wrong}: must be'
            in run_cli('restore', '-i', 'a.png', '-o', 'o', *denoiser, '--sigma', wrong).stderr
        )
