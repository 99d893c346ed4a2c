"""An agent's keys and papers."""
