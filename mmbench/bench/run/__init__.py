"""One run, a file a step: built, trained, selected, evaluated, scored, costed, recorded."""
