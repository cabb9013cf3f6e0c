"""From volumes of LVM to standard partitions: plan, apply, repair, prove. See ``docs/FLATTEN.md``."""
