"""From images as people have them to records: discovery, decoding, the embedded public and private sets."""
