"""A hub on 127.0.0.1 that serves folders by commit and fails as it is told to; see `server` and `faults`."""

from tests.support.local_hub.faults import Drop, Fault, OtherCommit, Status, Truncate
from tests.support.local_hub.repositories import Repositories
from tests.support.local_hub.server import LocalHub

__all__ = ["Drop", "Fault", "LocalHub", "OtherCommit", "Repositories", "Status", "Truncate"]
