"""The contract's own suite over Redis: one server, beside others' keys, and a cluster.

Its tests are those of the unit tests; what they run over is the fixture ``backend`` beside this file.
"""

from tests.unit.storage.test_contract import *  # noqa: F403 - all of its tests, also those that come
