"""From a checkpoint to a bundle: export, and compilation for this machine."""
