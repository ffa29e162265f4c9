"""The bundle of weights that the service reads with: the one its settings name, and no other than was approved."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.errors import InvalidConfiguration

if TYPE_CHECKING:
    from models.reader import Reader
    from service.settings import Settings


@contextmanager
def named() -> Iterator[None]:
    """Let a bundle or weights that are refused be a matter of configuration.

    Raises
    ------
    InvalidConfiguration
        With the expected and the found value.
    """
    from models.registry import BundleRefused
    from models.weights import WeightsRefused

    try:
        yield
    except (BundleRefused, WeightsRefused) as error:
        raise InvalidConfiguration(
            str(error), code="bundle-refused", next_action="`carpus models` lists and verifies the bundles"
        ) from error


def load(settings: "Settings") -> "Reader":
    """Return the Reader of the bundle that the settings name, if it is the one that they approve.

    Raises
    ------
    InvalidConfiguration
        When it is another, when its weights are refused, or when it has no such default method.
    """
    from models import registry

    with named():
        return registry.load(
            settings.bundle, sha256=settings.bundle_sha256, default_method=settings.default_method or None
        )
