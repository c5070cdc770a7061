"""What a batch gives: its columns, declared once (``schema``), as tables, files and single replicates."""
