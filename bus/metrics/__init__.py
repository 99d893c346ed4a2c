"""What a process can tell about itself in numbers. Imports no room: rooms hand in functions."""
