"""Many fits at once: one design, many responses, as one program."""
