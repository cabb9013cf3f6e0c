"""The planted bugs, by what they break."""

from tests.planted.catalogue.durability import DURABILITY
from tests.planted.catalogue.engine import ENGINE
from tests.planted.catalogue.flips import FLIPS
from tests.planted.catalogue.outside import OUTSIDE
from tests.planted.catalogue.stopping import STOPPING
from tests.planted.catalogue.trust import TRUST
from tests.planted.catalogue.wire import WIRE

BUGS = [*DURABILITY, *ENGINE, *WIRE, *TRUST, *FLIPS, *STOPPING, *OUTSIDE]
