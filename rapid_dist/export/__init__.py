"""Released samples in the forms of other programs, with a data card, and the gate before a release."""
