"""Energy a trial takes of processors and GPU, where the machine counts it: RAPL (Linux) and NVML (NVIDIA).

Both count whole devices. A trial's energy is its device's while it ran, times the trial's share of the device: what
other programs took there is in it, and memory, fans and power supplies are not.
"""

import os
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
"""Since Linux 5.10 only root may read the counters, unless the machine's owner allows it."""
CPU, GPU = "system/cpu_energy_joules", "system/gpu_energy_joules"
INTERVAL_SECONDS = 60.0
"""A counter that holds 262 kJ wraps around after 9 minutes at 500 W: it is read more often."""


class EnergyMeter:
    """Reads the counters of every processor package and of this process's GPU.

    Args:
        cpus, gpus: a trial's share of the machine (`ResourcesConfig`).
        powercap: where Linux shows its power zones.
    """

    def __init__(self, cpus: float, gpus: float, powercap: Path = POWERCAP) -> None:
        self._cpu_share, self._gpu_share = min(1.0, cpus / (os.cpu_count() or 1)), min(1.0, gpus)
        self._lock, self._cpu_microjoules = threading.Lock(), 0
        self._packages = {
            zone: energy for zone in _packages(powercap) if (energy := _number(zone, "energy_uj")) is not None
        }
        self._gpu = _gpu_counter() if gpus else None
        self._gpu_millijoules = _read_gpu(self._gpu)
        if self._packages:
            threading.Thread(target=_keep_reading, args=(weakref.ref(self),), daemon=True).start()

    def since_last(self) -> dict[str, float]:
        """Joules by metric since it was called last, or since the start; nothing of what is not counted here."""
        self.read_packages()
        found = {}
        with self._lock:
            if self._packages:
                found[CPU] = self._cpu_microjoules / 1e6 * self._cpu_share
            self._cpu_microjoules = 0
        now, before = _read_gpu(self._gpu), self._gpu_millijoules
        if now is not None and before is not None and now >= before:
            found[GPU] = (now - before) / 1e3 * self._gpu_share
        self._gpu_millijoules = now
        return found

    def read_packages(self) -> None:
        """Add what the packages took since they were read last."""
        with self._lock:
            for zone, before in self._packages.items():
                if (now := _number(zone, "energy_uj")) is None:
                    continue
                end = (_number(zone, "max_energy_range_uj") or before) if now < before else 0
                self._cpu_microjoules += now - before + end
                self._packages[zone] = now


def _packages(powercap: Path) -> dict[Path, int]:
    """The zone of every processor package whose counter can be read, and the counter, µJ.

    Of several drivers that show one package, the first counts; zones of parts of one, and of the platform, do not.
    """
    by_name: dict[str, tuple[Path, int]] = {}
    for zone in sorted(powercap.glob("*"), key=lambda zone: (len(zone.name), zone.name)):
        with suppress(OSError):
            name, energy = (zone / "name").read_text().strip(), _number(zone, "energy_uj")
            if name.startswith("package-") and energy is not None:
                by_name.setdefault(name, (zone, energy))
    return dict(by_name.values())


def _number(zone: Path, name: str) -> int | None:
    with suppress(OSError, ValueError):
        return int((zone / name).read_text())
    return None


def _keep_reading(meter: "weakref.ref[EnergyMeter]") -> None:
    while (found := meter()) is not None:
        found.read_packages()
        del found
        time.sleep(INTERVAL_SECONDS)


def _gpu_counter() -> Any:
    """NVML's handle of the GPU that torch uses here; None without one, or without nvidia-ml-py."""
    import torch  # whoever only reads what was measured starts without it

    if not torch.cuda.is_available():
        return None
    with suppress(ImportError):
        import pynvml

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    return None


def _read_gpu(handle: Any) -> int | None:
    """Millijoules since the driver was loaded; None if the GPU does not count them (before Volta, or a MIG part)."""
    if handle is None:
        return None
    import pynvml

    with suppress(pynvml.NVMLError):
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    return None
