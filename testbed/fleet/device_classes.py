"""The classes of devices, which command lines name without reading the catalogue."""

DEVICE_CLASSES = (
    "mcu",
    "mcu-npu",
    "sbc",
    "phone",
    "phone-npu",
    "edge-gpu-board",
    "edge-tpu-board",
    "edge-npu-board",
    "laptop",
    "mini-pc",
    "server-desktop",
)
