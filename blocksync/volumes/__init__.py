"""Reading on-disk layouts: partition tables, LVM2, filesystems and what they use. Readers only; nothing is written."""
