"""The kernel's side: ioctl numbers and structures, one module a subsystem. No GL here."""
