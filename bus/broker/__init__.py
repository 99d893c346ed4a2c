"""Between hosts: who they are, who may say what, who listens, and how fast. It never sees what is inside an envelope."""
