"""Names of what is not built in: ``module:attribute`` is a user's own metric, loss, reward, encoder or benchmark."""

import re
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cliplet.errors import InputError


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FORM = re.compile(f"({_DOTTED}):({_DOTTED})")


def is_own(name: str) -> bool:
    """Whether a name has the form ``module:attribute``.

    ``hf:owner/name`` and ``C:/models`` have not, ``torch:folder`` has: look for known prefixes and files first.
    """
    return _FORM.fullmatch(name) is not None


def resolve(text: str, what: str) -> Any:
    """The object that ``module:attribute`` names.

    The module is imported as ``python -m`` would import it: the working directory comes first. Both parts may have
    dots (``package.module:Class.method``).

    Args:
        text: the name.
        what: what it is a name of, for the errors: "metric", "encoder".

    Raises:
        InputError: not of that form, no such module, a module that cannot be imported, or no such attribute.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise InputError(f"{what} {text!r}: name your own as module:attribute, like mypackage.mine:metric")
    module_name, attribute = form.groups()
    module = _imported(module_name, f"{what} {text!r}")
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            where = getattr(module, "__file__", None) or module_name
            raise InputError(
                f"{what} {text!r}: {where} has no attribute {attribute!r}{_hint(part, found)}"
            ) from None
    return found


def own_name(text: str) -> str:
    """What a thing named ``module:attribute`` is called in results: the attribute's last part."""
    return text.rpartition(":")[2].rpartition(".")[2]


def table(rows: Iterable[T], what: str) -> dict[str, T]:
    """Rows by their ``name``; two of one name raise InputError, so a table that has them cannot be imported."""
    found: dict[str, T] = {}
    for row in rows:
        if row.name in found:
            raise InputError(f"there are two rows of the {what} {row.name!r}")
        found[row.name] = row
    return found


def known_or_own(name: str, known: Mapping[str, Any], what: str) -> Any:
    """The row of a table that a name stands for, or what ``module:attribute`` names.

    Raises:
        InputError: neither; the message lists the table's names.
    """
    if name in known:
        return known[name]
    if is_own(name):
        return resolve(name, what)
    raise InputError(
        f"unknown {what} {name!r}: choose from {', '.join(known)}, or name your own as module:attribute"
    )


def _imported(name: str, who: str) -> Any:
    """The module; the working directory is the first place to look while it is imported, the last one afterwards."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise InputError(f"{who}: {name} needs the module {error.name!r}: install it") from error
        raise InputError(
            f"{who}: there is no module {error.name!r}: install it, or run from the folder it is in (not {here})"
        ) from error
    except Exception as error:
        raise InputError(f"{who}: {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # for what it imports later


def _hint(wanted: str, owner: Any) -> str:
    """The public names that an attribute may have been meant to be."""
    names = [name for name in vars(owner) if not name.startswith("_")] if hasattr(owner, "__dict__") else []
    near = get_close_matches(wanted, names, 3, 0.5) or names[:10]
    return f"; it has {', '.join(near)}" if near else ""
