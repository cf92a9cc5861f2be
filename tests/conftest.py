"""Settings of all tests."""

from hypothesis import settings

# no deadline: how long an example takes depends on what else the machine does
settings.register_profile("papers", deadline=None)
settings.load_profile("papers")
