"""The soak test's mixed load, for seconds."""

from runner import test
from soak import mixed_load as load_for


@test(workers=(2,))
def mixed_load(lab):
    """Streams and short connections of all kinds at once."""
    load_for(lab, 20)
