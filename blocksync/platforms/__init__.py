"""What one platform has and another lacks, chosen in this one place.

Linux has everything; elsewhere the functions do what can be done there or say that it cannot.
"""

from __future__ import annotations

import sys

from blocksync.platforms.facts import DeviceFacts, IoCounts

if sys.platform == "linux":
    from blocksync.platforms.linux import (
        DIRECT,
        SEES_MOUNTS,
        SHADOW_COPIES,
        allocated_from,
        detached_mount,
        device_facts,
        drop_cached,
        held,
        hold_file,
        locked,
        lower_io_priority,
        machine_memory_bytes,
        memory_bytes,
        path_mtu,
        processor_seconds,
        punch,
        set_priority,
        sync_folder,
        tune_socket,
        write_zeros,
    )
    from blocksync.platforms.sysfs import (
        below,
        boot_key,
        disk_of,
        io_counts,
        loops_over,
        mounts_of,
        same_storage,
        storage,
        swaps,
        users_of_device,
    )
else:
    from blocksync.platforms.other import (
        DIRECT,
        SEES_MOUNTS,
        SHADOW_COPIES,
        allocated_from,
        below,
        boot_key,
        detached_mount,
        device_facts,
        disk_of,
        drop_cached,
        held,
        hold_file,
        io_counts,
        locked,
        loops_over,
        lower_io_priority,
        machine_memory_bytes,
        memory_bytes,
        mounts_of,
        path_mtu,
        processor_seconds,
        punch,
        same_storage,
        set_priority,
        storage,
        swaps,
        sync_folder,
        tune_socket,
        users_of_device,
        write_zeros,
    )

__all__ = [
    "DIRECT",
    "SEES_MOUNTS",
    "SHADOW_COPIES",
    "DeviceFacts",
    "IoCounts",
    "allocated_from",
    "below",
    "boot_key",
    "detached_mount",
    "device_facts",
    "disk_of",
    "drop_cached",
    "held",
    "hold_file",
    "io_counts",
    "locked",
    "loops_over",
    "lower_io_priority",
    "machine_memory_bytes",
    "memory_bytes",
    "mounts_of",
    "path_mtu",
    "processor_seconds",
    "punch",
    "same_storage",
    "set_priority",
    "storage",
    "swaps",
    "sync_folder",
    "tune_socket",
    "users_of_device",
    "write_zeros",
]
