"""Arms whose runs are not of the same seeds, images or commits: what the table says of them."""

import json
import re

from sptsr.core.files import sha256_file, write_json
from sptsr.study.table import make_plan, write_table
from tests.study.conftest import write_study
from tests.study.test_outputs import GAINS, IMAGES, measure


def _change(plan, arm: str, change) -> None:
    for run in plan.runs:
        for use, test in run.uses:
            if use.arm == arm:
                content = json.loads(run.metrics(test).read_text())
                change(content)
                write_json(run.metrics(test), content)


def test_an_arm_that_was_tested_on_fewer_images_is_compared_on_those(study, tmp_path):
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)

    def lose(content) -> None:
        for record in content['datasets']['photographs'].values():
            record['per_image'].pop('image_0')

    _change(plan, 'frozen', lose)
    (block,) = write_table(plan, tmp_path / 'out')
    images = {one.arm: one.row.figures.images for one in block.against['photographs', 'psnr']}
    assert images == {'frozen': IMAGES - 1, 'SPT': IMAGES, 'masks of other images': IMAGES}
    text = (tmp_path / 'out' / 'table.md').read_text()
    assert re.search('psnr: 1 of 12 images are in no mean.*: image.*0', text)
    assert f'SPT against plain is of {IMAGES} images, and the means are of {IMAGES - 1}' in text


def test_an_arm_that_was_tested_against_other_images_is_not_compared(study, tmp_path):
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    for arm, digest in (('SPT', 'a'), ('plain', 'b')):
        _change(plan, arm, lambda content, own=digest: content['images']['photographs'].update(image_0=own))
    (block,) = write_table(plan, tmp_path / 'out')
    assert {one.arm for one in block.against['photographs', 'psnr']} == {'frozen', 'masks of other images'}
    text = (tmp_path / 'out' / 'table.md').read_text()
    assert re.search('SPT against plain is not compared: .*against another GT image', text)


def test_a_run_says_which_commits_trained_it(study, tmp_path, monkeypatch):
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    run = next(run for run in plan.runs if run.train is not None)
    for now in ('one', 'one', None, 'two+'):
        monkeypatch.setattr('sptsr.study.runs.commit', lambda now=now: now)
        run.prepare()
    assert run.commits == ['one', 'two+']
    run.adapter.parent.mkdir(parents=True)
    run.adapter.touch()
    monkeypatch.setattr('sptsr.study.runs.commit', lambda: 'three')
    run.prepare()  # only tested
    assert run.commits == ['one', 'two+']
    measure(plan, GAINS)
    write_table(plan, tmp_path / 'out')
    record = json.loads((tmp_path / 'out' / 'runs.json').read_text())
    assert {tuple(one['commits']) for one in record['runs'] if one['id'] == run.id} == {('one', 'two+')}


def test_figures_of_an_adapter_that_was_trained_again_are_measured_again(study, tmp_path):
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    run = next(run for run in plan.runs if run.train is not None)
    (test,) = run.tests
    assert run.done  # older files do not say of which adapter they are
    content = json.loads(run.metrics(test).read_text())
    write_json(run.metrics(test), {**content, 'adapter': {'sha256': sha256_file(run.adapter)}})
    assert run.done
    run.adapter.write_bytes(b'another')
    assert run.missing() == [test]
    assert run.trained
