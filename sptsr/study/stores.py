"""The prior stores that a study makes by itself: of a source, and the controls of a row's stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from sptsr.core.catalogue import OWN, find
from sptsr.core.errors import UserError
from sptsr.core.files import write_json
from sptsr.core.homes import expanded
from sptsr.core.locks import try_lock
from sptsr.study.cases import Case
from sptsr.study.digests import Digests
from sptsr.study.drafts import name_and_arguments
from sptsr.study.identity import identity

_DRAWS = 4  # noisy images of each training image that masks are found in
_SEED = 0  # of the controls


@dataclass(frozen=True)
class Recipe:
    """How a store is made, as a step of its own.

    Attributes:
        path: of the store; its name holds the digest of `record`.
        record: all that decides its content. It is written beside the store when that is complete.
        order: what `sptsr.study.make_store` is told, JSON values.
        needs: the store that it is made from, if that is made here too.
    """

    path: Path
    record: dict[str, Any]
    order: dict[str, Any]
    needs: tuple[Recipe, ...] = ()

    @property
    def id(self) -> str:
        """What tells it from other work of a study."""
        return str(self.path)

    @property
    def name(self) -> str:
        """What to call it."""
        return f'masks {self.path.name}'

    @property
    def home(self) -> Path:
        """Folder of the store."""
        return self.path.parent

    @property
    def done(self) -> bool:
        """Whether the store is complete, and was not removed since."""
        return self._beside('json').is_file() and self.path.exists()

    @property
    def size(self) -> int:
        """It has no iterations."""
        return 0

    @property
    def progress(self) -> int:
        """It has no iterations."""
        return 0

    @property
    def environment(self) -> dict[str, str]:
        """Nothing is set for it: a source has as many threads as it has under `sptsr prior extract`."""
        return {}

    def lock(self) -> TextIO | None:
        """Returns a file that holds the store until it is closed; None when others hold it (see `try_lock`)."""
        return try_lock(self._beside('lock'))

    def prepare(self) -> None:
        """Writes the order."""
        write_json(self._beside('order.json'), self.order)

    def commands(self) -> list[list[str]]:
        """Returns the one command that makes the store, or completes it."""
        return [['make_store', str(self._beside('order.json'))]]

    def has_done(self, words: Sequence[str]) -> bool:
        """Returns whether the store is complete."""
        return self.done

    def log(self, words: Sequence[str]) -> Path:
        """Returns where the command writes its messages."""
        return self._beside('log')

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f'{self.path.name}.{suffix}')


class Stores:
    """Gives each set of a case its store, and notes those that are to be made.

    Args:
        folder: where stores are made.
        digests: of files and folders.

    Attributes:
        recipes: of the stores that are made here, by path, each behind the one that it is made from.
    """

    def __init__(self, folder: Path, digests: Digests) -> None:
        self.folder, self.digests = folder, digests
        self.recipes: dict[str, Recipe] = {}

    @property
    def made(self) -> dict[str, str]:
        """Digests of the stores that are made here, by path; they need not exist yet."""
        return {path: identity(recipe.record) for path, recipe in self.recipes.items()}

    def place(self, case: Case) -> Case:
        """Returns the case with the stores of its sets in its options."""
        if case.prior is None and case.source is None:
            return case
        train, test = deepcopy(case.train), deepcopy(case.test)
        for opt in (train, test):
            plugins = (opt or {}).get('plugins') or []
            for phase, data in opt['datasets'].items() if opt else ():
                if case.source is not None:
                    self._of_source(data, phase, case.source, plugins)
                if case.prior is not None:
                    self._control(data, case.prior, case.source, plugins)
        return replace(case, train=train, test=test)

    def add_bands(self, cases: Sequence[Case]) -> list[Case]:
        """Returns the cases of one row with the same masks in all of them for figures by where in the image.

        They are those of the row itself: of the first arm that has no masks of its own. What `val.bands` names stays.

        Args:
            cases: of a row, before `place`.
        """
        chosen = next((case for case in cases if case.shares_masks), None)
        if chosen is None:
            return list(cases)
        test = self.place(replace(chosen, train=None, prior=None)).test
        stores = {
            data['name']: data['dataroot_prior'] for data in test['datasets'].values() if 'dataroot_prior' in data
        }
        if not stores:
            return list(cases)
        found = []
        for case in cases:
            sets = [data['name'] for data in case.test['datasets'].values()]
            val = case.test.get('val') or {}
            bands = {name: store for name, store in stores.items() if name in sets} | (val.get('bands') or {})
            found.append(replace(case, test={**case.test, 'val': {**val, 'bands': bands}}))
        return found

    def _of_source(self, data: dict[str, Any], phase: str, source: Mapping[str, Any], plugins: Sequence[str]) -> None:
        """Names the store that a source makes of a set's images."""
        if not any(key in data for key in ('dataroot_lq', 'sigma', 'degradation')):
            raise UserError(
                f'datasets.{phase}: masks for {data["type"]} are not made here; make them (docs/priors.md) and name '
                'the store in dataroot_prior, or in prior: STORE'
            )
        name, arguments = name_and_arguments(source)
        record: dict[str, Any] = {'source': name, 'arguments': self._content(arguments), 'set': self._images(data)}
        if 'dataroot_lq' not in data:
            record['draws'] = _DRAWS if phase == 'train' else 1
        file, _, registered = name.rpartition(':')
        if file:
            record |= {'source': registered, 'file': self.digests.code(expanded(file))}
        elif find('source', name).module not in OWN:  # it is of one of the plug-ins
            record['plugins'] = self.digests.plugins(plugins)
        path = self.folder / f'{registered}-{identity(record)}'
        order = {'kind': 'source', 'source': dict(source), 'draws': record.get('draws', 1)}
        self._note(data, path, record, order, plugins)

    def _control(
        self, data: dict[str, Any], kind: str, source: Mapping[str, Any] | None, plugins: Sequence[str]
    ) -> None:
        """Names the store of a control that is made from the store that a set has."""
        below = str(data['dataroot_prior'])
        need = self.recipes.get(below)
        of = identity(need.record) if need else self.digests.store(str(Path(expanded(below))))
        record: dict[str, Any] = {'control': kind, 'seed': _SEED, 'of': of}
        if kind == 'oracle':
            if 'dataroot_gt' not in data:
                raise UserError(f'prior: oracle: the set {data.get("name")} has no GT; name it in dataroot_gt')
            record['gt'] = self.digests.folder(str(Path(expanded(data['dataroot_gt']))))
            record['source'] = self._content(dict(source or {}))
        path = self.folder / f'{kind}-{identity(record)}'
        order = {'kind': kind, 'seed': _SEED, 'of': below, 'source': None if source is None else dict(source)}
        self._note(data, path, record, order, plugins, () if need is None else (need,))

    def _note(
        self,
        data: dict[str, Any],
        path: Path,
        record: dict[str, Any],
        order: Mapping[str, Any],
        plugins: Sequence[str],
        needs: tuple[Recipe, ...] = (),
    ) -> None:
        """Names a store in a set, and notes how it is made; `order` is completed."""
        if str(path) not in self.recipes:
            whole = {**order, 'store': str(path), 'record': record, 'set': dict(data), 'plugins': list(plugins)}
            self.recipes[str(path)] = Recipe(path, record, whole, needs)
        data['dataroot_prior'] = str(path)

    def _images(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what decides the images of a set that masks are made from."""
        root = str(Path(expanded(data.get('dataroot_lq') or data['dataroot_gt'])))
        keys = ('include', 'to_rgb', 'gray', 'color', 'sigma', 'noise_seed', 'degradation')
        return {'images': self.digests.folder(root), **{key: data[key] for key in keys if key in data}}

    def _content(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments of a source with digests in the place of files and folders."""
        found = dict(arguments)
        for key, value in arguments.items():
            path = Path(expanded(value)) if isinstance(value, str) and value else None
            if path is not None and path.exists():
                found[key] = self.digests.folder(str(path)) if path.is_dir() else self.digests.file(str(path))
        return found
