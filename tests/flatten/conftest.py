"""What a test opened is closed at its end: a worker that ran all of this room had more than a thousand descriptors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blocksync.flatten.tree import FolderTree


@pytest.fixture(autouse=True)
def trees_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[FolderTree] = []
    begin = FolderTree.__init__

    def noted(self: FolderTree, descriptor: int, name: str) -> None:
        begin(self, descriptor, name)
        made.append(self)

    monkeypatch.setattr(FolderTree, "__init__", noted)
    yield
    for tree in made:
        tree.close()
