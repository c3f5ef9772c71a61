"""The runs of a study: each distinct training once, with the tests of it that the table needs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import yaml

from sptsr.core.errors import UserError
from sptsr.core.files import read_json, sha256_file, write_json, write_text
from sptsr.core.locks import try_lock
from sptsr.core.version import commit
from sptsr.evaluation.records import LARGEST
from sptsr.study.cases import Case
from sptsr.study.digests import Digests
from sptsr.study.identity import identity, test_record, training_record
from sptsr.study.steps import threads
from sptsr.study.stores import Recipe, Stores
from sptsr.tuning.adapter_files import latest_file

_ITERATION = re.compile(rb'iter: *([\d,]+)')


@dataclass(frozen=True)
class Use:
    """Where a run stands in the table; `seed` is None where nothing is trained."""

    row: str
    arm: str
    seed: int | None

    def __str__(self) -> str:
        return f'{self.row}, {self.arm}' + ('' if self.seed is None else f', seed {self.seed}')


@dataclass
class Run:
    """A training, or a network without one, and its tests.

    Attributes:
        id: digest of what decides the adapter.
        home: folder of the run.
        record: what `id` is the digest of.
        train: its options; None where nothing is trained.
        tests: options of its tests by their digest.
        uses: where it stands in the table, each with the digest of its test.
        needs: stores that are made for its sets.
    """

    id: str
    home: Path
    record: dict[str, Any]
    train: dict[str, Any] | None
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    uses: list[tuple[Use, str]] = field(default_factory=list)
    needs: list[Recipe] = field(default_factory=list)
    looked: dict[str, tuple[tuple[Any, ...], bool]] = field(default_factory=dict, repr=False)  # see `tested`

    @property
    def name(self) -> str:
        """What to call it: its first place in the table."""
        return str(self.uses[0][0])

    @property
    def adapter(self) -> Path:
        """The trained adapter, which is there when the training is complete."""
        return latest_file(self.home / 'experiments' / self.id / 'models')

    @property
    def states(self) -> Path:
        """Folder of its training states."""
        return self.home / 'experiments' / self.id / 'training_states'

    def metrics(self, test: str) -> Path:
        """Returns the file of a test's figures, which is there when the test is complete."""
        return self.home / 'results' / test / 'metrics.json'

    def tested(self, test: str) -> bool:
        """Returns whether a test is complete, of the adapter that is there, with the images that are wanted."""
        marks = tuple(_mark(file) for file in (self.metrics(test), self.adapter))
        if self.looked.get(test, ((), False))[0] != marks:
            self.looked[test] = marks, marks[0] is not None and self._is_complete(test)
        return self.looked[test][1]

    def _is_complete(self, test: str) -> bool:
        try:
            content = read_json(self.metrics(test), 'remove it', LARGEST)
        except UserError:  # damaged: measured again
            return False
        content = content if isinstance(content, dict) else {}
        # Another study, with another first seed, may have measured it alone. Images that were removed are not missed.
        wanted = (self.tests[test].get('val') or {}).get('save_img', False)
        if wanted and content.get('saved_images') is False:
            return False
        adapter = content.get('adapter')
        noted = adapter.get('sha256') if isinstance(adapter, dict) else None
        return noted is None or (self.adapter.is_file() and noted == sha256_file(self.adapter))

    @property
    def trained(self) -> bool:
        """Whether nothing is left to train."""
        return self.train is None or self.adapter.is_file()

    def missing(self) -> list[str]:
        """Returns the tests that are not done."""
        return [test for test in self.tests if not self.tested(test)]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.trained and not self.missing()

    def check(self) -> None:
        """Raises UserError where the folder of the run holds another one."""
        note = self.home / 'run.json'
        if note.is_file():
            if self._noted.get('identity') != self.record:
                raise UserError(f'{self.home}: holds a run of other options; remove it, or choose another --runs')
        elif (self.home / 'experiments').exists():
            raise UserError(
                f'{self.home}: holds a run that does not say what it is; remove it, or choose another --runs'
            )

    @property
    def commits(self) -> list[str]:
        """The commits of sptsr that trained it, one after the other, as far as that was noted."""
        found = self._noted.get('commits')
        return found if isinstance(found, list) else []

    @property
    def _noted(self) -> dict[str, Any]:
        note = self.home / 'run.json'
        noted = read_json(note, 'remove the folder') if note.is_file() else {}
        return noted if isinstance(noted, dict) else {}

    def prepare(self, by_hand: bool = False) -> None:
        """Writes what the run is, and its option files.

        Args:
            by_hand: it was trained elsewhere, by who knows which sptsr.
        """
        commits, now = [] if by_hand else self.commits, None if self.trained or by_hand else commit()
        if now is not None and now not in commits:
            commits = [*commits, now]
        note = {'identity': self.record, 'uses': [str(use) for use, _ in self.uses], 'commits': commits}
        write_json(self.home / 'run.json', note)
        if self.train is not None:
            _write_options(self.home / 'train.yml', self.train)
        for test, options in self.tests.items():
            _write_options(self.home / f'test_{test}.yml', options)

    def commands(self) -> list[list[str]]:
        """Returns the commands that make the run, each as the words behind `sptsr`."""
        root = ['--root', str(self.home)]
        found = []
        if self.train is not None:
            found.append(['train', '-opt', str(self.home / 'train.yml'), *root, '--auto_resume'])
        return found + [['test', '-opt', str(self.home / f'test_{test}.yml'), *root] for test in self.tests]

    def lock(self) -> TextIO | None:
        """Returns a file that holds the run until it is closed; None when others hold it (see `try_lock`)."""
        return try_lock(self.home / 'lock')

    def has_done(self, words: Sequence[str]) -> bool:
        """Returns whether one of its commands is done."""
        if words[0] == 'train':
            return self.trained
        return self.tested(Path(words[2]).stem.removeprefix('test_'))

    def log(self, words: Sequence[str]) -> Path:
        """Returns where one of its commands writes its messages."""
        return self.home / f'{Path(words[2]).stem}.log'

    @property
    def environment(self) -> dict[str, str]:
        """What is set for its commands."""
        return {'OMP_NUM_THREADS': threads()}

    @property
    def size(self) -> int:
        """Its iterations; a network that is not trained counts as one."""
        return 1 if self.train is None else int(self.train['train']['total_iter'])

    @property
    def progress(self) -> int:
        """The iterations that it has made, as far as its states and its log say."""
        if self.train is None:
            return int(self.done)
        if self.trained:
            return self.size
        states = [int(path.stem) for path in self.states.glob('*.state') if path.stem.isdigit()]
        try:
            with open(self.home / 'train.log', 'rb') as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
                noted = _ITERATION.findall(stream.read())
        except OSError:
            noted = []
        last = int(noted[-1].replace(b',', b'')) if noted else 0
        return min(self.size, max([last, *states]))


def make_runs(
    cases: Sequence[Case], seeds: Sequence[int], folder: Path, stores: Stores, digests: Digests, processes: int = 1
) -> list[Run]:
    """Returns the distinct runs of cases whose stores are placed, in the order of the table.

    Args:
        cases: of the study.
        seeds: of each training.
        folder: of all runs, this study's and others'.
        stores: that the cases use.
        digests: of files and folders.
        processes: ranks of each training.
    """
    runs: dict[str, Run] = {}
    for case in cases:
        for seed in seeds if case.train is not None else (None,):
            train = None if case.train is None else {**case.train, 'manual_seed': seed}
            tested = test_record(case.test, digests, stores.made)
            if train is None:
                record = {'network': tested['network_g'], 'path': tested['path'], 'plugins': tested['plugins']}
            else:
                record = training_record(train, digests, stores.made, processes)
            run_id = identity(record)
            named = None if train is None else {**train, 'name': run_id}
            run = runs.setdefault(run_id, Run(run_id, folder / run_id, record, named))
            test_id = identity(tested)
            test = {**case.test, 'name': test_id, 'manual_seed': 0 if seed is None else seed}
            # the images of one seed, for report.html
            shown = {'save_img': seed in (None, seeds[0]), 'pbar': False, 'suffix': None}
            test['val'] = {**(case.test.get('val') or {}), **shown}
            if train is not None:
                test['path'] = {**case.test['path'], 'pretrain_network_g': str(run.adapter)}
            run.tests[test_id] = test
            run.uses.append((Use(case.row, case.arm, seed), test_id))
            run.needs += [recipe for recipe in _made_for(stores, case.train, case.test) if recipe not in run.needs]
    return list(runs.values())


def _mark(path: Path) -> tuple[int, int] | None:
    """Returns size and time of change of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _made_for(stores: Stores, *options: Mapping[str, Any] | None) -> list[Recipe]:
    """Returns the stores that are made here for the sets of some options, and for their figures by place."""
    named: list[str | None] = []
    for opt in options:
        if opt is not None:
            named += [data.get('dataroot_prior') for data in opt['datasets'].values()]
            named += ((opt.get('val') or {}).get('bands') or {}).values()
    return [stores.recipes[path] for path in dict.fromkeys(named) if path in stores.recipes]


def _write_options(path: Path, options: dict[str, Any]) -> None:
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    if not path.is_file() or path.read_text(encoding='utf-8') != text:
        write_text(path, text)
