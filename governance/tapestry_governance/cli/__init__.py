"""The commands that check bundles, releases and adapters."""
