"""What the device is, by published figures."""

from __future__ import annotations

from gemcore.reports import DeviceProfile

HEXAGON = DeviceProfile(name="npu", device="Qualcomm Hexagon with HVX (version 68)", cores=1)
