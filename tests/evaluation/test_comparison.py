"""`sptsr compare`: what is paired, what is left out, what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from sptsr.evaluation.comparison import read_run
from tests.conftest import run_cli
from tests.test_old_files import OLD

KEYS = [f'image{n}' for n in range(12)]
OPTIONS = {'type': 'calculate_psnr', 'crop_border': 4, 'better': 'higher'}


def content(shift: float = 0.0, seed: int | None = None, draw: int = 0) -> dict[str, Any]:
    """What `sptsr test` writes, for two sets of which the images differ far more than the arms."""
    generator = np.random.default_rng(draw)
    of_images = np.random.default_rng(99).normal(28, 3, (2, 12))
    values = of_images + shift + generator.normal(0, 0.05, (2, 12))
    return {
        'name': 'arm',
        'seed': seed,
        'datasets': {
            name: {'psnr': {'per_image': dict(zip(KEYS, map(float, row), strict=True)), 'options': OPTIONS}}
            for name, row in zip(('Set5', 'B100'), values, strict=True)
        },
        'images': {name: {key: f'{name}{key}' for key in KEYS} for name in ('Set5', 'B100')},
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def write_(name: str, record: Any) -> str:
        Path(name).write_text(record if isinstance(record, str) else json.dumps(record))
        return name

    return write_


def figures(*words: str) -> dict[str, Any]:
    done = run_cli('compare', *words, '--json', 'out.json')
    assert done.returncode == 0, done.stderr
    return {**json.loads(Path('out.json').read_text()), 'text': done.stdout}


def refused(*words: str) -> str:
    done = run_cli('compare', *words, '--json', 'out.json')
    assert (done.returncode, done.stdout) == (2, ''), done.stdout
    assert not Path('out.json').exists()
    (line,) = done.stderr.splitlines()
    return line


def test_two_files_give_the_paired_t_test(write):
    a, b = content(), content(0.05, draw=1)
    found = figures(write('a.json', a), write('b.json', b))
    assert [(row['dataset'], row['metric']) for row in found['rows']] == [('Set5', 'psnr'), ('B100', 'psnr')]
    one, two = ([list(r['datasets']['B100']['psnr']['per_image'].values())] for r in (a, b))
    expected = scipy.stats.ttest_rel(two[0], one[0]).confidence_interval()
    row = found['rows'][1]['figures']
    assert row['interval'] == pytest.approx([expected.low, expected.high])
    assert row['exact']
    assert row['better'] == sum(x < y for x, y in zip(one[0], two[0], strict=True))
    assert 'images only, not of other training seeds' in found['text']
    line = next(line for line in found['text'].splitlines() if line.startswith('B100'))
    assert f'{row["difference"]:+.5f}' in line
    assert f'{row["better"]} of 12' in line


def test_the_same_files_print_the_same_text(write):
    words = (write('a.json', content()), write('b.json', content(0.05, draw=1)))
    assert figures(*words) == figures(*words)


def test_runs_are_paired_by_seed_in_any_order(write):
    # a spread over seeds that both arms share: it cancels where runs are paired, and only there
    spread = {0: -0.5, 1: 0.0, 2: 0.5}
    a = [write(f'a{s}.json', content(spread[s], s, draw=s)) for s in (0, 1, 2)]
    b = [write(f'b{s}.json', content(spread[s] + 0.1, s, draw=10 + s)) for s in (2, 0, 1)]
    paired = figures(*a, '--with', *b)
    assert paired['paired_by_seed']
    assert 'image and training seed. It speaks of images and training seeds.' in paired['text']
    other = [write(f'c{s}.json', content(spread[s] + 0.1, s + 7, draw=10 + s)) for s in (2, 0, 1)]
    unpaired = figures(*a, '--with', *other)
    assert not unpaired['paired_by_seed']
    rows = paired['rows'][0]['figures'], unpaired['rows'][0]['figures']
    widths = [row['interval'][1] - row['interval'][0] for row in rows]
    assert rows[0]['difference'] == pytest.approx(rows[1]['difference'])
    assert widths[1] > 5 * widths[0]
    assert rows[1]['seeds_of'] == ['A', 'B']


def test_a_frozen_network_against_several_seeds(write):
    b = [write(f'b{s}.json', content(0.1, s, draw=s)) for s in (0, 1, 2)]
    found = figures(write('frozen.json', content()), '--with', *b)
    assert found['rows'][0]['figures']['runs'] == [1, 3]
    assert 'training seeds of B; A is one run' in found['text']


def test_a_place_that_no_image_has_does_not_end_the_rest(write):
    a, b = content(), content(0.05, draw=1)
    for record in (a, b):  # two images without small masks, say
        record['datasets']['Set5']['psnr small'] = {'per_image': dict.fromkeys(KEYS, 'nan'), 'options': OPTIONS}
    found = figures(write('a.json', a), write('b.json', b))
    assert [(row['dataset'], row['metric']) for row in found['rows']] == [('Set5', 'psnr'), ('B100', 'psnr')]
    assert 'Not in all files: Set5, psnr small, for any image.' in found['text']


def test_what_has_no_finite_value_is_left_out_and_named(write):
    a, b = content(), content(0.05, draw=1)
    a['datasets']['Set5']['psnr']['per_image']['image3'] = 'inf'
    b['datasets']['Set5']['psnr']['per_image']['image5'] = 'nan'
    found = figures(write('a.json', a), write('b.json', b))
    assert found['rows'][0]['figures']['images'] == 10
    assert found['rows'][0]['not_finite'] == ['image3', 'image5']
    assert 'Set5, psnr: 2 images without a finite value: image3, image5' in found['text']
    assert np.isfinite(found['rows'][0]['figures']['mean_a'])


def test_missing_images_are_refused_unless_common(write):
    b = content(draw=1)
    del b['datasets']['B100']['psnr']['per_image']['image7']
    words = (write('a.json', content()), write('b.json', b))
    assert 'b.json: B100 lacks 1 images that another file has, such as image7' in refused(*words)
    found = figures(*words, '--common')
    assert found['rows'][1]['figures']['images'] == 11
    assert 'B100, psnr: 1 images left out that a file lacks' in found['text']


def test_files_without_an_image_in_common_are_no_arms(write):
    b = content(draw=1)
    b['datasets']['B100']['psnr']['per_image'] = {}
    words = (write('a.json', content()), write('none.json', b))
    assert 'compare: B100, psnr: the files have no image in common; nothing to compare' in refused(*words, '--common')


def test_lower_is_better_where_the_metric_says_so(write):
    a, b = content(), content(0.5)
    for record in (a, b):
        record['datasets']['Set5']['psnr']['options'] = {**OPTIONS, 'better': 'lower'}
    found = figures(write('a.json', a), write('b.json', b))
    assert [row['figures']['better'] for row in found['rows']] == [0, 12]
    assert 'Lower is better: psnr' in found['text']


def test_a_file_of_0_1_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    old = str(OLD / 'metrics.json')
    found = figures(old, old)
    assert [row['metric'] for row in found['rows']] == ['psnr', 'ssim']
    assert found['rows'][0]['figures']['p'] == 1
    assert found['rows'][0]['figures']['equal'] == 2


def _other(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    record = content(draw=1)
    change(record)
    return record


def _per_image(value: Any) -> dict[str, Any]:
    return _other(lambda r: r['datasets']['B100']['psnr']['per_image'].update(image2=value))


BAD: dict[str, tuple[Any, str]] = {
    'text': ('PSNR 32.2', 'b.json: not readable as JSON'),
    'nothing': ('', 'b.json: not readable as JSON'),
    'not UTF-8': ('"\udc80"', 'b.json: '),
    'a list': ([1, 2], "not a metrics.json of sptsr ('datasets' is missing)"),
    'null': (None, "'datasets' is missing"),
    'another format': ({'mean': 32.2}, "'datasets' is missing"),
    'a set that is none': ({'datasets': {'Set5': 3}}, 'Set5 holds no metrics'),
    'a metric that is none': ({'datasets': {'Set5': {'psnr': 32.2}}}, "Set5, psnr: 'per_image' is missing"),
    'deep': ('[' * 100_000, 'nested too deeply'),
    'a long number': (f'{{"datasets": {"9" * 10_000}}}', 'b.json: not'),
    'NaN': ('{"datasets": NaN}', 'NaN is no JSON'),
    'twice': ('{"datasets": {"Set5": {}, "Set5": {}}}', 'a key stands twice'),
    'no number': (_per_image('high'), "B100, psnr, image2: high is no value of a metric"),
    'true': (_per_image(True), 'True is no value'),
    'a list of values': (_per_image([1.0]), '[1.0] is no value'),
    'too great': (_per_image(10**400), 'is no value'),
    'greater than any metric': (_per_image(1e308), 'is no value'),
    'inputs': (_other(lambda r: r.update(inputs=[1])), "'inputs' holds no digests"),
    'a name of control characters': (_other(lambda r: r['datasets'].update({'a\x1b[2J': {}})), 'cannot be printed'),
    'a name that turns the text round': (_other(lambda r: r['datasets'].update({'a\u202eb': {}})), 'cannot be printed'),
    'a surrogate': (_other(lambda r: r['datasets'].update({'a\ud800': {}})), 'cannot be printed'),
    'seed': (_other(lambda r: r.update(seed='one')), "'seed' is no whole number"),
    'images': (_other(lambda r: r.update(images=[1])), "'images' holds no digests"),
    'no set in common': (_other(lambda r: r.update(datasets={'Kodak': {}})), 'no dataset in common'),
    'no metric in common': (_other(lambda r: r.update(datasets={'B100': {}})), 'no metric in common'),
    'other options': (
        _other(lambda r: r['datasets']['Set5']['psnr'].update(options={**OPTIONS, 'crop_border': 0})),
        "measured with {'type': 'calculate_psnr', 'crop_border': 0",
    ),
    'other images': (_other(lambda r: r['images']['Set5'].update(image1='x')), 'image1: measured against another GT'),
    'nothing finite': (
        _other(lambda r: [s['psnr'].update(per_image=dict.fromkeys(KEYS, 'inf')) for s in r['datasets'].values()]),
        'Set5, psnr: no image has a finite value',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_bad_files_are_one_line(write, case: str):
    record, match = BAD[case]
    if case == 'not UTF-8':
        Path('b.json').write_bytes(b'{"a": "\xff\xfe"}')
    else:
        write('b.json', record)
    assert match in refused(write('a.json', content()), 'b.json')


def test_files_that_are_none_and_large_ones_are_refused(write):
    a = write('a.json', content())
    for path in ('/dev/zero', '.', 'nowhere.json'):
        assert path in refused(a, path)
    with open('large.json', 'wb') as handle:
        handle.truncate(257 << 20)
    assert 'large.json: 269484032 bytes, and at most 268435456 are read' in refused(a, 'large.json')


def test_what_a_test_of_many_images_writes_is_read(write):
    record = content()
    names = {key: f'{key}\u202f{n} \u3000.png' for n, key in enumerate(KEYS)}  # blanks of macOS and of Japanese names
    for metrics in record['datasets'].values():
        for one in metrics.values():
            one['per_image'] = {names[key]: value for key, value in one['per_image'].items()}
    record['images'] = record['inputs'] = {}
    file = Path(write('many.json', record))
    with file.open('a') as handle:
        handle.write(' ' * (17 << 20))
    run = read_run(file)
    assert run.datasets['Set5']['psnr'].values.keys() == set(names.values())


def test_arms_that_cannot_be_told_apart_are_refused(write):
    a, b = write('a.json', content(seed=1)), write('b.json', content(seed=1, draw=1))
    assert 'a.json and b.json are both of seed 1' in refused(a, b, '--with', b)
    frozen = write('frozen.json', content(seed=None))
    assert 'frozen.json stands twice; give each run of A once' in refused(frozen, frozen, '--with', b)
    link = Path(frozen).with_name('link.json')
    link.symlink_to(frozen)
    assert 'link.json stands twice' in refused(str(link), frozen, '--with', b)
    before = Path(b).read_bytes()
    done = run_cli('compare', a, b, '--json', './b.json')
    assert (done.returncode, 'would overwrite what is compared' in done.stderr) == (2, True)
    assert Path(b).read_bytes() == before
    for words in ((a,), (a, b, a)):
        assert 'give A.json and B.json, or' in refused(*words)


def test_it_needs_no_torch(write):
    write('a.json', content())
    code = (
        'import sys; import sptsr.report.arm_comparison\n'
        'from sptsr.evaluation.comparison import compare_runs, read_run\n'
        'run = read_run("a.json"); compare_runs([run], [run])\n'
        'loaded = {"torch", "basicsr", "scipy.stats"} & set(sys.modules); assert not loaded, loaded'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_other_lq_images_are_said(write):
    records = [{**content(draw=n), 'inputs': {'Set5': {key: f'{n}{key}' for key in KEYS[:3]}}} for n in range(2)]
    found = figures(write('a.json', records[0]), write('b.json', records[1]))
    assert found['other_inputs'] == {'Set5': 3}
    assert 'Set5: 3 LQ images are not the same in all files, so B - A is of them, too.' in found['text']
    assert 'LQ images' not in figures('a.json', write('old.json', content(draw=1)))['text']


def test_bands_of_other_masks_are_not_compared(write):
    names = []
    for name, masks in (('a', 'humans'), ('b', 'humans'), ('c', 'felzenszwalb'), ('old', None)):
        record = content(draw=len(names))
        psnr = record['datasets']['Set5']['psnr']
        band = {**psnr, 'options': {**OPTIONS, 'band': 'boundary'}, **({'masks': masks} if masks else {})}
        record['datasets']['Set5']['psnr boundary'] = band
        names.append(write(f'{name}.json', record))
    assert len(figures(names[0], names[1])['rows']) == len(figures(names[0], names[3])['rows']) == 3
    found = figures(names[0], names[2])
    assert [row['metric'] for row in found['rows']] == ['psnr', 'psnr']
    assert 'Not in all files: Set5, psnr boundary, along the same masks.' in found['text']
