"""The one error that users see, and imports of optional packages."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any


class EmgscribeError(ValueError):
    """Something that a user can correct. The command line prints it without a traceback and exits with status 2.

    `what` is the fault, `where` the file, field or line (empty where the call is at fault), `hint` the next step.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        message = f"{where}: {what}" if where else what
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries by their `args`; these are keyword-only.
        return partial(EmgscribeError, where=self.where, hint=self.hint), (self.what,)


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """For imports of packages that come with an extra: raises `EmgscribeError` with its name where one is missing."""
    try:
        yield
    except (ImportError, RuntimeError) as error:  # pylsl raises RuntimeError if its library is missing
        raise EmgscribeError(f"a package is missing: {error}", hint=f"pip install 'emgscribe[{extra}]'") from error


def optional(package: str, extra: str) -> Any:
    """A package that comes with an extra. Raises `EmgscribeError` with the extra's name where it is not installed."""
    with needing(extra):
        return import_module(package)
