"""What an image tells before it changes: snapshots and the map of changes, of which it may have several at once.

An image has one hook. With one watcher it is the hook itself; with more, all are called, in the order in which they
came.
"""

import threading
from collections.abc import Callable
from types import MethodType
from typing import Final

from vlib_images.disk.image import BeforeChange, Image

_changing: Final = threading.Lock()  # held while an image's hook is set, changed or taken away


class _Several:
    """A hook that calls several."""

    def __init__(self, watchers: tuple[BeforeChange, ...]) -> None:
        self.watchers = watchers

    def __call__(self, offset: int, length: int) -> None:
        for watcher in self.watchers:
            watcher(offset, length)


def watch(image: Image, watcher: BeforeChange) -> None:
    """`watcher` is called before every change of the image from now on; it raises nothing."""
    with _changing:
        _set(image, (*_watchers(image), watcher))


def unwatch(image: Image, watcher: BeforeChange) -> None:
    """No longer. A call that has begun may still be under way."""
    with _changing:
        _set(image, tuple(other for other in _watchers(image) if other != watcher))


def watchers_of(image: Image) -> list[MethodType]:
    """The watchers that are methods of something."""
    with _changing:
        return [watcher for watcher in _watchers(image) if isinstance(watcher, MethodType)]


def _watchers(image: Image) -> tuple[BeforeChange, ...]:
    hook: Callable[[int, int], None] | None = image.before_change
    if hook is None:
        return ()
    return hook.watchers if isinstance(hook, _Several) else (hook,)


def _set(image: Image, watchers: tuple[BeforeChange, ...]) -> None:
    image.before_change = _Several(watchers) if len(watchers) > 1 else (watchers[0] if watchers else None)
