"""What a study file may say: each mistake in one line with its place, before anything runs."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from sptsr.core.errors import UserError
from sptsr.study.cases import make_cases
from sptsr.study.study_file import read_study
from sptsr.study.table import make_plan
from tests.conftest import run_cli
from tests.study.conftest import write_study


def _change(content: dict, path: str, value: object) -> dict:
    content = copy.deepcopy(content)
    section = content
    *keys, last = path.split('/')
    for key in keys:
        section = section.setdefault(key, {})
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return content


MISTAKES = [
    ('arm', {}, r"study.yml:\d+: unknown key 'arm'; did you mean 'arms'"),
    ('arms/GT', {}, r"'GT' is what the report calls other pictures; choose another name"),
    ('arms/SPT', {'tuna': 'none'}, r"study.yml:\d+: unknown key 'arms.SPT.tuna'; did you mean 'tune'"),
    ('arms/SPT', {'tune': 'lore', 'rank': 4}, r"study.yml:\d+: arms.SPT.tune: 'lore'; did you mean 'lora'"),
    ('arms/SPT', {'rank': 4}, r'study.yml:\d+: arms.SPT.rank: .* for tune: lora and adapter\+lora only'),
    ('arms/SPT', {'prior': 'shufle'}, r"study.yml:\d+.*shufle: no such store; did you mean 'shuffle'"),
    ('arms/SPT', {'prior': {'source': 'felsenszwalb'}}, r"study.yml:\d+.*did you mean 'felzenszwalb'"),
    ('arms/SPT', {'prior': {'source': 'felzenszwalb', 'scale': [50]}}, r"study.yml:\d+.*takes no 'scale'.*'scales'"),
    ('arms/SPT', {'network_g': {'unit': {'type': 'PlainUnt'}}}, r"study.yml:\d+: .*did you mean 'PlainUnit'"),
    ('arms/SPT', {'network_g': {'unit': 'PlainUnit'}}, r'study.yml:\d+: .*unit'),
    ('arms/SPT', {'train': {'total_iters': 5}}, r"study.yml:\d+: unknown key 'train.total_iters'.*'total_iter'"),
    ('arms/SPT', {'datasets': {'tset': {}}}, r"study.yml:\d+: datasets: 'tset' must be"),
    ('arms/SPT', {'manual_seed': 3}, r'study.yml:\d+: arms.SPT.manual_seed: give seeds'),
    ('arms/SPT', {'path': {'pretrain_network_g': 'x'}}, r'study.yml:\d+: .*pretrain_network_g: the study sets it'),
    ('arms/SPT', {'prior': ''}, r"study.yml:\d+: arms.SPT.prior: '' is neither shuffle"),
    ('arms/frozen', {'tune': 'none', 'prior': 'random'}, r'study.yml:\d+: arms.frozen.prior: .* sees no masks'),
    (
        'arms/frozen',
        {'tune': 'none', 'train': {'total_iter': 9}},
        r'study.yml:\d+: arms.frozen.train: .* is not trained',
    ),
    ('arms/SPT', {'prior': 'a/{x}'}, r"study.yml:\d+: arms.SPT.prior: 'a/{x}' must hold {} once, for the set's name"),
    ('arms/SPT', {'path': ['x']}, r'study.yml:\d+: arms.SPT.path must be a section'),
    ('rows/IMDN', {'prior': 'oracle'}, r'study.yml:\d+: rows.IMDN.prior: oracle .* say it of an arm'),
    ('rows/IMDN', {'tune': 'none'}, r"study.yml:\d+: unknown key 'rows.IMDN.tune'"),
    ('rows/IMDN', 3, r'study.yml:\d+: rows.IMDN must be a section'),
    ('rows/a\tb', {}, r'study.yml:\d+: rows: .* cannot be a name'),
    ('rows', {}, r"study.yml: 'rows' is missing"),
    ('control', ..., r"study.yml: 'control' is missing"),
    ('control', 'plane', r"study.yml:\d+: control: no arm is called 'plane'; did you mean 'plain'"),
    ('seeds', [0, 1, 0], r'study.yml:\d+: seeds: 0 stands twice'),
    ('seeds', [], r'study.yml:\d+: seeds: '),
    ('seeds', [-1], r'study.yml:\d+: seeds: '),
    ('seeds', ['0'], r'study.yml:\d+: seeds: '),
    ('seeds', [True], r'study.yml:\d+: seeds: '),
    ('columns', ['parms'], r"study.yml:\d+: columns: 'parms'; did you mean 'params'"),
    ('base/test', 'none.yml', r'study.yml:\d+: base.test: none.yml: no such file; it is relative'),
    ('base/tests', 'x.yml', r"study.yml:\d+: base: unknown key 'tests'; did you mean 'test'"),
    ('base/train', ..., r"study.yml:\d+: base.train is missing for 'IMDN'"),
    ('published', {'IMDM': {}}, r"study.yml:\d+: published: no row is called 'IMDM'; did you mean 'IMDN'"),
    ('published', {'IMDN': {'forzen': {}}}, r"study.yml:\d+: .*no arm is called 'forzen'; did you mean 'frozen'"),
    (
        'published',
        {'IMDN': {'frozen': {'photograph': {'psnr': 30}}}},
        r"study.yml:\d+: published: IMDN has no set 'photograph'; did you mean 'photographs'",
    ),
    (
        'published',
        {'IMDN': {'frozen': {'photographs': {'psrn': 30}}}},
        r"study.yml:\d+: .*no metric 'psrn'; did you mean 'psnr'",
    ),
    ('published', {'IMDN': {'frozen': {'photographs': {'psnr': 'x'}}}}, r'study.yml:\d+: .* must be figures by metric'),
]


@pytest.mark.parametrize(('path', 'value', 'expected'), MISTAKES, ids=[f'{p}={v}' for p, v, _ in MISTAKES])
def test_a_mistake_is_said_with_its_place(study, tmp_path, path, value, expected):
    file = write_study(tmp_path, _change(study, path, value))
    done = run_cli('table', file, '--dry-run')
    assert done.returncode == 2
    message = done.stderr.strip()
    assert re.search(expected, message), message
    assert 'Traceback' not in message
    assert not (tmp_path / 'results').exists()


def test_what_a_command_cannot_do_is_said_before_anything_runs(study, tmp_path, monkeypatch):
    file = write_study(tmp_path, study)
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    for words, expected in (
        (['--jobs', '0'], '--jobs 0: must be in 1..1024'),
        (['--jobs', '2', '--gpus', '0,1'], '--jobs: with --gpus one run at a time'),
        (['--gpus', '0,2'], '--gpus 0,2: no GPU 2 here, of 2'),
        (['--check', '0.01'], 'has no published figures'),
        (['-o', '/proc/out'], '/proc/out: cannot write to it'),
    ):
        done = run_cli('table', file, *words)
        assert (done.returncode, done.stderr.count('\n'), expected in done.stderr) == (2, 1, True), done.stderr
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    assert 'no GPU 0 here' in run_cli('table', file, '--gpus', '0').stderr
    monkeypatch.setattr('sptsr.commands.table_command.find_spec', lambda name: None)
    assert (
        "--figures: matplotlib is not installed; pip install 'sptsr[figures]'"
        in run_cli('table', file, '--figures').stderr
    )
    assert not [path for path in tmp_path.glob('results/runs/*') if path.is_dir()]


def test_two_arms_of_one_name(study, tmp_path):
    file = write_study(tmp_path, study)
    text = file.read_text()
    file.write_text(text.replace('  SPT: {}\n', '  SPT: {}\n  SPT: {}\n'))
    with pytest.raises(UserError, match="'SPT' stands twice in this section"):
        read_study(file)
    file.write_text(text.replace('  IMDN: {}\n', '  IMDN: {}\n  IMDN: {}\n'))
    with pytest.raises(UserError, match="'IMDN' stands twice in this section"):
        read_study(file)


def test_a_set_without_priors_for_an_arm_that_needs_them(study, tmp_path):
    options = tmp_path / 'options' / 'test.yml'
    options.write_text(re.sub(r'    dataroot_prior: .*\n', '', options.read_text()))
    with pytest.raises(UserError, match=r"datasets.test: 'SPT' needs masks, and the set has none"):
        make_cases(read_study(write_study(tmp_path, study)))
    study['arms'] = {'frozen': {'tune': 'none'}, 'plain': study['arms']['plain']}
    assert len(make_cases(read_study(write_study(tmp_path, study))).cases) == 2


def test_rows_and_arms_are_merged_into_both_files(study, tmp_path):
    study['rows'] = {'wide': {'network_g': {'unit': {'width': 12}}, 'val': {'metrics': {'ssim': {'crop_border': 2}}}}}
    cases = {case.arm: case for case in make_cases(read_study(write_study(tmp_path, study))).cases}
    spt, plain, frozen = (cases[name] for name in ('SPT', 'plain', 'frozen'))
    assert spt.train is not None
    for opt in (spt.train, spt.test):
        assert opt['network_g']['unit'] == {'type': 'ModulationUnit', 'width': 12}
        assert opt['val']['metrics']['ssim'] == {'type': 'calculate_ssim', 'crop_border': 2, 'test_y_channel': True}
    # another type replaces the section
    assert plain.test['network_g']['unit'] == {'type': 'PlainUnit', 'width': 8}
    assert (frozen.train, frozen.test['network_g']['type']) == (None, 'IMDN')
    assert frozen.test['path'] == {'pretrain_network_g': spt.test['network_g']['backbone_weights']}
    assert all('dataroot_prior' not in data for data in frozen.test['datasets'].values())


def test_an_arm_may_bring_a_plugin(study, tmp_path):
    plugin = tmp_path / 'unit_of_an_arm.py'
    plugin.write_text(
        'from sptsr.archs.units import ModulationUnit\nfrom sptsr.core.registry import UNIT_REGISTRY, register\n\n\n'
        '@register(UNIT_REGISTRY)\nclass UnitOfAnArm(ModulationUnit):\n    pass\n'
    )
    study['arms']['own'] = {'plugins': [str(plugin)], 'network_g': {'unit': {'type': 'UnitOfAnArm', 'width': 8}}}
    cases = {case.arm: case for case in make_cases(read_study(write_study(tmp_path, study))).cases}
    assert cases['own'].test['network_g']['unit'] == {'type': 'UnitOfAnArm', 'width': 8}
    assert (cases['own'].test['plugins'], cases['SPT'].test.get('plugins')) == ([str(plugin)], None)
    study['arms']['own']['plugins'] = [3]
    with pytest.raises(UserError, match=r'study.yml:\d+: plugins must be a list of modules and .py files'):
        make_cases(read_study(write_study(tmp_path, study)))


@pytest.mark.parametrize(
    ('key', 'value', 'arm'), [('path', 'x', {}), ('datasets', [1], {}), ('network_g', 'x', {'tune': 'lora'})]
)
def test_an_option_file_whose_sections_are_none(study, tmp_path, key, value, arm):
    path = tmp_path / 'options' / 'test.yml'
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))
    study['arms']['own'] = arm
    with pytest.raises(UserError, match=rf'test\.yml:\d+: {key} must be a section'):
        make_cases(read_study(write_study(tmp_path, study)))


def test_option_files_in_the_home_folder(study, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    study['base'] = {key: f'~/{file}' for key, file in study['base'].items()}
    assert make_cases(read_study(write_study(tmp_path, study))).cases


def test_what_a_user_lacks_is_left_out_and_named(study, tmp_path, photographs):
    study['rows'] = {
        'IMDN': {'datasets': {'test_2': {**_test_set(tmp_path), 'name': 'Urban100', 'dataroot_gt': 'no/Urban100'}}},
        'RCAN': {'network_g': {'backbone_weights': 'weights/none.pth'}},
    }
    cases = make_cases(read_study(write_study(tmp_path, study)))
    assert {case.row for case in cases.cases} == {'IMDN'}
    assert all(list(case.test['datasets']) == ['test'] for case in cases.cases)
    assert cases.left_out == (
        'IMDN: Urban100 is left out: no/Urban100 is not there',
        'RCAN is left out: weights/none.pth is not there',
    )
    del study['rows']['IMDN']
    with pytest.raises(UserError, match=r'nothing is left to run(.|\n)*weights/none.pth'):
        make_cases(read_study(write_study(tmp_path, study)))


def test_masks_that_one_arm_lacks_take_nothing_from_the_others(study, tmp_path):
    study['arms']['SAM'] = {'prior': 'no/{}_sam'}
    cases = make_cases(read_study(write_study(tmp_path, study)))
    assert {case.arm for case in cases.cases} == {'frozen', 'plain', 'SPT', 'masks of other images'}
    assert cases.left_out == ('IMDN, SAM is left out: no/photographs_sam is not there',)
    study['arms']['SAM'] = {'prior': {'source': 'labels', 'dir': 'no/labels'}}
    cases = make_cases(read_study(write_study(tmp_path, study)))
    assert cases.left_out == ('IMDN, SAM is left out: no/labels is not there',)
    # also where the training's masks are there
    there = {**_test_set(tmp_path), 'dataroot_prior': 'no/masks'}
    study['arms']['SAM'] = {'datasets': {'test': there}}
    cases = make_cases(read_study(write_study(tmp_path, study)))
    assert cases.left_out == ('IMDN, SAM is left out: no/masks is not there',)
    # a set that some arm cannot be measured on is measured for none
    study['arms']['SAM'] = {}
    study['rows'] = {'IMDN': {'datasets': {'test_2': {**there, 'name': 'second'}}}}
    cases = make_cases(read_study(write_study(tmp_path, study)))
    assert cases.left_out == ('IMDN: second is left out: no/masks is not there',)


def test_a_study_without_sets_or_metrics_is_refused_before_it_runs(study, tmp_path):
    for changes, message in (
        ({'datasets': {'test': None}}, r'study.yml:\d+: datasets: no set is left to test'),
        ({'val': {'metrics': None}}, 'val.metrics: a table needs at least one metric'),
    ):
        with pytest.raises(UserError, match=message):
            make_cases(read_study(write_study(tmp_path, {**study, 'rows': {'IMDN': changes}})))


def test_places_of_ones_own_count_before_those_of_the_row(study, tmp_path, photographs):
    bands = {'photographs': str(photographs / 'prior' / '..' / 'prior')}
    study['arms']['SPT'] = {'val': {'bands': bands}}
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    tests = [(use.arm, run.tests[test]['val']['bands']) for run in plan.runs for use, test in run.uses]
    assert {arm for arm, own in tests if own == bands} == {'SPT'}
    assert {str(own) for arm, own in tests if arm != 'SPT'} == {str({'photographs': str(photographs / 'prior')})}


def _test_set(folder: Path) -> dict:
    import yaml

    return yaml.safe_load((folder / 'options' / 'test.yml').read_text())['datasets']['test']


def test_a_set_can_be_taken_out(study, tmp_path):
    study['rows'] = {'IMDN': {'datasets': {'test_2': {**_test_set(tmp_path), 'name': 'again'}, 'test': None}}}
    cases = make_cases(read_study(write_study(tmp_path, study)))
    assert all(list(case.test['datasets']) == ['test_2'] for case in cases.cases)


def test_arms_of_a_row_are_measured_alike(study, tmp_path):
    """It was said after all trainings, and there was no table then."""
    study['arms']['SPT'] = {'val': {'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}}}
    with pytest.raises(UserError, match=r"study.yml:\d+: 'IMDN': val.metrics.psnr is another one for 'SPT' than for"):
        make_plan(write_study(tmp_path, study), tmp_path / 'runs')


def test_arms_of_a_row_share_a_test_set(study, tmp_path):
    """The table had no column left, which was seen after all trainings."""
    renamed = {'test': None, 'test_2': {**_test_set(tmp_path), 'name': 'again'}}
    study['arms']['SPT'] = {'datasets': renamed}
    message = r"study.yml:\d+: 'IMDN': 'SPT' is tested on again, and the arms before it on photographs; test all arms"
    with pytest.raises(UserError, match=message):
        make_cases(read_study(write_study(tmp_path, study)))
    study['arms']['SPT'] = {'datasets': {'test_2': renamed['test_2']}}
    assert len(make_cases(read_study(write_study(tmp_path, study))).cases) == len(study['arms'])
