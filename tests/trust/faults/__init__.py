"""Faults for the rows of trust: a shim before the C library (shim), a proxy between two programs (proxy)."""
