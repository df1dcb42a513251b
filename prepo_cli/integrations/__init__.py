"""prepo's strategies inside other trainers; each trainer's module is imported only by who uses that trainer."""
