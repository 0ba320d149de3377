"""Imports that wait until what they bring is used.

While `deferred` holds, importing a module that it names gives a stand-in, and each name taken from that is a promise of
the real one. The first use of a promise, a call or an attribute, imports the real module. So nothing is missing; what
is never used is never imported. Afterwards no stand-in is left where others would find it.

Decorators are used while a module is imported, so those that may be done without are left out when they are named.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import get_ident
from types import ModuleType
from typing import Any


@contextmanager
def deferred(names: Collection[str], without: Collection[str] = ()) -> Iterator[None]:
    """Defers the imports of these modules and of those below them, in this thread.

    Those that are imported already stay as they are.

    Args:
        without: decorators of these modules, by their full names, that leave what they decorate as it is.
    """
    finder = _Finder(names, without)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in names:
            _forget(name)


class _Finder(MetaPathFinder):
    """Finds stand-ins for one thread; another's imports are none of its business."""

    def __init__(self, names: Collection[str], without: Collection[str]) -> None:
        self._names = set(names)
        self._without = frozenset(without)
        self._thread = get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if get_ident() == self._thread and any(_is_within(fullname, name) for name in self._names):
            return ModuleSpec(fullname, _StandInLoader(self), is_package=True)
        return None

    def promise(self, module: str, name: str) -> Any:
        return _left_out if f"{module}.{name}" in self._without else _Promise(self, module, name)

    def real(self, module: str) -> ModuleType:
        """The module itself; from now on it is deferred no longer, nor what belongs to it."""
        for name in [name for name in self._names if _is_within(module, name)]:
            self._names.remove(name)
            _forget(name)
        return import_module(module)


class _StandInLoader(Loader):
    def __init__(self, finder: _Finder) -> None:
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name, self._finder)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


class _StandIn(ModuleType):
    def __init__(self, name: str, finder: _Finder) -> None:
        super().__init__(name)
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        if _is_of_python(name):  # the import machinery looks for some of these
            raise AttributeError(f"{self.__name__}.{name} waits for the import of {self.__name__}")
        return self._finder.promise(self.__name__, name)


class _Promise:
    """A name of a module that is yet to be imported."""

    def __init__(self, finder: _Finder, module: str, name: str) -> None:
        self._finder, self._module, self._name = finder, module, name

    def _real(self) -> Any:
        module = self._finder.real(self._module)
        if not hasattr(module, self._name):  # a module below, as in `from package import module`
            return import_module(f"{self._module}.{self._name}")
        return getattr(module, self._name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._real()(*args, **options)

    def __getattr__(self, name: str) -> Any:
        if _is_of_python(name):  # typing looks for some of these where a promise stands in an annotation
            raise AttributeError(f"{self!r} has no {name}")
        return getattr(self._real(), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """A class that is derived from it is derived from the real one."""
        return (self._real(),)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._real())

    def __repr__(self) -> str:
        return f"<{self._module}.{self._name}, imported when it is used>"


def _left_out(decorated: Any = None, *options: Any, **more: Any) -> Any:
    """In place of a decorator, with options or without."""
    return _left_out if decorated is None else decorated


def _is_of_python(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _forget(name: str) -> None:
    """Takes the stand-ins of a module, and of those below it, from where an import would find them."""
    for module, found in list(sys.modules.items()):
        if not (isinstance(found, _StandIn) and _is_within(module, name)):
            continue
        del sys.modules[module]
        parent, _, child = module.rpartition(".")
        if parent in sys.modules and vars(sys.modules[parent]).get(child) is found:
            delattr(sys.modules[parent], child)
