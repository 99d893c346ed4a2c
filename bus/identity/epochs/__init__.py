"""Who has the key of which epoch, who is given it, and what waits for one."""
