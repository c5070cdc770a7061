"""``python -m jaxmm``: studies from a file, in shards, on machines where nobody wants to write Python."""
