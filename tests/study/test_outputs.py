"""What stands in the table, from figures that are made up: marks, intervals, published figures, LaTeX."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sptsr.core.errors import UserError
from sptsr.core.files import write_json
from sptsr.study.latex import escaped
from sptsr.study.outputs import check_folder, read_differences
from sptsr.study.table import far_off, make_plan, write_table
from tests.conftest import run_cli
from tests.study.conftest import write_study

IMAGES = 12


def measure(plan, gains: dict[str, float], spread: float = 0.01) -> None:
    """Writes the figures of all runs: those of the images, what an arm gains, and some noise of seed and image."""
    images = np.random.default_rng(0).normal(30, 3, IMAGES)
    for run in plan.runs:
        for use, test in run.uses:
            noise = np.random.default_rng([len(use.arm), use.seed or 0]).normal(0, spread, IMAGES)
            psnr = images + gains[use.arm] + noise
            if run.train is not None:
                run.adapter.parent.mkdir(parents=True, exist_ok=True)
                run.adapter.touch()
            records = {}
            bands = {
                'psnr boundary': 'boundary',
                'energy': 'small',
            }  # the second is of one's own
            for name, values in (('psnr', psnr), ('ssim', psnr / 40), ('psnr boundary', psnr - 1), ('energy', psnr)):
                options = {'type': 'calculate_psnr', 'better': 'higher'}
                band = {'band': bands[name]} if name in bands else {}
                per_image = {f'image_{n}': float(value) for n, value in enumerate(values)}
                records[name] = {'mean': float(values.mean()), 'per_image': per_image, 'options': {**options, **band}}
            content = {'datasets': {'photographs': records}, 'seed': use.seed, 'images': {'photographs': {}}}
            run.prepare()
            write_json(run.metrics(test), content)


def _table(study, tmp_path, gains, **settings):
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, gains, **settings)
    blocks = write_table(plan, tmp_path / 'out')
    return plan, blocks, (tmp_path / 'out' / 'table.md').read_text()


GAINS = {'frozen': 0.0, 'plain': 0.1, 'SPT': 0.3, 'masks of other images': 0.1}


def test_the_best_is_bold_only_where_it_is_told_apart(study, tmp_path):
    _, blocks, text = _table(study, tmp_path, GAINS)
    marks = {arm: cells['photographs', 'psnr'].mark for arm, cells in blocks[0].lines.items()}
    assert (marks['SPT'], marks['frozen']) == ('best', '')
    assert sorted(marks.values()) == ['', '', 'best', 'second']
    assert re.search(r'\| SPT +\| \*\*\d\d\.\d{3}\*\* <sub>± 0\.\d{3}</sub>', text)
    # no gap between the first two: nothing is bold
    _, blocks, text = _table(study, tmp_path, {**GAINS, 'SPT': 0.1}, spread=0.2)
    marks = {arm: cells['photographs', 'psnr'].mark for arm, cells in blocks[0].lines.items()}
    assert sorted(marks.values()) == ['', '', 'second', 'second']
    assert '**3' not in text
    assert '<u>3' in text


def test_each_arm_against_the_control(study, tmp_path):
    _, blocks, text = _table(study, tmp_path, GAINS)
    found = {one.arm: one for one in blocks[0].against['photographs', 'psnr']}
    assert set(found) == {'frozen', 'SPT', 'masks of other images'}
    figures = found['SPT'].row.figures
    assert figures.difference == pytest.approx(0.2, abs=0.02)
    assert figures.interval[0] < 0.2 < figures.interval[1]
    assert figures.bootstrap[0] < 0.2 < figures.bootstrap[1]
    assert figures.p == 2 / 2**IMAGES
    assert found['SPT'].p_holm == pytest.approx(3 * figures.p)  # frozen has the same p
    assert f'{IMAGES} of {IMAGES}' in text
    parts = {(part.arm, part.part): part for part in blocks[0].parts}
    assert parts['SPT', 'boundary'].difference == pytest.approx(figures.difference)
    assert [parts['SPT', third].images for third in ('hard', 'middling', 'easy')] == [4, 4, 4]
    rows = list(csv.DictReader((tmp_path / 'out' / 'table.csv').read_text().splitlines()))
    assert len(rows) == 4 * 3 + 3 * 4  # of parts: three arms against the control, a band and three thirds
    (one,) = [row for row in rows if (row['arm'], row['metric']) == ('SPT', 'psnr boundary')]
    assert float(one['difference']) == parts['SPT', 'boundary'].difference
    assert ': where the difference lies}' in (tmp_path / 'out' / 'table.tex').read_text()
    assert (one['mean'], one['images']) == ('', str(IMAGES))
    assert read_differences(tmp_path / 'out' / 'table.csv', 'IMDN', 'SPT')['photographs'].keys() == {
        'psnr',
        'ssim',
        'energy',
    }
    record = json.loads((tmp_path / 'out' / 'runs.json').read_text())
    for run in record['runs']:
        verbs = [command.split()[1] for command in run['commands']]
        assert verbs == (['test'] if run['adapter'] is None else ['train', 'test'])
        assert run['adapter_sha256'] is None or len(run['adapter_sha256']) == 64
    # what a command prints is what `sptsr compare` says of the same files
    files = {(c['arm'], c['seed']): c['metrics'] for run in record['runs'] for c in run['cells']}
    words = [files['plain', 0], files['plain', 1], '--with', files['SPT', 0], files['SPT', 1]]
    done = run_cli('compare', *words, '--json', tmp_path / 'compare.json')
    assert done.returncode == 0
    row = next(r for r in json.loads((tmp_path / 'compare.json').read_text())['rows'] if r['metric'] == 'psnr')
    assert row['figures']['interval'] == pytest.approx(list(figures.interval))


def test_a_run_without_results_is_named(study, tmp_path):
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    lost = next(run for run in plan.runs if run.uses[0][0].arm == 'SPT' and run.uses[0][0].seed == 1)
    lost.metrics(lost.uses[0][1]).unlink()
    blocks = write_table(plan, tmp_path / 'out')
    assert 'IMDN, SPT: 1 of 2 runs have results' in (tmp_path / 'out' / 'table.md').read_text()
    assert len(blocks[0].lines['SPT']['photographs', 'psnr'].means) == 1
    (one,) = [one for one in blocks[0].against['photographs', 'psnr'] if one.arm == 'SPT']
    assert one.row.figures.runs == (1, 1)  # paired by the seed that both have
    text = (tmp_path / 'out' / 'table.md').read_text()
    assert 'IMDN: photographs, psnr: SPT against plain is of the seeds that both have, 1; the means are of all' in text


def test_a_metric_that_an_arm_lacks_is_named(study, tmp_path):
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    run = next(run for run in plan.runs if run.uses[0][0].arm == 'frozen')
    content = json.loads(run.metrics(run.uses[0][1]).read_text())
    del content['datasets']['photographs']['ssim']
    write_json(run.metrics(run.uses[0][1]), content)
    (block,) = write_table(plan, tmp_path / 'out')
    assert block.columns == (('photographs', 'psnr'), ('photographs', 'energy'))
    assert block.notes == ('IMDN: photographs, ssim is left out: not all arms have it',)


def test_published_figures(study, tmp_path, monkeypatch):
    mean = float(np.random.default_rng(0).normal(30, 3, IMAGES).mean())
    study['published'] = {'IMDN': {'frozen': {'photographs': {'psnr': round(mean, 2)}, 'source': 'A. Uthor, 2019'}}}
    plan, blocks, text = _table(study, tmp_path, GAINS)
    assert f'*({round(mean, 2):g})*' in text
    assert 'IMDN, frozen: published by A. Uthor, 2019' in text
    assert far_off(plan.study, blocks, 0.02) == []
    (line,) = far_off(plan.study, blocks, 1e-6)
    assert line.startswith('IMDN, frozen, photographs, psnr: ')
    words = ['table', tmp_path / 'study.yml', '--runs', tmp_path / 'runs', '-o', tmp_path / 'out', '--report-only']
    assert run_cli(*words, '--check', '0.02').returncode == 0
    done = run_cli(*words, '--check', '1e-6')
    assert (done.returncode, '--check 1e-06: IMDN, frozen' in done.stderr) == (1, True)
    assert run_cli(*words, '--check', '-1').returncode == 2
    # what was left out has no result, so a check without it is not passed
    assert far_off(plan.study, [], 0.02) == [f'IMDN, frozen, photographs, psnr: no result, published {mean:.2f}']


def test_another_protocol_than_the_published_one_is_said(study, tmp_path, photographs):
    from sptsr.study.protocol import protocol_notes

    data = {'name': 'Set5', 'dataroot_gt': str(photographs / 'GTx4'), 'dataroot_lq': str(photographs / 'LRx4')}
    metric = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}
    test = {'scale': 4, 'datasets': {'test': data}, 'val': {'metrics': {'psnr': metric}}}
    assert list(protocol_notes('IMDN', test, True)) == []
    wrong = {**test, 'val': {'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}}}
    assert list(protocol_notes('IMDN', wrong, True)) == [
        'IMDN, Set5, psnr: shaves 0 pixels; figures are published with 4',
        'IMDN, Set5, psnr: on RGB; figures are published on Y',
    ]
    swapped = tmp_path / 'LR'
    shutil.copytree(photographs / 'LRx4', swapped)
    import cv2

    for path in swapped.glob('*.png'):
        gt = cv2.imread(str(photographs / 'GTx4' / path.name))
        cv2.imwrite(str(path), gt[::4, ::4])  # nearest
    other = {**test, 'datasets': {'test': {**data, 'dataroot_lq': str(swapped)}}}
    (note,) = protocol_notes('IMDN', other, True)
    assert "LR images are not MATLAB's bicubic" in note
    assert (
        list(protocol_notes('IMDN', {**test, 'datasets': {'test': {'name': 'Set5', 'dataroot_lq': 'x'}}}, True)) == []
    )
    noise = {'name': 'CBSD68', 'dataroot_gt': 'x', 'sigma': 25}
    denoising = {'scale': 1, 'datasets': {'test': noise}, 'val': {'metrics': {'psnr': metric}}}
    assert [note.split(': ')[1] for note in protocol_notes('FFDNet', denoising, True)] == [
        'shaves 4 pixels; figures are published with 0',
        'on Y; figures are published on RGB',
        'the noise is another draw than that of published figures',
    ]


def test_a_folder_of_another_study_is_refused(study, tmp_path):
    plan, _, _ = _table(study, tmp_path, GAINS)
    other = tmp_path / 'other.yml'
    other.write_text((tmp_path / 'study.yml').read_text())
    with pytest.raises(UserError, match=r'out: holds the results of another study \(\S+/study.yml\)'):
        write_table(make_plan(other, tmp_path / 'runs'), tmp_path / 'out')
    (tmp_path / 'elsewhere').mkdir()
    namesake = tmp_path / 'elsewhere' / 'study.yml'
    namesake.write_text((tmp_path / 'study.yml').read_text().replace('options/', '../options/'))
    with pytest.raises(UserError, match=r'out: holds the results of another study \(\S+/study.yml\)'):
        check_folder(tmp_path / 'out', make_plan(namesake, tmp_path / 'runs').study)
    check_folder(tmp_path / 'out', plan.study)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').touch()
    with pytest.raises(UserError, match=r'mine: holds thesis.tex and no runs.json'):
        write_table(plan, tmp_path / 'mine')
    (tmp_path / 'killed').mkdir()
    (tmp_path / 'killed' / '.tmp-a.json').touch()  # by a kill while the first file was written
    check_folder(tmp_path / 'killed', plan.study)


HOSTILE = r'50 % & \input{x} _$^~#{}<>|"' + "'\u00e9\u00d7\u00b1\u6f22"


def test_a_table_before_anything_has_run(study, tmp_path):
    """`--report-only` of a fresh study: its stores are not there yet."""
    study['rows'] = {'IMDN': {'prior': {'source': 'felzenszwalb'}}}
    study['columns'] = ['params']
    file = write_study(tmp_path, study)
    done = run_cli('table', file, '--runs', tmp_path / 'runs', '-o', tmp_path / 'out', '--report-only', '--figures')
    assert done.returncode == 0, done.stderr
    assert 'IMDN, SPT: 0 of 2 runs have results' in done.stdout
    assert (tmp_path / 'out' / 'report.html').is_file()


def test_rows_whose_names_make_one_file_get_files_of_their_own(study, tmp_path):
    pytest.importorskip('matplotlib')
    study['columns'] = ['params']
    study['rows'] = {'a b': {}, 'a/b': {}}
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    write_table(plan, tmp_path / 'out', figures=True)
    names = {path.name for path in (tmp_path / 'out' / 'figures').glob('*_params_K.svg')}
    assert names == {'a_b_params_K.svg', 'a_b_2_params_K.svg'}


def test_names_mean_nothing_in_latex():
    assert escaped(r'\input{x}') == r'\textbackslash{}input\{x\}'
    assert escaped('50 % & _x') == r'50 \% \& \_x'
    assert escaped('漢') == '?'
    assert escaped('[x] y') == '{[}x{]} y'  # behind \\item or \\\\ it would be an option


@pytest.mark.skipif(shutil.which('pdflatex') is None, reason='pdflatex is not installed')
def test_the_latex_compiles(study, tmp_path):
    study['title'] = HOSTILE
    study['rows'] = {HOSTILE: {}}
    study['arms'] = {**study['arms'], HOSTILE: {'prior': 'random'}}
    _, _, text = _table(study, tmp_path, {**GAINS, HOSTILE: 0.2})
    assert '\\<' in text
    done = subprocess.run(
        ['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'table.tex'],
        cwd=tmp_path / 'out',
        capture_output=True,
        text=True,
        errors='replace',
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert Path('out/table.pdf').stat().st_size > 10_000
    assert 'Overfull' not in done.stdout


def test_what_the_networks_cost_stands_beside_their_figures(study, tmp_path, monkeypatch):
    monkeypatch.setattr('sptsr.study.costs.INPUT', (32, 32))
    study['columns'] = ['params', 'macs', 'latency', 'memory']
    study['arms'] = {**study['arms'], 'all': {'tune': 'all'}}
    del study['arms']['plain']
    study['control'] = 'SPT'
    _, blocks, text = _table(study, tmp_path, {**GAINS, 'all': 0.2})
    costs = blocks[0].costs
    own = costs['frozen']
    assert own['trained (K)'] == 0
    for arm in ('SPT', 'masks of other images'):
        added = costs[arm]['params (K)'] - own['params (K)']
        assert added == pytest.approx(costs[arm]['trained (K)']) == pytest.approx(2.664)
        assert costs[arm]['MACs (G), 256x256 input'] > own['MACs (G), 256x256 input'] > 0
        assert costs[arm]['MB, training step'] > 0
    assert 'MB, training step' not in own
    assert costs['all']['params (K)'] == costs['all']['trained (K)'] == own['params (K)']
    assert costs['all']['MACs (G), 1280x720 output'] == own['MACs (G), 1280x720 output']
    assert costs['SPT'] is costs['masks of other images']  # measured once
    assert '| params (K) |' in text
    assert 'MACs are those of convolutions' in text
    rows = list(csv.DictReader((tmp_path / 'out' / 'table.csv').read_text().splitlines()))
    (row,) = [row for row in rows if (row['arm'], row['metric']) == ('SPT', 'params (K)')]
    assert float(row['mean']) == pytest.approx(costs['SPT']['params (K)'])
    assert 'MACs (G),\\\\1280x720 output' in (tmp_path / 'out' / 'table.tex').read_text()


def test_figures_are_drawn(study, tmp_path):
    pytest.importorskip('matplotlib')
    study['columns'] = ['params']
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    write_table(plan, tmp_path / 'out', figures=True)
    names = {path.name for path in (tmp_path / 'out' / 'figures').iterdir()}
    assert names == {f'IMDN_{cost}_K.{kind}' for cost in ('params', 'trained') for kind in ('pdf', 'svg')}


def test_a_run_without_a_finite_value_leaves_a_table(study, tmp_path):
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    for run in plan.runs:
        metrics = run.metrics(run.uses[0][1])
        content = json.loads(metrics.read_text())
        if run.uses[0][0].arm == 'SPT':
            content['datasets']['photographs']['ssim']['per_image'] = dict.fromkeys(
                content['datasets']['photographs']['ssim']['per_image'], 'nan'
            )
        content['inputs'] = {'photographs': {'image_0': run.uses[0][0].arm}}
        write_json(metrics, content)
    (block,) = write_table(plan, tmp_path / 'out')
    text = (tmp_path / 'out' / 'table.md').read_text()
    assert block.lines['SPT']['photographs', 'ssim'].mean is None
    assert 'photographs, ssim: SPT has no mean' in text
    assert 'photographs: 1 LQ images are not the same for all arms' in text
