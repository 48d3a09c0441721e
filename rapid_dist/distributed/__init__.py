"""The only code that imports ray: each stage mapped over shards or summed over workers; no formula here."""
