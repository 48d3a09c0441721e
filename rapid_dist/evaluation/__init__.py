"""How useful and how like the originals the samples are: classifiers, metrics, copy check, report, pictures."""
