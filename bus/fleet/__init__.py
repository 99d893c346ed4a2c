"""The agents that are run together: who they are, and later what they do."""
