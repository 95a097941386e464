"""Networks of many jobs as one."""
