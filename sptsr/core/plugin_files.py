"""Python files of a user as modules that every process can import.

A class of a plug-in file is pickled by the name of its module when a dataset goes to a worker that was started by
`spawn` or `forkserver`. So the name carries the file's path, and lies below this module: importing it first imports
this module, which knows how to find it.

A plug-in file may import what lies beside it, and may belong to a project that has a package called `basicsr` of its
own. Python would put both into the one table of modules by names that others have too. Here they get names below this
module as well: `basicsr.archs.x` of the project in `/p` is `sptsr.core.plugin_files._2fp.basicsr.archs.x`, and
BasicSR's own stays `basicsr.archs.x`. The import statements of such modules are looked up by `_Imports`.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from sptsr.core.homes import expanded

__path__: list[str] = []  # makes this module a package; `_PluginFinder` finds what is in it

_PREFIX = f'{__name__}.'
# Packages that projects bring a copy of. Elsewhere than beside a plug-in file, a folder gets a name only if nothing
# that is installed has it.
_COPIED = ('basicsr',)


def module_name(path: Path) -> str:
    """Returns the importable name of a file.

    Its first part stands for a folder, the rest for the way from there to the file. The folder is the file's own, or
    the one above the outermost package that the file is in, or the one that its relative imports reach.

    Two files have two names (but for `a-b.py` beside `a_2db.py`), and a name is an identifier, because `torch.compile`
    writes it into code: where it is none, its bytes other than ASCII letters and digits become `_` and two hex digits.
    """
    path = path.resolve()
    root = path.parent
    while (root / '__init__.py').is_file():
        root = root.parent
    reached = path.parents[max(1, _deepest_relative_import(path)) - 1]
    root = min(root, reached, key=lambda folder: len(folder.parts))
    parts = path.relative_to(root).with_suffix('').parts
    parts = parts[:-1] if parts[-1] == '__init__' else parts
    return '.'.join([_alias(root), *map(_part, parts)])


def file_of(plugin: str) -> tuple[str, str | None] | None:
    """Returns file and NAME (or None) of a plug-in given as `path/to/net.py` or `path/to/net.py:NAME`.

    None where it is given as the name of a module. `~` in front of the path is replaced.
    """
    found = re.fullmatch(r'(.*\.py)(?::(\w+))?', plugin, re.DOTALL)
    return (expanded(found[1]), found[2]) if found else None


def load_plugin(path: Path) -> ModuleType:
    """Imports a file and returns its module; raises what the file raises."""
    importlib.invalidate_caches()
    module = importlib.import_module(module_name(path))
    if isinstance(module, _Package):
        module.run()
    return module


def plugin_modules() -> list[ModuleType]:
    """Returns the modules of plug-in files and of what they imported from beside them."""
    return [module for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)]


def neighbours(path: Path) -> list[Path]:
    """Returns the files that a plug-in file imports from beside it, and what they import, as their statements say."""
    found, new = {path.resolve()}, {path.resolve()}
    while new:
        new = {other.resolve() for file in new for other in _imported_by(file)} - found
        found |= new
    return sorted(found - {path.resolve()})


def _imported_by(file: Path) -> Iterator[Path]:
    """Yields the files beside a plug-in that one of its files imports; none of them is run."""
    imports = _Imports(file, Path(_decoded(module_name(file).removeprefix(_PREFIX).partition('.')[0])))
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(imports.place(alias.name.partition('.')[0]), alias.name)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ''
            place = file.parents[node.level - 1] if node.level else imports.place(name.partition('.')[0])
            for alias in node.names:
                yield from _files_of(place, f'{name}.{alias.name}'.lstrip('.'))


def _files_of(place: Path | None, name: str) -> Iterator[Path]:
    """Yields the files that `import NAME` runs of a folder; what follows a file is a name in it."""
    for part in name.split('.') if place is not None else ():
        assert place is not None
        file, place = place / f'{part}.py', place / part
        if (place / '__init__.py').is_file():
            yield place / '__init__.py'
        elif not place.is_dir():
            yield from [file] if file.is_file() else []
            return


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # importing it says what is wrong
        return ast.Module([], [])


def _deepest_relative_import(path: Path) -> int:
    levels = [node.level for node in ast.walk(_tree(path)) if isinstance(node, ast.ImportFrom)]
    return min(max(levels, default=0), len(path.parents))


def _alias(folder: Path) -> str:
    return _PREFIX + _encoded(str(folder))


def _part(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else _encoded(name)


def _encoded(name: str) -> str:
    return re.sub(rb'[^A-Za-z0-9]|^[0-9]', lambda byte: b'_%02x' % ord(byte[0]), os.fsencode(name)).decode()


def _decoded(name: str) -> str:
    return os.fsdecode(re.sub(rb'_([0-9a-f]{2})', lambda digits: bytes.fromhex(digits[1].decode()), name.encode()))


class _PluginFinder(importlib.abc.MetaPathFinder):
    """Finds the modules that `module_name` names, and those beside them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX):
            return None
        if path is None or fullname.count('.') == _PREFIX.count('.'):
            return _folder_spec(fullname, _decoded(fullname.removeprefix(_PREFIX)))
        spec = PathFinder.find_spec(fullname, path) or _spec_of_encoded(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def _folder_spec(fullname: str, folder: str) -> ModuleSpec | None:
    if not os.path.isdir(folder):
        return None
    spec = ModuleSpec(fullname, None, is_package=True)
    spec.submodule_search_locations = [folder]
    return spec


def _spec_of_encoded(fullname: str, path: Sequence[str]) -> ModuleSpec | None:
    """Returns the spec of a file or folder whose name is no identifier."""
    for folder in path:
        found = os.path.join(folder, _decoded(fullname.rpartition('.')[2]))
        if os.path.isfile(f'{found}.py'):
            return importlib.util.spec_from_file_location(fullname, f'{found}.py')
        if os.path.isfile(os.path.join(found, '__init__.py')):
            return importlib.util.spec_from_file_location(
                fullname, os.path.join(found, '__init__.py'), submodule_search_locations=[found]
            )
        if os.path.isdir(found):
            return _folder_spec(fullname, found)
    return None


class _Package(ModuleType):
    """A package whose `__init__.py` runs when something is asked for that it has not got.

    A clone of a project that has a copy of BasicSR lacks `version.py`, which its setup makes, so importing
    the package fails there; and it imports every network, dataset and operator. None of that is needed for
    `from basicsr.archs.x import X`.
    """

    def run(self) -> None:
        """Runs `__init__.py`; raises what it raises."""
        loader = self.__spec__.loader if self.__spec__ else None
        assert isinstance(loader, _Loader)
        self.__class__ = ModuleType  # type: ignore[assignment]  # what it imports may import it in turn
        try:
            loader.run(self)
        except BaseException:
            self.__class__ = _Package  # type: ignore[assignment]
            raise

    def __getattr__(self, name: str) -> Any:
        if name == '__all__' or not (name.startswith('__') and name.endswith('__')):
            try:
                self.run()
            except Exception:  # anything that the file raises; raised again unless a module of that name lies beside it
                spec = importlib.util.find_spec(f'{self.__name__}.{name}') if name != '__all__' else None
                if name not in vars(self) and spec is None:
                    raise
            if name in vars(self):
                return vars(self)[name]
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")


class _Loader(SourceFileLoader):
    """Loads a module whose import statements go through `_Imports`."""

    def exec_module(self, module: ModuleType) -> None:
        root = module.__name__.removeprefix(_PREFIX).partition('.')[0]
        imports = _Imports(Path(self.path), Path(_decoded(root)))
        vars(module)['__builtins__'] = {**vars(builtins), '__import__': imports}
        if self.is_package(module.__name__):
            module.__class__ = _Package
        else:
            self.run(module)

    def run(self, module: ModuleType) -> None:
        """Runs the code of the module."""
        super().exec_module(module)


class _Imports:
    """`__import__` of a module from a plug-in's folder: a script's rule, what lies beside it comes first.

    Args:
        file: of the module.
        root: the folder that the first part of its name stands for.
    """

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.root = file, root
        self.places: dict[str, Path | None] = {}
        # `importlib.import_module` goes by another way than import statements
        self.importlib = ModuleType('importlib')

    def __call__(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] = (), level: int = 0
    ) -> ModuleType:
        found = self.local(name) if level == 0 else None
        if found is not None:
            module = builtins.__import__(found, globals, locals, fromlist, 0)
            return module if fromlist else sys.modules[found.removesuffix(name) + name.partition('.')[0]]
        module = builtins.__import__(name, globals, locals, fromlist, level)
        if module is not importlib:
            return module
        vars(self.importlib).update({**vars(importlib), 'import_module': self.import_module})
        return self.importlib

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """Does what `importlib.import_module` does."""
        return importlib.import_module(self.local(name) or name, package)

    def local(self, name: str) -> str | None:
        """Returns the full name of a module that lies beside the plug-in; None for others.

        What a project's copy of a package lacks is taken from the installed one.
        """
        place = self.place(name.partition('.')[0])
        if place is None:
            return None
        full = f'{_alias(place)}.{name}'
        try:
            return full if importlib.util.find_spec(full) is not None else None
        except ModuleNotFoundError:
            return None

    def place(self, top: str) -> Path | None:
        """Returns the folder beside the plug-in that holds the module or package `top`; None for others."""
        if top not in self.places:
            self.places[top] = self._place(top) if top else None
        return self.places[top]

    def _place(self, top: str) -> Path | None:
        if top == 'sptsr' or top in sys.stdlib_module_names:
            return None
        installed = _installed(top)
        for place in self.file.parents:
            found = _in_folder(place, top)
            if found is None or found == self.file:
                continue
            beside = place == self.root or found in self.file.parents  # or its own package
            if not beside and installed and top not in _COPIED:
                continue
            return None if installed == os.path.realpath(found) else place
        return None


def _in_folder(folder: Path, top: str) -> Path | None:
    """Returns the package (with or without `__init__.py`) or file of this name in a folder."""
    package = folder / top
    if package.is_dir() and (next(package.glob('*.py'), None) or next(package.glob('*/*.py'), None)):
        return package
    file = folder / f'{top}.py'
    return file if file.is_file() else None


def _installed(top: str) -> str:
    """Returns the real path of the package's folder, or of the file, that `import top` gives; '' where it fails."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ''
    if spec is None:
        return ''
    places = list(spec.submodule_search_locations or ())
    return os.path.realpath(places[0] if places else spec.origin or top)


sys.meta_path.insert(0, _PluginFinder())  # before Python's own, which finds what lies in a folder too
