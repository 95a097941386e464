"""The command line around Hydra's; nothing here imports PyTorch."""
