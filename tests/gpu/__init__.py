"""The GPU: `make gpu` tests and measures in minutes, on any machine that has one."""
