"""What `serve deploy` imports on a house's cluster.

No `from __future__ import annotations` here: Serve reads the type of `spec` to validate a config file's arguments.
"""

from ray.serve import Application

from tests.faults.application import HouseSpec, fitted


def build(spec: HouseSpec) -> Application:
    return fitted(spec)
