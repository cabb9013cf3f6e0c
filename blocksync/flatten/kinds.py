"""Types of partitions and kinds of filesystems, as the tables and blkid call them."""

from __future__ import annotations

from blocksync.volumes.layout import Filesystem

ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT_TYPE = "21686148-6449-6e6f-744e-656564454649"
LINUX_TYPE = "0fc63daf-8483-4772-8e79-3d69d8477de4"
SWAP_TYPE = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
_MBR_TYPES = {ESP_TYPE: "0xef", LINUX_TYPE: "0x83", SWAP_TYPE: "0x82"}
_GPT_TYPES = {"0xef": ESP_TYPE, "0x82": SWAP_TYPE, "0x07": "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"}
SWAPS = frozenset({"swap", "swsuspend"})


def type_in(table: str, kind: str, table_of_kind: str, content: Filesystem | None) -> str:
    """A partition's type, in the new table's terms."""
    swap = content is not None and content.kind in SWAPS
    if table == "gpt":
        if table_of_kind == "gpt":
            return kind
        return _GPT_TYPES.get(kind, SWAP_TYPE if swap else LINUX_TYPE)
    if table_of_kind == "mbr":
        return kind
    return _MBR_TYPES.get(kind, "0x82" if swap else "0x83")


def blkid_name(content: Filesystem | None) -> str:
    """A kind as fstab and blkid call it."""
    if content is None:
        return ""
    if content.kind in SWAPS:
        return "swap"
    if content.kind.startswith("fat"):
        return "vfat"
    return {"luks": "crypto_LUKS"}.get(content.kind, content.kind)
