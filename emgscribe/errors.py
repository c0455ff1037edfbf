"""The one error that users see."""


class EmgscribeError(ValueError):
    """Something a user can hint: what is wrong, where, and what to do about it.

    `what` states the fault, `where` names the file, field or line (empty where the call itself is meant) and
    `hint` is the next step. The command line prints the three in one message and leaves with status 2.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        message = f"{where}: {what}" if where else what
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries by their `args`; ours are keyword-only.
        return _rebuild, (self.what, self.where, self.hint)


def _rebuild(what: str, where: str, hint: str) -> EmgscribeError:
    return EmgscribeError(what, where=where, hint=hint)
