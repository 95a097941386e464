"""The processes that run jobs, and what each may use of the machine."""
