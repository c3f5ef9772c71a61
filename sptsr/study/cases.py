"""The cases of a study: the option files of each row and arm, merged and checked, and what a user lacks for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sptsr.core.catalogue import find
from sptsr.core.errors import UserError, one_of
from sptsr.core.signatures import argument_problems
from sptsr.core.template import fill_template
from sptsr.core.yaml_io import Lines
from sptsr.options.keys import TOP
from sptsr.options.load import drop_sets, import_plugins_of, make_whole, merge, read_unchecked, report
from sptsr.options.problems import Problem, wrong_values
from sptsr.options.schema import check
from sptsr.options.tune import WITH_UNITS, Tune, tuned_as
from sptsr.study.drafts import Draft, kind_of, leave_out, name_and_arguments, note_lacking, sets_of
from sptsr.study.study_file import CONTROLS, Part, Study

_TRAIN_ONLY = ('train', 'logger')


@dataclass(frozen=True)
class Case:
    """One row with one arm.

    Attributes:
        row, arm: names.
        train: options of the training, without name and seed; None where nothing is trained.
        test: options of the test, without name and adapter.
        prior: how the arm's masks are made from the row's (`shuffle`, `random`, `oracle`); None where they are as
            the options say.
        source: `{source: NAME, ...}`: what makes the masks of the sets, which then need no store; else None.
        shares_masks: whether its masks, or those that `prior` changes, are those of the row.
    """

    row: str
    arm: str
    train: dict[str, Any] | None
    test: dict[str, Any]
    prior: str | None
    source: dict[str, Any] | None
    shares_masks: bool


@dataclass(frozen=True)
class Cases:
    """What of a study can be run here.

    Attributes:
        cases: in the order of the study, rows first.
        left_out: what a user lacks for the rest, one line each.
    """

    cases: tuple[Case, ...]
    left_out: tuple[str, ...]

    def of(self, row: str) -> list[Case]:
        """Returns the cases of a row."""
        return [case for case in self.cases if case.row == row]


def make_cases(study: Study) -> Cases:
    """Merges and checks the options of all rows and arms; imports their plug-ins.

    What is not on this machine (weights, images, stores that option files name) makes no mistake: the test set, the
    arm or the row is left out, and named.

    Raises:
        UserError: one report of all other mistakes; or nothing is left to run.
    """
    drafts = [_draft(study, row, arm) for row in study.rows for arm in study.arms]
    left_out = [line for row in study.rows for line in leave_out(study, [d for d in drafts if d.row is row])]
    drafts = [draft for draft in drafts if not draft.lacks]
    problems: dict[str, None] = {}
    for draft in drafts:
        for line in _mistakes(draft, study):
            problems[line] = None
    if problems:
        found = list(problems)
        raise UserError(found[0] if len(found) == 1 else '\n  '.join([f'{study.path}: {len(found)} mistakes', *found]))
    if not drafts:
        raise UserError('\n  '.join([f'{study.path}: nothing is left to run; datasets/README.md says more', *left_out]))
    cases = [_case(draft) for draft in drafts]
    _check_published(study, cases)
    _check_metrics(study, cases)
    _check_sets(study, cases)
    return Cases(tuple(cases), tuple(left_out))


def _draft(study: Study, row: Part, arm: Part) -> Draft:
    base = {**study.base, **row.base}
    trains = arm.tune != 'none'
    for verb in ('train', 'test') if trains else ('test',):
        if verb not in base:
            raise UserError(
                f"{row.line}: base.{verb} is missing for '{row.name}'; name an option file, e.g. options/{verb}"
            )
    train, test = None, None
    lines: Lines = {}
    if trains:
        train, lines = _merged(base['train'], (row, arm), True)
    test, of_test = _merged(base['test'], (row, arm), False)
    lines = {**lines, **of_test}
    test['path'] = {key: value for key, value in (test.get('path') or {}).items() if key == 'param_key_g'}
    if train is not None:
        train.pop('path', None)
    prior = arm.prior if arm.prior is not None and arm.prior not in CONTROLS else row.prior
    for opt in (train, test):
        if opt is not None:
            _place_priors(opt, prior)
    if arm.tune == 'none':
        _bare(test, f"{arm.line}: '{row.name}', '{arm.name}'")
    elif arm.tune is not None and arm.tune != 'adapter':
        for opt in (train, test):
            assert opt is not None
            opt['network_g'] = tuned_as(opt.get('network_g') or {}, cast(Tune, arm.tune), arm.rank)
    draft = Draft(row, arm, train, test, lines)
    note_lacking(draft)
    return draft


def _case(draft: Draft) -> Case:
    row, arm = draft.row, draft.arm
    asked = arm.prior if arm.prior is not None else row.prior
    return Case(
        row.name,
        arm.name,
        draft.train,
        draft.test,
        asked if isinstance(asked, str) and asked in CONTROLS else None,
        draft.source if draft.test['network_g'].get('type') == 'SPTNet' else None,
        arm.tune != 'none' and (arm.prior is None or arm.prior in CONTROLS),
    )


def _merged(path: Path, parts: Sequence[Part], is_train: bool) -> tuple[dict[str, Any], Lines]:
    """Returns an option file with the changes of row and arm, and where its keys stand."""
    opt, lines = read_unchecked(path)
    for part in parts:
        changes = {key: value for key, value in part.changes.items() if is_train or key not in _TRAIN_ONLY}
        if isinstance(changes.get('datasets'), Mapping):
            wanted = ('train', 'val') if is_train else ('test',)
            # what is no phase at all goes to both, where the check names it
            phases = {phase: data for phase, data in changes['datasets'].items() if kind_of(phase) in (*wanted, '')}
            changes = {**changes, 'datasets': phases}
        opt = merge(opt, changes)
        lines = {**lines, **part.lines}
    problems = wrong_values(opt, TOP, ())
    if problems:  # what comes next looks into these sections
        raise UserError(report(str(path), lines, problems))
    if is_train and isinstance(opt.get('val'), dict):
        opt['val'].pop('bands', None)  # of the test's sets; no set is validated here
    drop_sets(opt)
    make_whole(opt)
    import_plugins_of(opt, lines, path)  # of rows and arms too
    return opt, lines


def _place_priors(opt: dict[str, Any], prior: str | dict[str, Any] | None) -> None:
    """Names the store that a row or an arm asks for in each set; a source makes them later."""
    for _, data in sets_of(opt):
        if isinstance(prior, dict):
            data.pop('dataroot_prior', None)
        elif prior is not None:
            data['dataroot_prior'] = fill_template(prior, str(data.get('name'))) if '{' in prior else prior


def _bare(test: dict[str, Any], where: str) -> None:
    """Puts the network itself in the place of its SPTNet, with its weights, and without masks."""
    network = test.get('network_g')
    if isinstance(network, Mapping) and network.get('type') == 'SPTNet':
        if not isinstance(network.get('backbone'), Mapping):
            raise UserError(f'{where}: tune: none needs network_g.backbone, a section {{type: NAME, ...}}')
        test['network_g'] = dict(network['backbone'])
        test['path'] = {'pretrain_network_g': network['backbone_weights']} if network.get('backbone_weights') else {}
        if network.get('backbone_key'):
            test['path']['param_key_g'] = network['backbone_key']
    for _, data in sets_of(test):
        data.pop('dataroot_prior', None)


def _mistakes(draft: Draft, study: Study) -> Iterator[str]:
    """Yields the mistakes of a case, each with its place."""
    where = f'{draft.arm.line} ({draft.row.name}, {draft.arm.name})'
    named = {'name': 'study', 'manual_seed': 0}
    problems: list[Problem] = []
    if draft.train is not None:
        problems += check({**draft.train, **named}, True)
    problems += check({**draft.test, **named}, False)
    if not any(kind_of(phase) == 'test' for phase, _ in sets_of(draft.test)):
        problems.append((('datasets',), 'datasets: no set is left to test; name one in the option file of the test'))
    if not (draft.test.get('val') or {}).get('metrics'):
        problems.append((('val',), 'val.metrics: a table needs at least one metric'))
    problems += _prior_mistakes(draft)
    for problem in dict.fromkeys(problems):
        yield report(where, draft.lines, [problem])


def _prior_mistakes(draft: Draft) -> list[Problem]:
    """Lists sets without masks for an arm that needs them, and mistakes of a source."""
    prior, source = draft.arm.prior if draft.arm.prior is not None else draft.row.prior, draft.source
    if source is not None:
        name, arguments = name_and_arguments(source)
        try:
            entry = find('source', _registered(name))
        except UserError as error:
            return [(('prior', 'source'), f'prior: {error}')]
        found = argument_problems(entry.parameters() or {}, arguments, f'source {name}')
        return [(('prior', key) if key else ('prior',), f'prior: {message}') for key, message in found]
    problems: list[Problem] = []
    wants = prior in CONTROLS or uses_masks(draft.test.get('network_g'))
    for opt in (draft.train, draft.test) if wants else ():
        for phase, data in sets_of(opt or {}):
            if data.get('dataroot_prior') is None:
                message = (
                    f"datasets.{phase}: '{draft.arm.name}' needs masks, and the set has none; name a store in "
                    'dataroot_prior, or say prior: {source: NAME} of the row'
                )
                problems.append((('datasets', phase), message))
    return problems


def _registered(name: str) -> str:
    """Returns the name that a source is registered by; that of `path/to/file.py:NAME` is imported."""
    if ':' not in name:
        return name
    from sptsr.core.registry import import_named

    return import_named(name)[0]


def uses_masks(network: Any) -> bool:
    """Returns whether a network must be given masks."""
    if not isinstance(network, Mapping) or network.get('type') != 'SPTNet':
        return False
    if network.get('tune', 'adapter') not in WITH_UNITS:
        return False
    from sptsr.core.registry import UNIT_REGISTRY, lookup, register_all  # seconds

    register_all()
    unit = network.get('unit')
    if not isinstance(unit, Mapping | None):
        return False  # the check names it
    try:
        return bool(lookup(UNIT_REGISTRY, str((unit or {}).get('type', 'ModulationUnit'))).uses_masks)
    except UserError:  # the check names it
        return False


def _check_published(study: Study, cases: Sequence[Case]) -> None:
    """Raises UserError for a published figure of a set or a metric that its row does not have."""
    for row, by_arm in study.published.items():
        tests = [case.test for case in cases if case.row == row]
        if not tests:
            continue  # left out
        sets = [str(data.get('name')) for _, data in sets_of(tests[0])]
        metrics = list((tests[0].get('val') or {}).get('metrics') or {})
        for arm, published in by_arm.items():
            for dataset, figures in published.figures.items():
                if dataset not in sets and not _is_left_out(study, row, dataset):
                    raise UserError(f"{published.line}: published: {row} has no set '{dataset}'{one_of(dataset, sets)}")
                for metric in figures:
                    if metric not in metrics:
                        raise UserError(
                            f"{published.line}: published: {row}, {arm}, {dataset}: no metric '{metric}'"
                            f'{one_of(metric, metrics)}'
                        )


def _check_metrics(study: Study, cases: Sequence[Case]) -> None:
    """Raises UserError where two arms of a row measure one metric in different ways: they could not be compared."""
    lines = {arm.name: arm.line for arm in study.arms}
    first: dict[tuple[str, str], tuple[str, Any]] = {}
    for case in cases:
        for metric, options in ((case.test.get('val') or {}).get('metrics') or {}).items():
            arm, own = first.setdefault((case.row, metric), (case.arm, options))
            if own != options:
                raise UserError(
                    f"{lines[case.arm]}: '{case.row}': val.metrics.{metric} is another one for '{case.arm}' than for "
                    f"'{arm}'; measure all arms of a row alike"
                )


def _check_sets(study: Study, cases: Sequence[Case]) -> None:
    """Raises UserError for a row whose arms have no test set in common: nothing of it could be compared."""
    lines = {arm.name: arm.line for arm in study.arms}
    common: dict[str, list[str]] = {}
    for case in cases:
        sets = [str(data.get('name')) for phase, data in sets_of(case.test) if kind_of(phase) == 'test']
        before = common.get(case.row, sets)
        common[case.row] = [name for name in before if name in sets]
        if not common[case.row]:
            raise UserError(
                f"{lines[case.arm]}: '{case.row}': '{case.arm}' is tested on {', '.join(sets)}, and the arms before it "
                f'on {", ".join(before)}; test all arms of a row on the same sets'
            )


def _is_left_out(study: Study, row: str, dataset: str) -> bool:
    """Returns whether the option files of a row name a set that is not there on this machine."""
    part = next(part for part in study.rows if part.name == row)
    opt, _ = _merged({**study.base, **part.base}['test'], (part,), False)
    return any(data.get('name') == dataset for _, data in sets_of(opt))
