"""Missing visits of a trial imputed from its fit: ``rules`` (arrays: what is assumed of those who left), ``visits`` (a
table as subjects by visits), ``reference`` (the verb), ``imputed`` (the result)."""
