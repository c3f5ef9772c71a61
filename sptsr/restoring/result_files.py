"""Where the results of restoring a folder go, and which of them are finished."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError
from sptsr.core.files import parse_json, sha256_json

JOURNAL = '.sptsr-restored.jsonl'


def targets_of(images: Mapping[str, Path], out: Path, suffix: str, format: str) -> dict[str, Path]:
    """Returns where each result goes; of `a.png` and `a.jpg` in one folder to `a.png.png` and `a.jpg.png`.

    Args:
        images: files by their path relative to the folder that they come from.
        out: folder of the results.
        suffix: between a file's name and its format.
        format: of the results, such as `png`.

    Raises:
        UserError: a result would overwrite an image, or two images have one name.
    """
    stems = Counter(Path(name).with_suffix('') for name in images)
    targets: dict[str, Path] = {}
    sources = set(map(os.path.realpath, images.values()))
    taken: dict[Path, str] = {}
    for name in images:
        relative = Path(name)
        stem = relative.stem if stems[relative.with_suffix('')] == 1 else relative.name
        target = out / relative.parent / f'{stem}{suffix}.{format}'
        if target in taken:
            raise UserError(f"'{taken[target]}' and '{name}' would both become {target}; rename one")
        if os.path.realpath(target) in sources:
            raise UserError(f'{target}: would overwrite an input; choose another folder with -o, or say --suffix')
        taken[target] = name
        targets[name] = target
    return targets


def results_in(out: Path) -> set[str]:
    """Returns the results that a folder's journal names, by their path in it, whatever made them."""
    return {record['result'] for record in _records(out)}


def _records(out: Path) -> Iterator[dict[str, str]]:
    """Yields the lines of a folder's journal; one that is cut off, as of a run that was killed, is passed over."""
    journal = out / JOURNAL
    for line in journal.read_text(errors='replace').splitlines() if journal.is_file() else ():
        try:
            record = parse_json(line)
            found = {key: str(record[key]) for key in ('image', 'sha256', 'result', 'settings')}
            found['source'] = str(record.get('source', ''))  # 0.1 and its successors until 2026-11 did not write it
        except (ValueError, KeyError, TypeError):
            continue
        if '\0' not in found['result']:  # no file is called so
            yield found


class Journal:
    """Which results of a folder are ours, and which of them are finished.

    A line is appended before a result is written, without settings, and one with them when its file is there. A digest
    is of the image's file, with one of its masks behind it where they come from a store.

    Args:
        out: folder of the results.
        settings: all that decides the results, JSON values; a result of others counts as not there.
        images: files by their path relative to the folder that they come from.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], images: Mapping[str, Path]) -> None:
        self.path = out / JOURNAL
        self.settings = sha256_json(settings)
        self.images = images
        self.last: dict[str, dict[str, str]] = {}
        self._read()

    def _read(self) -> None:
        self.last = {record['result']: record for record in _records(self.path.parent)}  # tells what its file is

    def holds(self, name: str, digest: str, target: Path) -> bool:
        """Returns whether this image was restored.

        Raises:
            UserError: a file that is not ours would be replaced, or the result of another image.
        """
        relative = str(target.relative_to(self.path.parent))
        if not target.exists():
            return False
        if relative not in self.last:
            self._read()  # another process may work on this folder
        last = self._own(name, digest, target)
        return (last['image'], last['sha256'], last['settings']) == (name, digest, self.settings)

    def _own(self, name: str, digest: str, target: Path) -> dict[str, str]:
        """Returns the last line of a file that is there; raises UserError where it is not ours, or of another image."""
        relative = str(target.relative_to(self.path.parent))
        if relative not in self.last:
            raise UserError(f'{target}: is there, and not made by this command; choose another folder with -o')
        last = self.last[relative]
        if (
            last['source'] not in ('', self._source(name))
            and last['sha256'].partition(' ')[0] != digest.partition(' ')[0]
        ):
            raise UserError(f'{target}: is made of {last["source"]}; choose another folder with -o, or say --suffix')
        return last

    def begin(self, name: str, digest: str, target: Path) -> None:
        """Notes that a result is being made, so that it is ours also after a kill before `note`.

        Raises:
            UserError: as `holds`; another process may have made it since.
        """
        if target.exists():
            self._read()
            self._own(name, digest, target)
        self._append(name, digest, target, '')

    def note(self, name: str, digest: str, target: Path) -> None:
        """Notes a result that is there."""
        self._append(name, digest, target, self.settings)

    def _source(self, name: str) -> str:
        return os.path.realpath(self.images[name])

    def _append(self, name: str, digest: str, target: Path, settings: str) -> None:
        relative = str(target.relative_to(self.path.parent))
        record = {'image': name, 'sha256': digest, 'result': relative, 'settings': settings}
        record['source'] = self._source(name)
        line = json.dumps(record, ensure_ascii=True) + '\n'
        try:
            with open(self.path, 'a+b') as journal:
                if journal.tell():
                    journal.seek(-1, os.SEEK_END)
                    line = line if journal.read(1) == b'\n' else '\n' + line  # behind one that was cut off
                journal.write(line.encode())
        except OSError as error:
            raise UserError(f'{self.path}: {error.strerror}; free space, and the same command goes on') from error
