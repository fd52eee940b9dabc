"""What the device is, by published figures."""

from __future__ import annotations

from gemcore.reports import DeviceProfile, Sourced

HEXAGON = DeviceProfile(
    name="npu",
    device="Qualcomm Hexagon 780 (Snapdragon 888), its HVX units alone",
    cores=1,
    # 4 x 16 bit x 6400 MT/s. Rates of HVX itself are not published; 26 TOPS are of the whole engine,
    # most of them in a matrix unit that GEM's kernels do not use.
    bandwidth=Sourced(
        value=51.2e9,
        source="LPDDR5 at 3200 MHz, four channels of 16 bits, computed: https://www.techwarrant.com/"
        "snapdragon-888-soc-has-integrated-5g-modem-and-is-made-on-5nm-process/",
    ),
)
