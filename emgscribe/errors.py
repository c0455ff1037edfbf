"""The one error that users see."""

from functools import partial


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
