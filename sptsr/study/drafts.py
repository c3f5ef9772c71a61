"""Drafts of the cases of a study, and what a user lacks for them: that is left out, and named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError, nearest
from sptsr.core.homes import expanded
from sptsr.core.yaml_io import Lines
from sptsr.study.study_file import CONTROLS, Part, Study

_FILES_OF_SOURCES = ('dir', 'names', 'checkpoint')  # arguments of our sources; another's may mean something else


@dataclass
class Draft:
    """A case with where its keys stand, and what is not there for it."""

    row: Part
    arm: Part
    train: dict[str, Any] | None
    test: dict[str, Any]
    lines: Lines
    lacks: list[str] = field(default_factory=list)
    lacking_sets: dict[str, str] = field(default_factory=dict)  # phase: what is not there

    @property
    def source(self) -> dict[str, Any] | None:
        """What makes the masks of the sets, or those that a control is made from; None where stores are named."""
        asked = self.arm.prior if self.arm.prior is not None else self.row.prior
        made = self.row.prior if asked in CONTROLS else asked
        return made if isinstance(made, dict) else None


def name_and_arguments(source: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the name of a source and its arguments from `{source: NAME, ...}`."""
    return str(source['source']), {key: value for key, value in source.items() if key != 'source'}


def kind_of(phase: str) -> str:
    """Returns train, val or test of a set's name in the options; empty for another name."""
    kind = phase.split('_')[0]
    return kind if kind in ('train', 'val', 'test') else ''


def sets_of(opt: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the sets of some options that are sections, by their names there."""
    datasets = opt.get('datasets')
    for phase, data in datasets.items() if isinstance(datasets, Mapping) else ():
        if isinstance(data, dict):
            yield phase, data


def note_lacking(draft: Draft) -> None:
    """Notes the files and folders that are not on this machine, sets of a test by their phase; drops validations."""
    source = (draft.source if draft.arm.tune != 'none' else None) or {}
    for name in _FILES_OF_SOURCES if ':' not in str(source.get('source')) else ():
        file = source.get(name)
        if isinstance(file, str) and not Path(expanded(file)).exists():
            draft.lacks.append(file)
    for opt in (draft.train, draft.test):
        if opt is None:
            continue
        network, path = opt.get('network_g'), opt.get('path') or {}
        weights = _weights(network) if isinstance(network, Mapping) else []
        for file in [*weights, path.get('pretrain_network_g')]:
            if isinstance(file, str) and not Path(expanded(file)).is_file():
                draft.lacks.append(file)
        for phase, data in list(sets_of(opt)):
            if kind_of(phase) == 'val':
                del opt['datasets'][phase]  # the table makes no use of validations, and they take a tenth of the time
                continue
            lacking = next(
                (
                    value
                    for key, value in data.items()
                    if key.startswith('dataroot_') and isinstance(value, str) and not Path(expanded(value)).is_dir()
                ),
                None,
            )
            if lacking is None:
                continue
            if kind_of(phase) == 'train':
                draft.lacks.append(lacking)
            else:
                draft.lacking_sets[phase] = lacking
    if isinstance(draft.arm.prior, str) and draft.arm.prior not in CONTROLS and draft.lacking_sets:
        guess = nearest(draft.arm.prior, CONTROLS)
        if guess and not Path(draft.arm.prior).exists():
            raise UserError(f'{draft.arm.line}: prior: {draft.arm.prior}: no such store{guess}')


def _weights(network: Mapping[str, Any]) -> list[Any]:
    """Returns the files of weights that a network names; spandrel's networks name theirs in `path`."""
    backbone = network.get('backbone')
    inner = _weights(backbone) if isinstance(backbone, Mapping) else []
    return [network.get('backbone_weights'), network.get('path') if network.get('type') == 'spandrel' else None, *inner]


def _lacks_own_masks(draft: Draft, drafts: Sequence[Draft]) -> bool:
    """Returns whether there is no set left for an arm of all that are there for another one that is trained."""
    there = {
        phase
        for other in drafts
        for phase, _ in sets_of(other.test)
        if other.arm.tune != 'none' and phase not in other.lacking_sets
    }
    return bool(there) and there <= draft.lacking_sets.keys()


def leave_out(study: Study, drafts: list[Draft]) -> list[str]:
    """Takes out of a row what a user lacks; returns a line for each thing. `lacks` stays where a case cannot be run."""
    lines = []
    row = drafts[0].row.name
    for draft in drafts:
        if _lacks_own_masks(draft, drafts):
            draft.lacks += draft.lacking_sets.values()
    rest = [draft for draft in drafts if not draft.lacks] or drafts  # what an arm lacks alone takes no set from others
    sets: dict[str, str] = {phase: path for draft in rest for phase, path in draft.lacking_sets.items()}
    for phase, path in sets.items():  # all arms of a row see the same images
        names = [draft.test['datasets'].pop(phase, {}).get('name') for draft in drafts]
        name = next((name for name in names if name), phase)
        lines.append(f'{row}: {name} is left out: {path} is not there')
    lacked = {draft.arm.name: draft.lacks[0] for draft in drafts if draft.lacks}
    if sets and not any(kind_of(phase) == 'test' for phase, _ in sets_of(drafts[0].test)):
        lacked = {draft.arm.name: next(iter(sets.values())) for draft in drafts}
    if study.control in lacked or len(lacked) == len(drafts):
        reason = lacked.get(study.control or '') or next(iter(lacked.values()))
        for draft in drafts:
            draft.lacks = draft.lacks or [reason]
        return [f'{row} is left out: {reason} is not there']
    return lines + [f'{row}, {arm} is left out: {path} is not there' for arm, path in lacked.items()]
