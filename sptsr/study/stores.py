"""The prior stores that a study makes by itself: of a source, and the controls of a row's stores."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError
from sptsr.core.files import write_json
from sptsr.core.homes import expanded
from sptsr.study.cases import Case
from sptsr.study.digests import Digests
from sptsr.study.drafts import name_and_arguments
from sptsr.study.identity import identity

_DRAWS = 4  # noisy images of each training image that masks are found in
_SEED = 0


@dataclass(frozen=True)
class Recipe:
    """How a store is made.

    Attributes:
        path: of the store; its name holds the digest of `record`.
        record: all that decides its content.
        make: makes or completes it.
        after: the store that it is made from, if that is made here too.
    """

    path: Path
    record: dict[str, Any]
    make: Callable[[], object]
    after: Recipe | None = None

    @property
    def done(self) -> bool:
        """Whether the store is complete."""
        return self.path.with_name(f'{self.path.name}.json').is_file()

    def run(self) -> None:
        """Makes the store unless it is complete. Two processes that need it make it once."""
        if self.after is not None:
            self.after.run()
        if self.done:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f'{self.path.name}.lock'), 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.done:
                self.make()
                write_json(self.path.with_name(f'{self.path.name}.json'), self.record)


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
            for phase, data in opt['datasets'].items() if opt else ():
                if case.source is not None:
                    self._of_source(data, phase, case.source)
                if case.prior is not None:
                    self._control(data, case.prior, case.source)
        return replace(case, train=train, test=test)

    def add_bands(self, cases: Sequence[Case]) -> list[Case]:
        """Returns the cases of one row with the same masks in all of them for figures by where in the image.

        They are those of the row itself: of the first arm that has no masks of its own.

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
        return [
            replace(case, test={**case.test, 'val': {**(case.test.get('val') or {}), 'bands': stores}})
            for case in cases
        ]

    def _of_source(self, data: dict[str, Any], phase: str, source: Mapping[str, Any]) -> None:
        """Names the store that a source makes of a set's images."""
        if 'dataroot_lq' not in data and 'sigma' not in data:
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
            record |= {'source': registered, 'file': self.digests.file(file)}
        path = self.folder / f'{registered}-{identity(record)}'

        def make() -> None:
            from sptsr.priors.extract import extract, make_source

            made = make_source(name, arguments, 'prior')
            extract(_lq_images(data, record.get('draws', 1), path, made.sees_image), path, made)

        self._note(data, Recipe(path, record, make))

    def _control(self, data: dict[str, Any], kind: str, source: Mapping[str, Any] | None) -> None:
        """Names the store of a control that is made from the store that a set has."""
        below = str(data['dataroot_prior'])
        after = self.recipes.get(below)
        of = identity(after.record) if after else self.digests.store(str(Path(expanded(below))))
        record: dict[str, Any] = {'control': kind, 'seed': _SEED, 'of': of}
        if kind == 'oracle':
            record['gt'] = self.digests.folder(str(Path(expanded(data['dataroot_gt']))))
            record['source'] = self._content(dict(source or {}))
        path = self.folder / f'{kind}-{identity(record)}'

        def make() -> None:
            from sptsr.priors.controls import oracle_like, random_like, shuffle
            from sptsr.priors.extract import make_source
            from sptsr.priors.store import PriorStore

            store = PriorStore(Path(expanded(below)))
            if kind == 'shuffle':
                shuffle(store, path, _SEED)
            elif kind == 'random':
                random_like(
                    store, path, make_source('random', {'like': str(Path(expanded(below))), 'seed': _SEED}, 'prior')
                )
            else:
                name, arguments = _source_of(store, source)
                gt, names = _gt_images(data)
                oracle_like(store, path, make_source(name, arguments, 'prior: oracle'), gt, names)

        self._note(data, Recipe(path, record, make, after))

    def _note(self, data: dict[str, Any], recipe: Recipe) -> None:
        data['dataroot_prior'] = str(recipe.path)
        self.recipes.setdefault(str(recipe.path), recipe)

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


def _lq_images(data: Mapping[str, Any], draws: int, path: Path, sees_image: bool) -> Any:
    """Returns the images of a set that a source makes masks from; noisy ones are made, beside the store."""
    from sptsr.images.chain import DegradationChain
    from sptsr.images.degrade import degrade
    from sptsr.images.draws import Degradation
    from sptsr.images.folder import ImageFolder

    if 'dataroot_lq' in data:
        return ImageFolder(Path(expanded(data['dataroot_lq'])), _to_rgb(data))
    clean = _clean_images(data)
    seed, gray = int(data.get('noise_seed', 0)), bool(data.get('gray', False))
    steps = data.get('degradation')
    chain = None if steps is None else DegradationChain.of(steps, seed, draws, gray)
    if not sees_image and (chain is None or chain.scale == 1):
        return clean
    made = path.with_name(f'{path.name}-images')
    if chain is not None:
        degrade(clean, made, chain)
    else:
        levels = data['sigma'] if isinstance(data['sigma'], list) else [data['sigma'], data['sigma']]
        degrade(clean, made, Degradation('noise', float(levels[0]), float(levels[1]), seed, draws, gray))
    return ImageFolder(made)


def _clean_images(data: Mapping[str, Any]) -> Any:
    """Returns the GT images of a set."""
    from sptsr.images.folder import ImageFolder

    include = [str(glob) for glob in data.get('include') or ()]
    return ImageFolder(Path(expanded(data['dataroot_gt'])), _to_rgb(data), include)


def _to_rgb(data: Mapping[str, Any]) -> bool:
    return bool(data.get('to_rgb') or data.get('gray') or data.get('color'))


def _gt_images(data: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """Returns the GT images of a set, and their keys by keys of its LQ images."""
    from sptsr.core.registry import register_all
    from sptsr.data.checked import open_dataset

    gt = _clean_images(data)
    if 'dataroot_lq' not in data:
        return gt, {}
    register_all()
    # which belongs to which depends neither on the scale nor on the store, which is yet to be made
    section = {key: value for key, value in data.items() if key != 'dataroot_prior'}
    pairs = getattr(open_dataset({**section, 'phase': 'test', 'scale': 1}), 'pairs', None)
    if pairs is None:
        raise UserError(
            f'prior: oracle: {data["type"]} does not say which GT belongs to which LQ; use PriorPairedImageDataset'
        )
    return gt, {lq: key for key, lq in pairs}


def _source_of(store: Any, source: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Returns name and arguments of the source of a row, from the study, else from the store's header."""
    if source is not None:
        return name_and_arguments(source)
    from sptsr.core.registry import SOURCE_REGISTRY, lookup, register_all
    from sptsr.core.signatures import argument_problems, parameters

    register_all()
    name, arguments = store.header.source, dict(store.header.params)
    known = parameters(lookup(SOURCE_REGISTRY, name))
    # a header names no folder and no checkpoint
    if store.header.weights_sha256 or 'dir' in known or argument_problems(known, arguments, name):
        raise UserError(
            f'prior: oracle: {store.path} does not say where the files of its source {name} are; '
            f'say prior: {{source: {name}, ...}} of the row'
        )
    return name, arguments
