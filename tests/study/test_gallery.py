"""The page of a study: which images it shows, and which arms it is about."""

import json
import shutil
from dataclasses import replace

from sptsr.study.cases import Cases
from sptsr.study.gallery import Gallery
from sptsr.study.table import make_plan
from tests.study.conftest import write_study
from tests.study.test_outputs import GAINS, measure


def test_a_page_without_the_masks_that_are_not_there(study, tmp_path):
    """The stores that a study made may be removed to save space."""
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    (case,) = [case for case in plan.cases.cases if case.arm == 'SPT']
    data = case.test['datasets']['test']
    lost = {**case.test, 'datasets': {'test': {**data, 'dataroot_prior': 'gone'}}}
    run = next(run for run in plan.runs if run.uses[0][0].arm == 'frozen')
    folder = run.metrics(run.uses[0][1]).parent / 'visualization' / 'photographs'
    shutil.copytree(data['dataroot_gt'], folder)
    cases = Cases((replace(case, test=lost), *(c for c in plan.cases.cases if c.arm == 'frozen')), ())
    gallery = Gallery(plan.study, cases, plan.runs, [], [])
    pictures = list(gallery.pictures('IMDN'))
    assert len(pictures) == 4
    assert all(picture.prior is None for picture in pictures)


def test_a_page_shows_no_test_that_failed(study, tmp_path):
    """Its images end where an image could not be read, which is no reason to write no page."""
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    run = next(run for run in plan.runs if run.uses[0][0].arm == 'frozen')
    metrics = run.metrics(run.uses[0][1])
    shutil.copytree(
        plan.cases.cases[0].test['datasets']['test']['dataroot_gt'], metrics.parent / 'visualization' / 'photographs'
    )
    assert len(list(Gallery(plan.study, plan.cases, plan.runs, [], []).pictures('IMDN'))) == 4
    metrics.unlink()
    assert not list(Gallery(plan.study, plan.cases, plan.runs, [], []).pictures('IMDN'))


def test_the_page_is_about_the_arm_that_sees_masks_and_its_control(study, tmp_path):
    study['arms'] = {'plain': study['arms'].pop('plain'), **study['arms']}
    study['control'] = 'masks of other images'
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    gallery = Gallery(plan.study, plan.cases, plan.runs, [], [])
    assert (gallery.tuned, gallery.reference) == ('SPT', 'masks of other images')


def test_a_test_without_the_images_of_the_page_is_not_done(study, tmp_path):
    """Another study, whose first seed is another one, measured the run and kept no images."""
    study['seeds'] = [0, 1]
    plan = make_plan(write_study(tmp_path, study), tmp_path / 'runs')
    measure(plan, GAINS)
    first, second = (
        next((run, test) for run in plan.runs for use, test in run.uses if (use.arm, use.seed) == ('SPT', seed))
        for seed in (0, 1)
    )
    for run, test in (first, second):
        content = json.loads(run.metrics(test).read_text())
        for saved, done in ((True, True), (False, (run, test) == second)):
            run.metrics(test).write_text(json.dumps({**content, 'saved_images': saved}) + '\n' * saved)
            assert run.tested(test) == done
