"""What the engine asks of change tracking."""

from __future__ import annotations

import abc
from collections.abc import Iterator

from blocksync.extents import Extent

Token = dict[str, str]
"""What a provider needs to say later what changed since now: kept with the sender's copy of the manifest. It
names the provider and the identities that must be the same then."""


class Tracker(abc.ABC):
    """Change tracking of one open source. Used by one thread."""

    provider: str
    """A word for messages and tokens."""

    @abc.abstractmethod
    def changed(self, token: Token) -> Iterator[Extent]:
        """Yield, in order and without overlap, every range that may differ from what the token's pass read.

        Lazily where the list may be long. Too much is fine, too little is not.

        Raises:
            ChangesUnknownError: it cannot be told; why is for people.
        """

    @abc.abstractmethod
    def token(self) -> Token:
        """What the next pass needs; called once this one is committed.

        What was made for this pass and is needed then (a snapshot) is kept from now on.

        Raises:
            ChangesUnknownError: the next pass will have to compare everything.
        """

    @abc.abstractmethod
    def settle(self) -> None:
        """The token is durable: what only older ones need can go.

        Raises:
            SourceError: it could not be removed.
        """
