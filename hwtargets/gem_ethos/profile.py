"""What the device is, by published figures."""

from __future__ import annotations

from gemcore.reports import DeviceProfile

ETHOS_U85 = DeviceProfile(name="ethos-u85", device="Arm Ethos-U85 with 256 MAC units", cores=1)
