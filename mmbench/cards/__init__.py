"""What a paper needs beside its numbers: citations, cards, Croissant; from what classes declare."""
