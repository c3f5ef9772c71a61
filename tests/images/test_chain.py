"""Degradations of several steps: each does what its name says, and the same draw is the same image."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sptsr.core.errors import UserError
from sptsr.images.bicubic import imresize
from sptsr.images.chain import DegradationChain, Step, degradation_of, read_degradation
from sptsr.images.decode import luminance, write_png
from sptsr.images.degrade import degrade
from sptsr.images.draws import Degradation
from sptsr.images.folder import ImageFolder
from tests.conftest import photograph, run_cli

STEPS = ['blur=0.8:1.6', 'resize=0.5:0.9', 'noise=5:25', 'poisson=200:2000', 'jpeg=30:80']


def _after(*steps: str, draw: int = 0, seed: int = 0) -> np.ndarray:
    return (
        DegradationChain.of(steps, seed).degraded(photograph('coffee.png', 96, 120), 'coffee', draw).astype(np.float64)
    )


def test_each_step_does_what_it_says():
    image = photograph('coffee.png', 96, 120)
    clean = image.astype(np.float64)
    blurred = cv2.GaussianBlur(image, (0, 0), 1.5, borderType=cv2.BORDER_REFLECT)
    assert np.abs(_after('blur=1.5') - blurred).max() <= 1
    assert np.array_equal(_after('blur=0'), clean)
    inner = (clean > 60) & (clean < 195)
    noise = (_after('noise=10') - clean)[inner]
    assert noise.std() == pytest.approx(10, rel=0.03)
    for photons in (100, 1000):
        counts = (_after(f'poisson={photons}') - clean)[inner]
        assert counts.std() == pytest.approx(np.sqrt(clean[inner].mean() * 255 / photons), rel=0.05)
        assert abs(counts.mean()) < 0.5
    assert np.array_equal(_after('downsample=2'), imresize(image, 1 / 2))
    assert _after('resize=1').tolist() == clean.tolist()
    detail = [np.abs(np.diff(_after(f'resize={share}'), axis=1)).mean() for share in (0.25, 0.5, 1)]
    assert detail[0] < 0.8 * detail[1] < 0.8 * detail[2]
    ok, content = cv2.imencode('.jpg', image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 30])
    assert ok
    assert np.array_equal(_after('jpeg=30'), cv2.imdecode(content, cv2.IMREAD_COLOR)[:, :, ::-1])


def test_the_order_counts():
    rough = [
        np.abs(np.diff(_after(*steps), axis=1)).mean() for steps in (('noise=25', 'blur=2'), ('blur=2', 'noise=25'))
    ]
    assert rough[0] < 0.4 * rough[1]
    # what JPEG leaves is a function of its input: after it, nothing is rounded but at the end
    assert np.array_equal(_after('jpeg=50', 'blur=0'), _after('blur=0', 'jpeg=50'))


def test_a_draw_is_a_function_of_key_seed_and_number():
    image = photograph('chelsea.png', 60, 70)
    chain = DegradationChain.of(STEPS, seed=3)
    first = chain.degraded(image, 'a', 1)
    assert np.array_equal(first, chain.degraded(image.copy(), 'a', 1))
    others = [
        chain.degraded(image, 'a', 0),
        chain.degraded(image, 'b', 1),
        DegradationChain.of(STEPS, 4).degraded(image, 'a', 1),
    ]
    assert all(not np.array_equal(first, other) for other in others)
    # a step more does not change the noise of those before it
    assert np.array_equal(
        DegradationChain.of(['noise=9', 'blur=0']).degraded(image, 'a', 0),
        DegradationChain.of(['noise=9']).degraded(image, 'a', 0),
    )


def test_amounts_are_spread_over_their_range():
    image = np.full((40, 40, 3), 128, np.uint8)
    chain = DegradationChain.of(['noise=5:25'])
    levels = np.sort([chain.degraded(image, 'a', draw).std() for draw in range(60)])
    assert levels[0] < 8
    assert levels[-1] > 22
    assert np.median(levels) == pytest.approx(15, abs=3)


def test_one_channel_and_sizes():
    image = photograph('coffee.png', 41, 53)
    gray = DegradationChain.of(STEPS, gray=True)
    assert gray.degraded(image, 'a', 0).shape == (41, 53, 1)
    stored = gray.stored(image, 'a', 0)
    assert (stored == gray.degraded(image, 'a', 0)).all()
    assert np.array_equal(DegradationChain.of(['blur=0'], gray=True).degraded(image, 'a', 0), luminance(image))
    for height, width in ((1, 1), (2, 9)):
        assert DegradationChain.of(STEPS).degraded(image[:height, :width], 'a', 0).shape == (height, width, 3)
    with pytest.raises(UserError, match='a: 41x53 is not a multiple of downsample=4'):
        DegradationChain.of(['downsample=4']).degraded(image, 'a', 0)


def test_the_command_writes_the_draws_and_goes_on(tmp_path: Path):
    for name in ('coffee', 'chelsea'):
        write_png(tmp_path / 'clean' / 'sub' / f'{name}.png', photograph(f'{name}.png', 48, 60))
    arguments = ('prior', 'degrade', '-i', tmp_path / 'clean', '-o', tmp_path / 'out', '--steps', *STEPS)
    arguments = (*arguments, 'downsample=2', '--draws', 3, '--seed', 7)
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert '6 images, --steps blur=0.8:1.6' in done.stdout
    folder = ImageFolder(tmp_path / 'out')
    chain = DegradationChain.of([*STEPS, 'downsample=2'], 7, 3)
    assert folder.degradation == chain
    assert chain.scale == 2
    assert folder.keys == [f'sub/{name}@{n}' for name in ('chelsea', 'coffee') for n in range(3)]
    clean = ImageFolder(tmp_path / 'clean')
    for key in clean.keys:
        for draw in range(3):
            assert np.array_equal(folder.read(f'{key}@{draw}'), chain.degraded(clean.read(key), key, draw))
    (tmp_path / 'out' / 'sub' / 'coffee@1.png').unlink()
    assert run_cli(*arguments).returncode == 0
    other = run_cli(*arguments[:-1], 8)
    assert other.returncode == 2
    assert 'holds images degraded otherwise (--steps' in other.stderr
    # what it says of itself makes the same images again
    words = str(chain).split()
    again = run_cli('prior', 'degrade', '-i', tmp_path / 'clean', '-o', tmp_path / 'again', *words)
    assert again.returncode == 0, again.stderr
    assert np.array_equal(ImageFolder(tmp_path / 'again').read('sub/coffee@2'), folder.read('sub/coffee@2'))


def test_records_are_read_again(tmp_path: Path):
    chain = DegradationChain.of(STEPS, 5, 2, True)
    assert degradation_of(json.loads(json.dumps(chain.record())), 'x') == chain
    noise = Degradation('noise', 5, 25, draws=2)
    assert degradation_of(noise.record(), 'x') == noise
    assert read_degradation(tmp_path) is None
    for record in ({}, {'steps': 'blur=1'}, {'steps': [], 'seed': 0, 'draws': 1}, chain.record() | {'seed': 'a'}):
        (tmp_path / 'degradation.json').write_text(json.dumps(record))
        with pytest.raises(UserError, match=r'degradation\.json: does not say how images were degraded'):
            read_degradation(tmp_path)
    (tmp_path / 'degradation.json').write_text(json.dumps(noise.record() | {'low': 10**400}))
    with pytest.raises(UserError, match=r'degradation\.json: an amount is no number'):
        read_degradation(tmp_path)


@pytest.mark.parametrize(
    ('step', 'message'),
    [
        ('blurr=1', "no step is called 'blurr'; did you mean 'blur'"),
        ('noise', "'noise' is not KIND=AMOUNT"),
        ('noise=a', "'noise=a' is not KIND=AMOUNT"),
        ('noise=5:', "'noise=5:' is not KIND=AMOUNT"),
        ('noise=1_0', "'noise=1_0' is not KIND=AMOUNT"),
        ('noise=nan', 'must be in 0..255'),
        ('noise=25:5', 'noise=25:5 must be in 0..255, the lower amount first'),
        ('jpeg=0', 'jpeg=0 must be in 1..100'),
        ('poisson=0', r'poisson=0 must be in 1..1e\+06'),
        ('resize=2', 'resize=2 must be in 0.1..1'),
        ('downsample=2:3', 'downsample=2:3 must be one whole number'),
        ('downsample=2.5', 'must be one whole number'),
        ('blur=1e9', 'must be in 0..20'),
    ],
)
def test_steps_that_make_no_sense_are_refused(step: str, message: str):
    with pytest.raises(UserError, match=message):
        Step.of(step)


def test_chains_that_make_no_sense_are_refused(tmp_path: Path):
    for arguments, message in (
        (([],), '0 steps; say 1 to 20'),
        ((['blur=1'] * 21,), '21 steps'),
        ((['downsample=2', 'downsample=2'],), 'downsample may come once'),
        ((['blur=1'], -1), 'the seed -1'),
        ((['blur=1'], 0, 0), '0 draws'),
    ):
        with pytest.raises(UserError, match=message):
            DegradationChain.of(*arguments)
    write_png(tmp_path / 'clean' / 'a.png', photograph('coffee.png', 31, 32))
    with pytest.raises(UserError, match='a: 31x32 is not a multiple of downsample=2'):
        degrade(ImageFolder(tmp_path / 'clean'), tmp_path / 'out', DegradationChain.of(['downsample=2']))


def test_a_record_that_makes_no_sense_is_named(tmp_path: Path):
    for record, message in (
        (DegradationChain.of(['blur=1']).record() | {'steps': ['foo=1']}, 'no step is called'),
        (Degradation('noise', 5, 25).record() | {'high': 300.0}, '300'),
    ):
        (tmp_path / 'degradation.json').write_text(json.dumps(record))
        with pytest.raises(UserError, match=message) as caught:
            read_degradation(tmp_path)
        assert str(caught.value).startswith(str(tmp_path / 'degradation.json'))


@pytest.mark.parametrize('step', ['noise=12.3456789', 'resize=0.3333333:0.7654321', 'poisson=123456.5', 'blur=0.1'])
def test_an_amount_is_kept_to_its_last_digit(step: str, tmp_path: Path):
    write_png(tmp_path / 'clean' / 'a.png', photograph('coffee.png', 24, 24))
    chain = DegradationChain.of([step])
    assert str(chain.steps[0]) == step
    for _ in range(2):  # the second run goes on
        assert degrade(ImageFolder(tmp_path / 'clean'), tmp_path / 'out', chain) == 1
    assert read_degradation(tmp_path / 'out') == chain


def test_results_never_become_images(tmp_path: Path):
    write_png(tmp_path / 'clean' / 'a.png', photograph('coffee.png', 24, 24))
    for out in (tmp_path / 'clean', tmp_path / 'clean' / 'below', tmp_path / 'elsewhere' / '..' / 'clean'):
        for command in (('prior', 'degrade', '--blur', 1), ('data', 'prepare', '--scale', 2)):
            done = run_cli(*command, '-i', tmp_path / 'clean', '-o', out)
            assert done.returncode == 2
            assert 'choose a folder outside of it' in done.stderr
    assert [path.name for path in (tmp_path / 'clean').rglob('*')] == ['a.png']


def test_an_image_too_large_for_jpeg_is_one_line(tmp_path: Path):
    write_png(tmp_path / 'clean' / 'a.png', np.zeros((1, 66_000, 3), np.uint8))
    for steps in (('--steps', 'jpeg=50'), ('--jpeg', 50)):
        done = run_cli('prior', 'degrade', '-i', tmp_path / 'clean', '-o', tmp_path / 'out', *steps)
        assert done.returncode == 2
        assert '1x66000 (height x width) is too large; cut it' in done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith('sptsr')]) == 1


def test_results_that_are_no_images_of_the_next_run(tmp_path: Path):
    """Beside the images that `--include` takes, and whole images where they lie; not what a link leads back to."""
    write_png(tmp_path / 'sets' / 'GTx2' / 'a.png', photograph('coffee.png', 24, 24))
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'sets' / 'GTx2' / 'link').symlink_to(tmp_path / 'elsewhere')
    degrade_ = ('prior', 'degrade', '--blur', 1)
    prepare = ('data', 'prepare', '--scale', 2)
    within = (*degrade_, '-i', tmp_path / 'sets', '-o', tmp_path / 'sets' / 'blurred')
    for _ in range(2):
        assert run_cli(*within, '--include', 'GTx2/a').returncode == 0
        assert run_cli(*prepare, '-i', tmp_path / 'sets' / 'GTx2', '-o', tmp_path / 'sets').returncode == 0
    assert (tmp_path / 'sets' / 'blurred' / 'GTx2' / 'a.png').is_file()
    assert (tmp_path / 'sets' / 'LRx2' / 'a.png').is_file()
    for command in (
        (*within, '--include', 'blurred/*', 'GTx2/*'),
        (*prepare, '--sub-image', 12, '-i', tmp_path / 'sets' / 'GTx2', '-o', tmp_path / 'sets'),
        (*degrade_, '-i', tmp_path / 'sets' / 'GTx2', '-o', tmp_path / 'sets' / 'GTx2' / 'link'),
    ):
        done = run_cli(*command)
        assert done.returncode == 2
        assert 'choose a folder outside of it' in done.stderr
    assert [path.name for path in (tmp_path / 'sets' / 'GTx2').iterdir() if path.is_file()] == ['a.png']
    (tmp_path / 'sets' / 'GTx2' / 'a.png').rename(tmp_path / 'sets' / 'GTx2' / 'a.jpg')  # a.png would lie beside it
    assert run_cli(*prepare, '-i', tmp_path / 'sets' / 'GTx2', '-o', tmp_path / 'sets').returncode == 2


def test_a_mistake_in_the_last_image_leaves_no_half_folder(tmp_path: Path):
    for name, height in (('a', 64), ('b', 64), ('z', 63)):
        write_png(tmp_path / 'in' / f'{name}.png', photograph('coffee.png', height, 64))
    with pytest.raises(UserError, match='z: 63x64 is not a multiple of downsample=4'):
        degrade(ImageFolder(tmp_path / 'in'), tmp_path / 'out', DegradationChain.of(['blur=1', 'downsample=4']))
    assert not (tmp_path / 'out').exists()
