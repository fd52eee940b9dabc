"""What the device is, by published figures."""

from __future__ import annotations

from gemcore.reports import DeviceProfile, Sourced

_VELA = "the system configuration Ethos_U85_SYS_DRAM_Mid of Arm's Vela 5.2.0"

ETHOS_U85 = DeviceProfile(
    name="ethos-u85",
    device="Arm Ethos-U85 with 256 MAC units, as Vela's configuration for embedded Linux has it",
    cores=1,
    clock_hz=Sourced(value=1e9, source=_VELA),
    bandwidth=Sourced(value=12e9, source=f"{_VELA} (11.18 GiB/s)"),
    int8_rate=Sourced(
        value=256e9, source=f"256 a cycle (https://xpu.pub/?p=565) at the clock of {_VELA}"
    ),
)
