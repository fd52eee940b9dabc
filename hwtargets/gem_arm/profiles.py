"""What the boards are, by published figures."""

from __future__ import annotations

from gemcore.reports import DeviceProfile

RASPBERRY_PI_4 = DeviceProfile(name="rpi4", cores=4)
