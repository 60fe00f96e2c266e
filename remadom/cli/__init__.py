"""Commands: thin shims over the verbs of `remadom.run`; no torch at import."""
