"""Tables for papers: of one fit (``one``), of several side by side (``several``), and for the package maketables."""
