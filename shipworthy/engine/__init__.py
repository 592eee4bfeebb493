"""The async shell: perform a step, append what happened, fold it. The order of those lines is the guarantee."""
