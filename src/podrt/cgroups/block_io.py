"""Limits of single block devices, as writes to the files of either cgroup version."""

from __future__ import annotations

from podrt.model.resources import Resources

from .knob import Knob

# Field -> v1's file, the word in v2's io.max.
_THROTTLES = {
    "device_read_bps": ("blkio.throttle.read_bps_device", "rbps"),
    "device_write_bps": ("blkio.throttle.write_bps_device", "wbps"),
    "device_read_iops": ("blkio.throttle.read_iops_device", "riops"),
    "device_write_iops": ("blkio.throttle.write_iops_device", "wiops"),
}
_WEIGHT_FILES = ("blkio.bfq.weight_device", "blkio.weight_device")


def v1_knobs(resources: Resources) -> list[Knob]:
    """The writes on cgroup v1; a rate of 0 is none."""
    found = [
        Knob(field, "blkio", file, f"{one.major}:{one.minor} {one.rate}")
        for field, (file, _) in _THROTTLES.items()
        for one in getattr(resources, field) or ()
    ]
    for one in resources.blkio_weight_devices or ():
        value = f"{one.major}:{one.minor} {one.rate}"
        found += [
            Knob("blkio_weight_devices", "blkio", file, value, True) for file in _WEIGHT_FILES
        ]
    return found


def v2_knobs(resources: Resources) -> list[Knob]:
    """The writes on cgroup v2."""
    found = [
        Knob(field, "io", "io.max", f"{one.major}:{one.minor} {word}={one.rate or 'max'}")
        for field, (_, word) in _THROTTLES.items()
        for one in getattr(resources, field) or ()
    ]
    for one in resources.blkio_weight_devices or ():
        value = f"{one.major}:{one.minor} {one.rate}"
        found.append(Knob("blkio_weight_devices", "io", "io.bfq.weight", value, True))
    return found
