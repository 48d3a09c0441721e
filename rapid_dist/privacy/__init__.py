"""Everything the guarantee rests on: inclusion, clipping, noise, accounting, ledger, plan."""
