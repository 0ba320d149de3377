"""The Ray shell: what the library does, as deployments. The only code that imports ray."""
