"""What `prepo_cli` offers to scripts and notebooks, and the commands call; one function a module."""
