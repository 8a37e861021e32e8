"""The errors that cliplet raises on purpose: each names the input, what is wrong with it and what to do."""


class ClipletError(Exception):
    """Something that the caller can put right: the command line prints the message alone, without a traceback."""


class InputError(ClipletError):
    """An input (image, caption, file, row) cannot be used."""


class ModelError(ClipletError):
    """A model cannot be found, read or used."""


class DeviceMemoryError(ModelError):
    """A batch does not fit the memory of its device; a smaller one may."""


class StoreError(ClipletError):
    """A store does not give what it lists: no fault of an input, and over some time later."""


class MissingExtraError(ClipletError):
    """An optional dependency is needed; the message says which extra installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'cliplet[{extra}]'")
        self.extra = extra
